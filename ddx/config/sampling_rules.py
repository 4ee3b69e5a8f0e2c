"""Which settings of sampling go together, and with which process and network."""

import math
import warnings
from typing import Any

import numpy as np

from ddx.diffusion.catalogue import LEARNED_VARIANCES, STOCHASTIC_SOLVERS
from ddx.diffusion.forward import betas
from ddx.diffusion.reverse.trajectory import NOISE_SPACINGS, trajectory
from ddx.runtime.errors import ConfigError


def tells_x_0(c: dict[str, Any]) -> bool:
    """Whether a network tells x_0 at all times: under a blur eps does not."""
    blurs = c["process.kind"] == "blurring" and c["process.sigma_blur_max"] > 0
    return not (blurs and c["loss.prediction"] == "eps")


def check_sampling(c: dict[str, Any]) -> None:
    """Refuse values of sample.* that cannot go together, or not with the process and the network."""
    s = {key.removeprefix("sample."): value for key, value in c.items() if key.startswith("sample.")}
    if s["num_steps"] > c["process.num_steps"]:
        raise ConfigError(
            f"sample.num_steps={s['num_steps']} exceeds process.num_steps={c['process.num_steps']};"
            " there are no more times: use at most so many"
        )
    if s["trajectory"] in NOISE_SPACINGS and c["process.kind"] == "ihdm":
        raise ConfigError(
            f"sample.trajectory={s['trajectory']!r} needs noise that grows with t, and the noise of process.kind='ihdm'"
            " does not; use uniform"
        )
    times: tuple[int, ...] = ()  # unknown without the schedule, from which the sampler finds them
    if s["trajectory"] not in NOISE_SPACINGS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the sampler itself tells of dropped times
            try:
                times = trajectory(c["process.num_steps"], s["num_steps"] or None, s["trajectory"])
            except ValueError as error:
                told = f"sample.trajectory={s['trajectory']!r} with {s['num_steps']} steps"
                raise ConfigError(f"{told}: {error}") from None
    if s["sampler"] == "heat":
        _check_heat(s, c)
    elif s["sampler"] == "ddim" and s["eta"] > 1 and c["process.kind"] == "ddpm" and times:
        found = betas.betas(c["process.schedule"], c["process.num_steps"], c["process.zero_terminal_snr"])
        _check_eta(s["eta"], found, times)
    if s["clip_percentile"] and not s["clip"]:
        raise ConfigError(
            f"sample.clip_percentile={s['clip_percentile']:g} is a way to clip; set sample.clip=True, or leave it 0"
        )
    if s["clip_percentile"] and s["keep_eps"]:
        raise ConfigError(
            f"sample.clip_percentile={s['clip_percentile']:g} computes eps again, and sample.keep_eps=True keeps the"
            " network's; leave one out"
        )
    _check_guidance(s, c)
    noisy = s["sampler"] == "ancestral" or s["eta"] > 0
    if s["solver"] not in STOCHASTIC_SOLVERS and noisy:
        raise ConfigError(
            f"sample.solver={s['solver']!r} solves an equation without noise; set sample.sampler='ddim' and"
            " sample.eta=0, or use dpmpp_2m"
        )
    if s["variance"] in LEARNED_VARIANCES and s["variance"] != c["loss.variance"]:
        raise ConfigError(
            f"sample.variance={s['variance']!r} needs a network trained with loss.variance={s['variance']!r},"
            f" not {c['loss.variance']!r}"
        )
    if s["solver"] != "euler" and s["sampler"] == "ancestral" and s["variance"] != "small":
        raise ConfigError(f"sample.solver={s['solver']!r} needs sample.variance='small', not {s['variance']!r}")


def _check_guidance(s: dict[str, Any], c: dict[str, Any]) -> None:
    scale, interval = s["guidance"], s["guidance_interval"]
    if scale == 1:
        if interval:
            raise ConfigError(
                f"sample.guidance_interval={interval} says when to guide, and sample.guidance=1 is no guidance; set a"
                " scale, such as 2, or leave the interval empty"
            )
        return
    if not c["model.label_dropout"]:
        lacks = "has not learned to do without" if c["model.class_conditional"] else "knows no classes"
        raise ConfigError(
            f"sample.guidance={scale:g} needs a network that is told classes or none, and this one {lacks}; train one"
            " with model.class_conditional=True and model.label_dropout=0.1, or leave sample.guidance=1"
        )
    if interval and interval[1] > c["process.num_steps"]:
        raise ConfigError(
            f"sample.guidance_interval={interval} must end at process.num_steps={c['process.num_steps']} or before"
        )


def _check_eta(eta: float, found: np.ndarray, times: tuple[int, ...]) -> None:
    """Refuse an eta whose steps would add more noise than there is, as `ddx.step_coefficients` does."""
    alpha_bar = np.cumprod(1.0 - found)[np.asarray(times[:-1], int) - 1]  # at the times that are visited, but for 0
    snr = alpha_bar / (1.0 - alpha_bar)
    lost = float(np.max(1.0 - snr[:-1] / snr[1:], initial=0.0))
    if eta**2 * lost > 1 + 1e-9:
        raise ConfigError(
            f"sample.eta={eta:g} adds more noise than there is; use at most"
            f" {math.floor(lost**-0.5 * 1e4) / 1e4:g} for these steps"
        )


def _check_heat(s: dict[str, Any], c: dict[str, Any]) -> None:
    if c["process.kind"] != "ihdm" or c["loss.prediction"] != "residual":
        raise ConfigError(
            "sample.sampler='heat' needs process.kind='ihdm' and loss.prediction='residual', not"
            f" {c['process.kind']!r} and {c['loss.prediction']!r}; use ddim or ancestral"
        )
    if s["num_steps"] not in (0, c["process.num_steps"]) or s["trajectory"] not in ("full", "uniform"):
        raise ConfigError("sample.sampler='heat' goes through all levels; set sample.num_steps=0, trajectory='full'")
    if s["end"]:
        raise ConfigError("sample.sampler='heat' goes down to the data; set sample.end=0")
    if s["solver"] != "euler" or s["clip"]:
        raise ConfigError(
            "sample.sampler='heat' has no solver and clips nothing; set sample.solver='euler', clip=False"
        )
