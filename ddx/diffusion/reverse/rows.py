"""The steps of a walk as data: rows, over which `lax.scan` runs.

A row holds both ends of its step, so there is no "previous time" to get wrong, and choosing other times is choosing
other rows. It is built on the host in float64 and holds what all coordinates share; `expand` makes the coefficients of
the step from it in the graph, by forms that keep float32's precision. So one compiled program serves every schedule,
every trajectory of that length and every eta, and a process that blurs needs no table of all its frequencies: for 1,000
steps at 256 x 256 that would be gigabytes.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Array, Coefficient, Numbers, Shape, Times, Trajectory
from ddx.diffusion.forward.gaussian import host_eta, solve, step_coefficients
from ddx.diffusion.forward.process import Change, Level, Process
from ddx.diffusion.reverse.trajectory import trajectory
from ddx.diffusion.times import is_host


class Row(NamedTuple):
    """A step from time t to time s; with a leading axis on every array, a `Plan` of several."""

    level: Level  # of t, not spread
    target: Level  # of s, not spread
    change: Change  # from s to t, not spread
    eta: Array
    d_min: Array
    decoder: Array  # the reverse variance of a step to noise-free data, where lambda2 is 0
    adds_noise: Array  # 1; 0 where the step ends in its mean
    last: Array  # 1 where the step leads to the data
    extra: dict[str, Any] = {}  # noqa: RUF012 - by solver name: what the solver computed on the host

    def expand(self, shape: Shape | None = None) -> "Step":
        """The coefficients of the step: for all coordinates, or for each frequency of images of shape (H, W).

        Raises:
          ValueError: the process blurs, and there is no shape.
        """
        level, target = (end.spread(self.d_min, shape) for end in (self.level, self.target))
        log_r = self.change.spread(self.target, self.level, self.d_min, shape).logsnr
        k, gamma, lambda2 = solve(target, level, log_r, self.eta)
        xp: Any = jnp if isinstance(lambda2, jax.Array) else np
        forward = level.sigma**2 * -xp.expm1(xp.minimum(log_r, 0.0))  # not used upwards
        small = xp.where(target.sigma == 0, self.decoder, lambda2)
        h = xp.where(xp.isfinite(log_r), -0.5 * log_r, 0.0)
        return Step(level, target, k, gamma, lambda2, small, forward, h, self.adds_noise, self.last, self.extra)


class Step(NamedTuple):
    """The coefficients of a `Row`: q(u_s | u_t, u_0) = N(k u_t + gamma u_0, lambda2), per coordinate.

    `small` and `upper` are the limits of useful reverse variances (DDPM section 3.2): lambda2 and the forward variance
    (`ddx.diffusion.forward.gaussian`, equations 3 and 1). On a step to noise-free data lambda2 is 0; there `small` is
    the lambda2 of the step before, which Improved DDPM's decoder uses.
    """

    level: Level  # of t, spread
    target: Level  # of s, spread
    k: Coefficient
    gamma: Coefficient
    lambda2: Coefficient
    small: Coefficient
    upper: Coefficient
    h: Coefficient  # the step's length in half log-SNR; 0 stands for an infinite length
    adds_noise: Array
    last: Array
    extra: dict[str, Any]


Plan: TypeAlias = Row
"""The steps of a walk: a `Row` whose arrays have a leading axis, one entry per step."""


def num_rows(rows: Plan) -> int:
    """How many steps a plan has."""
    return len(rows.adds_noise)


def downward(
    process: Process,
    times: Trajectory,
    eta: float = 1.0,
    shape: Shape | None = None,
    noisy_end: bool = False,
    end: float = 0,
) -> Plan:
    """The steps down a trajectory, len(times) - 1 rows.

    Args:
      process: the process.
      times: strictly decreasing, ending in 0; known on the host.
      eta: stochasticity, 0 is DDIM, 1 is DDPM; known on the host.
      shape: (H, W), for processes that blur: their eta above 1 is checked for each frequency.
      noisy_end: add the noise of the last step too.
      end: the time that the last step leads to.

    Raises:
      ValueError: times are not strictly decreasing, do not end in 0 or leave [0, T]; or eta or end is impossible.
    """
    check_times(times)
    if not 0 <= end <= times[-2]:
        raise ValueError(f"end={end!r} must lie between 0 and {times[-2]}, the last time that is visited")
    s, t, eta = np.asarray((*times[1:-1], end)), np.asarray(times[:-1]), host_eta(eta)
    if eta > 1:
        step_coefficients(process, s, t, eta, shape)  # refuses an eta that is too large for these steps
    rows = rows_between(process, s, t, eta)
    if noisy_end:
        rows = rows._replace(adds_noise=np.ones_like(rows.last))
    if process.blur is not None or process.ends_noisy:
        return rows
    steps = rows.expand()
    decoder = steps.lambda2[-2] if len(t) > 1 else eta**2 * steps.upper[-1]
    return rows._replace(decoder=np.broadcast_to(decoder, rows.last.shape))


def upward(process: Process, times: Trajectory) -> Plan:
    """The steps of DDIM (eta = 0) up through strictly increasing times, which are known on the host.

    Raises:
      ValueError: a time is not one of the process, or the first is noise-free.
    """
    s, t = np.asarray(times[1:]), np.asarray(times[:-1])
    step_coefficients(process, s[:1], t[:1], 0.0, shape=(1, 1))  # refuses a start without noise
    return rows_between(process, s, t, 0.0)


def to_previous(process: Process, t: Times) -> Plan:
    """The steps from times t (B,), which may be traced, to t - 1 at eta = 1: one per example."""
    return rows_between(process, t - 1, t, 1.0)._replace(decoder=_shortest_decoder(process))


def of_pairs(process: Process, s: np.ndarray, t: np.ndarray) -> Plan:
    """The steps at eta = 1 from times t to times s < t, (N,) each on the host: any pairs, not one trajectory.

    On a step to noise-free data `decoder` is what it would be in the shortest trajectory that has the step: the forward
    variance, except for t = 1, where it is the lambda2 of the step from 2 to 1.
    """
    rows = rows_between(process, s, t, 1.0)
    from_one = (t == 1).reshape(-1, 1, 1, 1)
    return rows._replace(decoder=np.where(from_one, _shortest_decoder(process), rows.level.sigma**2))


def rows_between(process: Process, s: Times, t: Times, eta: Numbers) -> Plan:
    """The steps from times t to times s, (N,) each; a step to the data adds no noise."""
    level, target = process.level(t), process.level(s)
    zeros = (np if isinstance(level.sigma, np.ndarray) else jnp).zeros_like(level.sigma)
    last = zeros + (target.t == 0).reshape(-1, 1, 1, 1)
    return Row(level, target, process.change(s, t), zeros + eta, zeros + process.d_min, zeros, 1.0 - last, last)


def _shortest_decoder(process: Process) -> np.ndarray:
    """lambda2 of the step from 2 to 1; for a process with one noise level, the variance of that level."""
    if process.ends_noisy or process.blur is not None:
        return np.zeros(())
    if process.num_steps == 1:
        return np.asarray(process.level(1).sigma ** 2)
    return np.asarray(step_coefficients(process, 1, 2).lambda2)


def visited(process: Process, times: Trajectory | None) -> Trajectory:
    """The given times as Python numbers; for None, all times of the process.

    Raises:
      ValueError: the times are traced, not a sequence of numbers, or not integers where they must be.
    """
    return trajectory(process.num_steps) if times is None else _listed(process, times)


def _listed(process: Process, times: Any) -> tuple[Any, ...]:
    times = tuple(times) if isinstance(times, Iterable) and not isinstance(times, str | bytes) else (str(times),)
    if not is_host(*times):
        raise ValueError("times are traced, and this function needs their values: close over them in jax.jit")
    listed = np.asarray(times)
    if listed.ndim != 1 or listed.dtype.kind not in "iuf":
        raise ValueError(f"times must be numbers, such as ddx.trajectory lists; got {brief(times)}")
    if process.continuous:
        return tuple(listed.tolist())
    if not np.all(listed == np.round(listed)):
        raise ValueError(f"times {brief(times)} must be integers; this process has the times 0..{process.num_steps}")
    return tuple(listed.astype(np.int64).tolist())


def check_times(times: Trajectory) -> None:
    """Refuse, with a ValueError, times that do not go down to the data."""
    if len(times) < 2 or times[-1] != 0 or any(s >= t for t, s in pairwise(times)):
        raise ValueError(f"times must be strictly decreasing and end in 0, such as (1000, 500, 0); got {brief(times)}")


def brief(times: Trajectory) -> str:
    """Times as text for a message."""
    return str(tuple(times)) if len(times) <= 8 else f"({', '.join(map(str, times[:4]))}, ..., {times[-1]})"
