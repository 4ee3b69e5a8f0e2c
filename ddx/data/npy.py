"""What NumPy files hold, told by their headers alone: content may inflate to thousands of times a file's size."""

import io
import zipfile
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from ddx.data.decode import one_line
from ddx.runtime import storage
from ddx.runtime.errors import DataError, DdxError
from ddx.runtime.paths import Path

T = TypeVar("T")
SUFFIXES = (".npy", ".npz")
_HEADER = 2**16  # bytes in which the header of an array must end


class Header(NamedTuple):
    """What an array is, besides its content."""

    shape: tuple[int, ...]
    dtype: np.dtype


def headers(path: Path) -> dict[str, Header]:
    """The arrays of an .npz file by name; of an .npy file its one array, as "".

    NumPy's and zipfile's parsers raise whatever the bytes lead them into: OSError, ValueError, BadZipFile...
    """
    if path.suffix == ".npy":
        with storage.opened(path) as file:
            return {"": _header(file.read(_HEADER))}
    found = {}
    with storage.opened(path) as file, zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                with archive.open(name) as member:
                    found[name.removesuffix(".npy")] = _header(member.read(_HEADER))
    return found


def reading(path: Path, read: Callable[[], T], remedy: str) -> T:
    """What `read` returns; whatever the bytes of a file lead the parsers into becomes one line that names it.

    Raises:
      DataError: the file cannot be read; its last sentence is the remedy.
    """
    try:
        return read()
    except DdxError:
        raise
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
        raise DataError(f"cannot read {path} ({reason}). {remedy}") from error


def _header(begin: bytes) -> Header:
    file = io.BytesIO(begin)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return Header(shape, dtype)


def name_of_images(held: dict[str, Header]) -> str | None:
    """The name of the images in a file with these headers, "" in an .npy file; None if no array can be meant."""
    for name in ("", "images", "samples", "arr_0"):  # the last is what NumPy calls arrays without a name
        if name in held:
            return name
    others = [name for name in held if name not in ("labels", "classes")]
    return others[0] if len(others) == 1 else None
