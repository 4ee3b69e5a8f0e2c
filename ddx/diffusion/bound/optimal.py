"""The trajectories of the lowest cost, by dynamic programming (Watson et al. 2021; Bao et al. 2022, algorithm 1).

The cost of a trajectory is a sum over its steps, and the cost of a step does not depend on the other steps. So the
cheapest path of k steps to a node is the cheapest path of k - 1 steps to some node before it, followed by one step.

The bound is such a sum. With the optimal variance and the mean squared error mse_t of the estimate of x_0, a step from
t to s costs, per coordinate and in nats,

    J(s, t) = log(1 + (SNR_s - SNR_t) mse_t) / 2                                                               (1)

which is finite for every pair of noisy times. `bound_costs` computes the costs with any variance from the terms of the
bound themselves; samples need other times, from the costs of `ddx.diffusion.bound.pictures`. Tables are float64 NumPy
on the host.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ddx.diffusion.arrays import Coordinates, Images, Numbers, Shape, cast, check_floats, computing_dtype
from ddx.diffusion.bound.terms import bound_term, look
from ddx.diffusion.estimate.denoiser import Denoiser, check_denoiser
from ddx.diffusion.forward.process import Process
from ddx.diffusion.reverse.rows import Plan, Row, of_pairs
from ddx.diffusion.reverse.variance import VarianceFn


class Paths(NamedTuple):
    """The cheapest paths of 0 .. K steps from the first node to every node, as `dynamic_program` finds them."""

    cost: np.ndarray  # (K + 1, N): of the path of k steps to a node; inf where there is none
    before: np.ndarray  # (K + 1, N): the last node but one of the same path

    def to_last(self, num_steps: int) -> np.ndarray:
        """The nodes of the cheapest path to the last node.

        Args:
          num_steps: the number of steps of the path, 0..K.

        Returns:
          (num_steps + 1,) ascending.

        Raises:
          ValueError: every such path has a step of infinite cost.
        """
        if not np.isfinite(self.cost[num_steps, -1]):
            raise ValueError(f"no path of {num_steps} steps has a finite cost")
        path = [self.cost.shape[1] - 1]
        for k in range(num_steps, 0, -1):
            path.append(int(self.before[k, path[-1]]))
        return np.asarray(path[::-1])


def dynamic_program(cost: np.ndarray, num_steps: int) -> Paths:
    """The cheapest paths of up to `num_steps` steps through nodes 0 .. N - 1, in one pass of O(num_steps N^2).

    If several paths cost the same, the path with the earliest nodes is taken.

    Args:
      cost: (N, N), the cost of the step between nodes i < j at [i, j]; the other entries are not used.
      num_steps: the largest number of steps K, 1..N - 1.

    Returns:
      `Paths`.

    Raises:
      ValueError: num_steps is out of range, or a cost is NaN.
    """
    n = len(cost)
    if not 1 <= num_steps < n:
        raise ValueError(f"a path through {n} nodes has 1 to {n - 1} steps; got {num_steps}")
    costs = np.where(np.tri(n, dtype=bool), np.inf, cost)
    if np.isnan(costs).any():
        i, j = np.argwhere(np.isnan(costs))[0]
        raise ValueError(f"the cost of the step between nodes {i} and {j} is not a number")
    by_end = np.ascontiguousarray(costs.T)  # a row for each node that a step ends at
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
    shape: Shape | None = None,
    variance: str = "analytic",
    limit: Numbers = np.inf,
) -> np.ndarray:
    """What steps add to the bound, averaged over coordinates, for all pairs of times.

    Args:
      process: the process.
      mse: (T + 1,) or (T + 1, H, W, C), the mean squared error of the estimate of x_0 at each time, in the process's
        basis; the entry of time 0 is not used.
      shape: (H, W), for processes whose coefficients differ between coordinates.
      variance: "analytic" for the optimal variance of equation (1), "small" for lambda2, "large" for the forward
        variance.
      limit: "analytic" takes min(mse_t, limit) for its variance; one number, or one for each coordinate.

    Returns:
      (T + 1, T + 1) nats, at [s, t] for the step from t to s < t; inf elsewhere, and for steps to noise-free data,
      which the decoder replaces.

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
            log_r = process.change(s, np.full(len(s), t), shape).logsnr
            gain = np.exp(logsnr[s]) * -np.expm1(log_r)  # SNR_s - SNR_t
            # lambda2 over the variance "large"
            share = np.asarray(process.level(s).sigma / process.level(t).sigma) ** 2
            costs[s, t] = _COSTS[variance](gain * mse[t], gain * known[t], share).mean((1, 2, 3))
    return costs


