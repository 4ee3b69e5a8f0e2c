"""Random draws that belong to examples: draw i depends only on (key, i), not on the batch size or the device count.

All keys are threefry keys, whatever kind JAX uses by default. Under `vmap`, keys of the other kinds, rbg and
unsafe_rbg, draw for every example what the first example's key draws, so an example would depend on the rest of its
batch. A key of another kind is therefore turned into a threefry key before anything is drawn from it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ddx.diffusion.arrays import Array, Key, Shape, Times

_THREEFRY = "threefry2x32"


def seed_key(seed: int) -> Key:
    """The threefry key of a seed, whatever kind of key JAX makes by default.

    Args:
      seed: an integer.

    Returns:
      One key.
    """
    return jax.random.key(seed, impl=_THREEFRY)


def typed(key: Key) -> Key:
    """Turn a key, or an array of keys, of any kind into threefry keys.

    Args:
      key: what `jax.random.key` or `jax.random.PRNGKey` returns, or an array of such keys. All 128 bits of a key of
        another kind are folded into the threefry key.

    Returns:
      Typed threefry keys, as many as were given.

    Raises:
      ValueError: the argument is not a key.
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


def example_keys(key: Key, examples: Array) -> Key:
    """One key for each example: `fold_in(key, example)`.

    Args:
      key: one key, from `jax.random.key` or a raw `PRNGKey`.
      examples: (B,) integers that name the examples.

    Returns:
      Keys of shape (B,).

    Raises:
      ValueError: `key` is not a key.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(typed(key), examples)


def batch_keys(key: Key | None, batch_size: int) -> Key:
    """The keys of a batch.

    Args:
      key: one key, from which examples 0 .. B - 1 get theirs by `fold_in`; or keys of shape (B,), one for each example.
      batch_size: B.

    Returns:
      Keys of shape (B,).

    Raises:
      ValueError: `key` is None, it is not a key, or several keys are given but not B of them.
    """
    if key is None:
        raise ValueError("sampling needs a key, or all its noise as noise=")
    key = typed(key)
    if key.ndim and key.shape != (batch_size,):
        raise ValueError(f"got keys of shape {key.shape} for {batch_size} examples; give one key, or one an example")
    return key if key.ndim else example_keys(key, jnp.arange(batch_size))


def fold_in(keys: Key, data: Array | int) -> Key:
    """Fold one number into the keys of all examples.

    Args:
      keys: (B,).
      data: one integer, ().

    Returns:
      Keys of shape (B,).

    Raises:
      ValueError: `keys` are not keys.
    """
    return jax.vmap(jax.random.fold_in, (0, None))(typed(keys), data)


def fold_in_time(keys: Key, t: Times) -> Key:
    """Fold a time into the keys of all examples; of a real time, the bits of its float32.

    Args:
      keys: (B,).
      t: one time, (), or one for each example, (B,).

    Returns:
      Keys of shape (B,).

    Raises:
      ValueError: `keys` are not keys.
    """
    keys, t = typed(keys), jnp.asarray(t)
    if jnp.issubdtype(t.dtype, jnp.floating):
        t = jax.lax.bitcast_convert_type(t.astype(jnp.float32), jnp.uint32)
    return jax.vmap(jax.random.fold_in)(keys, jnp.broadcast_to(t, keys.shape))


def signs(keys: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Rademacher draws: 1 or -1, as likely; example i is drawn from keys[i].

    Args:
      keys: (B,).
      shape: the shape of one example.
      dtype: the type of the result.

    Returns:
      (B, *shape).

    Raises:
      ValueError: `keys` are not keys.
    """
    return jax.vmap(lambda key: jax.random.rademacher(key, shape, dtype))(typed(keys))


def white_noise(keys: Key, shape: Shape, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Standard normal noise; example i is drawn from keys[i].

    It is drawn in float32 at least: draws in bfloat16 take only 128 different values, none beyond 2.9.

    Args:
      keys: (B,).
      shape: the shape of one example.
      dtype: the type of the result, a floating-point type.

    Returns:
      (B, *shape).

    Raises:
      ValueError: the dtype is not a floating-point type, or `keys` are not keys.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"noise is of floats, not of {np.dtype(dtype)}; use dtype=jnp.float32")
    precise = jnp.promote_types(dtype, jnp.float32)
    return jax.vmap(lambda key: jax.random.normal(key, shape, precise))(typed(keys)).astype(dtype)


def given_noise(noise: Array) -> Array:
    """A draw function whose entries are the noise itself: for callers that supply every draw."""
    return noise


def _described(key: Key) -> str:
    shape = getattr(key, "shape", None)
    return f"{type(key).__name__} {key!r}" if shape is None else f"{key.dtype} of shape {tuple(shape)}"
