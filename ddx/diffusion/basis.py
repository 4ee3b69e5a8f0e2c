"""Orthonormal bases of image space, in which every process of this library is diagonal.

Let `u = analysis(x)` be the coordinates of an image. A process says how each coordinate is scaled and how much noise
it gets; a basis says what the coordinates are. Being orthonormal, `analysis` maps white noise to white noise and keeps
squared errors, so a network may live in pixels whatever the basis is.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax


class Basis(NamedTuple):
    """An orthonormal change of coordinates over the last three axes (H, W, C) of an image.

    `analysis(x) -> u` and `synthesis(u) -> x` keep the shape and are each other's inverse and transpose.
    """

    name: str
    analysis: Callable[[jax.Array], jax.Array]
    synthesis: Callable[[jax.Array], jax.Array]


def _identity(x: jax.Array) -> jax.Array:
    return x


PIXEL = Basis("pixel", _identity, _identity)
"""The coordinates are the pixels themselves (DDPM, DDIM, Improved DDPM, Analytic-DPM)."""
