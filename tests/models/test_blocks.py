"""The blocks of the U-Net, one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx.models import blocks, resampling
from ddx.models.blocks import AttentionBlock, GroupNorm, ResnetBlock


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_a_new_block_is_nearly_but_not_exactly_the_identity(name):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 64))
    module, inputs = {
        "residual": (ResnetBlock(64, groups=32, dropout=0.0, dtype=jnp.float32), (x, jnp.ones((2, 128)), False)),
        "attention": (AttentionBlock(32, dtype=jnp.float32), (x,)),
    }[name]
    out, _ = module.init_with_output(jax.random.key(1), *inputs)
    assert 0 < float(jnp.abs(out - x).max()) < 1e-3


def test_a_norm_keeps_its_precision_when_the_mean_is_large():
    x = 100 + jax.random.normal(jax.random.key(0), (2, 8, 8, 64))
    out = GroupNorm(32).apply({"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}, x)
    groups = np.asarray(x, np.float64).reshape(2, 64, 32, 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, expected.reshape(x.shape), atol=5e-4)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 2)])
def test_a_convolution_of_the_doubled_image_needs_no_doubling(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, shape[-1], shape[-1]))
    with jax.enable_x64(True):
        args = (jnp.asarray(x, jnp.float64), jnp.asarray(kernel, jnp.float64))
        found, expected = resampling._by_parity(*args), resampling._by_doubling(*args)
        assert found.shape == (shape[0], 2 * shape[1], 2 * shape[2], shape[3])
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_dropout_keeps_its_share_and_the_expectation(rate):
    x = jnp.ones((4, 32, 32, 64))
    keys = jax.random.split(jax.random.key(0), 4)
    out = np.asarray(blocks.Dropout(rate).apply({}, x, keys))
    share = (out > 0).mean()
    assert abs(share - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / out.size)
    assert len(np.unique(out)) == 2 and abs(out.max() * (1 - rate) - 1) < 1e-4
    np.testing.assert_array_equal(blocks.Dropout(rate).apply({}, x[:2], keys[jnp.array([3, 1])]), out[[3, 1]])
    if rate < 0.9:  # of the others, one may keep nothing
        assert np.abs(np.corrcoef(out.reshape(4, -1)) - np.eye(4)).max() < 0.05


def test_dropout_leaves_images_alone_outside_training():
    x = jnp.ones((1, 2, 2, 4))
    assert (
        blocks.Dropout(0.5).apply({}, x, None) is x
        and blocks.Dropout(0.0).apply({}, x, jax.random.split(jax.random.key(0), 1)) is x
    )


def test_a_norm_keeps_its_precision_where_the_first_pixel_is_far_from_the_others():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 64)).at[:, 0, 0].set(100.0)
    out = GroupNorm(32).apply({"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}, x)
    groups = np.asarray(x, np.float64).reshape(2, 64, 32, 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, expected.reshape(x.shape), atol=5e-4)
