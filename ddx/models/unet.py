"""DDPM's U-Net (Ho et al. 2020, appendix B), with the wiring, numerics and initial weights of its original code.

Module names are flat and follow that code ("down_1_block_0", "mid_attn_1", "up_0_block_2"), so converting weights is a
rule on strings.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddx.models.blocks import (
    AttentionBlock,
    Conv3x3,
    Conv3x3Zero,
    Dense,
    Downsample,
    GroupNorm,
    ResnetBlock,
    Upsample,
)
from ddx.models.embeddings import time_embedding

# Eight images of 32 x 32: activations of a part stay in a CPU's caches, which makes a batch of 64 a quarter faster.
_PIXELS_A_PART = 8192


class UNet(nn.Module):
    """A U-Net over NHWC images that is told the time.

    Attributes:
      channels: channels of the first level; those of level i are channels * multipliers[i], a multiple of groups.
      multipliers: one for each level; the image is halved after every level but the last.
      num_blocks: residual blocks a level on the way down; one more on the way up.
      attention_resolutions: image heights at which every residual block is followed by attention (the middle always has
        it).
      groups: of the normalisations. As many groups as channels take each channel's mean away, and with it the time.
      dropout: rate in the residual blocks.
      out_channels: C of the output.
      num_classes: 0, or the number of classes: the network is then told each image's, whose embedding is added to that
        of the time (Improved DDPM's class-conditional networks).
      dtype: type of the computation, float32 or bfloat16; parameters and output are float32.
      remat: recompute the blocks' activations in the backward pass; same parameters, same numbers, less memory.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    groups: int = 32
    dropout: float = 0.1
    out_channels: int = 3
    num_classes: int = 0
    dtype: Any = jnp.float32
    remat: bool = False

    def __call__(self, x: jax.Array, t: jax.Array, label: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """The raw output for images x at network times t.

        Args:
          x: (B, H, W, C).
          t: (B,) 0-based time indices, int or float.
          label: (B,) classes, 0 .. num_classes - 1; None for a network without classes.
          train: apply dropout, from the "dropout" random stream.

        Returns:
          (B, H, W, out_channels) float32.

        Raises:
          ValueError: x, t or label has the wrong shape, a label is missing or unknown to the network, the images cannot
            be halved often enough, channels cannot be grouped, or an attention resolution is never reached.
        """
        self._check(x, t, label)
        part = max(1, _PIXELS_A_PART // (x.shape[1] * x.shape[2]))
        if train or self.is_initializing() or x.shape[0] <= part:
            return self._network(x, t, label, train)
        variables, network = self.variables, self.clone(parent=None)

        def whole(*inputs: Any) -> jax.Array:
            return jnp.asarray(network.apply(variables, *inputs, False, method=UNet._network))

        def in_parts(*inputs: Any) -> jax.Array:
            even = x.shape[0] // part * part
            parts = jax.tree.map(lambda a: a[:even].reshape(-1, part, *a.shape[1:]), inputs)
            out = jax.lax.map(lambda one: whole(*one), parts).reshape(even, *x.shape[1:3], self.out_channels)
            rest = jax.tree.map(lambda a: a[even:], inputs)
            return out if even == x.shape[0] else jnp.concatenate([out, whole(*rest)])

        out: jax.Array = jax.lax.platform_dependent(x, t, label, cpu=in_parts, default=whole)
        return out

    @nn.compact
    def _network(self, x: jax.Array, t: jax.Array, label: jax.Array | None, train: bool) -> jax.Array:
        block = nn.remat(ResnetBlock, static_argnums=(3,)) if self.remat else ResnetBlock
        attention = nn.remat(AttentionBlock) if self.remat else AttentionBlock
        last = len(self.multipliers) - 1

        def residual(h: jax.Array, name: str, multiplier: int) -> jax.Array:
            return block(self.channels * multiplier, self.groups, self.dropout, self.dtype, name=name)(h, temb, train)

        def attend(h: jax.Array, name: str) -> jax.Array:
            return attention(self.groups, self.dtype, name=name)(h) if h.shape[1] in self.attention_resolutions else h

        temb = Dense(4 * self.channels, dtype=self.dtype, name="temb_dense0")(time_embedding(t, self.channels))
        temb = Dense(4 * self.channels, dtype=self.dtype, name="temb_dense1")(nn.swish(temb))
        if label is not None:
            init = nn.initializers.normal(1.0)
            temb += nn.Embed(self.num_classes, temb.shape[-1], self.dtype, embedding_init=init, name="label")(label)

        h = Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(x)
        skips = [h]
        for level, multiplier in enumerate(self.multipliers):
            for i in range(self.num_blocks):
                h = residual(h, f"down_{level}_block_{i}", multiplier)
                h = attend(h, f"down_{level}_attn_{i}")
                skips.append(h)
            if level != last:
                h = Downsample(self.dtype, name=f"down_{level}_downsample")(h)
                skips.append(h)

        h = residual(h, "mid_block_1", self.multipliers[-1])
        h = attention(self.groups, self.dtype, name="mid_attn_1")(h)
        h = residual(h, "mid_block_2", self.multipliers[-1])

        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for i in range(self.num_blocks + 1):
                h = residual(jnp.concatenate([h, skips.pop()], axis=-1), f"up_{level}_block_{i}", multiplier)
                h = attend(h, f"up_{level}_attn_{i}")
            if level != 0:
                h = Upsample(self.dtype, name=f"up_{level}_upsample")(h)

        h = nn.swish(GroupNorm(self.groups, name="norm_out")(h))
        return Conv3x3Zero(self.out_channels, dtype=self.dtype, name="conv_out")(h).astype(jnp.float32)

    def _check(self, x: jax.Array, t: jax.Array, label: jax.Array | None) -> None:
        if x.ndim != 4 or t.shape != x.shape[:1]:
            raise ValueError(f"expected images (B, H, W, C) and times (B,); got shapes {x.shape} and {t.shape}")
        if (label is None) != (self.num_classes == 0) or (label is not None and label.shape != t.shape):
            wanted = "labels (B,)" if self.num_classes else "no labels"
            given = "none" if label is None else f"shape {label.shape}"
            raise ValueError(f"a network of {self.num_classes} classes takes {wanted}; got {given}")
        height, width = x.shape[1:3]
        factor = 2 ** (len(self.multipliers) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"images of {height} x {width} cannot be halved {len(self.multipliers) - 1} times;"
                f" use multiples of {factor}, or fewer multipliers"
            )
        for multiplier in (1, *self.multipliers):  # the first convolution has `channels` of its own
            if self.channels * multiplier % self.groups:
                raise ValueError(
                    f"channels={self.channels} times multiplier {multiplier} is not a multiple of groups={self.groups}"
                )
        reached = [height >> level for level in range(len(self.multipliers))]
        for resolution in self.attention_resolutions:
            if resolution not in reached:
                raise ValueError(
                    f"attention resolution {resolution} is never reached by images of {height} x {width};"
                    f" choose from {reached}"
                )
