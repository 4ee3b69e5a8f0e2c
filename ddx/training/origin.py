"""Weights that a run takes from another run: those that it starts from, and how it stays with their checkpoint.

train.init_from and train.backbone (`ddx.training.backbone`) name a run. Whose checkpoint it was is written to
init_from.json or backbone.json in the folder of the new run, so that one that is killed before its first checkpoint
begins again on the same weights.
"""

import contextlib
import json
from typing import Any

import jax

from ddx.config.values import flatten, named_run
from ddx.models import of_head
from ddx.runs import manifest, trained
from ddx.runtime import hosts, storage
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path, place, user_path
from ddx.runtime.storage import write_json
from ddx.system import System

BACKBONE, INIT_FROM = "train.backbone", "train.init_from"
# What decides which function of an image a network's weights are, and is not seen in their shapes.
_UNSEEN = tuple(f"model.{name}" for name in ("network", "family", "groups", "num_heads", "head_channels", "patch_size"))
# What depends on the images, the classes and the variance.
_ENDS = ("conv_in", "patch_in", "label", "conv_out", "patch_out")


def initial_weights(workdir: Path, system: System, random: Any) -> Any:
    """The parameters that a run with train.init_from starts from: the averaged weights of that run.

    The network must be the same but for the layers that images, classes and outputs decide: the first convolution, the
    last, the embedding of classes, a head. Those that differ start as they are in `random`, and are told. Data,
    process, prediction and loss may be others.

    Args:
      workdir: the folder of the new run.
      system: the new run's.
      random: initial parameters of its network.

    Raises:
      CheckpointError: that run has another network or no usable checkpoint, or no longer the one that was begun on.
    """
    name, step = named_run(system.config.train.init_from)
    folder = user_path(name, INIT_FROM)
    source = load(workdir, INIT_FROM, folder, step)
    theirs, ours = flatten(source.system.config), flatten(system.config)
    unseen = tuple(f"{key}: saved {theirs[key]}, needed {ours[key]}" for key in _UNSEEN if theirs[key] != ours[key])
    where = folder / "checkpoints" / str(source.step)
    different = _different_ends(source.params, random)
    # The classes are others where there is one for none: nine and none have the shape of ten.
    if source.system.model.null_class != system.model.null_class and "label" in {**source.params, **random}:
        different = list(dict.fromkeys([*different, "label"]))
    saved, needed = ({n: m for n, m in tree.items() if n not in different} for tree in (source.params, random))
    remedy = "train.init_from needs the same network but for its first and last layer and its classes: copy its model.*"
    manifest.check_fit(where, {"ema": manifest.arrays_of(saved)}, {"ema": needed}, unseen, remedy)
    fresh = [module for module in random if module in different]
    record(workdir, INIT_FROM, folder, source, fresh=fresh)
    for what, modules in (("fresh", fresh), ("unused", [module for module in different if module not in random])):
        for module in modules:
            print(f"{what:<8} {module}: {_shapes(source.params, module)} there, {_shapes(random, module)} here")
    return {module: random[module] if module in different else saved[module] for module in random}


def fresh(workdir: Path, config: Any) -> tuple[str, ...]:
    """The layers of a run with train.init_from that started from random weights, since that run has others.

    None where init_from.json is gone or damaged, which a run with checkpoints does without.
    """
    with contextlib.suppress(ConfigError):
        if config.train.init_from:
            return tuple(map(str, _read(_path(workdir, INIT_FROM)).get("fresh", ())))
    return ()


def _different_ends(theirs: Any, ours: Any) -> list[str]:
    """The modules at the ends of a network that two networks do not have alike."""
    both = {**theirs, **ours}
    head = of_head(both)
    ends = [name for name in both if name in _ENDS or head[name]]
    return [name for name in ends if manifest.arrays_of(theirs.get(name, {})) != manifest.arrays_of(ours.get(name, {}))]


def _shapes(params: Any, module: str) -> str:
    """Such as '(1,) and (3, 3, 16, 1)', of a module's arrays."""
    return " and ".join(str(leaf.shape) for leaf in jax.tree.leaves(params.get(module, {}))) or "nothing"


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


def record(workdir: Path, key: str, folder: Path, source: trained.Trained, **more: Any) -> None:
    """Say, and remember, which checkpoint it is of the run that a key names; remember `more` of it."""
    print(f"weights  the averaged ones of step {source.step} of {folder}", flush=True)
    if hosts.is_first():
        write_json(_path(workdir, key), {"workdir": str(folder), "step": source.step, "seal": source.seal} | more)


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
