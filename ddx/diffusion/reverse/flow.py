"""The probability-flow equation of a process whose times are continuous, for solvers of other libraries (diffrax, say).

    du/dt = f u_t + g^2 / (2 sigma) eps(u_t, t)        f = d log alpha / dt        g^2 = -sigma^2 d logsnr / dt    (1)

per basis coordinate (Song et al. 2021, eq. 13, with the score -eps / sigma). Its solutions have the marginals of the
process; `ddx.sample` at eta = 0 solves the same equation with its own coefficients.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Coefficient, Images, Shape, Times, check_floats
from ddx.diffusion.estimate.denoiser import Denoiser, check_denoiser
from ddx.diffusion.forward.process import Process
from ddx.diffusion.times import checked, is_host


class Rates(NamedTuple):
    """f, g^2 and d logsnr / dt of equation (1), per basis coordinate, with times measured from 0 to T."""

    f: Coefficient
    g2: Coefficient
    dlogsnr: Coefficient


def rates(process: Process, t: Times, shape: Shape | None = None) -> Rates:
    """The rates of equation (1) at times t.

    Args:
      process: a process with continuous times.
      t: times, () or (B,).
      shape: (H, W) of the images, for processes that blur.

    Returns:
      `Rates`, which broadcast to (B, H, W, C); NaN for traced times out of range.

    Raises:
      ValueError: the process has integer times, or a time known on the host is out of range or has no noise or signal.
    """
    if not process.continuous:
        raise ValueError("this process has integer times, so there is no rate; use one with continuous times")
    if is_host(t):
        checked(t, process.num_steps)
        level = process.level(np.asarray(t))
        if np.any(level.sigma == 0):
            raise ValueError(f"the equation has no rate at t={t}, where the data have no noise; start at a later time")
        if np.any(level.a == 0):
            raise ValueError(f"the equation has no rate at t={t}, where no signal is left; start at an earlier time")
    t = jnp.asarray(t, jnp.result_type(float))
    at, by_t = jax.jvp(lambda t: process.marginal(t, shape), (t,), (jnp.ones_like(t),))
    f = 0.5 * by_t.logsnr + by_t.sigma / at.sigma  # log alpha = logsnr / 2 + log sigma, however small alpha is
    return Rates(f, -jnp.square(at.sigma) * by_t.logsnr, by_t.logsnr)


def probability_flow(denoise: Denoiser, x_t: Images, t: Times) -> Images:
    """dx/dt of equation (1) in pixels.

    Args:
      denoise: a denoiser of a process with continuous times.
      x_t: (B, H, W, C).
      t: times, () or (B,).

    Returns:
      (B, H, W, C) like x_t.

    Raises:
      ValueError: the process has integer times, x_t are not floating-point numbers, or a time known on the host is out
        of range or has no noise or signal.
    """
    check_floats(x_t=x_t)
    process = check_denoiser(denoise).process
    at, basis = rates(process, t, x_t.shape[-3:-1]), process.basis
    sigma, eps = process.level(t).sigma, basis.analysis(denoise(x_t, t).eps)
    return basis.synthesis(at.f * basis.analysis(x_t) + 0.5 * at.g2 / sigma * eps).astype(x_t.dtype)
