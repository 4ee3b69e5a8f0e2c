"""The blocks of the U-Nets of DDPM and Improved DDPM: residual, attention, down, up, and the layers they consist of.

All work on NHWC. Blocks take and return images with the moments of their channels (`ddx.models.norm`). `dtype` is the
type of convolutions and matrix products; parameters, normalisation and softmax are float32. `conventions` come from
one of the original codes.
"""

import math
import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

from ddx.models.conventions import DDPM, Conventions
from ddx.models.norm import GroupNorm, Measured, measure
from ddx.models.resampling import ConvOfDoubled, doubled, halved


class Dropout(nn.Module):
    """Set a part of the values to zero, and scale the others up to the same expectation.

    Each image has a key of its own, so its mask does not depend on the batch that it is in. The mask is drawn once:
    without the barrier a TPU's compiler draws it again inside each of the convolutions, forward and backward, that
    it fuses the masked images into, which then take three times as long.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """(B, H, W, C) to the same shape, with keys (B,); x itself without keys, or where nothing is dropped."""
        if keys is None or not self.rate:
            return x
        here = zlib.crc32("/".join(self.path).encode())  # no two modules of a network draw the same
        kept = _kept(keys, here, x.shape[1:], self.rate)
        return jnp.where(jax.lax.optimization_barrier(kept), x / (1.0 - self.rate), 0.0)


def _kept(keys: jax.Array, name: int, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Whether values are not dropped, for each of the keys, (B, H, W, C) for a shape (H, W, C).

    Threefry in counter mode: a key of JAX says where the counter of an image starts, and the name what it is encrypted
    with. `jax.random` would encrypt once for every number and keep half of what comes out.
    """
    height, width, channels = shape
    rows = -(-height // 2)
    start = jax.random.key_data(keys).reshape(len(keys), -1)[:, :2].T[..., None, None, None]
    count = jax.lax.broadcasted_iota(jnp.uint32, (1, rows * width * channels), 1).reshape(1, rows, width, channels)
    blocks = jnp.broadcast_arrays(start[0] + count, start[1])
    halves = threefry2x32_p.bind(jnp.uint32(name), jnp.uint32(0x9E3779B9), *blocks)
    return jnp.concatenate([words >= np.uint32(round(rate * 2**32)) for words in halves], axis=1)[:, :height]


def conv3x3(
    fan_in: int,
    channels: int,
    conventions: Conventions,
    dtype: Any,
    name: str,
    last: bool = False,
    strides: int = 1,
    padding: str | int = "SAME",
) -> nn.Conv:
    """A convolution, a layer of the module that calls: (B, H, W, fan_in) to (B, H / strides, W / strides, channels)."""
    initial = conventions.initial(9 * fan_in, last)
    return nn.Conv(channels, (3, 3), strides, padding, dtype=dtype, name=name, **initial)


def dense(fan_in: int, channels: int, conventions: Conventions, dtype: Any, name: str, last: bool = False) -> nn.Dense:
    """A dense layer of the module that calls: (..., fan_in) to (..., channels)."""
    return nn.Dense(channels, dtype=dtype, name=name, **conventions.initial(fan_in, last))


def enlarge(x: jax.Array, height: int, width: int) -> jax.Array:
    """(B, h, w, C) to (B, height, width, C), bilinearly between pixel centres."""
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[-1]), "linear", antialias=False)


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
        if self.resample == "up":
            conv1: nn.Module = ConvOfDoubled(self.dtype, like, name="conv1")
        else:
            conv1 = conv3x3(channels, self.channels, like, self.dtype, "conv1")
        told_channels = 2 * self.channels if self.scale_shift else self.channels
        told = dense(temb.shape[-1], told_channels, like, self.dtype, "temb_proj")(nn.swish(temb))[:, None, None, :]
        dropout = Dropout(self.dropout)
        conv2 = conv3x3(self.channels, self.channels, like, self.dtype, "conv2", last=True)
        if channels != self.channels:
            nin_shortcut = dense(channels, self.channels, like, self.dtype, "nin_shortcut")

        def first_half(x: Measured) -> jax.Array:
            h = nn.swish(norm1(x))
            h = conv1(halved(h) if self.resample == "down" else h)
            return h if self.scale_shift else h + told

        def second_half(h: Measured, keys: jax.Array | None) -> jax.Array:
            y = norm2(h)
            if self.scale_shift:
                scale, shift = jnp.split(told.astype(jnp.float32), 2, axis=-1)
                y = y * (1 + scale) + shift
            return conv2(dropout(nn.swish(y), keys))

        def shortcut(x: jax.Array) -> jax.Array:
            x = {"down": halved, "up": doubled}[self.resample](x) if self.resample else x
            return x if channels == self.channels else nin_shortcut(x)

        # Half of a corner is too small to say what a convolution makes of it.
        first = None if self.resample == "down" else lambda: first_half(x.at_corner())[:, :1, :1]
        h = measure(first_half(x), first)
        return measure(
            shortcut(x.x) + second_half(h, dropout_keys),
            lambda: shortcut(x.at_corner().x)[:, :1, :1] + second_half(h.at_corner(), None)[:, :1, :1],
        )


