"""Keys: of one kind whatever is given, whatever JAX's default is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion import random
from ddx.diffusion.objective import time_samplers
from ddx.diffusion.papers import ihdm
from ddx.diffusion.reverse.walk import initial_noise

SHAPE = (3, 3, 1)
KINDS = ["threefry2x32", "rbg", "unsafe_rbg"]
PROCESS = ddx.ddpm(20, "cosine")
DENOISE = ddx.denoiser(PROCESS, lambda x, t: 0.5 * x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("raw", [False, True])
def test_example_i_depends_on_its_key_alone_whatever_the_kind(kind, raw):
    keys = jax.random.split(jax.random.key(0, impl=kind), 4)
    keys = jax.random.key_data(keys) if raw else keys
    x_T = jnp.ones((4, *SHAPE))
    calls = {
        "white noise": lambda keys, x: random.white_noise(keys, SHAPE),
        "initial noise": lambda keys, x: initial_noise(ddx.ddpm(), keys, SHAPE),
        "sample": lambda keys, x: ddx.sample(DENOISE, keys, x, (20, 10, 0), 1.0),
        "bound": lambda keys, x: ddx.bits_per_dim(DENOISE, x, keys, (20, 10, 0)).total,
        "prior images": lambda keys, x: ihdm.prior_images(keys, 1000),
    }
    for name, call in calls.items():
        together, alone = call(keys, x_T), call(keys[2:3], x_T[2:3])
        np.testing.assert_allclose(together[2:3], alone, rtol=1e-6, atol=1e-6, err_msg=name)
        if name != "bound":
            assert len(np.unique(np.asarray(together).reshape(4, -1), axis=0)) == 4, name


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_one_key_differ_and_do_not_depend_on_the_batch(kind):
    key = jax.random.key(3, impl=kind)
    x_T = jnp.zeros((5, *SHAPE))
    found = ddx.sample(DENOISE, key, x_T, (20, 10, 0), 1.0)
    assert len(np.unique(np.asarray(found).reshape(5, -1), axis=0)) == 5
    np.testing.assert_allclose(found[:2], ddx.sample(DENOISE, key, x_T[:2], (20, 10, 0), 1.0), atol=1e-6)
    for draw in (time_samplers.uniform(100), time_samplers.continuous(time_samplers.uniform(100))):
        t, _ = draw.draw((), key, jnp.arange(64), 64)
        assert len(np.unique(t)) > 30


@pytest.mark.parametrize("kind", KINDS)
def test_all_bits_of_a_key_count(kind):
    data = jax.random.key_data(jax.random.key(0, impl=kind))
    seen = {tuple(np.asarray(jax.random.key_data(random.typed(data))).tolist())}
    for i in range(len(data)):
        changed = jax.random.wrap_key_data(data.at[i].add(1), impl=kind)
        seen.add(tuple(np.asarray(jax.random.key_data(random.typed(changed))).tolist()))
    assert len(seen) == 1 + len(data)


@pytest.mark.parametrize("key", [0, 1.5, "key", np.arange(2), jnp.zeros(2), jnp.zeros((), jnp.uint32)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ValueError, match="a key must be made by jax"):
        ddx.sample(DENOISE, key, jnp.zeros((2, *SHAPE)), (20, 0), 1.0)


def test_as_many_keys_as_examples():
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="for 2 examples; give one key, or one an example"):
        ddx.sample(DENOISE, keys, jnp.zeros((2, *SHAPE)), (20, 0), 1.0)
    with pytest.raises(ValueError, match="for 2 examples"):
        ddx.sample(DENOISE, keys[:2].reshape(2, 1), jnp.zeros((2, *SHAPE)), (20, 0), 1.0)
