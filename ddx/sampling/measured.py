"""Reverse variances, trajectories and solvers that follow from what is known of a trained network.

Most is statistics, which lie in a run's folder (`ddx.sampling.stored`) as evaluators write them; heads are part of the
network.
"""

import dataclasses
import shlex
from typing import Any

import numpy as np

from ddx.diffusion.arrays import Trajectory
from ddx.diffusion.bound import analytic, optimal, pictures
from ddx.diffusion.bound.statistics import Statistics
from ddx.diffusion.catalogue import (
    ANALYTIC_VARIANCES,
    FIXED_VARIANCES,
    HEAD_VARIANCES,
    MEASURED_SOLVERS,
    OPTIMAL_TRAJECTORIES,
    OPTIMAL_VARIANCES,
    PROBED_VARIANCES,
    X_0_PREDICTIONS,
)
from ddx.diffusion.estimate.clipping import DynamicThreshold
from ddx.diffusion.forward.basis import DCT, PIXEL
from ddx.diffusion.papers import analytic_dpm
from ddx.diffusion.reverse import variance as variances
from ddx.diffusion.reverse.dpm_v3 import dpm_v3
from ddx.diffusion.reverse.protocol import Solver
from ddx.diffusion.reverse.solvers import euler
from ddx.diffusion.reverse.variance import VarianceFn
from ddx.runs.trained import Trained
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import Path, user_path
from ddx.sampling import stored
from ddx.sampling.sampler import Sampler
from ddx.system import System

FOLDER = "statistics"


def in_basis(system: System, basis: str) -> System:
    """The system, its process seen in a basis: "dct", or "pixel" for one that treats frequencies alike.

    Raises:
      ConfigError: the process is not diagonal in it.
    """
    process = system.process
    if process.of_frequencies and basis == "pixel":
        what = "blurs" if process.blur is not None else "colours its noise"
        raise ConfigError(f"a process that {what} has statistics of frequencies, not of pixels. Use basis dct")
    if process.basis.name == basis:
        return system
    return system._replace(process=dataclasses.replace(process, basis={"dct": DCT, "pixel": PIXEL}[basis]))


def exist(source: Trained, workdir: Path, basis: str, clip: bool) -> bool:
    """Whether there are statistics of a checkpoint in a basis, with x_0 clipped or not."""
    return stored.exist(source, workdir, FOLDER, basis, clip)


def origin(source: Trained, workdir: Path, clip: bool, *names: str) -> dict[str, dict[str, Any]]:
    """What a job's record says of what a variance and a solver are from; nothing where they are from nothing measured.

    Raises:
      ConfigError: it is not there.
    """
    told = {}
    for name in names:
        if name in ANALYTIC_VARIANCES:
            told["statistics"] = stored.find(source, workdir, FOLDER, *_needs(name, clip)).told
        if name in MEASURED_SOLVERS:
            told["model_statistics"] = _of_model(source, workdir, clip).told
    return told


def solver(source: Trained, workdir: Path, name: str, clip: bool) -> tuple[System, Solver | None]:
    """The system to draw from and the solver of a name; None for one that is not of `MEASURED_SOLVERS`.

    Raises:
      ConfigError: the network is not one for it, or there are no model statistics of it.
    """
    if name not in MEASURED_SOLVERS:
        return source.system, None
    check_dpm_v3(source)
    found = _of_model(source, workdir, clip)
    return in_basis(source.system, found.protocol["basis"]), dpm_v3(stored.load(found.path.parent, "model_statistics"))


def check_dpm_v3(source: Trained) -> None:
    """Refuse, with a ConfigError, a network that solver "dpm_v3" cannot walk with."""
    _check_tells(source, "solver='dpm_v3'", "Use another solver")
    if source.system.process.blur is not None:
        raise ConfigError("solver='dpm_v3' is for processes without a blur. Use heun or dpmpp_2m")


def _of_model(source: Trained, workdir: Path, clip: bool) -> stored.Found:
    """The model statistics to use: of frequencies, or of pixels if there are no others."""
    of_pixels = stored.exist(source, workdir, "model_statistics", "pixel", clip)
    of_pixels = of_pixels and not stored.exist(source, workdir, "model_statistics", "dct", clip)
    return stored.find(source, workdir, "model_statistics", "pixel" if of_pixels else "dct", clip)


