"""The training step: what it draws, what it averages, what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddx.diffusion.objective import time_samplers
from ddx.diffusion.random import example_keys
from ddx.runtime import devices
from ddx.training.state import clipped, init_state
from ddx.training.step import make_step, many_steps, parts_in_loop
from ddx.training.summary import flops_per_step

T = 100
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), dtype=np.uint8)


def recorder(log):
    """A loss that keeps what it is given; its gradient is the mean of the batch's noise."""

    def loss(params, x_0, label, t, noise, dropout_keys):
        drawn = x_0, t, noise, jax.random.key_data(dropout_keys)
        jax.debug.callback(lambda *args: log.append(jax.tree.map(np.asarray, args)), *drawn, ordered=False)
        return (params["w"] * noise).mean((1, 2, 3)) + 0 * t, {}

    return loss


def make(loss, **changes):
    options = {
        "num_steps": T,
        "flip": False,
        "label_dropout": 0.0,
        "null_class": 10,
        "low": -1.0,
        "clip_norm": 0.0,
        "ema_decay": 0.9,
        "ema_warmup": False,
        "accumulation": 1,
    } | changes
    options = {"times": time_samplers.uniform(T), "batch_size": 8} | options
    optimizer = optax.sgd(1.0)
    step = make_step(loss, optimizer, shapes={"w": jnp.zeros(())}, **options)
    return step, init_state({"w": jnp.zeros(())}, optimizer, options["times"].init())


def batch(places=range(8)):
    places = np.asarray(places)
    return {
        "image": jnp.asarray(IMAGES[places]),
        "label": jnp.zeros(len(places), jnp.int32),
        "example": jnp.asarray(places, jnp.int32),
    }


def drawn(steps, places=range(8), seed=0, **changes):
    """What the loss was given in each of some steps."""
    log = []
    step, state = make(recorder(log), **changes)
    for _ in range(steps):
        state, _ = jax.jit(step)(state, jax.random.key(seed), batch(places))
    jax.effects_barrier()
    return log


def test_times_noise_and_flips_are_drawn_anew_in_every_step_and_for_every_seed():
    (x_a, t_a, noise_a, _), (x_b, t_b, noise_b, _) = drawn(2, flip=True)
    ((_, t_c, noise_c, _),) = drawn(1, seed=1)
    assert np.all((t_a >= 1) & (t_a <= T)) and len(np.unique(t_a)) > 4
    for t, noise in ((t_b, noise_b), (t_c, noise_c)):
        assert np.any(t != t_a) and np.abs(np.corrcoef(noise.ravel(), noise_a.ravel())[0, 1]) < 0.3
    plain = IMAGES.astype(np.float32) / 127.5 - 1
    flips = []
    for x in (x_a, x_b):
        same = [np.allclose(a, b, atol=1e-6) for a, b in zip(x, plain, strict=True)]
        mirrored = [np.allclose(a, b[:, ::-1], atol=1e-6) for a, b in zip(x, plain, strict=True)]
        assert all(a != b for a, b in zip(same, mirrored, strict=True))
        flips.append(same)
    assert flips[0] != flips[1] and 0 < sum(flips[0] + flips[1]) < 16


def test_within_a_step_examples_are_independent():
    ((_, _, eps, _),) = drawn(1)
    correlation = np.corrcoef(eps.reshape(8, -1))
    assert np.abs(correlation - np.eye(8)).max() < 0.9 and np.linalg.matrix_rank(eps.reshape(8, -1)) == 8


def test_no_two_purposes_share_a_key(monkeypatch):
    used = []

    def spy(key, places):
        used.append(tuple(jax.random.key_data(key).tolist()))
        return example_keys(key, places)

    def loss(params, x_0, label, t, noise, dropout_keys):
        return params["w"] + jnp.zeros(t.shape), {}

    monkeypatch.setattr("ddx.training.step.example_keys", spy)
    monkeypatch.setattr("ddx.diffusion.objective.time_samplers.example_keys", spy)
    step, state = make(loss, flip=True, label_dropout=0.1)
    for _ in range(2):
        state, _ = step(state, jax.random.key(0), batch())
    # In each of two steps: flips, labels, times, noise and dropout.
    assert len(used) == 10 and len(set(used)) == 10


def test_what_an_example_gets_depends_on_its_place_alone():
    """The rows that a device or a part of an accumulated batch sees are those of the whole batch."""
    (whole,) = drawn(1, flip=True)
    (part,) = drawn(1, places=[6, 2, 3], flip=True)
    for of_all, of_some in zip(whole, part, strict=True):
        np.testing.assert_array_equal(of_all[[6, 2, 3]], of_some)
    _, t, _, dropout = whole
    assert len(np.unique(dropout, axis=0)) == 8
    parts = sorted(
        drawn(1, flip=True, accumulation=4), key=lambda part: np.flatnonzero((t == part[1][0])[..., None])[0]
    )
    assert len(parts) == 4
    assert {tuple(p[1]) for p in parts} == {tuple(t[i : i + 2]) for i in range(0, 8, 2)}


