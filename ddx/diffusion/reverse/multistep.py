"""Multistep solvers whose weights are computed with the plan, on the host in float64: DEIS and UniPC.

Each replaces a mean over the step, equation (2) or (3) of `ddx.diffusion.reverse.protocol`, by the mean of a polynomial
through known values. The weights depend on the log-SNRs of the rows alone, so a row carries them. DPM-Solver-v3, whose
weights depend on statistics too, is in `ddx.diffusion.reverse.dpm_v3`, and takes UniPC's steps.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Array, Coordinates
from ddx.diffusion.estimate.denoiser import Denoised, Denoiser
from ddx.diffusion.forward.process import Process
from ddx.diffusion.reverse.protocol import Memory, Solver, agreeing, move
from ddx.diffusion.reverse.rows import Plan, Step, num_rows


def deis(order: int = 3) -> Solver:
    """DEIS: the polynomial through the last eps, in half log-SNR, integrated by equation (3). eta = 0.

    Zhang & Chen 2023, in the form whose weights have no quadrature error; the first steps have a lower order. For
    processes without a blur.

    Args:
      order: how many eps a step uses.
    """
    name = "deis" if order == 3 else f"deis_{order}"

    def prepare(process: Process, rows: Plan) -> Array:
        lengths = step_lengths(process, rows, order, "deis")
        return np.stack([_mean_weights(h, past, -1.0, order) for h, past in lengths])

    def init(u_T: Coordinates) -> Memory:
        return (jnp.zeros_like(u_T),) * (order - 1)

    def step(
        denoise: Denoiser, u_t: Coordinates, memory: Memory, row: Step, z: Any
    ) -> tuple[Coordinates, Memory, Denoised]:
        d = agreeing(denoise.at(u_t, row.level), "deis")
        seen = (d.eps, *memory)
        alpha = row.level.alpha
        per_alpha = jnp.where(alpha > 0, row.level.sigma / jnp.where(alpha > 0, alpha, 1.0), 0.0)
        data = d.x_0 - per_alpha * (_weighted(row.extra[name], seen) - d.eps)
        return move(row, u_t, data, z), seen[:-1], d

    return Solver(init, step, name, prepare, any_eta=False)


def unipc(order: int = 2) -> Solver:
    """UniPC: a multistep predictor, and a corrector that needs no further call of the network. eta = 0.

    Zhao et al. 2023, with the exact weights of equation (2). The x_0 at the start of a step also improves the
    step that led there: that step is taken again with it, before the next. For processes without a blur.

    Args:
      order: the order of the predictor, which uses that many x_0; the corrector uses one more, so the solver is of
        order + 1.
    """
    name = f"unipc_{order}"

    def prepare(process: Process, rows: Plan) -> tuple[Array, Array]:
        lengths = list(step_lengths(process, rows, order, name))
        predictor = [_mean_weights(h, past, 1.0, order) for h, past in lengths]
        # The corrector of the step to a row's level: the first row has none.
        corrector = [np.zeros(order + 1)]
        corrector += [_mean_weights(h, past, 1.0, order + 1, with_end=True) for h, past in lengths[:-1]]
        return np.stack(predictor), np.stack(corrector)

    return predicting(name, order, prepare, lambda d, u_t: d.x_0)


ValueFn = Callable[..., Coordinates]
"""value(d, u_t, *more) -> what a polynomial goes through, where the network's estimate from u_t is d."""


