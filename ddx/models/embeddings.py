"""Embeddings of the time that a network is told, and of places in an image."""

import math

import jax
import jax.numpy as jnp
import numpy as np


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


def position_embedding(height: int, width: int, dim: int) -> np.ndarray:
    """The fixed embedding of the places of a grid: DiT's (Peebles & Xie 2023).

    The place in row i and column j has [sin(j f_0..), cos(j f_0..), sin(i f_0..), cos(i f_0..)], with the frequencies
    f_k = 10000^(-k / (dim / 4)).

    Args:
      height: rows.
      width: columns.
      dim: size of the embedding, a multiple of 4.

    Returns:
      (height * width, dim) float32, row by row; computed in float64.

    Raises:
      ValueError: dim is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"an embedding of rows and columns needs a multiple of 4 dimensions; got {dim}")
    frequencies = 10_000.0 ** -(np.arange(dim // 4) / (dim // 4))

    def of_axis(number: int) -> np.ndarray:
        angles = np.arange(number)[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)

    both = np.broadcast_arrays(of_axis(width)[None, :], of_axis(height)[:, None])
    return np.concatenate(both, axis=-1).reshape(height * width, dim).astype(np.float32)
