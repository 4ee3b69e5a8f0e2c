"""Arrays of which every device keeps its part, and updates it there.

Which axis is divided follows from an array's shape and the number of devices; an array that cannot be divided evenly is
kept whole by each. As the helpers of `ddx.runtime.parallel`, those that a step calls are identities outside a wrapper.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddx.runtime.devices import count
from ddx.runtime.parallel import AXIS, is_wrapped, put


def _part_axis(shape: tuple[int, ...]) -> int | None:
    """The axis along which devices divide an array among them; None if each has all of it."""
    fit = [axis for axis, size in enumerate(shape) if size and size % count() == 0]
    return max(fit, key=lambda axis: shape[axis], default=None) if count() > 1 else None


def mean(tree: Any) -> Any:
    """This device's part of the mean of every array over devices; the arrays themselves outside a wrapper."""

    def of(x: Any) -> Any:
        axis = _part_axis(x.shape)
        if axis is None:
            return jax.lax.pmean(x, AXIS)
        return jax.lax.psum_scatter(x, AXIS, scatter_dimension=axis, tiled=True) / count()

    return jax.tree.map(of, tree) if is_wrapped() and count() > 1 else tree


def whole(parts: Any, like: Any) -> Any:
    """The arrays of which each device has a part, shaped like `like`; the arrays themselves outside a wrapper."""

    def of(x: Any, shaped: Any) -> Any:
        axis = _part_axis(shaped.shape)
        return x if axis is None else jax.lax.all_gather(x, AXIS, axis=axis, tiled=True)

    return jax.tree.map(of, parts, like) if is_wrapped() else parts


def norm(parts: Any, like: Any) -> Any:
    """The norm of all arrays together of which each device has a part."""
    leaves = list(zip(jax.tree.leaves(parts), jax.tree.leaves(like), strict=True))
    divided = [x for x, shaped in leaves if _part_axis(shaped.shape) is not None]
    total = _sum_of_squares([x for x, shaped in leaves if _part_axis(shaped.shape) is None])
    if divided:
        of_parts = _sum_of_squares(divided)
        total += jax.lax.psum(of_parts, AXIS) if is_wrapped() else of_parts
    return jnp.sqrt(total)


def _sum_of_squares(arrays: list[Any]) -> Any:
    # Vectors are one vector: a sum for each of hundreds would take compilers seconds.
    vectors = [x for x in arrays if x.ndim == 1]
    of_others = [x for x in arrays if x.ndim != 1] + ([jnp.concatenate(vectors)] if vectors else [])
    return sum((jnp.sum(jnp.square(x)) for x in of_others), jnp.zeros(()))


def place(tree: Any) -> Any:
    """Give each device its part of every array, (devices, ...)."""
    devices = count()

    def divided(x: Any) -> Any:
        axis = _part_axis(np.shape(x))
        x = np.asarray(x)
        return np.stack(np.split(x, devices, axis)) if axis is not None else np.broadcast_to(x, (devices, *x.shape))

    return put(jax.tree.map(divided, tree), AXIS)


def shapes(like: Any) -> Any:
    """What `place` makes of arrays shaped like `like`."""
    devices = count()

    def shape(shaped: Any) -> Any:
        axis = _part_axis(shaped.shape)
        sides = [size // devices if at == axis else size for at, size in enumerate(shaped.shape)]
        return jax.ShapeDtypeStruct((devices, *sides), shaped.dtype)

    return jax.tree.map(shape, like)


def copies(tree: Any, like: Any) -> Any:
    """Of what `place` makes of arrays shaped like `like`, those of which every device has all; () for the others."""
    return jax.tree.map(lambda x, shaped: x if _part_axis(shaped.shape) is None else (), tree, like)


def join(tree: Any, like: Any) -> Any:
    """The inverse of `place`, on the host, for arrays shaped like `like`."""

    def joined(x: Any, shaped: Any) -> np.ndarray:
        x, axis = np.asarray(x), _part_axis(shaped.shape)
        return x[0] if axis is None else np.concatenate(x, axis)

    return jax.tree.map(joined, tree, like)
