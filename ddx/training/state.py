"""The state of a run: one pytree that, with the config, decides everything that follows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class TrainState(NamedTuple):
    """Everything that training carries from step to step."""

    step: Any  # () int32, steps done
    params: Any
    ema: Any  # like params: their exponential moving average, used for sampling
    opt_state: Any
    times: Any = ()  # what the sampler of times has learned
    frozen: Any = ()  # weights of further modules, which training leaves as they are


def make_optimizer(learning_rate: float, warmup_steps: int) -> optax.GradientTransformation:
    """DDPM's optimiser: Adam, its learning rate rising linearly from 0, for gradients that `clipped` has clipped.

    At step s (from 0) the learning rate is learning_rate * min(s / warmup_steps, 1), as in DDPM's code. The state has
    the same arrays whatever the numbers are, so that a run may resume with others.
    """
    constant = optax.constant_schedule(learning_rate)
    schedule = optax.linear_schedule(0.0, learning_rate, warmup_steps) if warmup_steps else constant
    # The place of the clip, which stored states have.
    return optax.chain(optax.identity(), optax.adam(schedule))


def clipped(gradient: Any, norm: Any, limit: float) -> Any:
    """A gradient of this global norm, scaled to one of at most `limit`; 0 is no limit.

    It is the gradient averaged over all devices, where DDPM's code clips each device's own.
    """
    if not limit:
        return gradient
    scale = jnp.where(norm < limit, 1.0, limit / norm)
    return jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradient)


def counted(opt_state: Any, step: int | None) -> Any:
    """An optimiser's state with the step that its learning rate is at, which older versions left out without warmup.

    None leaves it out.
    """
    clip, (adam, _) = opt_state
    rate = optax.EmptyState() if step is None else optax.ScaleByScheduleState(np.asarray(step, np.int32))
    return clip, (adam, rate)


def init_state(params: Any, optimizer: optax.GradientTransformation, times: Any = (), frozen: Any = ()) -> TrainState:
    """The state at step 0; the average starts as a copy, since an alias could not be donated."""
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params), times, frozen)


def update_ema(ema: Any, params: Any, step: Any, decay: float, warmup: bool) -> Any:
    """Move the average: decay * ema + (1 - decay) * params.

    With warmup, decay is at most (1 + n) / (10 + n) at the n-th update, n = step + 1, as in IHDM's code.
    """
    rate = jnp.minimum(decay, (2.0 + step) / (11.0 + step)) if warmup else decay
    return jax.tree.map(lambda e, p: e + (1.0 - rate) * (p - e), ema, params)