def labels_seen(steps, places=range(8), seed=0, **changes):
    """The labels that the loss was given in each of some steps, where all are 0."""
    log = []

    def loss(params, x_0, label, t, noise, dropout_keys):
        jax.debug.callback(lambda label: log.append(np.asarray(label)), label)
        return params["w"] + 0 * t, {}

    step, state = make(loss, **changes)
    for _ in range(steps):
        state, _ = jax.jit(step)(state, jax.random.key(seed), batch(places))
    jax.effects_barrier()
    return np.concatenate(log)


def test_labels_are_dropped_at_their_rate_by_seed_step_and_place_alone():
    assert not labels_seen(1).any()
    seen = labels_seen(40, label_dropout=0.25).reshape(40, 8)
    assert set(np.unique(seen)) == {0, 10}
    dropped = seen == 10
    assert 0.17 < dropped.mean() < 0.33 and dropped.mean(0).max() < 0.6  # 4 standard errors of 320, and of every place
    assert len(np.unique(dropped, axis=0)) > 15
    np.testing.assert_array_equal(labels_seen(40, [6, 2, 3], label_dropout=0.25).reshape(40, 3), seen[:, [6, 2, 3]])
    assert np.any(labels_seen(40, seed=1, label_dropout=0.25).reshape(40, 8) != seen)


def test_dropping_labels_changes_nothing_else_that_is_drawn():
    for one, other in zip(drawn(1, flip=True), drawn(1, flip=True, label_dropout=0.5), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("accumulation", [1, 2, 8])
def test_the_update_is_that_of_the_mean_gradient(accumulation):
    log = []
    step, state = make(recorder(log), accumulation=accumulation)
    state, metrics = jax.jit(step)(state, jax.random.key(0), batch())
    jax.effects_barrier()
    noise = np.concatenate([noise for _, _, noise, _ in log])
    np.testing.assert_allclose(state.params["w"], -noise.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], abs(noise.mean()), rtol=1e-5)
    assert int(state.step) == 1 and bool(metrics["finite"]) and float(metrics["quartile_count"].sum()) == 8


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_step_in_parts_is_told_to_compute_as_much_as_one_of_the_whole_batch(platform, monkeypatch):
    monkeypatch.setattr(devices, "platform", lambda: platform)

    def loss(params, x_0, label, t, noise, dropout_keys):
        return jnp.sin(params["w"] * noise.reshape(-1, 16) @ jnp.ones((16, 9999))).mean(1), {}

    whole, in_parts = (
        flops_per_step(jax.jit(step).lower(state, jax.random.key(0), batch()), parts_in_loop(accumulation))
        for accumulation in (1, 4)
        for step, state in [make(loss, accumulation=accumulation)]
    )
    assert in_parts == pytest.approx(whole, rel=0.02)


def test_quartiles_of_the_loss_follow_the_times():
    log = []

    def loss(params, x_0, label, t, noise, dropout_keys):
        jax.debug.callback(lambda t: log.append(np.asarray(t)), t)
        return t.astype(jnp.float32) + 0 * params["w"], {}

    step, state = make(loss)
    _, metrics = jax.jit(step)(state, jax.random.key(3), batch())
    jax.effects_barrier()
    quarter = np.digitize(log[0], [26, 51, 76])
    np.testing.assert_allclose(metrics["quartile_sum"], [log[0][quarter == q].sum() for q in range(4)])
    np.testing.assert_array_equal(metrics["quartile_count"], np.bincount(quarter, minlength=4))


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_an_update_that_is_not_finite_is_not_applied(bad):
    def loss(params, x_0, label, t, noise, dropout_keys):
        value = {"loss": params["w"] + jnp.nan, "gradient": jnp.sqrt(params["w"])}[bad]  # sqrt'(0) is infinite
        return value + jnp.zeros(t.shape), {}

    step, state = make(loss)
    after, metrics = jax.jit(step)(state, jax.random.key(0), batch())
    assert not bool(metrics["finite"]) and int(after.step) == 1
    chex.assert_trees_all_equal(after._replace(step=0), state._replace(step=0))


