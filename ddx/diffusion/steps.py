"""The steps of a trajectory as data: a table, one row a step, over which `lax.scan` runs.

A table is built on the host in float64. One compiled program serves every schedule, every trajectory of that length and
every eta. A row holds both ends of its step, so there is no "previous time" to get wrong, and respacing is choosing
rows. Where coefficients differ between frequencies, rows hold what the frequencies share, and `expand` makes the
coefficients of each in the graph: those of 1,000 steps at 256 x 256 would be gigabytes.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.dissipation import Changes, Scalars, dissipate_changes
from ddx.diffusion.gaussian import StepCoefficients, host_eta, solve, step_coefficients
from ddx.diffusion.process import Level, Process, needed, spread


class Step(NamedTuple):
    """A table of steps, one row a step from t to the next time s that a sampler visits; `lax.scan` runs over its rows.

    `h` is the half log-SNR that a step gains, the natural length of a step; 0 where it is infinite.

    `small` and `upper` limit the reverse variances that are of use (DDPM section 3.2): lambda2 of (3) and the forward
    variance of (1). On a step to noise-free data lambda2 is 0; there `small` is that of the row before, which Improved
    DDPM's decoder uses.
    """

    level: Level  # of t
    target: Level  # of s
    k: Any
    gamma: Any
    lambda2: Any
    small: Any
    upper: Any
    h: Any
    noise: Any  # 1, and 0 on the last row: a sample is the mean of its last step

    def expand(self, shape: tuple[int, ...]) -> "Step":
        """Itself: the coefficients are there."""
        del shape
        return self


class SharedLevel(NamedTuple):
    """A `Level` before it is spread over the frequencies."""

    t: Any
    model_time: Any
    scalars: Scalars


class SharedStep(NamedTuple):
    """A table of steps of a process that blurs: what the frequencies share. `expand` makes a `Step` of its rows."""

    level: SharedLevel
    target: SharedLevel
    changes: Changes
    d_min: Any
    eta: Any
    noise: Any

    def expand(self, shape: tuple[int, ...]) -> Step:
        """The coefficients of each frequency of images of shape (H, W), precise in float32."""
        level, target = (
            Level(at.t, at.model_time, spread(at.scalars, self.d_min, shape), at.scalars.a)
            for at in (self.level, self.target)
        )
        taus = self.target.scalars.tau, self.level.scalars.tau
        _, log_r = dissipate_changes(*taus, self.changes, self.d_min, shape)
        c = solve(target.marginal, level.marginal, log_r, self.eta)
        return _step(level, target, c, log_r, self.noise)


Steps = Step | SharedStep
"""A table of steps; its rows are counted by `noise`, and `expand` makes a `Step` of them."""


def step_table(
    process: Process, times: tuple[int, ...], eta: float = 1.0, shape: tuple[int, ...] | None = None
) -> Steps:
    """The steps of a trajectory as a float64 table with len(times) - 1 rows; it is data: cast it once and scan over it.

    Args:
      process: the process.
      times: strictly decreasing, ending in 0; known on the host.
      eta: stochasticity; see `step_coefficients`.
      shape: (H, W), for processes whose coefficients differ between coordinates.

    Raises:
      ValueError: times are not strictly decreasing, do not end in 0 or leave [0, T]; eta is impossible.
    """
    check_times(times)
    steps = _table(process, np.asarray(times[1:]), np.asarray(times[:-1]), host_eta(eta), shape)
    noise = np.ones((len(times) - 1, 1, 1, 1))
    noise[-1] = 0.0
    if isinstance(steps, SharedStep) or process.ends_noisy:
        return steps._replace(noise=noise)
    first = steps.lambda2[-2] if len(times) > 2 else steps.upper[-1]
    small = np.where(steps.target.marginal.sigma == 0, first, steps.lambda2)
    return steps._replace(small=small, noise=noise)


def chain_rows(process: Process, t: Any, shape: tuple[int, ...] | None = None) -> Step:
    """The rows of the steps from t to t - 1 at eta = 1, one an example, for integers t (B,) that may be traced."""
    if process.blur is None:
        table = step_table(process, tuple(range(process.num_steps, -1, -1)))
        return jax.tree.map(lambda x: jnp.asarray(x)[process.num_steps - t], table)
    return _shared(process, t - 1, t, 1.0, 1.0).expand(needed(shape))


def pair_table(process: Process, s: Any, t: Any, shape: tuple[int, ...] | None = None) -> Steps:
    """The steps at eta = 1 from times t to times s < t, (N,) each on the host, a row each, of no trajectory.

    On a step to noise-free data `small` is the decoder's of the shortest trajectory with that step: its `upper`, but on
    the step from 1 that of the step before, from 2.
    """
    steps = _table(process, np.asarray(s), np.asarray(t), 1.0, shape)
    if isinstance(steps, SharedStep) or process.ends_noisy:
        return steps
    first = np.where(steps.level.t == 1, step_coefficients(process, 1, 2).lambda2, steps.upper[..., 0, 0, 0])
    decoder = first.reshape(-1, 1, 1, 1)
    return steps._replace(small=np.where(steps.target.marginal.sigma == 0, decoder, steps.lambda2))


def upward_table(process: Process, times: tuple[int, ...], shape: tuple[int, ...] | None = None) -> Steps:
    """The steps of DDIM (eta = 0) up through strictly increasing times, which are known on the host."""
    return _table(process, np.asarray(times[1:]), np.asarray(times[:-1]), 0.0, shape)


def _table(process: Process, s: np.ndarray, t: np.ndarray, eta: float, shape: tuple[int, ...] | None) -> Steps:
    """The rows of the steps from t to s, (N,) each."""
    noise = np.ones((len(t), 1, 1, 1))
    # The printed algorithm is for comparisons in float64, an eta above 1 has to be checked on the host.
    if process.blur is None or process.paper_delta or eta > 1:
        c = step_coefficients(process, s, t, eta, shape)
        log_r = process.logsnr_difference(s, t, shape)
        if process.blur is None or process.paper_delta:
            return _step(process.level(t, shape), process.level(s, shape), c, log_r, noise)
    return _shared(process, s, t, np.full(noise.shape, float(eta)), noise)


def _shared(process: Process, s: Any, t: Any, eta: Any, noise: Any) -> SharedStep:
    level, target = (SharedLevel(at, process.model_time(at), process.scalars(at)) for at in (t, s))
    d_min = process.d_min + 0.0 * eta
    return SharedStep(level, target, process.changes(s, t), d_min, eta, noise)


def _step(level: Level, target: Level, c: StepCoefficients, log_r: Any, noise: Any) -> Step:
    xp: Any = jnp if isinstance(log_r, jax.Array) else np
    forward = level.marginal.sigma**2 * -xp.expm1(xp.minimum(log_r, 0.0))  # of no use upwards
    h = xp.where(xp.isfinite(log_r), -0.5 * log_r, 0.0)
    return Step(level, target, *c, c.lambda2, forward, h, noise)


def check_times(times: tuple[int, ...]) -> None:
    """Refuse, with a ValueError, times that do not go down to the data."""
    if len(times) < 2 or times[-1] != 0 or any(s >= t for t, s in pairwise(times)):
        raise ValueError(f"times must be strictly decreasing and end in 0, such as (1000, 500, 0); got {brief(times)}")


def brief(times: tuple[int, ...]) -> str:
    """Times as part of a message."""
    return str(tuple(times)) if len(times) <= 8 else f"({', '.join(map(str, times[:4]))}, ..., {times[-1]})"
