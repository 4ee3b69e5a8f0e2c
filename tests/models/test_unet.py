"""The U-Net, above all DDPM's: its size, its numbers, its limits."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.models import PRESETS, UNet, create, norm, num_params, of_head, unet
from ddx.models.embeddings import time_embedding
from ddx.runtime.parallel import run_once
from tests import golden
from tests.models import weights

TINY = UNet(channels=32, multipliers=(1, 2), num_blocks=1, attention_resolutions=(4,), dropout=0.0)
SMALLEST = UNet(channels=8, multipliers=(1,), num_blocks=1, attention_resolutions=(), groups=4, dropout=0.0)


@pytest.fixture(scope="module")
def tiny():
    """The reference's tiny network with its random weights: (module, params, x, t, expected output)."""
    data = golden.load("tf_unet")
    return TINY, weights.of_tf(data), jnp.asarray(data["x_nhwc"]), jnp.asarray(data["t"]), data["out_nhwc"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name):
    assert num_params(create(name), PRESETS[name].image_shape) == PRESETS[name].num_params


def test_the_forward_pass_is_that_of_the_tensorflow_original(tiny):
    module, params, x, t, expected = tiny
    with jax.default_matmul_precision("highest"):
        out = jax.jit(module.apply)({"params": params}, x, t)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


def test_the_forward_pass_is_that_of_the_pytorch_port():
    data = golden.load("ddim_unet")
    with jax.default_matmul_precision("highest"):
        out = jax.jit(TINY.apply)(
            {"params": weights.of_ddim(data, TINY)}, golden.nhwc(data["x"]), jnp.asarray(data["t"])
        )
    expected = golden.nhwc(data["out"])
    np.testing.assert_allclose(out, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


def test_the_references_weights_fill_the_tree_exactly(tiny):
    module, params, x, t, _ = tiny
    own = jax.eval_shape(lambda: module.init(jax.random.key(0), x, t))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, own)


@pytest.mark.parametrize(
    "key", [f"{kind}/{d}" for kind in ("emb", "ddim_emb_int", "id_emb_int", "id_emb_float") for d in (32, 33, 64, 128)]
)
def test_the_time_embedding_is_the_originals(key):
    data = golden.load("embeddings")
    kind, dim = key.split("/")
    t = data[{"emb": "emb_t", "id_emb_float": "t_float"}.get(kind, "t_int")]
    # sin(1000 x) in float32: the angle is rounded at 6e-5 before the sine.
    embedding = time_embedding(jnp.asarray(t), int(dim), cosine_first=kind.startswith("id_"))
    np.testing.assert_allclose(embedding, data[key], atol=3e-4)


@pytest.mark.parametrize(("cosine_first", "intervals"), [(False, 15), (True, 16)])
def test_the_time_embedding_takes_times_between_indices(cosine_first, intervals):
    t = np.array([0, 0.25, 12.75, 999.75])
    angles = t[:, None] * np.exp(-np.log(1e4) * np.arange(16) / intervals)
    parts = [np.cos(angles), np.sin(angles)] if cosine_first else [np.sin(angles), np.cos(angles)]
    np.testing.assert_allclose(
        time_embedding(jnp.asarray(t), 32, cosine_first), np.concatenate(parts, axis=1), atol=3e-4
    )


@pytest.mark.parametrize("family", ["ddpm", pytest.param("iddpm", marks=pytest.mark.soak)])
def test_remat_changes_neither_parameters_nor_numbers(family):
    module = SMALLEST.clone(attention_resolutions=(8,), family=family)
    if family == "iddpm":
        module = module.clone(scale_shift=True, num_heads=4)
    x, t = jax.random.normal(jax.random.key(1), (2, 8, 8, 3)), jnp.asarray([3, 999])
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), x, t))["params"]
    params = jax.tree.map(lambda p: 0.1 * jax.random.normal(jax.random.key(2), p.shape), params)
    again = module.clone(remat=True)
    shapes = [jax.eval_shape(lambda m=m: m.init(jax.random.key(0), x, t)) for m in (module, again)]
    assert shapes[0] == shapes[1]

    def loss(m, params):
        return jnp.square(
            m.apply({"params": params}, x, t, dropout_keys=jax.random.split(jax.random.key(0), len(x)))
        ).sum()

    (plain, gradient), (other, other_gradient) = (
        jax.jit(jax.value_and_grad(lambda p, m=m: loss(m, p)))(params) for m in (module, again)
    )
    np.testing.assert_allclose(plain, other, rtol=1e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest), gradient, other_gradient
    )
    text = str(jax.make_jaxpr(jax.grad(lambda p: loss(again, p)))(params))
    assert "remat" in text or "checkpoint" in text


