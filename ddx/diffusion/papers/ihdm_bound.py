"""The bound on IHDM's -log p: L_T to the prior from the training set, KL terms, and the decoder's density.

It is measured by `ddx.diffusion.bound.terms`, like every other bound. Equations (1) and (2) are in
`ddx.diffusion.papers.ihdm`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import (
    Coordinates,
    Images,
    Key,
    PerExample,
    Trajectory,
    check_floats,
    computing_dtype,
    mean_over_image,
)
from ddx.diffusion.bound.decoder import decoder_log_prob
from ddx.diffusion.bound.terms import BitsPerDim, Seen, Terms, at_every_row, noise_at, step_kl
from ddx.diffusion.estimate.denoiser import Denoiser, check_denoiser
from ddx.diffusion.forward.process import Process
from ddx.diffusion.papers.ihdm import check_residual, next_mean
from ddx.diffusion.reverse.rows import Plan, downward, num_rows, visited

_NEGLIGIBLE = 1e-9  # what a blur leaves of a frequency that no longer tells images apart


def kde_centres(process: Process, images: Images) -> Coordinates:
    """The centres of the prior, equation (2), in the frequencies that the blur leaves.

    After a blur of half the images' width these are a few dozen, so the centres of a training set need little memory.

    Args:
      process: `ddx.ihdm`.
      images: (M, H, W, C) images of the training set.

    Returns:
      (M, F) for F frequencies of C channels.

    Raises:
      ValueError: images are not floating-point numbers.
    """
    check_floats(images=images)
    scale = process.marginal(process.num_steps, images.shape[-3:-1]).alpha
    u = process.basis.analysis(images)
    return (jnp.asarray(scale, u.dtype) * u)[:, (scale > _NEGLIGIBLE)[..., 0]].reshape(len(images), -1)


def kde_kl(process: Process, centres: Coordinates, x_0: Images, delta: float) -> PerExample:
    """An upper bound on KL(q(u_T | u_0) || p(u_T)) for the prior, equation (2).

    For any weights phi it is at most sum_i phi_i (KL_i + log phi_i + log M), where KL_i belongs to the i-th of the
    prior's Gaussians. The best weights, phi = softmax(-KL), make this -log mean_i exp(-KL_i).

    Args:
      process: `ddx.ihdm`.
      centres: `kde_centres` of the training set, (M, F).
      x_0: (B, H, W, C) images.
      delta: standard deviation of the prior's noise.

    Returns:
      (B,) nats.

    Raises:
      ValueError: delta is not above 0, or x_0 are not floating-point numbers.
    """
    if not delta > 0:
        raise ValueError(f"delta={delta} must be above 0: a prior of points has no density")
    u = kde_centres(process, x_0)

    def add(total: Any, pair: tuple[Any, Any]) -> tuple[Any, None]:
        return total + jnp.square(pair[0][:, None] - pair[1][None, :]), None

    # Not by the product of u and the centres, which would cancel.
    distance, _ = jax.lax.scan(add, jnp.zeros((len(u), len(centres)), u.dtype), (u.T, centres.T))
    ratio = float(process.level(process.num_steps).sigma) / delta
    per_dim = 0.5 * (ratio**2 - 1.0) - np.log(ratio)
    nearest = -jax.nn.logsumexp(-0.5 * distance / delta**2, axis=1) + np.log(len(centres))
    return nearest + per_dim * np.prod(x_0.shape[1:])


def heat_rows(process: Process, levels: Trajectory | None = None) -> Plan:
    """The rows of IHDM's bound: one for the decoder, from t = 1, and one for each KL term, from `levels`.

    Args:
      process: `ddx.ihdm`.
      levels: by default 2..T. The released code takes 1..T-1 instead, so it counts the step from 1 twice and leaves out
        the step from T.

    Raises:
      ValueError: a level is not in 1..T.
    """
    levels = tuple(range(2, process.num_steps + 1)) if levels is None else visited(process, levels)
    if not all(1 <= t <= process.num_steps for t in levels):
        raise ValueError(f"levels {levels} must lie in 1..{process.num_steps}")
    chosen = process.num_steps - np.asarray((1, *levels))
    rows: Plan = jax.tree.map(lambda x: x[chosen], downward(process, visited(process, None)))
    return rows._replace(last=(np.arange(num_rows(rows)) == 0).astype(float)[:, None, None, None])


def heat_terms(
    denoise: Denoiser, x_0: Images, rows: Plan, entries: Any, draw: Callable[[Any], Any], delta: float
) -> Terms:
    """The terms of some rows of `heat_rows`, each with its own draw(entry) of noise.

    Inference is independent given the data: q(u_s | u_t, u_0) has k = 0, gamma = alpha_s and the variance sigma^2. The
    mean of p is the network's own.

    Args:
      denoise: of a network that predicts the next image.
      x_0: (B, H, W, C) images, dequantised.
      rows: K rows.
      entries: one per row, given to `draw`.
      draw: draw(entry) -> the noise of each example in the basis, like x_0.
      delta: of the reverse steps.

    Returns:
      `Terms`, (B, K) each; mse is of the next image.

    Raises:
      ValueError: the network does not predict the next image.
    """
    check_residual(denoise, "IHDM's bound")
    process, basis = denoise.process, denoise.process.basis
    u_0 = basis.analysis(x_0)

    def measure(seen: Seen) -> Terms:
        step, mean = seen.step, next_mean(seen.u_t, seen.d)
        known, log_delta2 = step.target.alpha * u_0, 2.0 * np.log(delta)
        kl = step_kl(step._replace(small=step.target.sigma**2), known, mean, delta**2)
        # The row from t = 1 ends in the data, of which (1) is the density.
        log_prob = decoder_log_prob(x_0, basis.synthesis(mean), log_delta2, "density", process.low)
        term = mean_over_image(jnp.where(step.last > 0, -log_prob, kl)) / np.log(2.0)
        mse, eps_mse = (mean_over_image(jnp.square(x)) for x in (known - mean, seen.z - seen.d.eps))
        return Terms(term, mse, eps_mse)

    return jax.tree.map(lambda x: x.T, at_every_row(denoise, u_0, rows, entries, draw, measure))


def heat_bits_per_dim(
    denoise: Denoiser,
    x_0: Images,
    key: Key | None,
    centres: Coordinates,
    delta: float = 0.0125,
    levels: Trajectory | None = None,
) -> BitsPerDim:
    """A bound on IHDM's bits per dimension: L_T to the training set's prior, KL terms, and the decoder's density.

    Args:
      denoise: of a network of `ddx.ihdm` that predicts the next image.
      x_0: (B, H, W, C) images, dequantised: (k + U) / 256 of their range, U in [0, 1).
      key: one key (example i then uses fold_in(key, i)), or keys of shape (B,).
      centres: `kde_centres` of the training set.
      delta: of the reverse steps; the bound is tightest where delta^2 is sigma^2 plus the network's squared error.
      levels: of the KL terms, 2..T by default; the released code takes 1..T-1.

    Returns:
      `BitsPerDim`; `terms` belong to `levels`, and `mse` is of the next image.

    Raises:
      ValueError: a level is not in 1..T, delta is not above 0, x_0 are not floating-point numbers, or the network does
        not predict the next image.
    """
    process = check_denoiser(denoise).process
    check_residual(denoise, "IHDM's bound")
    check_floats(x_0=x_0)
    x_0 = x_0.astype(computing_dtype(x_0))
    rows = heat_rows(process, levels)
    prior_kl = kde_kl(process, centres, x_0, delta) / (np.prod(x_0.shape[1:]) * np.log(2.0))
    terms, mse, eps_mse = heat_terms(denoise, x_0, rows, rows.level.t, noise_at(key, x_0), delta)
    times = np.asarray(rows.level.t)
    return BitsPerDim(
        prior_kl + terms.sum(1), prior_kl, terms[:, 1:], mse[:, 1:], eps_mse[:, 1:], times[1:], terms[:, 0]
    )
