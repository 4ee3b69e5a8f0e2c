"""Checks that need several devices; `test_parallel.py` runs them in a process with 8 forced CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx.runtime import parallel
from ddx.runtime.errors import ConfigError


def test_there_are_eight_devices():
    assert parallel.num_devices() == 8


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


def test_a_forgotten_average_is_found():
    def step(w, key, work):
        _, batch = work
        return {"good": w["good"], "bad": w["bad"] + batch["x"].mean()}, {}

    state = parallel.replicate({"good": jnp.ones(3), "bad": jnp.zeros(())})
    state, _ = parallel.data_parallel(step)(state, jax.random.key(0), (1, parallel.split_batch({"x": np.arange(8.0)})))
    with pytest.raises(RuntimeError, match=r"the state differs between devices at \['bad'\]"):
        parallel.assert_replicated(state, "the state")


def test_every_device_has_its_own_key_and_a_single_device_the_key_itself():
    key = jax.random.key(0)
    fn = parallel.over_batch(lambda key, x: x + jax.random.uniform(parallel.device_key(key)), shared=1, split=1)
    draws = parallel.join_batch(fn(key, parallel.split_batch(np.zeros(8, np.float32))))
    assert len(np.unique(draws)) == 8
    assert jax.random.key_data(parallel.device_key(key)).tolist() == jax.random.key_data(key).tolist()


def test_batches_split_and_join_in_order():
    x = np.arange(48).reshape(2, 24)
    np.testing.assert_array_equal(parallel.split_batch(x, axis=1)[3], x[:, 9:12])
    np.testing.assert_array_equal(parallel.join_batch(parallel.split_batch(x.T)), x.T)


def test_an_indivisible_batch_is_refused_with_the_nearest_that_fit():
    parallel.check_divisible(16, 2)
    with pytest.raises(ConfigError, match=r"100 is not divisible by 8 devices\. Use 96 or 104"):
        parallel.check_divisible(100)
    with pytest.raises(ConfigError, match=r"Use 16$"):
        parallel.check_divisible(8, 2)
