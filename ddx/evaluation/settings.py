"""What a bound is evaluated with: from what is asked for and what a run says."""

from collections.abc import Mapping
from typing import Any

from ddx.config.evaluation import EVALUATION
from ddx.config.sampling_rules import tells_x_0
from ddx.config.values import flatten
from ddx.data import Dataset
from ddx.diffusion.catalogue import (
    DDPM_VARIANCES,
    FIXED_VARIANCES,
    HEAD_VARIANCES,
    LEARNED_VARIANCES,
    OPTIMAL_VARIANCES,
    PROBED_VARIANCES,
)
from ddx.diffusion.reverse import trajectory as trajectories
from ddx.diffusion.reverse.variance import VarianceFn
from ddx.evaluation.bound import Protocol, inverse_heat, variational
from ddx.runtime.errors import ConfigError
from ddx.system import System, make_process


def bound_settings(config: Any, given: Mapping[str, Any], rate_distortion: bool = False) -> dict[str, Any]:
    """The times of a bound and its settings, all of which are part of its protocol, in a network's run.

    Args:
      config: the run's.
      given: checked settings of the job "bpd"; what is not there, or as by default, is not asked for.
      rate_distortion: whether rate and distortion are asked for, which need an estimate of x_0.

    Raises:
      ConfigError: they do not go together, or not with the network.
    """
    rows = {name: row for name, row in EVALUATION.items() if "bpd" in row.jobs}
    asked = {name: given[name] for name, row in rows.items() if given.get(name) not in (None, row.default)}
    if not asked.get("num_steps"):
        asked.pop("num_steps", None)
    asked |= {"rate_distortion": True} if rate_distortion else {}
    return _heat(config, asked) if config.loss.prediction == "residual" else _variational(config, asked)


def _variational(config: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """The settings of `ddx.bits_per_dim`."""
    variance = asked.get("variance") or default_variance(config)
    choices = dict.fromkeys((*FIXED_VARIANCES, config.loss.variance, *OPTIMAL_VARIANCES))
    if variance not in choices:
        heads = {v: v.partition("_paper")[0] for v in choices if v.partition("_paper")[0] in HEAD_VARIANCES}
        possible = [v for v in choices if heads.get(v, config.loss.variance) == config.loss.variance]
        raise ConfigError(f"variance={variance!r} was not learned by the network. Choose one of: {', '.join(possible)}")
    if variance in PROBED_VARIANCES:
        asked.setdefault("probes", config.sample.probes)
    elif "probes" in asked:
        of = " and ".join(PROBED_VARIANCES)
        raise ConfigError(f"probes={asked['probes']} belongs to the variances {of}, not {variance}. Leave it out")
    if "delta" in asked:
        raise ConfigError("delta belongs to an IHDM network, which predicts the residual. Leave out --delta")
    of_x_0 = [name for name in ("clip", "rate_distortion") if asked.get(name)]
    if of_x_0 and not tells_x_0(flatten(config)):
        raise ConfigError(f"{of_x_0[0]} needs an x_0 that eps does not tell under a blur. Leave it out, or train v")
    times, spacing = _times(config, asked.get("num_steps"), asked.get("trajectory"))
    if "eta" in asked and variance in DDPM_VARIANCES:
        raise ConfigError(f"variance={variance!r} belongs to eta=1, not {asked['eta']}. Use small, or an optimal one")
    clip, cdf = default_clip(config, asked.get("clip")), asked.get("cdf", EVALUATION["cdf"].default)
    how = {"times": times, "trajectory": spacing, "variance": variance, "clip": clip, "cdf": cdf}
    # A setting that is as by default stays out, so that evaluations from before there was the setting are the same.
    elsewhere = {*how, "num_steps", "rate_distortion"}
    return how | {name: value for name, value in asked.items() if name not in elsewhere}


def _heat(config: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """The settings of `ddx.heat_bits_per_dim`; nothing but delta may be asked for."""
    wrong = [name for name in asked if name != "delta"]
    if wrong:
        remedy = "Use --metrics=bpd" if wrong[0] == "rate_distortion" else f"Leave out --{wrong[0]}"
        raise ConfigError(f"{wrong[0]} is no part of IHDM's bound, which takes all levels and delta. {remedy}")
    delta = EVALUATION["delta"].checked("delta", asked.get("delta", config.sample.delta))  # the run's may be 0
    times, spacing = _times(config, None, None)
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


def bound_protocol(
    system: System, how: dict[str, Any], variance: str | VarianceFn, training: Dataset | None
) -> Protocol:
    """The bound with settings of `bound_settings`; IHDM's needs the training set."""
    if training is None:
        try:
            return variational(system, variance, how)
        except ValueError as error:
            raise ConfigError(f"bound: {error}") from None
    return inverse_heat(system, training, how["delta"])


def _times(config: Any, num_steps: int | None, spacing: str | None) -> tuple[tuple[int, ...], str]:
    """The times to visit, and the name of their spacing."""
    T, schedule = config.process.num_steps, make_process(config).schedule
    if spacing is None:
        spacing = "full" if num_steps in (None, T) else "power2"
    try:
        if num_steps is None and spacing != "full" and not trajectories.counts_itself(spacing):
            raise ValueError(f"{spacing!r} needs a number of steps: add num_steps, such as 50")
        return trajectories.trajectory(T, num_steps, spacing, schedule), spacing
    except ValueError as error:
        raise ConfigError(f"trajectory: {error}") from None
