"""How wrong an estimate of x_0 is at every time: what the optimal variances and trajectories need to know.

The optimal reverse variance is that of q(u_s | u_t, u_0), and gamma^2 times what the network does not know of u_0
(equation 6 of `ddx.diffusion.gaussian`). On average over images the latter is the mean squared error of its estimate,

    V_t = E (u_0 - E[u_0 | u_t])^2                                                                              (1)

for every coordinate or as their mean; it is the best for the network as it is. Analytic-DPM (Bao et al. 2022) finds the
mean instead from the mean square of eps, Gamma in the paper, which is the same for a network without error,

    V_t = (sigma_t / alpha_t)^2 (1 - E eps^2)                                                                   (2)

and for others, or few images, far off where there is more noise than signal.

Both are functions of the log-SNR alone if the network is, so a table of one schedule serves others.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import check_floats, computing_dtype
from ddx.diffusion.basis import largest_variance
from ddx.diffusion.kernels import DenoiseAt
from ddx.diffusion.likelihood import bound_table, noise_at
from ddx.diffusion.prediction import Denoiser, clipped
from ddx.diffusion.process import Process
from ddx.diffusion.sampling import cast


class Statistics(NamedTuple):
    """Means over images of a data set, at N times by ascending noise. Arrays are float64, of the host.

    `mse` and `mse_error` are of each coordinate, as `spectrum` is.
    """

    logsnr: np.ndarray  # (N,): of the noise, descending
    mse: np.ndarray  # (N, H, W, C): equation (1)
    mse_error: np.ndarray  # (N,): standard error of its mean over coordinates
    ms_eps: np.ndarray  # (N,): E eps^2, averaged over coordinates; of the network's own, unclipped eps
    ms_eps_error: np.ndarray  # (N,)
    spectrum: np.ndarray  # (H, W, C): the variance of the data
    num_images: int


class Sums(NamedTuple):
    """What some images add to the statistics: sums over them, by time."""

    mse: Any  # (N, H, W, C)
    eps: Any  # (N,): of the mean over coordinates of eps^2
    mse2: Any  # (N,): of the square of the mean over coordinates of the squared error
    eps2: Any  # (N,): of the square of that of eps^2


def estimate_statistics(denoise: Denoiser, x_0: Any, key: Any) -> Statistics:
    """The statistics of a network on images, with one draw of noise for each image and time.

    The means of 10 to 100 images do for variances that are the same for all coordinates, a few hundred for those of
    each (Bao et al. 2022, appendix G.2).

    Args:
      denoise: a `ddx.denoiser`; its x_0 is clipped, or not, as the sampler's will be. Its process may be one that is
        seen `ddx.in_dct_basis`.
      x_0: (M, H, W, C) images, all in memory at once.
      key: one key, or keys of shape (M,).

    Raises:
      ValueError: x_0 are not floating-point numbers.
    """
    check_floats(x_0=x_0)
    x_0 = x_0.astype(computing_dtype(x_0))
    process = denoise.process
    at = dataclasses.replace(denoise, clip=False).at
    times = tuple(range(process.num_steps, -1, -1))
    rows = bound_table(process, times, x_0.shape[-3:-1])

    @jax.jit
    def sums(x_0: Any) -> Sums:
        draws, draw = rows.level.t, noise_at(key, x_0)
        return error_sums(process, at, x_0, jnp.ones(len(x_0)), rows, draws, draw, bool(denoise.clip))

    u_0 = np.asarray(process.basis.analysis(x_0), np.float64)
    moments = u_0.sum(0), np.square(u_0).sum(0)
    return statistics(process, sums(x_0), moments, np.asarray(times[-2::-1]), len(x_0))


def error_sums(
    process: Process,
    at: DenoiseAt,
    x_0: Any,
    weight: Any,
    rows: Any,
    draws: Any,
    draw: Callable[[Any], Any],
    clip: bool,
) -> Sums:
    """`Sums` of images (B, H, W, C) at the levels of some rows of a table of steps.

    Args:
      process: the process.
      at: `Denoiser.at` of a denoiser that does not clip.
      x_0: the images.
      weight: (B,), how often each counts, 0 or 1.
      rows: rows of `ddx.diffusion.steps.step_table`.
      draws: one entry a row, given to `draw`.
      draw: draw(entry) -> noise of each image, white in the basis.
      clip: clip the estimate of x_0 for its error, as the sampler will.
    """
    u_0 = process.basis.analysis(x_0)

    def one(_: None, row: tuple[Any, Any]) -> tuple[None, Sums]:
        step, z = row[0].expand(x_0.shape[-3:-1]), draw(row[1])
        u_t = step.level.marginal.alpha * u_0 + step.level.marginal.sigma * z
        d = at(u_t, step.level)
        estimate = clipped(process, u_t, step.level, d).x_0 if clip else d.x_0
        square, eps = jnp.square(u_0 - estimate), jnp.square(d.eps).mean((1, 2, 3))
        mean = square.mean((1, 2, 3))
        total = jnp.einsum("b,b...->...", weight, square)
        return None, Sums(total, weight @ eps, weight @ jnp.square(mean), weight @ jnp.square(eps))

    rows = jax.tree.map(lambda x: cast(x, x_0.dtype), rows)
    return jax.lax.scan(one, None, (rows, draws))[1]


def statistics(process: Process, sums: Sums, moments: tuple[Any, Any], times: Any, num_images: int) -> Statistics:
    """The statistics of `num_images` images at times (N,), from their sums and those of their coordinates' moments.

    `moments` are the sums of u_0 and of u_0^2, (H, W, C) each.
    """
    first, second = (np.asarray(x, np.float64) / num_images for x in moments)
    most = np.broadcast_to(largest_variance(process.basis, first.shape[:2], process.low), first.shape)
    # Of one image, all that is known is the range of the data.
    unbiased = num_images / (num_images - 1) if num_images > 1 else np.inf
    with np.errstate(invalid="ignore"):
        spectrum = np.fmin(unbiased * np.maximum(second - first**2, 0.0), most)
    mse, eps, mse2, eps2 = (np.asarray(x, np.float64) / num_images for x in sums)
    mean = mse.mean((1, 2, 3))

    def error(square: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(square - mean**2, 0.0) / max(num_images - 1, 1))

    logsnr = noise_logsnr(process, times)
    return Statistics(logsnr, mse, error(mse2, mean), eps, error(eps2, eps), spectrum, num_images)


def noise_logsnr(process: Process, times: Any) -> np.ndarray:
    """The log-SNR by which a table is keyed, that of the noise, at times (N,)."""
    return np.asarray(process.noise.at(np.asarray(times)).logsnr)
