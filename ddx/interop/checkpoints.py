"""Networks of the codes of DDIM and of Improved DDPM: files of weights that say nothing of their network.

What the shapes of the tensors tell is inferred. They do not tell the size of the images, the number of heads or the
noise schedule: the networks that were published are recognised, and are given the shipped config of their paper; of
another one, the user names the config.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ddx.config import files
from ddx.config.keys import KEYS, UNKNOWN
from ddx.interop.found import Found, set_images, state_dict
from ddx.interop.names import DDIM, IDDPM, Names
from ddx.models import PRESETS
from ddx.runtime import folders, storage
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path
from ddx.runtime.tensors import TORCH, Tensors, read


class Code(NamedTuple):
    """One of these code bases.

    Attributes:
      family: of `ddx.models.conventions`.
      names: of its tensors.
      first, last: the first and the last convolution.
      published: its networks among `ddx.models.PRESETS`, with the config of each.
    """

    family: str
    names: Names
    first: str
    last: str
    published: Mapping[str, str]


DDIM_CODE = Code(
    "ddpm",
    DDIM,
    "conv_in.weight",
    "conv_out.weight",
    MappingProxyType({"ddpm_cifar10": "ddpm_cifar10", "ddim_celeba64": "ddim_celeba64", "ddpm_lsun": "ddpm_lsun"}),
)
IDDPM_CODE = Code(
    "iddpm",
    IDDPM,
    "input_blocks.0.0.weight",
    "out.2.weight",
    MappingProxyType(
        {
            "iddpm_cifar10": "iddpm_cifar10",
            "iddpm_imagenet64": "iddpm_imagenet64:uncond",
            "iddpm_imagenet64_class": "iddpm_imagenet64:class",
            "iddpm_upsampler256": "iddpm_imagenet64:upsampler",
            "iddpm_lsun": "iddpm_lsun",
        }
    ),
)
# Several data sets have this network: the weights do not tell which was theirs.
_SHARED = ("ddpm_lsun",)


class _Shape(NamedTuple):
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


def find(source: Path, weights: str, config: ConfigDict | None, code: Code) -> Found:
    """The network in a file, or in a folder with one, with the config of its paper, or the one that is given.

    Args:
      source: the file or folder.
      weights: "ema" or "raw", where a file or folder has both.
      config: says what the shapes do not; None for a network that was published.
      code: the code base that wrote it.

    Raises:
      ConfigError: the network is no published one, or the config does not say what is needed.
      CheckpointError: the file is missing, damaged or of another code.
    """
    path = _file(source, weights)
    tensors = _chosen(read(path), path, weights)
    shape = _shape(tensors, path, code)
    name = _published(shape, code)
    if config is None:
        if name is None:
            raise ConfigError(
                f"{path} is none of the published networks, and its weights do not tell the size of the images"
                " (data.image_size), the heads (model.num_heads) and the noise (process.num_steps, process.schedule,"
                f" process.rescale_time). Pass the config that has them, such as --config={next(iter(code.published))}"
            )
        config = files.load(code.published[name])
        if name in _SHARED:
            config.data.name = UNKNOWN
    size = _size(shape, config, name, path)
    return Found(
        _changed(config, shape, size, code), (*size, shape.image_channels), shape.num_classes, tensors, path, code.names
    )


def _file(source: Path, weights: str) -> Path:
    """The file of a network, given itself or by a folder; averaged weights lie in a folder named ema_..."""
    if storage.is_file(source):
        if weights == "ema" and re.fullmatch(r"diffusion_\w+_model", source.parent.name):
            raise CheckpointError(
                f"{source} has raw weights, by the name of its folder, which draw worse images (CIFAR-10: FID 12.14,"
                f" averaged 3.21). Name the file in ema_{source.parent.name}, or pass --weights=raw"
            )
        return source
    found = (
        sorted(path for path in folders.files_below(source) if path.suffix in TORCH) if storage.is_dir(source) else []
    )
    of_kind = [p for p in found if p.parent.name.startswith("ema_") == (weights == "ema")] if len(found) > 1 else found
    if len(of_kind) != 1:
        what = f"{len(of_kind)} files with {weights} weights" if found else f"no file that ends in {', '.join(TORCH)}"
        raise CheckpointError(f"{source} has {what}. Name the file with --source")
    return of_kind[0]


def _chosen(found: Any, path: Path, weights: str) -> Tensors:
    """The averaged or raw weights of what a file holds: DDIM's code writes both, with the state of the optimiser."""
    if not isinstance(found, list):
        return state_dict(found, path)
    place = 4 if weights == "ema" else 0  # [model, optimiser, epoch, step, average]
    if len(found) <= place:
        raise CheckpointError(f"{path} holds no averaged weights. Pass --weights=raw for the others")
    return state_dict(found[place], path)


