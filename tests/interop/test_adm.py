"""Networks of guided-diffusion (ADM): outputs by independent equations, sizes, the two attention orders, mistakes.

With `pytest -m convert` the equations are computed by PyTorch, on networks with the levels and heads of the published.
"""

import jax
import numpy as np
import pytest

import ddx
from ddx.config import files as config_files
from ddx.interop import checkpoints, convert
from ddx.interop.checkpoints import ADM_CODE, Hints
from ddx.models import PRESETS, resampling
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path
from ddx.runtime.tensors import Tensor
from ddx.system import make_system
from tests import golden
from tests.interop.equations import Adm, Ddim, Numpy, Torch, adm_layout, drawn
from tests.interop.files import safetensors
from tests.models import weights
from tests.models.test_iddpm import CASES

SMALL = {"channels": 32, "multipliers": (1, 2), "num_blocks": 1, "attending": (1,)}
# The published networks, by the arguments of their layout; images are multipliers that deep.
PUBLISHED = {
    "adm_imagenet64": {"channels": 192, "multipliers": (1, 2, 3, 4), "num_blocks": 3, "attending": (1, 2, 3)},
    "adm_imagenet128": {"channels": 256, "multipliers": (1, 1, 2, 3, 4), "num_blocks": 2, "attending": (2, 3, 4)},
    "adm_imagenet256": {"channels": 256, "multipliers": (1, 1, 2, 2, 4, 4), "num_blocks": 2, "attending": (3, 4, 5)},
    "adm_uncond256": {"channels": 256, "multipliers": (1, 1, 2, 2, 4, 4), "num_blocks": 2, "attending": (3, 4, 5)},
    "adm_upsampler256": {"channels": 192, "multipliers": (1, 1, 2, 2, 4, 4), "num_blocks": 2, "attending": (3, 4, 5)},
}


def layout(name, **changes):
    """The tensors of a published network."""
    further = {"num_classes": 0 if "uncond" in name else 1000, "inputs": 6 if "upsampler" in name else 3}
    return adm_layout(**PUBLISHED[name] | further | changes)


def config_for(size, **changes):
    """A config that says what the shapes of an unpublished network do not."""
    config = config_files.load("adm_imagenet:64")
    config.data.image_size = size
    config.model.update(changes)
    return config


def written(path, tensors):
    """A file with these tensors."""
    safetensors(path, tensors)
    return path


def inputs(size, num_classes=0, batch=2, seed=1):
    """Images (B, C, H, W), times, and classes or None."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, 3, size, size)).astype(np.float32)
    return x, np.array([3, 977])[:batch], rng.integers(0, num_classes, batch) if num_classes else None


def outputs(run, x, t, y=None, low_res=None):
    """What the network of a run puts out, NCHW."""
    told = {"label": y} if y is not None else {}
    if low_res is not None:
        told["low_res"] = np.moveaxis(low_res, 1, -1)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(run.model.apply)({"params": run.params}, np.moveaxis(x, 1, -1), t, **told)
    return np.moveaxis(np.asarray(out), -1, 1)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.soak] * (case in ("ssn_h4", "plain_h1"))) for case in CASES]
)
def test_the_equations_are_those_of_improved_ddpms_code(case):
    data = {key.removeprefix(f"{case}/"): value for key, value in golden.load("id_unet").items()}
    tensors = weights.drawn(data["weights"], int(data["seed"])) | {"out.2.bias": data["param/out.2.bias"]}
    y, low_res = data.get("y"), data.get("low_res")
    if low_res is not None:
        enlarged = resampling.enlarge(golden.nhwc(low_res), *data["x"].shape[2:])
        low_res = np.moveaxis(np.asarray(enlarged), -1, 1)
    out = Adm(Numpy(), tensors, CASES[case].num_blocks, CASES[case].num_heads)(data["x"], data["t"], y, low_res)
    np.testing.assert_allclose(out, data["out"], rtol=0, atol=5e-6 * np.abs(data["out"]).max())


def test_the_equations_are_those_of_ddims_code():
    data = golden.load("ddim_unet")
    tensors = {key.removeprefix("param/"): value for key, value in data.items() if key.startswith("param/")}
    out = Ddim(Numpy(), tensors)(data["x"], data["t"])
    np.testing.assert_allclose(out, data["out"], rtol=0, atol=5e-6 * np.abs(data["out"]).max())


def test_outputs_are_those_of_the_equations_in_either_attention_order(tmp_path):
    tensors = drawn(adm_layout(**SMALL, num_classes=5))
    source = written(tmp_path / "model.safetensors", tensors)
    x, t, y = inputs(8, 5)
    config, found = config_for(8, head_channels=16), {}
    for order in ("old", "new"):
        convert("guided-diffusion", source, tmp_path / order, config=config, attention_order=order)
        run = ddx.load(tmp_path / order)
        expected = Adm(Numpy(), tensors, 1, head_channels=16, new_order=order == "new")(x, t, y)
        found[order] = outputs(run, x, t, y)
        np.testing.assert_allclose(found[order], expected, rtol=0, atol=2e-5)
    assert run.model.resample_blocks and run.model.num_classes == 5 and run.config.loss.variance == "range"
    assert np.abs(found["old"] - found["new"]).max() > 0.1  # a wrong order is far off, not a little


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] * (name != "adm_uncond256")) for name in PUBLISHED]
)
def test_a_published_network_is_known_by_its_shapes(monkeypatch, name):
    model, image_shape, num_params = PRESETS[name]
    shapes = layout(name)
    assert sum(np.prod(shape) for shape in shapes.values()) == num_params
    content = {key: Tensor(shape, None) for key, shape in shapes.items()}
    monkeypatch.setattr(checkpoints, "read", lambda path: content)
    monkeypatch.setattr(checkpoints, "_file", lambda source, weights: source)
    found = checkpoints.find(Path("model.pt"), Hints(), ADM_CODE)
    system = make_system(found.config, found.image_shape, max(1, found.num_classes))
    assert (found.image_shape, system.model) == (image_shape, model)
    assert found.names.by_head == (name != "adm_imagenet64")
    assert (found.config.data.name == "unknown") == (name == "adm_uncond256")
    places = {path: found.names.place(path, model) for path in paths(system)}
    assert {next(n for n in place.names if n in content) for place in places.values()} == set(content)


def paths(system):
    """The paths of a network's parameters."""
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    return [tuple(key.key for key in keys) for keys, _ in jax.tree_util.tree_leaves_with_path(shapes)]


