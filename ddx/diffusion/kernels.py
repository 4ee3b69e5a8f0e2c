"""Kernels: what a sampler does at one row of its table of steps. A new sampler is one of these.

Every kernel here moves by the one step of `ddx.diffusion.gaussian`, equation (6),

    u_s = k u_t + gamma D + sqrt(variance) z                                                                     (1)

and differs in D, its estimate of the data during the step. At eta = 0 and with D = x_0(u_t, t) this is DDIM, which is
Euler's method for the probability-flow equation d(u / sigma) = x_0(u, t) d(alpha / sigma), or, what is the same,
d(u / alpha) = eps(u, t) d(sigma / alpha) (Song et al. 2021, eq. 14). In half log-SNR, l = log(alpha / sigma), its exact
solution over a step of length h = l_s - l_t is

    u_s = (sigma_s / sigma_t) u_t + alpha_s int_0^h e^(x - h) x_0(l_t + x) dx                                    (2)

which is (1) with D a mean of x_0 over the step, weighted towards its end (Lu et al. 2022, DPM-Solver++, eq. 8).

A denoiser may clip x_0 and leave eps as the network says it. There is then no one D, and a first-order step is written
with both (Song et al. 2021, eq. 12),

    u_s = alpha_s x_0 + sqrt(sigma_s^2 - lambda2) eps + sqrt(variance) z                                         (3)

of which the root is k sigma_t.

Multistep solvers extrapolate by h over the h of the step before. They want times about even in log-SNR, such as the
trajectory "trailing"; "uniform" ends in a step from t = 1 + c to 1 that is many times longer than the one before.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddx.diffusion.gaussian import root
from ddx.diffusion.prediction import Denoised
from ddx.diffusion.process import Level
from ddx.diffusion.steps import Step
from ddx.diffusion.variance import VarianceFn, small, variance_fn

DenoiseAt = Callable[[Any, Level], Denoised]
"""at(u_t, level) -> the estimate at that level, all in basis coordinates."""


class Kernel(NamedTuple):
    """A sampler with memory, in basis coordinates.

    init(u_T) -> memory: any pytree of arrays.
    step(at, u_t, memory, row, z) -> (u_s, memory, d): takes the step of a row of the table with the noise z; d is
      `Denoised` at u_t. `at` evaluates the network.
    needs_noise: it adds noise whatever eta is, so there must be a key or noise.
    all_times: it goes from t to t - 1 and no further.
    """

    init: Callable[[Any], Any]
    step: Callable[[DenoiseAt, Any, Any, Step, Any], tuple[Any, Any, Denoised]]
    needs_noise: bool = False
    all_times: bool = False

    def check(self, times: tuple[int, ...]) -> None:
        """Refuse, with a ValueError, times between which it cannot go."""
        if self.all_times and any(s != t - 1 for t, s in pairwise(times)):
            raise ValueError("this sampler goes through all times, one after the other; leave times out")


def _move(row: Step, u_t: Any, data: Any, variance: Any, z: Any) -> Any:
    return row.k * u_t + row.gamma * data + row.noise * root(variance) * z


def _drift(row: Step, u_t: Any, d: Denoised) -> Any:
    """What a first-order step adds to k u_t, without noise: gamma x_0, or by (3) where eps is the network's own."""
    if d.own_eps is None:
        return row.gamma * d.x_0
    return row.target.marginal.alpha * d.x_0 + row.k * (row.level.marginal.sigma * d.eps - u_t)


def euler(variance: VarianceFn = small) -> Kernel:
    """DDPM, DDIM and all between, by the eta of the table: D = x_0 at the start of the step. Order 1."""

    def step(at: DenoiseAt, u_t: Any, memory: Any, row: Step, z: Any) -> tuple[Any, Any, Denoised]:
        d = at(u_t, row.level)
        u_s = row.k * u_t + _drift(row, u_t, d) + row.noise * root(variance(d, row)) * z
        return u_s, memory, d

    return Kernel(lambda u_T: (), step)


def heun() -> Kernel:
    """Heun's method, the trapezoidal rule on the Euler step's two ends. Order 2, eta = 0.

    For d(u / sigma) = x_0 d(alpha / sigma) where noise prevails, so that nothing is divided by a small alpha, and for
    d(u / alpha) = eps d(sigma / alpha) where the signal does, in which the last steps are short. Two evaluations a step
    and one in the last: there is no network at noise-free data (as in Karras et al. 2022, algorithm 1).
    """

    def step(at: DenoiseAt, u_t: Any, memory: Any, row: Step, z: Any) -> tuple[Any, Any, Denoised]:
        d = _agreeing(at(u_t, row.level), "heun")
        end = row.k * u_t + row.gamma * d.x_0

        def corrected() -> Any:
            alpha, sigma, _ = row.level.marginal
            d_s = at(end, row.target)
            # In (1) a change of eps by one is a change of D by -sigma / alpha.
            by_eps = -sigma / jnp.where(alpha > sigma, alpha, 1.0) * (d_s.eps - d.eps)
            change = jnp.where(alpha > sigma, by_eps, d_s.x_0 - d.x_0)
            return row.k * u_t + row.gamma * (d.x_0 + 0.5 * change)

        return jax.lax.cond(jnp.all(row.target.t > 0), corrected, lambda: end), memory, d

    return Kernel(lambda u_T: (), step)