# KL(N(., lambda2) || N(., v)) in nats where the means differ by a squared error of lambda2 x, x = (SNR_s - SNR_t) mse.
# The variance v is lambda2 (1 + y), lambda2 or lambda2 / share.
_COSTS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "analytic": lambda x, y, share: 0.5 * (np.log1p(y) + (x - y) / (1.0 + y)),
    "small": lambda x, y, share: 0.5 * x,
    "large": lambda x, y, share: 0.5 * (share * (1.0 + x) - np.log(share) - 1.0),
}


def bound_costs(
    denoise: Denoiser,
    x_0: Images,
    entries: Any,
    draw: Callable[[Any], Coordinates],
    variance: VarianceFn,
    cdf: str = "exact",
) -> np.ndarray:
    """What steps add to the bound with any variance, for all pairs of times, steps to the data included.

    Costs are means of the terms of `ddx.bits_per_dim` over images and coordinates. At each time the network is
    evaluated once and the variance T times (Watson et al. 2021).

    Args:
      denoise: a `ddx.denoiser`.
      x_0: (B, H, W, C) images, on the grid k / 127.5 - 1.
      entries: a pytree of arrays with a leading axis of T: one entry for each time 1..T, given to `draw`.
      draw: draw(entry) -> noise like x_0, white, in coordinates.
      variance: of the reverse steps.
      cdf: of the decoder, "exact", "tanh" or "softmax".

    Returns:
      (T + 1, T + 1) float64 nats, at [s, t] for the step from t to s < t; inf elsewhere.

    Raises:
      ValueError: x_0 are not floating-point numbers.
    """
    check_floats(x_0=x_0)
    x_0, process = x_0.astype(computing_dtype(x_0)), check_denoiser(denoise).process
    u_0 = process.basis.analysis(x_0)

    @jax.jit
    def column(rows: Plan, entry: Any) -> jax.Array:
        rows = cast(rows, x_0.dtype)
        seen = look(denoise, u_0, jax.tree.map(lambda x: x[0], rows), draw(entry))

        def cost(row: Row) -> jax.Array:
            step = row.expand(x_0.shape[-3:-1])
            return bound_term(process, x_0, seen.u_t, seen.d, step, variance, cdf).mean()

        return jax.lax.map(cost, rows)

    num_steps = process.num_steps
    costs = np.full((num_steps + 1, num_steps + 1), np.inf)
    for t in range(1, num_steps + 1):
        s = np.minimum(np.arange(num_steps), t - 1)  # as many rows for every t, so that one compiled program serves all
        entry = jax.tree.map(lambda x, t=t: x[t - 1], entries)
        found = column(of_pairs(process, s, np.full(num_steps, t)), entry)
        costs[:t, t] = math.log(2.0) * np.asarray(found, np.float64)[:t]
    return costs


def optimal_trajectories(costs: np.ndarray, num_visits: int, to_data: bool = False) -> dict[int, tuple[int, ...]]:
    """The cheapest trajectory from T for every number of visits up to `num_visits`.

    By default a trajectory of several visits ends in 1, 0: the step from 1 to the data is the decoder, whose cost
    `step_costs` does not know.

    Args:
      costs: (T + 1, T + 1), the cost of the step from t to s < t at [s, t], from `step_costs`, `picture_costs` or
        `bound_costs`.
      num_visits: the largest number of visits, 1..T.
      to_data: treat the step to 0 like the others: for processes with noise at t = 0, and for `picture_costs` and
        `bound_costs`, with which a trajectory may leave out t = 1.

    Returns:
      {K: times} for K = 1 .. num_visits; times are strictly decreasing from T and end in 0.

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
