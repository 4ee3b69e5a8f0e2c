"""What DPM-Solver-v3 needs to know of a network: the statistics of `ddx.diffusion.reverse.dpm_v3`, from examples.

At a level, u_t = alpha u_0 + sigma w, and the network says x_0. Equation (6) there needs the slope of its estimate by
the noise, which is least noisy as a coefficient of least squares beside the other that u_t consists of:

    x_0 ~ constant + a w + c u_0        l = 1 - a alpha / sigma        f = (1 - l) u_t / alpha - x_0             (1)

As w and u_0 are independent, a is E[w x_0], whatever the network; and for a network that is linear, such as the optimal
one of Gaussian data, it has no error, of however few examples. Each example has the same noise at all levels, so that
what is measured at neighbouring levels errs alike.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Array, Coordinates, Images, Key, PerExample, Trajectory, check_floats, computing_dtype
from ddx.diffusion.bound.statistics import noise_logsnr
from ddx.diffusion.bound.terms import Seen, at_every_row, noise_at
from ddx.diffusion.estimate.denoiser import Denoiser, check_denoiser
from ddx.diffusion.forward.process import Process
from ddx.diffusion.reverse.dpm_v3 import ModelStatistics
from ddx.diffusion.reverse.rows import Plan, downward

NUM_LEVELS = 120  # the paper's
LEAST_EXAMPLES = 10  # a few more than the coefficients of equation (1)
_SMALLEST = 1e-3  # std f, in parts of the size of f's terms: below it float32's sums do not tell


class LevelSums(NamedTuple):
    """What some examples add at each level: sums of y and its products, where y is x_0, less u_0 where SNR > 1."""

    y: Array  # (N, H, W, C)
    yy: Array  # (N, H, W, C)
    yw: Array  # (N, H, W, C)
    yu: Array  # (N, H, W, C)


class DataSums(NamedTuple):
    """What some examples add, whatever the level: sums of u_0, the noise w and their products, (H, W, C) each."""

    u: Array
    w: Array
    uu: Array
    uw: Array
    ww: Array


def estimate_model_statistics(denoise: Denoiser, x_0: Images, key: Key) -> ModelStatistics:
    """The statistics of a network on images that `ddx.dpm_v3` needs, from one evaluation for each image and level.

    The paper takes 1,024 to 4,096 images.

    Args:
      denoise: a denoiser that clips x_0 if and only if the sampler's denoiser will. With its process in the DCT basis
        (`ddx.in_dct_basis`) the statistics are of frequencies.
      x_0: (M, H, W, C) images, all in memory at once; at least 10.
      key: one key, or keys of shape (M,), one for each image.

    Returns:
      `ModelStatistics` at up to 120 levels, even in log-SNR.

    Raises:
      ValueError: x_0 are not floating-point numbers or too few, the key does not fit, or the process blurs.
    """
    check_floats(x_0=x_0)
    x_0 = x_0.astype(computing_dtype(x_0))
    process = check_denoiser(denoise).process
    rows = level_rows(process)

    @jax.jit
    def sums(x_0: Images) -> tuple[LevelSums, DataSums]:
        draw, one = noise_at(key, x_0), jnp.ones(len(x_0))
        return level_sums(denoise, x_0, one, rows, draw), data_sums(process, x_0, one, draw)

    of_levels, of_data = sums(x_0)
    return model_statistics(process, rows, of_levels, of_data, len(x_0))


def level_rows(process: Process) -> Plan:
    """The levels to measure, about even in log-SNR, in the rows of a plan that visits them.

    Raises:
      ValueError: the process blurs, or has fewer than three levels with signal and noise.
    """
    return downward(process, level_times(process), eta=0.0)


def level_times(process: Process, count: int = NUM_LEVELS) -> Trajectory:
    """At most `count` times whose log-SNRs are about evenly spaced, from the first with signal down to 1; and 0."""
    if process.blur is not None:
        raise ValueError("model statistics are for processes without a blur, as solver 'dpm_v3' is")
    t = np.arange(1, process.num_steps + 1)
    logsnr = noise_logsnr(process, t)
    t, logsnr = t[np.isfinite(logsnr)], logsnr[np.isfinite(logsnr)]
    if len(t) < 3:
        raise ValueError(f"model statistics need three noise levels or more, and this process has {len(t)}")
    wanted = np.linspace(logsnr[0], logsnr[-1], count)
    nearest = np.unique(np.rint(np.interp(-wanted, -logsnr, t)).astype(int))
    return (*nearest[::-1].tolist(), 0)


def level_sums(
    denoise: Denoiser, x_0: Images, weight: PerExample, rows: Plan, draw: Callable[[Any], Coordinates]
) -> LevelSums:
    """The `LevelSums` of images.

    Args:
      denoise: a denoiser.
      x_0: (B, H, W, C) images.
      weight: (B,), how often each image counts, 0 or 1.
      rows: N rows, some of those from `level_rows`.
      draw: `ddx.diffusion.bound.terms.noise_at` of the images.
    """
    u_0, w = denoise.process.basis.analysis(x_0), draw(0)

    def measure(seen: Seen) -> LevelSums:
        # The difference is what has digits where there is little noise, and x_0 where there is much.
        y = seen.d.x_0 - jnp.where(seen.step.level.logsnr > 0, u_0, 0.0)
        return LevelSums(*(_total(weight, x) for x in (y, y * y, y * w, y * u_0)))

    return at_every_row(denoise, u_0, rows, rows.level.t, lambda _: w, measure)


def data_sums(process: Process, x_0: Images, weight: PerExample, draw: Callable[[Any], Coordinates]) -> DataSums:
    """The `DataSums` of images, as in `level_sums`."""
    u, w = process.basis.analysis(x_0), draw(0)
    return DataSums(*(_total(weight, x) for x in (u, w, u * u, u * w, w * w)))


def _total(weight: PerExample, x: Coordinates) -> Array:
    return jnp.einsum("b,b...->...", weight, x)


def model_statistics(
    process: Process, rows: Plan, of_levels: LevelSums, of_data: DataSums, num_images: int
) -> ModelStatistics:
    """The statistics of a network from all sums.

    Args:
      process: the process.
      rows: all of `level_rows`.
      of_levels: the sums at these levels.
      of_data: the sums of the same images and noise.
      num_images: how many images there are.

    Raises:
      ValueError: there are too few images.
    """
    if num_images < LEAST_EXAMPLES:
        raise ValueError(f"model statistics of {num_images} images say little; take {LEAST_EXAMPLES} or more")
    y, yy, yw, yu = (np.asarray(x, np.float64) / num_images for x in of_levels)
    u, w, uu, uw, ww = (np.asarray(x, np.float64) / num_images for x in of_data)
    yy, yw, yu, uu, uw, ww = yy - y * y, yw - y * w, yu - y * u, uu - u * u, uw - u * w, ww - w * w
    # Least squares, equation (1); a coordinate without variance has no coefficient of its own.
    determinant = ww * uu - uw * uw
    varies = determinant > 1e-6 * ww
    a = np.where(varies, yw * uu - yu * uw, yw) / np.where(varies, determinant, ww)
    level = rows.level
    linear = 1.0 - a * level.alpha / level.sigma
    # f = by_u u_0 + a w - y
    by_u = 1.0 - linear - np.where(level.logsnr > 0, 1.0, 0.0)
    mean = by_u * u + a * w - y
    variance = by_u**2 * uu + a**2 * ww + yy + 2.0 * (by_u * a * uw - by_u * yu - a * yw)
    least = _SMALLEST**2 * (by_u**2 * (uu + u * u) + a**2 * ww + yy + y * y)
    std = np.sqrt(np.maximum(variance, np.maximum(least, _TINY)))
    return ModelStatistics(noise_logsnr(process, level.t), linear, mean, std, num_images)


_TINY = 1e-24  # the variance of an f that is always 0
