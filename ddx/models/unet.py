"""The U-Nets of DDPM, Improved DDPM and ADM.

They are those of Ho et al. 2020, appendix B, of Nichol & Dhariwal 2021, and of Dhariwal & Nichol 2021, whose network is
Improved DDPM's with `resample_blocks`. Each has the wiring, numerics and initial weights of its original code. Module
names are flat and follow DDPM's ("down_1_block_0", "mid_attn_1", "up_0_block_2"), so converting weights is a rule on
strings.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddx.models.attention import AttentionBlock
from ddx.models.blocks import Downsample, ResnetBlock, Upsample
from ddx.models.conventions import FAMILIES
from ddx.models.embeddings import time_embedding
from ddx.models.inputs import check_inputs, given
from ddx.models.layers import Conv3x3, dense
from ddx.models.norm import GroupNorm, Measured, joined, measure
from ddx.models.products import is_known
from ddx.models.resampling import enlarge

HEADS = ("simple", "complex", "dense")

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
      null_class: whether it knows one class more, the number num_classes, which says nothing of an image: what
        classifier-free guidance leads away from.
      dtype: type of the computation, float32 or bfloat16; parameters and output are float32.
      remat: recompute the blocks' activations in the backward pass; same parameters, same numbers, less memory.
      family: "ddpm" or "iddpm", the original code whose conventions are followed where the two differ: the
        normalisations' epsilon, the time embedding, padding, initial weights.
      scale_shift: the time scales and shifts after the second norm of a residual block, instead of being added before.
      num_heads: heads of every attention block; they share its channels evenly.
      head_channels: 0, or the channels of each head, of which a block then has as many as its channels make.
      resample_blocks: residual blocks halve and double the images, as in ADM; otherwise a convolution does.
      low_res: 0, or the height of the low-resolution images that are to be enlarged to x's size (super-resolution).
      head: "" for none; or layers of its own for as many channels again, from what the last convolution is given
        (Extended Analytic-DPM's): "simple", a normalisation and a convolution, "complex", a residual block before them.
        "dense", ours, is for outputs that are no pixels, such as frequencies: a residual block, the mean over the image
        and two dense layers, the last with an output of its own for each coordinate of images of the size that the
        network was made for. Their names begin with "head".
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    groups: int = 32
    dropout: float = 0.1
    out_channels: int = 3
    num_classes: int = 0
    null_class: bool = False
    dtype: Any = jnp.float32
    remat: bool = False
    family: str = "ddpm"
    scale_shift: bool = False
    num_heads: int = 1
    head_channels: int = 0
    resample_blocks: bool = False
    low_res: int = 0
    head: str = ""

    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        label: jax.Array | None = None,
        low_res: jax.Array | None = None,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """The raw output for images x at network times t.

        Args:
          x: (B, H, W, C).
          t: (B,) 0-based time indices, int or float.
          label: (B,) classes, 0 .. num_classes - 1, or num_classes for none with a null_class; None for a network
            without classes.
          low_res: (B, h, h * W / H, C) with h the attribute low_res, what x is to agree with; None where that is 0.
          dropout_keys: (B,) keys of `jax.random`, one for each image: apply dropout with the masks that belong to
            them. None outside training.

        Returns:
          (B, H, W, out_channels) float32, twice the channels with a head.

        Raises:
          ValueError: x, t, label, low_res or dropout_keys has the wrong shape, a label or low_res is missing or
            unknown to the network, the family or head is unknown, the images cannot be halved often enough, channels
            cannot be grouped or shared by the heads, or an attention resolution is never reached.
        """
        check_inputs(x, t, label, self.num_classes, dropout_keys)
        self._check_low_res(x, low_res)
        self._check_settings(*x.shape[1:3])
        part = max(1, _PIXELS_A_PART // (x.shape[1] * x.shape[2]))
        if dropout_keys is not None or self.is_initializing() or not is_known(x.shape) or x.shape[0] <= part:
            return self._network(x, t, label, low_res, dropout_keys)
        variables, network = self.variables, self.clone(parent=None)

        def whole(*inputs: Any) -> jax.Array:
            return jnp.asarray(network.apply(variables, *inputs, None, method=UNet._network))

        def in_parts(*inputs: Any) -> jax.Array:
            even = x.shape[0] // part * part
            parts = jax.tree.map(lambda a: a[:even].reshape(-1, part, *a.shape[1:]), inputs)
            out = jax.lax.map(lambda one: whole(*one), parts).reshape(even, *x.shape[1:3], -1)
            rest = jax.tree.map(lambda a: a[even:], inputs)
            return out if even == x.shape[0] else jnp.concatenate([out, whole(*rest)])

        out: jax.Array = jax.lax.platform_dependent(x, t, label, low_res, cpu=in_parts, default=whole)
        return out

    @nn.nowrap
    def inputs(
        self, image_shape: tuple[int, int, int], batch: int = 1
    ) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
        """Zeros (x, t, label, low_res) for images (H, W, C), what `init` takes; None stands for what is not taken."""
        height, width, channels = image_shape
        t = jnp.zeros((batch,), jnp.int32)
        low_res = jnp.zeros(self._low_res_shape((batch, height, width, channels))) if self.low_res else None
        return jnp.zeros((batch, *image_shape)), t, t if self.num_classes else None, low_res

    @nn.nowrap
    def heads(self, channels: int) -> int:
        """How many heads an attention block of so many channels has."""
        return channels // self.head_channels if self.head_channels else self.num_heads

    @nn.compact
    def _network(
        self,
        x: jax.Array,
        t: jax.Array,
        label: jax.Array | None,
        low_res: jax.Array | None,
        dropout_keys: jax.Array | None,
    ) -> jax.Array:
        like = FAMILIES[self.family]
        block = nn.remat(ResnetBlock) if self.remat else ResnetBlock
        attention = nn.remat(AttentionBlock) if self.remat else AttentionBlock
        last = len(self.multipliers) - 1

        def residual(h: Measured, name: str, multiplier: int, resample: str = "") -> Measured:
            settings = (self.channels * multiplier, self.groups, self.dropout, self.dtype, self.scale_shift, like)
            return block(*settings, resample, name=name)(h, temb, dropout_keys)

        def attend(h: Measured, name: str) -> Measured:
            return attention(self.groups, self.dtype, self.heads(h.x.shape[-1]), like, name=name)(h)

        def attend_here(h: Measured, name: str) -> Measured:
            return attend(h, name) if h.x.shape[1] in self.attention_resolutions else h

        temb = time_embedding(t, self.channels, like.cosine_first)
        temb = dense(self.channels, 4 * self.channels, like, self.dtype, "temb_dense0")(temb)
        temb = dense(4 * self.channels, 4 * self.channels, like, self.dtype, "temb_dense1")(nn.swish(temb))
        if label is not None:
            init, count = nn.initializers.normal(1.0), self.num_classes + self.null_class
            temb += nn.Embed(count, temb.shape[-1], self.dtype, embedding_init=init, name="label")(label)

        if low_res is not None:
            x = jnp.concatenate([x, enlarge(low_res, *x.shape[1:3])], axis=-1)
        conv_in = Conv3x3(x.shape[-1], self.channels, like, self.dtype, name="conv_in")
        h = measure(conv_in(x), conv_in.bias, lambda: conv_in.first(x))
        skips = [h]
        for level, multiplier in enumerate(self.multipliers):
            for i in range(self.num_blocks):
                h = residual(h, f"down_{level}_block_{i}", multiplier)
                h = attend_here(h, f"down_{level}_attn_{i}")
                skips.append(h)
            if level != last:
                name = f"down_{level}_downsample"
                if self.resample_blocks:
                    h = residual(h, name, multiplier, "down")
                else:
                    h = Downsample(self.dtype, like, name=name)(h)
                skips.append(h)

        h = residual(h, "mid_block_1", self.multipliers[-1])
        h = attend(h, "mid_attn_1")
        h = residual(h, "mid_block_2", self.multipliers[-1])

        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for i in range(self.num_blocks + 1):
                h = residual(joined(h, skips.pop()), f"up_{level}_block_{i}", multiplier)
                h = attend_here(h, f"up_{level}_attn_{i}")
            if level != 0:
                name = f"up_{level}_upsample"
                if self.resample_blocks:
                    h = residual(h, name, multiplier, "up")
                else:
                    h = Upsample(self.dtype, like, name=name)(h)

        def output(h: Measured, norm: str, conv: str) -> jax.Array:
            y = nn.swish(GroupNorm(self.groups, epsilon=like.epsilon, name=norm)(h))
            last_conv = Conv3x3(y.shape[-1], self.out_channels, like, self.dtype, last=True, name=conv)
            return last_conv(y).astype(jnp.float32) + last_conv.bias

        out = output(h, "norm_out", "conv_out")
        if not self.head:
            return out
        if self.head != "simple":
            h = residual(h, "head_block", self.multipliers[0])
        if self.head != "dense":
            return jnp.concatenate([out, output(h, "head_norm", "head_conv")], axis=-1)
        y = nn.swish(GroupNorm(self.groups, epsilon=like.epsilon, name="head_norm")(h)).mean((1, 2))
        y = nn.swish(dense(self.channels, 4 * self.channels, like, self.dtype, "head_dense0")(y))
        y = dense(4 * self.channels, out[0].size, like, self.dtype, "head_dense1", last=True)(y)
        return jnp.concatenate([out, y.reshape(out.shape).astype(jnp.float32)], axis=-1)

    def _low_res_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the low-resolution images that belong to images of this one."""
        batch, height, width, channels = shape
        return (batch, self.low_res, self.low_res * width // height, channels)

    def _check_low_res(self, x: jax.Array, low_res: jax.Array | None) -> None:
        shape = self._low_res_shape(x.shape) if self.low_res else None
        if shape != (None if low_res is None else low_res.shape):
            wanted = f"low-resolution images {shape}" if shape else "no low-resolution images"
            raise ValueError(f"a network of low_res={self.low_res} takes {wanted}; got {given(low_res)}")

    def _check_settings(self, height: int, width: int) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family {self.family!r} is unknown; choose one of: {', '.join(FAMILIES)}")
        if self.head and self.head not in HEADS:
            raise ValueError(f"head {self.head!r} is unknown; choose one of: {', '.join(HEADS)}")
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
        attending = [m for m, h in zip(self.multipliers, reached, strict=True) if h in self.attention_resolutions]
        for multiplier in (*attending, self.multipliers[-1]):  # the middle attends too
            shared = "head_channels" if self.head_channels else "num_heads"
            if self.channels * multiplier % getattr(self, shared):
                raise ValueError(
                    f"channels={self.channels} times multiplier {multiplier} is not a multiple of"
                    f" {shared}={getattr(self, shared)}"
                )


def of_head(params: dict[str, Any]) -> dict[str, bool]:
    """Which of a network's modules belong to its head."""
    return {name: name.startswith("head") for name in params}
