"""Scores of trained networks: the bound on bits per dimension, rate and distortion."""

from ddx.evaluation.bound_job import evaluate

__all__ = ["evaluate"]
