"""The residual blocks of the U-Nets of DDPM, Improved DDPM and ADM, and those that halve and double the images.

All work on NHWC. Blocks take and return images with the moments of their channels (`ddx.models.norm`). `dtype` is the
type of convolutions and of products with pixels; parameters, normalisation, and what travels as a shift, are float32.
`conventions` come from one of the original codes.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddx.models.conventions import DDPM, Conventions
from ddx.models.layers import Conv3x3, Dropout, Linear, dense
from ddx.models.norm import GroupNorm, Measured, measure
from ddx.models.products import apart
from ddx.models.resampling import ConvOfDoubled, doubled, halved, written_in_pieces


class ResnetBlock(nn.Module):
    """norm - swish - conv - norm - swish - dropout - conv, plus the input (1 x 1 if channels change).

    Around the second norm, the block is told the time. A block that resamples does so before its first convolution, and
    with its input (ADM, Dhariwal & Nichol 2021, section 3).

    Attributes:
      channels: output channels.
      groups: of the normalisations.
      dropout: rate, applied where there are keys.
      dtype: type of the computation.
      scale_shift: the time scales and shifts what the second norm returns; if False, it is added to what that takes.
      conventions: of an original code.
      resample: "" for an output of the input's size; "down" for half of it, by averaging 2 x 2 pixels; "up" for twice
        of it, where each pixel becomes 2 x 2, and as many channels as the input has.
    """

    channels: int
    groups: int
    dropout: float
    dtype: Any
    scale_shift: bool = False
    conventions: Conventions = DDPM
    resample: str = ""

    @nn.compact
    def __call__(self, x: Measured, temb: jax.Array, dropout_keys: jax.Array | None = None) -> Measured:
        """(B, H, W, C), the time embedding (B, D) and, in training, keys (B,), to (B, H', W', channels)."""
        like, channels = self.conventions, x.x.shape[-1]
        norm1 = GroupNorm(self.groups, epsilon=like.epsilon, name="norm1")
        norm2 = GroupNorm(self.groups, epsilon=like.epsilon, name="norm2")
        layer = ConvOfDoubled if self.resample == "up" else Conv3x3
        conv1 = layer(channels, self.channels, like, self.dtype, name="conv1")
        told_channels = 2 * self.channels if self.scale_shift else self.channels
        told = dense(temb.shape[-1], told_channels, like, self.dtype, "temb_proj")(nn.swish(temb)).astype(jnp.float32)
        dropout = Dropout(self.dropout)
        conv2 = Conv3x3(self.channels, self.channels, like, self.dtype, last=True, name="conv2")
        if channels != self.channels:
            nin_shortcut = Linear(channels, self.channels, like, self.dtype, name="nin_shortcut")

        def first_half(x: Measured) -> jax.Array:
            """What the first convolution takes."""
            h = nn.swish(norm1(x))
            return halved(h) if self.resample == "down" else h

        def second_half(h: Measured, keys: jax.Array | None) -> jax.Array:
            """What the second convolution takes."""
            y = norm2(h)
            if self.scale_shift:
                scale, offset = jnp.split(told[:, None, None], 2, axis=-1)
                y = y * (1 + scale) + offset
            return dropout(nn.swish(y), keys)

        def shortcut(x: jax.Array) -> jax.Array:
            x = {"down": halved, "up": doubled}[self.resample](x) if self.resample else x
            return x if channels == self.channels else apart(nin_shortcut(x))

        h = measure(
            conv1(first_half(x)),
            conv1.bias if self.scale_shift else conv1.bias + told,
            # Half of a corner is too small to say what a convolution makes of it.
            None if self.resample == "down" else lambda: conv1.first(first_half(x.at_corner())),
            self.resample == "up" and written_in_pieces(x.x),
        )
        shift = x.shift if channels == self.channels else x.shift @ nin_shortcut.kernel + nin_shortcut.bias
        return measure(
            shortcut(x.x) + conv2(second_half(h, dropout_keys)),
            shift + conv2.bias,
            lambda: shortcut(x.at_corner().x)[:, :1, :1] + conv2.first(second_half(h.at_corner(), None)),
        )


class Downsample(nn.Module):
    """Halve height and width: a convolution of stride 2."""

    dtype: Any
    conventions: Conventions = DDPM

    @nn.compact
    def __call__(self, x: Measured) -> Measured:
        """(B, H, W, C) to (B, H / 2, W / 2, C)."""
        like, channels = self.conventions, x.x.shape[-1]
        conv = Conv3x3(channels, channels, like, self.dtype, strides=2, padding=like.down_padding, name="conv")
        return measure(conv(x.shifted()), conv.bias, lambda: conv.first(x.shifted()))


class Upsample(nn.Module):
    """Double height and width: each pixel becomes 2 x 2, then a convolution."""

    dtype: Any
    conventions: Conventions = DDPM

    @nn.compact
    def __call__(self, x: Measured) -> Measured:
        """(B, H, W, C) to (B, 2 H, 2 W, C)."""
        channels = x.x.shape[-1]
        conv = ConvOfDoubled(channels, channels, self.conventions, self.dtype, name="conv")
        in_pieces = written_in_pieces(x.x)
        return measure(conv(x.shifted()), conv.bias, lambda: conv.first(x.at_corner().shifted()), in_pieces)
