"""Which settings of a network go together, and with which images."""

import math
from typing import Any

from ddx.config.keys import KEYS
from ddx.runtime.errors import ConfigError

MOST_WEIGHTS = 10**11  # of a network: 400 GB
MOST_VALUES = 2**33  # of images at once: 32 GiB as floats

OF_ONE = {
    "unet": (
        *("family", "multipliers", "num_blocks", "attention_resolutions", "groups", "head_channels"),
        *("resample_blocks", "scale_shift", "low_res", "head"),
    ),
    "dit": ("patch_size", "depth"),
}
"""The settings that one network alone has."""


def check_model(c: dict[str, Any]) -> None:
    """Refuse the values of a network that cannot go together."""
    _check_own(c)
    if c["model.label_dropout"] and not c["model.class_conditional"]:
        raise ConfigError(
            f"model.label_dropout={c['model.label_dropout']} leaves out classes, and the network is told none; set"
            " model.class_conditional=True, or leave it 0"
        )
    {"unet": _check_unet, "dit": _check_dit}[c["model.network"]](c)
    if size := c["data.image_size"]:
        model = {key.removeprefix("model."): value for key, value in c.items() if key.startswith("model.")}
        height, width = size if isinstance(size, tuple) else (size, size)
        check_image_size(height, width, model, "images of data.image_size")
        check_sizes(c, (height, width, c["data.channels"] or 1))


def _check_own(c: dict[str, Any]) -> None:
    """Refuse what other networks have and this one does not."""
    network = c["model.network"]
    others = [f"model.{name}" for other, names in OF_ONE.items() if other != network for name in names]
    if changed := [key for key in others if c[key] != KEYS[key].default]:
        given = ", ".join(f"{key}={c[key]!r}" for key in changed)
        defaults = ", ".join(repr(KEYS[key].default) for key in changed)
        raise ConfigError(f"{given}: model.network={network!r} has no such setting; leave out, or set to {defaults}")


def _check_dit(c: dict[str, Any]) -> None:
    channels, heads = c["model.channels"], c["model.num_heads"]
    if channels % heads or channels % 4:
        raise ConfigError(
            f"model.channels={channels} of a dit must be a multiple of model.num_heads={heads}, and of 4 for the"
            f" embedding of rows and columns; use {math.lcm(heads, 4) * max(1, channels // math.lcm(heads, 4))}"
        )
    if c["model.dropout"]:
        raise ConfigError(f"model.dropout={c['model.dropout']}: model.network='dit' has no dropout; set 0.0")
    _check_weights(c, 18 * c["model.depth"] * channels**2, "model.channels", "model.depth")


def _check_unet(c: dict[str, Any]) -> None:
    for multiplier in (1, *c["model.multipliers"]):
        if c["model.channels"] * multiplier % c["model.groups"]:
            raise ConfigError(
                f"model.channels={c['model.channels']}, alone and times model.multipliers={c['model.multipliers']},"
                f" must be a multiple of model.groups={c['model.groups']}"
            )
    if c["model.head_channels"] and c["model.num_heads"] != 1:
        raise ConfigError(
            f"model.head_channels={c['model.head_channels']} and model.num_heads={c['model.num_heads']} both say how"
            " many heads there are; leave one out"
        )
    heads = _heads({"num_heads": c["model.num_heads"], "head_channels": c["model.head_channels"]})
    if c["model.channels"] * c["model.multipliers"][-1] % heads[1]:  # the middle attends
        raise ConfigError(
            f"model.{heads[0]}={heads[1]} must divide the {c['model.channels'] * c['model.multipliers'][-1]}"
            " channels of the last level; use another number"
        )
    weights = sum(18 * c["model.num_blocks"] * (c["model.channels"] * m) ** 2 for m in c["model.multipliers"])
    _check_weights(c, weights, "model.channels", "model.multipliers", "model.num_blocks")


def _check_weights(c: dict[str, Any], weights: int, *keys: str) -> None:
    """Refuse a network of so many weights, of which the keys make many, that no host has memory for it."""
    if weights > MOST_WEIGHTS:
        *others, last = (f"{key}={c[key]}" for key in keys)
        raise ConfigError(
            f"{', '.join(others)} and {last} make more than {weights:.1e} weights; use less of one of them"
        )


def check_sizes(c: dict[str, Any], image_shape: tuple[int, int, int]) -> None:
    """Refuse more images (H, W, C) at once than any host has memory for."""
    height, width, channels = image_shape
    each = height * width * channels
    for key, count in {
        "train.batch_size": c["train.batch_size"],
        "sample.batch_size": c["sample.batch_size"],
        "sample.num_images": c["sample.num_images"],
        "train.steps_per_call": c["train.steps_per_call"] * c["train.batch_size"],
    }.items():
        if count * each > MOST_VALUES:
            batches = " batches" * (key == "train.steps_per_call")
            raise ConfigError(
                f"{key}={c[key]:,}{batches} of images of {height} x {width} x {channels} do not fit into any memory;"
                f" use at most {MOST_VALUES // each // (c['train.batch_size'] if batches else 1):,}"
            )


def check_image_size(height: int, width: int, model: dict[str, Any], where: str) -> None:
    """Refuse images that a network cannot halve or take apart, shrink, or attend to as its settings say."""
    if model["network"] == "dit":
        if height % model["patch_size"] or width % model["patch_size"]:
            raise ConfigError(
                f"{where} {height} x {width}: both must be multiples of model.patch_size={model['patch_size']};"
                " change it, or set data.image_size"
            )
        return
    levels, low_res = len(model["multipliers"]), model["low_res"]
    factor = 2 ** (levels - 1)
    if height % factor or width % factor:
        raise ConfigError(
            f"{where} {height} x {width}: both must be multiples of {factor}, to be halved {levels - 1} times"
            " (model.multipliers); set data.image_size"
        )
    if low_res and (height % low_res or width * low_res % height or low_res == height):
        raise ConfigError(
            f"model.low_res={low_res} is no whole fraction of {where} {height} x {width}; use {height // 2}, say"
        )
    reached = [height >> level for level in range(levels)]
    for resolution in model["attention_resolutions"]:
        if resolution not in reached:
            raise ConfigError(
                f"model.attention_resolutions has {resolution}, which {where} {height} x {width} never reach;"
                f" set it to some of {reached}"
            )
    for resolution in (*model["attention_resolutions"], reached[-1]):  # the middle attends too
        channels = model["channels"] * model["multipliers"][reached.index(resolution)]
        key, number = _heads(model)
        if channels % number:
            raise ConfigError(
                f"model.{key}={number} does not divide the {channels} channels at the attention"
                f" resolution {resolution}; use another number"
            )


def _heads(model: dict[str, Any]) -> tuple[str, int]:
    """The key that says how channels are shared among heads, and its value: both must divide the channels."""
    key = "head_channels" if model["head_channels"] else "num_heads"
    return key, model[key]
