"""Bases of image space, in which every process of this library is diagonal.

Let `u = analysis(x)` be the coordinates of an image. A process says how each coordinate is scaled and how much noise
is added to it; a basis says what the coordinates are. An orthonormal `analysis` maps white noise to white noise and
keeps squared errors, so a network may work in pixels whatever the basis is. A basis with weights w, x = V (w u) for an
orthonormal V, does neither: noise that is white in its coordinates has the covariance V diag(w^2) V^T in pixels. It is
what makes noise coloured (`ddx.diffusion.forward.colour`); what differs is in the methods of `Basis`.

The discrete cosine transform (DCT-II) diagonalises the heat equation with insulated edges: coordinate (i, j) of an
H x W image is an eigenvector of the Laplacian with the eigenvalue -lam,

    lam[i, j] = (pi i / H)^2 + (pi j / W)^2                                                                     (1)

so a heat flow of duration tau multiplies the coordinate by exp(-lam tau), which is a Gaussian blur of standard
deviation sqrt(2 tau) pixels (Rissanen et al. 2022, section 2).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Array, Shape

WeightsOf = Callable[[Shape], np.ndarray]
"""weights((H, W)) -> w, above 0, (H, W, 1) or (H, W, C) float64. Raises a ValueError for a shape that it has not."""


class Basis(NamedTuple):
    """A change of coordinates over the last three axes (H, W, C) of an image.

    `analysis(x) -> u` and `synthesis(u) -> x` keep the shape and are each other's inverse. Without weights they are
    orthonormal, and so each other's transpose.
    """

    name: str
    analysis: Callable[[Array], jax.Array]
    synthesis: Callable[[Array], jax.Array]
    weights: WeightsOf | None = None  # what an orthonormal coordinate is divided by

    def colour(self, noise: Any) -> Any:
        """White noise in pixels as the noise in pixels that is white in the coordinates; unchanged without weights."""
        return noise if self.weights is None else self.synthesis(dct(noise))

    def whiten(self, x: Any) -> Any:
        """The inverse of `colour`."""
        return x if self.weights is None else idct(self.analysis(x))

    def gradient(self, g: Any) -> jax.Array:
        """The gradient of a function by the coordinates, from its gradient g by the pixels."""
        return self.analysis(g) if self.weights is None else self._times_weights(dct(g))

    def square(self, u: Any) -> Any:
        """u^2, each in the unit of pixels: the sum over coordinates is the sum of the squares of the pixels."""
        return jnp.square(u if self.weights is None else self._times_weights(u))

    def units(self, shape: Shape) -> Any:
        """What `square` multiplies u^2 by: w^2 for images of shape (H, W), float64 on the host; 1 without weights."""
        return 1.0 if self.weights is None else np.square(self.weights(shape))

    def pixel_variance(self, v: Any, shape: Shape) -> jax.Array:
        """The variance of the pixels for independent coordinates of variance v; their mean for frequencies.

        Args:
          v: variances that broadcast to coordinates (..., H, W, C).
          shape: (H, W) of the images.

        Returns:
          What broadcasts to pixels. With weights it is that of each pixel, diag(V diag(w^2 v) V^T).
        """
        if self.weights is None:
            return v if self.name == "pixel" else jnp.mean(v, axis=(-3, -2, -1), keepdims=True)
        w = jnp.asarray(self.weights(shape), jnp.result_type(v, jnp.float32))
        return _transform(jnp.square(w) * v, *(np.square(dct_matrix(n)).T for n in shape))

    def _times_weights(self, u: Any) -> jax.Array:
        assert self.weights is not None
        return jnp.asarray(self.weights(u.shape[-3:-1]), u.dtype) * u


def _identity(x: Any) -> Any:
    return x


PIXEL = Basis("pixel", _identity, _identity)
"""The coordinates are the pixels themselves (DDPM, DDIM, Improved DDPM, Analytic-DPM)."""


@functools.cache
def dct_matrix(n: int) -> np.ndarray:
    """The matrix of the orthonormal DCT-II, with which u = matrix @ x.

    Args:
      n: the length of x.

    Returns:
      (n, n) float64, read-only; row k is the k-th cosine.
    """
    k, x = np.arange(n)[:, None], np.arange(n)[None, :]
    matrix = np.sqrt(2.0 / n) * np.cos(np.pi * k * (2 * x + 1) / (2 * n))
    matrix[0] = np.sqrt(1.0 / n)
    matrix.flags.writeable = False
    return matrix


def laplacian(shape: Shape) -> np.ndarray:
    """The eigenvalues lam of the negative Laplacian, equation (1).

    Args:
      shape: (H, W) of the images.

    Returns:
      (H, W, 1) float64.
    """
    rows, columns = ((np.pi * np.arange(n) / n) ** 2 for n in shape)
    return (rows[:, None] + columns[None, :])[..., None]


def largest_variance(basis: "Basis", shape: Shape, low: float = -1.0) -> np.ndarray:
    """The largest variance that each coordinate of data in [low, 1] can have.

    For a pixel it is ((1 - low) / 2)^2 (Bao et al. 2022, theorem 2 and eq. 12). A coordinate is the inner product of
    the pixels with a basis vector v, and its largest variance is the pixel's times (sum of abs(v))^2, divided by w^2
    where the basis has weights.

    Args:
      basis: the basis of the coordinates.
      shape: (H, W) of the images.
      low: the lowest value of the data.

    Returns:
      (H, W, 1) float64, or (H, W, C) for weights that differ between channels.
    """
    rows, columns = (np.abs(dct_matrix(n)).sum(1) if basis.name == "dct" else np.ones(n) for n in shape)
    most: np.ndarray = (((1.0 - low) / 2.0 * np.outer(rows, columns)) ** 2)[..., None]
    return most if basis.weights is None else most / basis.weights(shape) ** 2


def dct(x: Array) -> jax.Array:
    """The orthonormal DCT-II over height and width.

    Args:
      x: (..., H, W, C) pixels.

    Returns:
      Coordinates like x, computed in float32 at least.
    """
    return _transform(x, dct_matrix(x.shape[-3]), dct_matrix(x.shape[-2]))


def idct(u: Array) -> jax.Array:
    """The inverse of `dct`, which is also its transpose.

    Args:
      u: (..., H, W, C) coordinates.

    Returns:
      Pixels like u, computed in float32 at least.
    """
    return _transform(u, dct_matrix(u.shape[-3]).T, dct_matrix(u.shape[-2]).T)


def _transform(x: Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    # Matrix products are faster than an FFT at every image size. By default a TPU rounds their factors to bfloat16
    # and a GPU rounds them to TF32, which would ruin samples.
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    x = product("ph,...hwc->...pwc", jnp.asarray(rows, dtype), jnp.asarray(x, dtype))
    return product("qw,...pwc->...pqc", jnp.asarray(columns, dtype), x)


DCT = Basis("dct", dct, idct)
"""The coordinates are cosines over the image (Inverse Heat Dissipation, Blurring Diffusion)."""


def weighted_dct(weights: WeightsOf) -> Basis:
    """The basis of coordinates u = DCT(x) / w.

    Args:
      weights: w of images of a shape.

    Returns:
      A `Basis` of the name "dct".
    """

    def analysis(x: Array) -> jax.Array:
        u = dct(x)
        return u / jnp.asarray(weights(u.shape[-3:-1]), u.dtype)

    def synthesis(u: Array) -> jax.Array:
        dtype = jnp.promote_types(u.dtype, jnp.float32)
        return idct(jnp.asarray(weights(u.shape[-3:-1]), dtype) * u)

    return Basis("dct", analysis, synthesis, weights)
