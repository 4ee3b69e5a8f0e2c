"""Whether data are those that a network was trained on: what a checkpoint says of them, and what is asked of others.

Checkpoints of older versions say only the shape of the images and the number of classes, and are held to that.
"""

from collections.abc import Mapping
from typing import Any

from ddx.data import Dataset
from ddx.data.fingerprint import differences
from ddx.runtime.errors import DataError


def described(data: Dataset) -> dict[str, Any]:
    """What a checkpoint says of the data that it was trained on."""
    return {
        "image_shape": list(data.image_shape),
        "num_classes": data.num_classes,
        "data": data.fingerprint().record(),
    }


def check_same_data(trained: str, said: Mapping[str, Any], data: Dataset, remedy: str) -> None:
    """Refuse other data than a checkpoint says, and name what differs.

    Args:
      trained: what was trained on them, for the message.
      said: what `described` wrote.
      data: those at hand.
      remedy: what to do, a sentence.

    Raises:
      DataError: the data are others, or cannot be read.
    """
    found = differences(said.get("data"), data.fingerprint())
    if not found and said.get("num_classes", data.num_classes) != data.num_classes:
        found = [f"{said['num_classes']} classes -> {data.num_classes}"]
    shape = said.get("image_shape", data.image_shape)
    if list(shape) != list(data.image_shape):
        found.append(f"images of {_shape(shape)} -> {_shape(data.image_shape)}")
    if found:
        raise DataError(
            f"{trained} was trained on other data than {data.name} ({data.split}) holds now ({'; '.join(found)})."
            f" {remedy}"
        )


def check_same_classes(trained: str, said: Mapping[str, Any], data: Dataset, remedy: str) -> None:
    """Refuse data whose labels mean other classes than those that a network was told.

    Raises:
      DataError: they do.
    """
    old = said.get("data")
    if isinstance(old, dict) and old.get("classes") not in (None, list(data.classes)):
        found = differences({"classes": old["classes"]}, data.fingerprint())
        raise DataError(f"{trained} knows other classes than {data.name} {data.split} has ({found[0]}). {remedy}")


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape))
