"""Decoded copies of data sets that are too large for memory: written once, then read by index from a memory map.

<cache>/<name>-<split>-<H>x<W>x<C>-<checksum>/
    images.npy    (N, H, W, C) uint8
    examples      of each image its label and its CRC-32, 8 bytes
    about.json    what it is a copy of; written last
<the same>.partial/   a copy that is being written, or whose writer was stopped: the next one resumes where it ended
<the same>.lock       held by the writer

The checksum in the name is that of the data's fingerprint and of how they are converted, so other data, or another
size, have another copy. Whatever is read is compared with its CRC; an image that has changed is decoded again. So a
copy needs no care: whatever becomes of it, what is read is right.
"""

import contextlib
import dataclasses
import errno
import fcntl
import io
import json
import math
import os
import pathlib
import re
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ddx.data.decode import Conversion
from ddx.data.fingerprint import Fingerprint
from ddx.runtime import cache
from ddx.runtime.errors import ConfigError, DdxError, StorageError
from ddx.runtime.folders import make_directory
from ddx.runtime.paths import local_path
from ddx.runtime.progress import Progress
from ddx.runtime.storage import digest, sha256, write_json

Fetch = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

IMAGES, EXAMPLES, ABOUT = "images.npy", "examples", "about.json"
_FORMAT = 1
_EXAMPLE = np.dtype([("label", "<i4"), ("crc", "<u4")])
_AT_ONCE = 2**25  # bytes of images that are decoded before they are written


class Storage(NamedTuple):
    """Where decoded images are kept."""

    memory_mib: int = 1024  # sets of at most so many MiB of pixels are kept in memory
    disk_mib: int = 0  # larger ones, of at most so many, in a copy on disk
    cache_dir: str = ""  # the folder of these copies; empty: $XDG_CACHE_HOME/ddx or ~/.cache/ddx
    write: bool = False  # write a copy that is not there; otherwise only one that is there is used


class Wanted(NamedTuple):
    """What a copy is to be of."""

    name: str
    split: str
    fingerprint: Callable[[], Fingerprint]
    conversion: Conversion
    shape: tuple[int, int, int, int]  # (N, H, W, C)

    @property
    def num_bytes(self) -> int:
        """Of all images."""
        return math.prod(self.shape)

    def about(self) -> dict[str, Any]:
        """All that decides the content of the copy, as a JSON object."""
        what = {"fingerprint": self.fingerprint().record(), "conversion": dataclasses.asdict(self.conversion)}
        about: dict[str, Any] = json.loads(json.dumps({"format": _FORMAT, **what, "shape": self.shape}))
        return about

    def folder_name(self) -> str:
        """What the copy is called."""
        of = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{self.name}-{self.split}")[:80]
        return f"{of}-{'x'.join(map(str, self.shape[1:]))}-{digest(self.about())[:16]}"


def fetch(storage: Storage, wanted: Wanted, decode: Fetch) -> tuple[Fetch, str]:
    """What reads examples of a data set that is not in memory: from its copy if there can be one, or by decoding.

    Args:
        storage: where copies lie, and whether to write one.
        wanted: what the copy is of.
        decode: indices to images and labels.

    Returns:
        Indices to images and labels; and where these come from, for people.

    Raises:
        ConfigError: `storage.cache_dir` cannot be written to.
        DataError: an image cannot be read.
    """
    limit, size = storage.disk_mib * 2**20, _in_words(wanted.num_bytes)
    if wanted.num_bytes > limit:
        return decode, f"decoded whenever they are read ({size}; data.disk_mib={storage.disk_mib})"
    try:
        folder = _home(storage) / wanted.folder_name()
        copy = _there(folder, wanted, decode)
        if copy is None and storage.write:
            copy = _written(folder, wanted, decode, named=bool(storage.cache_dir))
    except (OSError, StorageError) as error:
        place, cause = storage.cache_dir or "~/.cache/ddx, the default of data.cache_dir", error.__cause__ or error
        reason = (cause.strerror if isinstance(cause, OSError) else None) or cause
        return decode, f"decoded whenever they are read: there can be no copy of {size} in {place} ({reason})"
    if copy is None:
        return decode, f"decoded whenever they are read ({size}, without a copy)"
    return copy, f"in a decoded copy of {size}, {folder}"


