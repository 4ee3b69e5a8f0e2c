"""Embeddings of the time that a network is told."""

import math

import jax
import jax.numpy as jnp


def time_embedding(t: jax.Array, dim: int) -> jax.Array:
    """DDPM's sinusoidal embedding of times, [sin(t f_0..), cos(t f_0..)] with f_k = 10000^(-k / (dim // 2 - 1)).

    Args:
      t: (B,) network times (0-based indices), int or float.
      dim: size of the embedding, at least 4; an odd one is padded with a zero.

    Returns:
      (B, dim) float32.

    Raises:
      ValueError: dim is less than 4.
    """
    if dim < 4:
        raise ValueError(f"a time embedding needs at least 4 dimensions; got {dim}")
    half = dim // 2
    frequencies = jnp.exp(-math.log(10_000.0) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))
