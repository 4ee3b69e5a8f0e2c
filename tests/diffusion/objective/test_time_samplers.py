"""The times that training draws: their law, their independence of devices, and what a sampler learns from losses."""

import collections
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.objective.time_samplers import TIME_SAMPLERS, History, continuous, lognormal, loss_second_moment

T = 20


def learned_state():
    """A history in which the losses of time t are about t."""
    losses = jnp.arange(1.0, T + 1)[:, None] * jnp.ones((T, 10))
    return History(losses, jnp.full((T,), 10, jnp.int32))


def states(name):
    sampler = TIME_SAMPLERS[name](T)
    return [sampler.init()] + [learned_state()] * (name == "loss_second_moment")


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_weighted_means_are_those_of_uniform_times(name):
    sampler = TIME_SAMPLERS[name](T)
    for state in states(name):
        draw = jax.jit(lambda key, s=state: sampler.draw(s, key, jnp.arange(64), 64))
        t, weight = jax.vmap(draw)(jax.random.split(jax.random.key(0), 2000))
        assert t.dtype == jnp.int32 and int(t.min()) == 1 and int(t.max()) == T
        for f in (lambda t: 1.0 + 0 * t, lambda t: t, lambda t: (t == 1) * 20.0, lambda t: jnp.cos(t)):
            exact = np.mean(f(np.arange(1, T + 1)))
            np.testing.assert_allclose(np.mean(weight * f(t)), exact, atol=0.02 * (1 + abs(exact)))


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_a_time_depends_on_the_place_in_the_batch_alone(name):
    sampler = TIME_SAMPLERS[name](T)
    for state in states(name):
        draw = jax.jit(lambda places, s=state: sampler.draw(s, jax.random.key(3), places, 10))
        t, weight = draw(jnp.arange(10))
        for places in ([7, 2], [9, 4], [0, 1]):
            part, part_weight = draw(jnp.asarray(places))
            np.testing.assert_array_equal(part, t[np.asarray(places)])
            np.testing.assert_array_equal(part_weight, weight[np.asarray(places)])


def test_uniform_times_are_uniform():
    t, _ = jax.jit(lambda n: TIME_SAMPLERS["uniform"](10).draw((), jax.random.key(0), n, 20_000))(jnp.arange(20_000))
    counts = np.bincount(t, minlength=11)
    # Each count is binomial(20000, 1/10): six standard deviations are 255.
    assert counts[0] == 0 and t.max() == 10 and np.abs(counts[1:] - 2000).max() < 255


@pytest.mark.parametrize("batch", [1, 2, 7, 8])
def test_antithetic_times_come_in_pairs(batch):
    t, _ = jax.jit(lambda n: TIME_SAMPLERS["antithetic"](T).draw((), jax.random.key(0), n, batch))(jnp.arange(batch))
    first = batch // 2 + 1
    np.testing.assert_array_equal(t[first:], T + 1 - t[: batch - first])


def test_low_discrepancy_times_fill_every_part_evenly():
    sampler = TIME_SAMPLERS["low_discrepancy"](T)
    for seed in range(50):
        t, _ = sampler.draw((), jax.random.key(seed), jnp.arange(40), 40)
        counts = np.bincount(t, minlength=T + 1)[1:]
        assert counts.sum() == 40 and counts.min() >= 1 and counts.max() <= 3


def test_losses_queue_up_in_order_whatever_the_batch():
    """Against a queue a time, with many duplicates in a batch, also more than the history holds."""
    sampler = loss_second_moment(3, history=4)
    state, queues = sampler.init(), [collections.deque(maxlen=4) for _ in range(3)]
    rng = np.random.default_rng(0)
    for size in (1, 3, 30, 2, 8, 5):
        t, loss = rng.integers(1, 4, size), rng.uniform(0.5, 2.0, size).astype(np.float32)
        state = jax.jit(sampler.update)(state, jnp.asarray(t), jnp.asarray(loss))
        for time, value in zip(t, loss, strict=True):
            queues[time - 1].append(value)
        for i, queue in enumerate(queues):
            oldest = int(state.counts[i]) % 4 if len(queue) == 4 else 0
            np.testing.assert_array_equal(np.roll(state.losses[i], -oldest)[: len(queue)], np.asarray(queue))


