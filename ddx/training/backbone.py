"""The network that a head is trained on: the averaged weights of another run, which stay as they are."""

from typing import Any

import jax

from ddx.config.values import flatten
from ddx.data import Dataset
from ddx.models import of_head
from ddx.runs.same_data import check_same_classes
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import Path, user_path
from ddx.system import System
from ddx.training import origin

# Of the two configs: what decides which function of images and times the backbone's weights are.
_SAME = ("data.low", "process.", "model.", "loss.prediction")
_OWN = ("model.head", "model.dropout", "model.dtype", "model.remat")


def load(workdir: Path, system: System, data: Dataset | None = None) -> dict[str, Any]:
    """The weights that a run in a folder is to train its head on, of the run that `train.backbone` names.

    Raises:
      ConfigError: that run has another network or process.
      DataError: the labels of `data`, on which the head is to be trained, mean other classes there.
      CheckpointError: it has no usable checkpoint, or no longer the one that was begun on.
    """
    folder = user_path(system.config.train.backbone, origin.BACKBONE)
    source = origin.load(workdir, origin.BACKBONE, folder)
    _check_same(folder, source.system, system)
    if data is not None and system.model.num_classes:
        remedy = "Train the head on the same classes, as configs/heads.py does"
        check_same_classes(f"train.backbone={folder}", source.meta, data, remedy)
    shapes = system.split(system.shapes())[1]
    head, channels = of_head(source.params), system.image_shape[-1]
    weights = {name: module for name, module in source.params.items() if not head[name]}
    # A network with learned variances outputs them after its prediction, which alone is of use here.
    weights["conv_out"] = jax.tree.map(lambda x: x[..., :channels], weights["conv_out"])
    if jax.tree.map(lambda x: x.shape, weights) != jax.tree.map(lambda x: x.shape, shapes):
        raise ConfigError(f"train.backbone={folder} has other layers than model.* says. Start from its config")
    origin.record(workdir, origin.BACKBONE, folder, source)
    return weights


def _check_same(folder: Path, theirs: System, ours: System) -> None:
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
