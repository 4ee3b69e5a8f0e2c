"""What the shapes of a network's tensors tell of it, in files of DDIM's and of Improved DDPM's names."""

import re
from typing import NamedTuple

from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path
from ddx.runtime.tensors import Tensors


class Shape(NamedTuple):
    """What the shapes of a network's tensors tell."""

    channels: int
    widths: tuple[int, ...]  # of each level
    num_blocks: int
    attending: tuple[int, ...]  # levels
    scale_shift: bool
    num_classes: int
    image_channels: int
    doubled: bool  # twice the output channels
    enlarges: bool  # twice the input channels
    resample_blocks: bool
    head: str  # "", "simple" or "complex"


def shape_of(tensors: Tensors, family: str, path: Path) -> Shape:
    """The `Shape` of the network in a file.

    Args:
      tensors: the file's, by name.
      family: "ddpm", of DDIM's names, or "iddpm", of Improved DDPM's.
      path: the file, for messages.

    Raises:
      ConfigError: ddx has no such network.
      CheckpointError: it has not the tensors of the family.
    """
    first, last = ("conv_in", "conv_out") if family == "ddpm" else ("input_blocks.0.0", "out.2")
    for name in (f"{first}.weight", f"{last}.weight"):
        if name not in tensors or len(tensors[name].shape) != 4:
            raise CheckpointError(f"{path} has no tensor {name} of a convolution. It is of another code, or damaged")
    channels, inputs = tensors[f"{first}.weight"].shape[:2]
    outputs = tensors[f"{last}.weight"].shape[0]
    resample_blocks = family == "iddpm" and _num_up_blocks(tensors) > 0
    levels = _ddpm_levels(tensors) if family == "ddpm" else _iddpm_levels(tensors, resample_blocks, path)
    if not levels or not all(levels):
        raise CheckpointError(f"{path} has no residual blocks on the way down. It is of another code, or damaged")
    widths = tuple(blocks[0].width for blocks in levels)
    image_channels = next((c for c in (3, 1) if inputs in (c, 2 * c) and outputs in (c, 2 * c)), 0)
    if not (image_channels and channels) or any(width % channels for width in widths):
        raise ConfigError(
            f"{path}: ddx has no network of {inputs} input and {outputs} output channels with {channels} channels, then"
            f" {widths}. Convert another one"
        )
    block = levels[0][0]
    return Shape(
        channels,
        widths,
        len(levels[0]),
        tuple(level for level, blocks in enumerate(levels) if blocks[0].attends),
        block.told == 2 * block.width,
        _size(tensors, "label_emb.weight"),
        image_channels,
        outputs == 2 * image_channels,
        inputs == 2 * image_channels,
        resample_blocks,
        _head(tensors),
    )


class _Block(NamedTuple):
    """A residual block on the way down: its output channels, what the time becomes, and whether it attends."""

    width: int
    told: int
    attends: bool


def _ddpm_levels(tensors: Tensors) -> list[list[_Block]]:
    """The residual blocks of each level on the way down, by DDIM's names."""
    levels: list[list[_Block]] = []
    while any(name.startswith(f"down.{len(levels)}.") for name in tensors):
        blocks: list[_Block] = []
        level = f"down.{len(levels)}"
        while found := _size(tensors, f"{level}.block.{len(blocks)}.conv1.bias"):
            told = _size(tensors, f"{level}.block.{len(blocks)}.temb_proj.bias")
            blocks.append(_Block(found, told, f"{level}.attn.{len(blocks)}.q.weight" in tensors))
        levels.append(blocks)
    return levels


def _iddpm_levels(tensors: Tensors, resample_blocks: bool, path: Path) -> list[list[_Block]]:
    """The same by Improved DDPM's names.

    A block that halves looks like any other, but its place is known from the way up, where one that doubles follows
    another block.
    """
    in_level = 0
    if resample_blocks:
        numbers = [re.match(r"output_blocks\.(\d{1,4})\.", name) for name in tensors]
        in_level = (1 + max(int(found[1]) for found in numbers if found)) // (1 + _num_up_blocks(tensors))
    number = 1
    levels: list[list[_Block]] = [[]]
    while any(name.startswith(f"input_blocks.{number}.") for name in tensors):
        block = f"input_blocks.{number}"
        if number % in_level == 0 if in_level else f"{block}.0.op.weight" in tensors:
            levels.append([])
        else:
            width = _size(tensors, f"{block}.0.in_layers.2.bias")
            if not width:
                raise CheckpointError(f"{path} has no tensor {block}.0.in_layers.2.bias. It is damaged: fetch it again")
            told = _size(tensors, f"{block}.0.emb_layers.1.bias")
            levels[-1].append(_Block(width, told, f"{block}.1.qkv.weight" in tensors))
        number += 1
    return levels


def _num_up_blocks(tensors: Tensors) -> int:
    """How many residual blocks double the images, by Improved DDPM's names."""
    return sum(bool(re.fullmatch(r"output_blocks\.\d{1,4}\.[12]\.in_layers\.2\.bias", name)) for name in tensors)


def _head(tensors: Tensors) -> str:
    """The form of Extended Analytic-DPM's head, if there is one, by either code's names."""
    if "before_out.conv1.weight" in tensors or "out2.0.in_layers.2.weight" in tensors:
        return "complex"
    return "simple" if "conv_out2.weight" in tensors or "out2.2.weight" in tensors else ""


def _size(tensors: Tensors, name: str) -> int:
    """The first axis of a tensor; 0 where there is none."""
    return tensors[name].shape[0] if name in tensors and tensors[name].shape else 0
