"""The blocks of DDPM's U-Net (Ho et al. 2020, appendix B, and its code): residual, attention, down, up.

All work on NHWC. `dtype` is the type of convolutions and matrix products; parameters, normalisation and softmax are float32.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

GROUPS = 32  # of every GroupNorm

_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
# A block starts as the identity: what it adds to its input is nearly, and in DDPM's code not exactly, zero.
_init_zero = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")

Conv3x3 = partial(nn.Conv, kernel_size=(3, 3), padding="SAME", kernel_init=_init)
Conv3x3Zero = partial(nn.Conv, kernel_size=(3, 3), padding="SAME", kernel_init=_init_zero)
Dense = partial(nn.Dense, kernel_init=_init)
DenseZero = partial(nn.Dense, kernel_init=_init_zero)
# The plain variance, mean((x - mean)^2): E[x^2] - mean^2 cancels where a mean is large against its spread.
GroupNorm = partial(nn.GroupNorm, num_groups=GROUPS, epsilon=1e-6, dtype=jnp.float32, use_fast_variance=False)


class ResnetBlock(nn.Module):
    """norm - swish - conv - (+ time) - norm - swish - dropout - conv, plus the input (through 1 x 1 if channels change).

    Attributes:
      channels: output channels.
      dropout: rate, applied when train is True, from the "dropout" random stream.
      dtype: type of the computation.
    """

    channels: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array, train: bool) -> jax.Array:
        """(B, H, W, C) and the time embedding (B, D) to (B, H, W, channels)."""
        h = nn.swish(GroupNorm(name="norm1")(x))
        h = Conv3x3(self.channels, dtype=self.dtype, name="conv1")(h)
        h += Dense(self.channels, dtype=self.dtype, name="temb_proj")(nn.swish(temb))[:, None, None, :]
        h = nn.swish(GroupNorm(name="norm2")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = Conv3x3Zero(self.channels, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.channels:
            x = Dense(self.channels, dtype=self.dtype, name="nin_shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, one head, added to the input."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) to the same shape."""
        batch, height, width, channels = x.shape
        h = GroupNorm(name="norm")(x).reshape(batch, height * width, channels)
        q, k, v = (Dense(channels, dtype=self.dtype, name=name)(h) for name in "qkv")
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
        batch, height, width, channels = x.shape
        doubled = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
        x = doubled.reshape(batch, 2 * height, 2 * width, channels)
        return Conv3x3(channels, dtype=self.dtype, name="conv")(x)
