"""Variances from statistics of a network: the same for all images, and limited as in Analytic-DPM's code.

The variance is lambda2 + gamma^2 V (`ddx.diffusion.reverse.variance`), with V from a table of
`ddx.diffusion.bound.statistics`:

| source | V | |
| --- | --- | --- |
| mse | the mean squared error of the estimate of x_0 at this time | the best V that is the same for all images |
| gamma | (sigma / alpha)^2 (1 - E eps^2) | Analytic-DPM, Bao et al. 2022, theorem 1 |

At eta = 1 this is A-DDPM's variance; at eta = 0, where lambda2 is 0, it is A-DDIM's.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Coefficient
from ddx.diffusion.bound.statistics import Statistics
from ddx.diffusion.estimate.denoiser import Denoised
from ddx.diffusion.forward.process import Level
from ddx.diffusion.reverse.rows import Step
from ddx.diffusion.reverse.variance import VarianceFn, total

_FAR = 500.0  # above every finite log-SNR


def analytic(
    statistics: Statistics, source: str = "mse", per_coordinate: bool = False, limit: float | None = None
) -> VarianceFn:
    """Variances that are the same for all images, from a table of statistics that is interpolated in log-SNR.

    Args:
      statistics: the network's, in the basis of the process that is sampled. For a variance of each frequency, put a
        process without blur in the DCT basis first (`ddx.in_dct_basis`).
      source: "mse", or "gamma" for Analytic-DPM's own V, which is not defined under a blur.
      per_coordinate: a variance for each coordinate (only "mse"), instead of one for all.
      limit: V is clipped to [0, limit]; None takes the variance of the data, which V does not exceed on average.
        Analytic-DPM's code uses 1. For a network that is worse than none, np.inf gives the tighter bound.

    Returns:
      A `VarianceFn`. It raises a ValueError where "gamma" meets a blur.

    Raises:
      ValueError: the source is unknown, or not in the statistics, or "gamma" is asked for a variance per coordinate.
    """
    if source not in ("mse", "gamma"):
        raise ValueError(f"source {source!r} is unknown; choose mse or gamma")
    if source == "gamma" and per_coordinate:
        raise ValueError("source 'gamma' is a mean over coordinates; use source='mse' for one each")
    if source == "mse" and np.isnan(statistics.mse).all():
        raise ValueError("these statistics hold no mse; use source='gamma'")
    axes = () if per_coordinate else (0, 1, 2)
    most = np.asarray(statistics.spectrum).mean(axes, keepdims=True) if limit is None else limit
    if source == "gamma":
        table = np.asarray(statistics.ms_eps).reshape(-1, 1, 1, 1)
    else:
        table = np.asarray(statistics.mse).mean(tuple(a + 1 for a in axes), keepdims=True)

    def variance(d: Denoised, step: Step) -> Coefficient:
        found = _interpolated(statistics.logsnr, table, step.level)
        if source == "gamma" and jnp.size(step.level.alpha) > jnp.size(step.level.a):
            raise ValueError("source 'gamma' says nothing under a blur; use source='mse'")
        known = _noise_to_signal(step.level) * (1.0 - found) if source == "gamma" else found
        return total(step, jnp.clip(known, 0.0, jnp.asarray(most, known.dtype)))

    return variance


def _noise_to_signal(level: Level) -> jax.Array:
    return jnp.square(level.sigma / level.a)


def _interpolated(logsnr: np.ndarray, table: np.ndarray, level: Level) -> jax.Array:
    """A table with rows (h, w, c) at descending log-SNRs (N,), interpolated at a level; constant beyond its ends."""
    if len(logsnr) == 1:
        return jnp.asarray(table[0])
    # Infinite log-SNRs, where a schedule ends without signal, would interpolate to NaN.
    at = jnp.clip(2.0 * jnp.log(level.sigma / level.a), -_FAR, _FAR)[..., 0, 0, 0]
    knots = jnp.asarray(np.clip(-logsnr, -_FAR, _FAR), at.dtype)
    i = jnp.clip(jnp.searchsorted(knots, at), 1, len(logsnr) - 1)
    share = jnp.clip((at - knots[i - 1]) / (knots[i] - knots[i - 1]), 0.0, 1.0)[..., None, None, None]
    rows = jnp.asarray(table, at.dtype)
    return (1.0 - share) * rows[i - 1] + share * rows[i]
