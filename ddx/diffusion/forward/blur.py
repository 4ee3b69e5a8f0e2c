"""Blur: how much of each frequency of an image is left at time t.

A process that blurs scales frequency (i, j) by alpha = a d, where a is the schedule's alpha (Hoogeboom & Salimans 2023)
and

    d = (1 - d_min) exp(-lam tau) + d_min                                                                       (1)

with the Laplacian's eigenvalue lam and the dissipation time tau = sigma_B^2 / 2 of a Gaussian blur of sigma_B pixels;
d_min = 0 is the heat equation itself. The log-SNR of the frequency is the schedule's logsnr plus 2 log d. A step needs
log(d_t / d_s), which at nearby times is a difference of nearly equal numbers. With e = (1 - d_min) exp(-lam tau_s),

    log(d_t / d_s) = log1p(e expm1(-lam (tau_t - tau_s)) / (e + d_min))                                         (2)

which is precise in float32 until the argument of log1p nears -1. There d_t / d_s is small, and the logarithm of
the ratio is precise.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Array, Coefficient, Numbers, Shape, Times
from ddx.diffusion.forward.basis import laplacian
from ddx.diffusion.times import change, checked, look_up


class BlurSchedule(Protocol):
    """What a process needs of a blur: the dissipation time and its change, at times () or (B,) in [0, T].

    Results have the shape of the times. A time out of range raises a ValueError on the host and gives NaN in the graph.
    """

    def tau(self, t: Times) -> Array:
        """The dissipation time at t, in pixels^2."""

    def tau_change(self, s: Times, t: Times) -> Array:
        """tau_t - tau_s, without the cancellation of subtracting the two."""


@dataclass(frozen=True, eq=False)
class BlurTable:
    """Blur at the integer times 0..T.

    Attributes:
      sigma: (T + 1,) float64, standard deviations sigma_B in pixels.
    """

    sigma: np.ndarray

    def tau(self, t: Times) -> Array:
        """The dissipation time at integer times t, () or (B,)."""
        return look_up(0.5 * self.sigma**2, t)

    def tau_change(self, s: Times, t: Times) -> Array:
        """tau_t - tau_s at integer times, () or (B,)."""
        return change(0.5 * self.sigma**2, s, t)


@dataclass(frozen=True)
class SineBlur:
    """sigma_B = sigma_blur_max sin^p(pi t / 2 T) for real times in [0, T] (Hoogeboom & Salimans 2023).

    Attributes:
      num_steps: T.
      sigma_blur_max: the standard deviation of the blur at T, in pixels.
      power: p, 2 ("sin2") or 1 ("sin").
    """

    num_steps: int
    sigma_blur_max: float
    power: int

    def tau(self, t: Times) -> Array:
        """The dissipation time at times t, () or (B,)."""
        xp, t = checked(t, self.num_steps)
        return 0.5 * self.sigma_blur_max**2 * xp.sin(0.5 * np.pi * (t / self.num_steps)) ** (2 * self.power)

    def tau_change(self, s: Times, t: Times) -> Array:
        """tau_t - tau_s at times () or (B,), by sin^2 x - sin^2 y = sin(x + y) sin(x - y)."""
        (xp, t), (_, s) = checked(t, self.num_steps, s), checked(s, self.num_steps, t)
        x, y = (0.5 * np.pi * (time / self.num_steps) for time in (t, s))
        rise = xp.sin(x + y) * xp.sin(0.5 * np.pi * ((t - s) / self.num_steps))
        if self.power == 2:
            rise = rise * (xp.sin(x) ** 2 + xp.sin(y) ** 2)
        return 0.5 * self.sigma_blur_max**2 * rise


def log_remaining(tau: Array, d_min: Numbers, shape: Shape) -> tuple[Coefficient, Coefficient]:
    """What a blur leaves of each frequency, equation (1).

    Args:
      tau: dissipation times, () or (B, 1, 1, 1).
      d_min: the fraction of a frequency that even the strongest blur leaves.
      shape: (H, W) of the images.

    Returns:
      d and log d, (H, W, 1) or (B, H, W, 1) each.
    """
    xp, lam = _in_kind(tau, shape)
    d = _remaining(xp, lam * tau, d_min)
    return d, xp.where(d_min == 0, -lam * tau, xp.log(xp.where(d > 0, d, 1.0)))


def log_remaining_change(tau_s: Array, tau_t: Array, tau_change: Array, d_min: Numbers, shape: Shape) -> Coefficient:
    """log(d_t / d_s) of each frequency, equation (2).

    Args:
      tau_s: dissipation times at s, () or (B, 1, 1, 1).
      tau_t: dissipation times at t, like tau_s.
      tau_change: tau_t - tau_s, found without rounding the two first.
      d_min: the fraction of a frequency that even the strongest blur leaves.
      shape: (H, W) of the images.

    Returns:
      (H, W, 1) or (B, H, W, 1).
    """
    xp, lam = _in_kind(tau_change, shape)
    # A step up uses the step down between the same times, with the opposite sign: its own fraction would overflow.
    first, last = lam * xp.minimum(tau_s, tau_t), lam * xp.maximum(tau_s, tau_t)
    further = lam * xp.abs(tau_change)
    d_first, d_last = _remaining(xp, first, d_min), _remaining(xp, last, d_min)
    fraction = (1.0 - d_min) * xp.exp(-first) * xp.expm1(-further) / xp.where(d_first > 0, d_first, 1.0)
    near = fraction > -0.5
    ratio = xp.where(d_last > 0, d_last, 1.0) / xp.where(d_first > 0, d_first, 1.0)
    log_d = xp.where(near, xp.log1p(xp.where(near, fraction, 0.0)), xp.log(ratio))
    return xp.sign(tau_change) * xp.where(d_min == 0, -further, log_d)


def _remaining(xp: Any, exponent: Array, d_min: Numbers) -> Array:
    return (1.0 - d_min) * xp.exp(-exponent) + d_min


def _in_kind(x: Array, shape: Shape) -> tuple[Any, Array]:
    """The namespace of x, NumPy or JAX, and the eigenvalues as an array of that namespace."""
    lam = laplacian(shape)
    host = isinstance(x, np.ndarray | np.generic | float)
    return (np, lam) if host else (jnp, jnp.asarray(lam, x.dtype))
