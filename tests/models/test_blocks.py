"""The blocks of the U-Net, one at a time."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx.models import attention, layers, norm, resampling
from ddx.models.attention import AttentionBlock
from ddx.models.blocks import ResnetBlock, Upsample
from ddx.models.conventions import IDDPM
from ddx.models.norm import GroupNorm, joined, measure
from tests.models.weights import random_like


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_a_new_block_is_nearly_but_not_exactly_the_identity(name):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 64))
    module, inputs = {
        "residual": (
            ResnetBlock(64, groups=32, dropout=0.0, dtype=jnp.float32),
            (measure(x, jnp.zeros(64)), jnp.ones((2, 128))),
        ),
        "attention": (AttentionBlock(32, dtype=jnp.float32), (measure(x, jnp.zeros(64)),)),
    }[name]
    out, _ = module.init_with_output(jax.random.key(1), *inputs)
    assert 0 < float(jnp.abs(out.shifted() - x).max()) < 1e-3


def test_a_program_carries_no_matrix_for_a_norm():
    channels, x = 1024, jax.ShapeDtypeStruct((2, 8, 8, 1024), jnp.float32)
    params = {"params": {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}}
    run = jax.jit(lambda x: GroupNorm(32).apply(params, measure(x, jnp.zeros(channels))))
    assert len(run.lower(x).as_text()) < 50_000  # one of 1,024 x 1,024 would be 8,000,000 characters


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_a_norm_keeps_its_precision_when_the_mean_is_large(shift):
    x = (100 - shift) + jax.random.normal(jax.random.key(0), (2, 8, 8, 64))
    measured = measure(x, jnp.full((64,), shift))
    out = GroupNorm(32).apply({"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}, measured)
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
        shapes = (shape, (3, 3, shape[-1], shape[-1]))
        args = [jax.random.normal(jax.random.key(i), each, jnp.float64) for i, each in enumerate(shapes)]
        found, expected = (jax.jit(with_gradients, static_argnums=0)(f, *args) for f in (way, resampling._by_doubling))
        assert found[0].shape == (shape[0], 2 * shape[1], 2 * shape[2], shape[3])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, expected)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_dropout_keeps_its_share_and_the_expectation(rate):
    x = jnp.ones((4, 32, 32, 64))
    keys = jax.random.split(jax.random.key(0), 4)
    out = np.asarray(layers.Dropout(rate).apply({}, x, keys))
    share = (out > 0).mean()
    assert abs(share - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / out.size)
    kept = 1 - round(rate * 2**16) / 2**16  # the nearest rate that numbers of 16 bits have
    assert len(np.unique(out)) == 2 and abs(out.max() * kept - 1) < 1e-6
    np.testing.assert_array_equal(layers.Dropout(rate).apply({}, x[:2], keys[jnp.array([3, 1])]), out[[3, 1]])
    if rate < 0.9:  # of the others, one may keep nothing
        assert np.abs(np.corrcoef(out.reshape(4, -1)) - np.eye(4)).max() < 0.05


def test_the_rows_of_a_mask_and_the_masks_of_modules_are_drawn_apart():
    keys = jax.random.split(jax.random.key(0), 3)
    masks = {
        (name, height): np.asarray(layers._kept(keys, name, (height, 8, 512), 2**15))
        for name in (1, 2)
        for height in (6, 8)
    }
    rows = np.concatenate([masks[1, 8], masks[2, 8]]).swapaxes(1, 2).transpose(2, 0, 1, 3).reshape(8, -1)
    assert np.abs(np.corrcoef(rows) - np.eye(8)).max() < 5 / np.sqrt(rows.shape[1])
    assert abs(np.corrcoef(masks[1, 8].ravel(), masks[2, 8].ravel())[0, 1]) < 5 / np.sqrt(masks[1, 8].size)
    assert masks[1, 6].shape == (3, 6, 8, 512)
    np.testing.assert_array_equal(masks[1, 6], masks[1, 8][:, :6])  # of four rows each, the last has some left over


def test_dropout_leaves_images_alone_outside_training():
    x = jnp.ones((1, 2, 2, 4))
    assert (
        layers.Dropout(0.5).apply({}, x, None) is x
        and layers.Dropout(0.0).apply({}, x, jax.random.split(jax.random.key(0), 1)) is x
    )


@pytest.mark.parametrize("far", [100.0, 1000.0])
def test_a_norm_keeps_its_precision_where_the_first_pixel_is_far_from_the_others(far):
    size = 128
    x = jax.random.normal(jax.random.key(0), (2, size, size, 64)).at[:, 0, 0].set(far)
    out = GroupNorm(32).apply({"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}, measure(x, jnp.zeros(64)))
    groups = np.asarray(x, np.float64).reshape(2, size**2, 32, 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, expected.reshape(x.shape), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("height", [2, 3, 4, 12])
def test_images_written_in_pieces_have_the_moments_and_derivatives_of_others(height):
    x = jax.random.normal(jax.random.key(0), (2, height, 4, 3)) + 100
    near = x[:, :1, :1]
    np.testing.assert_allclose(norm._means_by_rows(x, near), norm._means(x, near), rtol=1e-5, atol=1e-6)

    def second(in_pieces):
        of_moments = lambda x: jnp.sin(measure(x, jnp.zeros(3), in_pieces=in_pieces).variance).sum()  # noqa: E731
        return jax.jvp(jax.grad(of_moments), (x,), (x - 100,))

    np.testing.assert_allclose(second(True), second(False), rtol=1e-5, atol=1e-6)


def test_softmax_by_a_product_is_softmax_and_so_are_its_derivatives():
    logits = 300 * jax.random.normal(jax.random.key(0), (2, 3, 40))  # exp of them is infinite
    np.testing.assert_allclose(attention._by_product(logits), nn.softmax(logits), rtol=1e-6, atol=1e-30)

    def second(softmax):
        return jax.jvp(jax.grad(lambda x: jnp.sin(3 * softmax(x)).sum()), (logits / 300,), (logits,))

    np.testing.assert_allclose(second(attention._softmax), second(nn.softmax), rtol=1e-4, atol=1e-4)


def test_a_tpu_sums_softmax_by_a_product_and_others_do_not():
    logits = jax.ShapeDtypeStruct((2, 3, 40), jnp.float32)

    def products(platform):
        text = jax.jit(attention._softmax).trace(logits).lower(lowering_platforms=(platform,)).as_text()
        return text.count("stablehlo.dot_general")

    assert (products("tpu"), products("cpu"), products("cuda")) == (1, 0, 0)


@pytest.mark.parametrize(("batch", "channels", "is_apart"), [(8, 16, True), (7, 16, False), (8, 8, False)])
def test_on_a_tpu_a_block_computes_its_shortcut_apart(batch, channels, is_apart):
    x = jnp.zeros((batch, 8, 8, 8))
    block = ResnetBlock(channels, groups=2, dropout=0.0, dtype=jnp.float32)
    params = block.init(jax.random.key(0), measure(x, jnp.zeros(8)), jnp.zeros((batch, 4)))

    def text(platform):
        run = jax.jit(lambda x: block.apply(params, measure(x, jnp.zeros(8)), jnp.zeros((batch, 4))).x)
        return run.trace(x).lower(lowering_platforms=(platform,)).as_text()

    assert ("LayoutConstraint" in text("tpu")) == is_apart
    assert "LayoutConstraint" not in text("cpu")


@pytest.mark.parametrize(("batch", "parts"), [(8, 4), (7, 1)])
def test_on_a_tpu_many_doubled_images_are_summed_in_parts(batch, parts):
    x = jnp.zeros((batch, 16, 16, 4))
    params = Upsample(jnp.float32).init(jax.random.key(0), measure(x, jnp.zeros(4)))

    def sums(platform):
        def run(x):
            measured = measure(x, jnp.zeros(4))
            up = Upsample(jnp.float32).apply(params, measured)
            return up.mean, up.variance, measured.mean, measured.variance

        text = jax.jit(run).trace(x).lower(lowering_platforms=(platform,)).as_text()
        return len(re.findall(r"stablehlo.reduce\(.*dimensions = \[1, 2\]", text))

    assert sums("tpu") == 2 + 2 * parts
    assert sums("cpu") == 3 + 3  # and the means of some pixels


def test_moments_of_parts_are_those_of_the_whole():
    parts, shifts = (
        [jax.random.normal(jax.random.key(2 * i + j), (2, *size, channels)) for i, channels in enumerate((2, 6))]
        for j, size in enumerate([(4, 4), ()])
    )
    whole = measure(jnp.concatenate(parts, axis=-1), jnp.concatenate(shifts, axis=-1))
    found = joined(*(measure(part, shift) for part, shift in zip(parts, shifts, strict=True)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, whole)
    np.testing.assert_allclose(whole.mean, whole.shifted().mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(whole.variance, whole.shifted().var((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("size", [(8, 6), (2, 4), (2, 2)])
@pytest.mark.parametrize("layer", ["stride 1", "stride 2, SAME", "stride 2, 1", "doubled"])
def test_the_first_pixel_of_a_convolution_follows_from_the_first_pixels(layer, size):
    conv = {
        "stride 1": layers.Conv3x3(4, 5, IDDPM, jnp.float32),
        "stride 2, SAME": layers.Conv3x3(4, 5, IDDPM, jnp.float32, strides=2),
        "stride 2, 1": layers.Conv3x3(4, 5, IDDPM, jnp.float32, strides=2, padding=1),
        "doubled": resampling.ConvOfDoubled(4, 4, IDDPM, jnp.float32),
    }[layer]
    x = jax.random.normal(jax.random.key(0), (2, *size, 4))
    whole, variables = conv.init_with_output(jax.random.key(1), x)
    corner = x[:, :3, :3] if layer == "stride 2, SAME" else x[:, :2, :2]
    np.testing.assert_allclose(conv.apply(variables, corner, method="first"), whole[:, :1, :1], atol=1e-6)


class PlainResnetBlock(nn.Module):
    """DDPM's residual block by flax's own layers, without moments and shifts."""

    channels: int
    scale_shift: bool

    @nn.compact
    def __call__(self, x, temb):
        h = nn.swish(nn.GroupNorm(4, epsilon=1e-6, name="norm1")(x))
        h = nn.Conv(self.channels, (3, 3), name="conv1")(h)
        told = nn.Dense(self.channels * (1 + self.scale_shift), name="temb_proj")(nn.swish(temb))[:, None, None]
        norm2 = nn.GroupNorm(4, epsilon=1e-6, name="norm2")
        if self.scale_shift:
            scale, shift = jnp.split(told, 2, axis=-1)
            h = norm2(h) * (1 + scale) + shift
        else:
            h = norm2(h + told)
        h = nn.Conv(self.channels, (3, 3), name="conv2")(nn.swish(h))
        return h + (x if x.shape[-1] == self.channels else nn.Dense(self.channels, name="nin_shortcut")(x))


class PlainAttentionBlock(nn.Module):
    """DDPM's attention block by flax's own layers: four products with the pixels."""

    @nn.compact
    def __call__(self, x):
        batch, height, width, channels = x.shape
        h = nn.GroupNorm(4, epsilon=1e-6, name="norm")(x).reshape(batch, height * width, channels)
        q, k, v = (nn.Dense(channels, name=name)(h) for name in "qkv")
        weights = nn.softmax(q @ k.swapaxes(1, 2) / np.sqrt(channels))
        return x + nn.Dense(channels, name="proj_out")(weights @ v).reshape(x.shape)


@pytest.mark.parametrize("name", ["told before the norm", "told after it", "other channels", "attention"])
def test_a_block_is_what_plain_layers_make_and_so_are_its_gradients(name):
    channels = 16 if name == "other channels" else 8
    ours, plain, more = {
        "attention": (AttentionBlock(4, jnp.float32), PlainAttentionBlock(), ()),
    }.get(
        name,
        (
            ResnetBlock(channels, 4, 0.0, jnp.float32, name == "told after it"),
            PlainResnetBlock(channels, name == "told after it"),
            (jax.random.normal(jax.random.key(2), (2, 32)),),
        ),
    )
    x, shift = jax.random.normal(jax.random.key(0), (2, 4, 6, 8)), jax.random.normal(jax.random.key(1), (2, 8))
    params = random_like(jax.jit(plain.init)(jax.random.key(3), x, *more))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, jax.eval_shape(ours.init, jax.random.key(3), measure(x, shift), *more)["params"]
    )
    asked = jax.random.normal(jax.random.key(4), (2, 4, 6, channels))

    def of_ours(params, x, shift, more):
        out = ours.apply({"params": params}, measure(x, shift), *more)
        return (asked * out.shifted()).sum(), (out.shifted(), out.mean)

    def of_plain(params, x, shift, more):
        out = plain.apply({"params": params}, x + shift[:, None, None], *more)
        return (asked * out).sum(), (out, out.mean((1, 2)))

    with jax.default_matmul_precision("highest"):
        found, expected = (
            jax.jit(jax.grad(f, argnums=(0, 1, 2, 3), has_aux=True))(params, x, shift, more)
            for f in (of_ours, of_plain)
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), found, expected)
