"""Named networks, with the image shape and the number of parameters that identify them."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddx.models.unet import UNet


class Preset(NamedTuple):
    """A network, the (H, W, C) images it was made for, and its parameter count."""

    model: UNet
    image_shape: tuple[int, int, int]
    num_params: int


_256 = UNet(multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0)
_DIGITS = UNet(
    channels=32, multipliers=(1, 2), num_blocks=1, attention_resolutions=(4,), groups=8, dropout=0.0, out_channels=1
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "digits": Preset(_DIGITS, (8, 8, 1), 701_345),
        "ddpm_cifar10": Preset(UNet(), (32, 32, 3), 35_746_307),
        "ddpm_celebahq256": Preset(_256, (256, 256, 3), 113_673_219),
        "ddpm_lsun": Preset(_256, (256, 256, 3), 113_673_219),
        "ddpm_lsun_large": Preset(_256.clone(channels=192), (256, 256, 3), 255_677_955),
        "ddim_celeba64": Preset(UNet(multipliers=(1, 2, 2, 2, 4)), (64, 64, 3), 78_700_803),
    }
)


def create(name: str, **overrides: Any) -> nn.Module:
    """Make a preset's network, with some arguments changed: ddpm_cifar10 with dtype=jnp.bfloat16, say.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in PRESETS:
        raise ValueError(f"model {name!r} is unknown; choose one of: {', '.join(PRESETS)}")
    return PRESETS[name].model.clone(**overrides)


def num_params(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """The number of parameters of a network for (H, W, C) images, without allocating them."""
    x, t = jnp.zeros((1, *image_shape)), jnp.zeros((1,), jnp.int32)
    shapes = jax.eval_shape(lambda key: model.init(key, x, t), jax.random.key(0))["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
