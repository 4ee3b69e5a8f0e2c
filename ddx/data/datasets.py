"""A data set: images of one shape and labels, by index."""

import concurrent.futures
import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from ddx.data import copies
from ddx.data.arrays import array
from ddx.data.copies import Storage
from ddx.data.decode import ChannelsError, Conversion, CropError
from ddx.data.fingerprint import Fingerprint
from ddx.data.prepared import prepared
from ddx.data.sources import Source, digits, folder
from ddx.runtime.errors import ConfigError, DataError
from ddx.runtime.paths import user_path

Shape = tuple[int, int, int]
_THREADS = min(16, os.cpu_count() or 1)
_DEFAULT = Storage()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one shape and their labels.

    Attributes:
        name: as given to `load`.
        split: as given to `load`.
        num_examples: at least 1.
        image_shape: (H, W, C).
        classes: their names by label; ("",) for a set without labels, all of them 0.
        fetch: what `read` is made of: (B,) indices to images and labels.
        fingerprint: what tells the data from others, wherever they lie; `DataError` if they cannot be read.
        kept: where decoded images are, for people.
    """

    name: str
    split: str
    num_examples: int
    image_shape: Shape
    classes: tuple[str, ...]
    fetch: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] = field(repr=False)
    fingerprint: Callable[[], Fingerprint] = field(repr=False)
    kept: str = "in memory"

    @property
    def num_classes(self) -> int:
        """Labels are 0 ... num_classes - 1."""
        return len(self.classes)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at `indices`, safe to call from several threads.

        Args:
            indices: (B,) integers in [0, num_examples).

        Returns:
            {"image": (B, H, W, C) uint8, "label": (B,) int32}, arrays of the caller's own.

        Raises:
            IndexError: an index is out of range.
            DataError: an image cannot be read; only sets that are not in memory get here with one.
        """
        indices = np.asarray(indices)
        if indices.size and not (0 <= indices.min() and indices.max() < self.num_examples):
            raise IndexError(f"an index is not in [0, {self.num_examples})")
        images, labels = self.fetch(indices)
        return {"image": images, "label": labels}


def load(
    name: str,
    *,
    split: str = "train",
    directory: str = "",
    image_size: int | tuple[int, int] = 0,
    channels: int = 0,
    crop: tuple[int, ...] = (),
    storage: Storage = _DEFAULT,
    check: Callable[[Dataset], None] | None = None,
) -> Dataset:
    """Opens a data set.

    A set that takes little memory is decoded here, once. A larger one is read from a decoded copy on disk, if
    `storage` says so, or decoded whenever it is read, so an unreadable image in it shows only then. What is read is the
    same in all three.

    Args:
        name: "digits" (shipped), "folder" (image files in `directory`), "array" (the NumPy file `directory`), or a data
            set of TensorFlow Datasets that lies prepared in `directory` (default $TFDS_DATA_DIR, then
            ~/tensorflow_datasets). See `digits` and `folder` in `ddx.data.sources`, `array` in `ddx.data.arrays`,
            `prepared` in `ddx.data.prepared`.
        split: "train", "test" or "all"; of a prepared set, any expression of TFDS.
        directory: of the images, or of all prepared data sets; or the file.
        image_size: (height, width), or pixels a side of a square: images are resized and cropped to it. 0: all have one
            size, and keep it.
        channels: 1 (grey) or 3 (RGB) converts; 0 keeps what the source has (3 for a folder, any number for arrays).
        crop: (top, left, height, width) to cut out of each image before it is resized; empty for all of it.
        storage: where decoded images are kept.
        check: called with the data set before all of it is decoded, which may take long; refuses it by raising.

    Raises:
        ConfigError: an argument cannot be used.
        DataError: the data are missing or cannot be read.
    """
    if channels not in (0, 1, 3):
        raise ConfigError(f"data.channels must be 0 (as the images are), 1 or 3, got {channels}.")
    source = _open(name, split, str(user_path(directory, "data.dir")) if directory else "")
    conversion = Conversion(channels or source.channels, _sides(image_size), tuple(crop))
    image, _ = next(source.examples([0]))
    shape = _convert(source, conversion, 0, image).shape
    convert = functools.partial(_convert, source, conversion)
    fetch = functools.partial(decode, source, convert, shape)
    fingerprint = functools.cache(source.fingerprint)
    data = Dataset(name, split, source.num_examples, shape, source.classes, fetch, fingerprint)
    if check is not None:
        check(data)
    if source.num_examples * math.prod(shape) <= storage.memory_mib * 2**20:
        images, labels = fetch(np.arange(source.num_examples), progress=f"decoding {name} {split}")
        return dataclasses.replace(data, fetch=functools.partial(_gather, images, labels))
    if source.decoded and conversion.keeps(image):
        return dataclasses.replace(data, kept=f"read from {source.decoded}")
    wanted = copies.Wanted(name, split, fingerprint, conversion, (source.num_examples, *shape))
    kept_fetch, kept = copies.fetch(storage, wanted, fetch)
    return dataclasses.replace(data, fetch=kept_fetch, kept=kept)


