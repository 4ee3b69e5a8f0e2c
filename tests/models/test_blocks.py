"""The blocks of the U-Net, one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx.models import blocks, resampling
from ddx.models.blocks import AttentionBlock, ResnetBlock
from ddx.models.norm import GroupNorm, joined, measure


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_a_new_block_is_nearly_but_not_exactly_the_identity(name):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 64))
    module, inputs = {
        "residual": (ResnetBlock(64, groups=32, dropout=0.0, dtype=jnp.float32), (measure(x), jnp.ones((2, 128)))),
        "attention": (AttentionBlock(32, dtype=jnp.float32), (measure(x),)),
    }[name]
    out, _ = module.init_with_output(jax.random.key(1), *inputs)
    assert 0 < float(jnp.abs(out.x - x).max()) < 1e-3


def test_a_norm_keeps_its_precision_when_the_mean_is_large():
    x = 100 + jax.random.normal(jax.random.key(0), (2, 8, 8, 64))
    out = GroupNorm(32).apply({"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}, measure(x))
    groups = np.asarray(x, np.float64).reshape(2, 64, 32, 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, expected.reshape(x.shape), atol=5e-4)


@pytest.mark.parametrize("way", [resampling._by_parity, resampling._in_place])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 2)])
def test_a_convolution_of_the_doubled_image_needs_no_doubling(way, shape):
    def with_gradients(way, *args):
        out, pull_back = jax.vjp(way, *args)
        return out, pull_back(jnp.cos(out))

    with jax.enable_x64(True):
        shapes = (shape, (3, 3, shape[-1], shape[-1]), shape[-1:])
        args = [jax.random.normal(jax.random.key(i), each, jnp.float64) for i, each in enumerate(shapes)]
        found, expected = (jax.jit(with_gradients, static_argnums=0)(f, *args) for f in (way, resampling._by_doubling))
        assert found[0].shape == (shape[0], 2 * shape[1], 2 * shape[2], shape[3])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, expected)


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
    out = GroupNorm(32).apply({"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}, measure(x))
    groups = np.asarray(x, np.float64).reshape(2, 64, 32, 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, expected.reshape(x.shape), atol=5e-4)


def test_moments_of_parts_are_those_of_the_whole():
    parts = [jax.random.normal(jax.random.key(i), (2, 4, 4, channels)) for i, channels in enumerate((2, 6))]
    whole = measure(jnp.concatenate(parts, axis=-1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), joined(*(measure(part) for part in parts)), whole
    )
    np.testing.assert_allclose(whole.mean, whole.x.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(whole.variance, whole.x.var((1, 2)), rtol=1e-5)
