"""Scores of trained networks: the bound on bits per dimension, rate and distortion."""

from ddx.evaluation.comparison_job import compare
from ddx.evaluation.evaluators import evaluate
from ddx.evaluation.statistics_job import measure

__all__ = ["compare", "evaluate", "measure"]
