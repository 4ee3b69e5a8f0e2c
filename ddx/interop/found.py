"""What is found in another code base's files: a network, and the config that a run with it has."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ddx.interop.names import Names
from ddx.runtime import folders
from ddx.runtime.errors import CheckpointError, shown
from ddx.runtime.paths import Path
from ddx.runtime.tensors import SAFETENSORS, TORCH, Tensor, Tensors


class Found(NamedTuple):
    """A network in another code base's files."""

    config: ConfigDict
    image_shape: tuple[int, int, int]  # (H, W, C)
    num_classes: int  # 0: it is told none
    tensors: Tensors
    path: Path  # of the tensors
    names: Names | None  # of the tensors; None for ddx's own
    step: int = 1  # of its training; 1 where nothing tells
    meta: Mapping[str, Any] = MappingProxyType({})  # what a checkpoint says besides


def set_images(config: ConfigDict, image_shape: tuple[int, int, int]) -> None:
    """Have a config's data brought to images of this shape."""
    height, width, channels = image_shape
    # A new group: the old one's size may be of another type, which a ConfigDict keeps.
    config.data = ConfigDict(config.data.to_dict() | {"image_size": height if height == width else (height, width)})
    config.data.channels = channels if channels in (1, 3) else 0


def weights_in(folder: Path, stem: str) -> Path:
    """The file of weights in a folder: full precision before a variant such as fp16, .safetensors before PyTorch's.

    Raises:
      CheckpointError: there is none, or it is in several parts.
    """
    names, suffixes = folders.names(folder), (SAFETENSORS, *TORCH)
    whole = [f"{stem}{suffix}" for suffix in suffixes if f"{stem}{suffix}" in names]
    variants = [name for suffix in suffixes for name in names if name.startswith(f"{stem}.") and name.endswith(suffix)]
    if whole + variants:
        return folder / (whole + variants)[0]
    split = next((name for name in names if name.endswith(".index.json")), None)
    if split:
        raise CheckpointError(f"{folder / split}: the weights are in several files. Save them as one")
    raise CheckpointError(f"{folder} has no {stem}{SAFETENSORS}. Put it there")


def state_dict(found: Any, path: Path) -> Tensors:
    """What a file holds as tensors by name, without the prefix of PyTorch's parallel modules.

    Raises:
      CheckpointError: it is something else.
    """
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path} holds no state dict, tensors by name. Use another file")
    for name, value in found.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise CheckpointError(f"{path}: {shown(name)} is no floating-point tensor. Use a file of weights alone")
    prefix = "module."
    if all(name.startswith(prefix) for name in found):
        return {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found
