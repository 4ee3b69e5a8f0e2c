"""Resizing as the protocols of published scores do it: two small matrices, built on the host in float64.

Every one of these methods is linear and works on rows and columns apart, so an image x becomes V x H^T, with a matrix
for the height and one for the width. They differ in where a pixel of the output lies in the input, how far it looks
around, and what is beyond the border; the distance between two of them is many times what networks differ by, and a
score moves with it (Parmar, Zhang & Zhu 2022).
"""

import functools
from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Method(NamedTuple):
    """How to resize.

    Attributes:
      kernel: the weight of a pixel at a distance, an even function; may be negative.
      reach: the distance from which on the kernel is 0, in pixels.
      centres: whether pixels lie at their centres, at i + 1/2; if False, at their corners, at i, which TensorFlow 1
        rounds to float32.
      antialias: whether the kernel grows with the scale where the output is smaller than the input.
      replicate: whether pixels beyond the border count as the nearest one in it; if False, the weights of those within
        are scaled up to the sum 1.
    """

    kernel: Callable[[np.ndarray], np.ndarray]
    reach: int
    centres: bool
    antialias: bool
    replicate: bool


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(distance), 0)


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    """Keys's cubic convolution (1981, equation 15, which has a = -1/2)."""

    def kernel(distance: np.ndarray) -> np.ndarray:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = a * (((d - 5) * d + 8) * d - 4)
        return np.where(d < 1, near, np.where(d < 2, far, 0))

    return kernel


METHODS = MappingProxyType(
    {
        "tf1": Method(_linear, 1, False, False, True),  # of TensorFlow 1, which the graph of FID's Inception holds
        "linear": Method(_linear, 1, True, False, True),  # of PyTorch's interpolate, without antialiasing
        "cubic": Method(_cubic(-0.75), 2, True, False, True),  # of the same
        "linear_antialiased": Method(_linear, 1, True, True, False),  # of Pillow, and of jax.image.resize
        "cubic_antialiased": Method(_cubic(-0.5), 2, True, True, False),  # of the same
    }
)


@functools.lru_cache(maxsize=64)
def matrix(method: str, size: int, to: int, step: float | None = None) -> np.ndarray:
    """The matrix that resizes one axis.

    Args:
      method: a key of `METHODS`.
      size: pixels of the input.
      to: pixels of the output.
      step: distance of two pixels of the output, in pixels of the input; by default size / to.

    Returns:
      (to, size) float64, of which each row sums to 1.
    """
    how = METHODS[method]
    step = size / to if step is None else step
    spread = max(step, 1.0) if how.antialias else 1.0
    i = np.arange(to)[:, None]
    at = (i + 0.5) * step - 0.5 if how.centres else np.float64(np.float32(i) * np.float32(step))
    # As many pixels around each as the kernel reaches.
    around = np.floor(at) + np.arange(-int(np.ceil(how.reach * spread)), int(np.ceil(how.reach * spread)) + 2)
    weights = how.kernel((around - at) / spread)
    if not how.replicate:
        weights = np.where((around >= 0) & (around < size), weights, 0)
        weights = weights / weights.sum(1, keepdims=True)
    found = np.zeros((to, size))
    np.add.at(found, (i, np.clip(around, 0, size - 1).astype(int)), weights)
    found.setflags(write=False)  # it is kept for others
    return found


def resize(images: jax.Array, side: int, method: str) -> jax.Array:
    """Images at another size, in float32: (B, H, W, C) to (B, side, side, C); as they are if they have that size."""
    to_width, to_height = (matrix(method, size, side).astype(np.float32) for size in (images.shape[2], images.shape[1]))
    return _along_height(to_height, _along_width(to_width, images))


def resize_pixels(images: jax.Array, side: int, method: str) -> jax.Array:
    """The same of whole numbers in [0, 255] as Pillow does it, in the same bits: rounded after each axis, width first.

    Pillow 13 begins with the height where that is less work, as in images that are higher than wide; the versions that
    published scores were made with did not.
    """
    return _in_pixels(_along_height, _in_pixels(_along_width, images, side, method, 2), side, method, 1)


def _in_pixels(
    along: Callable[[np.ndarray, jax.Array], jax.Array], images: jax.Array, side: int, method: str, axis: int
) -> jax.Array:
    """One axis of whole numbers, by weights of 22 binary digits, rounded to whole numbers in [0, 255].

    Ties are common, so the sums are exact: the first 11 digits of the weights apart from the last, each sum has less
    than the 24 digits of a float32.
    """
    weights = matrix(method, images.shape[axis], side) * 2**22
    weights = np.trunc(weights + np.copysign(0.5, weights)) / 2**22
    first = np.round(weights * 2**11) / 2**11
    sums, rest = (along(part.astype(np.float32), images) for part in (first, weights - first))
    whole = jnp.floor(sums + 0.5)
    return jnp.clip(whole + jnp.floor(sums + 0.5 - whole + rest), 0, 255)


def _along_height(to: np.ndarray, images: jax.Array) -> jax.Array:
    return jnp.einsum("yh,bhwc->bywc", to, images, precision=jax.lax.Precision.HIGHEST)


def _along_width(to: np.ndarray, images: jax.Array) -> jax.Array:
    return jnp.einsum("xw,bhwc->bhxc", to, images, precision=jax.lax.Precision.HIGHEST)
