"""Improved DDPM's U-Net: its size, its numbers, its initial weights, its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx.models import PRESETS, UNet, create, num_params
from ddx.models.attention import AttentionBlock
from ddx.models.blocks import ResnetBlock
from ddx.models.conventions import IDDPM
from ddx.models.norm import measure
from ddx.models.resampling import enlarge
from ddx.runtime.parallel import run_once
from tests import golden
from tests.models import weights

PLAIN = UNet(
    channels=32,
    multipliers=(1, 2),
    num_blocks=1,
    attention_resolutions=(4,),
    dropout=0.0,
    out_channels=6,
    family="iddpm",
)
TINY = PLAIN.clone(scale_shift=True, num_heads=4)
CASES = {
    "ssn_h4": TINY,
    "plain_h1": PLAIN,
    "ssn_h4_class": TINY.clone(num_classes=5),
    "superres": TINY.clone(low_res=4),
}


def reference(case):
    """(module, params, its inputs, expected output) of a network with random weights."""
    data = {key.removeprefix(f"{case}/"): value for key, value in golden.load("id_unet").items()}
    drawn = weights.drawn(data["weights"], int(data["seed"]))
    params = weights.of_iddpm(drawn | {"out.2.bias": data["param/out.2.bias"]}, CASES[case])
    label = jnp.asarray(data["y"]) if "y" in data else None
    low_res = jnp.asarray(golden.nhwc(data["low_res"])) if "low_res" in data else None
    inputs = (jnp.asarray(golden.nhwc(data["x"])), jnp.asarray(data["t"]), label, low_res)
    return CASES[case], params, inputs, golden.nhwc(data["out"])


@pytest.mark.parametrize("case", CASES)
def test_the_forward_pass_is_that_of_improved_ddpms_code(case):
    module, params, inputs, expected = reference(case)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(module.apply)({"params": params}, *inputs)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_the_references_weights_fill_the_tree_exactly(case):
    module, params, _, _ = reference(case)
    own = jax.eval_shape(lambda: module.init(jax.random.key(0), *module.inputs((8, 8, 3))))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, own)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_blocks": 2, "out_channels": 3}, 92_025_731),  # the defaults of the original's command line
        ({"channels": 64}, 30_303_494),  # the paper's study of sizes
        ({"channels": 96}, 68_126_598),
        ({"channels": 192}, 272_281_350),
    ],
)
def test_other_published_networks_have_their_number_of_parameters(change, expected):
    assert num_params(create("iddpm_imagenet64", **change), (64, 64, 3)) == expected


@pytest.fixture(scope="module")
def new():
    """A network that is told everything, with its initial weights: (module, variables)."""
    module = TINY.clone(num_classes=5, low_res=4)
    return module, run_once(module.init, jax.random.key(0), *module.inputs((8, 8, 3)))


def test_a_new_network_outputs_exactly_zero(new):
    module, variables = new
    x, low_res = (jax.random.normal(jax.random.key(i), (2, size, size, 3)) for i, size in ((1, 8), (2, 4)))
    out = jax.jit(module.apply)(variables, x, jnp.array([3.0, 999.0]), jnp.array([1, 4]), low_res)
    np.testing.assert_array_equal(out, np.zeros((2, 8, 8, 6)))


@pytest.mark.parametrize("name", ["residual", "residual, scale and shift", "attention"])
def test_a_new_block_is_exactly_the_identity(name):
    x, temb = jax.random.normal(jax.random.key(0), (2, 4, 4, 64)), jnp.ones((2, 128))
    module, inputs = {
        "residual": (ResnetBlock(64, 32, 0.0, jnp.float32, False, IDDPM), (measure(x, jnp.zeros(64)), temb)),
        "residual, scale and shift": (
            ResnetBlock(64, 32, 0.0, jnp.float32, True, IDDPM),
            (measure(x, jnp.zeros(64)), temb),
        ),
        "attention": (AttentionBlock(32, jnp.float32, 4, IDDPM), (measure(x, jnp.zeros(64)),)),
    }[name]
    out, _ = module.init_with_output(jax.random.key(1), *inputs)
    np.testing.assert_array_equal(out.shifted(), x)


def test_initial_weights_and_biases_are_pytorchs(new):
    fan_in = {
        ("conv_in",): 9 * (3 + 3),
        ("temb_dense0",): 32,
        ("temb_dense1",): 128,
        ("mid_attn_1", "q"): 64,
        ("mid_attn_1", "k"): 64,
        ("mid_block_1", "conv1"): 9 * 64,
        ("mid_block_1", "temb_proj"): 128,
        ("down_1_block_0", "nin_shortcut"): 32,
        ("down_0_downsample", "conv"): 9 * 32,
        ("up_1_upsample", "conv"): 9 * 64,
    }
    for path, count in fan_in.items():
        layer = new[1]["params"]
        for part in path:
            layer = layer[part]
        bound = 1 / np.sqrt(count)
        for leaf in (layer["kernel"], layer["bias"]):
            assert 0.8 * bound < float(jnp.abs(leaf).max()) <= bound, path
            # Uniform: half of the numbers lie within half of the bound, to within four deviations.
            inner = float((jnp.abs(leaf) < bound / 2).mean())
            assert abs(inner - 0.5) < 2 / np.sqrt(leaf.size), path


def test_heads_attend_apart_each_with_its_channels():
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 8))
    module = AttentionBlock(4, jnp.float32, num_heads=2)
    measured = measure(jnp.asarray(x, jnp.float32), jnp.zeros(8))
    params = weights.random_like(jax.jit(module.init)(jax.random.key(0), measured))["params"]
    with jax.default_matmul_precision("highest"):
        found = module.apply({"params": params}, measured).shifted()

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for image, out in zip(x, found, strict=True):
        grouped = image.reshape(6, 4, 2)
        centred = grouped - grouped.mean((0, 2), keepdims=True)
        normed = (centred / np.sqrt((centred**2).mean((0, 2), keepdims=True) + 1e-6)).reshape(6, 8)
        normed = normed * p["norm"]["scale"] + p["norm"]["bias"]
        q, k, v = (normed @ p[name]["kernel"] + p[name]["bias"] for name in "qkv")
        heads = []
        for own in (slice(0, 4), slice(4, 8)):
            pixels = np.exp(q[:, own] @ k[:, own].T / 2)  # the square root of a head's 4 channels
            heads.append(pixels / pixels.sum(1, keepdims=True) @ v[:, own])
        expected = image.reshape(6, 8) + np.concatenate(heads, 1) @ p["proj_out"]["kernel"] + p["proj_out"]["bias"]
        np.testing.assert_allclose(np.asarray(out).reshape(6, 8), expected, rtol=1e-4, atol=1e-4)


def test_low_resolution_images_are_enlarged_bilinearly_as_pytorch_does():
    data = golden.load("embeddings")
    found = enlarge(jnp.asarray(golden.nhwc(data["sr_in"])), 32, 32)
    np.testing.assert_allclose(found, golden.nhwc(data["sr_bilinear_up_8to32"]), atol=1e-6)


def test_bfloat16_comes_close_with_the_time_as_scale_and_shift():
    module, params, inputs, expected = reference("ssn_h4")
    out = jax.jit(module.clone(dtype=jnp.bfloat16).apply)({"params": params}, *inputs)
    assert out.dtype == jnp.float32
    assert 1e-4 < np.abs(out - expected).max() / np.abs(expected).max() < 5e-2


def test_inputs_are_what_the_network_takes():
    x, t, label, low_res = PLAIN.inputs((8, 16, 3), 2)
    assert (x.shape, t.shape, label, low_res) == ((2, 8, 16, 3), (2,), None, None)
    _, _, label, low_res = PLAIN.clone(num_classes=5, low_res=4).inputs((8, 16, 1), 2)
    assert label.shape == (2,) and jnp.issubdtype(label.dtype, jnp.integer) and low_res.shape == (2, 4, 8, 1)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.soak] * (name.startswith("adm_") and name != "adm_upsampler256"))
        for name in PRESETS
    ],
)
def test_a_preset_takes_its_own_inputs_and_puts_out_images(name):
    model, shape, _ = PRESETS[name]
    out, _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), *model.inputs(shape, 2)))
    assert out.shape == (2, *shape[:2], model.out_channels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "adm"}, "family 'adm' is unknown; choose one of: ddpm, iddpm"),
        ({"num_heads": 3}, "channels=32 times multiplier 2 is not a multiple of num_heads=3"),
        (
            {"num_heads": 64, "attention_resolutions": (8,)},
            "channels=32 times multiplier 1 is not a multiple of num_heads=64",
        ),
    ],
)
def test_impossible_networks_are_refused(change, message):
    module = PLAIN.clone(**change)
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), *module.inputs((8, 8, 3)))


def test_heads_of_one_width_are_more_where_there_are_more_channels():
    wide = PLAIN.clone(head_channels=16, attention_resolutions=(8, 4))
    inputs = (jax.random.normal(jax.random.key(0), (1, 8, 8, 3)), jnp.array([3]))
    shapes = jax.eval_shape(lambda: wide.init(jax.random.key(0), *inputs))["params"]
    attention = {name: value for name, value in shapes.items() if "attn" in name}
    assert {value["q"]["kernel"].shape for value in attention.values()} == {(32, 32), (64, 64)}
    with pytest.raises(ValueError, match="channels=32 times multiplier 2 is not a multiple of head_channels=48"):
        PLAIN.clone(head_channels=48).init(jax.random.key(0), *inputs)


def test_heads_need_not_divide_channels_where_nothing_attends():
    module = PLAIN.clone(num_heads=64)
    assert jax.eval_shape(lambda: module.init(jax.random.key(0), *module.inputs((8, 8, 3))))


@pytest.mark.parametrize(
    ("size", "given", "message"),
    [
        (4, None, r"low_res=4 takes low-resolution images \(2, 4, 6, 3\); got none"),
        (4, (2, 4, 4, 3), r"low_res=4 takes low-resolution images \(2, 4, 6, 3\); got shape \(2, 4, 4, 3\)"),
        (4, (1, 4, 6, 3), r"low_res=4 takes low-resolution images \(2, 4, 6, 3\); got shape \(1, 4, 6, 3\)"),
        (0, (2, 4, 6, 3), r"low_res=0 takes no low-resolution images; got shape \(2, 4, 6, 3\)"),
    ],
)
def test_low_resolution_images_of_another_shape_are_refused(size, given, message):
    low_res = None if given is None else jnp.zeros(given)
    with pytest.raises(ValueError, match=f"a network of {message}"):
        PLAIN.clone(low_res=size).init(jax.random.key(0), jnp.zeros((2, 8, 12, 3)), jnp.zeros(2), None, low_res)
