"""Walks without noise by one or two compiled programs, whatever their length: a plan, some rows at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ddx.diffusion.reverse.encode import encoding_plan
from ddx.diffusion.reverse.rows import downward, num_rows
from ddx.diffusion.reverse.solvers import make_solver
from ddx.diffusion.reverse.walk import advance, no_noise, start


class Walker(NamedTuple):
    """A denoiser and a solver, and what takes some rows of a plan with them."""

    denoise: object
    solver: object
    size: int
    piece: object

    def sample(self, x_T, times):
        """As `ddx.sample` without noise."""
        process = self.denoise.process
        return self._through(x_T, self.solver.prepared(process, downward(process, times, 0.0, x_T.shape[1:3])))

    def encode(self, x_0, times):
        """As `ddx.encode`."""
        return self._through(x_0, encoding_plan(self.denoise.process, times, self.solver))

    def _through(self, x, plan):
        basis, done = self.denoise.process.basis, 0
        state = start(self.solver, basis.analysis(x))
        while done < num_rows(plan):
            size = self.size if num_rows(plan) - done >= self.size else 1
            state = self.piece(state, jax.tree.map(lambda x, a=done, b=done + size: x[a:b], plan))
            done += size
        return basis.synthesis(state.u_t)


def walker(denoise, solver="euler", size=16):
    """Takes `size` rows in a call, and the last few one by one."""
    chosen = make_solver(solver)

    @jax.jit
    def piece(state, rows):
        return advance(denoise, state, rows, jnp.arange(num_rows(rows)), chosen, no_noise)

    return Walker(denoise, chosen, size, piece)
