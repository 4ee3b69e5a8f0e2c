"""The names of this package's array types, and what its public functions accept as images.

Where everything is known on the host, arrays are NumPy arrays in float64; in the graph they are JAX arrays. B is the
batch size, and an image has the shape (H, W, C).
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

Array: TypeAlias = jax.Array | np.ndarray

Images: TypeAlias = Array
"""(B, H, W, C) pixels."""

Coordinates: TypeAlias = Array
"""(B, H, W, C) coordinates of images in a process's basis."""

Coefficient: TypeAlias = Array
"""A number for each coordinate of a basis, or one for all coordinates: broadcasts to (B, H, W, C)."""

Times: TypeAlias = Array | int | float
"""One time, (), or a time for each example, (B,)."""

PerExample: TypeAlias = Array
"""A number for each example, (B,)."""

Shape: TypeAlias = tuple[int, ...]
"""The height and width of an image, (H, W)."""

Trajectory: TypeAlias = tuple[float, ...]
"""The times that a walk visits, known on the host: Python integers, or any real numbers where times are continuous."""

Key: TypeAlias = Any
"""One random key, or keys of shape (B,)."""

Numbers: TypeAlias = Array | float
"""An array of any shape, or a Python number."""


def check_floats(**arrays: Any) -> None:
    """Refuse images or noise that are not arrays of floating-point numbers.

    Images read from a file are integer grey levels. Used as they are, they would be truncated or would overflow
    silently (a uint8 cannot hold noise), and their range is not the range of the process. So integers and booleans are
    refused rather than promoted.

    Args:
      arrays: the arrays to check, under the names that the message uses.

    Raises:
      ValueError: one of them is not an array of floating-point numbers.
    """
    for name, x in arrays.items():
        dtype = getattr(x, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"{name} must be floats in one array, such as k / 127.5 - 1 for a grey level k of an image; got"
                f" {type(x).__name__ if dtype is None else dtype}. Convert it first"
            )


def computing_dtype(x: Array) -> np.dtype:
    """The type to compute in for an array like x.

    Args:
      x: an array of any shape.

    Returns:
      float32 at least; float64 for a float64 array where JAX has it enabled.
    """
    return jnp.promote_types(jax.dtypes.canonicalize_dtype(x.dtype), jnp.float32)


def cast(tree: Any, dtype: DTypeLike) -> Any:
    """Convert the leaves of a pytree to JAX arrays, floating-point numbers to the given type.

    Args:
      tree: a pytree of arrays and Python numbers.
      dtype: for the floating-point leaves; the others keep their type.

    Returns:
      A pytree of the same structure.
    """

    def leaf(x: Any) -> jax.Array:
        x = np.asarray(x) if isinstance(x, int | float) else x
        return jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.asarray(x)

    return jax.tree.map(leaf, tree)


def mean_over_image(x: Array) -> jax.Array:
    """The mean over the pixels or coordinates of each example.

    Args:
      x: (B, H, W, C).

    Returns:
      (B,).
    """
    return jnp.mean(x, (1, 2, 3))
