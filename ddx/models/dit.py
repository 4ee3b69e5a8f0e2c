"""DiT, the transformer of Peebles & Xie 2023 (arXiv 2212.09748), in its form adaLN-Zero.

An image is taken apart into patches of p x p pixels. A dense layer makes each of them a token of D channels, to which
the fixed embedding of its place is added. With c = MLP(embedding of t) + embedding of the class, a block is

    (s_1, a_1, g_1, s_2, a_2, g_2) = W swish(c) + b         shift, scale and gate, which start as zero
    h <- h + g_1 * attention(norm(h) * (1 + a_1) + s_1)                                            (1)
    h <- h + g_2 * MLP(norm(h) * (1 + a_2) + s_2)                                                  (2)

with MLP = dense D -> 4 D, GELU in its tanh form, dense 4 D -> D, and norm a layer normalisation without parameters. At
the end (s, a) = W swish(c) + b and a dense layer makes norm(h) * (1 + a) + s the p x p pixels again. The paper works on
latents of 32 x 32 x 4; here images are pixels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddx.models.attention import attend
from ddx.models.conventions import DIT
from ddx.models.embeddings import position_embedding, time_embedding
from ddx.models.inputs import check_inputs
from ddx.models.layers import Linear, dense

_TIME_CHANNELS = 256  # of the embedding of t, whatever D is
_EMBEDDING = DIT._replace(kernel=nn.initializers.normal(0.02))
# Queries, keys and values are one layer of 3 D outputs in the original: its kernel starts with the variance 1 / (2 D).
_OF_THREE = DIT._replace(kernel=nn.initializers.variance_scaling(0.5, "fan_avg", "uniform"))


class DiT(nn.Module):
    """A transformer over the patches of NHWC images that is told the time. It has no dropout.

    Attributes:
      channels: D, of a token, a multiple of 4 and of num_heads.
      depth: blocks.
      num_heads: heads of every block's attention; they share the channels evenly.
      patch_size: p, a divisor of the images' height and width.
      out_channels: C of the output.
      num_classes: 0, or the number of classes: the network is then told each image's.
      null_class: whether it knows one class more, the number num_classes, which says nothing of an image; the paper's
        networks do, for classifier-free guidance.
      dtype: type of the computation, float32 or bfloat16; parameters, normalisation, softmax and output are float32.
      remat: recompute the blocks' activations in the backward pass; same parameters, same numbers, less memory.
    """

    channels: int = 384
    depth: int = 12
    num_heads: int = 6
    patch_size: int = 2
    out_channels: int = 3
    num_classes: int = 0
    null_class: bool = False
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        label: jax.Array | None = None,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """The raw output for images x at network times t.

        Args:
          x: (B, H, W, C).
          t: (B,) 0-based time indices, int or float.
          label: (B,) classes, 0 .. num_classes - 1, or num_classes for none with a null_class; None for a network
            without classes.
          dropout_keys: (B,) keys, which every network takes in training; nothing is drawn by them.

        Returns:
          (B, H, W, out_channels) float32. A new network's is zero.

        Raises:
          ValueError: x, t, label or dropout_keys has the wrong shape, a label is missing or unknown to the network,
            patches do not make up the images, or the channels are no multiple of 4 or of the heads.
        """
        check_inputs(x, t, label, self.num_classes, dropout_keys)
        self._check_settings(*x.shape[1:3])
        size, channels = self.patch_size, self.channels
        height, width = x.shape[1] // size, x.shape[2] // size
        block = nn.remat(DiTBlock) if self.remat else DiTBlock

        c = time_embedding(t, _TIME_CHANNELS, DIT.cosine_first)
        c = dense(_TIME_CHANNELS, channels, _EMBEDDING, self.dtype, "temb_dense0")(c)
        c = dense(channels, channels, _EMBEDDING, self.dtype, "temb_dense1")(nn.swish(c))
        if label is not None:
            init, count = nn.initializers.normal(0.02), self.num_classes + self.null_class
            c += nn.Embed(count, channels, self.dtype, embedding_init=init, name="label")(label)
        told = nn.swish(c)

        pixels = patches(x, size)
        h = dense(pixels.shape[-1], channels, DIT, self.dtype, "patch_in")(pixels)
        h += position_embedding(height, width, channels).astype(self.dtype)
        for i in range(self.depth):
            h = block(self.num_heads, self.dtype, name=f"block_{i}")(h, told)

        shift, scale = _told(told, 2, self.dtype, "out_modulation")
        pixels = _norm("norm_out")(h) * (1 + scale) + shift
        out = dense(channels, size**2 * self.out_channels, DIT, self.dtype, "patch_out", last=True)(pixels)
        return image(out, height, width, size).astype(jnp.float32)

    @nn.nowrap
    def inputs(
        self, image_shape: tuple[int, int, int], batch: int = 1
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Zeros (x, t, label) for images (H, W, C), what `init` takes; None stands for what is not taken."""
        t = jnp.zeros((batch,), jnp.int32)
        return jnp.zeros((batch, *image_shape)), t, t if self.num_classes else None

    def _check_settings(self, height: int, width: int) -> None:
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"images of {height} x {width} are not made up of patches of {self.patch_size} x {self.patch_size};"
                " use a patch_size that divides both"
            )
        for what, number in (
            ("4, for the embedding of rows and columns", 4),
            (f"num_heads={self.num_heads}", self.num_heads),
        ):
            if self.channels % number:
                raise ValueError(f"channels={self.channels} is not a multiple of {what}")


