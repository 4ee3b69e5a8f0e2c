"""Where other code bases keep a network's arrays: one table of names a code base, read in both directions.

An array of ddx is named by its path, such as ("down_1_block_0", "conv1", "kernel"): a module, perhaps a layer in it,
and a leaf. A module's name is a pattern of numbers and becomes another pattern of them; layers and leaves are looked
up.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ddx.models import Network

Keys = tuple[str, ...]
"""The path of an array in the tree of parameters, such as ("down_1_block_0", "conv1", "kernel")."""


class Place(NamedTuple):
    """Where a file keeps an array of ddx.

    Attributes:
      names: of the tensor, the newest first: a file has one of them.
      part: which third it is, of a tensor that holds queries, keys and values.
    """

    names: tuple[str, ...]
    part: int | None = None


class Names(NamedTuple):
    """The names of one code base.

    Attributes:
      modules: ours, as a pattern with the numbers `level` and `i`, and theirs, of which there may be several. Theirs
        are formatted with `level`, `i`, `mirrored`, the level counted from the deepest, and `down` and `up`, the number
        of a block where blocks are counted through on the way down or up.
      layers: those inside a module whose names differ, with all names that they have had.
      parts: layers that are parts of one tensor, by their names in `layers`.
      by_head: in such a tensor each head's parts lie together; otherwise each part's heads do.
    """

    modules: tuple[tuple[str, tuple[str, ...]], ...]
    layers: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, int] = MappingProxyType({})
    by_head: bool = True

    def place(self, path: Keys, model: Network) -> Place:
        """Where the array at this path of the network's parameters is kept."""
        module, *layers, leaf = path
        inside = [self.layers.get(layer, (layer,)) for layer in layers]
        names = list(self._module(module, model))
        for choices in inside:
            names = [f"{name}.{choice}" for choice in choices for name in names]
        part = self.parts.get(layers[-1]) if layers else None
        return Place(tuple(f"{name}.{_LEAVES[leaf]}" for name in names), part)

    def _module(self, module: str, model: Network) -> tuple[str, ...]:
        last, in_level = len(model.multipliers) - 1, model.num_blocks + 1
        for pattern, theirs in self.modules:
            if match := re.fullmatch(pattern, module):
                found = {key: int(value) for key, value in match.groupdict().items()}
                level, i = found.get("level", 0), found.get("i", model.num_blocks)  # a resampling follows the blocks
                mirrored = last - level
                numbers = {
                    "level": level,
                    "i": i,
                    "mirrored": mirrored,
                    "down": 1 + level * in_level + i,
                    "up": mirrored * in_level + i,
                }
                return tuple(name.format(**numbers) for name in theirs)
        return (module,)


_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}

_DOWN, _UP = r"down_(?P<level>\d+)_", r"up_(?P<level>\d+)_"
_BLOCK, _ATTENTION = r"block_(?P<i>\d+)", r"attn_(?P<i>\d+)"

DIFFUSERS = Names(
    modules=(
        (_DOWN + _BLOCK, ("down_blocks.{level}.resnets.{i}",)),
        (_DOWN + _ATTENTION, ("down_blocks.{level}.attentions.{i}",)),
        (_DOWN + "downsample", ("down_blocks.{level}.downsamplers.0",)),
        ("mid_block_1", ("mid_block.resnets.0",)),
        ("mid_attn_1", ("mid_block.attentions.0",)),
        ("mid_block_2", ("mid_block.resnets.1",)),
        (_UP + _BLOCK, ("up_blocks.{mirrored}.resnets.{i}",)),
        (_UP + _ATTENTION, ("up_blocks.{mirrored}.attentions.{i}",)),
        (_UP + "upsample", ("up_blocks.{mirrored}.upsamplers.0",)),
        ("temb_dense0", ("time_embedding.linear_1",)),
        ("temb_dense1", ("time_embedding.linear_2",)),
        ("label", ("class_embedding",)),
        ("norm_out", ("conv_norm_out",)),
    ),
    layers=MappingProxyType(
        {
            "temb_proj": ("time_emb_proj",),
            "nin_shortcut": ("conv_shortcut",),
            "norm": ("group_norm",),
            "q": ("to_q", "query"),
            "k": ("to_k", "key"),
            "v": ("to_v", "value"),
            "proj_out": ("to_out.0", "proj_attn"),
        }
    ),
)

# DDIM's code, and the PyTorch copies of DDPM's networks that are made for it.
DDIM = Names(
    modules=(
        (_DOWN + _BLOCK, ("down.{level}.block.{i}",)),
        (_DOWN + _ATTENTION, ("down.{level}.attn.{i}",)),
        (_DOWN + "downsample", ("down.{level}.downsample",)),
        ("mid_block_1", ("mid.block_1",)),
        ("mid_attn_1", ("mid.attn_1",)),
        ("mid_block_2", ("mid.block_2",)),
        (_UP + _BLOCK, ("up.{level}.block.{i}",)),
        (_UP + _ATTENTION, ("up.{level}.attn.{i}",)),
        (_UP + "upsample", ("up.{level}.upsample",)),
        ("temb_dense0", ("temb.dense.0",)),
        ("temb_dense1", ("temb.dense.1",)),
        ("head_block", ("before_out",)),  # the head is Extended Analytic-DPM's
        ("head_norm", ("norm_out2",)),
        ("head_conv", ("conv_out2",)),
    ),
    layers=MappingProxyType({}),
)

# Improved DDPM's code counts its blocks through, resampling among them; ADM's, whose blocks resample, has its names.
IDDPM = Names(
    modules=(
        (_DOWN + _BLOCK, ("input_blocks.{down}.0",)),
        (_DOWN + _ATTENTION, ("input_blocks.{down}.1",)),
        (_DOWN + "downsample", ("input_blocks.{down}.0",)),
        ("mid_block_1", ("middle_block.0",)),
        ("mid_attn_1", ("middle_block.1",)),
        ("mid_block_2", ("middle_block.2",)),
        (_UP + _BLOCK, ("output_blocks.{up}.0",)),
        (_UP + _ATTENTION, ("output_blocks.{up}.1",)),
        (_UP + "upsample", ("output_blocks.{up}.1", "output_blocks.{up}.2")),  # after the block, or after attention
        ("temb_dense0", ("time_embed.0",)),
        ("temb_dense1", ("time_embed.2",)),
        ("label", ("label_emb",)),
        ("conv_in", ("input_blocks.0.0",)),
        ("norm_out", ("out.0",)),
        ("conv_out", ("out.2",)),
        ("head_block", ("out2.0",)),  # the head is Extended Analytic-DPM's, without and with a block
        ("head_norm", ("out2.0", "out2.1")),
        ("head_conv", ("out2.2", "out2.3")),
    ),
    layers=MappingProxyType(
        {
            "norm1": ("in_layers.0",),
            "conv1": ("in_layers.2",),
            "temb_proj": ("emb_layers.1",),
            "norm2": ("out_layers.0",),
            "conv2": ("out_layers.3",),
            "nin_shortcut": ("skip_connection",),
            "conv": ("op", "conv"),  # of a downsampling, of an upsampling
            "q": ("qkv",),
            "k": ("qkv",),
            "v": ("qkv",),
        }
    ),
    parts=MappingProxyType({"q": 0, "k": 1, "v": 2}),
)
