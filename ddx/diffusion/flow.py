"""The probability-flow equation of a process whose times are continuous, for solvers of your own (diffrax, say).

    du/dt = f u_t + g^2 / (2 sigma) eps(u_t, t)        f = d log alpha / dt        g^2 = -sigma^2 d logsnr / dt    (1)

per basis coordinate (Song et al. 2021, eq. 13, with the score -eps / sigma). Its solutions have the marginals of the
process; `ddx.sample` at eta = 0 solves it by its own coefficients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import check_floats
from ddx.diffusion.levels import checked, is_host
from ddx.diffusion.prediction import DenoiseFn, Denoiser, check_process
from ddx.diffusion.process import Process


class Rates(NamedTuple):
    """f, g^2 and d logsnr / dt of equation (1), per basis coordinate; times go from 0 to T."""

    f: Any
    g2: Any
    dlogsnr: Any


def rates(process: Process, t: Any, shape: tuple[int, ...] | None = None) -> Rates:
    """The rates at times t, () or (B,).

    In the graph they are NaN for times out of range.

    Raises:
      ValueError: the process has integer times, or a time known on the host is out of range.
    """
    if not process.continuous:
        raise ValueError("this process has integer times, so there is no rate; use one with continuous times")
    if is_host(t):
        checked(t, process.num_steps)
        if np.any(process.scalars(np.asarray(t)).sigma == 0):
            raise ValueError(f"the equation has no rate at t={t}, where the data have no noise; start at a later time")
    t = jnp.asarray(t, jnp.result_type(float))
    at, by_t = jax.jvp(lambda t: process.marginal(t, shape), (t,), (jnp.ones_like(t),))
    f = 0.5 * by_t.logsnr + by_t.sigma / at.sigma  # log alpha = logsnr / 2 + log sigma, however small alpha is
    return Rates(f, -jnp.square(at.sigma) * by_t.logsnr, by_t.logsnr)


def probability_flow(process: Process, denoise: Denoiser | DenoiseFn, x_t: Any, t: Any) -> Any:
    """dx/dt of equation (1) in pixels, like x_t (B, H, W, C), for times t, () or (B,).

    Raises:
      ValueError: the process has integer times or is not the denoiser's, x_t are not floating-point numbers, or a time
        known on the host is out of range.
    """
    check_floats(x_t=x_t)
    check_process(process, denoise)
    at, basis = rates(process, t, x_t.shape[-3:-1]), process.basis
    sigma, eps = process.scalars(t).sigma, basis.analysis(denoise(x_t, t).eps)
    return basis.synthesis(at.f * basis.analysis(x_t) + 0.5 * at.g2 / sigma * eps).astype(x_t.dtype)