def _sides(image_size: int | tuple[int, int]) -> tuple[int, int] | None:
    """(H, W), or None for images that keep their size."""
    if image_size == 0:
        return None
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or min(sides) < 1:
        raise ConfigError(
            f"data.image_size must be 0 (as the images are), or one or two numbers of at least 1, got {image_size}."
        )
    return sides


def _open(name: str, split: str, directory: str) -> Source:
    if name == "digits":
        return digits(split)
    if name == "folder":
        return folder(directory, split)
    if name == "array":
        return array(directory, split)
    return prepared(name, split, directory)


def _gather(images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return images[indices], labels[indices]


def decode(
    source: Source,
    convert: Callable[[int, Any], np.ndarray],
    shape: Shape,
    indices: np.ndarray,
    progress: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the examples at these indices by a pool of threads: Pillow lets others run while it decodes.

    Args:
        source: where they are from.
        convert: convert(index, image) -> an array, of what the source's `examples` gives.
        shape: what every array must have.
        indices: (B,).
        progress: names a bar, which is shown on a terminal only.

    Returns:
        (B, H, W, C) uint8 and (B,) int32.

    Raises:
        DataError: an example cannot be read, or has another shape.
    """
    images = np.empty((len(indices), *shape), np.uint8)
    labels = np.empty(len(indices), np.int32)
    chunk = max(1, min(256, math.ceil(len(indices) / _THREADS)))

    def fill(start: int) -> int:
        part = [int(index) for index in indices[start : start + chunk]]
        for row, index, (image, label) in zip(itertools.count(start), part, source.examples(part)):
            array = convert(index, image)
            _check(source, index, array.shape, shape, label)
            images[row], labels[row] = array, label
        return len(part)

    with (
        concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="ddx-decode") as pool,
        tqdm(total=len(indices), desc=progress, unit="image", disable=None if progress else True) as bar,
    ):
        # In order, so that the first bad image is the one reported; map cancels what is left then.
        for count in pool.map(fill, range(0, len(indices), chunk)):
            bar.update(count)
    return images, labels


def _convert(source: Source, conversion: Conversion, index: int, image: Any) -> np.ndarray:
    try:
        return conversion(image)
    except CropError as error:
        raise ConfigError(f"{error}. {source.where(index)}. Set data.crop to a part of it") from error
    except ChannelsError as error:
        raise ConfigError(
            f"{error}. {source.where(index)}. Leave out data.crop, data.image_size and data.channels, and store the"
            " images as they are to be"
        ) from error
    except ValueError as error:
        raise DataError(f"image cannot be used: {error}. {source.where(index)}. {source.remedy}") from error


def _check(source: Source, index: int, shape: tuple[int, ...], wanted: Shape, label: int) -> None:
    if shape != wanted:
        raise DataError(
            f"image is {shape[0]}x{shape[1]} pixels (height x width), the first of its set is {wanted[0]}x{wanted[1]}. "
            f"{source.where(index)}. Set data.image_size to bring all to one size."
        )
    if not 0 <= label < len(source.classes):
        raise DataError(
            f"label {label} is not one of {len(source.classes)} classes. {source.where(index)}. {source.remedy}"
        )
