"""Evaluators by name. A new one is a file in `ddx/evaluation` and its row here.

Their settings are in `ddx.config.evaluation`; each evaluator takes the settings that belong to none alone, too.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ddx.runtime.errors import ConfigError, did_you_mean


class Evaluator(NamedTuple):
    """What scores a network. Functions are written "module:function", so that names cost no import of jax."""

    meaning: str
    job: str = ""  # (workdir, **settings) -> Result: what `launch.evaluate` does; empty: it is for training alone
    score: str = ""  # (network, split, examples, seed) -> (weights -> numbers by name): for `train.evaluate`; or empty
    also: tuple[str, ...] = ()  # further metrics that the job finds on request; each an argument of it, True or False
    draws: bool = False  # whether it draws samples: then it takes the settings of `SAMPLING` too


EVALUATORS = {
    "bpd": Evaluator(
        "bits per dimension",
        "ddx.evaluation.bound_job:evaluate_bound",
        "ddx.evaluation.bound_job:bits_per_dim",
        also=("rate_distortion",),
    ),
    "statistics": Evaluator("what analytic variances need", "ddx.evaluation.statistics_job:measure"),
    "model_statistics": Evaluator("what solver dpm_v3 needs", "ddx.evaluation.model_statistics_job:measure"),
    "comparison": Evaluator("a table of all variances", "ddx.evaluation.comparison_job:compare"),
    "reference": Evaluator(
        "features of the data, which distances of samples are to", "ddx.evaluation.reference_job:make_reference"
    ),
    "fd": Evaluator(
        "distance of samples to the data in the features of a network",
        "ddx.evaluation.distance_job:score_samples",
        "ddx.evaluation.distance_job:distance",
        also=("fid", "is", "kid", "pr", "fd_infinity"),
        draws=True,
    ),
    "quality": Evaluator("a curve of fd and bits/dim by steps", "ddx.evaluation.quality_job:quality"),
}
SCORES = tuple(name for name, evaluator in EVALUATORS.items() if evaluator.score)


def job_of(metrics: Sequence[str]) -> tuple[str, dict[str, bool]]:
    """The evaluator whose job finds these metrics, and which of its further metrics it is asked for.

    Raises:
      ConfigError: there are none, one is unknown, or they are of several jobs.
    """
    owners = {metric: name for name, e in EVALUATORS.items() if e.job for metric in (name, *e.also)}
    for metric in metrics or ("none",):
        if metric not in owners:
            why = "is for train.evaluate alone" if metric in EVALUATORS else "is unknown"
            hint = did_you_mean(metric, owners)
            raise ConfigError(f"metrics: {metric!r} {why}. {hint}Choose of: {', '.join(owners)}")
    name, *others = dict.fromkeys(owners[metric] for metric in metrics)
    if others:
        raise ConfigError(f"--metrics={name} is a job of its own. Leave out the other metrics")
    return name, {metric: metric in metrics for metric in EVALUATORS[name].also}
