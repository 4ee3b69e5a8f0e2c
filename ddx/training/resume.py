"""Resuming a run: from which checkpoint, and with which changes of its config.

The state after N steps is a function of (config, seed, N). What decides the meaning of a state (the network, the
process, the loss, the data) stays as it was. What decides only how a state is reached (the learning rate, the batch
size, ...) may change from a checkpoint on; every later checkpoint, and config_history.json, say at which step what did.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ddx.config import values as config_lib
from ddx.config.keys import GIVEN
from ddx.runs.checkpoint import Checkpoints
from ddx.runs.data import needs_given
from ddx.runs.folder import load_config
from ddx.runs.meta import checked, config_of
from ddx.runtime.errors import CheckpointError, ConfigError, DataError
from ddx.runtime.paths import Path
from ddx.training.state import TrainState, counted

History = list[dict[str, Any]]
"""Such as [{"step": 500, "changes": {"train.learning_rate": [0.002, 0.001]}}]."""


class Start(NamedTuple):
    """Where a run resumes, or begins, which is step 0."""

    step: int
    meta: dict[str, Any]  # of its checkpoint
    history: History
    changes: list[str]  # of the config since, to tell

    @property
    def pending(self) -> dict[str, Any]:
        """The metrics since the last logged step."""
        pending: dict[str, Any] = self.meta.get("pending", {})
        return pending

    @property
    def bad_steps(self) -> int:
        """How many steps in a row, up to the last logged one, were not finite."""
        return int(self.meta.get("bad_steps", 0))


def find(workdir: Path, checkpoints: Checkpoints, config: ConfigDict) -> Start:
    """The newest checkpoint, from which a run with this config is to resume; without any, all of a config may change.

    Raises:
      ConfigError: the states of the run mean something else than the config says.
      CheckpointError: all checkpoints are damaged or gone.
      DataError: the run began with data that were given from Python, and now there are none.
    """
    step = checkpoints.newest(set_aside=True)
    if step is None:
        before = load_config(workdir)
        changed = config_lib.all_changes(before, config) if before is not None else {}
        return Start(0, {}, [], [f"{line}; no checkpoint yet" for line in config_lib.told(changed)])
    meta = checked(checkpoints.meta(step), checkpoints.directory / str(step))
    config_of(meta, checkpoints.directory / str(step))
    if meta["config"]["data"]["name"] == GIVEN != config.data.name:
        raise DataError(needs_given())
    different = config_lib.differences(meta["config"], config)
    if different:
        raise ConfigError(
            f"{workdir} was started with another config ({'; '.join(different[:5])})."
            " Use a new --workdir, or the config of that run"
        )
    history: History = meta.get("history", [])
    changes = config_lib.adjustments(meta["config"], config)
    if changes:
        history = [*history, {"step": step, "changes": {key: list(values) for key, values in changes.items()}}]
    return Start(step, meta, history, [f"{line} from step {step} on" for line in config_lib.told(changes)])


def items(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds; the step is its name. Sampling restores "ema" and "frozen" alone."""
    found = state._asdict()
    del found["step"]
    return {name: item for name, item in found.items() if jax.tree.leaves(item)}


def restore(checkpoints: Checkpoints, step: int, like: TrainState) -> TrainState:
    """The state at a step, with the arrays of `like`.

    Raises:
      CheckpointError: the checkpoint has others.
    """
    if "opt_state" not in checkpoints.arrays(step):
        run = checkpoints.directory.parent
        raise CheckpointError(
            f"{run} has weights alone, which were converted: there is no state to resume from. Start another run from"
            f" them, with --config={run}/config.json --config.train.init_from={run} and a new --workdir"
        )
    wanted = items(like)
    is_counted = "[1][1].count" in checkpoints.arrays(step).get("opt_state", {})
    if not is_counted:
        wanted["opt_state"] = counted(wanted["opt_state"], None)
    found = checkpoints.restore(step, wanted)
    if not is_counted:
        found["opt_state"] = counted(found["opt_state"], step)
    return TrainState(np.int32(step), **found)
