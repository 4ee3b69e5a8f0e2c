"""The times that training draws.

A sampler of times is a triple of functions, so that one that learns from the losses can carry what it has learned in
the state of the training:

    init() -> state                                  a pytree of arrays, () for one that learns nothing
    draw(state, key, examples, batch_size) -> (t, weight)
    update(state, t, loss) -> state

`draw` gives each of the examples at the places `examples`, (b,), of a batch of `batch_size` its time, (b,) int32 in
1..T, and the weight of its loss, (b,), which keeps the mean that of uniform times. A time depends on (state, key,
place) alone, so devices that hold parts of the batch draw what one device would. `update` takes all times and losses of
the batch, in the order of their places.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddx.diffusion.noise import example_keys


class TimeSampler(NamedTuple):
    """See the module."""

    init: Callable[[], Any]
    draw: Callable[[Any, Any, Any, int], tuple[Any, Any]]
    update: Callable[[Any, Any, Any], Any]


class History(NamedTuple):
    """The newest losses at each time, in rings."""

    losses: Any  # (T, N) float32; the k-th loss of a time, from 0, is in slot k mod N
    counts: Any  # (T,) int32, losses seen


def uniform(num_steps: int) -> TimeSampler:
    """Draw t ~ Uniform{1, ..., T} for each example (DDPM algorithm 1, line 3)."""

    def draw(state: Any, key: Any, examples: Any, batch_size: int) -> tuple[Any, Any]:
        return _uniform(key, examples, num_steps), jnp.ones(examples.shape)

    return _stateless(draw)


def antithetic(num_steps: int) -> TimeSampler:
    """Pairs t, T + 1 - t: the second half of the batch mirrors the first (DDIM's code)."""

    def draw(state: Any, key: Any, examples: Any, batch_size: int) -> tuple[Any, Any]:
        first = batch_size // 2 + 1
        mirrored = examples >= first
        t = _uniform(key, jnp.where(mirrored, examples - first, examples), num_steps)
        return jnp.where(mirrored, num_steps + 1 - t, t), jnp.ones(examples.shape)

    return _stateless(draw)


def low_discrepancy(num_steps: int) -> TimeSampler:
    """One uniform number for the whole batch, and steps of 1 / B from it around the circle (VDM, appendix I.1).

    Each time has the probability 1 / T, and any part of 1..T gets its share of the batch to within one.
    """

    def draw(state: Any, key: Any, examples: Any, batch_size: int) -> tuple[Any, Any]:
        u = (jax.random.uniform(key) + examples / batch_size) % 1.0
        return _time(u, num_steps), jnp.ones(examples.shape)

    return _stateless(draw)


def loss_second_moment(num_steps: int, history: int = 10, uniform_share: float = 0.001) -> TimeSampler:
    """Draw t in proportion to sqrt(E[L_t^2]), for objectives whose terms differ much (Improved DDPM eq. 18).

    The mean is over the last `history` losses of a time; until every time has so many, times are uniform. A share of
    `uniform_share` stays uniform. The weights are 1 / (T p_t). A draw has 23 bits: the rarest times, of a probability
    near 1e-6, come up to a third too often or too seldom.
    """

    def init() -> History:
        return History(jnp.zeros((num_steps, history)), jnp.zeros((num_steps,), jnp.int32))

    def draw(state: History, key: Any, examples: Any, batch_size: int) -> tuple[Any, Any]:
        p = probabilities(state, uniform_share)
        u = jax.vmap(jax.random.uniform)(example_keys(key, examples))
        # The last edge is 1 up to rounding: no u may fall beyond it.
        t = jnp.minimum(jnp.searchsorted(jnp.cumsum(p), u, side="right"), num_steps - 1) + 1
        return t.astype(jnp.int32), 1.0 / (num_steps * p[t - 1])

    def update(state: History, t: Any, loss: Any) -> History:
        same = t[:, None] == t[None, :]
        earlier = jnp.tril(same, -1).sum(1)
        # Of more than `history` losses of one time only the newest stay: the others' slot is beyond the end.
        kept = same.sum(1) - earlier <= history
        slot = jnp.where(kept, (state.counts[t - 1] + earlier) % history, history)
        losses = state.losses.at[t - 1, slot].set(loss.astype(state.losses.dtype), mode="drop")
        return History(losses, state.counts.at[t - 1].add(1))

    return TimeSampler(init, draw, update)


def probabilities(state: History, uniform_share: float = 0.001) -> Any:
    """p_t of `loss_second_moment`, (T,)."""
    num_steps, history = state.losses.shape
    weights = jnp.sqrt(jnp.mean(jnp.square(state.losses), axis=1))
    weights = jnp.maximum(weights, 1e-30)  # all losses may be 0
    learned = (1.0 - uniform_share) * weights / weights.sum()
    return jnp.where(jnp.all(state.counts >= history), learned + uniform_share / num_steps, 1.0 / num_steps)


def continuous(times: TimeSampler) -> TimeSampler:
    """Real times in (0, T]: those of a sampler of integer times, each less a number in [0, 1)."""

    def draw(state: Any, key: Any, examples: Any, batch_size: int) -> tuple[Any, Any]:
        t, weight = times.draw(state, key, examples, batch_size)
        keys = example_keys(jax.random.fold_in(key, _WITHIN), examples)
        return t - jax.vmap(jax.random.uniform)(keys), weight

    def update(state: Any, t: Any, loss: Any) -> Any:
        return times.update(state, jnp.ceil(t).astype(jnp.int32), loss)

    return TimeSampler(times.init, draw, update)


_WITHIN = 2**31 - 1  # a stream of its own: examples are counted from 0


TIME_SAMPLERS: dict[str, Callable[[int], TimeSampler]] = {
    "uniform": uniform,
    "antithetic": antithetic,
    "low_discrepancy": low_discrepancy,
    "loss_second_moment": loss_second_moment,
}


def _stateless(draw: Callable[[Any, Any, Any, int], tuple[Any, Any]]) -> TimeSampler:
    return TimeSampler(lambda: (), draw, lambda state, t, loss: state)


def _uniform(key: Any, examples: Any, num_steps: int) -> Any:
    return jax.vmap(lambda key: jax.random.randint(key, (), 1, num_steps + 1))(example_keys(key, examples))


def _time(u: Any, num_steps: int) -> Any:
    """The time of a number in [0, 1)."""
    return jnp.minimum((u * num_steps).astype(jnp.int32), num_steps - 1) + 1
