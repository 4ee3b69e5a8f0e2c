"""What a data set's images are like, where they are not at hand: by what TFDS says of it, and what is done to them."""

from typing import Any

from ddx.data.datasets import Shape
from ddx.runtime.errors import ConfigError

_TELL = "Set data.image_size and data.channels, or pass --image_shape"


def expected(name: str, image_size: int | tuple[int, int], channels: int) -> tuple[Shape, int]:
    """The shape (H, W, C) of the images of a set, and the number of its classes, 1 without labels.

    Raises:
      ConfigError: nothing tells.
    """
    shape, num_classes = _as_stored(name)
    height, width, stored = shape
    if image_size:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height is None or width is None:
        raise ConfigError(f"the size of the images of {name} is not known. {_TELL}")
    return (height, width, channels or stored or 3), num_classes


def _as_stored(name: str) -> tuple[tuple[Any, Any, Any], int]:
    """(H, W, C), None for what differs or is not known, and the number of classes."""
    if name == "digits":
        return (8, 8, 1), 10
    if name in ("folder", "array", "given"):
        return (None, None, None), 1
    import tensorflow_datasets as tfds

    try:
        features = tfds.builder(name).info.features
    except Exception as error:  # unknown, or the code of that set wants what is not installed
        raise ConfigError(f"TFDS does not tell the images of {name} ({type(error).__name__}). {_TELL}") from error
    label = features["label"] if "label" in features else None
    return features["image"].shape, getattr(label, "num_classes", None) or 1
