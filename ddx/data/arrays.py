"""Images in a NumPy file, of any number of channels, as a source."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ddx.data.fingerprint import SOME_BYTES, Fingerprint, checksum, is_read_whole, to_read
from ddx.data.npy import SUFFIXES, Header, headers, name_of_images, reading
from ddx.data.sources import Source
from ddx.runtime import storage
from ddx.runtime.errors import ConfigError, DataError
from ddx.runtime.paths import Path, is_local, user_path

_SPLITS = ("train", "all")
_MOST_UNNAMED = 2**16  # classes that are known by their numbers alone
_STORE = "Store uint8 images (N, H, W, C) or (N, H, W) with np.save, or as images=... with np.savez"


class _Content(NamedTuple):
    images: np.ndarray  # (N, H, W, C) uint8
    labels: np.ndarray  # (N,) int32
    classes: tuple[str, ...]


def array(path: str, split: str) -> Source:
    """The images of an .npy or .npz file, (N, H, W, C) or (N, H, W) uint8, of any number of channels.

    In an .npz file they are `images`, or `samples`, or the only array besides `labels`, (N,) integers, and `classes`,
    their names; neither is needed. An .npy file is mapped, so it may be larger than memory; an .npz file is read whole.
    As of a folder without sub-folders named so, the splits "train" and "all" are everything.

    Raises:
        ConfigError: no file is named.
        DataError: it cannot be read, or holds something else, or there is no such split.
    """
    if not path:
        raise ConfigError('data set "array" needs to know which file. Set data.dir to an .npy or .npz file')
    file = user_path(path, "data.dir")
    if file.suffix not in SUFFIXES:
        raise DataError(f"{file} is no .npy or .npz file. {_STORE}")
    if split not in _SPLITS:
        raise DataError(
            f"there is no split {split!r}. {file} has {' and '.join(_SPLITS)}, which are the same. Choose one of them"
            " with data.split, train.evaluate_split or --split; images of another file are its split all"
        )
    size = reading(file, lambda: storage.size(file), _STORE)
    if not is_local(file):  # all of it is read, and it is known by its headers first
        file = storage.on_this_machine(file)
    images, labels, classes = _content(file, reading(file, lambda: headers(file), _STORE))
    remedy = "Store the images again."

    def check_size() -> None:  # to touch what was cut off from a mapped file would end the process
        if file.suffix == ".npy" and reading(file, lambda: storage.size(file), _STORE) < size:
            raise DataError(f"{file} was cut short while it was read. {remedy}")

    def examples(indices: Sequence[int]) -> Iterator[tuple[np.ndarray, int]]:
        check_size()
        for index in indices:
            yield images[index], int(labels[index])

    def fingerprint() -> Fingerprint:
        check_size()
        whole, some = is_read_whole(images.size), to_read(len(images), images.size)
        content = checksum(images[index].tobytes()[: None if whole else SOME_BYTES] for index in some)
        listing = checksum((str(images.shape).encode(), labels.astype("<i4").tobytes()))
        return Fingerprint("", classes, len(images), listing, content)

    def where(index: int) -> str:
        return f"Image {index} of {file}"

    return Source(len(images), images.shape[-1], classes, examples, where, remedy, fingerprint, str(file))


def _content(file: Path, held: dict[str, Header]) -> _Content:
    """The images and labels of a file that holds what these headers say."""
    name = name_of_images(held)
    if name is None:
        raise DataError(f"{file} has no array `images`; it has {', '.join(held) or 'nothing'}. {_STORE}")
    shape, dtype = held[name]
    if dtype != np.uint8 or len(shape) not in (3, 4) or min(shape) < 1:
        convert = ", such as np.rint(255 * x).astype(np.uint8) of x in [0, 1]" if dtype.kind == "f" else ""
        raise DataError(f"{file} holds {dtype} of shape {shape}. {_STORE}{convert}")
    _check_labels(file, held, shape[0])
    if name == "":
        mapped = reading(file, lambda: np.load(file, mmap_mode="r", allow_pickle=False), _STORE)
        images, labels, classes = np.asarray(mapped), None, None
    else:
        images, labels, classes = reading(file, lambda: _members(file, name), _STORE)
    images = images if images.ndim == 4 else images[..., None]
    if labels is None:
        return _Content(images, np.zeros(len(images), np.int32), ("",))
    names = None if classes is None else [str(name) for name in reading(file, lambda: _decoded(classes), _STORE)]
    low, count = int(labels.min()), int(labels.max()) + 1
    if low < 0 or count > (_MOST_UNNAMED if names is None else len(names)):
        known = "" if names is None else f", and classes has {len(names)} names"
        raise DataError(
            f"{file} has labels from {low} to {count - 1}{known}. Number all classes 0, 1, ... and name each"
        )
    return _Content(images, labels.astype(np.int32), tuple(map(str, range(count)) if names is None else names))


def _check_labels(file: Path, held: dict[str, Header], count: int) -> None:
    """Refuse labels and classes that are none, by their headers."""
    labels, classes = held.get("labels"), held.get("classes")
    if labels and (labels.shape != (count,) or labels.dtype.kind not in "iu"):
        raise DataError(
            f"{file} has labels of type {labels.dtype} and shape {labels.shape}. Store an integer for each of the"
            f" {count} images"
        )
    if classes and (len(classes.shape) != 1 or classes.dtype.kind not in "US"):
        raise DataError(
            f"{file} has classes of type {classes.dtype} and shape {classes.shape}. Store them as np.array(names, str)"
        )
    if classes and not labels:
        raise DataError(
            f"{file} has classes and no labels. Store labels too, an integer for each of the {count} images"
        )


def _members(file: Path, name: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    with np.load(file, allow_pickle=False) as content:
        return content[name], *(content[key] if key in content.files else None for key in ("labels", "classes"))


def _decoded(names: np.ndarray) -> np.ndarray:
    return np.char.decode(names) if names.dtype.kind == "S" else names
