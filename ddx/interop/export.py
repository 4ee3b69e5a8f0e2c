"""From a run to files that others read: a folder for diffusers, or one .safetensors file."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ddx.config.keys import UNKNOWN
from ddx.interop import diffusers
from ddx.interop.names import DIFFUSERS
from ddx.models import UNet
from ddx.runs import trained
from ddx.runs.job import Result
from ddx.runs.trained import Trained
from ddx.runtime import folders, storage
from ddx.runtime.errors import ConfigError, did_you_mean
from ddx.runtime.paths import Path, user_path
from ddx.runtime.tensors import write

TARGETS = ("diffusers", "safetensors")


def export(
    kind: str, workdir: str | Path, out: str | Path, *, weights: str | None = None, step: int | None = None
) -> Result:
    """Write the network of a run for others, with a model card (README.md).

    Args:
      kind: "diffusers", a pipeline's folder that `DDPMPipeline.from_pretrained` loads; or "safetensors", a folder with
        model.safetensors, in which arrays have ddx's names and shapes, and whose metadata `convert` reads back.
      workdir: the run's folder.
      out: the folder to make; nothing may be in it.
      weights: "ema" or "raw"; None for the run's sample.weights.
      step: of the checkpoint; None for the newest.

    Returns:
      What was written.

    Raises:
      ConfigError: diffusers has no such network, process or prediction, or `out` is not empty.
      CheckpointError: the folder has no run, or no such checkpoint.
      StorageError: `out` cannot be written.
    """
    if kind not in TARGETS:
        raise ConfigError(f"to={kind!r} is unknown. {did_you_mean(kind, TARGETS)}Choose one of: {', '.join(TARGETS)}")
    workdir, out = user_path(workdir, "--workdir"), user_path(out, "--out")
    folders.check_new(out, "--out")
    source = trained.load(workdir, step, weights)
    described = diffusers.describe(source.system) if kind == "diffusers" else {}
    with folders.making(out, "--out") as folder:
        if kind == "diffusers":
            for name, value in described.items():
                folders.make_directory((folder / name).parent, "--out")
                storage.write_json(folder / name, value)
            weights_file = folder / "unet" / f"{diffusers.STEM}.safetensors"
            write(weights_file, of_diffusers(source.params, source.system.model), {"format": "pt"})
        else:
            weights_file = folder / "model.safetensors"
            write(weights_file, dict(_own(source)), {"format": "np", "ddx": json.dumps(_meta(source))})
        storage.write_text(folder / "README.md", _card(source, kind, storage.sha256(weights_file)))
    count = sum(leaf.size for leaf in jax.tree.leaves(source.params))
    message = f"wrote {out}: the {source.weights} weights of step {source.step}, {count:,} parameters, for {kind}"
    return Result(message, out, ("README.md", *described, str(weights_file.relative_to(folder))), {"num_params": count})


def _meta(source: Trained) -> dict[str, Any]:
    """What a run has to know of a network besides its arrays."""
    meta: dict[str, Any] = {
        "config": source.system.config.to_dict(),
        "image_shape": list(source.system.image_shape),
        "step": source.step,
    }
    return meta | {name: source.meta[name] for name in ("num_classes", "data") if name in source.meta}


def _own(source: Trained) -> Iterator[tuple[str, np.ndarray]]:
    for keys, leaf in jax.tree_util.tree_leaves_with_path(source.params):
        yield "/".join(key.key for key in keys), np.asarray(leaf)


def of_diffusers(params: Any, model: UNet) -> dict[str, np.ndarray]:
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


def _card(source: Trained, kind: str, checksum: str) -> str:
    c, (height, width, channels) = source.system.config, source.system.image_shape
    data = "not known" if c.data.name == UNKNOWN else f"{c.data.name} ({c.data.split})"
    trained_for = f"{source.step:,} steps at batch {c.train.batch_size}"
    if (made := source.meta.get("converted")) is not None:
        trained_for = f"elsewhere; converted from {made['from']}"
    use = (
        'from diffusers import DDPMPipeline\n\nimages = DDPMPipeline.from_pretrained("FOLDER")(batch_size=4).images'
        if kind == "diffusers"
        else "python -m launch.convert --from=safetensors --source=FOLDER/model.safetensors --out=runs/again"
    )
    header = "---\nlibrary_name: diffusers\ntags: [unconditional-image-generation]\n---\n\n" * (kind == "diffusers")
    return f"""{header}# A denoising diffusion network for images of {height} x {width} x {channels}

Written by ddx: the {source.weights} weights of a run.

| | |
| --- | --- |
| data | {data} |
| network | U-Net, family {c.model.family}, {c.model.channels} channels times {tuple(c.model.multipliers)} |
| process | {c.process.kind}, schedule {c.process.schedule}, {c.process.num_steps} noise levels |
| output | {c.loss.prediction}, variance {c.loss.variance} |
| trained | {trained_for} |
| SHA-256 of the weights | {checksum} |

{textwrap.indent(use, "    ")}

Whoever publishes it should add: the licence of the data and of the weights, scores and how they were computed, intended
use, and known limits.
"""
