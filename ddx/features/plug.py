"""What the module of a feature network says of it, and how its parameters are filled from a file."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddx.runtime.errors import CheckpointError
from ddx.runtime.paths import Path
from ddx.runtime.tensors import Tensor, Tensors

Keys = tuple[str, ...]
"""The path of an array in the tree of parameters, such as ("Mixed_5b", "branch1x1", "kernel")."""


class Source:
    """The tensors of a file, each checked when it is taken.

    Attributes:
      taken: the names of those that were.
    """

    def __init__(self, tensors: Tensors, where: Path):
        """Of a file, which messages name."""
        self._tensors, self._where = tensors, where
        self.taken: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self._tensors

    def take(self, *names: str) -> np.ndarray:
        """The tensor that has the first of these names that the file knows, as float32.

        Raises:
          CheckpointError: there is none, or a number in it is not finite.
        """
        name = next((name for name in names if name in self._tensors), None)
        if name is None:
            raise CheckpointError(f"{self._where} has no tensor {names[0]}, which its network needs. {_OTHER}")
        found = self._tensors[name]
        if not isinstance(found, Tensor):
            raise CheckpointError(f"{self._where}: {name} is no floating-point tensor. {_OTHER}")
        value = found.read()
        if not np.isfinite(value).all():
            raise CheckpointError(f"{self._where}: tensor {name} has a number that is not finite. {_OTHER}")
        self.taken.add(name)
        return value

    def check_shape(self, path: Keys, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        """Refuse an array of another shape than the network needs."""
        if found != wanted:
            raise CheckpointError(
                f"{self._where}: the weights of {'.'.join(path)} have the shape {found}, the network needs {wanted}."
                f" {_OTHER}"
            )

    def check_all_taken(self) -> None:
        """Refuse a file that holds more than the network."""
        if left := set(self._tensors) - self.taken:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise CheckpointError(
                f"{self._where} has a tensor {min(left, key=str)}{more} that no part of its network takes. {_OTHER}"
            )


class Plug(NamedTuple):
    """A feature network.

    Attributes:
      model: called with images as `preprocess` returns them; {"features": (B, D)}, and "logits" (B, K) if it has any.
      preprocess: (B, H, W, 3) float32 in [0, 255] and a protocol, to what the model takes. Shapes are static, so it may
        build matrices from them on the host.
      array: the array at a path of the model's parameters, from the tensors of the code that trained it.
      side: height and width that the model takes, and `channels`.
      without: pattern of the names of tensors that a source has and the network does not need.
    """

    model: nn.Module
    preprocess: Callable[[jax.Array, str], jax.Array]
    array: Callable[[Keys, Source], np.ndarray]
    side: int
    channels: int = 3
    without: str = ""


_OTHER = "Use the weights of this very network"


def shapes(plug: Plug) -> Mapping[str, Any]:
    """The tree of the model's parameters, with a shape and a type for each; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, plug.side, plug.side, plug.channels), jnp.float32)
    return jax.eval_shape(plug.model.init, jax.random.key(0), images)["params"]


def fill(plug: Plug, source: Source) -> dict[str, Any]:
    """The parameters of a network from the tensors of a file, as float32 arrays of NumPy's.

    Raises:
      CheckpointError: a tensor is missing, has another shape, is not finite, or belongs to nothing in the network.
    """
    params: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes(plug)):
        path = tuple(key.key for key in keys)
        value = plug.array(path, source)
        source.check_shape(path, value.shape, leaf.shape)
        inside = params
        for key in path[:-1]:
            inside = inside.setdefault(key, {})
        inside[path[-1]] = np.ascontiguousarray(value, np.float32)
    source.check_all_taken()
    return params
