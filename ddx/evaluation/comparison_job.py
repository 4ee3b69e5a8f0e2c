"""Bits per dimension of a trained network by reverse variance, trajectory and number of steps, in one table.

comparison.json       the protocol and, when it is finished, the table
comparison.md, .csv   the table, for people and for programs
comparison.png        the same as a picture
comparison.npz        "total": (N, rows) bits/dim of each example; "example": its index
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ddx.diffusion.catalogue import FIXED_VARIANCES, HEAD_VARIANCES, LEARNED_VARIANCES
from ddx.diffusion.forward.process import Process
from ddx.diffusion.reverse.trajectory import trajectory
from ddx.diffusion.reverse.variance import VarianceFn, variance_fn
from ddx.evaluation.bound import Bound, compared
from ddx.evaluation.settings import bound_settings
from ddx.evaluation.statistics_job import measured_basis
from ddx.evaluation.work import Parts, batch_size, begin, carry_out, open_split, output_folder, record_of, write_csv
from ddx.runs import trained
from ddx.runs.job import Job, Result
from ddx.runtime import devices
from ddx.runtime.errors import ConfigError, NonFiniteError
from ddx.runtime.paths import Path
from ddx.runtime.storage import sha256, write_arrays, write_text
from ddx.sampling import measured

NUM_STEPS = (10, 25, 50, 100)  # and all T
TRAJECTORIES = ("even", "optimal")
_WRITTEN = ("comparison.json", "comparison.md", "comparison.csv", "comparison.png", "comparison.npz")


class Cell(NamedTuple):
    """A cell of the table."""

    variance: str
    trajectory: str
    num_steps: int


@devices.job("comparing", devices.FEWER_AT_ONCE)
def compare(workdir: str | Path, **settings: Any) -> Result:
    """The bounds of `evaluate` for every variance that a run can have, on even and on optimal times.

    These are the fixed variances, what the network has learned or its head says, and the analytic ones of all
    coordinates and of each frequency. Fixed ones have optimal times of their own, the others the analytic one's. The
    network is asked once for each time that any of them visits. A run without statistics is measured first. An
    interrupted comparison resumes when it is called again; a finished one changes nothing.

    Args:
      workdir: folder of a training run.
      **settings: the settings of "comparison" in `ddx.config.evaluation.EVALUATION`; num_steps are several.

    Returns:
      What was written: printed, the table and a line; its values are {"table": a dict for each cell}.

    Raises:
      DdxError: as `ddx.evaluation.evaluate` says; a network that tells no x_0 has nothing to compare.
    """
    work = begin("comparison", workdir, settings)
    source, workdir, given, config = work.source, work.workdir, work.settings, work.source.system.config
    if config.loss.prediction == "residual":
        raise ConfigError("a comparison is of variances, and IHDM's is its delta. Use --metrics=bpd")
    steps = _numbers(given["num_steps"], config.process.num_steps)
    clip = bound_settings(config, {"clip": given["clip"], "variance": "small"})["clip"]
    examples = open_split(source, given)
    basis = measured_basis(work, clip)
    variances = _variances(source, workdir, basis, clip)
    cells = [Cell(v, spacing, k) for spacing in TRAJECTORIES for k in steps for v in variances]
    coordinates = measured.origin(source, workdir, clip, f"analytic_{_COORDINATES[basis]}")["statistics"]
    protocol = {
        "num_steps": list(steps),
        "variances": list(variances),
        "clip": clip,
        "cdf": given["cdf"],
        "noise_draws_per_term": 1,
    }
    statistics = measured.origin(source, workdir, clip, "analytic") | {"coordinates": coordinates}
    out = output_folder(work, "compared", examples, num_steps=steps, clip=clip)

    def parts(size: int, done: frozenset[int]) -> Parts:
        times = _times(source, workdir, cells, clip)
        trajectories = tuple(dict.fromkeys(times.values()))
        many, places = compared(source.system, trajectories, tuple(variances.values()), clip, given["cdf"])
        at = [(places[trajectories.index(times[c])], list(variances).index(c.variance)) for c in cells]
        bound = Bound(many)
        for start, part in bound.parts(source.params, examples.data, examples.indices, given["seed"], size, done):
            terms = [part.terms[:, place.time, place.slot, i].sum(1) for place, i in at]
            yield start, {"total": (part.prior + part.decoder)[:, None] + np.stack(terms, axis=1)}

    return carry_out(
        "comparison",
        out,
        record_of(work, examples, protocol, **statistics),
        len(examples.indices),
        batch_size(work, examples),
        files=_WRITTEN,
        parts=parts,
        finish=lambda job: _finish(out, job, examples.indices, cells),
        tell=lambda result: f"{markdown(result['table'])}\n{len(examples.indices)} examples of {examples.split}",
    )


def _numbers(num_steps: tuple[int, ...] | None, T: int) -> tuple[int, ...]:
    if num_steps is None:
        return (*(k for k in NUM_STEPS if k < T), T)
    wrong = [k for k in num_steps if not 2 <= k <= T]
    if wrong or not num_steps:
        raise ConfigError(f"num_steps={wrong[0] if wrong else 'none'} must lie in 2..{T} (T of the process)")
    return tuple(sorted(set(num_steps)))


_COORDINATES = {"dct": "frequency", "pixel": "pixel"}


def _variances(source: trained.Trained, workdir: Path, basis: str, clip: bool) -> dict[str, tuple[Process, VarianceFn]]:
    """Every variance by name, with the process that it belongs to."""
    own = source.system.config.loss.variance
    learned = (own,) if own in (*LEARNED_VARIANCES, *HEAD_VARIANCES) else ()
    found = {}
    for name in (*FIXED_VARIANCES, *learned, "analytic", f"analytic_{_COORDINATES[basis]}"):
        system, chosen = measured.variance(source, workdir, name, clip)
        found[name] = (system.process, chosen or variance_fn(name))
    return found


def _times(source: trained.Trained, workdir: Path, cells: list[Cell], clip: bool) -> dict[Cell, tuple[int, ...]]:
    """The times of each cell. All T steps are the same, whatever they are called."""
    T = source.system.process.num_steps
    found = {cell: trajectory(T, cell.num_steps, "even" if cell.num_steps < T else "full") for cell in cells}
    few = [cell for cell in cells if cell.trajectory == "optimal" and cell.num_steps < T]
    kinds = {cell.variance: cell.variance if cell.variance in FIXED_VARIANCES else "analytic" for cell in few}
    most = max((cell.num_steps for cell in few), default=0)
    optimal = {kind: measured.optimal_times(source, workdir, most, kind, clip) for kind in set(kinds.values())}
    return found | {cell: optimal[kinds[cell.variance]][cell.num_steps] for cell in few}


def _finish(out: Path, job: Job, examples: np.ndarray, cells: list[Cell]) -> dict[str, Any]:
    """Put the batches together."""
    from ddx.evaluation.plots import comparison_png  # matplotlib takes a second to import

    total = job.gathered(each=("total",))["total"]
    if not np.isfinite(total).all():
        bad = cells[int(np.argmin(np.isfinite(total).all(0)))]
        raise NonFiniteError(
            f"the bound with variance {bad.variance} in {bad.num_steps} {bad.trajectory} steps is not finite."
            " Try --clip, or another checkpoint"
        )
    error = total.std(0, ddof=1) / math.sqrt(len(total)) if len(total) > 1 else np.full(len(cells), np.nan)
    table = [
        cell._asdict() | {"bits_per_dim": float(mean), "standard_error": float(se) if np.isfinite(se) else None}
        for cell, mean, se in zip(cells, total.mean(0), error, strict=True)
    ]
    write_arrays(out / "comparison.npz", {"example": examples, "total": total})
    write_csv(out / "comparison.csv", table)
    write_text(out / "comparison.md", markdown(table) + "\n")
    comparison_png(out / "comparison.png", table)
    result = {"table": table, "sha256": sha256(out / "comparison.npz")}
    job.finish(result=result)
    return result


def markdown(table: list[dict[str, Any]]) -> str:
    """The table as Markdown, bits/dim by number of steps; all T steps are the same whatever the trajectory."""
    steps = sorted({row["num_steps"] for row in table})
    value = {(row["variance"], row["trajectory"], row["num_steps"]): row["bits_per_dim"] for row in table}
    lines = [f"| variance | times | {' | '.join(map(str, steps))} |", "| --- " * (len(steps) + 2) + "|"]
    for spacing in dict.fromkeys(row["trajectory"] for row in table):
        for variance in dict.fromkeys(row["variance"] for row in table):
            cells = " | ".join(f"{value[variance, spacing, k]:.4g}" for k in steps)
            lines.append(f"| {variance} | {spacing} | {cells} |")
    return "\n".join(lines)