def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_output(tiny):
    module, params, x, t, expected = tiny
    low = module.clone(dtype=jnp.bfloat16)
    initial = jax.eval_shape(lambda: low.init(jax.random.key(0), x, t))
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype("float32")}
    program = str(jax.make_jaxpr(lambda p: low.apply({"params": p}, x, t))(params))
    convolutions = re.findall(r":(\w+)\[[\d,]*\] = conv_general_dilated", program)
    assert len(convolutions) > 10 and set(convolutions) == {"bf16"}
    softmax = re.findall(r":(\w+)\[[\d,]*\] = exp ", program)
    assert softmax and set(softmax) == {"f32"}
    out = jax.jit(low.apply)({"params": params}, x, t)
    assert out.dtype == jnp.float32
    error = np.abs(out - expected).max() / np.abs(expected).max()
    assert 1e-4 < error < 5e-2, error


def test_a_new_network_outputs_almost_nothing_and_a_block_starts_as_the_identity():
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = run_once(TINY.init, jax.random.key(0), x, jnp.zeros(2))
    out = jax.jit(TINY.apply)(variables, x, jnp.asarray([3, 999]))
    assert 0 < float(jnp.abs(out).max()) < 1e-3
    kernel = variables["params"]["conv_in"]["kernel"]
    limit = np.sqrt(3.0 / ((27 + 288) / 2))  # uniform with variance 1 / fan_avg
    assert 0.9 * limit < float(jnp.abs(kernel).max()) <= limit
    biases = [leaf for path, leaf in jax.tree.leaves_with_path(variables) if path[-1].key == "bias"]
    assert len(biases) > 50 and not any(leaf.any() for leaf in biases)


def test_dropout_acts_where_there_are_keys_on_each_image_by_its_own(tiny):
    module, params, x, t, _ = tiny
    dropped = module.clone(dropout=0.5)
    plain = jax.jit(module.apply)({"params": params}, x, t)
    np.testing.assert_array_equal(jax.jit(dropped.apply)({"params": params}, x, t), plain)
    apply = jax.jit(lambda keys, x, t: dropped.apply({"params": params}, x, t, dropout_keys=keys))
    keys = jax.random.split(jax.random.key(0), len(x))
    same = jnp.broadcast_to(x[:1], x.shape)
    one, two = apply(keys, x, t), apply(keys[::-1], x[::-1], t[::-1])
    np.testing.assert_allclose(one, two[::-1], atol=1e-5)
    assert float(jnp.abs(apply(keys, same, t) - apply(keys[::-1], same, t)).max()) > 1e-3
    with pytest.raises(ValueError, match=r"a key for each image, \(B,\)"):
        dropped.apply({"params": params}, x, t, dropout_keys=keys[0])


def test_images_need_not_be_square():
    x = jnp.zeros((1, 8, 12, 3))
    out = jax.eval_shape(lambda: TINY.init_with_output(jax.random.key(0), x, jnp.zeros(1))[0])
    assert out.shape == x.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multipliers": (1, 1, 1, 1, 1)}, "8 x 8 cannot be halved 4 times; use multiples of 16"),
        ({"channels": 16, "multipliers": (2, 2)}, "channels=16 times multiplier 1 is not a multiple of groups=32"),
        ({"head": "large"}, "head 'large' is unknown; choose one of: simple, complex"),
        ({"channels": 48}, "channels=48 times multiplier 1 is not a multiple of groups=32"),
        (
            {"attention_resolutions": (16,)},
            r"attention resolution 16 is never reached by images of 8 x 8; choose from \[8, 4\]",
        ),
    ],
)
def test_impossible_networks_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TINY.clone(**change).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))


