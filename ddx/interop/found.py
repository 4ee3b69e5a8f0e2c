"""What is found in another code base's files: a network, and the config that a run with it has."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ddx.interop.names import Names
from ddx.runtime import folders, storage
from ddx.runtime.errors import CheckpointError, shown, telling_line
from ddx.runtime.paths import Path
from ddx.runtime.tensors import SAFETENSORS, TORCH, Tensor, Tensors, read


class Found(NamedTuple):
    """A network in another code base's files."""

    config: ConfigDict
    image_shape: tuple[int, int, int]  # (H, W, C)
    num_classes: int  # 0: it is told none
    tensors: Tensors
    path: Path  # of the tensors: a file, or an index of several
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
    """The file of weights in a folder, or the index of several.

    Full precision comes before a variant such as fp16, .safetensors before PyTorch's, one file before several.

    Raises:
      CheckpointError: there is none.
    """
    names, kinds = folders.names(folder), [kind + part for kind in (SAFETENSORS, *TORCH) for part in ("", INDEX)]
    whole = [f"{stem}{kind}" for kind in kinds if f"{stem}{kind}" in names]
    variants = [name for kind in kinds for name in names if name.startswith(f"{stem}.") and name.endswith(kind)]
    if not whole + variants:
        raise CheckpointError(f"{folder} has no {stem}{SAFETENSORS}. Put it there")
    return folder / (whole + variants)[0]


INDEX = ".index.json"
"""How the name of an index ends, which says the file of each tensor: {"weight_map": {"conv_in.weight": NAME, ...}}."""


def tensors_in(path: Path) -> Tensors:
    """The tensors of a file, or of all files that an index names.

    Raises:
      ConfigError, CheckpointError: as `ddx.runtime.tensors.read`; or the index and the files do not agree.
    """
    if not path.name.endswith(INDEX):
        return state_dict(read(path), path)
    listed, found = _listed(path), dict[str, Tensor]()
    for file in files_of(path):
        if not storage.is_file(file):
            raise CheckpointError(f"there is no file {file}, which {path.name} names. Fetch it too")
        inside = state_dict(read(file), file)
        wanted = {name for name, of in listed.items() if of == file.name}
        for names, told in ((wanted - inside.keys(), "has no tensor"), (inside.keys() - wanted, "has a tensor")):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise CheckpointError(f"{file} {told} {shown(min(names))}{more}, unlike {path.name}. Fetch both again")
        found |= inside
    return found


def files_of(path: Path) -> list[Path]:
    """The file itself, or those that an index names."""
    return [path.parent / name for name in sorted(set(_listed(path).values()))] if path.name.endswith(INDEX) else [path]


def _listed(index: Path) -> dict[str, str]:
    """The name of the file of each tensor."""
    try:
        said = json.loads(storage.read_text(index))
        listed = dict(said["weight_map"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of weights ({telling_line(error)}). Fetch it again") from None
    for name, file in listed.items():
        if not isinstance(file, str) or not file.endswith((SAFETENSORS, *TORCH)) or "/" in file:
            where = f"tensor {shown(name)} is in {shown(file)}, which is no file of weights beside it"
            raise CheckpointError(f"{index}: {where}. Fetch it again")
    if not listed:
        raise CheckpointError(f"{index} names no tensors. Fetch it again")
    return listed


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
