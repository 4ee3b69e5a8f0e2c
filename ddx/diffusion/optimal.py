"""The times of fewest bits: trajectories by dynamic programming (Watson et al. 2021; Bao et al. 2022, algorithm 1).

The bound of a trajectory is a sum over its steps of what each costs by itself, so the cheapest path of k steps to a
time is the cheapest path of k - 1 steps to some earlier one, and a step. With the optimal variance and the mean squared
error mse_t of the estimate of x_0, a step from t to s costs, per coordinate and in nats,

    J(s, t) = log(1 + (SNR_s - SNR_t) mse_t) / 2                                                               (1)

which is finite for every pair (`ddx.diffusion.analytic`). Costs with other variances are from the terms of the bound
themselves (`bound_costs`). Programs and tables are float64 NumPy on the host.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ddx.diffusion.arrays import check_floats, computing_dtype
from ddx.diffusion.kernels import DenoiseAt
from ddx.diffusion.likelihood import bound_term
from ddx.diffusion.process import Process
from ddx.diffusion.sampling import cast
from ddx.diffusion.steps import pair_table
from ddx.diffusion.trajectory import trajectory
from ddx.diffusion.variance import VarianceFn


class Paths(NamedTuple):
    """The cheapest paths of every length from the first node to each, of `dynamic_program`."""

    cost: np.ndarray  # (K + 1, N): of k steps to a node; inf where there is no such path
    before: np.ndarray  # (K + 1, N): the node before, on that path

    def to_last(self, num_steps: int) -> np.ndarray:
        """The nodes of the cheapest path of `num_steps` steps to the last node, (num_steps + 1,), ascending.

        Raises:
          ValueError: there is none: a step of every path has an infinite cost.
        """
        if not np.isfinite(self.cost[num_steps, -1]):
            raise ValueError(f"no path of {num_steps} steps has a finite cost")
        path = [self.cost.shape[1] - 1]
        for k in range(num_steps, 0, -1):
            path.append(int(self.before[k, path[-1]]))
        return np.asarray(path[::-1])


def dynamic_program(cost: np.ndarray, num_steps: int) -> Paths:
    """The cheapest paths of up to `num_steps` steps through nodes 0 .. N - 1, all in one pass of O(num_steps N^2).

    Args:
      cost: (N, N), of the step between nodes i < j at [i, j]; the rest is not looked at. Of equals the first counts.
      num_steps: the most steps, at most N - 1.

    Raises:
      ValueError: there are no such paths, or a cost is NaN.
    """
    n = len(cost)
    if not 1 <= num_steps < n:
        raise ValueError(f"a path through {n} nodes has 1 to {n - 1} steps; got {num_steps}")
    costs = np.where(np.tri(n, dtype=bool), np.inf, cost)
    if np.isnan(costs).any():
        i, j = np.argwhere(np.isnan(costs))[0]
        raise ValueError(f"the cost of the step between nodes {i} and {j} is not a number")
    by_end = np.ascontiguousarray(costs.T)  # a row for each end
    total = np.full((num_steps + 1, n), np.inf)
    total[0, 0] = 0.0
    before = np.zeros((num_steps + 1, n), np.int64)
    sums = np.empty((n, n))
    for k in range(1, num_steps + 1):
        np.add(by_end, total[k - 1], out=sums)
        before[k] = sums.argmin(1)
        total[k] = np.take_along_axis(sums, before[k][:, None], 1)[:, 0]
    return Paths(total, before)


def step_costs(
    process: Process,
    mse: np.ndarray,
    shape: tuple[int, ...] | None = None,
    variance: str = "analytic",
    limit: Any = np.inf,
) -> np.ndarray:
    """What steps add to the bound, averaged over coordinates, for all pairs of times: (T + 1, T + 1) nats at [s, t].

    Args:
      process: the process.
      mse: (T + 1,) or (T + 1, H, W, C), the mean squared error of the estimate of x_0 at each time, in the process's
        basis; that of time 0 is not looked at.
      shape: (H, W), for processes whose coefficients differ between coordinates.
      variance: "analytic" for equation (1); "small" and "large" for those of `ddx.diffusion.variance`.
      limit: of what "analytic" takes for mse_t, per coordinate or for all, as that of `ddx.analytic`.

    Returns:
      The costs; inf from data without noise, whose step is the decoder and none of these.

    Raises:
      ValueError: the variance is unknown.
    """
    if variance not in _COSTS:
        raise ValueError(f"variance {variance!r} is unknown; choose one of: {', '.join(_COSTS)}")
    mse = np.asarray(mse, np.float64)
    mse = mse.reshape(len(mse), *(mse.shape[1:] or (1, 1, 1)))
    times = np.arange(process.num_steps + 1)
    logsnr = process.marginal(times, shape).logsnr
    known = np.minimum(mse, limit)
    costs = np.full((len(times), len(times)), np.inf)
    for t in times[1:]:
        first = 0 if process.ends_noisy else 1
        s = times[first:t]
        if len(s):
            log_r = process.logsnr_difference(s, np.full(len(s), t), shape)
            gain = np.exp(logsnr[s]) * -np.expm1(log_r)  # SNR_s - SNR_t
            # lambda2 over the variance "large"
            share = (process.scalars(s).sigma / process.scalars(t).sigma) ** 2
            costs[s, t] = _COSTS[variance](gain * mse[t], gain * known[t], share).mean((1, 2, 3))
    return costs


# Of x = (SNR_s - SNR_t) mse: KL(N(., lambda2) || N(., v)) with a squared error of lambda2 x. The variance is lambda2
# (1 + y), lambda2 or lambda2 / share.
_COSTS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "analytic": lambda x, y, share: 0.5 * (np.log1p(y) + (x - y) / (1.0 + y)),
    "small": lambda x, y, share: 0.5 * x,
    "large": lambda x, y, share: 0.5 * (share * (1.0 + x) - np.log(share) - 1.0),
}


def bound_costs(
    process: Process,
    at: DenoiseAt,
    x_0: Any,
    draws: Any,
    draw: Callable[[Any], Any],
    variance: VarianceFn,
    cdf: str = "exact",
) -> np.ndarray:
    """What steps add to the bound with any variance, for all pairs of times: (T + 1, T + 1) nats at [s, t].

    The means over images and coordinates of the terms of `ddx.bits_per_dim`, those of steps to the data included. The
    network is asked once for each time, the variance T times for each (Watson et al. 2021).

    Args:
      process: the process.
      at: `Denoiser.at` of a denoiser.
      x_0: (B, H, W, C) images, as of `ddx.bits_per_dim`.
      draws: one entry a time, from t = 1 to T, given to `draw`.
      draw: draw(entry) -> noise of each image, white in the basis.
      variance: of the reverse steps.
      cdf: of the decoder.

    Raises:
      ValueError: x_0 are not floating-point numbers.
    """
    check_floats(x_0=x_0)
    x_0 = x_0.astype(computing_dtype(x_0))
    shape, u_0 = x_0.shape[-3:-1], process.basis.analysis(x_0)

    @jax.jit
    def column(rows: Any, entry: Any) -> Any:
        rows = jax.tree.map(lambda x: cast(x, x_0.dtype), rows)
        first = jax.tree.map(lambda x: x[0], rows).expand(shape)
        u_t = first.level.marginal.alpha * u_0 + first.level.marginal.sigma * draw(entry)
        d = at(u_t, first.level)

        def cost(row: Any) -> Any:
            return bound_term(process, x_0, u_t, d, row.expand(shape), variance, cdf).mean()

        return jax.lax.map(cost, rows)

    num_steps = process.num_steps
    costs = np.full((num_steps + 1, num_steps + 1), np.inf)
    for t in range(1, num_steps + 1):
        s = np.minimum(np.arange(num_steps), t - 1)  # as many rows for every t: one program
        found = column(
            pair_table(process, s, np.full(num_steps, t), shape), jax.tree.map(lambda x, t=t: x[t - 1], draws)
        )
        costs[:t, t] = math.log(2.0) * np.asarray(found, np.float64)[:t]
    return costs


def optimal_trajectories(costs: np.ndarray, num_visits: int, to_data: bool = False) -> dict[int, tuple[int, ...]]:
    """The cheapest trajectory of every number of visits up to `num_visits`, by the costs of steps: {K: times}.

    A trajectory starts at T. By default its last step but one goes to t = 1, whose step to the data is the decoder,
    which `step_costs` do not know. With `to_data` the step to 0 is like the others: for processes with noise at t = 0,
    and for `bound_costs`, by which a trajectory may leave out t = 1.

    Raises:
      ValueError: `num_visits` is out of 1..T, or a cost is NaN.
    """
    num_steps = len(costs) - 1
    if not 1 <= num_visits <= num_steps:
        raise ValueError(
            f"the number of sampling steps must lie in 1..{num_steps} (T of the process); got {num_visits}"
        )
    if to_data:
        paths = dynamic_program(costs, num_visits)
        return {k: tuple(paths.to_last(k)[::-1].tolist()) for k in range(1, num_visits + 1)}
    found: dict[int, tuple[int, ...]] = {1: (num_steps, 0)}
    if num_visits > 1:
        paths = dynamic_program(costs[1:, 1:], num_visits - 1)
        found |= {k: (*(paths.to_last(k - 1)[::-1] + 1).tolist(), 0) for k in range(2, num_visits + 1)}
    return found


def gamma_costs(process: Process, ms_eps: np.ndarray) -> np.ndarray:
    """The costs of Analytic-DPM's code, log(1 - (1 - abar_t / abar_s) ms_eps_t / bbar_t): (T + 1, T + 1) at [s, t].

    NaN where the estimate of the mean square of eps, ms_eps (T + 1,), is too large for a variance. They differ from
    twice `step_costs` by what depends on one end alone and cancels along a path.
    """
    log_alpha = process.noise.log_alpha_change
    times = np.arange(process.num_steps + 1)
    sigma2 = process.noise.at(times).sigma ** 2
    costs = np.full((len(times), len(times)), np.inf)
    for t in times[1:]:
        s = times[:t]
        skip_beta = -np.expm1(2.0 * log_alpha(s, np.full(len(s), t)))
        with np.errstate(invalid="ignore"):
            costs[s, t] = np.log1p(-skip_beta * ms_eps[t] / sigma2[t])
    return costs


def gamma_trajectory(process: Process, ms_eps: np.ndarray, num_visits: int) -> tuple[int, ...]:
    """The trajectory of Analytic-DPM's code: by `gamma_costs` as far as they go, evenly spaced in the noisy tail.

    Raises:
      ValueError: the number of visits is out of 2..T, or of 3..T where ms_eps exceeds 1 somewhere; or it exceeds 1 at
        half of the times or more.
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
