"""From the folder of a run to a trained network."""

import shlex
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ddx.runs.checkpoint import Checkpoints
from ddx.runs.job import read_record
from ddx.runs.meta import checked, config_of
from ddx.runtime import hosts, storage
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path
from ddx.system import System, joined, make_system

WEIGHTS = {"ema": "ema", "raw": "params"}
"""The item of a checkpoint that holds the weights of a name."""


class Trained(NamedTuple):
    """A network at a step of its training."""

    step: int
    seal: str  # names the checkpoint, and the weights if they are not averaged
    system: System
    params: Any  # averaged weights, or raw ones
    meta: Mapping[str, Any] = MappingProxyType({})  # what the checkpoint says of its config and data
    weights: str = "ema"  # or "raw"


Check = Callable[[ConfigDict], object]
"""Refuses, with an error of its own, to do something with the network of a config."""


def load(workdir: Path, step: int | None = None, weights: str | None = None, check: Check | None = None) -> Trained:
    """The network of a checkpoint, by default the newest, of a run that may be going on.

    `weights` are "ema", the averaged ones, or "raw"; None for what the run's sample.weights says.
    `check` is called with the config of the network before a device is touched.

    Raises:
      CheckpointError: there is no such checkpoint, or it is damaged.
    """
    checkpoints = Checkpoints(workdir / "checkpoints")
    if step is None and hosts.count() > 1:  # a run may save meanwhile
        step = hosts.agreed(lambda: checkpoints.newest(set_aside=False))
    while True:
        with checkpoints.reading(step) as found:
            if found is None:
                config = "" if storage.exists(workdir / "config.json") else " --config=digits"
                raise CheckpointError(
                    f"{workdir} has no trained network. Train one with python -m launch.train{config}"
                    f" --workdir={shlex.quote(str(workdir))}"
                )
            try:
                return _restore(checkpoints, found, weights, check)
            except Exception:  # orbax and TensorStore each have their own kinds
                if found in checkpoints.steps():
                    raise
                # The run removed it meanwhile, for a newer one, on a file system without locks.


def load_for_job(
    workdir: Path,
    step: int | None,
    out: Path | None,
    name: str,
    weights: str | None = None,
    check: Check | None = None,
) -> Trained:
    """As `load`; without a step, the step of the job of this name in the folder `out`, if there is such a job."""
    begun = None if out is None or step is not None else read_record(out / f"{name}.json").get("step")
    if begun is not None and type(begun) is not int:
        raise ConfigError(f"{out}/{name}.json names no step. Remove it, or use another --out")
    if begun is None:
        return load(workdir, step, weights, check)
    try:
        return load(workdir, begun, weights, check)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {out} holds a job of that step; use another --out for a new one") from None


def identity(source: Trained, workdir: Path) -> dict[str, Any]:
    """What the record of every job begins with: whose weights."""
    return {"workdir": str(workdir), "step": source.step, "weights": source.seal}


def _restore(checkpoints: Checkpoints, step: int, weights: str | None, check: Check | None) -> Trained:
    folder = checkpoints.directory / str(step)
    meta = checked(checkpoints.meta(step), folder)
    config = config_of(meta, folder)
    if check is not None:
        check(config)
    system = make_system(config, tuple(meta["image_shape"]), meta.get("num_classes", 1), meta.get("spectrum"))
    weights = system.config.sample.weights if weights is None else weights
    if weights not in WEIGHTS:
        raise ConfigError(f"weights={weights!r} must be one of: {', '.join(WEIGHTS)}")
    like, frozen = system.split(system.shapes())
    item = WEIGHTS[weights]
    if item not in checkpoints.arrays(step):
        raise ConfigError(f"checkpoint {folder} has no {weights} weights. Leave weights out, or use ema")
    restored = checkpoints.restore(step, {item: like} | ({"frozen": frozen} if frozen else {}))
    seal = checkpoints.seal(step) + ":raw" * (weights == "raw")
    return Trained(step, seal, system, joined(restored.get("frozen", ()), restored[item]), meta, weights)