def damaged(tensors, how):
    """The tensors of a file that is damaged in some way."""
    if how == "more":
        return tensors | {"input_blocks.99.0.op.weight": np.zeros(3, np.float32)}
    if how == "no width":
        return {name: value for name, value in tensors.items() if not name.startswith("input_blocks.1.0.in_layers.2")}
    name = {"convolution": "input_blocks.2.0.in_layers.2.weight"}.get(how, "output_blocks.1.2.emb_layers.1.weight")
    if how == "missing":
        return {key: value for key, value in tensors.items() if key != name}
    return tensors | {name: np.full_like(tensors[name], np.nan) if how == "not finite" else tensors[name][:16]}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "has no tensor output_blocks.1.1.emb_layers.1.weight, which its network needs"),
        ("shape", r"tensor output_blocks.1.2.emb_layers.1.weight has the shape \(16, 128\), and .* needs \(128, 128\)"),
        (
            "convolution",
            r"input_blocks.2.0.in_layers.2.weight has the shape \(16, 32, 3, 3\), .* needs \(32, 32, 3, 3\)",
        ),
        ("not finite", "tensor output_blocks.1.2.emb_layers.1.weight has a number that is not finite"),
        ("more", "has a tensor input_blocks.99.0.op.weight that no part of its network takes"),
        ("no width", "has no tensor input_blocks.1.0.in_layers.2.bias. It is damaged: fetch it again"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_the_tensor_and_leaves_nothing(tmp_path, how, message):
    source = written(tmp_path / "model.safetensors", damaged(drawn(adm_layout(**SMALL)), how))
    with pytest.raises(CheckpointError, match=message) as caught:
        convert("guided-diffusion", source, tmp_path / "run", config=config_for(8, head_channels=16))
    assert "\n" not in str(caught.value) and [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_mistakes_are_named(tmp_path):
    source = written(tmp_path / "model.safetensors", drawn(adm_layout(**SMALL)))
    for kind, given, message in (
        ("guided-diffusion", {}, "is none of the published networks, .* such as --config=adm_imagenet:64"),
        ("guided-diffusion", {"attention_order": "newest"}, "attention_order='newest' must be one of: old, new"),
        ("ddim", {"attention_order": "new"}, "--attention_order belongs to --from=guided-diffusion, not ddim"),
        ("guided-diffusion", {"head": "npr"}, "--head belongs to --from=analytic-dpm, not guided-diffusion"),
        ("guided-diffusion", {"config": config_for(8, head_channels=48)}, "model.head_channels=48 must divide the 64"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            convert(kind, source, tmp_path / "run", **given)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"has no tensor conv_in.weight of a convolution\. It is of another"):
        convert("ddim", source, tmp_path / "run")


@pytest.mark.convert
@pytest.mark.parametrize(
    ("name", "channels", "heads"),
    [
        ("adm_imagenet64", 64, {"head_channels": 64}),
        ("adm_imagenet128", 32, {"head_channels": 0, "num_heads": 4}),
        ("adm_imagenet256", 32, {"head_channels": 32}),
        ("adm_uncond256", 32, {"head_channels": 32}),
        ("adm_upsampler256", 32, {"head_channels": 0, "num_heads": 4}),
    ],
)
def test_outputs_are_pytorchs(tmp_path, name, channels, heads):
    """Of networks with the levels, blocks and attention of the published ones, and fewer channels."""
    import torch

    shapes, size = layout(name, channels=channels), PRESETS[name].image_shape[0]
    num_classes = shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else 0
    tensors, new = drawn(shapes), name == "adm_imagenet64"
    torch.save({key: torch.tensor(value) for key, value in tensors.items()}, tmp_path / "model.pt")
    x, t, y = inputs(size, num_classes, batch=2 if size == 64 else 1)
    low_res = x[:, :, ::4, ::4] if "upsampler" in name else None
    config = config_for(size, **heads, **({"low_res": 64} if low_res is not None else {}))
    order = {"attention_order": "new"} if new else {}
    convert("guided-diffusion", tmp_path / "model.pt", tmp_path / "run", config=config, **order)
    enlarged = None
    if low_res is not None:
        enlarged = torch.nn.functional.interpolate(torch.tensor(low_res), (size, size), mode="bilinear").numpy()
    with torch.no_grad():
        network = Adm(Torch(), tensors, PUBLISHED[name]["num_blocks"], new_order=new, **({"num_heads": 1} | heads))
        expected = network(x, t, y, enlarged)
    found = outputs(ddx.load(tmp_path / "run"), x, t, y, low_res)
    print(f"{name}: max difference {np.abs(found - expected).max():.1e}, outputs to {np.abs(expected).max():.2f}")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
