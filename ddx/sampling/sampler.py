"""A sampler: the settings of a config as a plan, and what to do at each of its rows."""

import warnings
from typing import NamedTuple

from ml_collections import ConfigDict

from ddx.config.sampling import keeps_eps
from ddx.config.sampling_rules import tells_x_0
from ddx.config.values import flatten
from ddx.diffusion.arrays import Trajectory
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
    clip: bool | str
    batch_size: int
    prior_noise: float  # of ihdm: added to the blurred images that samples start from


def make_sampler(
    config: ConfigDict, system: System, variance: VarianceFn | None = None, strength: float = 1.0
) -> Sampler:
    """The sampler of a config: ancestral (DDPM, eta = 1) or ddim, with a solver, or heat.

    `variance` is one that is no name, and replaces the config's; with it ddim draws noise at any eta. With a `strength`
    below 1 the walk starts at that part of T and goes through the times below.

    Raises:
      ConfigError: the settings do not go together.
    """
    s = config.sample
    eta, named = (s.eta, "small") if s.sampler == "ddim" else (1.0, s.variance)
    try:
        times: Trajectory = trajectory(
            config.process.num_steps, s.num_steps or None, s.trajectory, system.process.schedule
        )
        times = times if strength == 1.0 else times_from(times, _start(system.process, strength))
        solver = heat_sampler(s.delta) if s.sampler == "heat" else make_solver(s.solver, eta, variance or named)
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
    if system.process.blur is None and system.process.forgets and times[0] < system.process.num_steps:
        warnings.warn(
            f"samples start from pure noise at t = {times[0]}, where this process still has some of the data; only at"
            f" T = {system.process.num_steps} it has none. Use a trajectory that visits T, such as trailing",
            stacklevel=2,
        )
    prior_noise = s.delta if s.prior_noise else 0.0
    deterministic = eta == 0 and variance is None
    clip = "x0" if s.keep_eps and keeps_eps(s) else s.clip
    return Sampler(times, steps, solver, deterministic, eta, clip, s.batch_size, prior_noise)


def _start(process: Process, strength: float) -> float:
    """The time at a part of T; where times are integers the nearest, from 1 up."""
    t = strength * process.num_steps
    return t if process.continuous else max(1, round(t))
