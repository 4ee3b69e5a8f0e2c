"""The blocks of DDPM's U-Net (Ho et al. 2020, appendix B, and its code): residual, attention, down, up.

All work on NHWC. `dtype` is the type of convolutions and matrix products; parameters, normalisation and softmax are
float32.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
# A block starts as the identity: what it adds to its input is nearly, and in DDPM's code not exactly, zero.
_init_zero = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")

Conv3x3 = partial(nn.Conv, kernel_size=(3, 3), padding="SAME", kernel_init=_init)
Conv3x3Zero = partial(nn.Conv, kernel_size=(3, 3), padding="SAME", kernel_init=_init_zero)
Dense = partial(nn.Dense, kernel_init=_init)
DenseZero = partial(nn.Dense, kernel_init=_init_zero)
# The plain variance, mean((x - mean)^2): E[x^2] - mean^2 cancels where a mean is large against its spread.
GroupNorm = partial(nn.GroupNorm, epsilon=1e-6, dtype=jnp.float32, use_fast_variance=False)


class ResnetBlock(nn.Module):
    """norm - swish - conv - (+ time) - norm - swish - dropout - conv, plus the input (1 x 1 if channels change).

    Attributes:
      channels: output channels.
      groups: of the normalisations.
      dropout: rate, applied when train is True, from the "dropout" random stream.
      dtype: type of the computation.
    """

    channels: int
    groups: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array, train: bool) -> jax.Array:
        """(B, H, W, C) and the time embedding (B, D) to (B, H, W, channels)."""
        h = nn.swish(GroupNorm(self.groups, name="norm1")(x))
        h = Conv3x3(self.channels, dtype=self.dtype, name="conv1")(h)
        h += Dense(self.channels, dtype=self.dtype, name="temb_proj")(nn.swish(temb))[:, None, None, :]
        h = nn.swish(GroupNorm(self.groups, name="norm2")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = Conv3x3Zero(self.channels, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.channels:
            x = Dense(self.channels, dtype=self.dtype, name="nin_shortcut")(x)
        return x + h


class KeyDense(nn.Module):
    """A dense layer whose bias is kept, for the originals' weights, and not added.

    A key's bias adds the same to all logits of a query, which softmax ignores: its gradient is zero. Added, it would
    receive rounding noise instead, which Adam scales up to full steps and which differs with the number of devices.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., C) to (..., C)."""
        channels = x.shape[-1]
        kernel = self.param("kernel", _init, (channels, channels), jnp.float32)
        self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        return x.astype(self.dtype) @ kernel.astype(self.dtype)


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, one head, added to the input; normalised in `groups` groups."""

    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) to the same shape."""
        batch, height, width, channels = x.shape
        h = GroupNorm(self.groups, name="norm")(x).reshape(batch, height * width, channels)
        q, v = (Dense(channels, dtype=self.dtype, name=name)(h) for name in "qv")
        k = KeyDense(self.dtype, name="k")(h)
        logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32) * channels**-0.5
        weights = nn.softmax(logits).astype(self.dtype)
        h = jnp.einsum("bqk,bkc->bqc", weights, v)
        return x + DenseZero(channels, dtype=self.dtype, name="proj_out")(h).reshape(x.shape)


class Downsample(nn.Module):
    """Halve height and width: a convolution of stride 2. "SAME" pads below and to the right, as TensorFlow does."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) to (B, H / 2, W / 2, C)."""
        return Conv3x3(x.shape[-1], strides=(2, 2), dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Double height and width: each pixel becomes 2 x 2, then a convolution."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) to (B, 2 H, 2 W, C)."""
        return _ConvOfDoubled(self.dtype, name="conv")(x)


class _ConvOfDoubled(nn.Module):
    """A 3 x 3 convolution of the doubled image; on CPU without doubling it, in 16 products an input pixel, not 36.

    Under the kernel of any output pixel lie only 2 x 2 different input pixels, in one of four patterns by the parity of
    row and column, so four 2 x 2 kernels, sums of the one, do. A TPU, whose matrix unit has time to spare, loses more
    by interleaving the four images than it gains.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", _init, (3, 3, channels, channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        out = jax.lax.platform_dependent(x.astype(self.dtype), kernel, cpu=_by_parity, default=_by_doubling)
        return out + bias.astype(self.dtype)


def _by_doubling(x: jax.Array, kernel: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    doubled = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return _conv(doubled.reshape(batch, 2 * height, 2 * width, channels), kernel, "SAME")


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
