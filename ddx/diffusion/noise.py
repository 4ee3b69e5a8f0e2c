"""Random draws that belong to examples: draw i depends only on (key, i), not on batch size or device count.

Keys are threefry, whatever JAX's default is. Under `vmap` a key of the other kinds, rbg and unsafe_rbg, draws for all
examples what the first one's draws: an example would depend on the batch that it is in. So a key of another kind
becomes a threefry key before anything is drawn from it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_THREEFRY = "threefry2x32"


def seed_key(seed: int) -> Any:
    """The key of a seed: `jax.random.key`, but of one kind whatever JAX's default is."""
    return jax.random.key(seed, impl=_THREEFRY)


def typed(key: Any) -> Any:
    """The threefry key or keys of what the user gave.

    Args:
      key: what `jax.random.key` or `jax.random.PRNGKey` make, of any kind, or an array of them. A key of another kind
        is folded, all its 128 bits, into a threefry key.

    Raises:
      ValueError: it is no key.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        if str(jax.random.key_impl(key)) == _THREEFRY:
            return key
        key = jax.random.key_data(key)
    elif dtype != np.uint32 or not key.ndim or key.shape[-1] not in (2, 4):
        raise ValueError(f"a key must be made by jax.random.key, such as jax.random.key(0); got {_described(key)}")
    words = jnp.asarray(key)
    keys = jax.random.wrap_key_data(words[..., :2], impl=_THREEFRY)
    for i in range(2, words.shape[-1]):
        keys = jnp.vectorize(jax.random.fold_in)(keys, words[..., i])
    return keys


def example_keys(key: Any, examples: Any) -> Any:
    """One key for each example: `fold_in(key, example)`, shape (B,).

    Args:
      key: one key; a `jax.random.key` or a raw `PRNGKey`.
      examples: (B,) integers that name the examples.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(typed(key), examples)


def batch_keys(key: Any, batch_size: int) -> Any:
    """Keys of shape (B,): those of examples 0 .. B - 1 of one key, or the keys that are given, one an example."""
    if key is None:
        raise ValueError("sampling needs a key, or all its noise as noise=")
    key = typed(key)
    if key.ndim and key.shape != (batch_size,):
        raise ValueError(f"got keys of shape {key.shape} for {batch_size} examples; give one key, or one an example")
    return key if key.ndim else example_keys(key, jnp.arange(batch_size))


def fold_in(keys: Any, data: Any) -> Any:
    """`jax.random.fold_in` for keys of shape (B,) with one number for all."""
    return jax.vmap(jax.random.fold_in, (0, None))(typed(keys), data)


def white_noise(keys: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Standard normal noise of shape (B, *shape); example i is drawn from keys[i].

    It is drawn in float32 at least: bfloat16 has 128 different draws, none beyond 2.9.

    Raises:
      ValueError: the dtype is not one of floating-point numbers.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"noise is of floats, not of {np.dtype(dtype)}; use dtype=jnp.float32")
    precise = jnp.promote_types(dtype, jnp.float32)
    return jax.vmap(lambda key: jax.random.normal(key, shape, precise))(typed(keys)).astype(dtype)


def _described(key: Any) -> str:
    shape = getattr(key, "shape", None)
    return f"{type(key).__name__} {key!r}" if shape is None else f"{key.dtype} of shape {tuple(shape)}"
