"""Scaling to [-1, 1] and random flips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx.data.augment import random_flip, to_float


@pytest.mark.parametrize("apply", [to_float, jax.jit(to_float)], ids=["eager", "jit"])
def test_the_256_values_are_evenly_spaced_from_minus_one_to_one(apply):
    floats = np.asarray(apply(jnp.arange(256, dtype=jnp.uint8)))
    assert floats.dtype == np.float32
    assert (floats[0], floats[255]) == (-1.0, 1.0)
    np.testing.assert_array_equal(floats, -floats[::-1])
    np.testing.assert_allclose(floats, np.arange(256) / 127.5 - 1, rtol=0, atol=1e-7)


def keys_and_images(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3), np.uint8)
    return jax.random.split(jax.random.key(0), count), jnp.asarray(images)


def test_each_image_is_kept_or_mirrored_left_right():
    keys, images = keys_and_images(64)
    flipped = np.asarray(random_flip(keys, images))
    kept = (flipped == np.asarray(images)).all((1, 2, 3))
    mirrored = (flipped == np.asarray(images)[:, :, ::-1]).all((1, 2, 3))
    assert (kept ^ mirrored).all()
    assert flipped.dtype == np.uint8


def test_half_of_the_images_are_mirrored():
    keys = jax.random.split(jax.random.key(1), 10_000)
    ramps = jnp.broadcast_to(jnp.arange(2.0)[None, None, :, None], (10_000, 1, 2, 1))
    share = float((random_flip(keys, ramps)[:, 0, 0, 0] == 1).mean())
    assert abs(share - 0.5) < 0.02  # four standard deviations


def test_an_image_s_flip_depends_on_its_own_key_only():
    keys, images = keys_and_images(32)
    together = random_flip(keys, images)
    order = np.random.default_rng(1).permutation(32)
    np.testing.assert_array_equal(random_flip(keys[order], images[order]), together[order])
    for i in (0, 17):
        np.testing.assert_array_equal(random_flip(keys[i : i + 1], images[i : i + 1])[0], together[i])
