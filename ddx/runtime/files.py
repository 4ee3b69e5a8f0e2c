"""Paths that a user names, and files that are either old or new, never half written."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from ddx.runtime.errors import ConfigError

# gs://bucket, or gs:/bucket as pathlib writes it. A folder whose name merely contains a colon is none.
_SCHEME = re.compile(r"\s*([^/\s]*://|[A-Za-z][\w+.-]*:/)")


def local_path(given: Any, option: str) -> pathlib.Path:
    """The path on this machine that a user named with `option`, where "~" is the home folder.

    Every path that a user names comes through here, so that none is taken for a local one by mistake.

    Raises:
      ConfigError: it is no path, or empty, or too long, or has a scheme, as buckets have, or there is no home for "~".
    """
    if not isinstance(given, str | os.PathLike) or not isinstance(text := os.fspath(given), str):
        raise ConfigError(f"{option}={given!r} is no path. Give a string, such as 'runs/digits'")
    if not text or "\0" in text:
        raise ConfigError(f"{option}={text!r} names nothing. Give a path, such as runs/digits")
    if _SCHEME.match(text):
        raise ConfigError(
            f"{option}={text} is no path on this machine, and ddx reads and writes local files only."
            " Name a local path, and copy what lies elsewhere"
        )
    path = pathlib.Path(os.path.expanduser(text))
    if len(os.fsencode(path)) > 4000 or any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise ConfigError(f"{option}={text} is too long for a file system. Give a shorter path")
    if path.parts[:1] == ("~",):
        raise ConfigError(f"{option}={text} is in a home folder, and this user has none. Give a path without ~")
    return path


def optional_path(given: Any, option: str) -> pathlib.Path | None:
    """The same of a path that may be left out: None for None."""
    return None if given is None else local_path(given, option)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends well and goes otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Replace a file by a value as JSON for people."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n")


def sha256(path: pathlib.Path) -> str:
    """The checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """The checksum of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A number of NumPy or JAX, an argument of a Python call say, as JSON has it."""
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def remove_temporaries(folder: pathlib.Path) -> None:
    """Remove what `replacing` left of writers that were killed; only for the one that owns the folder."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
            path.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Replace the text of a file."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def make_directory(path: pathlib.Path, option: str) -> None:
    """Create a folder that the user named with `option`.

    Raises:
      ConfigError: it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create {path} ({error.strerror}). Choose another {option}") from None
    try:
        with tempfile.TemporaryFile(dir=path):  # os.access allows root to write to /proc
            pass
    except OSError:
        raise ConfigError(f"cannot write to {path}. Choose another {option}") from None
