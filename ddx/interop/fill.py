"""From another code base's tensors to the parameters of a network of ddx."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ddx.interop.names import Keys, Names, Place
from ddx.models import Network
from ddx.runtime.errors import CheckpointError
from ddx.runtime.paths import Path
from ddx.runtime.tensors import Tensor, Tensors


def fill(
    shapes: Mapping[str, Any], tensors: Tensors, names: Names | None, model: Network, where: Path
) -> dict[str, Any]:
    """The parameters of a network, from the tensors of a file that holds this network and nothing else.

    Args:
      shapes: the parameters' tree, with a shape for each.
      tensors: the file's, by name.
      names: those of the code base that wrote it; None for ddx's own, "down_1_block_0/conv1/kernel", and shapes.
      model: the network.
      where: the file, for messages.

    Returns:
      The tree with a float32 array of NumPy's for each.

    Raises:
      CheckpointError: a tensor is missing, has another shape, is not finite, or belongs to nothing in the network.
    """
    left = set(tensors)
    params: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        path = tuple(key.key for key in keys)
        place = Place(("/".join(path),)) if names is None else names.place(path, model)
        name = next((name for name in place.names if name in tensors), None)
        if name is None:
            raise CheckpointError(f"{where} has no tensor {place.names[0]}, which its network needs. {_OTHER}")
        left.discard(name)
        if names is None:
            value = _checked(tensors[name], name, leaf.shape, where).reshape(leaf.shape)
        else:
            heads = model.heads(leaf.shape[-1]) if names.by_head else 1
            value = _converted(tensors[name], name, place.part, path, leaf.shape, heads, where)
        _insert(params, path, value)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise CheckpointError(f"{where} has a tensor {min(left)}{more} that no part of its network takes. {_OTHER}")
    return params


_OTHER = "Use the config that belongs to these weights"


def _converted(
    tensor: Tensor,
    name: str,
    part: int | None,
    path: Keys,
    shape: tuple[int, ...],
    heads: int,
    where: Path,
) -> np.ndarray:
    """A tensor as the array of a path: PyTorch has outputs before inputs, and images' height and width after both.

    Of a tensor with several parts, `heads` times in a row, it is one part.
    """
    wanted = shape if len(shape) == 1 or path[-1] == "embedding" else (shape[-1], shape[-2], *shape[:-2])
    if part is not None:
        wanted = (3 * wanted[0], *wanted[1:])
    value = _checked(tensor, name, wanted, where).reshape(wanted)
    if part is not None:
        value = value.reshape(heads, 3, -1, *wanted[1:])[:, part].reshape(wanted[0] // 3, *wanted[1:])
    if len(wanted) > 1 and path[-1] != "embedding":
        value = np.moveaxis(value, (0, 1), (-1, -2))
    return np.ascontiguousarray(value)


def _checked(tensor: Tensor, name: str, wanted: tuple[int, ...], where: Path) -> np.ndarray:
    saved = tensor.shape
    if saved[: len(wanted)] != wanted or any(n != 1 for n in saved[len(wanted) :]):  # a 1 x 1 convolution is dense
        raise CheckpointError(f"{where}: tensor {name} has the shape {saved}, and its network needs {wanted}. {_OTHER}")
    value = tensor.read()
    if not np.isfinite(value).all():
        raise CheckpointError(f"{where}: tensor {name} has a number that is not finite. Use other weights")
    return value


def _insert(params: dict[str, Any], path: Keys, value: np.ndarray) -> None:
    for key in path[:-1]:
        params = params.setdefault(key, {})
    params[path[-1]] = value
