"""Random draws that belong to examples: draw i depends only on (key, i), not on batch size or device count."""

from typing import Any

import jax
import jax.numpy as jnp


def typed(key: Any) -> Any:
    """The key or keys as `jax.random.key` makes them; raw `PRNGKey`s are wrapped."""
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


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
    if key.ndim and len(key) != batch_size:
        raise ValueError(f"got {len(key)} keys for {batch_size} examples")
    return key if key.ndim else example_keys(key, jnp.arange(batch_size))


def fold_in(keys: Any, data: Any) -> Any:
    """`jax.random.fold_in` for keys of shape (B,) with one number for all."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def white_noise(keys: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Standard normal noise of shape (B, *shape); example i is drawn from keys[i]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)
