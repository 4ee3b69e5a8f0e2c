"""Solvers by name. To add one, write a function like these and enter it in `SOLVERS` and `ddx.diffusion.catalogue`.

Their equations are in `ddx.diffusion.reverse.protocol`. Multistep solvers extrapolate by the ratio of h to the h
of the step before. They need times roughly even in log-SNR, such as the trajectory "trailing"; "uniform" ends in a step
from t = 1 + c to 1 that is many times longer than the step before.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddx.diffusion.arrays import Array, Coefficient, Coordinates
from ddx.diffusion.estimate.denoiser import Denoised, Denoiser
from ddx.diffusion.reverse.multistep import deis, unipc
from ddx.diffusion.reverse.protocol import Memory, Solver, added, agreeing, move, no_memory
from ddx.diffusion.reverse.rows import Step
from ddx.diffusion.reverse.variance import VarianceFn, small, variance_fn


def euler(variance: VarianceFn = small) -> Solver:
    """DDPM, DDIM and everything between, by the eta of the plan: D = x_0 at the start of the step. Order 1."""

    def step(
        denoise: Denoiser, u_t: Coordinates, memory: Memory, row: Step, z: Any
    ) -> tuple[Coordinates, Memory, Denoised]:
        d = denoise.at(u_t, row.level)
        if d.own_eps is None:
            mean = row.k * u_t + row.gamma * d.x_0
        else:
            mean = row.target.alpha * d.x_0 + row.k * row.level.sigma * d.eps  # equation (4)
        return mean + added(row, variance(d, row), z), memory, d

    return Solver(no_memory, step, "euler")


def heun() -> Solver:
    """Heun's method, the trapezoidal rule on the Euler step's two ends. Order 2, eta = 0."""

    def step(
        denoise: Denoiser, u_t: Coordinates, memory: Memory, row: Step, z: Any
    ) -> tuple[Coordinates, Memory, Denoised]:
        d = agreeing(denoise.at(u_t, row.level), "heun")
        end = row.k * u_t + row.gamma * d.x_0

        def corrected() -> Coordinates:
            alpha, sigma = row.level.alpha, row.level.sigma
            d_s = denoise.at(end, row.target)
            # In (1) a change of eps by one is a change of D by -sigma / alpha.
            by_eps = -sigma / jnp.where(alpha > sigma, alpha, 1.0) * (d_s.eps - d.eps)
            change = jnp.where(alpha > sigma, by_eps, d_s.x_0 - d.x_0)
            return row.k * u_t + row.gamma * (d.x_0 + 0.5 * change)

        return jax.lax.cond(jnp.all(row.last == 0), corrected, lambda: end), memory, d

    return Solver(no_memory, step, "heun", any_eta=False, evaluations=2)


def dpmpp_2m() -> Solver:
    """DPM-Solver++(2M): D = x_0 at mid-step, on the line through the last two x_0. Order 2 at eta = 0.

    At eta = 1 it is SDE-DPM-Solver++(2M). Lu et al. 2022, algorithm 2; the first step is an Euler step, and so is a
    step to noise-free data, which is infinitely long.
    """

    def init(u_T: Coordinates) -> Memory:
        return jnp.zeros_like(u_T), jnp.zeros_like(u_T[0])

    def step(
        denoise: Denoiser, u_t: Coordinates, memory: Memory, row: Step, z: Any
    ) -> tuple[Coordinates, Memory, Denoised]:
        d, (x_1, inverse_1) = agreeing(denoise.at(u_t, row.level), "dpmpp_2m"), memory
        slope = row.h * inverse_1 * (d.x_0 - x_1)
        return move(row, u_t, d.x_0 + 0.5 * slope, z), (d.x_0, _inverse(row.h, u_t)), d

    return Solver(init, step, "dpmpp_2m")


_SHORT = 0.02  # below it the means are computed by series: as differences they would lose their digits


def dpmpp_3m() -> Solver:
    """DPM-Solver++(3M): the parabola through the last three x_0, integrated by equation (2). Order 3, eta = 0.

    The first step is an Euler step, and so is a step to noise-free data; the second step follows a line. In the
    published code the curvature enters with half its weight, which leaves order 2.
    """

    def init(u_T: Coordinates) -> Memory:
        return (jnp.zeros_like(u_T),) * 2 + (jnp.zeros_like(u_T[0]),) * 2

    def step(
        denoise: Denoiser, u_t: Coordinates, memory: Memory, row: Step, z: Any
    ) -> tuple[Coordinates, Memory, Denoised]:
        d, (x_1, x_2, inverse_1, inverse_2) = agreeing(denoise.at(u_t, row.level), "dpmpp_3m"), memory
        slope_1, slope_2 = row.h * inverse_1 * (d.x_0 - x_1), row.h * inverse_2 * (x_1 - x_2)
        share = inverse_2 / jnp.where(inverse_2 == 0, 1.0, inverse_1 + inverse_2)
        bend = row.h * inverse_1 * share * (slope_1 - slope_2)
        slope = slope_1 + share * (slope_1 - slope_2)
        # The means of y and y^2 over the step, y from 0 to 1, under the weight of (2).
        h = jnp.where(row.h == 0, 1.0, row.h)  # there slope and bend are 0
        short = jnp.abs(h) < _SHORT  # upwards h is negative
        long_h = jnp.where(short, 1.0, h)
        mean_y = jnp.where(short, 1 / 2 + h / 12 - h**3 / 720, -1 / jnp.expm1(-long_h) - 1 / long_h)
        mean_y2 = -1 / jnp.expm1(-long_h) - 2 * mean_y / long_h
        mean_y2 = jnp.where(short, 1 / 3 + h / 12 + h**2 / 360 - h**3 / 720, mean_y2)
        data = d.x_0 + mean_y * slope + mean_y2 * bend
        return move(row, u_t, data, z), (d.x_0, x_1, _inverse(row.h, u_t), inverse_1), d

    return Solver(init, step, "dpmpp_3m", any_eta=False)


SOLVERS: dict[str, Callable[[], Solver]] = {
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "deis": deis,
    "unipc_2": lambda: unipc(2),
    "unipc_3": lambda: unipc(3),
}


def make_solver(
    solver: str | Solver = "euler", eta: float | None = 0.0, variance: str | VarianceFn = "small"
) -> Solver:
    """The solver of a name, or the solver itself.

    Args:
      solver: a name of `SOLVERS`, or a `Solver`.
      eta: the plan's; None where it is not known, and then no eta is refused.
      variance: a name or a function (d, step) -> variance, for solver "euler" only.

    Raises:
      ValueError: the solver is unknown, or does not go with this eta or variance.
    """
    own = isinstance(solver, Solver)
    if not own and solver not in SOLVERS:
        raise ValueError(f"solver {solver!r} is unknown; choose one of: {', '.join(SOLVERS)}")
    if solver == "euler":
        return euler(variance_fn(variance, 1.0 if eta is None else eta))
    if variance != "small" and own:
        raise ValueError(f"{_named(variance)} would be ignored: a solver of one's own has its own; leave it out")
    if variance != "small":
        raise ValueError(f"{_named(variance)} belongs to solver 'euler'; {solver!r} has its own")
    chosen = solver if isinstance(solver, Solver) else SOLVERS[solver]()
    if eta and not chosen.any_eta:
        raise ValueError(f"solver {chosen.name!r} is for eta = 0, not {eta}; set eta=0, or use 'dpmpp_2m' or 'euler'")
    return chosen


def _inverse(h: Coefficient, u_t: Coordinates) -> Array:
    """1 / h in the shape of one image; 0 where h is 0, so that no difference is taken over such a step."""
    inverse = jnp.where(h == 0, 0.0, 1 / jnp.where(h == 0, 1.0, h))
    return jnp.broadcast_to(inverse, u_t.shape[1:]).astype(u_t.dtype)


def _named(variance: str | VarianceFn) -> str:
    return "this variance" if callable(variance) else f"variance {variance!r}"