def predicting(
    name: str,
    order: int,
    prepare: Callable[[Process, Plan], tuple[Array, ...]],
    value: ValueFn,
    rest: Callable[..., Coordinates] | None = None,
) -> Solver:
    """A multistep predictor, and a corrector that needs no further call of the network. eta = 0.

    A step moves by equation (1) of `ddx.diffusion.reverse.protocol` with D = rest + sum of w_i value_i, over the value
    at its start and `order - 1` earlier ones. Before the next step it is taken again, with the value at its end too.

    Args:
      name: of the solver.
      order: how many values the predictor uses.
      prepare: for each row the weights w of the predictor, (K, order, ...), and of the corrector of the step before,
        (K, order + 1, ...), the latest value first, 0 where there is none; and what else `value` and `rest` are given.
      value: of the estimate at the start of a step.
      rest: rest(u_t, *more) -> the part of D that is no estimate; None for no such part.
    """

    def init(u_T: Coordinates) -> Memory:
        return (jnp.zeros_like(u_T),) * (order + 1), jnp.zeros_like(u_T[0, :1, :1, :1])

    def step(
        denoise: Denoiser, u_t: Coordinates, memory: Memory, row: Step, z: Any
    ) -> tuple[Coordinates, Memory, Denoised]:
        d, ((moved, *past), gamma_1) = agreeing(denoise.at(u_t, row.level), name), memory
        predictor, corrector, *more = row.extra[name]
        newest = value(d, u_t, *more)
        corrected = moved + gamma_1 * _weighted(corrector, (newest, *past))
        u_t = jnp.where(jnp.any(corrector != 0), corrected, u_t)
        seen = (newest, *past)[:order]
        gamma = jnp.broadcast_to(row.gamma, gamma_1.shape).astype(gamma_1.dtype)
        data, kept = _weighted(predictor, seen), row.k * u_t
        if rest is not None:
            own = rest(u_t, *more)
            data, kept = data + own, kept + row.gamma * own
        return move(row, u_t, data, z), ((kept, *seen), gamma), d

    return Solver(init, step, name, prepare, any_eta=False)


def step_lengths(process: Process, rows: Plan, order: int, solver: str) -> Iterator[tuple[float, list[float]]]:
    """For every row, the h of its step and the h of the earlier steps that a multistep solver uses.

    Raises:
      ValueError: the process blurs.
    """
    if process.blur is not None:
        raise ValueError(f"solver {solver!r} is for processes without a blur; use 'heun' or 'dpmpp_2m'")
    h = np.asarray(rows.expand().h, np.float64).reshape(num_rows(rows))
    for i in range(len(h)):
        past: list[float] = []
        while len(past) < min(order - 1, i) and h[i - 1 - len(past)] != 0:
            past.append(float(h[i - 1 - len(past)]))
        yield float(h[i]), past


def _mean_weights(h: float, past: list[float], sign: float, size: int, with_end: bool = False) -> np.ndarray:
    """The weights, (size,), of values at the end (if `with_end`), the start and earlier times in the mean over a step.

    The polynomial through the values is averaged with the density e^(sign x). A step with h = 0, which stands for an
    infinite step, uses the value at its start alone, and has no corrector: the corrector's weights are all 0.
    """
    weights = np.zeros(size)
    if h == 0:
        weights[0] = 0.0 if with_end else 1.0
        return weights
    y, dy = _gauss_legendre()
    density = dy * np.exp(sign * h * (y - (sign > 0)))
    for i, polynomial in enumerate(lagrange(value_times(h, past, with_end) / h, y)):
        weights[i] = (density * polynomial).sum() / density.sum()
    return weights


def value_times(h: float, past: list[float], with_end: bool) -> np.ndarray:
    """Where the values of a multistep solver lie, in half log-SNR from the start of a step of length h."""
    return np.concatenate([[h] if with_end else [], [0.0], -np.cumsum(past)])


def lagrange(nodes: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """For each node, the polynomial that is 1 there and 0 at the others, at y: (N,) like y."""
    for i, node in enumerate(nodes):
        others = np.delete(nodes, i)
        yield np.prod((y[:, None] - others) / (node - others), axis=1)


@functools.cache
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    """Nodes in [0, 1] and weights of a quadrature that is exact here to rounding; found once, not for every row."""
    y, dy = np.polynomial.legendre.leggauss(48)
    return 0.5 * (y + 1.0), dy


def _weighted(weights: Array, values: tuple[Coordinates, ...]) -> Any:
    return sum(weights[i] * value for i, value in enumerate(values))
