"""From a run to files that others read: a folder for diffusers, one .safetensors file, or programs for a service."""

import functools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ddx.config.interop import TARGETS
from ddx.interop import card, diffusers, stablehlo
from ddx.interop.names import DIFFUSERS
from ddx.interop.stablehlo import WEIGHTS
from ddx.models import Network
from ddx.runs import trained
from ddx.runs.job import Result
from ddx.runs.trained import Trained
from ddx.runtime import folders, storage, tensors
from ddx.runtime.errors import ConfigError, did_you_mean
from ddx.runtime.paths import Path, user_path
from ddx.sampling import measured
from ddx.sampling.samples import Settled, settle
from ddx.sampling.settings import check_numbers, check_settings


def export(
    kind: str,
    workdir: str | Path,
    out: str | Path,
    *,
    weights: str | None = None,
    step: int | None = None,
    preset: str | None = None,
    **settings: Any,
) -> Result:
    """Write the network of a run for others, with a model card (README.md).

    Args:
      kind: "diffusers", a pipeline's folder that `DDPMPipeline.from_pretrained` loads; "safetensors", a folder with
        model.safetensors, in which arrays have ddx's names and shapes, and whose metadata `convert` reads back; or
        "stablehlo", the same file with programs that a service runs without ddx, see `ddx.interop.stablehlo`.
      workdir: the run's folder.
      out: the folder to make; nothing may be in it.
      weights: "ema" or "raw"; None for the run's sample.weights.
      step: of the checkpoint; None for the newest.
      preset: of "stablehlo", a paper's setting, as in `ddx.sampling.sample`.
      **settings: of "stablehlo", how its sampler draws, as there; what is not given, or None, is the run's own.

    Returns:
      What was written.

    Raises:
      ConfigError: diffusers has no such network, process or prediction, a setting is invalid, flatbuffers is missing,
        or `out` is not empty.
      CheckpointError: the folder has no run, or no such checkpoint.
      StorageError: `out` cannot be written.
    """
    if kind not in TARGETS:
        raise ConfigError(f"to={kind!r} is unknown. {did_you_mean(kind, TARGETS)}Choose one of: {', '.join(TARGETS)}")
    settings = {name: value for name, value in ({"preset": preset} | settings).items() if value is not None}
    check = None
    if kind == "stablehlo":
        stablehlo.check_installed()
        preset = settings.pop("preset", None)
        check_numbers(settings)
        check = functools.partial(check_settings, seed=0, preset=preset, settings=settings)
    elif settings:
        name = next(iter(settings))
        raise ConfigError(f"{name}={settings[name]} belongs to the sampler that --to=stablehlo writes. Leave it out")
    workdir, out = user_path(workdir, "--workdir"), user_path(out, "--out")
    folders.check_new(out, "--out")
    source = trained.load(workdir, step, weights, check)
    if kind == "diffusers":
        write = functools.partial(_write_diffusers, source, diffusers.describe(source.system))
    elif kind == "safetensors":
        write = functools.partial(_write_safetensors, source)
    else:
        write = functools.partial(_write_programs, source, workdir, settle(source, workdir, 0, preset, settings))
    with folders.making(out, "--out") as folder:
        written = write(folder)
        checksum = storage.sha256(folder / written.files[0])
        storage.write_text(folder / "README.md", card.card(source, written.use, checksum, written.header))
    count = sum(leaf.size for leaf in jax.tree.leaves(source.params))
    message = (
        f"wrote {out}: the {source.weights} weights of step {source.step}, {count:,} parameters, for {kind};"
        f" README.md there says how to use them"
    )
    return Result(message, out, ("README.md", *written.files), {"num_params": count})


class _Written(NamedTuple):
    """What was written: files, the weights' first, and what the model card says of their use."""

    files: tuple[str, ...]
    use: str
    header: str = ""


def _write_diffusers(source: Trained, described: dict[str, Any], folder: Path) -> _Written:
    for name, value in described.items():
        folders.make_directory((folder / name).parent, "--out")
        storage.write_json(folder / name, value)
    file = f"unet/{diffusers.STEM}.safetensors"
    tensors.write(folder / file, of_diffusers(source.params, source.system.model), {"format": "pt"})
    return _Written((file, *described), card.DIFFUSERS, card.DIFFUSERS_HEADER)


def _write_safetensors(source: Trained, folder: Path) -> _Written:
    tensors.write(folder / WEIGHTS, dict(_own(source)), {"format": "np", "ddx": json.dumps(_meta(source))})
    return _Written((WEIGHTS,), card.SAFETENSORS)


def _write_programs(source: Trained, workdir: Path, drawing: Settled, folder: Path) -> _Written:
    _write_safetensors(source, folder)
    config, system, how, variance = drawing
    said = {
        "step": source.step,
        "weights": source.weights,
        "config": source.system.config.to_dict(),
        "sample": config.sample.to_dict() | {"variance": variance},
        **measured.origin(source, workdir, config.sample.clip, variance, config.sample.solver),
        "levels": stablehlo.levels(source.system),
    }
    programs = stablehlo.network(source.system), stablehlo.sampler(system, how)
    use = stablehlo.write(folder, programs, dict(_own(source)), said)
    return _Written((WEIGHTS, stablehlo.ABOUT, *(stablehlo.file(program) for program in programs)), use)


def _meta(source: Trained) -> dict[str, Any]:
    """What a run has to know of a network besides its arrays."""
    meta: dict[str, Any] = {
        "config": source.system.config.to_dict(),
        "image_shape": list(source.system.image_shape),
        "step": source.step,
    }
    return meta | {name: source.meta[name] for name in ("num_classes", "data", "spectrum") if name in source.meta}


def _own(source: Trained) -> Iterator[tuple[str, np.ndarray]]:
    for keys, leaf in jax.tree_util.tree_leaves_with_path(source.params):
        yield "/".join(key.key for key in keys), np.asarray(leaf)


def of_diffusers(params: Any, model: Network) -> dict[str, np.ndarray]:
    """A network's parameters under diffusers' names, in PyTorch's order of axes."""
    named = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path, value = tuple(key.key for key in keys), np.asarray(leaf)
        if value.ndim > 1 and path[-1] == "kernel":
            value = np.moveaxis(value, (-1, -2), (0, 1))
        if "nin_shortcut" in path and path[-1] == "kernel":
            value = value[:, :, None, None]  # a convolution there
        named[DIFFUSERS.place(path, model).names[0]] = np.ascontiguousarray(value)
    return named