class DiTBlock(nn.Module):
    """Equations (1) and (2).

    Attributes:
      num_heads: of the attention.
      dtype: type of the computation.
    """

    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, h: jax.Array, told: jax.Array) -> jax.Array:
        """(B, N, D) and swish(c), (B, D), to (B, N, D)."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = _told(told, 6, self.dtype, "modulation")
        attention = SelfAttention(self.num_heads, self.dtype, name="attn")
        h += gate_1 * attention(_norm("norm1")(h) * (1 + scale_1) + shift_1)
        return h + gate_2 * MLP(self.dtype, name="mlp")(_norm("norm2")(h) * (1 + scale_2) + shift_2)


class SelfAttention(nn.Module):
    """Attention of all tokens to all.

    Attributes:
      num_heads: each attends with its own share of the channels.
      dtype: type of the computation.
    """

    num_heads: int
    dtype: Any

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """(B, N, D) to the same shape."""
        channels = h.shape[-1]
        q, v = (dense(channels, channels, _OF_THREE, self.dtype, name)(h) for name in "qv")
        k = Linear(channels, channels, _OF_THREE, self.dtype, name="k")(h)  # softmax would ignore its bias
        h = attend(q, k, v, self.num_heads)
        return dense(channels, channels, DIT, self.dtype, "proj_out")(h)


class MLP(nn.Module):
    """Two dense layers with four times the channels between them."""

    dtype: Any

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """(B, N, D) to the same shape."""
        channels = h.shape[-1]
        h = nn.gelu(dense(channels, 4 * channels, DIT, self.dtype, "dense0")(h), approximate=True)
        return dense(4 * channels, channels, DIT, self.dtype, "dense1")(h)


def patches(x: jax.Array, size: int) -> jax.Array:
    """(B, H, W, C) to (B, H / p * W / p, p * p * C), row by row, p = `size`; in a patch, rows before columns."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.swapaxes(2, 3).reshape(batch, height * width // size**2, size**2 * channels)


def image(tokens: jax.Array, height: int, width: int, size: int) -> jax.Array:
    """The inverse of `patches`: (B, height * width, p * p * C) to (B, p * height, p * width, C)."""
    x = tokens.reshape(tokens.shape[0], height, width, size, size, -1)
    return x.swapaxes(2, 3).reshape(tokens.shape[0], height * size, width * size, -1)


def _norm(name: str) -> nn.LayerNorm:
    """A layer normalisation, in float32 and without parameters. Squares are of differences to the mean."""
    epsilon, dtype = DIT.epsilon, jnp.float32
    return nn.LayerNorm(epsilon, dtype, use_bias=False, use_scale=False, use_fast_variance=False, name=name)


def _told(told: jax.Array, number: int, dtype: Any, name: str) -> list[jax.Array]:
    """What adaLN makes of swish(c), (B, D): `number` arrays (B, 1, D), zero in a new network."""
    channels = told.shape[-1]
    made = dense(channels, number * channels, DIT, dtype, name, last=True)(told)
    return jnp.split(made[:, None, :], number, axis=-1)
