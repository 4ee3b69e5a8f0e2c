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
from ddx.training.workdir import load_config

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
    config = load_config(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    step = checkpoints.newest()
    if config is None or step is None:
        raise CheckpointError(
            f"{workdir} has no trained network. Train one with python -m launch.train --workdir={workdir}"
        )
    if num_samples < 1:
        raise ConfigError(f"num_samples={num_samples} must be at least 1")
    if seed < 0:
        raise ConfigError(f"seed={seed} must be at least 0")
    given = {"sampler": sampler, "num_steps": num_steps, "eta": eta, "variance": variance, "batch_size": batch_size}
    config = _with_sampling(config, {name: value for name, value in given.items() if value is not None})
    s = config.sample
    settings = f"seed{seed}_n{num_samples}_{s.sampler}{s.num_steps}_" + (
        f"eta{s.eta:g}" if s.sampler == "ddim" else s.variance
    )
    out = pathlib.Path(out) if out else workdir / "sampled" / f"step{step}_{settings}"
    make_directory(out, "--out")

    image_shape = tuple(checkpoints.meta(step)["image_shape"])
    system = build.system(config, image_shape)
    targets = {"ema": jax.eval_shape(system.init, jax.random.key(0))}
    ema = checkpoints.restore(step, targets)["ema"]
    images = Generator(system, build.sampler(config))(ema, seed, num_samples)

    with replacing(out / "samples.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, samples=images)
    save_png(out / "grid.png", grid(images[:GRID_IMAGES]))
    record: dict[str, Any] = {"workdir": str(workdir), "step": step, "num_samples": num_samples, "seed": seed}
    write_text(out / "samples.json", json.dumps(record | {"sample": s.to_dict()}, indent=2) + "\n")
    return f"wrote {num_samples} samples of step {step}: {out}/samples.npz, grid.png"


def _with_sampling(config: ConfigDict, given: dict[str, Any]) -> ConfigDict:
    """The config with other sampling settings, validated together."""
    changed = config.to_dict()
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
