"""Weights that a run takes from another run: those that it starts from, and how it stays with their checkpoint.

train.init_from and train.backbone (`ddx.training.backbone`) name a run. Whose checkpoint it was is written to
init_from.json or backbone.json in the folder of the new run, so that one that is killed before its first checkpoint
begins again on the same weights.
"""

import json
from typing import Any

import jax

from ddx.config.values import flatten, named_run
from ddx.runs import manifest, trained
from ddx.runtime import hosts, storage
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path, place, user_path
from ddx.runtime.storage import write_json
from ddx.system import System

BACKBONE, INIT_FROM = "train.backbone", "train.init_from"
# What decides which function of an image a network's weights are, and is not seen in their shapes.
_UNSEEN = ("model.family", "model.groups", "model.num_heads", "model.head_channels")


def initial_weights(workdir: Path, system: System) -> Any:
    """The parameters that a run with train.init_from starts from: the averaged weights of that run.

    The network must be the same; data, process, prediction and loss may be others.

    Raises:
      CheckpointError: that run has another network or no usable checkpoint, or no longer the one that was begun on.
    """
    name, step = named_run(system.config.train.init_from)
    folder = user_path(name, INIT_FROM)
    source = load(workdir, INIT_FROM, folder, step)
    theirs, ours = flatten(source.system.config), flatten(system.config)
    unseen = tuple(f"{key}: saved {theirs[key]}, needed {ours[key]}" for key in _UNSEEN if theirs[key] != ours[key])
    where = folder / "checkpoints" / str(source.step)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    saved = {"ema": manifest.arrays_of(source.params)}
    manifest.check_fit(
        where, saved, {"ema": shapes}, unseen, "train.init_from needs the same network: copy its model.*"
    )
    record(workdir, INIT_FROM, folder, source)
    return source.params


def load(workdir: Path, key: str, folder: Path, step: int | None = None) -> trained.Trained:
    """The run in a folder that a key names, at a step, or at the newest when the new run began.

    Raises:
      ConfigError: the record of the checkpoint that was begun on is unreadable.
      CheckpointError: there is no usable checkpoint, or no longer that one.
    """
    path = _path(workdir, key)
    before = _read(path)
    is_same = place(str(before.get("workdir"))) == place(folder)
    if not is_same or step not in (None, before.get("step")):
        before = {}  # of another run, that this one was to be on when it was begun for the last time
    try:
        source = trained.load(folder, before.get("step", step), "ema")
    except CheckpointError as error:
        remedy = f" {path} names it, for a run that has no checkpoint yet: remove it to begin on another."
        raise CheckpointError(f"{key}: {error}" + remedy * bool(before)) from None
    if before and before.get("seal") != source.seal:
        raise CheckpointError(
            f"step {source.step} of {folder} is not the one that {path} names. Remove it to begin on another"
        )
    return source


def record(workdir: Path, key: str, folder: Path, source: trained.Trained) -> None:
    """Say, and remember, which checkpoint it is of the run that a key names."""
    print(f"weights  the averaged ones of step {source.step} of {folder}", flush=True)
    if hosts.is_first():
        write_json(_path(workdir, key), {"workdir": str(folder), "step": source.step, "seal": source.seal})


def forget(workdir: Path, config: Any) -> None:
    """Remove what was recorded for keys that a config, of a run that begins, does not use."""
    for key, used in ((BACKBONE, config.train.backbone), (INIT_FROM, config.train.init_from)):
        if not used:
            storage.remove(_path(workdir, key))


def _path(workdir: Path, key: str) -> Path:
    return workdir / f"{key.partition('.')[2]}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(storage.read_text(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} ({error}). Remove it, or use a new --workdir") from None
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        raise ConfigError(f"{path} names no checkpoint. Remove it, or use a new --workdir")
    return found
