"""Files and folders, on this machine or in a bucket: all that is read or written comes through here.

What is written is either the old file or the new one, never half of it: on this machine a temporary file beside it is
renamed, to a bucket a temporary file is uploaded in one piece.
"""

import atexit
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from ddx.runtime import bucket
from ddx.runtime.errors import StorageError
from ddx.runtime.paths import Path, is_local

# What is there


def is_file(path: Path) -> bool:
    """Whether there is a file, or an object."""
    return path.is_file() if is_local(path) else bucket.size(bucket.address(path)) is not None


def is_dir(path: Path) -> bool:
    """Whether there is a folder; in a bucket, whether anything is in it."""
    return path.is_dir() if is_local(path) else bool(bucket.below(bucket.address(path), 1))


def exists(path: Path) -> bool:
    """Whether there is a file or a folder."""
    return path.exists() if is_local(path) else is_file(path) or is_dir(path)


def size(path: Path) -> int:
    """The bytes in a regular file or an object.

    Raises:
      OSError: there is none, or it may not be looked at.
      ValueError: it is something else.
    """
    if not is_local(path):
        found = bucket.size(bucket.address(path))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(path))
        return found
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    return status.st_size


# Reading


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The content of a file, or its first bytes."""
    if not is_local(path):
        return bucket.get_bytes(bucket.address(path), most)
    with open_regular(path) as file:
        return file.read(-1 if most is None else most)


def open_regular(path: os.PathLike[str]) -> BinaryIO:
    """A regular file on this machine, to read: a pipe would be waited for, and a device read, without end.

    Raises:
      OSError: there is none, it may not be read, or it is something else.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is no regular file", str(path))


def read_text(path: Path) -> str:
    """The text of a file."""
    return read_bytes(path).decode()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file to read from; of an object, a copy that goes with the block."""
    with contextlib.ExitStack() as stack:
        if is_local(path):
            yield stack.enter_context(open_regular(path))
        else:
            copy = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ddx-")), "copy")
            bucket.get(bucket.address(path), copy)
            yield stack.enter_context(open(copy, "rb"))


def on_this_machine(path: Path) -> pathlib.Path:
    """The file itself, or a copy of the object that stays until the process ends, for what is mapped into memory."""
    if is_local(path):
        return path
    copy = temporary_folder() / path.name
    bucket.get(bucket.address(path), copy)
    return copy


def temporary_folder() -> pathlib.Path:
    """A new folder on this machine that goes when the process ends."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ddx-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file."""
    with opened(path) as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def sha256(path: Path) -> str:
    """The checksum of a file."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


# Writing


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """A temporary name to write to; it becomes `path` when the block ends well and goes otherwise.

    Raises:
      StorageError: there is no room for it, or it may not be written.
    """
    if is_local(path):
        temporary = _beside(path)
    else:
        temporary = pathlib.Path(tempfile.gettempdir(), f"ddx-{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with writing(path):
            yield temporary
            if is_local(path):
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            else:
                bucket.put(bucket.address(path), temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: pathlib.Path) -> pathlib.Path:
    """The temporary name of a file while this process writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """While the block writes to `path`, an error of the disk is one line.

    Raises:
      StorageError: there is no room for it, or it may not be written.
    """
    try:
        yield
    except OSError as error:
        reason, remedy = error.strerror or str(error), "Fix that"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"Make room{_free(path)}"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "Make it writable"
        elif error.errno == errno.ENOENT:
            remedy = "Make its folder"
        elif error.errno == errno.EISDIR:
            remedy = "Name a file"
        raise StorageError(f"cannot write {path} ({reason}). {remedy}, and run the same command again") from error


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written, before work is done for it; of a bucket that is not asked.

    Raises:
      StorageError: it may not be written, or is a folder.
    """
    if is_local(path):
        with writing(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            temporary = _beside(path)
            temporary.touch()
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Replace the text of a file."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Replace a file by some bytes, one part after the other."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines(parts)


def write_json(path: Path, value: Any) -> None:
    """Replace a file by a value as JSON for people."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n")


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Replace a file by arrays, compressed, as .npz."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    if is_local(path):
        path.unlink(missing_ok=True)
    else:
        bucket.remove(bucket.address(path))


def digest(value: Any) -> str:
    """The checksum of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()


def _free(path: Path) -> str:
    with contextlib.suppress(OSError):
        if is_local(path):
            return f", {shutil.disk_usage(path.parent).free / 2**20:,.1f} MiB are free"
    return ""


def _plain(value: Any) -> Any:
    """A number of NumPy or JAX, an argument of a Python call say, as JSON has it."""
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
