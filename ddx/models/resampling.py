"""Images of half or twice the size: means of 2 x 2 pixels, pixels that become 2 x 2, and a convolution of these."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddx.models.conventions import Conventions


def doubled(x: jax.Array) -> jax.Array:
    """(B, H, W, C) to (B, 2 H, 2 W, C): each pixel becomes 2 x 2."""
    batch, height, width, channels = x.shape
    repeated = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return repeated.reshape(batch, 2 * height, 2 * width, channels)


def halved(x: jax.Array) -> jax.Array:
    """(B, H, W, C) to (B, H / 2, W / 2, C): means over 2 x 2 pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


class ConvOfDoubled(nn.Module):
    """A 3 x 3 convolution of the doubled image; on CPU without doubling it, in 16 products an input pixel, not 36.

    Under the kernel of any output pixel lie only 2 x 2 different input pixels, in one of four patterns by the parity of
    row and column, so four 2 x 2 kernels, sums of the one, do. A TPU, whose matrix unit has time to spare, loses more
    by interleaving the four images than it gains.
    """

    dtype: Any
    conventions: Conventions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) to (B, 2 H, 2 W, C)."""
        channels = x.shape[-1]
        initial = self.conventions.initial(9 * channels)
        kernel = self.param("kernel", initial["kernel_init"], (3, 3, channels, channels), jnp.float32)
        bias = self.param("bias", initial["bias_init"], (channels,), jnp.float32)
        out = jax.lax.platform_dependent(x.astype(self.dtype), kernel, cpu=_by_parity, default=_by_doubling)
        return out + bias.astype(self.dtype)


def _by_doubling(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _conv(doubled(x), kernel, "SAME")


def _by_parity(x: jax.Array, kernel: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def output(row: int, column: int) -> jax.Array:
        """The output pixels (2 i + row, 2 j + column)."""
        window = padded[:, row : row + height + 1, column : column + width + 1]
        return _conv(window, _add_taps(_add_taps(kernel, 0, row), 1, column), "VALID")

    rows = [jnp.stack([output(row, 0), output(row, 1)], axis=3) for row in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, channels)


def _add_taps(kernel: jax.Array, axis: int, parity: int) -> jax.Array:
    """Three taps on a doubled axis as two on the axis itself: an even output sees (0, 1 + 2), an odd one (0 + 1, 2)."""
    first, middle, last = jnp.split(kernel, 3, axis)
    return jnp.concatenate([first, middle + last] if parity == 0 else [first + middle, last], axis)


def _conv(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel.astype(x.dtype), (1, 1), padding, dimension_numbers=numbers)
