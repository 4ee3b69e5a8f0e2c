"""What a solver is: how a walk moves at one row of its plan.

Every solver here moves by the step of `ddx.diffusion.forward.gaussian`, equation (6),

    u_s = k u_t + gamma D + sqrt(variance) z                                                                     (1)

and solvers differ in D, the estimate of the data during the step. At eta = 0 and with D = x_0(u_t, t) this is DDIM,
which is Euler's method for the probability-flow equation d(u / sigma) = x_0(u, t) d(alpha / sigma), or, equivalently,
d(u / alpha) = eps(u, t) d(sigma / alpha) (Song et al. 2021, eq. 14). In half log-SNR, l = log(alpha / sigma), its exact
solution over a step of length h = l_s - l_t is

    u_s = (sigma_s / sigma_t) u_t + alpha_s int_0^h e^(x - h) x_0(l_t + x) dx                                    (2)

which is (1) with D a mean of x_0 over the step, weighted towards its end (Lu et al. 2022, DPM-Solver++, eq. 8). As a
mean of eps it is

    D = x_0(l_t) - (sigma_t / alpha_t) (E - eps(l_t))        E = int_0^h e^(-x) eps(l_t + x) dx / int_0^h e^(-x) dx  (3)

A denoiser may clip x_0 and leave eps as the network gives it. Then no single D exists, and a first-order step uses both
(Song et al. 2021, eq. 12),

    u_s = alpha_s x_0 + sqrt(sigma_s^2 - lambda2) eps + sqrt(variance) z                                         (4)

where the root sqrt(sigma_s^2 - lambda2) equals k sigma_t.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp

from ddx.diffusion.arrays import Coefficient, Coordinates, Trajectory
from ddx.diffusion.estimate.denoiser import Denoised, Denoiser
from ddx.diffusion.forward.gaussian import root
from ddx.diffusion.forward.process import Process
from ddx.diffusion.reverse.rows import Plan, Step

Memory = Any
"""Any pytree of arrays."""


class Solver(NamedTuple):
    """How a walk moves, in basis coordinates.

    Attributes:
      init: init(u_T) -> memory.
      step: step(denoise, u_t, memory, row, z) -> (u_s, memory, d): takes the `Step` of a row with the noise z; d is the
        `Denoised` of u_t. It calls the network by denoise.at.
      name: its name in messages, and its key in `Row.extra`.
      prepare: prepare(process, rows) -> what the steps need besides the rows, computed on the host in float64: arrays
        with one entry per row, which a step finds in row.extra[name].
      any_eta: whether it takes steps of any eta; if not, of eta = 0 only.
      needs_noise: whether it adds noise whatever eta is, so that there must be a key or noise.
      all_times: whether it takes steps from t to t - 1 only.
      evaluations: of the network in each step but the last one, which has one.
    """

    init: Callable[[Coordinates], Memory]
    step: Callable[[Denoiser, Coordinates, Memory, Step, Any], tuple[Coordinates, Memory, Denoised]]
    name: str = "this solver"
    prepare: Callable[[Process, Plan], Any] | None = None
    any_eta: bool = True
    needs_noise: bool = False
    all_times: bool = False
    evaluations: int = 1

    def check(self, times: Trajectory) -> None:
        """Refuse, with a ValueError, times between which the solver takes no step."""
        if self.all_times and any(s != t - 1 for t, s in pairwise(times)):
            raise ValueError("this sampler goes through all times, one after the other; leave times out")

    def prepared(self, process: Process, rows: Plan) -> Plan:
        """The rows, with what the solver computes from them on the host."""
        return rows if self.prepare is None else rows._replace(extra={self.name: self.prepare(process, rows)})

    def check_plan(self, plan: Plan) -> None:
        """Refuse, with a ValueError, a plan that was made for another solver."""
        if set(plan.extra) != (set() if self.prepare is None else {self.name}):
            made_for = ", ".join(plan.extra) or "a solver that computes nothing beforehand"
            raise ValueError(
                f"the plan was made for {made_for}; make it with ddx.plan(..., solver=...) for the solver that walks"
            )


def no_memory(u_T: Coordinates) -> Memory:
    """The memory of a solver that has none."""
    del u_T
    return ()


def move(row: Step, u_t: Coordinates, data: Coordinates, z: Any) -> Coordinates:
    """Equation (1), with the variance "small"."""
    return row.k * u_t + row.gamma * data + added(row, row.small, z)


def added(row: Step, variance: Coefficient, z: Any) -> Any:
    """The noise that a step adds, sqrt(variance) z; none, whatever the variance, where the step ends in its mean."""
    return root(jnp.where(row.adds_noise > 0, variance, 0.0)) * z


def agreeing(d: Denoised, solver: str) -> Denoised:
    """Return the estimate, whose eps must follow from its x_0: a solver of higher order integrates one of the two."""
    if d.own_eps is not None:
        raise ValueError(f"clip='x0' belongs to solver 'euler'; use clip=True or False with {solver!r}")
    return d
