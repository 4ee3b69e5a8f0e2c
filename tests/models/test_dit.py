"""DiT: its numbers, its sizes, its initial weights, its limits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx.models import PRESETS, DiT, create, make
from ddx.models.dit import DiTBlock, image, patches
from ddx.models.embeddings import position_embedding
from ddx.runtime.parallel import run_once
from tests import golden
from tests.interop.originals import weights
from tests.models import dit_of_diffusers

TINY = DiT(channels=32, depth=2, num_heads=4, patch_size=2, out_channels=6, num_classes=5, null_class=True)


@pytest.fixture(scope="module")
def known():
    """A network with random weights: (params, x, t, label, diffusers' output)."""
    data = golden.load("dit")
    tensors = weights(data["weights"].tolist())
    shapes = jax.eval_shape(lambda: TINY.init(jax.random.key(0), *TINY.inputs((8, 8, 3))))["params"]

    def fill(keys, leaf):
        value = dit_of_diffusers.of_theirs("/".join(key.key for key in keys), tensors)
        assert value.shape == leaf.shape
        return jnp.asarray(value)

    params = jax.tree_util.tree_map_with_path(fill, shapes)
    return params, *(jnp.asarray(data[name]) for name in ("x", "t", "label")), data["out"]


@pytest.fixture(scope="module")
def apply():
    with jax.default_matmul_precision("highest"):
        yield jax.jit(TINY.apply)


def test_the_forward_pass_is_that_of_diffusers(known, apply):
    params, x, t, label, expected = known
    assert float(np.abs(expected).mean()) > 0.1
    np.testing.assert_allclose(apply({"params": params}, x, t, label), expected, rtol=0, atol=5e-6)


@pytest.mark.convert
def test_the_golden_outputs_are_diffusers():
    pytest.importorskip("torch"), pytest.importorskip("diffusers")
    data, (model, lines) = golden.load("dit"), dit_of_diffusers.network()
    assert lines == data["weights"].tolist()
    np.testing.assert_allclose(dit_of_diffusers.outputs(model)["out"], data["out"], atol=1e-5)


def published(name):
    """The paper's count of parameters, in which the fixed embeddings of places are too."""
    model, (height, width, _), count = PRESETS[name]
    return count + height * width // model.patch_size**2 * model.channels


@pytest.mark.parametrize(("name", "millions"), [("s", 33), ("b", 130), ("l", 458), ("xl", 675)])
def test_the_sizes_are_those_of_the_papers_table_1(name, millions):
    assert round(published(f"dit_{name}_4") / 1e6) == millions


def test_the_largest_network_has_the_parameters_of_the_published_weights():
    assert published("dit_xl_2") == 675_129_632


def test_a_new_network_puts_out_zero_and_starts_as_the_papers_code_does():
    model, (x, t, label) = TINY.clone(channels=64), TINY.inputs((8, 8, 3), 2)
    params = run_once(model.init, jax.random.key(0), x, t, label)["params"]
    x = jax.random.normal(jax.random.key(1), x.shape)
    assert not np.any(jax.jit(model.apply)({"params": params}, x, t, label))
    block = params["block_1"]
    limits = {  # uniform, with the variance 2 / (inputs + outputs) of the layer in the original
        (6 / (64 + 3 * 64)) ** 0.5: [block["attn"][name] for name in "qkv"],
        (6 / (64 + 64)) ** 0.5: [block["attn"]["proj_out"]],
        (6 / (64 + 256)) ** 0.5: [block["mlp"]["dense0"], block["mlp"]["dense1"]],
        (6 / (12 + 64)) ** 0.5: [params["patch_in"]],
    }
    for limit, layers in limits.items():
        for layer in layers:
            assert 0.97 * limit < float(jnp.abs(layer["kernel"]).max()) <= limit and not layer["bias"].any()
    for kernel in (params["temb_dense0"]["kernel"], params["temb_dense1"]["kernel"], params["label"]["embedding"]):
        assert float(kernel.std()) == pytest.approx(0.02, rel=0.1)
    for layer in (block["modulation"], params["out_modulation"], params["patch_out"]):
        assert not any(leaf.any() for leaf in layer.values())


@pytest.mark.parametrize(("shape", "size"), [((2, 6, 4, 3), 2), ((1, 4, 8, 1), 4), ((2, 3, 3, 2), 1)])
def test_patches_make_up_the_image_again(shape, size):
    x = np.arange(np.prod(shape)).reshape(shape)
    batch, height, width, channels = shape
    tokens = patches(x, size)
    assert tokens.shape == (batch, height * width // size**2, size * size * channels)
    np.testing.assert_array_equal(tokens[:, 1].ravel(), x[:, :size, size : 2 * size].ravel())
    np.testing.assert_array_equal(image(tokens, height // size, width // size, size), x)


def test_places_are_told_by_row_and_column():
    square, part = position_embedding(5, 5, 16).reshape(5, 5, 16), position_embedding(3, 5, 16).reshape(3, 5, 16)
    np.testing.assert_array_equal(part, square[:3])
    np.testing.assert_array_equal(square, np.roll(square.swapaxes(0, 1), 8, axis=-1))  # columns come first
    assert len(np.unique(square.reshape(25, 16).round(5), axis=0)) == 25
    with pytest.raises(ValueError, match="needs a multiple of 4 dimensions; got 18"):
        position_embedding(2, 2, 18)


def test_a_block_does_not_know_the_order_of_its_tokens_and_images_do_not_see_each_other():
    block, h, told = (
        DiTBlock(2, jnp.float32),
        *(jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 6, 8), (2, 8)])),
    )
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), h, told))
    params = jax.tree.map(lambda p: 0.3 * jax.random.normal(jax.random.key(2), p.shape), params)
    out, order = block.apply(params, h, told), np.array([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(block.apply(params, h[:, order], told), out[:, order], atol=1e-5)
    changed = block.apply(params, h.at[1].add(1.0), told)
    np.testing.assert_array_equal(changed[0], out[0])
    assert float(jnp.abs(changed[1] - out[1]).min()) > 1e-3


def test_remat_changes_neither_parameters_nor_numbers(known):
    params, x, t, label, _ = known
    again = TINY.clone(remat=True)

    def loss(params, model):
        return jnp.square(model.apply({"params": params}, x, t, label)).sum()

    (plain, gradient), (other, other_gradient) = (
        jax.jit(jax.value_and_grad(lambda p, m=m: loss(p, m)))(params) for m in (TINY, again)
    )
    np.testing.assert_allclose(plain, other, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2), gradient, other_gradient)
    assert "remat" in str(jax.make_jaxpr(jax.grad(lambda p: loss(p, again)))(params))


def test_bfloat16_computes_in_bfloat16_with_float32_parameters_norms_and_output(known):
    params, x, t, label, expected = known
    low = TINY.clone(dtype=jnp.bfloat16)
    program = str(jax.make_jaxpr(lambda p: low.apply({"params": p}, x, t, label))(params))
    assert set(re.findall(r":(\w+)\[[\d,]*\] = exp ", program)) == {"f32"}
    assert set(re.findall(r":(\w+)\[[\d,]*\] = rsqrt ", program)) == {"f32"}
    products = re.findall(r":(\w+)\[([\d,]*)\] = dot_general", program)
    products = [dtype for dtype, shape in products if not shape.endswith(",8")]  # softmax's sums on a TPU
    assert products.count("f32") == TINY.depth  # logits are summed in float32
    assert products.count("bf16") == len(products) - TINY.depth > 10
    out = jax.jit(low.apply)({"params": params}, x, t, label)
    assert out.dtype == jnp.float32
    assert 1e-4 < np.abs(out - expected).max() / np.abs(expected).max() < 5e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 3}, "8 x 8 are not made up of patches of 3 x 3; use a patch_size that divides both"),
        ({"num_heads": 5}, "channels=32 is not a multiple of num_heads=5"),
        ({"channels": 34, "num_heads": 2}, "channels=34 is not a multiple of 4"),
    ],
)
def test_impossible_networks_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TINY.clone(**change).init(jax.random.key(0), *TINY.inputs((8, 8, 3)))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((jnp.zeros((8, 8, 3)), jnp.zeros(8)), r"expected images \(B, H, W, C\)"),
        ((jnp.zeros((2, 8, 8, 3)), jnp.zeros(2)), r"a network of 5 classes takes labels \(B,\); got none"),
        ((jnp.zeros((2, 8, 8, 3)), jnp.zeros(2), jnp.zeros(1, int)), r"takes labels \(B,\); got shape \(1,\)"),
    ],
)
def test_inputs_that_it_does_not_take_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        TINY.init(jax.random.key(0), *inputs)


def test_networks_are_made_by_name_from_the_settings_that_they_have():
    settings = {"channels": 32, "depth": 2, "num_heads": 4, "out_channels": 6, "multipliers": (1, 2)}
    assert make("dit", settings) == TINY.clone(num_classes=0, null_class=False)
    assert make("unet", settings).multipliers == (1, 2)
    assert create("dit_xl_2").depth == 28
    with pytest.raises(ValueError, match="network 'vit' is unknown; choose one of: unet, dit"):
        make("vit", settings)
