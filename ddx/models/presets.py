"""Named networks, with the image shape and the number of parameters that identify them."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from ddx.models.dit import DiT
from ddx.models.networks import Network
from ddx.models.unet import UNet


class Preset(NamedTuple):
    """A network, the (H, W, C) images it was made for, and its parameter count."""

    model: Network
    image_shape: tuple[int, int, int]
    num_params: int


_256 = UNet(multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0)
_DIGITS = UNet(
    channels=32, multipliers=(1, 2), num_blocks=1, attention_resolutions=(4,), groups=8, dropout=0.0, out_channels=1
)
_IMAGENET64 = UNet(
    family="iddpm",
    multipliers=(1, 2, 3, 4),
    num_blocks=3,
    attention_resolutions=(16, 8),
    num_heads=4,
    scale_shift=True,
    dropout=0.0,
    out_channels=6,
)
_IMAGENET64_CLASS = _IMAGENET64.clone(channels=192, num_classes=1000)
_ADM = _IMAGENET64.clone(
    channels=256,
    multipliers=(1, 1, 2, 2, 4, 4),
    num_blocks=2,
    attention_resolutions=(32, 16, 8),
    num_heads=1,
    head_channels=64,
    resample_blocks=True,
)
_ADM_CLASS = _ADM.clone(num_classes=1000)
_IDDPM_256: dict[str, Any] = {"multipliers": (1, 1, 2, 2, 4, 4), "num_blocks": 2}
_BLURRING = UNet(num_blocks=3, attention_resolutions=(16, 8))
_IHDM = UNet(family="iddpm", multipliers=(1, 2, 3, 4, 5), num_blocks=3, attention_resolutions=(64, 32, 16), dropout=0.3)
_IHDM_128 = _IHDM.clone(num_blocks=2, attention_resolutions=(32, 16, 8), dropout=0.1)
_IHDM_MNIST = _IHDM.clone(multipliers=(1, 2, 2), num_blocks=4, attention_resolutions=(7,), dropout=0.1, out_channels=1)

# For latents of ImageNet at 256 x 256, with learned variances and a null class for guidance. The paper's counts include
# the fixed embeddings of places, D for each patch; these do not.
_LATENTS = (32, 32, 4)
_DIT_S = DiT(384, 12, 6, out_channels=8, num_classes=1000, null_class=True)
_DIT_B = _DIT_S.clone(channels=768, num_heads=12)
_DIT_L = _DIT_S.clone(channels=1024, depth=24, num_heads=16)
_DIT_XL = _DIT_L.clone(channels=1152, depth=28)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "digits": Preset(_DIGITS, (8, 8, 1), 701_345),
        "ddpm_cifar10": Preset(UNet(), (32, 32, 3), 35_746_307),
        "ddpm_celebahq256": Preset(_256, (256, 256, 3), 113_673_219),
        "ddpm_lsun": Preset(_256, (256, 256, 3), 113_673_219),
        "ddpm_lsun_large": Preset(_256.clone(channels=192), (256, 256, 3), 255_677_955),
        "ddim_celeba64": Preset(UNet(multipliers=(1, 2, 2, 2, 4)), (64, 64, 3), 78_700_803),
        "iddpm_cifar10": Preset(_IMAGENET64.clone(multipliers=(1, 2, 2, 2), dropout=0.3), (32, 32, 3), 52_546_438),
        "iddpm_imagenet64": Preset(_IMAGENET64, (64, 64, 3), 121_063_942),
        "iddpm_imagenet64_class": Preset(_IMAGENET64_CLASS, (64, 64, 3), 273_049_350),
        "iddpm_upsampler256": Preset(_IMAGENET64_CLASS.clone(**_IDDPM_256, low_res=64), (256, 256, 3), 279_792_390),
        "iddpm_lsun": Preset(
            _IMAGENET64.clone(**_IDDPM_256, attention_resolutions=(16,), num_heads=1, scale_shift=False),
            (256, 256, 3),
            113_676_678,
        ),
        "adm_imagenet64": Preset(
            _ADM_CLASS.clone(channels=192, multipliers=(1, 2, 3, 4), num_blocks=3, dropout=0.1),
            (64, 64, 3),
            295_904_454,
        ),
        "adm_imagenet128": Preset(
            _ADM_CLASS.clone(multipliers=(1, 1, 2, 3, 4), num_heads=4, head_channels=0), (128, 128, 3), 421_529_606
        ),
        "adm_imagenet256": Preset(_ADM_CLASS, (256, 256, 3), 553_838_086),
        "adm_uncond256": Preset(_ADM, (256, 256, 3), 552_814_086),
        "adm_upsampler256": Preset(
            _ADM_CLASS.clone(channels=192, num_heads=4, head_channels=0, low_res=64), (256, 256, 3), 311_795_910
        ),
        "analytic_cifar10": Preset(
            _IMAGENET64.clone(multipliers=(1, 2, 2, 2), dropout=0.3, out_channels=3), (32, 32, 3), 52_542_979
        ),
        "blurring_cifar10": Preset(
            _BLURRING.clone(channels=256, multipliers=(1, 1, 1), dropout=0.2), (32, 32, 3), 49_505_283
        ),
        "blurring_lsun_church128": Preset(
            _BLURRING.clone(channels=64, multipliers=(1, 2, 4, 6, 8)), (128, 128, 3), 114_025_795
        ),
        "ihdm_mnist": Preset(_IHDM_MNIST, (28, 28, 1), 42_082_049),
        "ihdm_mnist_small": Preset(_IHDM_MNIST.clone(channels=64, multipliers=(1, 1, 1)), (28, 28, 1), 3_704_129),
        "ihdm_cifar10": Preset(
            _IHDM_128.clone(multipliers=(1, 2, 2, 2), num_blocks=4, attention_resolutions=(8, 4)),
            (32, 32, 3),
            61_060_867,
        ),
        "ihdm_afhq64": Preset(
            _IHDM_128.clone(multipliers=(1, 2, 3, 4), attention_resolutions=(16, 8)), (64, 64, 3), 88_217_219
        ),
        "ihdm_afhq256": Preset(_IHDM, (256, 256, 3), 210_904_835),
        "ihdm_ffhq128": Preset(_IHDM_128, (128, 128, 3), 159_981_443),
        "ihdm_ffhq256": Preset(_IHDM, (256, 256, 3), 210_904_835),
        "ihdm_lsun_church": Preset(_IHDM_128.clone(num_blocks=4), (128, 128, 3), 261_828_227),
        "dit_s_2": Preset(_DIT_S, _LATENTS, 32_865_056),
        "dit_s_4": Preset(_DIT_S.clone(patch_size=4), _LATENTS, 32_920_448),
        "dit_s_8": Preset(_DIT_S.clone(patch_size=8), _LATENTS, 33_142_016),
        "dit_b_2": Preset(_DIT_B, _LATENTS, 130_315_808),
        "dit_b_4": Preset(_DIT_B.clone(patch_size=4), _LATENTS, 130_426_496),
        "dit_b_8": Preset(_DIT_B.clone(patch_size=8), _LATENTS, 130_869_248),
        "dit_l_2": Preset(_DIT_L, _LATENTS, 457_840_672),
        "dit_l_4": Preset(_DIT_L.clone(patch_size=4), _LATENTS, 457_988_224),
        "dit_l_8": Preset(_DIT_L.clone(patch_size=8), _LATENTS, 458_578_432),
        "dit_xl_2": Preset(_DIT_XL, _LATENTS, 674_834_720),
        "dit_xl_4": Preset(_DIT_XL.clone(patch_size=4), _LATENTS, 675_000_704),
        "dit_xl_8": Preset(_DIT_XL.clone(patch_size=8), _LATENTS, 675_664_640),
    }
)


def create(name: str, **overrides: Any) -> Network:
    """Make a preset's network, with some arguments changed: ddpm_cifar10 with dtype=jnp.bfloat16, say.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in PRESETS:
        raise ValueError(f"model {name!r} is unknown; choose one of: {', '.join(PRESETS)}")
    return PRESETS[name].model.clone(**overrides)


def num_params(model: Network, image_shape: tuple[int, int, int]) -> int:
    """The number of parameters of a network for (H, W, C) images, without allocating them."""
    shapes = jax.eval_shape(lambda key: model.init(key, *model.inputs(image_shape)), jax.random.key(0))["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