def _shape(tensors: Tensors, path: Path, code: Code) -> _Shape:
    for name in (code.first, code.last):
        if name not in tensors or len(tensors[name].shape) != 4:
            raise CheckpointError(f"{path} has no tensor {name} of a convolution. It is of another code, or damaged")
    channels, inputs = tensors[code.first].shape[:2]
    outputs = tensors[code.last].shape[0]
    levels = _levels(tensors, code)
    if not levels or not all(levels):
        raise CheckpointError(f"{path} has no residual blocks on the way down. It is of another code, or damaged")
    widths = tuple(blocks[0].width for blocks in levels)
    image_channels = next((c for c in (3, 1) if inputs in (c, 2 * c) and outputs in (c, 2 * c)), 0)
    if not image_channels or any(width % channels for width in widths):
        raise ConfigError(
            f"{path}: ddx has no network of {inputs} input and {outputs} output channels with {channels} channels, then"
            f" {widths}. Convert another one"
        )
    first = levels[0][0]
    label = tensors.get("label_emb.weight")
    return _Shape(
        channels,
        widths,
        len(levels[0]),
        tuple(level for level, blocks in enumerate(levels) if blocks[0].attends),
        first.told == 2 * first.width,
        label.shape[0] if label is not None else 0,
        image_channels,
        outputs == 2 * image_channels,
        inputs == 2 * image_channels,
    )


class _Block(NamedTuple):
    """A residual block on the way down: its output channels, what the time becomes, and whether it attends."""

    width: int
    told: int
    attends: bool


def _levels(tensors: Tensors, code: Code) -> list[list[_Block]]:
    """The residual blocks of each level on the way down."""

    def width(name: str) -> int:
        return tensors[name].shape[0] if name in tensors and tensors[name].shape else 0

    levels: list[list[_Block]] = []
    if code.family == "ddpm":
        while any(name.startswith(f"down.{len(levels)}.") for name in tensors):
            blocks: list[_Block] = []
            level = f"down.{len(levels)}"
            while found := width(f"{level}.block.{len(blocks)}.conv1.bias"):
                told = width(f"{level}.block.{len(blocks)}.temb_proj.bias")
                blocks.append(_Block(found, told, f"{level}.attn.{len(blocks)}.q.weight" in tensors))
            levels.append(blocks)
        return levels
    number, levels = 1, [[]]
    while any(name.startswith(f"input_blocks.{number}.") for name in tensors):
        block = f"input_blocks.{number}"
        if found := width(f"{block}.0.in_layers.2.bias"):
            levels[-1].append(_Block(found, width(f"{block}.0.emb_layers.1.bias"), f"{block}.1.qkv.weight" in tensors))
        else:
            levels.append([])
        number += 1
    return levels


def _published(shape: _Shape, code: Code) -> str | None:
    """The preset of this network, if it is a published one."""
    for name in code.published:
        model, (height, _, channels), _ = PRESETS[name]
        same = (
            (model.channels, tuple(model.channels * m for m in model.multipliers)) == (shape.channels, shape.widths)
            and model.num_blocks == shape.num_blocks
            and {height >> level for level in shape.attending} == set(model.attention_resolutions)
            and (model.scale_shift, model.num_classes) == (shape.scale_shift, shape.num_classes)
            and (channels, model.low_res > 0) == (shape.image_channels, shape.enlarges)
            and (model.out_channels == 2 * channels) == shape.doubled
        )
        if same:
            return name
    return None


def _size(shape: _Shape, config: ConfigDict, name: str | None, path: Path) -> tuple[int, int]:
    """The height and width of the images, from the config, or from where the config and the weights attend."""
    if size := _said(config, "data.image_size"):
        return size if isinstance(size, tuple) else (size, size)
    if name is not None:
        height, width, _ = PRESETS[name].image_shape
        return height, width
    resolutions = _said(config, "model.attention_resolutions")
    if not shape.attending or not resolutions:
        raise ConfigError(f"{path} does not tell the size of its images. Pass --config.data.image_size, such as 64")
    height = max(resolutions) << min(shape.attending)
    return height, height


def _said(config: ConfigDict, key: str) -> Any:
    """The value of a config's key, which alone is checked: most others give way to what the shapes tell."""
    group, _, name = key.partition(".")
    return KEYS[key].checked(key, config[group][name])


def _changed(config: ConfigDict, shape: _Shape, size: tuple[int, int], code: Code) -> ConfigDict:
    """The config with the network that the shapes tell."""
    changed = ConfigDict(config.to_dict(), convert_dict=True)
    model, loss = changed.model, changed.loss
    if shape.enlarges and not _said(config, "model.low_res"):
        raise ConfigError(
            "the network enlarges images, of a size that its weights do not tell. Pass --config.model.low_res"
        )
    model.family, model.head, model.head_channels = code.family, "", 0
    model.channels, model.num_blocks = shape.channels, shape.num_blocks
    model.multipliers = tuple(width // shape.channels for width in shape.widths)
    model.attention_resolutions = tuple(size[0] >> level for level in shape.attending)
    model.groups, model.scale_shift, model.class_conditional = 32, shape.scale_shift, shape.num_classes > 0
    if not shape.enlarges:
        model.low_res = 0
    if code.family == "ddpm":
        model.num_heads = 1
    set_images(changed, (*size, shape.image_channels))
    if shape.doubled != (loss.variance in ("range", "learned")):
        loss.objective, loss.variance = ("hybrid", "range") if shape.doubled else ("simple", "large")
        changed.sample.variance = loss.variance
    return changed
