"""Scores of trained networks.

The bound on bits per dimension, rate and distortion (`bound_job`, `comparison_job`, `statistics_job`); distances of
samples to the data, FID among them (`distance_job`, `reference_job`, `quality_job`); and what a solver needs to know of
a network (`model_statistics_job`).
"""

from ddx.evaluation.comparison_job import compare
from ddx.evaluation.evaluators import evaluate
from ddx.evaluation.statistics_job import measure

__all__ = ["compare", "evaluate", "measure"]
