"""Reverse variances and trajectories that follow from what is known of a trained network, most of them from statistics.

Statistics lie in its folder; heads are part of it.
"""

import pathlib
from typing import Any

import numpy as np

from ddx import build
from ddx.diffusion import analytic, optimal
from ddx.diffusion.basis import DCT, PIXEL
from ddx.diffusion.kernels import euler
from ddx.diffusion.process import in_dct_basis
from ddx.diffusion.statistics import Statistics, largest_variance
from ddx.diffusion.variance import VarianceFn
from ddx.errors import ConfigError
from ddx.files import sha256
from ddx.keys import ANALYTIC_VARIANCES, FIXED_VARIANCES, OPTIMAL_VARIANCES
from ddx.training.job import read_record
from ddx.training.trained import Trained

FOLDER = "statistics"


def in_basis(system: build.System, basis: str) -> build.System:
    """The system, its process seen in a basis: "dct", or "pixel" for one that has no other.

    Raises:
      ConfigError: the process is not diagonal in it.
    """
    if basis not in ("dct", "pixel"):
        raise ConfigError(f"basis={basis!r} is unknown. Choose one of: dct, pixel")
    if system.process.basis is DCT and basis == "pixel":
        raise ConfigError("basis='pixel': a process that blurs has statistics of frequencies. Use basis='dct'")
    wanted = system.process.basis is PIXEL and basis == "dct"
    return system._replace(process=in_dct_basis(system.process)) if wanted else system


def load(source: Trained, workdir: pathlib.Path, basis: str | None = None) -> Statistics:
    """The statistics of a checkpoint in a run's folder, of the most images, by default in any basis.

    Raises:
      ConfigError: there are none of this checkpoint, or they are damaged.
    """
    path, checksum = _find(source, workdir, basis)
    if sha256(path) != checksum:
        raise ConfigError(f"{path} is damaged. Remove its folder and measure again")
    with np.load(path, allow_pickle=False) as file:
        return Statistics(**{name: file[name][()] for name in Statistics._fields})


def exist(source: Trained, workdir: pathlib.Path, basis: str) -> bool:
    """Whether there are statistics of a checkpoint in a basis."""
    return bool(_found(source, workdir, basis))


def checksum(source: Trained, workdir: pathlib.Path, variance: str) -> dict[str, str]:
    """What a job's record says of the statistics that a variance is from; nothing where it is from none."""
    if variance not in ANALYTIC_VARIANCES:
        return {}
    return {"statistics": _find(source, workdir, _basis(variance))[1]}


def _basis(variance: str) -> str | None:
    return {"analytic_frequency": "dct", "analytic_pixel": "pixel"}.get(variance)


def _found(source: Trained, workdir: pathlib.Path, basis: str | None) -> list[tuple[int, pathlib.Path, dict[str, Any]]]:
    """The number of images, the file and the record of the statistics that there are."""
    found = []
    for path in sorted((workdir / FOLDER).glob("*/statistics.json")):
        record = read_record(path)
        fits = record["weights"] == source.seal and basis in (None, record["protocol"]["basis"])
        if fits and "result" in record:
            found.append((record["protocol"]["num_examples"], path.with_suffix(".npz"), record))
    return found


def _find(source: Trained, workdir: pathlib.Path, basis: str | None) -> tuple[pathlib.Path, str]:
    """The file of statistics to use, and its checksum."""
    found = _found(source, workdir, basis)
    if not found:
        of = f" in the {basis} basis" if basis else ""
        raise ConfigError(
            f"{workdir} has no statistics of step {source.step}{of}. Measure them with python -m launch.evaluate"
            f" --workdir={workdir} --metrics=statistics"
        )
    _, path, record = max(found, key=lambda entry: entry[0])
    return path, record["result"]["sha256"]


def variance(source: Trained, workdir: pathlib.Path, name: str) -> tuple[build.System, VarianceFn | None]:
    """The system to draw from and its reverse variance, for a name; None for one that is not of `OPTIMAL_VARIANCES`.

    Raises:
      ConfigError: it needs statistics, and there are none; or the network has no such head.
    """
    if name not in OPTIMAL_VARIANCES:
        return source.system, None
    config, process = source.system.config, source.system.process
    if config.loss.prediction not in ("eps", "x0", "v"):
        raise ConfigError(
            f"variance={name!r} needs a network that predicts eps, x0 or v, not {config.loss.prediction!r}."
            " Use small or large"
        )
    if name not in ANALYTIC_VARIANCES:
        limit = largest_variance(process, source.system.image_shape[:2])
        if name.startswith("heuristic"):
            return source.system, analytic.heuristic(name.endswith("averaged"), limit)
        head = name.removesuffix("_paper")
        if config.loss.variance != head:
            raise ConfigError(
                f"variance={name!r} needs a network with a head for it, and this one has {config.loss.variance!r}."
                f" Train one on it with python -m launch.train --config=configs/heads.py:{head},{workdir}"
            )
        return source.system, {"sn": analytic.sn, "npr": analytic.npr}[head](limit=limit)
    statistics = load(source, workdir, _basis(name))
    if name == "analytic_paper":
        return source.system, analytic.analytic(statistics, "gamma", limit=1.0)
    if basis := _basis(name):
        return in_basis(source.system, basis), analytic.analytic(statistics, per_coordinate=True)
    return source.system, analytic.analytic(statistics, "gamma" if name == "analytic_gamma" else "mse")


def as_published(how: build.Sampler, variance: VarianceFn, low: float) -> build.Sampler:
    """A sampler with Analytic-DPM's own limits (Bao et al. 2022, appendix F), for comparisons.

    Of the noise into the last noisy time, 2 grey levels for ancestral sampling and 1 for ddim, whose mean has the eps
    of the network and not that of its clipped x_0.
    """
    is_ddim = how.eta != 1.0
    limited = analytic.clip_last(variance, how.times, 1.0 if is_ddim else 2.0, low=low)
    kernel = analytic.published_ddim(limited) if is_ddim else euler(limited)
    return how._replace(kernel=kernel, clip="x0" if how.clip else False)


def trajectory(
    source: Trained, workdir: pathlib.Path, name: str | None, num_steps: int | None, variance: str | None
) -> str | None:
    """The name of a trajectory: "optimal" as the times that it stands for, others as they are.

    They are optimal for the variance if it is fixed, and for the analytic one otherwise.

    Raises:
      ConfigError: it needs statistics, and there are none; or the number of steps is out of range.
    """
    if name != "optimal":
        return name
    process = source.system.process
    statistics = load(source, workdir)
    # One variance for all coordinates, where the process treats them alike.
    mse = statistics.mse if process.blur is not None else statistics.mse.mean((1, 2, 3))
    mse = np.concatenate([mse[:1], mse])
    try:
        of = variance if variance in FIXED_VARIANCES else "analytic"
        costs = optimal.step_costs(process, mse, source.system.image_shape[:2], of)
        times = optimal.optimal_trajectories(costs, num_steps or process.num_steps, process.ends_noisy)
    except ValueError as error:
        raise ConfigError(f"trajectory: {error}") from None
    return "times:" + ",".join(map(str, times[num_steps or process.num_steps][:-1]))


def file_name(name: Any) -> str:
    """A split may be an expression such as test[:100]."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
