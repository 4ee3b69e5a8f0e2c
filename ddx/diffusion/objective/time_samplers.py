"""Samplers of the times that training draws.

A time sampler is a triple of functions, so that a sampler that learns from the losses can keep what it has learned in
the training state:

    init() -> state                                  a pytree of arrays, () for a sampler that learns nothing
    draw(state, key, examples, batch_size) -> (t, weight)
    update(state, t, loss) -> state

`examples`, (b,), are places in a batch of `batch_size`. `draw` gives the example at each place its time, (b,) int32 in
1..T, and the weight of its loss, (b,), with which the expected loss is the same as for uniform times. A time depends on
(state, key, place) alone, so devices that hold parts of the batch draw what one device would. `update` takes all times
and losses of the batch, in the order of their places.

`lognormal` is another kind: its weights are 1, so its density of times weights the loss, beside any weight of
`ddx.diffusion.objective.weights`. That is how EDM and Stable Diffusion 3 are trained.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Array, Key, PerExample
from ddx.diffusion.forward.process import Process
from ddx.diffusion.random import example_keys


class TimeSampler(NamedTuple):
    """What draws the times of training, and learns from the losses; the module describes the three functions."""

    init: Callable[[], Any]
    draw: Callable[[Any, Key, Array, int], tuple[PerExample, PerExample]]
    update: Callable[[Any, PerExample, PerExample], Any]


class History(NamedTuple):
    """The newest losses at each time, in ring buffers."""

    losses: jax.Array  # (T, N) float32; the k-th loss of a time, counted from 0, is in slot k mod N
    counts: jax.Array  # (T,) int32, how many losses of each time were seen


def uniform(num_steps: int) -> TimeSampler:
    """Draw t ~ Uniform{1, ..., T} for each example (DDPM algorithm 1, line 3).

    Args:
      num_steps: T.

    Returns:
      A sampler without state, whose weights are 1.
    """

    def draw(state: Any, key: Key, examples: Array, batch_size: int) -> tuple[PerExample, PerExample]:
        return _uniform(key, examples, num_steps), jnp.ones(examples.shape)

    return _stateless(draw)


def antithetic(num_steps: int) -> TimeSampler:
    """Draw pairs t, T + 1 - t: the second half of the batch mirrors the first (DDIM's code).

    Args:
      num_steps: T.

    Returns:
      A sampler without state, whose weights are 1.
    """

    def draw(state: Any, key: Key, examples: Array, batch_size: int) -> tuple[PerExample, PerExample]:
        first = batch_size // 2 + 1
        mirrored = examples >= first
        t = _uniform(key, jnp.where(mirrored, examples - first, examples), num_steps)
        return jnp.where(mirrored, num_steps + 1 - t, t), jnp.ones(examples.shape)

    return _stateless(draw)


def low_discrepancy(num_steps: int) -> TimeSampler:
    """Draw one uniform number u for the batch; example i gets the time at (u + i / B) mod 1 (VDM, appendix I.1).

    Each time has the probability 1 / T, and any interval of times gets its share of the batch to within one example.

    Args:
      num_steps: T.

    Returns:
      A sampler without state, whose weights are 1.
    """

    def draw(state: Any, key: Key, examples: Array, batch_size: int) -> tuple[PerExample, PerExample]:
        u = (jax.random.uniform(key) + examples / batch_size) % 1.0
        return _time(u, num_steps), jnp.ones(examples.shape)

    return _stateless(draw)


def loss_second_moment(num_steps: int, history: int = 10, uniform_share: float = 0.001) -> TimeSampler:
    """Draw t in proportion to sqrt(E[L_t^2]), for losses that differ greatly between times (Improved DDPM eq. 18).

    Times are uniform until every time has `history` losses. The weights are 1 / (T p_t). A draw has 23 random bits, so
    the rarest times, with a probability near 1e-6, are drawn up to a third too often or too seldom.

    Args:
      num_steps: T.
      history: how many of the newest losses of a time enter the mean.
      uniform_share: the share of the probability that stays uniform, in [0, 1].

    Returns:
      A sampler whose state is a `History`.
    """

    def init() -> History:
        return History(jnp.zeros((num_steps, history)), jnp.zeros((num_steps,), jnp.int32))

    def draw(state: History, key: Key, examples: Array, batch_size: int) -> tuple[PerExample, PerExample]:
        p = probabilities(state, uniform_share)
        t = _in_proportion(jnp.cumsum(p), key, examples)
        return t, 1.0 / (num_steps * p[t - 1])

    def update(state: History, t: PerExample, loss: PerExample) -> History:
        same = t[:, None] == t[None, :]
        earlier = jnp.tril(same, -1).sum(1)
        # If one time has more than `history` losses, only the newest stay: the slot of the others is out of range.
        kept = same.sum(1) - earlier <= history
        slot = jnp.where(kept, (state.counts[t - 1] + earlier) % history, history)
        losses = state.losses.at[t - 1, slot].set(loss.astype(state.losses.dtype), mode="drop")
        return History(losses, state.counts.at[t - 1].add(1))

    return TimeSampler(init, draw, update)


def probabilities(state: History, uniform_share: float = 0.001) -> jax.Array:
    """The probabilities p_t of `loss_second_moment`.

    Args:
      state: the newest losses.
      uniform_share: the share of the probability that stays uniform, in [0, 1].

    Returns:
      (T,), of sum 1.
    """
    num_steps, history = state.losses.shape
    weights = jnp.sqrt(jnp.mean(jnp.square(state.losses), axis=1))
    weights = jnp.maximum(weights, 1e-30)  # all losses may be 0, and their sum divides
    learned = (1.0 - uniform_share) * weights / weights.sum()
    return jnp.where(jnp.all(state.counts >= history), learned + uniform_share / num_steps, 1.0 / num_steps)


def lognormal(process: Process, mean: float = -1.2, std: float = 1.2, whole: bool = True) -> TimeSampler:
    """Draw log(sigma / alpha) ~ N(mean, std^2), and the time with this ratio of noise to signal.

    (-1.2, 1.2^2) is EDM's density (Karras et al. 2022, table 1). For rectified flow, where sigma / alpha is
    t / (T - t), N(mean, std^2) is the logit-normal density of t / T (Esser et al. 2024, section 3.1); (0, 1) is theirs.

    Under a blur, alpha is the schedule's own, which all frequencies share.

    Args:
      process: the process whose levels are drawn.
      mean: the mean of log(sigma / alpha).
      std: its standard deviation, above 0.
      whole: give each level 1..T the probability between the midpoints, in log(sigma / alpha), to its neighbours, and
        the first and the last level what lies beyond. Otherwise give the time t the probability between t - 1 and t,
        for `continuous`, which spreads it evenly over (t - 1, t].

    Returns:
      A sampler without state, whose weights are 1: the expected loss is not the one of uniform times.

    Raises:
      ValueError: noise does not grow with t (IHDM), or no noise between the first and the last level has a probability.
    """
    log_sigma = -0.5 * np.asarray(process.schedule.at(np.arange(process.num_steps + 1)).logsnr)
    edges = log_sigma
    if whole:
        edges = np.concatenate([[-np.inf], 0.5 * (log_sigma[1:-1] + log_sigma[2:]), [np.inf]])
    if not np.all(np.diff(log_sigma) > 0):
        raise ValueError("lognormal times need noise that grows with t, and IHDM's does not; use uniform")

    def probability_below(log_sigma: float) -> float:
        return 0.5 * math.erfc((mean - log_sigma) / (std * math.sqrt(2.0)))

    first, last = (log_sigma[1] if whole else log_sigma[0]), log_sigma[-1]
    if first < last and not probability_below(last) > probability_below(first):
        raise ValueError(
            f"lognormal times of mean {mean} and std {std} leave out all noise of this process, whose"
            f" log(sigma / alpha) goes from {first:.3g} to {last:.3g}; use a mean between"
        )
    below = np.array([probability_below(edge) for edge in edges])
    cumulative = (below[1:] - below[0]) / (below[-1] - below[0])

    def draw(state: Any, key: Key, examples: Array, batch_size: int) -> tuple[PerExample, PerExample]:
        return _in_proportion(jnp.asarray(cumulative), key, examples), jnp.ones(examples.shape)

    return _stateless(draw)


def continuous(times: TimeSampler) -> TimeSampler:
    """Draw real times in (0, T]: integer times, each less a uniform number in [0, 1).

    Args:
      times: a sampler of integer times in 1..T.

    Returns:
      A sampler of real times, with the same state and weights.
    """

    def draw(state: Any, key: Key, examples: Array, batch_size: int) -> tuple[PerExample, PerExample]:
        t, weight = times.draw(state, key, examples, batch_size)
        keys = example_keys(jax.random.fold_in(key, _WITHIN), examples)
        return t - jax.vmap(jax.random.uniform)(keys), weight

    def update(state: Any, t: PerExample, loss: PerExample) -> Any:
        return times.update(state, jnp.ceil(t).astype(jnp.int32), loss)

    return TimeSampler(times.init, draw, update)


_WITHIN = 2**31 - 1  # a stream of its own: no example has this number


TIME_SAMPLERS: dict[str, Callable[[int], TimeSampler]] = {
    "uniform": uniform,
    "antithetic": antithetic,
    "low_discrepancy": low_discrepancy,
    "loss_second_moment": loss_second_moment,
}


def _stateless(draw: Callable[[Any, Key, Array, int], tuple[PerExample, PerExample]]) -> TimeSampler:
    return TimeSampler(lambda: (), draw, lambda state, t, loss: state)


def _uniform(key: Key, examples: Array, num_steps: int) -> PerExample:
    return jax.vmap(lambda key: jax.random.randint(key, (), 1, num_steps + 1))(example_keys(key, examples))


def _in_proportion(cumulative: Array, key: Key, examples: Array) -> PerExample:
    """Integer times with given probabilities of 1, of at most 2, ..., of at most T."""
    u = jax.vmap(jax.random.uniform)(example_keys(key, examples))
    # The last edge may be rounded to below 1: a u beyond it belongs to T.
    t = jnp.minimum(jnp.searchsorted(cumulative, u, side="right"), len(cumulative) - 1) + 1
    return t.astype(jnp.int32)


def _time(u: Array, num_steps: int) -> PerExample:
    """The integer times of numbers in [0, 1)."""
    return jnp.minimum((u * num_steps).astype(jnp.int32), num_steps - 1) + 1
