"""Where images come from: what a source is, and the two that are plain files, the digits and a folder of images."""

import collections
import concurrent.futures
import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ddx.data.decode import read_image
from ddx.data.fingerprint import SOME_BYTES, Fingerprint, checksum, is_read_whole, to_read
from ddx.runtime import folders, storage
from ddx.runtime.errors import ConfigError, DataError
from ddx.runtime.paths import Path, user_path


@dataclass(frozen=True)
class Source:
    """Numbered images and labels, before they are brought to one shape.

    Attributes:
        num_examples: at least 1.
        channels: what the images have by themselves: 1 or 3, or any number if they are arrays.
        classes: their names by label; ("",) for a source without labels, which are all 0.
        examples: decodes the images at these indices, in this order, as (image, label), an image of Pillow or an array
            (H, W, C); `DataError` for one that cannot be read.
        where: names one example, for error messages.
        remedy: what to do about an example that cannot be used, for error messages.
        fingerprint: what tells it from others, see `ddx.data.fingerprint`; `DataError` if it cannot be read.
        decoded: where its images lie decoded, so that a copy would be of no use; empty for most.
    """

    num_examples: int
    channels: int
    classes: tuple[str, ...]
    examples: Callable[[Sequence[int]], Iterator[tuple[Any, int]]]
    where: Callable[[int], str]
    remedy: str
    fingerprint: Callable[[], Fingerprint]
    decoded: str = ""


def digits(split: str) -> Source:
    """1,797 handwritten digits of 8x8 pixels, shipped with the library; the values 0..16 are scaled to 0..255.

    Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998,
    https://doi.org/10.24432/C50P49, licence CC BY 4.0. digits.npz holds that set's test part, as scikit-learn does.

    Args:
        split: "train" (the first 1,500), "test" (the last 297) or "all".
    """
    splits = {"train": slice(0, 1500), "test": slice(1500, None), "all": slice(None)}
    if split not in splits:
        raise DataError(f"digits has no split {split!r}. Choose one of: {', '.join(splits)}")
    with np.load(pathlib.Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        images = np.rint(file["images"][splits[split]] * (255 / 16)).astype(np.uint8)
        labels = file["labels"][splits[split]]

    def examples(indices: Sequence[int]) -> Iterator[tuple[Image.Image, int]]:
        for index in indices:
            yield Image.fromarray(images[index]), int(labels[index])

    classes = tuple(map(str, range(10)))

    def fingerprint() -> Fingerprint:
        content = checksum((images.tobytes(), labels.astype("<i4").tobytes()))
        return Fingerprint("", classes, len(images), "", content)

    where, remedy = (lambda index: f"Digit {index} of {split}"), "Install the library again."
    return Source(len(images), 1, classes, examples, where, remedy, fingerprint)


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SPLIT_FOLDERS = ("train", "test")
_THREADS = 16


def folder(directory: str, split: str, advice: str = "Set data.dir to a directory of images.") -> Source:
    """All .png, .jpg, .jpeg and .webp files in a directory and below, sorted by path.

    Where the directory has a sub-folder `train` or `test`, those are the splits, "all" is both, and other sub-folders
    are left out; where it has neither, "train" and "all" are everything. The label is the place of an image's first
    sub-folder (below its split) in the sorted names of these sub-folders over all splits; an image in no sub-folder
    counts as in one named "", so all labels of a flat directory are 0. Hidden files and folders are left out, links to
    folders are not followed. EXIF orientation is applied.

    `advice` is what to do where there is no such directory or nothing in it, for error messages.

    Raises:
        ConfigError: no directory given.
        DataError: the directory is missing or without images, or it has no such split.
    """
    if not directory:
        raise ConfigError(f'data set "folder" needs to know which one. {advice}')
    root = user_path(directory, "data.dir")
    if not storage.is_dir(root):
        raise DataError(f"{root} is not a directory. {advice}")
    roots = {name: root / name for name in SPLIT_FOLDERS if storage.is_dir(root / name)} or {"train": root}
    if split != "all" and split not in roots:
        raise DataError(
            f"there is no split {split!r}. {root} has {', '.join(roots)} and all. Choose one of them with data.split,"
            " train.evaluate_split or --split; sub-folders named train and test become splits"
        )
    found = {name: _files(top) for name, top in roots.items()}
    files = {name: sorted(path for path in found[name] if path.suffix.lower() in SUFFIXES) for name in roots}
    classes = sorted({_class_of(path, roots[name]) for name in files for path in files[name]})
    label_of = {name: label for label, name in enumerate(classes)}
    chosen = list(roots) if split == "all" else [split]
    paths = [path for name in chosen for path in files[name]]
    labels = [label_of[_class_of(path, roots[name])] for name in chosen for path in files[name]]
    known = {path: size for each in found.values() for path, size in each.items()}
    if not paths:
        searched = root if split == "all" else roots[split]
        raise DataError(
            f"{searched} has 0 images (looked for {' '.join(SUFFIXES)}, sub-folders included). "
            f"Found: {_census(_files(searched))}. {advice}"
        )
    remedy = "Replace or remove the file."

    def examples(indices: Sequence[int]) -> Iterator[tuple[Image.Image, int]]:
        for index in indices:
            with _named(paths[index], remedy):
                image = read_image(paths[index])
            yield image, labels[index]

    def fingerprint() -> Fingerprint:
        sizes = []
        for path in paths:
            with _named(path, remedy):
                sizes.append(known[path] or storage.size(path))
        whole, total = is_read_whole(sum(sizes)), sum(sizes)
        read = functools.partial(_head, size=None if whole else SOME_BYTES, remedy=remedy)
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:  # each image of a bucket is a request
            content = checksum(pool.map(read, [paths[i] for i in to_read(len(paths), total)]))
        # Below the folder of the split: in a copy elsewhere the names are the same.
        names = (_below(roots[name], path) for name in chosen for path in files[name])
        each = (f"{label} {size} ".encode() + name for name, label, size in zip(names, labels, sizes, strict=True))
        return Fingerprint("", tuple(classes), len(paths), checksum(each), content)

    return Source(len(paths), 3, tuple(classes), examples, lambda index: str(paths[index]), remedy, fingerprint)


@contextlib.contextmanager
def _named(path: Path, remedy: str) -> Iterator[None]:
    """Turns the errors of reading an image into one that names it."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"image cannot be read: {reason}. {path}. {remedy}") from error


def _head(path: Path, size: int | None, remedy: str) -> bytes:
    """The first bytes of a file, or all of them."""
    with _named(path, remedy):
        return storage.read_bytes(path, size)


def _below(top: Path, path: Path) -> bytes:
    """What a path below a folder is called there."""
    return os.fsencode(str(path).removeprefix(os.path.join(top, "")))  # Path.relative_to takes ten times as long


def _files(top: Path) -> dict[Path, int | None]:
    """As `ddx.runtime.folders.files_below`."""
    try:
        return folders.files_below(top)
    except OSError as error:
        raise DataError(f"folder cannot be read: {error.strerror}. {error.filename}. Allow reading it.") from error


def _class_of(path: Path, top: Path) -> str:
    parts = path.relative_to(top).parts
    return parts[0] if len(parts) > 1 else ""


def _census(files: Iterable[Path]) -> str:
    counts = collections.Counter(path.suffix.lower() or "without a suffix" for path in files)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(5)) or "nothing"
