"""What happens to a batch on the device before the network sees it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def to_float(images: Any, low: float = -1.0) -> jax.Array:
    """uint8 images 0..255 -> float32 in [low, 1]; from -1, x / 127.5 - 1, as in DDPM (section 3.3).

    Raises:
        ValueError: the images are of another type, such as floats that are in that range already.
    """
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 grey levels 0..255; got {images.dtype}")
    # In this order the ends are exactly low and 1. Compiled as written above, the division becomes a product and 255
    # overshoots 1.
    return ((1.0 - low) * images.astype(jnp.float32) + 255.0 * low) / 255.0


def shrink(images: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Images (B, H, W, C) as (B, *shape): each pixel the mean of those it replaces, a whole number a side."""
    batch, height, width, channels = images.shape
    blocks = images.reshape(batch, shape[0], height // shape[0], shape[1], width // shape[1], channels)
    return blocks.mean((2, 4))


def drop_labels(keys: jax.Array, labels: jax.Array, rate: float, null_class: int) -> jax.Array:
    """Puts the class that says nothing in the place of each label with probability `rate` (Ho & Salimans 2022).

    Args:
        keys: (B,) typed keys, one an example, as for `random_flip`.
        labels: (B,) classes.
        rate: the probability.
        null_class: the class that says nothing.

    Returns:
        (B,), the dtype of `labels`.
    """
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)
    return jnp.where(dropped, jnp.asarray(null_class, labels.dtype), labels)


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left-right with probability 1/2.

    Args:
        keys: (B,) typed keys, one an example; its flip depends on nothing else, so it is the same on any number of
            devices.
        images: (B, H, W, C) of any dtype.

    Returns:
        (B, H, W, C), the dtype of `images`.
    """
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
