"""Bits per dimension of a trained network by reverse variance, trajectory and number of steps, in one table.

comparison.json       the protocol and, when it is finished, the table
comparison.md, .csv   the table, for people and for programs
comparison.png        the same as a picture
comparison.npz        "total": (N, rows) bits/dim of each example; "example": its index
"""

import csv
import io
import math
from typing import Any, NamedTuple

import numpy as np

from ddx.diffusion.catalogue import FIXED_VARIANCES, HEAD_VARIANCES, LEARNED_VARIANCES
from ddx.diffusion.forward.process import Process
from ddx.diffusion.reverse.trajectory import trajectory
from ddx.diffusion.reverse.variance import VarianceFn, variance_fn
from ddx.evaluation.bound import Bound, compared
from ddx.evaluation.settings import check_counts, settings
from ddx.evaluation.statistics_job import measure_trained
from ddx.runs import trained
from ddx.runs.data import fingerprint_of, open_examples
from ddx.runs.job import Job, Result, working
from ddx.runtime import parallel
from ddx.runtime.arguments import integers
from ddx.runtime.errors import ConfigError, NonFiniteError
from ddx.runtime.paths import Path, optional_path, user_path
from ddx.runtime.storage import sha256, write_arrays, write_text
from ddx.sampling import measured

NUM_STEPS = (10, 25, 50, 100)  # and all T
TRAJECTORIES = ("even", "optimal")
STATISTICS_EXAMPLES = 500  # of the training set, where the run has no statistics yet
_WRITTEN = ("comparison.json", "comparison.md", "comparison.csv", "comparison.png", "comparison.npz")


class Cell(NamedTuple):
    """A cell of the table."""

    variance: str
    trajectory: str
    num_steps: int


@parallel.job("comparing", parallel.FEWER_AT_ONCE)
def compare(
    workdir: str | Path,
    *,
    num_steps: tuple[int, ...] | None = None,
    split: str = "test",
    clip: bool | None = None,
    cdf: str | None = None,
    max_examples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    step: int | None = None,
    weights: str | None = None,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
) -> Result:
    """The bounds of `evaluate` for every variance that a run can have, on even and on optimal times.

    These are the fixed variances, what the network has learned or its head says, and the analytic ones of all
    coordinates and of each frequency. Fixed ones have optimal times of their own, the others those of the analytic. The
    network is asked once for each time that any of them visits. A run without
    statistics is measured first. An interrupted comparison goes on when it is called again; a finished one changes
    nothing.

    Args:
      workdir: folder of a training run.
      num_steps: numbers of steps; None for 10, 25, 50, 100 and all T, as far as there are so many.
      split: here and below as of `evaluate`: of the run's data set.
      clip: clip the estimate of x_0.
      cdf: of the decoder.
      max_examples: a random part of the split of this size.
      batch_size: examples at once.
      seed: names the noise and the part.
      step: of the checkpoint.
      weights: "ema", the averaged ones, or "raw"; None for the run's sample.weights.
      data_dir: where the data set lies.
      out: folder to write to.

    Returns:
      What was written: printed, the table and a line; its values are {"table": a dict for each cell}.

    Raises:
      ConfigError: a setting is invalid, the network tells no x_0, or `out` holds another job.
      CheckpointError: the folder has no run, or no usable checkpoint.
      DataError: the data set cannot be read.
      NonFiniteError: a bound is not finite.
      AcceleratorError, OutOfMemoryError: as `ddx.runtime.parallel.job` says.
    """
    workdir, out = user_path(workdir, "--workdir"), optional_path(out, "--out")
    data_dir = optional_path(data_dir, "--data_dir")
    check_counts(max_examples, batch_size)
    source = trained.load_for_job(workdir, step, out, "comparison", weights)
    config, process = source.system.config, source.system.process
    if config.loss.prediction == "residual":
        raise ConfigError("a comparison is of variances, and IHDM's is its delta. Use --metrics=bpd")
    steps = _numbers(num_steps, process.num_steps)
    how = settings(config, None, None, "small", clip, cdf, None)
    data, examples = open_examples(source, split, data_dir, max_examples, seed)
    basis = _basis(source, workdir, how["clip"], data_dir)
    variances = _variances(source, workdir, basis, how["clip"])
    cells = [Cell(v, spacing, k) for spacing in TRAJECTORIES for k in steps for v in variances]
    count = len(examples)
    name = f"step{source.step}_{split}_n{count}_{'-'.join(map(str, steps))}_seed{seed}"
    name += source.tag + "_unclipped" * (not how["clip"]) + f"_{how['cdf']}" * (how["cdf"] != "exact")
    out = out or workdir / "compared" / measured.file_name(name)
    record = {
        **trained.identity(source, workdir),
        "images": fingerprint_of(data, examples),
        **measured.origin(source, workdir, "analytic", how["clip"]),
        "coordinates": measured.origin(source, workdir, f"analytic_{_COORDINATES[basis]}", how["clip"])["statistics"],
        "protocol": {
            "data": data.name,
            "split": split,
            "num_examples": count,
            "num_steps": list(steps),
            "variances": list(variances),
            "clip": how["clip"],
            "cdf": how["cdf"],
            "noise_draws_per_term": 1,
            "seed": seed,
        },
    }
    with working(out):
        job = Job(out, "comparison", record, count, min(batch_size or config.sample.batch_size, count))
        result = job.result("comparison.npz", *_WRITTEN)
        finished = result is not None
        if result is None:
            times = _times(source, workdir, cells, how["clip"])
            trajectories = tuple(dict.fromkeys(times.values()))
            many, places = compared(source.system, trajectories, tuple(variances.values()), how["clip"], how["cdf"])
            at = [(places[trajectories.index(times[c])], list(variances).index(c.variance)) for c in cells]
            bound = Bound(many)
            for start, part in bound.parts(source.params, data, examples, seed, job.size, job.begin()):
                terms = [part.terms[:, place.time, place.slot, i].sum(1) for place, i in at]
                job.write(start, total=(part.prior + part.decoder)[:, None] + np.stack(terms, axis=1))
            result = _finish(out, job, examples, cells)
        job.remove_parts()
    said = "already there:" if finished else "wrote"
    line = f"{markdown(result['table'])}\n{count} examples of {split}; {said} {out}/{', '.join(_WRITTEN)}"
    return Result(line, out, _WRITTEN, result)


def _numbers(num_steps: tuple[int, ...] | None, T: int) -> tuple[int, ...]:
    if num_steps is None:
        return (*(k for k in NUM_STEPS if k < T), T)
    num_steps = integers("num_steps", num_steps)
    wrong = [k for k in num_steps if not 2 <= k <= T]
    if wrong or not num_steps:
        raise ConfigError(f"num_steps={wrong[0] if wrong else 'none'} must lie in 2..{T} (T of the process)")
    return tuple(sorted(set(num_steps)))


_COORDINATES = {"dct": "frequency", "pixel": "pixel"}


def _basis(source: trained.Trained, workdir: Path, clip: bool, data_dir: str | Path | None) -> str:
    """The basis of the run's statistics, that of frequencies if there are both; measures a run that has none."""
    for basis in _COORDINATES:
        if measured.exist(source, workdir, basis, clip):
            return basis
    measurement = measure_trained(source, workdir, clip=clip, max_examples=STATISTICS_EXAMPLES, data_dir=data_dir)
    print(measurement, flush=True)
    return "dct"


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
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_text(out / "comparison.csv", text.getvalue())
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
