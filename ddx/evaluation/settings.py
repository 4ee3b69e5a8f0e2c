"""What a bound is evaluated with: from what is asked for and what a run says."""

import math
from typing import Any

from ddx.config.rules import tells_x_0
from ddx.config.values import flatten
from ddx.data import Dataset
from ddx.diffusion.bound.decoder import CDFS
from ddx.diffusion.catalogue import (
    DDPM_VARIANCES,
    FIXED_VARIANCES,
    HEAD_VARIANCES,
    LEARNED_VARIANCES,
    OPTIMAL_VARIANCES,
)
from ddx.diffusion.reverse import trajectory as trajectories
from ddx.diffusion.reverse.variance import VarianceFn
from ddx.evaluation.bound import Protocol, inverse_heat, variational
from ddx.runtime.errors import ConfigError
from ddx.system import System

__all__ = ["CDFS", "check_counts", "default_clip", "default_variance", "protocol", "settings"]


def check_counts(max_examples: int | None, batch_size: int | None) -> None:
    """Refuse, with a ConfigError, to score no examples, or none at once."""
    for name, value in (("max_examples", max_examples), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value} must be at least 1")


def settings(
    config: Any,
    num_steps: int | None,
    trajectory: str | None,
    variance: str | None,
    clip: bool | None,
    cdf: str | None,
    delta: float | None,
    eta: float | None = None,
    **others: Any,
) -> dict[str, Any]:
    """The times of a bound and its settings, as `ddx.evaluation.evaluate` describes them.

    `others` are what only an estimate of x_0 makes possible; None where it is not asked for.

    Raises:
      ConfigError: they do not go together, or not with the network.
    """
    if config.loss.prediction != "residual":
        return _variational(config, num_steps, trajectory, variance, clip, cdf, delta, eta, **others)
    given = {"num_steps": num_steps, "trajectory": trajectory, "variance": variance, "clip": clip, "cdf": cdf}
    return _heat(config, delta, given | {"eta": eta} | others)


def _variational(
    config: Any,
    num_steps: int | None,
    spacing: str | None,
    variance: str | None,
    clip: bool | None,
    cdf: str | None,
    delta: float | None,
    eta: float | None,
    **others: Any,
) -> dict[str, Any]:
    """The settings of `ddx.bits_per_dim`."""
    variance = variance or default_variance(config)
    choices = dict.fromkeys((*FIXED_VARIANCES, config.loss.variance, *OPTIMAL_VARIANCES))
    if variance not in choices:
        possible = [v for v in choices if not v.startswith(HEAD_VARIANCES) or v.startswith(config.loss.variance)]
        raise ConfigError(f"variance={variance!r} was not learned by the network. Choose one of: {', '.join(possible)}")
    if delta is not None:
        raise ConfigError("delta belongs to an IHDM network, which predicts the residual. Leave out --delta")
    blurred = not tells_x_0(flatten(config))
    asked = [name for name, value in ({"clip": clip or None} | others).items() if value is not None]
    if blurred and asked:
        raise ConfigError(f"{asked[0]} needs an x_0 that eps does not tell under a blur. Leave it out, or train v")
    times, spacing = _times(config.process.num_steps, num_steps, spacing)
    clip = default_clip(config, clip)
    how = {"times": times, "trajectory": spacing, "variance": variance, "clip": clip, "cdf": cdf or "exact"}
    if eta is None or eta == 1:
        return how
    if not 0 < eta < math.inf:
        raise ConfigError(f"eta={eta} has no bound: a step without noise costs infinitely much. Use one above 0")
    if variance in DDPM_VARIANCES:
        raise ConfigError(f"variance={variance!r} belongs to eta=1, not {eta}. Use small, or an optimal one")
    return how | {"eta": float(eta)}


def _heat(config: Any, delta: float | None, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of `ddx.heat_bits_per_dim`; nothing else may be given."""
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise ConfigError(
            f"{wrong[0]} is no part of IHDM's bound, which takes all levels and delta. Leave out --{wrong[0]}"
        )
    delta = config.sample.delta if delta is None else delta
    if not 0 < delta < math.inf:
        raise ConfigError(f"delta={delta} must be above 0 and finite, for a bound")
    times, spacing = _times(config.process.num_steps, None, None)
    how = {"times": times, "trajectory": spacing, "variance": f"delta{delta:g}", "clip": False, "cdf": "density"}
    return how | {"delta": delta, "sigma": config.process.sigma}


def default_clip(config: Any, clip: bool | None) -> bool:
    """Whether to clip the estimate of x_0: as given, or wherever the network tells it at all times."""
    return tells_x_0(flatten(config)) if clip is None else clip


def default_variance(config: Any) -> str:
    """What a network has learned, or the run's own."""
    if config.loss.variance in (*LEARNED_VARIANCES, *HEAD_VARIANCES):
        return str(config.loss.variance)
    return "small" if config.process.kind == "ihdm" else str(config.sample.variance)


def protocol(system: System, how: dict[str, Any], variance: str | VarianceFn, training: Dataset | None) -> Protocol:
    """The bound with these settings; that of IHDM needs the training set."""
    if training is None:
        try:
            return variational(system, how["times"], variance, how["clip"], how["cdf"], how.get("eta", 1.0))
        except ValueError as error:
            raise ConfigError(f"bound: {error}") from None
    return inverse_heat(system, training, how["delta"])


def _times(T: int, num_steps: int | None, spacing: str | None) -> tuple[tuple[int, ...], str]:
    """The times to visit, and the name of their spacing."""
    if spacing is None:
        spacing = "full" if num_steps in (None, T) else "power2"
    try:
        if num_steps is None and spacing != "full" and not trajectories.counts_itself(spacing):
            raise ValueError(f"{spacing!r} needs a number of steps: add num_steps, such as 50")
        return trajectories.trajectory(T, num_steps, spacing), spacing
    except ValueError as error:
        raise ConfigError(f"trajectory: {error}") from None