def variance(
    source: Trained, workdir: Path, name: str, clip: bool, probes: int | None = None
) -> tuple[System, VarianceFn | None]:
    """The system to draw from and its reverse variance, for a name; None for one that is not of `OPTIMAL_VARIANCES`.

    `clip` says whether the estimate of x_0 is clipped, `probes` how many draws "ocm_probes" takes; None: the run's.

    Raises:
      ConfigError: the network is not one for it, has no such head, or there are no statistics of it.
    """
    if name not in OPTIMAL_VARIANCES:
        return source.system, None
    config, process = source.system.config, source.system.process
    _check_tells(source, f"variance={name!r}", "Use small or large")
    kind = name.partition("_paper")[0]
    if kind == "ocm_frequency" and process.of_frequencies:
        raise ConfigError(
            "variance='ocm_frequency': a process that blurs, or colours its noise, works in frequencies anyway. Use ocm"
        )
    if kind in HEAD_VARIANCES and config.loss.variance != kind:
        without = {"ocm": "ocm_probes", "ocm_frequency": "ocm_probes_frequency"}.get(kind)
        advice = (
            f"Train one on it with python -m launch.train --config={shlex.quote(f'heads:{kind},{workdir}')}"
            f" --workdir={shlex.quote(f'{workdir}_{kind}')}"
        )
        if config.model.network != "unet":  # which has no layers of its own for a head
            advice = f"Train one with its config, --config.loss.objective=head and --config.loss.variance={kind}"
        raise ConfigError(
            f"variance={name!r} needs a network with a head for it, and this one has {config.loss.variance!r}."
            f" {advice}" + (f", or use {without}" if without else "")
        )
    # A run with a head for frequencies works in them; what is of pixels is so there too.
    of_pixels = source.system if process.of_frequencies else in_basis(source.system, "pixel")
    if name in PROBED_VARIANCES:
        system = in_basis(source.system, "dct") if name.endswith("_frequency") else of_pixels
        return system._replace(probes=probes or config.sample.probes), variances.ocm()
    if kind not in ANALYTIC_VARIANCES:
        return source.system if kind in HEAD_VARIANCES else of_pixels, variances.VARIANCES[kind]
    is_gamma = _is_gamma(name)
    if is_gamma and process.blur is not None:
        raise ConfigError(f"variance={name!r}: the mean square of eps says nothing under a blur. Use analytic")
    if "_paper" in name and process.of_frequencies:
        raise ConfigError(f"variance={name!r}: its limits are of white noise in pixels. Use {kind}")
    if name == "analytic_pixel":
        in_basis(source.system, "pixel")
    statistics = _load(source, workdir, *_needs(name, clip))
    if is_gamma:
        largest = ((1.0 - process.low) / 2.0) ** 2  # variance of a pixel
        return source.system, analytic.analytic(statistics, "gamma", limit=None if kind == name else largest)
    if name == "analytic":
        return source.system, analytic.analytic(statistics)
    return in_basis(source.system, str(_needs(name, clip)[0])), analytic.analytic(statistics, per_coordinate=True)


def as_published(how: Sampler, variance: VarianceFn, name: str, low: float) -> Sampler:
    """A sampler with the limits of Analytic-DPM's code (Bao et al. 2022, appendix F), for a variance of its name.

    Of the noise into the last noisy time, 2 grey levels for ancestral sampling ("paper1": 1) and 1 for ddim, whose mean
    has the eps of the network and not that of its clipped x_0. Other names change nothing.
    """
    if "_paper" not in name:
        return how
    if isinstance(how.clip, DynamicThreshold):
        raise ConfigError(
            f"variance={name!r} clips as its paper's code, which has no threshold. Set --clip_percentile=0, or use"
            f" {name.partition('_paper')[0]}"
        )
    is_ddim = how.eta != 1.0
    limited = analytic_dpm.clip_last(variance, how.times, 1.0 if is_ddim or name.endswith("1") else 2.0, low=low)
    solver = euler(limited) if is_ddim else analytic_dpm.published_ddpm(limited)
    return how._replace(solver=solver, clip="x0" if how.clip else False)


