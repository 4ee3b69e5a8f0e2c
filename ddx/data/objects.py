"""Data that a Python program holds: any object with a length whose items, by index, are images."""

import operator
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddx.data.datasets import Dataset, Shape
from ddx.data.decode import one_line
from ddx.data.fingerprint import SOME, Fingerprint, checksum
from ddx.runtime.errors import DataError

_KINDS = 'an image, (image, label) or {"image": image, "label": label}'


def from_object(data: Any, classes: Sequence[str] = ()) -> Dataset:
    """A data set from an object with `__len__` and `__getitem__`: a list, an array, a grain or a torch-style data set.

    Nothing is kept: an example is read whenever it is needed, one at a time, so the object need not be safe to use from
    several threads. It should give the same example each time, or no run can be repeated. Its fingerprint is of the
    content of up to 256 examples at equal distances.

    Args:
        data: data[i] is an image, (image, label) or {"image": image, "label": label}, with labels in all examples or in
            none. An image is uint8, (H, W) or (H, W, C) of any C, and all have one shape.
        classes: names by label. Without them classes are named by their numbers, and where there are labels all
            examples are read once to learn how many there are.

    Raises:
        DataError: the object is no such thing, or one of its examples is none.
    """
    reader = _Reader(data)
    first = reader(0)
    shape, labelled = first.image.shape, first.label is not None
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise DataError(f"classes={classes!r} must be a sequence of names, one a label, such as ('cat', 'dog')")
    if classes and not labelled:
        raise DataError(f"classes are given, and example 0 of {reader.name} has no label. Give it as (image, label)")
    names = tuple(classes) or ("",)
    if labelled and not classes:
        most = max(reader.example(index, shape, labelled, 2**16).label or 0 for index in range(len(reader)))
        names = tuple(map(str, range(most + 1)))

    def fetch(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = np.empty((len(indices), *shape), np.uint8), np.zeros(len(indices), np.int32)
        for row, index in enumerate(indices):
            example = reader.example(int(index), shape, labelled, len(names))
            images[row], labels[row] = example.image, example.label or 0
        return images, labels

    def fingerprint() -> Fingerprint:
        chosen = np.unique(np.linspace(0, len(reader) - 1, min(SOME, len(reader))).round().astype(int))
        found = (reader.example(int(index), shape, labelled, len(names)) for index in chosen)
        content = checksum(f"{example.label or 0} ".encode() + example.image.tobytes() for example in found)
        return Fingerprint("", names, len(reader), checksum([str(shape).encode()]), content)

    return Dataset(reader.name, "from Python", len(reader), shape, names, fetch, fingerprint, "read one by one")


class _Example(NamedTuple):
    image: np.ndarray  # (H, W, C) uint8
    label: int | None


class _Reader:
    """Reads examples of an object, in one thread at a time."""

    def __init__(self, data: Any) -> None:
        self.name = type(data).__name__
        if not hasattr(type(data), "__len__") or not hasattr(type(data), "__getitem__"):
            raise DataError(f"data of type {self.name} have no __len__ and __getitem__. Pass a list or an array, say")
        if isinstance(data, Mapping | str | bytes):
            raise DataError(f"data of type {self.name} are not numbered examples. Pass a list of {_KINDS}")
        self._data, self._lock = data, threading.Lock()
        try:
            self._count = len(data)
        except Exception as error:
            raise DataError(f"data of type {self.name} have no length: {one_line(error)}. Pass a finite set") from error
        if not self._count:
            raise DataError(f"data of type {self.name} have no examples. Pass at least one")

    def __len__(self) -> int:
        return self._count

    def __call__(self, index: int) -> _Example:
        """An example of any shape."""
        where = f"example {index} of {self.name}"
        try:
            with self._lock:
                item = self._data[index]
            image, label = _parts(item)
            array = np.asarray(image)
        except Exception as error:
            raise DataError(f"{where} cannot be read: {one_line(error)}. It must be {_KINDS}") from error
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or not array.size:
            raise DataError(
                f"{where} is {array.dtype} of shape {array.shape}. Give uint8 images, (H, W) or (H, W, C), grey levels"
                " 0..255"
            )
        return _Example(array if array.ndim == 3 else array[..., None], label)

    def example(self, index: int, shape: Shape, labelled: bool, num_classes: int) -> _Example:
        """An example that must be like the first, and its label one of so many classes."""
        example = self(index)
        where = f"example {index} of {self.name}"
        if example.image.shape != shape:
            raise DataError(f"{where} has the shape {example.image.shape}, the first {shape}. Bring all to one shape")
        if (example.label is not None) != labelled:
            raise DataError(f"{where} has {'no' if labelled else 'a'} label, unlike the first. Label all or none")
        if example.label is not None and not 0 <= example.label < num_classes:
            raise DataError(f"{where} has the label {example.label}. Labels are 0 ... {num_classes - 1}, one a class")
        return example


def _parts(item: Any) -> tuple[Any, int | None]:
    """The image and the label of an item."""
    if isinstance(item, Mapping):
        image, label = item["image"], item.get("label")
    elif isinstance(item, tuple | list):
        if len(item) != 2:
            raise ValueError(f"it is {len(item)} values")
        image, label = item
    else:
        image, label = item, None
    return image, None if label is None else operator.index(label.item() if hasattr(label, "item") else label)
