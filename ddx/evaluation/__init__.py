"""Scores of trained networks: the bound on bits per dimension, rate and distortion."""

from ddx.evaluation.bound_job import evaluate
from ddx.evaluation.statistics_job import measure

__all__ = ["evaluate", "measure"]
