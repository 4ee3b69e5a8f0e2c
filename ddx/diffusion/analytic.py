"""Variances from statistics of a network, which are the same for all images, and the limits of Analytic-DPM's code.

In the variance lambda2 + gamma^2 V of `ddx.diffusion.variance`, by a table of `ddx.diffusion.statistics`,

| source | V | |
| --- | --- | --- |
| mse | the mean squared error of the estimate of x_0 at this time | the best of V that are the same for all images |
| gamma | (sigma / alpha)^2 (1 - E eps^2) | Analytic-DPM, Bao et al. 2022, theorem 1 |

At eta = 1 it is A-DDPM's, at eta = 0, with V alone, A-DDIM's.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddx.diffusion.gaussian import root
from ddx.diffusion.kernels import DenoiseAt, Kernel
from ddx.diffusion.prediction import Denoised
from ddx.diffusion.process import Level
from ddx.diffusion.statistics import Statistics
from ddx.diffusion.steps import Step
from ddx.diffusion.variance import VarianceFn, total

_FAR = 500.0  # beyond every log-SNR but the infinite


def analytic(
    statistics: Statistics, source: str = "mse", per_coordinate: bool = False, limit: float | None = None
) -> VarianceFn:
    """Variances that are the same for all images, from a table of statistics, interpolated in log-SNR.

    Args:
      statistics: of the network, in the basis of the process that is sampled; a process with a scalar alpha may be seen
        in the DCT basis, `ddx.in_dct_basis`, for a variance of each frequency.
      source: "mse", or "gamma" for Analytic-DPM's own, which says nothing under a blur.
      per_coordinate: a variance for each coordinate ("mse"), instead of one for all.
      limit: of V; None for the variance of the data, which no V exceeds on average. Analytic-DPM's code has 1. For a
        network that is worse than no network, np.inf gives the tighter bound.

    Raises:
      ValueError: the source is unknown, or knows nothing of coordinates.
    """
    if source not in ("mse", "gamma"):
        raise ValueError(f"source {source!r} is unknown; choose mse or gamma")
    if source == "gamma" and per_coordinate:
        raise ValueError("source 'gamma' is a mean over coordinates; use source='mse' for one each")
    axes = () if per_coordinate else (0, 1, 2)
    most = np.asarray(statistics.spectrum).mean(axes, keepdims=True) if limit is None else limit
    if source == "gamma":
        table = np.asarray(statistics.ms_eps).reshape(-1, 1, 1, 1)
    else:
        table = np.asarray(statistics.mse).mean(tuple(a + 1 for a in axes), keepdims=True)

    def variance(d: Denoised, step: Step) -> Any:
        found = _interpolated(statistics.logsnr, table, step.level)
        if source == "gamma" and jnp.size(step.level.marginal.alpha) > jnp.size(step.level.a):
            raise ValueError("source 'gamma' says nothing under a blur; use source='mse'")
        known = _noise_to_signal(step.level) * (1.0 - found) if source == "gamma" else found
        return total(step, jnp.clip(known, 0.0, jnp.asarray(most, known.dtype)))

    return variance


def clip_last(
    variance: VarianceFn, times: tuple[int, ...], y: float = 2.0, count: int = 1, low: float = -1.0
) -> VarianceFn:
    """Limit the noise of the steps into the last `count` noisy times to y grey levels (Bao et al. 2022, F.2).

    E abs(sigma z) = sigma sqrt(2 / pi) is at most y levels. It acts on samples; no published bound has it.

    Args:
      variance: any variance.
      times: those of the sampler.
      y: grey levels of 0..255; the papers have 2 for most DDPMs and 1 for DDIMs.
      count: times it is for; 0 for none.
      low: the lowest value of the data.
    """
    most = (y * (1.0 - low) / 255.0) ** 2 * math.pi / 2
    last = times[-1 - count] if count else 0

    def limited(d: Denoised, step: Step) -> Any:
        v = variance(d, step)
        return jnp.where((step.target.t <= last) & (step.target.t > 0), jnp.minimum(v, most), v)

    return limited


def published_ddpm(variance: VarianceFn) -> Kernel:
    """The step of A-, SN- and NPR-DDPM's code: the posterior's mean k u_t + gamma x_0 of a clipped x_0.

    It differs from "euler" for a denoiser with clip="x0", whose unclipped eps is then for the variance alone.
    """

    def step(at: DenoiseAt, u_t: Any, memory: Any, row: Step, z: Any) -> tuple[Any, Any, Denoised]:
        d = at(u_t, row.level)
        return row.k * u_t + row.gamma * d.x_0 + row.noise * root(variance(d, row)) * z, memory, d

    return Kernel(lambda u_T: (), step)


def _noise_to_signal(level: Level) -> Any:
    return jnp.square(level.marginal.sigma / level.a)


def _interpolated(logsnr: np.ndarray, table: np.ndarray, level: Level) -> Any:
    """The rows of a table, (N, h, w, c) at descending log-SNRs (N,), at the level's; beyond its ends, the last ones."""
    # A schedule may end without any signal.
    at = jnp.clip(2.0 * jnp.log(level.marginal.sigma / level.a), -_FAR, _FAR)[..., 0, 0, 0]
    knots = jnp.asarray(np.clip(-logsnr, -_FAR, _FAR), at.dtype)
    i = jnp.clip(jnp.searchsorted(knots, at), 1, len(logsnr) - 1)
    share = jnp.clip((at - knots[i - 1]) / (knots[i] - knots[i - 1]), 0.0, 1.0)[..., None, None, None]
    rows = jnp.asarray(table, at.dtype)
    return (1.0 - share) * rows[i - 1] + share * rows[i]
