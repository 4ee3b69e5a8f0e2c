"""Embeddings of the time that a network is told."""

import math

import jax
import jax.numpy as jnp


def time_embedding(t: jax.Array, dim: int, cosine_first: bool = False) -> jax.Array:
    """The sinusoidal embedding of times: DDPM's, or with `cosine_first` Improved DDPM's.

    DDPM's is [sin(t f_0..), cos(t f_0..)] with f_k = 10000^(-k / (dim // 2 - 1)), from 1 to 1/10000; Improved DDPM's is
    [cos(t f_0..), sin(t f_0..)] with f_k = 10000^(-k / (dim // 2)), which ends short of 1/10000.

    Args:
      t: (B,) network times (0-based indices), int or float.
      dim: size of the embedding, at least 4; an odd one is padded with a zero.
      cosine_first: the order and the frequencies.

    Returns:
      (B, dim) float32.

    Raises:
      ValueError: dim is less than 4.
    """
    if dim < 4:
        raise ValueError(f"a time embedding needs at least 4 dimensions; got {dim}")
    half = dim // 2
    intervals = half if cosine_first else half - 1
    frequencies = jnp.exp(-math.log(10_000.0) / intervals * jnp.arange(half, dtype=jnp.float32))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    embedding = jnp.concatenate([cosine, sine] if cosine_first else [sine, cosine], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))
