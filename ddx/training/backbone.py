"""The network that a head is trained on: the averaged weights of another run, which stay as they are."""

import json
import pathlib
from typing import Any

import jax

from ddx.build import System
from ddx.config import flatten
from ddx.data import Dataset
from ddx.errors import CheckpointError, ConfigError
from ddx.files import write_json
from ddx.models import of_head
from ddx.training import trained
from ddx.training.same_data import check_same_classes

RECORD = "backbone.json"
# Of the two configs: what decides which function of images and times the backbone's weights are.
_SAME = ("data.low", "process.", "model.", "loss.prediction")
_OWN = ("model.head", "model.dropout", "model.dtype", "model.remat")


def load(workdir: pathlib.Path, system: System, data: Dataset | None = None) -> dict[str, Any]:
    """The weights that a run in a folder is to train its head on.

    The checkpoint is the newest of `train.backbone` when the run begins. A file in the folder names it, so that a run
    that is killed before its first checkpoint begins again on the same.

    Raises:
      ConfigError: that run has another network or process.
      DataError: the labels of `data`, on which the head is to be trained, mean other classes there.
      CheckpointError: it has no usable checkpoint, or no longer that one.
    """
    folder, record = pathlib.Path(system.config.train.backbone), workdir / RECORD
    before = _read(record)
    try:
        source = trained.load(folder, before.get("step"))
    except CheckpointError as error:
        remedy = f" {record} names it, for a run that has no checkpoint yet: remove it to begin on another."
        raise CheckpointError(str(error) + remedy * bool(before)) from None
    if before and before.get("seal") != source.seal:
        raise CheckpointError(
            f"step {source.step} of {folder} is not the one that {record} names, of {before.get('workdir')}."
            " Remove it to begin on another"
        )
    _check_same(folder, source.system, system)
    if data is not None and system.model.num_classes:
        remedy = "Train the head on the same classes, as configs/heads.py does"
        check_same_classes(f"train.backbone={folder}", source.meta, data, remedy)
    shapes = system.split(jax.eval_shape(system.init, jax.random.key(0)))[1]
    head, channels = of_head(source.params), system.image_shape[-1]
    weights = {name: module for name, module in source.params.items() if not head[name]}
    # A network with learned variances outputs them after its prediction, which alone is of use here.
    weights["conv_out"] = jax.tree.map(lambda x: x[..., :channels], weights["conv_out"])
    if jax.tree.map(lambda x: x.shape, weights) != jax.tree.map(lambda x: x.shape, shapes):
        raise ConfigError(f"train.backbone={folder} has other layers than model.* says. Start from its config")
    write_json(record, {"workdir": str(folder), "step": source.step, "seal": source.seal})
    return weights


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} ({error}). Remove it, or use a new --workdir") from None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise ConfigError(f"{path} names no checkpoint. Remove it, or use a new --workdir")
    return record


def _check_same(folder: pathlib.Path, theirs: System, ours: System) -> None:
    old, new = flatten(theirs.config), flatten(ours.config)
    keys = [key for key in new if key.startswith(_SAME) and key not in _OWN and old[key] != new[key]]
    different = [f"{key} {old[key]} -> {new[key]}" for key in keys]
    if theirs.image_shape != ours.image_shape or theirs.model.num_classes != ours.model.num_classes:
        different.append(f"images {theirs.image_shape} -> {ours.image_shape}")
    if different:
        raise ConfigError(
            f"train.backbone={folder} is another network ({'; '.join(different[:5])})."
            f" Start from its config, as --config=heads:npr,{folder} does"
        )
