"""What training compiles: calls of a few steps on all devices, and the state that they begin with."""

from typing import Any, NamedTuple

import numpy as np
import optax
from ml_collections import ConfigDict

from ddx.diffusion.objective.time_samplers import TimeSampler
from ddx.runtime import parallel
from ddx.system import System, make_system, make_time_sampler
from ddx.training.pace import steps_per_call
from ddx.training.state import TrainState, init_state, make_optimizer
from ddx.training.step import empty_batch, make_step, many_steps, stacked


class Program(NamedTuple):
    """The training of a config on the devices."""

    system: System
    times: TimeSampler
    optimizer: optax.GradientTransformation
    call: parallel.OnDevices  # over up to `per_call` steps
    per_call: int

    def initial(self, key: Any) -> TrainState:
        """The state at step 0."""
        params, frozen = self.system.split(self.system.init(key))
        return init_state(params, self.optimizer, self.times.init(), frozen)

    def work(self, batches: list[dict[str, np.ndarray]]) -> tuple[int, dict[str, np.ndarray]]:
        """What a call over these batches takes."""
        work: dict[str, np.ndarray] = parallel.split_batch(stacked(batches, self.per_call), axis=1)
        return len(batches), work

    def lower(self, state: Any, key: Any) -> Any:
        """The call, lowered for the devices; the state may be shapes."""
        empty = empty_batch(self.system.config.train.batch_size, self.system.image_shape)
        return self.call.lower(state, key, self.work([empty]))


def make_program(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> Program:
    """The training of a config on images of shape (H, W, C)."""
    system, times, t = make_system(config, image_shape, num_classes), make_time_sampler(config), config.train
    optimizer = make_optimizer(t.learning_rate, t.warmup_steps, t.clip_norm)
    step = make_step(
        system.loss,
        optimizer,
        num_steps=config.process.num_steps,
        times=times,
        batch_size=t.batch_size,
        flip=config.data.flip,
        low=config.data.low,
        ema_decay=t.ema_decay,
        ema_warmup=t.ema_warmup,
        accumulation=t.accumulation,
    )
    call = parallel.data_parallel(many_steps(step))
    return Program(system, times, optimizer, call, steps_per_call(config, image_shape))