def test_losses_of_zero_leave_uniform_times():
    state = History(jnp.zeros((T, 10)), jnp.full((T,), 10, jnp.int32))
    _, weight = jax.jit(lambda n: loss_second_moment(T).draw(state, jax.random.key(0), n, 16))(jnp.arange(16))
    np.testing.assert_allclose(weight, 1.0, rtol=1e-5)


LOGNORMAL = {
    "coarse": (ddx.ddpm(40, "cosine"), (-1.2, 1.2), True),
    "linear": (ddx.ddpm(), (-1.2, 1.2), True),
    "blurring": (ddx.blurring(50), (0.5, 0.7), False),
    "flow": (ddx.rectified_flow(200), (0.0, 1.0), False),
}


@pytest.mark.parametrize("name", LOGNORMAL)
def test_lognormal_times_have_a_normal_log_ratio_of_noise_to_signal(name):
    process, (mean, std), whole = LOGNORMAL[name]
    times = lognormal(process, mean, std, whole)
    times = times if whole else continuous(times)
    t, weight = jax.jit(lambda n: times.draw((), jax.random.key(0), n, 50_000))(jnp.arange(50_000))
    assert jnp.issubdtype(t.dtype, jnp.integer) == whole and np.all(weight == 1)
    assert t.min() > 0 and t.max() <= process.num_steps
    ratio = -0.5 * np.asarray(process.schedule.at(np.asarray(t, np.float64 if not whole else np.int64)).logsnr)
    # The quantiles agree to within the levels' distance and four standard errors of 50,000 draws.
    for q in (0.1, 0.5, 0.9):
        levels = np.asarray(process.schedule.at(np.arange(1, process.num_steps + 1)).logsnr)
        exact = mean + std * statistics.NormalDist().inv_cdf(q)
        apart = np.abs(np.diff(-0.5 * levels)[np.searchsorted(-0.5 * levels, exact) - 1])
        tolerance = apart + 4 * np.sqrt(q * (1 - q) / 50_000) / statistics.NormalDist().pdf((exact - mean) / std) * std
        assert abs(np.quantile(ratio, q) - exact) < tolerance, (q, exact, np.quantile(ratio, q), tolerance)


def test_a_level_has_the_lognormal_probability_of_being_the_nearest():
    process = ddx.ddpm(6, "cosine")
    levels = -0.5 * process.marginal(np.arange(1, 7)).logsnr.ravel()
    wanted = -0.3 + 1.5 * np.random.default_rng(0).standard_normal(200_000)
    nearest = 1 + np.abs(wanted[:, None] - levels).argmin(1)
    times = lognormal(process, -0.3, 1.5)
    t, _ = jax.jit(lambda n: times.draw((), jax.random.key(0), n, 200_000))(jnp.arange(200_000))
    found, expected = (np.bincount(x, minlength=7) / 200_000 for x in (np.asarray(t), nearest))
    np.testing.assert_allclose(found, expected, atol=0.006)  # four standard errors of the difference


def test_lognormal_times_of_rectified_flow_are_logit_normal():
    times = continuous(lognormal(ddx.rectified_flow(1000), 0.3, 0.8, whole=False))
    t, _ = jax.jit(lambda n: times.draw((), jax.random.key(1), n, 50_000))(jnp.arange(50_000))
    logit = np.log(np.asarray(t, np.float64) / (1000 - np.asarray(t, np.float64)))
    np.testing.assert_allclose([logit.mean(), logit.std()], [0.3, 0.8], atol=0.015)  # four standard errors


def test_a_lognormal_time_depends_on_the_place_in_the_batch_alone():
    times = continuous(lognormal(ddx.rectified_flow(20), whole=False))
    draw = jax.jit(lambda places: times.draw((), jax.random.key(3), places, 10)[0])
    np.testing.assert_array_equal(draw(jnp.asarray([7, 2])), draw(jnp.arange(10))[jnp.asarray([7, 2])])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lognormal(ddx.ihdm(10)), "noise that grows with t, and IHDM's does not; use uniform"),
        (lambda: lognormal(ddx.blurring(10), 20.0, 0.1, whole=False), "goes from -5 to 5; use a mean between"),
        (lambda: lognormal(ddx.ddpm(1000), 20.0, 0.1), "goes from -4.61 to 5.06; use a mean between"),
    ],
)
def test_lognormal_times_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
