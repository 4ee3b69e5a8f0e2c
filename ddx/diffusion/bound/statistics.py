"""The errors of an estimate of x_0 at every time, from which optimal variances and trajectories are computed.

The optimal reverse variance is the variance of q(u_s | u_t, u_0) plus gamma^2 times the network's uncertainty about
u_0 (equation 6 of `ddx.diffusion.forward.gaussian`). On average over images, this uncertainty is the mean squared error
of the network's estimate,

    V_t = E (u_0 - E[u_0 | u_t])^2                                                                              (1)

for every coordinate or as a mean over coordinates. It is the optimal choice even for a network that errs. Analytic-DPM
(Bao et al. 2022) computes the mean from the mean square of eps instead, called Gamma in the paper,

    V_t = (sigma_t / alpha_t)^2 (1 - E eps^2)                                                                   (2)

which is the same for a network without error. For other networks, or few images, it is far off where there is more
noise than signal.

If the network depends on the log-SNR alone, so do both, and a table from one schedule serves other schedules.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import (
    Array,
    Coordinates,
    Images,
    Key,
    PerExample,
    Times,
    check_floats,
    computing_dtype,
    mean_over_image,
)
from ddx.diffusion.bound.terms import Seen, at_every_row, bound_rows, noise_at
from ddx.diffusion.estimate.denoiser import Denoiser, check_denoiser
from ddx.diffusion.estimate.prediction import reading
from ddx.diffusion.forward.basis import largest_variance
from ddx.diffusion.forward.process import Process
from ddx.diffusion.reverse.rows import Plan


class Statistics(NamedTuple):
    """Means over images of a data set, at N ascending times. Arrays are NumPy in float64.

    Those that Analytic-DPM's code measured hold ms_eps alone: the others are NaN, and the spectrum is its limit.
    """

    logsnr: np.ndarray  # (N,): of the schedule, descending
    mse: np.ndarray  # (N, H, W, C): equation (1), per coordinate
    mse_error: np.ndarray  # (N,): standard error of the mean of mse over coordinates
    ms_eps: np.ndarray  # (N,): E eps^2, averaged over coordinates; eps is the network's own, unclipped
    ms_eps_error: np.ndarray  # (N,): standard error of ms_eps
    spectrum: np.ndarray  # (H, W, C): the variance of the data, per coordinate
    num_images: int


class Sums(NamedTuple):
    """What some images add to the statistics: sums over the images, by time."""

    mse: Array  # (N, H, W, C): sum of the squared error of x_0
    eps: Array  # (N,): sum of e, the mean over coordinates of eps^2
    mse2: Array  # (N,): sum of the square of the mean over coordinates of the squared error
    eps2: Array  # (N,): sum of e^2


def estimate_statistics(denoise: Denoiser, x_0: Images, key: Key) -> Statistics:
    """The statistics of a network on images, equations (1) and (2), with one draw of noise for each image and time.

    For one variance for all coordinates 10 to 100 images suffice, for a variance of each coordinate a few hundred (Bao
    et al. 2022, appendix G.2).

    Args:
      denoise: a `ddx.denoiser` that clips x_0 if and only if the sampler's denoiser will. Its process may be the result
        of `ddx.in_dct_basis`.
      x_0: (M, H, W, C) images, all in memory at once.
      key: one key, or keys of shape (M,), one for each image.

    Returns:
      `Statistics` at the times 1..T.

    Raises:
      ValueError: x_0 are not floating-point numbers, the key does not fit, or the denoiser is not made of one network.
    """
    check_floats(x_0=x_0)
    x_0 = x_0.astype(computing_dtype(x_0))
    process = check_denoiser(denoise).process
    times = tuple(range(process.num_steps, -1, -1))
    rows = bound_rows(process, times, x_0.shape[-3:-1])

    @jax.jit
    def sums(x_0: Images) -> Sums:
        return error_sums(denoise, x_0, jnp.ones(len(x_0)), rows, rows.level.t, noise_at(key, x_0))

    u_0 = np.asarray(process.basis.analysis(x_0), np.float64)
    moments = u_0.sum(0), np.square(u_0).sum(0)
    return statistics(process, sums(x_0), moments, np.asarray(times[-2::-1]), len(x_0))


def error_sums(
    denoise: Denoiser, x_0: Images, weight: PerExample, rows: Plan, entries: Any, draw: Callable[[Any], Coordinates]
) -> Sums:
    """The `Sums` of images at the levels of some rows.

    Args:
      denoise: a denoiser of one network, which clips x_0 if and only if the sampler's denoiser will. The sums of eps
        are of the network's own, unclipped eps.
      x_0: (B, H, W, C) images.
      weight: (B,), how often each image counts, 0 or 1.
      rows: N rows, from `ddx.diffusion.bound.terms.bound_rows`.
      entries: a pytree of arrays with a leading axis of N: one entry for each row, given to `draw`.
      draw: draw(entry) -> noise like x_0, white, in coordinates.

    Returns:
      `Sums`, in the order of the rows.

    Raises:
      ValueError: the denoiser is not made of one network.
    """
    process, prediction = denoise.process, denoise.prediction
    if prediction is None:
        raise ValueError("statistics need the network's own eps; pass a ddx.denoiser of one network")
    u_0 = process.basis.analysis(x_0)

    def measure(seen: Seen) -> Sums:
        assert seen.d.output is not None
        own_eps = reading(process, prediction, seen.step.level).eps(seen.u_t, seen.d.output)
        square, eps = jnp.square(u_0 - seen.d.x_0), mean_over_image(jnp.square(own_eps))
        total = jnp.einsum("b,b...->...", weight, square)
        return Sums(total, weight @ eps, weight @ jnp.square(mean_over_image(square)), weight @ jnp.square(eps))

    return at_every_row(denoise, u_0, rows, entries, draw, measure)


def statistics(process: Process, sums: Sums, moments: tuple[Array, Array], times: Times, num_images: int) -> Statistics:
    """The statistics of images from their sums.

    Args:
      process: the process.
      sums: the sums over the images at each time.
      moments: the sums over the images of u_0 and of u_0^2, (H, W, C) each.
      times: (N,), ascending.
      num_images: the number of images.

    Returns:
      `Statistics`.
    """
    first, second = (np.asarray(x, np.float64) / num_images for x in moments)
    most = np.broadcast_to(largest_variance(process.basis, first.shape[:2], process.low), first.shape)
    # One image gives no estimate of the variance: what is left is the limit set by the range of the data.
    unbiased = num_images / (num_images - 1) if num_images > 1 else np.inf
    with np.errstate(invalid="ignore"):
        spectrum = np.fmin(unbiased * np.maximum(second - first**2, 0.0), most)
    mse, eps, mse2, eps2 = (np.asarray(x, np.float64) / num_images for x in sums)
    mean = mse.mean((1, 2, 3))

    def error(square: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(square - mean**2, 0.0) / max(num_images - 1, 1))

    logsnr = noise_logsnr(process, times)
    return Statistics(logsnr, mse, error(mse2, mean), eps, error(eps2, eps), spectrum, num_images)


def noise_logsnr(process: Process, times: Times) -> np.ndarray:
    """The log-SNR of the schedule, by which tables of statistics are keyed.

    Args:
      process: the process.
      times: (N,).

    Returns:
      (N,) float64, without the effect of a blur.

    Raises:
      ValueError: a time is not one of the process.
    """
    return np.asarray(process.schedule.at(np.asarray(times)).logsnr)
