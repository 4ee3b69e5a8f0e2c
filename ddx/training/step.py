"""The training step, written for one device.

Every random number is a function of (seed, step) and, where it belongs to an example, of the example's place in the
global batch. So neither the number of devices nor gradient accumulation nor a restart changes the times, the noise, the
flips, the dropped labels and the dropout masks that are drawn.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddx.data import augment
from ddx.diffusion.objective.time_samplers import TimeSampler
from ddx.diffusion.random import example_keys, white_noise
from ddx.runtime import devices, parallel, parts
from ddx.system import LossFn, joined
from ddx.training.state import TrainState, clipped, update_ema

Step = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]]

_TIME, _NOISE, _FLIP, _DROPOUT, _LABEL = range(5)  # streams of random numbers within a step


def make_step(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    shapes: Any,
    num_steps: int,
    times: TimeSampler,
    batch_size: int,
    flip: bool,
    label_dropout: float,
    null_class: int,
    low: float,
    clip_norm: float,
    ema_decay: float,
    ema_warmup: bool,
    accumulation: int,
) -> Step:
    """step(state, key, batch) -> (state, metrics).

    Args:
      loss: loss(params, x_0, label, t, noise, dropout_keys) -> (B,), and its parts {name: (B,)}.
      optimizer: an optax transformation.
      shapes: a tree like the weights that are trained, for its shapes and types.
      num_steps: T, for the quartiles.
      times: draws the times, and weights with which losses count.
      batch_size: of the global batch.
      flip: mirror each image with probability 1/2.
      label_dropout: probability with which an example's label becomes `null_class`.
      null_class: the class that says nothing of an image.
      low: the lowest value of the data, for black.
      clip_norm: see `clipped`.
      ema_decay: see `update_ema`.
      ema_warmup: see `update_ema`.
      accumulation: parts of the batch whose gradients are averaged, for batches that do not fit at once.

    Returns:
      A step over batch = {"image": (B, H, W, C) uint8, "label": (B,), "example": (B,) the examples' places in the
      global batch}. Its metrics are scalars, means with the weights of the times, but for the sums and counts of losses
      by quartile of t, (4,). An update whose loss or gradient is not finite is not applied (metrics["finite"] is
      False); the step still counts. Of the weights, their averages and the optimizer's state each device keeps its own
      part and updates that (weight-update sharding, Xu et al. 2020); a step begins by gathering the weights.
    """

    def gradient(
        params: Any, frozen: Any, weight: Any, x_0: Any, label: Any, t: Any, noise: Any, dropout_keys: Any
    ) -> Any:
        """The gradient of the mean weighted loss, and the loss of each example and its parts."""

        def objective(params: Any, weight: Any, *of_examples: Any) -> tuple[Any, Any]:
            each, told = loss(joined(frozen, params), *of_examples)
            return (weight * each).mean(), (each, told)

        grad = jax.grad(objective, has_aux=True)
        if accumulation == 1:
            return grad(params, weight, x_0, label, t, noise, dropout_keys)
        of_examples = (weight, x_0, label, t, noise, dropout_keys)
        split = jax.tree.map(lambda x: x.reshape(accumulation, -1, *x.shape[1:]), of_examples)

        def add(total: Any, part: Any) -> tuple[Any, Any]:
            part_gradient, each = grad(params, *part)
            return jax.tree.map(jnp.add, total, part_gradient), each

        zeros = jax.tree.map(jnp.zeros_like, params)
        total, each = jax.lax.scan(add, zeros, split, unroll=parts_in_loop(accumulation) == 1)
        return jax.tree.map(lambda g: g / accumulation, total), jax.tree.map(lambda x: x.reshape(-1), each)

    def step(state: TrainState, key: Any, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(key, state.step)

        def keys(stream: int) -> Any:
            return example_keys(jax.random.fold_in(key, stream), batch["example"])

        x_0 = augment.to_float(batch["image"], low)
        if flip:
            x_0 = augment.random_flip(keys(_FLIP), x_0)
        label = batch["label"]
        if label_dropout:
            label = augment.drop_labels(keys(_LABEL), label, label_dropout, null_class)
        t, weight = times.draw(state.times, jax.random.fold_in(key, _TIME), batch["example"], batch_size)
        noise = white_noise(keys(_NOISE), x_0.shape[1:])
        told = (label, t, noise, keys(_DROPOUT))
        # Here, not after the update: what collectives write is not the memory that a call is given and returns, so a
        # TPU copied all weights at the beginning of a call and at its end.
        with jax.named_scope("optimizer"):
            params = parts.whole(state.params, shapes)
        grad, (each, named) = gradient(params, state.frozen, weight, x_0, *told)
        level = jnp.ceil(t).astype(jnp.int32)  # a real time counts as the next integer one
        quartile = weight[:, None] * jax.nn.one_hot((level - 1) * 4 // num_steps, 4)
        means = jax.tree.map(lambda x: (weight * x).mean(), {"loss": each, **named})
        means, quartile_sum, quartile_count = parallel.mean_over_devices((means, each @ quartile, quartile.sum(0)))
        learned = times.update(state.times, *parallel.gather_over_devices((t, each)))
        with jax.named_scope("optimizer"):  # a part of its own in profiles
            grad = parts.mean(grad)
            norm = parts.norm(grad, shapes)
            finite = jnp.isfinite(means["loss"]) & jnp.isfinite(norm)

            def update() -> Any:
                updates, opt_state = optimizer.update(clipped(grad, norm, clip_norm), state.opt_state, state.params)
                params = optax.apply_updates(state.params, updates)
                return params, update_ema(state.ema, params, state.step, ema_decay, ema_warmup), opt_state, learned

            def leave() -> Any:
                return state.params, state.ema, state.opt_state, state.times

            # One branch, for a CPU takes three times as long to choose array by array.
            params, ema, opt_state, learned = jax.lax.cond(finite, update, leave)
        metrics = {
            **means,
            "grad_norm": norm,
            "quartile_sum": quartile_sum,
            "quartile_count": quartile_count,
            "finite": finite,
        }
        state = state._replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state, times=learned)
        return state, metrics

    return step


def parts_in_loop(accumulation: int) -> int:
    """How many parts of the batch a loop takes one after the other; 1 where there is no loop."""
    # There is none on CPU, where gradients of convolutions inside a loop are up to 24 times slower.
    return 1 if devices.platform() == "cpu" else accumulation


def many_steps(step: Step) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]]:
    """A call over several steps: (state, key, (count, batches)) -> (state, metrics).

    `batches` and the metrics have a leading axis of n, of which the first `count` are used. The count is data: a
    shorter call runs the same program, so where calls are cut does not change a bit. One step (n = 1) is not put into a
    loop.
    """

    def call(state: TrainState, key: Any, work: Any) -> tuple[TrainState, dict[str, Any]]:
        count, batches = work
        n = jax.tree.leaves(batches)[0].shape[0]

        def batch(i: Any) -> Any:
            return jax.tree.map(lambda x: x[i], batches)

        if n == 1:
            state, metrics = step(state, key, batch(0))
            return state, jax.tree.map(lambda x: x[None], metrics)

        def once(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
            return step(state, key, batch)

        traced = jax.jit(once, inline=True)  # once, for the shapes of its metrics and for the loop

        def body(i: Any, carry: Any) -> Any:
            state, metrics = traced(carry[0], batch(i))
            return state, jax.tree.map(lambda all_steps, one: all_steps.at[i].set(one), carry[1], metrics)

        shapes = jax.eval_shape(traced, state, batch(0))[1]
        empty = jax.tree.map(lambda x: jnp.zeros((n, *x.shape), x.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, empty))

    return call


def empty_batch(size: int, image_shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """A batch of black images, for what depends on shapes alone."""
    return {"image": np.zeros((size, *image_shape), np.uint8), "label": np.zeros(size, np.int32)}


def stacked(batches: list[dict[str, np.ndarray]], length: int, first: int = 0) -> dict[str, np.ndarray]:
    """Batches of up to `length` steps, padded to it, with the examples' places in the global batch, from `first` on."""
    padded = {name: np.zeros((length, *x.shape), x.dtype) for name, x in batches[0].items()}
    for i, batch in enumerate(batches):
        for name, x in batch.items():
            padded[name][i] = x
    shape = padded["label"].shape
    return padded | {"example": np.broadcast_to(np.arange(first, first + shape[1], dtype=np.int32), shape)}