@pytest.mark.parametrize(("x", "t"), [((8, 8, 3), (8,)), ((2, 8, 8, 3), ()), ((2, 8, 8, 3), (1,))])
def test_inputs_of_another_shape_are_refused(x, t):
    with pytest.raises(ValueError, match=r"expected images \(B, H, W, C\) and times \(B,\)"):
        TINY.init(jax.random.key(0), jnp.zeros(x), jnp.zeros(t))


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="choose one of: digits, ddpm_cifar10"):
        ddx.models.create("ddpm_cifar")


@pytest.mark.parametrize("family", ["ddpm", "iddpm"])
@pytest.mark.parametrize("resample_blocks", [False, True])
def test_first_pixels_are_known_before_the_images_are(family, resample_blocks, monkeypatch):
    pairs = []
    monkeypatch.setattr(norm, "_LARGE", 1)
    monkeypatch.setattr(norm, "_near", lambda x, on_tpu: pairs.append((x[:, :1, :1], on_tpu)) or on_tpu)
    model = SMALLEST.clone(
        multipliers=(1, 2), family=family, resample_blocks=resample_blocks, attention_resolutions=(4,)
    )
    model = model.clone(scale_shift=resample_blocks, head="complex")
    x, t = 3 + jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), jnp.asarray([3, 999])
    params = jax.eval_shape(lambda: model.init(jax.random.key(1), x, t))
    params = jax.tree.map(lambda p: 0.3 * jax.random.normal(jax.random.key(2), p.shape), params)
    pairs.clear()

    def run(params):
        return model.apply(params, x, t), list(pairs)

    with jax.default_matmul_precision("highest"):
        out, found = jax.jit(run)(params)
        monkeypatch.setattr(norm, "_near", lambda x, on_tpu: x[:, :1, :1])
        expected = jax.jit(model.apply)(params, x, t)
    assert len(found) > 20
    for first, on_tpu in found:
        np.testing.assert_allclose(on_tpu, first, atol=2e-5 * float(jnp.abs(first).max()))
    np.testing.assert_allclose(out, expected, atol=1e-4 * float(jnp.abs(expected).max()))


def test_a_network_is_exported_for_any_batch_to_every_platform():
    model = SMALLEST.clone(multipliers=(1, 1))
    batch = jax.export.symbolic_shape("b")
    x, t = jax.ShapeDtypeStruct((*batch, 64, 64, 3), jnp.float32), jax.ShapeDtypeStruct(batch, jnp.int32)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), *model.inputs((64, 64, 3))))
    found = jax.export.export(jax.jit(model.apply), platforms=("cpu", "cuda", "tpu"))(params, x, t)
    assert found.out_avals[0].shape[1:] == (64, 64, 3)


PLAIN, TOLD = (0, 0, ""), (5, 4, "complex")


@pytest.mark.parametrize(
    ("batch", "classes", "low_res", "head"),
    [
        *((3, *TOLD), (8, *PLAIN), (19, *TOLD)),
        *(pytest.param(*case, marks=pytest.mark.soak) for case in ((3, *PLAIN), (8, *TOLD), (19, *PLAIN))),
    ],
)
def test_a_large_batch_is_computed_in_parts_with_the_same_result(batch, classes, low_res, head, monkeypatch):
    monkeypatch.setattr(unet, "_PIXELS_A_PART", 4 * 8 * 8)
    model = SMALLEST.clone(out_channels=1, num_classes=classes, low_res=low_res, head=head)
    x, _, label, small = model.inputs((8, 8, 1), batch)
    x, t = jax.random.normal(jax.random.key(0), x.shape), jnp.arange(batch)
    label = t % 5 if classes else label
    small = jax.random.normal(jax.random.key(3), small.shape) if low_res else small
    inputs = (x, t, label, small)
    params = jax.eval_shape(lambda: model.init(jax.random.key(1), *inputs))
    params = jax.tree.map(lambda p: 0.3 * jax.random.normal(jax.random.key(2), p.shape), params)
    apply = jax.jit(model.apply)
    one = [jax.tree.map(lambda a, i=i: a[i : i + 1], inputs) for i in range(batch)]
    apart = jnp.concatenate([apply(params, *each) for each in one])
    np.testing.assert_allclose(apply(params, *inputs), apart, rtol=1e-5, atol=1e-5)
    assert ("while" in jax.jit(model.apply).lower(params, *inputs).as_text()) == (batch > 4)


