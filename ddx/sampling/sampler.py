"""A sampler: the settings of a config as a plan, and what to do at each of its rows."""

import warnings
from typing import NamedTuple

from ml_collections import ConfigDict

from ddx.config.sampling import keeps_eps
from ddx.config.sampling_rules import tells_x_0
from ddx.config.values import flatten
from ddx.diffusion.arrays import Trajectory
from ddx.diffusion.estimate.clipping import Clip, DynamicThreshold
from ddx.diffusion.estimate.guidance import Guidance
from ddx.diffusion.forward.process import Process
from ddx.diffusion.papers.ihdm import heat_sampler
from ddx.diffusion.reverse.protocol import Solver
from ddx.diffusion.reverse.rows import Plan
from ddx.diffusion.reverse.sdedit import times_from
from ddx.diffusion.reverse.solvers import make_solver
from ddx.diffusion.reverse.trajectory import trajectory
from ddx.diffusion.reverse.variance import VarianceFn
from ddx.diffusion.reverse.walk import plan
from ddx.runtime.errors import ConfigError
from ddx.system import System


class Sampler(NamedTuple):
    """How images are drawn: a plan, and what to do at each of its rows."""

    times: Trajectory
    plan: Plan
    solver: Solver
    deterministic: bool  # no noise is drawn
    eta: float
    clip: Clip
    batch_size: int
    prior_noise: float  # of ihdm: added to the blurred images that samples start from
    guidance: Guidance

    @property
    def evaluations(self) -> int:
        """How many networks are evaluated for a sample: a solver's further evaluations are at the ends of steps."""
        each = [self.guidance.evaluations(t) for t in self.times[:-1]]
        return sum(each) + (self.solver.evaluations - 1) * sum(each[1:])


def make_sampler(
    config: ConfigDict,
    system: System,
    variance: VarianceFn | None = None,
    strength: float | None = None,
    solver: Solver | None = None,
) -> Sampler:
    """The sampler of a config: ancestral (DDPM, eta = 1) or ddim, with a solver, or heat.

    `variance` and `solver` are such as have no name in a config, whose own they replace; with such a variance ddim
    draws noise at any eta. With a `strength` the walk starts from noised images, at that part of T, and goes
    through the times below.

    Raises:
      ConfigError: the settings do not go together.
    """
    s = config.sample
    eta, named = (s.eta, "small") if s.sampler == "ddim" else (1.0, s.variance)
    try:
        times: Trajectory = trajectory(
            config.process.num_steps, s.num_steps or None, s.trajectory, system.process.schedule
        )
        times = times if strength is None else times_from(times, _start(system.process, strength))
        if s.sampler == "heat":
            solver = heat_sampler(s.delta)
        else:
            solver = make_solver(solver or s.solver, eta, variance or named)
        end = 0 if s.sampler == "heat" else s.end
        steps = plan(system.process, times, eta, system.image_shape[:2], solver, s.noisy_end, end)
    except ValueError as error:
        raise ConfigError(f"sample: {error}") from None
    if s.solver != "euler" and not tells_x_0(flatten(config)):
        warnings.warn(
            f"solver {s.solver} extrapolates x_0, which eps does not tell under a blur; expect spoiled images, or use"
            " euler, or train v",
            stacklevel=2,
        )
    from_noise = strength is None and system.process.blur is None  # not from images
    if from_noise and system.process.forgets and times[0] < system.process.num_steps:
        warnings.warn(
            f"samples start from pure noise at t = {times[0]}, where this process still has some of the data; only at"
            f" T = {system.process.num_steps} it has none. Use a trajectory that visits T, such as trailing",
            stacklevel=2,
        )
    prior_noise = s.delta if s.prior_noise else 0.0
    deterministic = eta == 0 and variance is None
    clip = "x0" if s.keep_eps and keeps_eps(s) else clip_of(s)
    return Sampler(times, steps, solver, deterministic, eta, clip, s.batch_size, prior_noise, guidance_of(s))


def _start(process: Process, strength: float) -> float:
    """The time at a part of T; where times are integers the nearest, from 1 up."""
    t = strength * process.num_steps
    return t if process.continuous else max(1, round(t))


def clip_of(s: ConfigDict) -> bool | DynamicThreshold:
    """How settings `sample` limit x_0, with an eps that follows from it."""
    return DynamicThreshold(s.clip_percentile) if s.clip and s.clip_percentile else bool(s.clip)


def guidance_of(s: ConfigDict) -> Guidance:
    """How settings `sample` guide."""
    return Guidance(s.guidance, tuple(s.guidance_interval) or None)
