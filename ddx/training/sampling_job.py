"""A sampling job: from the folder of a run to images."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddx import build
from ddx.config import validate
from ddx.errors import CheckpointError, ConfigError
from ddx.files import make_directory, replacing, write_text
from ddx.generation import Generator
from ddx.pictures import grid, save_png
from ddx.training.checkpoint import Checkpoints

GRID_IMAGES = 100  # at most so many in the picture; all are in samples.npz


def sample(
    workdir: str | pathlib.Path,
    num_samples: int = 64,
    *,
    sampler: str | None = None,
    num_steps: int | None = None,
    eta: float | None = None,
    variance: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    out: str | pathlib.Path | None = None,
) -> str:
    """Draw images from the averaged weights of a run's newest checkpoint. Image i depends only on (seed, i).

    Args:
      workdir: folder of a training run; process, network and weights come from there.
      num_samples: N.
      sampler: "ddim" or "ancestral"; None, here and below, for the run's own setting.
      num_steps: network evaluations a sample.
      eta: stochasticity of ddim.
      variance: reverse variance of the ancestral sampler.
      seed: names the noise.
      batch_size: images drawn at once.
      out: folder to write to; None for one in the workdir named after the settings.

    Returns:
      A line that says what was written: samples.npz ("samples": (N, H, W, C) uint8), grid.png and samples.json (the
      settings).

    Raises:
      ConfigError: a setting is invalid.
      CheckpointError: the folder has no run, or no usable checkpoint.
    """
    workdir = pathlib.Path(workdir)
    if num_samples < 1:
        raise ConfigError(f"num_samples={num_samples} must be at least 1")
    step, system, ema = _load(workdir)
    given = {"sampler": sampler, "num_steps": num_steps, "eta": eta, "variance": variance, "batch_size": batch_size}
    config = _with_sampling(system.config, seed, {name: value for name, value in given.items() if value is not None})
    s = config.sample
    settings = f"seed{seed}_n{num_samples}_{s.sampler}{s.num_steps}_" + (
        f"eta{s.eta:g}" if s.sampler == "ddim" else s.variance
    )
    out = pathlib.Path(out) if out else workdir / "sampled" / f"step{step}_{settings}"
    make_directory(out, "--out")

    how = build.sampler(config)
    images = Generator(system, how)(ema, seed, num_samples)
    with replacing(out / "samples.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, samples=images)
    save_png(out / "grid.png", grid(images[:GRID_IMAGES]))
    record: dict[str, Any] = {"workdir": str(workdir), "step": step, "num_samples": num_samples, "seed": seed}
    write_text(out / "samples.json", json.dumps(record | {"sample": s.to_dict()}, indent=2) + "\n")
    evaluations = len(how.times) - 1
    return f"wrote {num_samples} samples of step {step}, {evaluations} evaluations each: {out}/samples.npz, grid.png"


def _load(workdir: pathlib.Path) -> tuple[int, build.System, Any]:
    """The step, system and averaged weights of the newest checkpoint of a run that may be going on."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    while True:
        step = checkpoints.newest(set_aside=False)
        if step is None:
            raise CheckpointError(
                f"{workdir} has no trained network. Train one with python -m launch.train --workdir={workdir}"
            )
        try:
            meta = checkpoints.meta(step)
            system = build.system(meta["config"], tuple(meta["image_shape"]))
            ema = checkpoints.restore(step, {"ema": jax.eval_shape(system.init, jax.random.key(0))})["ema"]
            return step, system, ema
        except (OSError, ValueError):
            if step in checkpoints.steps():
                raise
            # The run removed it in the meantime, for a newer one.


def _with_sampling(config: ConfigDict, seed: int, given: dict[str, Any]) -> ConfigDict:
    """The config with another seed and other sampling settings, validated together."""
    changed = config.to_dict() | {"seed": seed}
    changed["sample"] |= given
    sampler = changed["sample"]["sampler"]
    if "eta" in given and sampler != "ddim":
        raise ConfigError(
            f"eta={given['eta']} belongs to the ddim sampler, not {sampler}. Leave it out or set --sampler=ddim"
        )
    if "variance" in given and sampler != "ancestral":
        raise ConfigError(
            f"variance={given['variance']} belongs to the ancestral sampler, not {sampler}."
            " Leave it out or set --sampler=ancestral"
        )
    return validate(changed)
