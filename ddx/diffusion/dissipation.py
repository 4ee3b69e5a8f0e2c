"""From numbers that are the same for all coordinates to those of each frequency of the DCT basis.

A process that blurs scales frequency (i, j) by alpha = a d, where (Hoogeboom & Salimans 2023)

    d = (1 - d_min) exp(-lam tau) + d_min                                                                       (1)

with the Laplacian's eigenvalue lam and the dissipation time tau; d_min = 0 is the heat equation itself. Its log-SNR is
that of the noise and 2 log d. What a step needs, log(d_t / d_s), is for nearby times a difference of nearly equal
numbers. With e = (1 - d_min) exp(-lam tau_s) it is

    log(d_t / d_s) = log1p(e expm1(-lam (tau_t - tau_s)) / (e + d_min))                                         (2)

which is precise in float32 until the fraction nears -1, where d_t / d_s is small and the logarithms may be subtracted.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddx.diffusion.basis import laplacian


class Scalars(NamedTuple):
    """What all coordinates share at a time; () or (B, 1, 1, 1)."""

    a: Any
    sigma: Any
    logsnr: Any  # of the noise: log(a^2 / sigma^2)
    tau: Any


class Changes(NamedTuple):
    """What all coordinates share of a step from t to s: the values at t less those at s."""

    log_a: Any
    logsnr: Any
    tau: Any


def dissipate(at: Scalars, d_min: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Alpha and logsnr of each frequency of images of shape (H, W), equation (1)."""
    xp, lam = _in_kind(at.tau, shape)
    d = _d(xp, lam * at.tau, d_min)
    log_d = xp.where(d_min == 0, -lam * at.tau, xp.log(xp.where(d > 0, d, 1.0)))
    return at.a * d, at.logsnr + 2.0 * log_d


def dissipate_changes(tau_s: Any, tau_t: Any, changes: Changes, d_min: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """log(alpha_t / alpha_s) and log(SNR_t / SNR_s) of each frequency, equation (2)."""
    xp, lam = _in_kind(changes.tau, shape)
    # Upwards too the fraction is that of the step down: the other way it would overflow.
    first, last = lam * xp.minimum(tau_s, tau_t), lam * xp.maximum(tau_s, tau_t)
    further = lam * xp.abs(changes.tau)
    d_first, d_last = _d(xp, first, d_min), _d(xp, last, d_min)
    fraction = (1.0 - d_min) * xp.exp(-first) * xp.expm1(-further) / xp.where(d_first > 0, d_first, 1.0)
    near = fraction > -0.5
    ratio = xp.where(d_last > 0, d_last, 1.0) / xp.where(d_first > 0, d_first, 1.0)
    log_d = xp.where(near, xp.log1p(xp.where(near, fraction, 0.0)), xp.log(ratio))
    log_d = xp.sign(changes.tau) * xp.where(d_min == 0, -further, log_d)
    return changes.log_a + log_d, changes.logsnr + 2.0 * log_d


def _d(xp: Any, exponent: Any, d_min: Any) -> Any:
    return (1.0 - d_min) * xp.exp(-exponent) + d_min


def _in_kind(x: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """The namespace of x, NumPy or JAX, and the eigenvalues in it."""
    lam = laplacian(shape)
    host = isinstance(x, np.ndarray | np.generic | float)
    return (np, lam) if host else (jnp, jnp.asarray(lam, x.dtype))
