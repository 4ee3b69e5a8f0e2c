"""The layers of the networks: dense ones, those that leave adding their bias to others, and dropout.

Parameters are float32 and start as the conventions of an original code have it; `dtype` is the type of the computation.
"""

import math
import zlib
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

from ddx.models.conventions import Conventions
from ddx.models.products import conv, product


def dense(fan_in: int, channels: int, conventions: Conventions, dtype: Any, name: str, last: bool = False) -> nn.Dense:
    """A dense layer of the module that calls: (..., fan_in) to (..., channels)."""
    return nn.Dense(channels, dtype=dtype, name=name, **conventions.initial(fan_in, last))


class Linear(nn.Module):
    """A dense layer whose bias is apart, for those who add it elsewhere, or nowhere.

    Attributes:
      fan_in: channels of the input.
      channels: of the output.
      conventions: of an original code.
      dtype: type of the computation.
      last: whether it is the last layer of a block or of the network.
    """

    fan_in: int
    channels: int
    conventions: Conventions
    dtype: Any
    last: bool = False

    window: ClassVar[tuple[int, ...]] = ()  # height and width of a convolution's kernel

    def setup(self) -> None:
        """Make the parameters."""
        initial = self.conventions.initial(math.prod(self.window) * self.fan_in, self.last)
        shape = (*self.window, self.fan_in, self.channels)
        self.kernel = self.param("kernel", initial["kernel_init"], shape, jnp.float32)
        self.bias = self.param("bias", initial["bias_init"], (self.channels,), jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., fan_in) to (..., channels), without the bias."""
        return product(x.astype(self.dtype), self.kernel)


class Conv3x3(Linear):
    """A convolution with a kernel of 3 x 3 whose bias is apart: the images' shift, as `ddx.models.norm` has it.

    Attributes:
      strides: 1, or 2 to halve images of even height and width.
      padding: of a convolution of stride 2: "SAME", below and to the right, or 1 pixel on all sides.
    """

    strides: int = 1
    padding: str | int = "SAME"

    window = (3, 3)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, fan_in) to (B, H / strides, W / strides, channels), without the bias."""
        padding = self.padding if isinstance(self.padding, str) else [(self.padding, self.padding)] * 2
        return conv(x.astype(self.dtype), self.kernel, self.strides, padding)

    def first(self, x: jax.Array) -> jax.Array:
        """The first pixel of the output, (B, 1, 1, channels), without the bias.

        It is a product, for the convolution of an image that is smaller than the kernel has a TPU's compiler turn the
        kernel round.

        Args:
          x: the first 2 x 2 pixels of the images, or more; 3 x 3 for a stride of 2 without padding above.
        """
        outside = 0 if self.strides == 2 and self.padding == "SAME" else 1  # taps above and left of the image
        under = x[:, : 3 - outside, : 3 - outside].astype(self.dtype)
        batch, height, width, _ = under.shape
        taps = self.kernel[outside : outside + height, outside : outside + width].astype(self.dtype)
        return (under.reshape(batch, -1) @ taps.reshape(-1, self.channels))[:, None, None]


class Dropout(nn.Module):
    """Set a part of the values to zero, and scale the others up to the same expectation.

    Each image has a key of its own, so its mask does not depend on the batch that it is in. The mask is drawn once:
    without a barrier a TPU's compiler draws it again inside each of the convolutions, forward and backward, that
    it fuses the masked images into, which then take three times as long. Numbers of 16 bits are drawn, so the rate
    is rounded to a multiple of 1 / 65,536.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """(B, H, W, C) to the same shape, with keys (B,); x itself without keys, or where nothing is dropped."""
        dropped = min(round(self.rate * 2**16), 2**16 - 1)
        if keys is None or not dropped:
            return x
        here = zlib.crc32("/".join(self.path).encode())  # no two modules of a network draw the same
        return jnp.where(_kept(keys, here, x.shape[1:], dropped), x / (1.0 - dropped / 2**16), 0.0)


def _kept(keys: jax.Array, name: int, shape: tuple[int, ...], dropped: int) -> jax.Array:
    """Whether values are not dropped, for each of the keys, (B, H, W, C) for a shape (H, W, C).

    Threefry in counter mode: a key of JAX says where the counter of an image starts, and the name is the key of the
    cipher. Each block of the cipher gives four numbers, for four rows of the image, whose outcomes are packed into four
    bits. `jax.random` would encrypt a block for each number and keep a quarter of it.
    """
    height, width, channels = shape
    rows = -(-height // 4)
    start = jax.random.key_data(keys).reshape(len(keys), -1)[:, :2].T[..., None, None, None]
    count = jax.lax.broadcasted_iota(jnp.uint32, (1, rows * width * channels), 1).reshape(1, rows, width, channels)
    blocks = jnp.broadcast_arrays(start[0] + count, start[1])
    words = threefry2x32_p.bind(jnp.uint32(name), jnp.uint32(0x9E3779B9), *blocks)
    numbers = [number for word in words for number in (word & 0xFFFF, word >> 16)]
    bits = sum((number >= np.uint32(dropped)).astype(jnp.uint32) << row for row, number in enumerate(numbers))
    bits = jax.lax.optimization_barrier(bits.astype(jnp.uint8))
    kept = (bits[:, :, None] >> np.arange(4, dtype=np.uint8)[:, None, None]) & np.uint8(1)
    return (kept != 0).reshape(-1, 4 * rows, width, channels)[:, :height]