def test_the_average_follows_the_weights_and_its_warm_up_counts_steps():
    def loss(params, x_0, label, t, noise, key):
        return -params["w"] + jnp.zeros(t.shape), {}

    step, state = make(loss)
    warm, warm_state = make(loss, ema_warmup=True)
    expected, warm_expected = 0.0, 0.0
    for n in range(5):
        state, _ = jax.jit(step)(state, jax.random.key(0), batch())
        warm_state, _ = jax.jit(warm)(warm_state, jax.random.key(0), batch())
        decay = (2 + n) / (11 + n)  # below 0.9 for all n < 79
        expected = 0.9 * expected + 0.1 * (n + 1)
        warm_expected = decay * warm_expected + (1 - decay) * (n + 1)
    np.testing.assert_allclose((state.params["w"], state.ema["w"]), (5, expected), rtol=1e-6)
    np.testing.assert_allclose(warm_state.ema["w"], warm_expected, rtol=1e-6)


def test_many_steps_are_the_steps_one_by_one_and_a_short_call_uses_the_first():
    step, state = make(recorder([]), flip=True)
    call = jax.jit(chex.assert_max_traces(many_steps(step), n=1))
    one = jax.jit(step)
    key = jax.random.key(0)
    batches = jax.tree.map(lambda x: jnp.stack([x] * 5), batch())
    expected, losses = state, []
    for _ in range(3):
        expected, metrics = one(expected, key, batch())
        losses.append(metrics["loss"])
    found, metrics = call(state, key, (3, batches))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"][:3], losses, rtol=1e-4, atol=1e-6)
    assert int(found.step) == 3 and np.all(np.asarray(metrics["loss"][3:]) == 0)
    # Cut elsewhere: the same program, hence the same bits.
    again = state
    for count in (1, 2):
        again, _ = call(again, key, (count, batches))
    chex.assert_trees_all_equal(again, found)


def test_losses_that_are_not_finite_teach_the_sampler_of_times_nothing():
    times = time_samplers.loss_second_moment(T)
    step, state = make(lambda params, x_0, label, t, noise, key: (params["w"] + jnp.nan * t, {}), times=times)
    after, _ = jax.jit(step)(state, jax.random.key(0), batch())
    chex.assert_trees_all_equal(after.times, times.init())


def test_weights_and_parts_of_the_loss_are_averaged_and_what_was_learned_is_kept():
    """A sampler of times that gives place i the time i + 1 and the weight i, and remembers the losses."""

    def draw(state, key, examples, batch_size):
        assert batch_size == 8
        return examples + 1, examples.astype(jnp.float32)

    times = time_samplers.TimeSampler(lambda: jnp.zeros(8), draw, lambda state, t, loss: state.at[t - 1].set(loss))

    def loss(params, x_0, label, t, noise, dropout_keys):
        each = t.astype(jnp.float32)
        return each * (1 + params["w"]), {"square": each**2}

    for accumulation in (1, 4):
        step, state = make(loss, times=times, accumulation=accumulation, num_steps=8)
        after, metrics = jax.jit(step)(state, jax.random.key(0), batch())
        i = np.arange(8)
        np.testing.assert_allclose(metrics["loss"], np.mean(i * (i + 1)), rtol=1e-6)
        np.testing.assert_allclose(metrics["square"], np.mean(i * (i + 1) ** 2), rtol=1e-6)
        np.testing.assert_allclose(after.params["w"], -np.mean(i * (i + 1)), rtol=1e-6)
        np.testing.assert_allclose(after.times, i + 1)
        np.testing.assert_allclose(metrics["quartile_count"], [1, 5, 9, 13])
        np.testing.assert_allclose(metrics["quartile_sum"], [2, 18, 50, 98])


@pytest.mark.parametrize(
    ("norm", "limit", "expected"),
    [(5.0, 2.0, 0.4), (2.0, 2.0, 1.0), (1.0, 2.0, 1.0), (0.0, 2.0, 1.0), (5.0, 0.0, 1.0)],
)
def test_a_gradient_is_scaled_down_to_the_limit_and_keeps_its_type(norm, limit, expected):
    gradient = {"w": jnp.array([3.0, -4.0]), "half": jnp.ones(2, jnp.bfloat16)}
    found = clipped(gradient, jnp.asarray(norm), limit)
    np.testing.assert_allclose(found["w"], expected * np.array([3.0, -4.0]), rtol=1e-6)
    assert found["half"].dtype == jnp.bfloat16


def test_a_step_is_taken_where_float64_is_allowed():
    def loss(params, x_0, label, t, noise, dropout_keys):
        return params["w"] * noise.mean((1, 2, 3)), {}

    with jax.enable_x64(True):
        step, state = make(loss, clip_norm=1e-3)
        state = state._replace(params={"w": jnp.zeros((), jnp.float32)}, ema={"w": jnp.zeros((), jnp.float32)})
        after, metrics = jax.jit(step)(state, jax.random.key(0), batch())
    assert metrics["finite"] and after.params["w"].dtype == after.ema["w"].dtype == jnp.float32
    assert abs(float(after.params["w"])) == pytest.approx(1e-3, rel=1e-5)
