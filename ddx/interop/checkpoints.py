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
from ddx.config.values import set_head, set_network
from ddx.diffusion.catalogue import LEARNED_VARIANCES
from ddx.interop.found import Found, set_images, state_dict
from ddx.interop.names import DDIM, IDDPM, Names
from ddx.interop.shapes import Shape, shape_of
from ddx.models import PRESETS
from ddx.runtime import folders, storage
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path
from ddx.runtime.tensors import TORCH, Tensor, Tensors, read


class Code(NamedTuple):
    """One of these code bases.

    Attributes:
      family: of `ddx.models.conventions`.
      names: of its tensors.
      published: its networks among `ddx.models.PRESETS`, with the config of each, or with several to choose from.
      shared: those that were trained on several data sets: the weights do not tell which was theirs.
      new_order: those with the new attention order.
    """

    family: str
    names: Names
    published: Mapping[str, tuple[str, ...]]
    shared: tuple[str, ...] = ()
    new_order: tuple[str, ...] = ()


def published_as(**configs: str | tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    """`Code.published` from presets and the config of each, or several."""
    return MappingProxyType({name: (one,) if isinstance(one, str) else one for name, one in configs.items()})


DDIM_CODE = Code(
    "ddpm",
    DDIM,
    published_as(ddpm_cifar10="ddpm_cifar10", ddim_celeba64="ddim_celeba64", ddpm_lsun="ddpm_lsun"),
    shared=("ddpm_lsun",),
)
IDDPM_CODE = Code(
    "iddpm",
    IDDPM,
    published_as(
        iddpm_cifar10="iddpm_cifar10",
        iddpm_imagenet64="iddpm_imagenet64:uncond",
        iddpm_imagenet64_class="iddpm_imagenet64:class",
        iddpm_upsampler256="iddpm_imagenet64:upsampler",
        iddpm_lsun="iddpm_lsun",
    ),
)
ADM_CODE = Code(
    "iddpm",
    IDDPM,
    published_as(
        adm_imagenet64="adm_imagenet:64",
        adm_imagenet128="adm_imagenet:128",
        adm_imagenet256="adm_imagenet:256",
        adm_uncond256="adm_imagenet:256_uncond",
        adm_upsampler256="adm_imagenet:upsampler",
    ),
    shared=("adm_uncond256",),
    new_order=("adm_imagenet64",),
)


class Hints(NamedTuple):
    """What a user says of a network that its file does not.

    Attributes:
      weights: "ema" or "raw", where a file or folder has both.
      config: says what the shapes do not; None for a network that was published.
      head: "npr" or "sn", what the head or the second half of the outputs predicts; None for a network without either.
      attention_order: "new" or "old", of queries, keys and values; None for the one of published networks, else old.
    """

    weights: str = "ema"
    config: ConfigDict | None = None
    head: str | None = None
    attention_order: str | None = None


def find(source: Path, hints: Hints, code: Code) -> Found:
    """The network in a file, or in a folder with one, with the config of its paper, or the one that is given.

    Args:
      source: the file or folder.
      hints: what the user says of it.
      code: the code base that wrote it.

    Raises:
      ConfigError: the network is no published one, or the config does not say what is needed.
      CheckpointError: the file is missing, damaged or of another code.
    """
    path = _file(source, hints.weights)
    return recognised(chosen(read(path), path, hints.weights), path, hints, code)


def recognised(tensors: Tensors, path: Path, hints: Hints, code: Code) -> Found:
    """As `find`, for the tensors that a file holds."""
    shape = shape_of(tensors, code.family, path)
    name = published_name(shape, code)
    config = hints.config or _config(name, path, code)
    size = _size(shape, config, name, path)
    order = hints.attention_order or ("new" if name in code.new_order else "old")
    changed = _changed(config, shape, size, hints.head, code, path)
    return Found(
        changed,
        (*size, shape.image_channels),
        shape.num_classes,
        _without_variance(tensors, shape, code) if shape.head else tensors,
        path,
        code.names._replace(by_head=order == "old"),
    )


def _config(name: str | None, path: Path, code: Code) -> ConfigDict:
    """The config of a published network."""
    if name is None:
        raise ConfigError(
            f"{path} is none of the published networks, and its weights do not tell the size of the images"
            " (data.image_size), the heads (model.num_heads) and the noise (process.num_steps, process.schedule,"
            " process.rescale_time). Pass the config that has them, such as"
            f" --config={next(iter(code.published.values()))[0]}"
        )
    several = code.published[name]
    if len(several) > 1:
        choices = " or ".join(f"--config={one}" for one in several)
        raise ConfigError(f"{path} does not tell its noise schedule. Pass {choices}")
    config = files.load(several[0])
    if name in code.shared:
        config.data.name = UNKNOWN
    return config


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


def chosen(found: Any, path: Path, weights: str) -> Tensors:
    """The averaged or raw weights of what a file holds: DDIM's code writes both, with the state of the optimiser."""
    if not isinstance(found, list):
        return state_dict(found, path)
    place = 4 if weights == "ema" else 0  # [model, optimiser, epoch, step, average]
    if len(found) <= place:
        raise CheckpointError(f"{path} holds no averaged weights. Pass --weights=raw for the others")
    return state_dict(found[place], path)


def published_name(shape: Shape, code: Code) -> str | None:
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
            and model.resample_blocks == shape.resample_blocks
        )
        if same:
            return name
    return None