def _home(storage: Storage) -> pathlib.Path:
    return local_path(storage.cache_dir, "data.cache_dir").absolute() if storage.cache_dir else cache.home()


class _Copy:
    """Reads examples of a copy; safe to call from several threads."""

    def __init__(self, folder: pathlib.Path, wanted: Wanted, decode: Fetch) -> None:
        """Open it.

        Raises:
            OSError: a part of it is not there.
            ValueError: it is no such copy, or damaged as a whole.
        """
        about = json.loads((folder / ABOUT).read_text())
        if not isinstance(about, dict) or about | wanted.about() != about:
            raise ValueError(f"{ABOUT} is not that of this copy")
        if sha256(folder / EXAMPLES) != about.get(EXAMPLES):
            raise ValueError(f"{EXAMPLES} has changed")
        self._path, self._decode = folder / IMAGES, decode
        self._examples = np.fromfile(folder / EXAMPLES, _EXAMPLE)
        self._offset, self._size = len(_header(wanted.shape)), len(_header(wanted.shape)) + wanted.num_bytes
        self._file = open(self._path, "rb")  # for as long as the map is there
        if os.fstat(self._file.fileno()).st_size != self._size:
            raise ValueError(f"{IMAGES} has the wrong size")
        mapped = np.memmap(self._file, np.uint8, "r", self._offset, wanted.shape)
        self._images = np.asarray(mapped)

    def __call__(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, H, W, C) uint8 and (B,) int32."""
        if os.fstat(self._file.fileno()).st_size < self._size:  # to touch what was cut off would end the process
            warnings.warn(f"{self._path} was cut short; decoding images again", stacklevel=2)
            return self._decode(indices)
        images, examples = self._images[indices], self._examples[indices]
        labels = examples["label"].astype(np.int32)
        rows = zip(indices, labels, images, examples["crc"], strict=True)
        wrong = np.array([_crc(*row) != crc for *row, crc in rows], bool)
        if wrong.any():
            warnings.warn(f"images in {self._path} have changed; decoding them again", stacklevel=2)
            images[wrong], labels[wrong] = self._decode(indices[wrong])
            self._mend(indices[wrong], images[wrong], labels[wrong])
        return images, labels

    def _mend(self, indices: np.ndarray, images: np.ndarray, labels: np.ndarray) -> None:
        """Write images that had changed as they were, if that is possible."""
        with contextlib.suppress(OSError), open(self._path, "r+b") as file:
            for index, label, image in zip(indices, labels, images, strict=True):
                if _crc(index, label, image) == self._examples["crc"][index]:
                    os.pwrite(file.fileno(), image.tobytes(), self._offset + int(index) * image.size)


def _there(folder: pathlib.Path, wanted: Wanted, decode: Fetch) -> _Copy | None:
    """The copy in a folder, or None if there is no good one."""
    if not folder.exists():
        return None
    try:
        return _Copy(folder, wanted, decode)
    except (OSError, ValueError) as error:
        warnings.warn(f"the decoded copy {folder} is damaged ({error}); it is left out", stacklevel=2)
        return None


def _written(folder: pathlib.Path, wanted: Wanted, decode: Fetch, named: bool) -> _Copy:
    """Write the copy in a folder; `named` says that the user has named the place.

    Raises:
        ConfigError: that place cannot be used.
        OSError: another one cannot be, or there is no room for the copy; nothing is left of it.
    """
    try:
        make_directory(folder.parent, "data.cache_dir")
    except ConfigError as error:
        if named:
            raise
        raise OSError(errno.EACCES, str(error)) from error
    with _locked(folder):
        if (copy := _there(folder, wanted, decode)) is not None:  # another process has written it in the meantime
            return copy
        if folder.exists():
            shutil.rmtree(folder)
        partial = folder.with_name(f"{folder.name}.partial")
        try:
            _write(partial, folder, wanted, decode, sparing=not named)
        except (OSError, DdxError):  # not of those who stop it: they may go on with what is there
            shutil.rmtree(partial, ignore_errors=True)
            raise
        os.rename(partial, folder)
        return _Copy(folder, wanted, decode)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Only one process writes a copy; others wait for it."""
    with open(folder.with_name(f"{folder.name}.lock"), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"data     waiting for another process, which is writing {folder}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(partial: pathlib.Path, folder: pathlib.Path, wanted: Wanted, decode: Fetch, sparing: bool) -> None:
    count, each = wanted.shape[0], math.prod(wanted.shape[1:])
    step = max(1, _AT_ONCE // each)
    header = _header(wanted.shape)
    _make_room(partial, header, wanted.num_bytes, sparing)
    done = min((partial / EXAMPLES).stat().st_size // _EXAMPLE.itemsize, count)
    with (
        open(partial / IMAGES, "r+b") as images_file,
        open(partial / EXAMPLES, "r+b") as examples_file,
        Progress("decoding", count, done, unit="image") as progress,
    ):
        what = f"decoding {wanted.name} {wanted.split} into {folder}, {_in_words(wanted.num_bytes)}, once"
        progress.write(f"data     {what}" + (f"; {done:,} of {count:,} images are there" if done else ""))
        examples_file.truncate(done * _EXAMPLE.itemsize)
        for start in range(done, count, step):
            indices = np.arange(start, min(start + step, count))
            images, labels = decode(indices)
            images_file.seek(len(header) + start * each)
            images_file.write(images.data)
            images_file.flush()
            # Only now do these images count as written.
            examples = np.zeros(len(indices), _EXAMPLE)
            examples["label"] = labels
            examples["crc"] = [_crc(*row) for row in zip(indices, labels, images, strict=True)]
            examples_file.seek(start * _EXAMPLE.itemsize)
            examples_file.write(examples.tobytes())
            examples_file.flush()
            progress.advance(len(indices))
            progress.tick()
        for file in (images_file, examples_file):
            os.fsync(file.fileno())
    named = {"name": wanted.name, "split": wanted.split}
    write_json(partial / ABOUT, named | wanted.about() | {EXAMPLES: sha256(partial / EXAMPLES)})


def _make_room(partial: pathlib.Path, header: bytes, num_bytes: int, sparing: bool) -> None:
    """Begin a copy with all the disk that it takes, unless it was begun before: a disk that is too small tells so here.

    Where nobody has named the folder (`sparing`), at least as much is left free as it takes.
    """
    images = partial / IMAGES
    if images.is_file() and images.stat().st_size == len(header) + num_bytes and (partial / EXAMPLES).is_file():
        return
    shutil.rmtree(partial, ignore_errors=True)
    free = shutil.disk_usage(partial.parent).free
    if free < (2 if sparing else 1) * num_bytes:
        more = ", and as much is to stay free where data.cache_dir is not set" * sparing
        raise OSError(errno.ENOSPC, f"{_in_words(free)} are free{more}")
    partial.mkdir()
    with open(images, "wb") as file:
        file.write(header)
        file.flush()
        try:
            os.posix_fallocate(file.fileno(), 0, len(header) + num_bytes)
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            os.truncate(file.fileno(), len(header) + num_bytes)  # a system that reserves nothing
    (partial / EXAMPLES).touch()


def _header(shape: tuple[int, ...]) -> bytes:
    """What an .npy file begins with."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def _crc(index: Any, label: Any, image: np.ndarray) -> int:
    """Of an image, its label and its place."""
    return zlib.crc32(image.data, zlib.crc32(b"%d %d" % (index, label)))


def _in_words(num_bytes: int) -> str:
    unit, name = (2**30, "GiB") if num_bytes >= 2**30 else (2**20, "MiB")
    return f"{num_bytes / unit:,.1f} {name}"