def dpmpp_2m() -> Kernel:
    """DPM-Solver++(2M): D = x_0 at mid-step, on the line through it and that of the step before. Order 2 at eta = 0.

    At eta = 1 it is SDE-DPM-Solver++(2M). Lu et al. 2022, algorithm 2; the first step is Euler's, as is one to
    noise-free data, which is infinitely long.
    """

    def init(u_T: Any) -> Any:
        return jnp.zeros_like(u_T), jnp.zeros_like(u_T[0])

    def step(at: DenoiseAt, u_t: Any, memory: Any, row: Step, z: Any) -> tuple[Any, Any, Denoised]:
        d, (x_1, inverse_1) = _agreeing(at(u_t, row.level), "dpmpp_2m"), memory
        slope = row.h * inverse_1 * (d.x_0 - x_1)
        return _move(row, u_t, d.x_0 + 0.5 * slope, row.small, z), (d.x_0, _inverse(row.h, u_t)), d

    return Kernel(init, step)


def dpmpp_3m() -> Kernel:
    """DPM-Solver++(3M): the parabola through the last three x_0, integrated as equation (2) says. Order 3, eta = 0.

    The first step is Euler's, as is one to noise-free data, and the second follows a line. In the published code the
    curvature enters with half its weight, which leaves order 2.
    """

    def init(u_T: Any) -> Any:
        return (jnp.zeros_like(u_T),) * 2 + (jnp.zeros_like(u_T[0]),) * 2

    def step(at: DenoiseAt, u_t: Any, memory: Any, row: Step, z: Any) -> tuple[Any, Any, Denoised]:
        d, (x_1, x_2, inverse_1, inverse_2) = _agreeing(at(u_t, row.level), "dpmpp_3m"), memory
        slope_1, slope_2 = row.h * inverse_1 * (d.x_0 - x_1), row.h * inverse_2 * (x_1 - x_2)
        share = inverse_2 / jnp.where(inverse_2 == 0, 1.0, inverse_1 + inverse_2)
        bend = row.h * inverse_1 * share * (slope_1 - slope_2)
        slope = slope_1 + share * (slope_1 - slope_2)
        # The means of y and y^2 over the step, y from 0 to 1, under the weight of (2).
        h = jnp.where(row.h == 0, 1.0, row.h)  # there slope and bend are 0
        mean_y = -1 / jnp.expm1(-h) - 1 / h
        mean_y2 = -1 / jnp.expm1(-h) - 2 * mean_y / h
        data = d.x_0 + mean_y * slope + mean_y2 * bend
        return _move(row, u_t, data, row.small, z), (d.x_0, x_1, _inverse(row.h, u_t), inverse_1), d

    return Kernel(init, step)


def filmed(kernel: Kernel, frames: tuple[int, ...]) -> Kernel:
    """The same kernel with the memory (its own, film): a `Film` of u_t, and of x_0 seen from it, at times `frames`."""

    def init(u_T: Any) -> Any:
        empty = jnp.zeros((len(frames), *u_T.shape), u_T.dtype)
        return kernel.init(u_T), Film(empty, empty)

    def step(at: DenoiseAt, u_t: Any, memory: Any, row: Step, z: Any) -> tuple[Any, Any, Denoised]:
        inner, film = memory
        u_s, inner, d = kernel.step(at, u_t, inner, row, z)
        here = jnp.asarray(frames, row.level.t.dtype) == row.level.t  # real times are rounded as those of the rows
        slot = jnp.where(here.any(), here.argmax(), len(frames))  # a slot beyond the end is dropped
        film = jax.tree.map(lambda kept, x: kept.at[slot].set(x, mode="drop"), film, Film(u_t, d.x_0))
        return u_s, (inner, film), d

    return kernel._replace(init=init, step=step)


class Film(NamedTuple):
    """What a sampler passed through at some times: (frames, B, H, W, C) each."""

    x_t: Any
    x_0: Any  # the network's estimate, seen from x_t


SOLVERS: dict[str, Callable[[], Kernel]] = {
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
}


def make_kernel(solver: str | Kernel = "euler", eta: float = 0.0, variance: str | VarianceFn = "small") -> Kernel:
    """The kernel of a name, or the kernel itself.

    Raises:
      ValueError: the solver is unknown, or does not go with this eta or variance.
    """
    if isinstance(solver, Kernel):
        if variance != "small":
            raise ValueError(f"{_named(variance)} would be ignored: a kernel has its own; leave it out")
        return solver
    if solver not in SOLVERS:
        raise ValueError(f"solver {solver!r} is unknown; choose one of: {', '.join(SOLVERS)}")
    if solver == "euler":
        return euler(variance_fn(variance, eta))
    if variance != "small":
        raise ValueError(f"{_named(variance)} belongs to solver 'euler'; {solver!r} has its own")
    if eta != 0.0 and solver != "dpmpp_2m":
        raise ValueError(f"solver {solver!r} is for eta = 0, not {eta}; set eta=0, or use 'dpmpp_2m' or 'euler'")
    return SOLVERS[solver]()


def _agreeing(d: Denoised, solver: str) -> Denoised:
    """The estimate, whose eps must follow from its x_0: a solver of higher order has one curve to follow."""
    if d.own_eps is not None:
        raise ValueError(f"clip='x0' belongs to solver 'euler'; use clip=True or False with {solver!r}")
    return d


def _inverse(h: Any, u_t: Any) -> Any:
    """1 / h like one image, and 0 for 0: no difference is taken over a step that has no length."""
    inverse = jnp.where(h == 0, 0.0, 1 / jnp.where(h == 0, 1.0, h))
    return jnp.broadcast_to(inverse, u_t.shape[1:]).astype(u_t.dtype)


def _named(variance: str | VarianceFn) -> str:
    return "this variance" if callable(variance) else f"variance {variance!r}"
