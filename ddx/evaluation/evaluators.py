"""Evaluators by name: `ddx.config.evaluators.EVALUATORS` says in which file each is.

An evaluator is a job, which writes into a run's folder and resumes, a quick score of weights while they are trained,
or both:

    job(workdir, **settings) -> Result
    score(network, split, examples, seed) -> (weights -> numbers by name)

A score prepares once, for a network without weights, a split of its run's data set and a number of examples.
"""

import pkgutil
from collections.abc import Callable
from typing import Any

from ddx.config.evaluators import EVALUATORS, job_of
from ddx.runs.job import Result
from ddx.runs.trained import Trained
from ddx.runtime.arguments import names
from ddx.runtime.paths import Path


def evaluate(workdir: str | Path | None, metrics: tuple[str, ...] = ("bpd",), **settings: Any) -> Result:
    """Score the network of a run. An interrupted evaluation resumes when it is called again; a finished one is kept.

    Args:
      workdir: folder of a training run; None for "fd" of given images, whose `reference` and `out` are given too.
      metrics: "bpd", "rate_distortion" or both; "fd" and its further metrics "fid", "is", "kid", "pr", "fd_infinity";
        or one of "statistics", "model_statistics", "comparison", "reference" and "quality".
      **settings: the job's own of `ddx.config.evaluation.EVALUATION`, such as split, max_examples, num_steps, variance,
        seed or out; jobs that draw take `ddx.config.sampling.SAMPLING` too. What is not given, or None, is the
        default that docs/evaluation.md tells.

    Returns:
      What was written, with the result as in the job's record; arrays() are the arrays of its .npz file.

    Raises:
      ConfigError: a setting is invalid or of another job, the data are not the network's, or `out` holds another job.
      CheckpointError: the folder has no run, or no usable checkpoint.
      DataError: the data set cannot be read.
      NonFiniteError: a number is not finite.
      AcceleratorError, OutOfMemoryError: as `ddx.runtime.devices.job` says.
    """
    name, further = job_of(names("metrics", metrics))
    job: Callable[..., Result] = pkgutil.resolve_name(EVALUATORS[name].job)
    return job(workdir, **further, **settings)


def score(name: str, source: Trained, split: str, examples: int, seed: int) -> Callable[[Any], dict[str, float]]:
    """The quick score of an evaluator of `ddx.config.evaluators.SCORES`: a function of weights."""
    made: Callable[[Any], dict[str, float]] = pkgutil.resolve_name(EVALUATORS[name].score)(
        source, split, examples, seed
    )
    return made