@pytest.mark.parametrize(("family", "head"), [("ddpm", "complex"), ("iddpm", "simple"), ("ddpm", "dense")])
def test_a_head_is_layers_of_its_own_that_leave_the_prediction_as_it_is(family, head):
    model = SMALLEST.clone(family=family, head=head)
    inputs = model.inputs((8, 8, 3), 2)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))["params"]
    names = {name for name, is_head in of_head(shapes).items() if is_head}
    layers = {"head_dense0", "head_dense1"} if head == "dense" else {"head_conv"}
    assert names == {"head_norm", *layers, *["head_block"] * (head != "simple")}
    last = shapes["head_dense1" if head == "dense" else "head_conv"]["kernel"].shape
    assert (
        last == ((32, 8 * 8 * 3) if head == "dense" else (3, 3, 8, 3)) and shapes["conv_out"]["kernel"].shape[-1] == 3
    )
    started = run_once(model.init, jax.random.key(0), *inputs)
    x, t = jax.random.normal(jax.random.key(1), (2, 8, 8, 3)), jnp.asarray([3, 3])
    # It starts at zero, but for DDPM's 1e-10.
    apply, alone_apply = jax.jit(model.apply), jax.jit(model.clone(head="").apply)
    np.testing.assert_allclose(apply(started, x, t)[..., 3:], 0.0, atol=1e-3)
    params = jax.tree.map(lambda p: 0.3 * jax.random.normal(jax.random.key(2), p.shape), shapes)
    without = {name: module for name, module in params.items() if name not in names}
    both, alone = apply({"params": params}, x, t), alone_apply({"params": without}, x, t)
    np.testing.assert_allclose(both[..., :3], alone, rtol=1e-5, atol=1e-5)
    assert both.shape == (2, 8, 8, 6) and float(both[..., 3:].std()) > 1e-2


def test_a_complex_head_is_told_the_time_once_more():
    model = SMALLEST.clone(head="complex")
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), *model.inputs((8, 8, 3))))["params"]
    params = jax.tree.map(lambda p: 0.3 * jax.random.normal(jax.random.key(2), p.shape), params)
    x, t = jax.random.normal(jax.random.key(1), (1, 8, 8, 3)), jnp.asarray([3])
    for name in params:
        if "block" in name and not name.startswith("head"):
            params[name]["temb_proj"] = jax.tree.map(jnp.zeros_like, params[name]["temb_proj"])
    apply = jax.jit(model.apply)
    now, later = apply({"params": params}, x, t), apply({"params": params}, x, t + 500)
    np.testing.assert_allclose(now[..., :3], later[..., :3], atol=1e-6)
    assert float(jnp.abs(now - later)[..., 3:].max()) > 1e-4


def test_a_network_with_classes_is_told_them():
    model = SMALLEST.clone(out_channels=1, num_classes=3)
    x, t, label = jnp.ones((4, 4, 4, 1)), jnp.zeros(4), jnp.array([0, 1, 2, 1])
    params = run_once(model.init, jax.random.key(0), x, t, label)
    assert params["params"]["label"]["embedding"].shape == (3, 32)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), params)
    out = jax.jit(model.apply)(params, x, t, label)
    np.testing.assert_allclose(out[1], out[3], rtol=1e-6)
    assert float(jnp.abs(out[0] - out[1]).max()) > 1e-3 and float(jnp.abs(out[2] - out[1]).max()) > 1e-3
    for wrong in (None, jnp.zeros((2,), jnp.int32)):
        with pytest.raises(ValueError, match=r"takes labels \(B,\)"):
            model.apply(params, x, t, wrong)
    with pytest.raises(ValueError, match="takes no labels"):
        UNet(channels=32).init(jax.random.key(0), jnp.ones((1, 32, 32, 3)), t[:1], label[:1])
