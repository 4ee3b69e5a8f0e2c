"""A walk that keeps x_t and the estimate of x_0 at some times (DDPM section 4.3)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddx.diffusion.arrays import Array, Coordinates, Images, Key, Trajectory
from ddx.diffusion.estimate.denoiser import Denoised, Denoiser, check_denoiser
from ddx.diffusion.reverse.protocol import Memory, Solver
from ddx.diffusion.reverse.rows import Step, visited
from ddx.diffusion.reverse.variance import VarianceFn
from ddx.diffusion.reverse.walk import advance, opening, start


class Film(NamedTuple):
    """What a walk passed through at some times: (frames, B, H, W, C) each."""

    x_t: Array
    x_0: Array  # the network's estimate from x_t


def filmed(solver: Solver, frames: Trajectory) -> Solver:
    """The solver with the memory (its own, film): a `Film` of u_t, and of the estimate of x_0, at times `frames`."""

    def init(u_T: Coordinates) -> Memory:
        empty = jnp.zeros((len(frames), *u_T.shape), u_T.dtype)
        return solver.init(u_T), Film(empty, empty)

    def step(
        denoise: Denoiser, u_t: Coordinates, memory: Memory, row: Step, z: Any
    ) -> tuple[Coordinates, Memory, Denoised]:
        inner, film = memory
        u_s, inner, d = solver.step(denoise, u_t, inner, row, z)
        here = jnp.asarray(frames, row.level.t.dtype) == row.level.t  # real times are rounded as in the rows
        slot = jnp.where(here.any(), here.argmax(), len(frames))  # a slot beyond the end is dropped
        film = jax.tree.map(lambda kept, x: kept.at[slot].set(x, mode="drop"), film, Film(u_t, d.x_0))
        return u_s, (inner, film), d

    return solver._replace(init=init, step=step)


def progressive(
    denoise: Denoiser,
    key: Key | None,
    x_T: Images,
    frames: Trajectory,
    times: Trajectory | None = None,
    eta: float = 0.0,
    variance: str | VarianceFn = "small",
    noise: Coordinates | None = None,
    solver: str | Solver = "euler",
) -> tuple[Images, Film]:
    """Sample, and keep x_t and the estimate of x_0 at some of the visited times (DDPM section 4.3, figure 6).

    Args:
      denoise: a `ddx.denoiser`.
      key: one key, or keys of shape (B,); None where no noise is drawn.
      x_T: (B, H, W, C) noise to start from at times[0].
      frames: visited times t > 0 to keep.
      times: strictly decreasing, ending in 0; None visits all T times.
      eta: stochasticity, 0 is DDIM, 1 is DDPM.
      variance: of the reverse steps, a name such as "small", or a function (d, step) -> variance.
      noise: (K, B, H, W, C), every random draw in visiting order, in the coordinates of the basis.
      solver: a name, or a `ddx.Solver`.

    Returns:
      x_0 like x_T, and the `Film` of x_t and of the estimate of x_0 from it, (len(frames), B, H, W, C) like x_T in the
      order of `frames`.

    Raises:
      ValueError: a frame is not visited, frames are empty or repeat, times, eta, variance or solver are invalid or do
        not go together, x_T or noise are not floating-point numbers, or noise does not have one draw per step.
    """
    check_denoiser(denoise)
    times = visited(denoise.process, times)
    frames = visited(denoise.process, frames)
    missing = [t for t in frames if t not in times[:-1]]
    if not frames or len(set(frames)) < len(frames):
        raise ValueError(f"frames must be different times, at least one; got {frames}")
    if missing:
        raise ValueError(f"frames {missing} are not among the visited times {times[0]}..{times[-2]}")
    rows, chosen, entries, draw = opening(denoise, key, x_T, times, eta, variance, noise, solver)
    filming, basis = filmed(chosen, frames), denoise.process.basis
    state = advance(denoise, start(filming, basis.analysis(x_T)), rows, entries, filming, draw)
    x_0, x_t, x_0_then = (basis.synthesis(u).astype(x_T.dtype) for u in (state.u_t, *state.memory[1]))
    return x_0, Film(x_t, x_0_then)
