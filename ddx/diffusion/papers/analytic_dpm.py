"""Analytic-DPM (Bao, Li, Zhu & Zhang, ICLR 2022) and Extended Analytic-DPM (Bao et al., ICML 2022: SN, NPR).

The papers' Gamma_t is the mean square of eps, `ms_eps` here; their sigma_n^2 of a step is lambda2 + gamma^2 V.

| in the papers | here |
| --- | --- |
| Analytic-DPM theorem 1, the optimal variance by Gamma | `ddx.analytic(statistics, "gamma")` |
| equation 11, Gamma from samples | `ddx.estimate_statistics` |
| theorem 2 and eq. 12, limits | the argument `limit` of `ddx.analytic` |
| section 4 and algorithm 1, optimal trajectories | `ddx.optimal_trajectories`; by Gamma `gamma_trajectory`, below |
| appendix F.2, the last step's noise in grey levels | `clip_last`, below |
| Extended, SN and NPR heads and their losses | `ddx.head_loss`; variances "sn" and "npr" |
| their code's A-DDPM step with a clipped x_0 | `published_ddpm`, below |

The functions on this page are needed only to reproduce the papers' own numbers.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Coefficient, Coordinates, Trajectory
from ddx.diffusion.bound.optimal import dynamic_program
from ddx.diffusion.estimate.denoiser import Denoised, Denoiser
from ddx.diffusion.forward.process import Process
from ddx.diffusion.reverse.protocol import Memory, Solver, added, no_memory
from ddx.diffusion.reverse.rows import Step
from ddx.diffusion.reverse.trajectory import trajectory
from ddx.diffusion.reverse.variance import VarianceFn


def clip_last(variance: VarianceFn, times: Trajectory, y: float = 2.0, count: int = 1, low: float = -1.0) -> VarianceFn:
    """Limit the noise of the steps into the last `count` noisy times to y grey levels (Bao et al. 2022, F.2).

    E abs(sigma z) = sigma sqrt(2 / pi) is then at most y levels. It is for sampling: no published bound uses it.

    Args:
      variance: any variance.
      times: the sampler's times, strictly decreasing and ending in 0.
      y: grey levels of 0..255; the papers use 2 for most DDPMs and 1 for DDIMs.
      count: how many times are limited; 0 for none.
      low: the lowest value of the data.

    Returns:
      A `VarianceFn`.
    """
    most = (y * (1.0 - low) / 255.0) ** 2 * math.pi / 2
    last = times[-1 - count] if count else 0

    def limited(d: Denoised, step: Step) -> Coefficient:
        v = variance(d, step)
        return jnp.where((step.target.t <= last) & (step.target.t > 0), jnp.minimum(v, most), v)

    return limited


def published_ddpm(variance: VarianceFn) -> Solver:
    """The step of A-, SN- and NPR-DDPM's code: the posterior mean k u_t + gamma x_0 with a clipped x_0.

    It differs from "euler" only for a denoiser with clip="x0", whose unclipped eps then enters the variance alone.

    Args:
      variance: the variance of the steps.
    """

    def step(
        denoise: Denoiser, u_t: Coordinates, memory: Memory, row: Step, z: Any
    ) -> tuple[Coordinates, Memory, Denoised]:
        d = denoise.at(u_t, row.level)
        return row.k * u_t + row.gamma * d.x_0 + added(row, variance(d, row), z), memory, d

    return Solver(no_memory, step, "published_ddpm")


def gamma_costs(process: Process, ms_eps: np.ndarray) -> np.ndarray:
    """The costs of Analytic-DPM's code, log(1 - (1 - abar_t / abar_s) ms_eps_t / bbar_t): (T + 1, T + 1) at [s, t].

    NaN where the estimate of the mean square of eps, ms_eps (T + 1,), is too large for a variance. They differ from
    twice `step_costs` by terms that depend on one end of the step alone, and these cancel along a path.
    """
    log_alpha = process.schedule.log_alpha_change
    times = np.arange(process.num_steps + 1)
    sigma2 = process.schedule.at(times).sigma ** 2
    costs = np.full((len(times), len(times)), np.inf)
    for t in times[1:]:
        s = times[:t]
        skip_beta = -np.expm1(2.0 * log_alpha(s, np.full(len(s), t)))
        with np.errstate(invalid="ignore"):
            costs[s, t] = np.log1p(-skip_beta * ms_eps[t] / sigma2[t])
    return costs


def gamma_trajectory(process: Process, ms_eps: np.ndarray, num_visits: int) -> Trajectory:
    """The trajectory of Analytic-DPM's code: by `gamma_costs` where they are defined, evenly spaced in the noisy tail.

    Raises:
      ValueError: num_visits is not in 2..T (3..T if ms_eps exceeds 1 at some time), or ms_eps exceeds 1 at half of the
        times or more.
    """
    num_steps = process.num_steps
    bad = np.flatnonzero(np.asarray(ms_eps[1:]) > 1.0) + 1
    fewest = 3 if len(bad) else 2  # 1, the last time with a cost, and T
    if not fewest <= num_visits <= num_steps:
        raise ValueError(f"the number of sampling steps must lie in {fewest}..{num_steps}; got {num_visits}")
    num_bad = 2 * (num_steps - int(bad[0]) + 1) if len(bad) else 0
    last = num_steps - num_bad
    if last < 2:
        raise ValueError(f"ms_eps exceeds 1 from t = {bad[0]} on, which leaves no times to choose from")
    head = math.ceil((1 - 0.8 * num_bad / num_steps) * num_visits)
    head = min(max(head, 2), last)
    tail = num_visits - head
    if num_bad and tail < 1:
        head, tail = num_visits - 1, 1
    if tail > num_bad:
        head, tail = num_visits - num_bad, num_bad
    costs = gamma_costs(process, ms_eps)[1 : last + 1, 1 : last + 1]
    path = dynamic_program(costs, head - 1).to_last(head - 1) + 1
    evenly = trajectory(num_bad + 1, tail + 1, "even")[:-2] if tail else ()
    return (*(last - 1 + np.asarray(evenly, int)).tolist(), *path[::-1].tolist(), 0)
