"""Checks that need several devices; `test_parallel.py` runs them in a process with 8 forced CPU devices."""

import contextlib
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx import data, features
from ddx.evaluation.feature_sets import Extraction
from ddx.runtime import devices, parallel, parts
from ddx.runtime.errors import ConfigError


def test_there_are_eight_devices():
    assert devices.count() == 8


def test_the_averaged_gradient_is_that_of_one_device():
    x = np.arange(16, dtype=np.float32)

    def step(w, key, work):
        _, batch = work
        gradient = jax.grad(lambda w: jnp.mean(jnp.square(w - batch["x"])))(w)
        return w - 0.1 * parallel.mean_over_devices(gradient), {"gradient": parallel.mean_over_devices(gradient)}

    w = jnp.asarray(3.0)
    key = jax.random.key(0)
    alone, _ = jax.jit(step)(w, key, (1, {"x": x}))
    together = parallel.data_parallel(step)
    state, metrics = together(parallel.replicate(w), key, (1, parallel.split_batch({"x": x})))
    np.testing.assert_allclose(state, alone, rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient"], 2 * (3 - x.mean()), rtol=1e-6)
    parallel.assert_replicated(state, "the state")


def test_the_collector_waits_while_a_program_is_made():
    seen = []

    def step(x):
        seen.append(gc.isenabled())
        return x.reshape(3)  # which only three numbers can be

    for number in (3, 4):
        rows = np.zeros((8, number), np.float32)
        for trace in (lambda x: parallel.run_once(step, x[0]), lambda x: parallel.over_batch(step, 0, 1).lower(x)):
            with contextlib.nullcontext() if number == 3 else pytest.raises(TypeError, match="reshape"):
                trace(rows)
            assert gc.isenabled()
    assert seen == [False] * 4
    gc.disable()
    try:
        parallel.run_once(step, np.zeros(3, np.float32))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_forgotten_average_is_found():
    def step(w, key, work):
        _, batch = work
        return {"good": w["good"], "bad": w["bad"] + batch["x"].mean()}, {}

    state = parallel.replicate({"good": jnp.ones(3), "bad": jnp.zeros(())})
    state, _ = parallel.data_parallel(step)(state, jax.random.key(0), (1, parallel.split_batch({"x": np.arange(8.0)})))
    with pytest.raises(RuntimeError, match=r"the state differs between devices at \['bad'\]"):
        parallel.assert_replicated(state, "the state")


def test_parts_of_arrays_are_updated_where_they_are():
    """A step of gradient descent with momentum on parts is the step on the whole."""
    shapes = {"kernel": (3, 3, 16, 4), "bias": (8,), "odd": (3,), "odd matrix": (3, 3), "scalar": ()}
    rng = np.random.default_rng(0)
    like = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    w, m = ({name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(2))
    state = {"count": np.int32(3), "of w": m}
    like_state = {"count": jax.ShapeDtypeStruct((), np.int32), "of w": like}
    x = rng.normal(size=16).astype(np.float32)

    def step(state, key, work):
        w, state = state
        _, batch = work
        gradient = jax.grad(lambda w: sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(w)) * batch["x"].mean())
        gradient = parts.mean(gradient(parts.whole(w, like)))
        norm = parts.norm(gradient, like)
        m = jax.tree.map(lambda m, g: 0.9 * m + g / norm, state["of w"], gradient)
        state = {"count": state["count"] + 1, "of w": m}
        return (jax.tree.map(lambda w, m: w - m, w, m), state), {"norm": norm}

    alone, metrics = jax.jit(step)((w, state), jax.random.key(0), (1, {"x": x}))
    placed = parts.place(w, like), parts.place(state, like)
    assert placed[0].vectors.shape == (8, 2)  # 8 numbers, 3 and 5 zeros
    assert [x.shape for x in placed[0].others] == [(8, 3, 3, 2, 4), (8, 3, 3), (8,)]
    jax.tree.map(np.testing.assert_array_equal, parts.join(placed[1], like_state, like), state)
    shapes_of = parts.shapes(like_state, like)
    assert jax.tree.map(jnp.shape, placed[1]) == jax.tree.map(lambda leaf: leaf.shape, shapes_of)
    call = parallel.data_parallel(step, (0, 0))
    divided, found = call(placed, jax.random.key(0), (1, parallel.split_batch({"x": x})))
    np.testing.assert_allclose(found["norm"], metrics["norm"], rtol=1e-6)
    together = parts.join(divided[0], like, like), parts.join(divided[1], like_state, like)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), alone, together)


def test_copies_that_differ_are_found():
    like = {"divided": jax.ShapeDtypeStruct((16, 4), np.float32), "odd": jax.ShapeDtypeStruct((3, 3), np.float32)}
    tree = {"divided": np.arange(64, dtype=np.float32).reshape(16, 4), "odd": np.ones((3, 3), np.float32)}
    rows = parts.place(tree, like)
    parallel.assert_replicated((), "the state", parts.copies(rows, like, like))
    odd = np.asarray(rows.others[1]) + np.arange(8)[:, None, None] // 7
    rows = rows._replace(others=[rows.others[0], parallel.put(odd, parallel.AXIS)])
    with pytest.raises(RuntimeError, match=r"the state differs between devices at \['odd'\]"):
        parallel.assert_replicated((), "the state", parts.copies(rows, like, like))


def test_batches_split_and_join_in_order():
    x = np.arange(48).reshape(2, 24)
    np.testing.assert_array_equal(parallel.split_batch(x, axis=1)[3], x[:, 9:12])
    np.testing.assert_array_equal(parallel.join_batch(parallel.split_batch(x.T)), x.T)


def test_an_indivisible_batch_is_refused_with_the_nearest_that_fit():
    devices.check_divisible(16, 2)
    with pytest.raises(ConfigError, match=r"100 is not divisible by 8 devices\. Use 96 or 104"):
        devices.check_divisible(100)
    with pytest.raises(ConfigError, match=r"Use 16$"):
        devices.check_divisible(8, 2)


def test_features_of_eight_devices_are_those_of_one():
    images = data.load("digits").read(np.arange(37))["image"]  # no multiple of eight
    network = features.load("digits")
    together, alone = Extraction(network)(images), jax.jit(network.apply)(network.params, images)
    np.testing.assert_allclose(together.features, alone["features"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together.logits, alone["logits"], rtol=1e-5, atol=1e-5)