def trajectory(
    source: Trained, workdir: Path, name: str | None, num_steps: int | None, variance: str, clip: bool
) -> str | None:
    """The name of a trajectory: an optimal one as the times that it stands for, others as they are.

    Raises:
      ConfigError: it needs statistics, and there are none; or the number of steps is out of range.
    """
    if name not in OPTIMAL_TRAJECTORIES:
        return name
    _check_tells(source, f"trajectory={name!r}", "Use another trajectory")
    T = source.system.process.num_steps
    count = T if num_steps is None else num_steps
    times: Trajectory = tuple(range(T, -1, -1))
    if count != T and name == "optimal_pictures":
        times = _picture_times(source, workdir, count, clip)
    elif count != T and _is_gamma(variance):
        times = _published_times(source, workdir, count)
    elif count != T:
        times = optimal_times(source, workdir, count, variance, clip)[count]
    return "times:" + ",".join(map(str, times[:-1]))


def optimal_times(
    source: Trained, workdir: Path, num_steps: int, variance: str, clip: bool
) -> dict[int, tuple[int, ...]]:
    """The times of the tightest bound in every number of steps up to `num_steps`, {K: times}.

    They are those of the variance if it is fixed, and of "analytic" otherwise.

    Raises:
      ConfigError: there are no statistics of the network; or the number of steps is out of range.
    """
    process = source.system.process
    statistics = _load(source, workdir, None, clip)
    # One variance for all coordinates, where the process treats them alike.
    mse, limit = statistics.mse, statistics.spectrum
    if process.blur is None:
        mse, limit = mse.mean((1, 2, 3)), limit.mean()
    try:
        of = variance if variance in FIXED_VARIANCES else "analytic"
        mse = np.concatenate([mse[:1], mse])
        costs = optimal.step_costs(process, mse, source.system.image_shape[:2], of, limit)
        return optimal.optimal_trajectories(costs, num_steps, process.ends_noisy)
    except ValueError as error:
        raise ConfigError(f"trajectory: {error}") from None


def _picture_times(source: Trained, workdir: Path, num_steps: int, clip: bool) -> Trajectory:
    """The times at which DDIM keeps most of the variance of every frequency."""
    statistics, process = _load(source, workdir, "dct", clip), source.system.process
    try:
        mse = pictures.smoothed_mse(process, statistics.mse, statistics.spectrum)
        units = process.basis.units(source.system.image_shape[:2])  # distances are of images, whatever the noise
        costs = pictures.picture_costs(units * mse, units * statistics.spectrum)
        return optimal.optimal_trajectories(costs, num_steps, to_data=True)[num_steps]
    except ValueError as error:
        raise ConfigError(f"trajectory: {error}") from None


def _published_times(source: Trained, workdir: Path, num_steps: int) -> Trajectory:
    """The times that Analytic-DPM's code finds from the mean square of eps, for the variances that are from it too."""
    process, statistics = source.system.process, _load(source, workdir, None, None)
    try:
        if process.blur is not None:
            raise ValueError("the mean square of eps says nothing under a blur; use variance='analytic'")
        return analytic_dpm.gamma_trajectory(process, np.append(0.0, statistics.ms_eps), num_steps)
    except ValueError as error:
        raise ConfigError(f"trajectory: {error}") from None


def _is_gamma(variance: str) -> bool:
    """Whether a variance of statistics is from the mean square of eps, as Analytic-DPM's code has it."""
    return variance in ANALYTIC_VARIANCES and ("gamma" in variance or "paper" in variance)


def _check_tells(source: Trained, what: str, instead: str) -> None:
    prediction = source.system.config.loss.prediction
    if prediction not in X_0_PREDICTIONS:
        known = ", ".join(X_0_PREDICTIONS)
        raise ConfigError(f"{what} needs a network that predicts one of {known}, not {prediction!r}. {instead}")


def _needs(variance: str, clip: bool) -> tuple[str | None, bool | None]:
    """The basis and the clipping of the statistics that a variance is from; None for any."""
    basis = {"analytic_frequency": "dct", "analytic_pixel": "pixel"}.get(variance)
    return basis, None if "gamma" in variance or "paper" in variance else clip


def load_statistics(folder: str | Path) -> Statistics:
    """What `ddx.evaluation.measure` wrote to a folder, for variances of other samplers: of another schedule, say.

    Raises:
      ConfigError: there is nothing of the kind, or it is damaged.
    """
    found: Statistics = stored.load(user_path(folder, "folder"), FOLDER)
    return found


def _load(source: Trained, workdir: Path, basis: str | None, clip: bool | None) -> Statistics:
    return load_statistics(stored.find(source, workdir, FOLDER, basis, clip).path.parent)
