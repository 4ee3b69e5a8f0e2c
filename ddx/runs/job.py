"""A long job that may be interrupted at any moment: what is to be done, and a file for each part of it that is done.

NAME.json   the record: whose weights, which settings, and, when the job is finished, its result
parts/      each written when it is done, until the job is finished

The same job resumes after the last part that was written; another one is refused. Of several hosts each does its share
of the parts on its own devices, and the first one puts them together.
"""

import contextlib
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ddx.config.keys import KEYS
from ddx.runtime import between_hosts, folders, hosts, storage
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.folders import make_directory, remove_temporaries
from ddx.runtime.lock import lock
from ddx.runtime.paths import Path
from ddx.runtime.preemption import one_line
from ddx.runtime.storage import digest, read_arrays, sha256, write_arrays, write_json

# Where the run's folder lies changes no result, nor does the size of the grids of its training.
_FREE = ("workdir", "sample.num_images")
# What NumPy and zipfile raise for files of which some bytes are wrong.
DAMAGE = (OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Result(NamedTuple):
    """What a job wrote; printed, it is the line that the command says."""

    message: str
    out: Path  # the folder
    files: tuple[str, ...]  # in it; the first .npz has the arrays
    values: dict[str, Any] = {}  # noqa: RUF012 - the numbers that the job found, as in its record

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that the job wrote, by name."""
        name = next(file for file in self.files if file.endswith(".npz"))
        return read_arrays(self.out / name)

    def __str__(self) -> str:
        """The line."""
        return self.message


@contextlib.contextmanager
def working(out: Path) -> Iterator[None]:
    """Work in the folder of a job, which no other process may meanwhile; SIGTERM ends the job with one line.

    Raises:
      ConfigError: another process works there.
    """
    with lock(out, "--out"), one_line(f"stopped by a signal; the same command resumes: {out}"):
        yield


def read_record(path: Path) -> dict[str, Any]:
    """A job's record, empty if there is none.

    Raises:
      ConfigError: the file is unreadable, or no record.
    """
    try:
        record = json.loads(storage.read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path} ({error}). Remove it, or use another --out") from None
    if not isinstance(record, dict) or "weights" not in record:
        raise ConfigError(f"{path} describes no job. Remove it, or use another --out")
    return record


class Job:
    """A job of `total` examples in parts of `size`. Only the process that holds the folder's lock may have one.

    Hosts that work together have one each, and call its methods at the same points.
    """

    def __init__(
        self, out: Path, name: str, record: dict[str, Any], total: int, size: int, fixed: bool = False
    ) -> None:
        """Open the folder for the job of this record.

        A job that was begun resumes in parts of the size that it was begun with, the attribute `size`, and is refused
        another one if that is `fixed`.

        Raises:
          ConfigError: the folder holds another job.
        """
        between_hosts.check_same(_flat(record))
        self._out, self._path = out, out / f"{name}.json"
        self._parts = out / "parts"
        self.before: dict[str, Any] = hosts.agreed(self._read_before)  # the record that was there
        before = self.before.get("at_once")
        self.size = before if isinstance(before, int) and before > 0 and not fixed else size
        self._record = record | {"at_once": self.size}
        self.starts = range(0, total, self.size)
        self._check_same()
        if hosts.is_first():
            remove_temporaries(out)

    def result(self, *files: str) -> dict[str, Any] | None:
        """The result of the job, if it was finished and its files are all there, the first as it was written."""

        def find() -> dict[str, Any] | None:
            result = self.before.get("result")
            if not isinstance(result, dict) or not all(storage.is_file(self._out / file) for file in files):
                return None
            return result if result.get("sha256") == sha256(self._out / files[0]) else None

        found: dict[str, Any] | None = hosts.agreed(find)
        return found

    def begin(self) -> frozenset[int]:
        """Write the record; the starts of the parts that this process is not to do: they are there, or another's."""
        done = hosts.agreed(self._begin)
        mine = hosts.share([start for start in self.starts if start not in done])
        return frozenset(self.starts) - frozenset(mine)

    def _begin(self) -> list[int]:
        """Write the record; the starts of the parts that are there already."""
        write_json(self._path, self._record)
        make_directory(self._parts, "--out")
        remove_temporaries(self._parts)
        done = []
        for start in self.starts:
            part, problem = self._read(start)
            if part is not None:
                done.append(start)
            elif storage.exists(self._file(start)):
                warnings.warn(f"{self._file(start)} cannot be used ({problem}); doing it again", stacklevel=2)
        return done

    def write(self, start: int, **arrays: Any) -> None:
        """Write the part that begins at example `start`."""
        write_arrays(self._file(start), arrays | {"job": np.array(self._seal())})

    def parts(self) -> Iterator[dict[str, np.ndarray]]:
        """All parts in order, one at a time; only when all are there.

        Raises:
          CheckpointError: one has been damaged or removed since it was written.
        """
        for start in self.starts:
            part, problem = self._read(start)
            if part is None:
                raise CheckpointError(
                    f"{self._file(start)} cannot be used any more ({problem})."
                    " Run the same command again: it does this part once more, and keeps the others"
                )
            yield part
            del part  # before the next one is read

    def gathered(self, each: tuple[str, ...] = (), summed: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """What the parts hold: joined, what is of each example; added up, what is of all of a part.

        Besides the result, one part is in memory at a time.
        """
        joined: dict[str, list[np.ndarray]] = {name: [] for name in each}
        total: dict[str, np.ndarray] = {}
        for part in self.parts():
            for name in each:
                joined[name].append(part.pop(name))
            for name in summed:
                if name in total:
                    total[name] += part.pop(name)
                else:
                    total[name] = part.pop(name)
            del part  # before the next one is read
        return {name: np.concatenate(arrays) for name, arrays in joined.items()} | total

    def finish(self, **result: Any) -> None:
        """Write the record with the result."""
        write_json(self._path, self._record | result)

    def remove_parts(self) -> None:
        """Remove what `finish` made superfluous."""
        for start in self.starts:
            storage.remove(self._file(start))
        folders.remove_if_empty(self._parts)

    def _read_before(self) -> dict[str, Any]:
        """The record of the job that was there; empty for one that has done nothing that others could spoil."""
        before = read_record(self._path)
        finished = any(key in before for key in ("result", "sha256"))
        return before if finished or any(name.endswith(".npz") for name in folders.names(self._parts)) else {}

    def _file(self, start: int) -> Path:
        return self._parts / f"{start:08d}.npz"

    def _seal(self) -> str:
        """Tells the parts of one job from those of another."""
        return digest(_flat(self._record))

    def _read(self, start: int) -> tuple[dict[str, np.ndarray] | None, str]:
        """A part, or None and why it cannot be used."""
        try:
            arrays = read_arrays(self._file(start))
            if str(arrays.pop("job")) == self._seal():
                return arrays, ""
            return None, "it belongs to another job"
        except FileNotFoundError:
            return None, "it is gone"
        except DAMAGE as error:
            return None, str(error)

    def _check_same(self) -> None:
        """Refuse to mix the parts of two jobs."""
        if not self.before:
            return
        # Settings that are newer than the job were as their defaults are.
        settings = {key: spec.default for key, spec in KEYS.items() if key.startswith("sample.")}
        settings, record = json.loads(json.dumps([settings, self._record]))  # as they come back: tuples are lists
        old, new = settings | _flat(self.before), _flat(record)
        different = [f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]
        if different:
            raise ConfigError(
                f"{self._out} holds another job ({'; '.join(different[:5])}). Use another --out, or remove it"
            )


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    return {key: value for key, value in flat.items() if key not in _FREE}
