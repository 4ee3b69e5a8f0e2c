"""Weights, and what is kept for each of them, of which every device has its part and updates it there.

Which axis of an array is divided follows from its shape and the number of devices; an array that cannot be divided
evenly is kept whole by each. Vectors, of which a network has hundreds, are kept as one array, on a single device too:
each short vector would take a TPU as long as its shortest operation does, and XLA for CPUs takes seconds more to load a
program of so many arrays. As the helpers of `ddx.runtime.parallel`, those that a step calls are identities outside a
wrapper.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.runtime.devices import count
from ddx.runtime.parallel import AXIS, is_wrapped, put


class Packed(NamedTuple):
    """The float32 vectors of a tree as one, and its other arrays in order."""

    vectors: Any  # with zeros up to a length that can be divided; () if there is none
    others: list[Any]


def _is_vector(x: Any) -> bool:
    """Whether an array is one of the vectors that are kept as one array."""
    return len(x.shape) == 1 and x.dtype == np.float32


def _pack(tree: Any, numpy: Any = jnp) -> Packed:
    leaves = jax.tree.leaves(tree)
    vectors, others = [x for x in leaves if _is_vector(x)], [x for x in leaves if not _is_vector(x)]
    if not vectors:
        return Packed((), others)
    length = sum(len(x) for x in vectors)
    return Packed(numpy.pad(numpy.concatenate(vectors), (0, -length % count())), others)


def _unpack(packed: Packed, like: Any) -> Any:
    leaves, structure = jax.tree.flatten(like)
    others, found, start = iter(packed.others), [], 0
    for shaped in leaves:
        if _is_vector(shaped):
            found.append(packed.vectors[start : start + shaped.shape[0]])
            start += shaped.shape[0]
        else:
            found.append(next(others))
    return jax.tree.unflatten(structure, found)


def _unpacked(tree: Any, like: Any) -> Any:
    """A tree whose packed subtrees are as in `like`."""

    def is_packed(x: Any) -> bool:
        return isinstance(x, Packed)

    return jax.tree.map(lambda x, shaped: _unpack(x, shaped) if is_packed(x) else x, tree, like, is_leaf=is_packed)


def _part_axis(shape: tuple[int, ...]) -> int | None:
    """The axis along which devices divide an array among them; None if each has all of it."""
    fit = [axis for axis, size in enumerate(shape) if size and size % count() == 0]
    return max(fit, key=lambda axis: shape[axis], default=None) if count() > 1 else None


def mean(tree: Any) -> Any:
    """This device's part of the mean of a tree over devices, packed; the tree itself outside a wrapper."""

    def of(x: Any) -> Any:
        axis = _part_axis(x.shape)
        if axis is None:
            return jax.lax.pmean(x, AXIS) if count() > 1 else x
        return jax.lax.psum_scatter(x, AXIS, scatter_dimension=axis, tiled=True) / count()

    return jax.tree.map(of, _pack(tree)) if is_wrapped() else tree


def whole(parts: Any, like: Any) -> Any:
    """The tree, shaped like `like`, of which each device has a part; what is given outside a wrapper."""

    def of(x: Any, shaped: Any) -> Any:
        axis = _part_axis(shaped.shape)
        return x if axis is None else jax.lax.all_gather(x, AXIS, axis=axis, tiled=True)

    return _unpack(jax.tree.map(of, parts, _packed_shapes(like, like)), like) if is_wrapped() else parts


def norm(parts: Any, like: Any) -> Any:
    """The norm of all arrays together of which each device has a part, of a tree shaped like `like`."""
    if not is_wrapped():
        return jnp.sqrt(_sum_of_squares(jax.tree.leaves(parts)))
    leaves = list(zip(jax.tree.leaves(parts), jax.tree.leaves(_packed_shapes(like, like)), strict=True))
    total = _sum_of_squares([x for x, shaped in leaves if _part_axis(shaped.shape) is None])
    divided = [x for x, shaped in leaves if _part_axis(shaped.shape) is not None]
    return jnp.sqrt(total + jax.lax.psum(_sum_of_squares(divided), AXIS)) if divided else jnp.sqrt(total)


def _sum_of_squares(arrays: list[Any]) -> Any:
    # Vectors that are not one yet become one: a sum for each of hundreds would take compilers seconds.
    vectors = [x for x in arrays if x.ndim == 1]
    of_others = [x for x in arrays if x.ndim != 1] + ([jnp.concatenate(vectors)] if vectors else [])
    return sum((jnp.sum(jnp.square(x)) for x in of_others), jnp.zeros(()))


def _each(fn: Callable[[Any], Any], tree: Any, like: Any) -> Any:
    """Each subtree of the structure of `like` through a function; what is in none stays."""
    structure: Any = jax.tree.structure(like)

    def is_like(x: Any) -> bool:
        return bool(structure == jax.tree.structure(x))

    return jax.tree.map(lambda x: fn(x) if is_like(x) else x, tree, is_leaf=is_like)


def _packed_shapes(tree: Any, like: Any) -> Any:
    return jax.eval_shape(lambda: _each(_pack, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree), like))


def place(tree: Any, like: Any) -> Any:
    """Give each device its part of every array, (devices, ...); subtrees like `like` are packed."""
    devices = count()

    def divided(x: Any) -> Any:
        axis = _part_axis(np.shape(x))
        return np.stack(np.split(x, devices, axis)) if axis is not None else np.broadcast_to(x, (devices, *x.shape))

    packed = _each(lambda subtree: _pack(subtree, np), jax.tree.map(np.asarray, tree), like)
    return put(jax.tree.map(divided, packed), AXIS)


def shapes(tree: Any, like: Any) -> Any:
    """The shapes of what `place` makes of a tree."""
    devices = count()

    def shape(shaped: Any) -> Any:
        axis = _part_axis(shaped.shape)
        sides = [size // devices if at == axis else size for at, size in enumerate(shaped.shape)]
        return jax.ShapeDtypeStruct((devices, *sides), shaped.dtype)

    return jax.tree.map(shape, _packed_shapes(tree, like))


def copies(placed: Any, tree: Any, like: Any) -> Any:
    """Of what `place` makes of a tree, the arrays of which every device has all; () for the others."""
    shaped = _packed_shapes(tree, like)
    kept = jax.tree.map(lambda x, shaped: x if _part_axis(shaped.shape) is None else (), placed, shaped)
    return _unpacked(kept, tree)


def join(placed: Any, tree: Any, like: Any) -> Any:
    """The inverse of `place`, on the host; `tree` has the shapes of the result."""

    def joined(x: Any, shaped: Any) -> np.ndarray:
        x, axis = np.asarray(x), _part_axis(shaped.shape)
        return x[0] if axis is None else np.concatenate(x, axis)

    return _unpacked(jax.tree.map(joined, placed, _packed_shapes(tree, like)), tree)
