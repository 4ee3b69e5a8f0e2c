"""What the jobs of evaluators share: how they begin, what their records say, and the way from parts to a result."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ddx.config.evaluation import checked_settings, folder_name
from ddx.data import Dataset
from ddx.runs import trained
from ddx.runs.data import fingerprint_of, open_examples
from ddx.runs.job import Job, Result, working
from ddx.runtime import hosts, storage
from ddx.runtime.paths import Path, user_path


class Work(NamedTuple):
    """A job that begins: the network that it scores, and its settings."""

    job: str  # the evaluator's name, and the record's
    workdir: Path
    source: trained.Trained
    settings: dict[str, Any]  # all that the job takes, None where the default depends on the run


class Examples(NamedTuple):
    """What a network is scored on."""

    split: str
    data: Dataset
    indices: np.ndarray  # (N,)


Parts = Iterator[tuple[int, dict[str, Any]]]
"""The first example of each part, and the part's arrays."""


def begin(job: str, workdir: str | Path, given: Mapping[str, Any]) -> Work:
    """Check the settings that are given to a job, and load the network.

    Raises:
      ConfigError: a setting is invalid or of another job.
      CheckpointError: the folder has no run, or no usable checkpoint.
    """
    workdir, how = user_path(workdir, "--workdir"), checked_settings(job, given)
    source = trained.load_for_job(workdir, how["step"], how["out"], job, how["weights"])
    return Work(job, workdir, source, how)


def open_split(source: trained.Trained, how: Mapping[str, Any], default: str = "test") -> Examples:
    """The examples that settings name, of another split where they name none.

    Raises:
      ConfigError: the data are not the network's.
      DataError: they cannot be read.
    """
    split = how["split"] or default
    return Examples(split, *open_examples(source, split, how["data_dir"], how["max_examples"], how["seed"]))


def output_folder(work: Work, parent: str, examples: Examples, **used: Any) -> Path:
    """The folder to write to: the one that is given, or one in the run's folder `parent`, named after the settings.

    `used` are the values of settings whose default depends on the run.
    """
    values = {"split": examples.split, "max_examples": len(examples.indices), "weights": work.source.weights} | used
    name = folder_name(work.job, work.source.step, work.settings | values)
    return work.settings["out"] or work.workdir / parent / name


def record_of(work: Work, examples: Examples, protocol: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What a job's record begins with: with another network, other examples or another protocol it is another job."""
    return {
        **trained.identity(work.source, work.workdir),
        "images": fingerprint_of(examples.data, examples.indices),
        **more,
        "protocol": {
            "data": examples.data.name,
            "split": examples.split,
            "num_examples": len(examples.indices),
            **protocol,
            "seed": work.settings["seed"],
        },
    }


def batch_size(work: Work, examples: Examples) -> int:
    """Examples at once."""
    return min(work.settings["batch_size"] or work.source.system.config.sample.batch_size, len(examples.indices))


def write_csv(path: Path, table: list[dict[str, Any]]) -> None:
    """Write rows that have the same columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    storage.write_text(path, text.getvalue())


def carry_out(
    job: str,
    out: Path,
    record: dict[str, Any],
    total: int,
    size: int,
    *,
    files: tuple[str, ...],
    parts: Callable[[int, frozenset[int]], Parts],
    finish: Callable[[Job], dict[str, Any]],
    tell: Callable[[dict[str, Any]], str],
    more: Callable[[Job, dict[str, Any]], dict[str, Any]] = lambda job, result: result,
    pictures: tuple[str, ...] = (),
    draw: Callable[[], None] = lambda: None,
    fixed: bool = False,
) -> Result:
    """Work through the parts that are left of a job, and put them together. A finished job changes nothing.

    Args:
      job: name of the record, JOB.json, and of the arrays, JOB.npz.
      out: folder to write to.
      record: what the job is.
      total: examples.
      size: of a part; a job that was begun keeps the size that it was begun with.
      files: what `finish` writes.
      parts: (size, the starts of the parts that are done) -> the parts that are left.
      finish: puts all parts together and writes `files`; returns the result, with the checksum of the arrays.
      tell: the result in words.
      more: adds to a result what is asked for and not in it yet.
      pictures: files that `draw` makes of a finished job.
      draw: called when one of them is missing.
      fixed: whether a job that was begun with parts of another size is refused instead.

    Raises:
      ConfigError: the folder holds another job, or another process works there.
    """
    with working(out):
        held = Job(out, job, record, total, size, fixed)
        result = held.result(f"{job}.npz", *files)
        wrote = result is None
        if result is None:
            for start, part in parts(held.size, held.begin()):
                held.write(start, **part)
                del part  # perhaps hundreds of megabytes: only one is in memory
            result = hosts.agreed(lambda: finish(held))
        before: dict[str, Any] = result
        result = hosts.agreed(lambda: more(held, before))
        wrote = wrote or result != before

        def complete() -> bool:
            """Whether pictures were missing."""
            held.remove_parts()
            if all(storage.exists(out / picture) for picture in pictures):
                return False
            draw()
            return True

        wrote = hosts.agreed(complete) or wrote
    written = (*files, *pictures)
    said = "wrote" if wrote else "already there:"
    return Result(f"{tell(result)}; {said} {out}/{', '.join(written)}", out, written, result)
