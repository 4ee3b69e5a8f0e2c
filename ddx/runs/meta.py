"""What a run's checkpoint says besides its arrays, checked: a manifest may be sealed and still say anything."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddx.config.keys import MOST_PIXELS
from ddx.config.values import completed
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path


def checked(meta: Any, folder: Path) -> dict[str, Any]:
    """The JSON that a run saved with the checkpoint in `folder`, in which the types of what a run needs are right.

    Raises:
      CheckpointError: they are not.
    """
    wrong = [name for name, is_right in _RIGHT.items() if not _holds(is_right, meta)]
    if wrong:
        raise CheckpointError(
            f"checkpoint {folder} has no usable {wrong[0]} in its MANIFEST.json. Use another step, or put one back"
        )
    found: dict[str, Any] = meta
    return found


def config_of(meta: dict[str, Any], folder: Path) -> ConfigDict:
    """The config of a checkpoint.

    Raises:
      CheckpointError: it is none.
    """
    try:
        return completed(meta["config"])
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {folder} has no usable config ({error}). Use another step") from None


def _holds(is_right: Any, meta: Any) -> bool:
    try:
        return bool(is_right(meta))
    except (KeyError, TypeError, AttributeError, ValueError):
        return False


def _is_count(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_image_shape(shape: Any) -> bool:
    return isinstance(shape, list | tuple) and len(shape) == 3 and all(_is_count(n, 1, MOST_PIXELS) for n in shape)


def _is_spectrum(meta: Any) -> bool:
    if "spectrum" not in meta:
        process = meta["config"].get("process")  # where that is none, the config is told to be unusable
        return not (isinstance(process, dict) and process.get("noise") == "equal_snr")
    found = np.asarray(meta["spectrum"], np.float64)
    return found.shape == tuple(meta["image_shape"]) and bool(np.all(np.isfinite(found) & (found >= 0)))


def _are_metrics(pending: Any) -> bool:
    lists = list(pending.values())
    return all(isinstance(values, list) and len(values) == len(lists[0]) for values in lists)


def _is_history(history: Any) -> bool:
    return isinstance(history, list) and all(
        type(one["step"]) is int and isinstance(one["changes"], dict) for one in history
    )


_RIGHT = {
    "config": lambda meta: isinstance(meta["config"], dict),
    "image_shape": lambda meta: _is_image_shape(meta["image_shape"]),
    "num_classes": lambda meta: _is_count(meta.get("num_classes", 1), 1, 2**31),
    "spectrum": _is_spectrum,
    "pending": lambda meta: _are_metrics(meta.get("pending", {})),
    "history": lambda meta: _is_history(meta.get("history", [])),
    "bad_steps": lambda meta: _is_count(meta.get("bad_steps", 0), 0, 2**31),
}
