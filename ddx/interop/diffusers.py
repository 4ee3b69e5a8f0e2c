"""Networks of Hugging Face's diffusers: a folder with a UNet2DModel, and a scheduler that says the noise schedule.

Two populations are exactly two of the families of `ddx.models.conventions`: the google/ddpm-* networks, which were
copied from DDPM's code, and what diffusers' own training script makes, whose conventions are Improved DDPM's.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ddx.config.values import set_network
from ddx.interop import schedulers
from ddx.interop.found import Found, set_images, tensors_in, weights_in
from ddx.interop.names import DIFFUSERS
from ddx.interop.options import Options
from ddx.models.conventions import FAMILIES, Conventions
from ddx.runtime import storage
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path
from ddx.system import System

# UNet2DModel's arguments and their defaults.
_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
# num_train_timesteps is of learned time embeddings; the others are of the average that a trainer keeps.
_IGNORED = (
    *("num_train_timesteps", "decay", "inv_gamma", "min_decay", "optimization_step", "power"),
    *("update_after_step", "use_ema_warmup"),
)
# What ddx has one way of.
_FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}


class _Network(NamedTuple):
    """What config.json says of a network."""

    model: dict[str, Any]  # model.* of a config
    image_shape: tuple[int, int, int]
    num_classes: int  # 0: it is told none
    doubled: bool  # it has twice the channels of an image


def find(source: Path, weights: str, base: ConfigDict) -> Found:
    """The network in a folder: in one of its folders unet_ema or unet, or in the folder itself.

    Args:
      source: a pipeline's folder, a trainer's or its checkpoint, or the network's own.
      weights: "ema" or "raw": which of a trainer's two networks.
      base: the config whose data and training settings to keep.

    Raises:
      ConfigError: ddx has no such network, schedule or sampler.
      CheckpointError: a file is missing or damaged.
    """
    if storage.is_file(source):
        raise CheckpointError(f"{source} is a file, and its network is told by files beside it. Name the folder")
    folders = [source / "unet_ema", source / "unet", source][weights == "raw" :]
    folder = next((folder for folder in folders if storage.is_file(folder / "config.json")), None)
    if folder is None:
        raise CheckpointError(
            f"{source} has no config.json, alone or in unet. Name the folder that save_pretrained wrote"
        )
    for other in ("vqvae", "vae"):
        if storage.is_dir(source / other):
            raise ConfigError(f"{source / other}: the network makes latents, not images. Convert another network")
    network = _read(folder / "config.json")
    parents = (folder, source, source / "scheduler", source.parent, source.parent / "scheduler")
    scheduler = next((p for p in (parent / _SCHEDULER for parent in parents) if storage.is_file(p)), None)
    if scheduler is None:
        raise CheckpointError(f"{source} has no {_SCHEDULER}, which says the noise schedule. Put it there")
    config = _changed(base, network)
    schedulers.apply(scheduler, config, network.doubled)
    path = weights_in(folder, STEM)
    return Found(config, network.image_shape, network.num_classes, tensors_in(path), path, DIFFUSERS)


_SCHEDULER = "scheduler_config.json"
STEM = "diffusion_pytorch_model"


def describe(system: System) -> dict[str, Any]:
    """The JSON files that tell diffusers of a network and its process, by name.

    Raises:
      ConfigError: diffusers has no such network or process.
    """
    m, model = system.config.model, system.model
    height, width, channels = system.image_shape
    if m.network != "unet":
        raise ConfigError(f"--to=diffusers writes a UNet2DModel, not model.network={m.network!r}. Use --to=safetensors")
    for key, has_it in (("head", m.head), ("low_res", m.low_res), ("resample_blocks", m.resample_blocks)):
        if has_it:
            raise ConfigError(f"diffusers has no network with model.{key}={has_it!r}. Use --to=safetensors")
    widths = [m.channels * multiplier for multiplier in m.multipliers]
    attending = [height >> level in m.attention_resolutions for level in range(len(widths))]
    attended = [n for n, attends in zip(widths, attending, strict=True) if attends] + widths[-1:]
    one_head = m.num_heads == 1 and not m.head_channels
    sizes = {m.head_channels or n // m.num_heads for n in attended}
    if len(sizes) > 1 and not one_head:
        raise ConfigError(
            f"diffusers has heads of one width, and model.num_heads={m.num_heads} makes some of {sorted(sizes)}. Use"
            " --to=safetensors"
        )
    like = FAMILIES[m.family]
    unet = _DEFAULTS | {
        "_class_name": "UNet2DModel",
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": model.out_channels,
        **_conventions(like),
        "down_block_types": ["AttnDownBlock2D" if attends else "DownBlock2D" for attends in attending],
        "up_block_types": ["AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attending)],
        "block_out_channels": widths,
        "layers_per_block": m.num_blocks,
        "dropout": m.dropout,
        "attention_head_dim": None if one_head else sizes.pop(),
        "norm_num_groups": m.groups,
        "attn_norm_num_groups": m.groups if m.scale_shift else None,
        "resnet_time_scale_shift": "scale_shift" if m.scale_shift else "default",
        "num_class_embeds": model.num_classes + model.null_class or None,
    }
    scheduler = schedulers.describe(system.config)
    index = {
        "_class_name": "DDIMPipeline" if scheduler["_class_name"] == "DDIMScheduler" else "DDPMPipeline",
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }
    return {"model_index.json": index, "unet/config.json": unet, f"scheduler/{_SCHEDULER}": scheduler}


def _conventions(like: Conventions) -> dict[str, Any]:
    """The four options that a family decides."""
    return {
        "norm_eps": like.epsilon,
        "flip_sin_to_cos": like.cosine_first,
        "freq_shift": 0 if like.cosine_first else 1,
        "downsample_padding": 0 if like.down_padding == "SAME" else like.down_padding,
    }


def _changed(base: ConfigDict, network: _Network) -> ConfigDict:
    """The base with this network, and with images of its size."""
    config = ConfigDict(base.to_dict(), convert_dict=True)
    set_network(config, "unet")
    config.model.update(network.model)
    set_images(config, network.image_shape)
    return config


def _read(path: Path) -> _Network:
    o = Options(path, _DEFAULTS, _IGNORED)
    kind = o.said.get("_class_name", "UNet2DModel")
    if kind not in ("UNet2DModel", "UNetUnconditionalModel"):  # the second is an old name
        raise ConfigError(f"{path} is of a {kind}, which ddx has not. Convert a UNet2DModel")
    o.refuse_unknown()
    for name, wanted in _FIXED.items():
        o.need(name, *wanted)
    widths, levels = _widths(o)
    attending = _attending(o, levels)
    height, width = _size(o, levels)
    channels, doubled = _channels(o)
    heads = o["attention_head_dim"]
    if heads is not None:
        o.typed("attention_head_dim", int)
        for level in {*attending, levels - 1}:
            if widths[level] % heads:
                raise o.refused("attention_head_dim", f"it does not divide block_out_channels[{level}]={widths[level]}")
    groups = o.typed("norm_num_groups", int)
    scale_shift = o["resnet_time_scale_shift"] == "scale_shift"
    if scale_shift and o["attn_norm_num_groups"] is None:
        raise o.refused(
            "attn_norm_num_groups", "with scale_shift the attention in the middle then has no normalisation"
        )
    o.need("attn_norm_num_groups", None, groups)
    if o["time_embedding_dim"] not in (None, 4 * widths[0]):
        raise o.refused("time_embedding_dim", f"it is {4 * widths[0]}, four times the first channels")
    if type(o["dropout"]) not in (int, float) or not 0 <= o["dropout"] < 1:
        raise o.refused("dropout", "it must be at least 0 and below 1")
    classes = 0 if o["num_class_embeds"] is None else o.typed("num_class_embeds", int)
    if classes == 1:
        raise o.refused("num_class_embeds", "there must be at least two classes")
    model = {
        "family": _family(o),
        "channels": widths[0],
        "multipliers": tuple(n // widths[0] for n in widths),
        "num_blocks": o.typed("layers_per_block", int),
        "attention_resolutions": tuple(height >> level for level in attending),
        "groups": groups,
        "dropout": float(o["dropout"]),
        "num_heads": 1,
        "head_channels": heads or 0,
        "resample_blocks": False,
        "scale_shift": scale_shift,
        "low_res": 0,
        "class_conditional": classes > 0,
        "label_dropout": 0.0,
        "head": "",
    }
    return _Network(model, (height, width, channels), classes, doubled)


def _family(o: Options) -> str:
    """The family whose conventions a network has, of which there are four."""
    nearest: tuple[list[str], str] | None = None
    for family, like in FAMILIES.items():
        wanted = _conventions(like)
        wrong = [name for name, value in wanted.items() if o[name] != value]
        if not wrong:
            return family
        if nearest is None or len(wrong) < len(nearest[0]):
            nearest = wrong, ", ".join(f"{name}={value!r}" for name, value in wanted.items())
    assert nearest is not None
    raise o.refused(nearest[0][0], f"these go together: {nearest[1]}")


def _widths(o: Options) -> tuple[list[int], int]:
    """The channels of each level, and how many levels there are."""
    widths = o.typed("block_out_channels", list)
    if not widths or not all(type(n) is int and n >= 1 for n in widths):
        raise o.refused("block_out_channels", "it must be a list of numbers")
    if any(n % widths[0] for n in widths):
        raise o.refused("block_out_channels", "all must be multiples of the first")
    return widths, len(widths)


def _attending(o: Options, levels: int) -> list[int]:
    """The levels with attention, the same on the way down and up."""
    found = []
    for name, kinds in (
        ("down_block_types", ("DownBlock2D", "AttnDownBlock2D")),
        ("up_block_types", ("UpBlock2D", "AttnUpBlock2D")),
    ):
        types = [str(kind).removeprefix("UNetRes") for kind in o.typed(name, list)]  # an old name
        if len(types) != levels:
            raise o.refused(name, f"there must be {levels}, one for each of block_out_channels")
        for kind in types:
            if kind not in kinds:
                raise o.refused(name, f"{kind} is none of {' and '.join(kinds)}")
        found.append([kind == kinds[1] for kind in types])
    if found[0] != found[1][::-1]:
        raise o.refused("up_block_types", "it must attend where down_block_types does, in reverse")
    return [level for level, attends in enumerate(found[0]) if attends]


def _size(o: Options, levels: int) -> tuple[int, int]:
    """The height and width of its images."""
    size = o["sample_size"]
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(n) is int and n >= 1 for n in sides):
        raise o.refused("sample_size", "it is no size of images", "Write theirs there, one number or two")
    factor = 2 ** (levels - 1)
    if any(n % factor for n in sides):
        raise o.refused("sample_size", f"images must be halved {levels - 1} times, so use multiples of {factor}")
    return sides[0], sides[1]


def _channels(o: Options) -> tuple[int, bool]:
    """The channels of its images, and whether the network has as many again, for a learned variance."""
    channels, out = o.typed("in_channels", int), o.typed("out_channels", int)
    if out not in (channels, 2 * channels):
        raise o.refused("out_channels", f"it must be in_channels={channels}, or twice that for a learned variance")
    return channels, out == 2 * channels