class KeyDense(nn.Module):
    """A dense layer whose bias is kept, for the originals' weights, and not added.

    A key's bias adds the same to all logits of a query, which softmax ignores: its gradient is zero. Added, it would
    receive rounding noise instead, which Adam scales up to full steps and which differs with the number of devices.
    """

    dtype: Any
    conventions: Conventions = DDPM

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., C) to (..., C)."""
        channels = x.shape[-1]
        initial = self.conventions.initial(channels)
        kernel = self.param("kernel", initial["kernel_init"], (channels, channels), jnp.float32)
        self.param("bias", initial["bias_init"], (channels,), jnp.float32)
        return x.astype(self.dtype) @ kernel.astype(self.dtype)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, num_heads: int) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v for each head, which has d = C / num_heads of the channels; softmax in float32.

    Args:
      q: (B, ..., C), with pixels or patches on the axes between: (B, H, W, C) or (B, N, C).
      k: the same shape.
      v: the same shape.
      num_heads: a divisor of C.

    Returns:
      The shape and type of q.
    """
    batch, *places, _ = q.shape
    number = math.prod(places)

    # Heads join the batch instead of being an axis of their own: with one, nothing is left of them, not a bit.
    def split(h: jax.Array) -> jax.Array:
        """(B, ..., C) to (B * heads, N, C / heads)."""
        return h.reshape(batch, number, num_heads, -1).swapaxes(1, 2).reshape(batch * num_heads, number, -1)

    q, v, k = split(q), split(v), split(k)
    logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weights = nn.softmax(logits).astype(v.dtype)
    h = jnp.einsum("bqk,bkc->bqc", weights, v)
    return h.reshape(batch, num_heads, number, -1).swapaxes(1, 2).reshape(batch, *places, -1)


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, added to the input.

    Attributes:
      groups: of the normalisation.
      dtype: type of the computation.
      num_heads: each attends with its own share of the channels.
      conventions: of an original code.
    """

    groups: int
    dtype: Any
    num_heads: int = 1
    conventions: Conventions = DDPM

    @nn.compact
    def __call__(self, x: Measured) -> Measured:
        """(B, H, W, C) to the same shape."""
        like, channels = self.conventions, x.x.shape[-1]
        h = GroupNorm(self.groups, epsilon=like.epsilon, name="norm")(x)
        q, v = (dense(channels, channels, like, self.dtype, name)(h) for name in "qv")
        h = attend(q, KeyDense(self.dtype, like, name="k")(h), v, self.num_heads)
        proj_out = dense(channels, channels, like, self.dtype, "proj_out", last=True)
        return measure(x.x + proj_out(h), lambda: x.corner[:, :1, :1] + proj_out(h[:, :1, :1]))


class Downsample(nn.Module):
    """Halve height and width: a convolution of stride 2."""

    dtype: Any
    conventions: Conventions = DDPM

    @nn.compact
    def __call__(self, x: Measured) -> Measured:
        """(B, H, W, C) to (B, H / 2, W / 2, C)."""
        like, channels = self.conventions, x.x.shape[-1]
        conv = conv3x3(channels, channels, like, self.dtype, "conv", strides=2, padding=like.down_padding)
        return measure(conv(x.x), lambda: conv(x.x[:, :4, :4])[:, :1, :1])


class Upsample(nn.Module):
    """Double height and width: each pixel becomes 2 x 2, then a convolution."""

    dtype: Any
    conventions: Conventions = DDPM

    @nn.compact
    def __call__(self, x: Measured) -> Measured:
        """(B, H, W, C) to (B, 2 H, 2 W, C)."""
        conv = ConvOfDoubled(self.dtype, self.conventions, name="conv")
        return measure(conv(x.x), lambda: conv(x.corner)[:, :1, :1])