def _size(shape: Shape, config: ConfigDict, name: str | None, path: Path) -> tuple[int, int]:
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


def _changed(
    config: ConfigDict, shape: Shape, size: tuple[int, int], head: str | None, code: Code, path: Path
) -> ConfigDict:
    """The config with the network that the shapes tell, and with what its head predicts."""
    changed = ConfigDict(config.to_dict(), convert_dict=True)
    model, loss = changed.model, changed.loss
    if shape.enlarges and not _said(config, "model.low_res"):
        raise ConfigError(
            "the network enlarges images, of a size that its weights do not tell. Pass --config.model.low_res"
        )
    if shape.head and not head:
        raise ConfigError(
            f"{path} has a head and does not tell what it predicts. Pass --from=analytic-dpm --head=npr, or --head=sn"
        )
    if head and not (shape.head or shape.doubled):
        raise ConfigError(f"{path} has no head. Leave out --head")
    set_network(changed, "unet")
    model.family, model.head = code.family, shape.head
    model.channels, model.num_blocks = shape.channels, shape.num_blocks
    model.multipliers = tuple(width // shape.channels for width in shape.widths)
    model.attention_resolutions = tuple(size[0] >> level for level in shape.attending)
    model.groups, model.scale_shift, model.class_conditional = 32, shape.scale_shift, shape.num_classes > 0
    model.label_dropout = 0.0  # whether one of its classes is none is not told
    model.resample_blocks = shape.resample_blocks
    if not shape.enlarges:
        model.low_res = 0
    if code.family == "ddpm":
        model.num_heads, model.head_channels = 1, 0
    set_images(changed, (*size, shape.image_channels))
    if head:
        set_head(changed, head)
    elif shape.doubled != (loss.variance in LEARNED_VARIANCES):
        loss.objective, loss.variance = ("hybrid", "range") if shape.doubled else ("simple", "large")
        changed.sample.variance = loss.variance
    return changed


def _without_variance(tensors: Tensors, shape: Shape, code: Code) -> Tensors:
    """A network beside whose head a learned variance is of no use, without it: the first outputs alone."""
    count, last = shape.image_channels, "conv_out" if code.family == "ddpm" else "out.2"

    def first(tensor: Tensor) -> Tensor:
        if tensor.shape[:1] != (2 * count,):
            return tensor
        return Tensor((count, *tensor.shape[1:]), lambda: tensor.read()[:count])

    return {name: first(one) if name.rpartition(".")[0] == last else one for name, one in tensors.items()}
