"""What training compiles: calls of a few steps on all devices, and the state that they begin with."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from ddx.config.keys import CHANGEABLE, CHANGEABLE_GROUPS
from ddx.config.values import flatten
from ddx.diffusion.objective.time_samplers import TimeSampler
from ddx.runtime import devices, parallel, parts
from ddx.runtime.storage import digest
from ddx.system import System, joined, make_system, make_time_sampler
from ddx.training.pace import steps_per_call
from ddx.training.state import TrainState, init_state, make_optimizer
from ddx.training.step import Step, empty_batch, make_step, many_steps, stacked


class Program(NamedTuple):
    """The training of a config on the devices."""

    system: System
    optimizer: optax.GradientTransformation
    initial: Callable[[Any], TrainState]  # (key) -> the state at step 0
    shapes: TrainState  # of the whole state
    call: parallel.OnDevices  # over up to `per_call` steps
    per_call: int

    @property
    def rows(self) -> slice:
        """Those of a batch that this host reads."""
        return devices.rows_here(self.system.config.train.batch_size)

    def work(self, batches: list[dict[str, np.ndarray]]) -> tuple[int, dict[str, np.ndarray]]:
        """What a call over these batches takes, which hold the rows of this host."""
        work: dict[str, np.ndarray] = parallel.split_batch(stacked(batches, self.per_call, self.rows.start), axis=1)
        return len(batches), work

    def lower(self, state: TrainState | None = None) -> Any:
        """The call, lowered for the devices; with a state on them, it is not traced again when it is called."""
        key = jax.random.key(0)
        if state is None:
            state = self.shapes._replace(**parts.shapes(_divided(self.shapes), self.shapes.params))
        empty = stacked([empty_batch(self.system.config.train.batch_size, self.system.image_shape)], self.per_call)
        return self.call.lower(state, key, (1, parallel.split_batch(empty, axis=1, parts=devices.count())))

    def place(self, state: TrainState) -> TrainState:
        """A state on the devices, as a call takes it: each has its part of what is `_divided`, and all of the rest."""
        whole: TrainState = parallel.put(_without_divided(state))
        return whole._replace(**parts.place(_divided(state), self.shapes.params))

    def join(self, state: TrainState) -> TrainState:
        """The inverse of `place`, on the host where devices had parts."""
        return state._replace(**parts.join(_divided(state), _divided(self.shapes), self.shapes.params))

    def check_replicated(self, state: TrainState, what: str) -> None:
        """Check that devices have the same where each has all of an array."""
        copies = parts.copies(_divided(state), _divided(self.shapes), self.shapes.params)
        parallel.assert_replicated(_without_divided(state), what, copies)

    def weights(self, state: TrainState, which: str) -> Any:
        """All weights of the network in a state on the devices: averaged, "ema", or "raw"."""
        name = {"raw": "params", "ema": "ema"}[which]
        return joined(state.frozen, parts.join(getattr(state, name), self.shapes.params, self.shapes.params))


_DIVIDED = ("params", "ema", "opt_state")


def _divided(state: TrainState) -> dict[str, Any]:
    """What of a state the devices have parts of."""
    return {name: getattr(state, name) for name in _DIVIDED}


def _without_divided(state: TrainState) -> TrainState:
    return state._replace(**dict.fromkeys(_DIVIDED, ()))


def step_of(
    config: ConfigDict, system: System, times: TimeSampler, optimizer: optax.GradientTransformation, shapes: Any
) -> Step:
    """The training step of a config, for one device; `shapes` is a tree like the trained weights."""
    t = config.train
    return make_step(
        system.loss,
        optimizer,
        shapes=shapes,
        num_steps=config.process.num_steps,
        times=times,
        batch_size=t.batch_size,
        flip=config.data.flip,
        label_dropout=config.model.label_dropout,
        null_class=system.model.num_classes,
        low=config.data.low,
        clip_norm=t.clip_norm,
        ema_decay=t.ema_decay,
        ema_warmup=t.ema_warmup,
        accumulation=t.accumulation,
    )


def make_program(
    config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int, spectrum: Any = None
) -> Program:
    """The training of a config on images of shape (H, W, C), of a `spectrum` where the noise has it.

    The last few of a process are kept: a run that was stopped in a notebook resumes without compiling again.
    """
    deciding = {
        name: value
        for name, value in flatten(config).items()
        if name not in CHANGEABLE and not name.startswith((*CHANGEABLE_GROUPS, "user"))
    }
    key = (digest(deciding | {"spectrum": spectrum}), image_shape, num_classes, devices.every())
    kept = _kept.pop(key, None) or _make(config, image_shape, num_classes, spectrum)
    _kept[key] = kept  # the newest is the last
    while len(_kept) > _MOST_KEPT:
        del _kept[next(iter(_kept))]
    system = make_system(config, image_shape, num_classes, spectrum)
    return kept._replace(system=system, per_call=steps_per_call(config, image_shape))


_kept: dict[Hashable, Program] = {}
_MOST_KEPT = 4


def _make(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int, spectrum: Any) -> Program:
    system, times, t = make_system(config, image_shape, num_classes, spectrum), make_time_sampler(config), config.train
    optimizer = make_optimizer(t.learning_rate, t.warmup_steps)

    def initial(key: Any) -> TrainState:
        params, frozen = system.split(system.init(key))
        return init_state(params, optimizer, times.init(), frozen)

    shapes = jax.eval_shape(initial, jax.random.key(0))
    step = step_of(config, system, times, optimizer, shapes.params)
    call = parallel.data_parallel(many_steps(step), TrainState(None, 0, 0, 0, None, None))
    return Program(system, optimizer, initial, shapes, call, steps_per_call(config, image_shape))
