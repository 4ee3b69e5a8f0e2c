"""Group normalisation of images whose channels were measured where they were made.

A TPU's compiler sums over the pixels of a convolution's result within the convolution, which costs nothing, if what is
summed takes no number from the result itself. So images travel through a network with the moments of their channels,
and a normalisation reads them once, to normalise them.

The bias of a layer and the time embedding of a block are the same for all pixels of a channel. They are kept beside
the images, as the shift of the images, and the next normalisation subtracts them with the mean. So neither the addition
nor the gradient, which is a sum over all pixels, takes a pass over the images.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddx.models.products import WITH_ONES

# Pixels of an image. To read a smaller one again takes less time than to compute its first pixel beforehand.
_LARGE = 64


class Measured(NamedTuple):
    """Images x + shift, and what a normalisation takes of them.

    Attributes:
      x: (B, H, W, C).
      shift: (B, C) float32.
      corner: (B, 2, 2, C), the first pixels of x.
      mean: (B, C) float32, over the pixels of each channel of x + shift.
      variance: (B, C) float32.
    """

    x: jax.Array
    shift: jax.Array
    corner: jax.Array
    mean: jax.Array
    variance: jax.Array

    def shifted(self) -> jax.Array:
        """The images themselves, (B, H, W, C)."""
        return (self.x.astype(jnp.float32) + self.shift[:, None, None]).astype(self.x.dtype)

    def at_corner(self) -> "Measured":
        """The first pixels in the place of the images, to compute the first pixel of what the images become."""
        return jax.lax.stop_gradient(self._replace(x=self.corner))


def measure(
    x: jax.Array, shift: jax.Array, first: Callable[[], jax.Array] | None = None, in_pieces: bool = False
) -> Measured:
    """Images x + shift with their moments.

    The moments are sums over the pixels of each channel, of the differences to a number near its mean: sums of the
    squares themselves would cancel where a mean is large against its spread. In large images that number is the mean of
    16 pixels or more; on a TPU it is the first pixel, so there the sums are less precise where that is far from the
    others.

    Args:
      x: (B, H, W, C).
      shift: (C,) or (B, C), float32.
      first: computes the first pixels of x, (B, 1, 1, C), from what x was computed from. A TPU takes these where images
        are large, for it knows the pixels of x only when it has computed all of x.
      in_pieces: whether x is written piece by piece, so that a TPU has to read it again for the sums.
    """
    near = x[:, :1, :1].astype(jnp.float32)
    if x.shape[1] * x.shape[2] >= _LARGE:
        near = _near(jax.lax.stop_gradient(x), first().astype(jnp.float32) if first else near)
    near = jax.lax.stop_gradient(near)  # any number near the mean: nothing depends on which
    mean, square = (_means_of_pieces if in_pieces else _means)(x, near)
    shift = jnp.broadcast_to(shift, mean.shape)
    return Measured(x, shift, x[:, :2, :2], mean + near[:, 0, 0] + shift, square - jnp.square(mean))


def _means(x: jax.Array, near: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The means over pixels of the differences to numbers near the mean, and of their squares, (B, C)."""
    apart = x.astype(jnp.float32) - near
    return apart.mean((1, 2)), jnp.square(apart).mean((1, 2))


@jax.custom_jvp
def _means_of_pieces(x: jax.Array, near: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `_means` computes, for images that a TPU has to read a second time; differentiated as `_means` is."""
    means: tuple[jax.Array, jax.Array] = jax.lax.platform_dependent(x, near, tpu=_means_by_rows, default=_means)
    return means


@_means_of_pieces.defjvp
def _slope_of_means(primals: Any, tangents: Any) -> tuple[Any, Any]:
    return _means_of_pieces(*primals), jax.jvp(_means, primals, tangents)[1]


def _means_by_rows(x: jax.Array, near: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same. A TPU's compiler has one pass read four parts at once, which takes two thirds of the time."""
    parts = [_means(part, near) for part in jnp.split(x, 4 if x.shape[1] % 4 == 0 else 1, axis=1)]
    mean, square = (sum(each[1:], each[0]) / len(parts) for each in zip(*parts, strict=True))
    return mean, square


def _near(x: jax.Array, on_tpu: jax.Array) -> jax.Array:
    near: jax.Array = jax.lax.platform_dependent(x, on_tpu, tpu=lambda _, b: b, default=lambda a, _: _mean_of_some(a))
    return near


def _mean_of_some(x: jax.Array) -> jax.Array:
    """The mean of some pixels, all over an image, (B, 1, 1, C)."""
    rows, columns = (max(1, size // 4) for size in x.shape[1:3])
    return x[:, ::rows, ::columns].astype(jnp.float32).mean((1, 2), keepdims=True)


def joined(*parts: Measured) -> Measured:
    """Images with the channels of all parts, none of which is measured again."""
    return Measured(*(jnp.concatenate(each, axis=-1) for each in zip(*parts, strict=True)))


class GroupNorm(nn.Module):
    """Group normalisation, in float32.

    The statistics of a group follow from those of its channels (Chan, Golub & LeVeque 1983), so the channels, which lie
    along a TPU's lanes, are not taken apart.
    """

    groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, measured: Measured) -> jax.Array:
        """Images (B, H, W, C) with their moments to the same shape."""
        x, shift, _, mean, variance = measured
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)

        size = channels // self.groups
        group = jnp.arange(channels) // size
        same = (group[:, None] == group).astype(jnp.float32)

        def over_group(of_channel: jax.Array) -> jax.Array:
            """The mean over the channels of each group, for each of its channels, (B, C)."""
            return jnp.matmul(of_channel, same, precision=WITH_ONES) / size

        of_group = over_group(mean)
        variance = over_group(variance + jnp.square(mean - of_group))
        rate = jax.lax.rsqrt(variance + self.epsilon) * scale
        return (x.astype(jnp.float32) - (of_group - shift)[:, None, None]) * rate[:, None, None] + bias
