"""Networks of DDIM's and Improved DDPM's code: what their shapes tell, and what a config has to.

That their arrays are put in the right places the golden outputs in tests/models tell, which use the same tables.
"""

import jax
import numpy as np
import pytest

import ddx
from ddx.config import files as config_files
from ddx.interop import checkpoints, convert
from ddx.interop.checkpoints import DDIM_CODE, IDDPM_CODE, Hints
from ddx.models import PRESETS, UNet
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path
from ddx.runtime.tensors import Tensor
from ddx.system import make_system
from tests import golden
from tests.interop.files import safetensors
from tests.models import weights
from tests.models.test_iddpm import CASES, reference

HERE = Path("weights.safetensors")


def tensors_of(model, image_shape, names):
    """Tensors of a network's shapes under a code's names, which cannot be read."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *model.inputs(image_shape)))["params"]
    found = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        path = tuple(key.key for key in keys)
        place, shape = names.place(path, model), leaf.shape
        if len(shape) > 1 and path[-1] != "embedding":
            shape = (shape[-1], shape[-2], *shape[:-2])
        if place.part is not None:
            shape = (3 * shape[0], *shape[1:])
        found[place.names[0]] = Tensor(shape, None)
    return found


def find(monkeypatch, content, code, config=None, weights="ema"):
    """What is found in a file with this content."""
    monkeypatch.setattr(checkpoints, "read", lambda path: content)
    monkeypatch.setattr(checkpoints, "_file", lambda source, weights: source)
    return checkpoints.find(HERE, Hints(weights, config), code)


LARGE = ("ddim_celeba64", "iddpm_imagenet64", "iddpm_imagenet64_class", "iddpm_lsun")  # like the others


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param(name, code, id=name, marks=[pytest.mark.soak] * (name in LARGE))
        for code in (DDIM_CODE, IDDPM_CODE)
        for name in code.published
    ],
)
def test_a_published_network_is_known_by_its_shapes(monkeypatch, name, code):
    model, image_shape, _ = PRESETS[name]
    found = find(monkeypatch, tensors_of(model, image_shape, code.names), code)
    assert found.image_shape == image_shape and found.num_classes == model.num_classes
    system = make_system(found.config, image_shape, max(1, model.num_classes))
    assert system.model.clone(dropout=0.0) == model.clone(dropout=0.0)
    assert (system.config.data.name == "unknown") == (name == "ddpm_lsun")
    assert (system.config.process.num_steps, system.config.process.schedule) == {
        "iddpm_cifar10": (4000, "cosine"),
        "iddpm_imagenet64": (4000, "cosine"),
        "iddpm_imagenet64_class": (4000, "cosine"),
        "iddpm_upsampler256": (4000, "linear"),
    }.get(name, (1000, "linear"))
    assert system.config.process.rescale_time == (name in ("iddpm_cifar10", "iddpm_imagenet64"))


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.soak] * (case in ("ssn_h4", "plain_h1"))) for case in CASES]
)
def test_another_network_is_made_with_a_config_that_says_what_shapes_do_not(tmp_path, case):
    model, params, _inputs, _expected = reference(case)
    data = {key.removeprefix(f"{case}/"): value for key, value in golden.load("id_unet").items()}
    tensors = weights.drawn(data["weights"], int(data["seed"])) | {"out.2.bias": data["param/out.2.bias"]}
    safetensors(tmp_path / "weights.safetensors", tensors)
    config = config_files.load("iddpm_cifar10")
    config.data.image_size, config.model.num_heads, config.model.low_res = 8, model.num_heads, model.low_res
    convert("improved-diffusion", tmp_path / "weights.safetensors", tmp_path / "run", config=config)
    run = ddx.load(tmp_path / "run")
    assert run.model.clone(dropout=0.0) == model and run.system.image_shape == (8, 8, 3)
    jax.tree.map(np.testing.assert_array_equal, run.params, params)


def test_ddims_file_has_the_averaged_weights_last(monkeypatch):
    model, image_shape, _ = PRESETS["ddpm_cifar10"]
    average = tensors_of(model, image_shape, DDIM_CODE.names)
    raw = {f"module.{name}": tensor._replace(read=len) for name, tensor in average.items()}
    content = [raw, {"state": {}}, 3, 790_000, average]
    assert find(monkeypatch, content, DDIM_CODE).tensors == average
    found = find(monkeypatch, content, DDIM_CODE, weights="raw").tensors
    assert found.keys() == average.keys() and found["conv_in.weight"].read is len
    with pytest.raises(CheckpointError, match=r"holds no averaged weights. Pass --weights=raw"):
        find(monkeypatch, content[:4], DDIM_CODE)


def test_a_folder_of_copies_has_the_averaged_weights_in_one_named_so(tmp_path):
    for name in ("diffusion_cifar10_model", "ema_diffusion_cifar10_model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model-790000.ckpt").write_text("")
    raw, average = (tmp_path / f"{prefix}diffusion_cifar10_model" / "model-790000.ckpt" for prefix in ("", "ema_"))
    assert checkpoints._file(tmp_path, "ema") == average and checkpoints._file(tmp_path, "raw") == raw
    assert checkpoints._file(raw, "raw") == raw and checkpoints._file(raw.parent, "raw") == raw
    with pytest.raises(CheckpointError, match=r"FID 12.14, averaged 3.21\). Name the file in ema_diffusion_cifar10_mo"):
        checkpoints._file(raw, "ema")
    with pytest.raises(CheckpointError, match="no file that ends in"):
        checkpoints._file(tmp_path / "nowhere", "ema")


SMALL = UNet(channels=32, multipliers=(1, 2), num_blocks=1, attention_resolutions=(4,), dropout=0.0)


def test_what_is_missing_is_asked_for_by_name(monkeypatch):
    content = tensors_of(SMALL.clone(family="iddpm"), (8, 8, 3), IDDPM_CODE.names)
    with pytest.raises(
        ConfigError, match=r"\(data.image_size\), the heads \(model.num_heads\) and the noise \(process"
    ):
        find(monkeypatch, content, IDDPM_CODE)
    config = config_files.load("iddpm_cifar10")
    assert find(monkeypatch, content, IDDPM_CODE, config).image_shape == (32, 32, 3)  # both attend at level 1
    config.model.attention_resolutions = ()
    with pytest.raises(ConfigError, match=r"Pass --config.data.image_size, such as 64"):
        find(monkeypatch, content, IDDPM_CODE, config)
    content = tensors_of(SMALL.clone(family="iddpm", low_res=4), (8, 8, 3), IDDPM_CODE.names)
    with pytest.raises(ConfigError, match=r"Pass --config.model.low_res"):
        find(monkeypatch, content, IDDPM_CODE, config_files.load("iddpm_cifar10"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no state dict"),
        (7, "holds no state dict"),
        ({"conv_in.weight": 7}, "'conv_in.weight' is no floating-point tensor"),
        ({"other": Tensor((3,), None)}, "has no tensor conv_in.weight of a convolution. It is of another code"),
    ],
)
def test_other_content_is_one_line(monkeypatch, content, message):
    with pytest.raises(CheckpointError, match=message):
        find(monkeypatch, content, DDIM_CODE)


def test_odd_channels_are_refused(monkeypatch):
    content = tensors_of(SMALL, (8, 8, 3), DDIM_CODE.names)
    with pytest.raises(ConfigError, match="ddx has no network of 4 input and 3 output channels"):
        find(monkeypatch, content | {"conv_in.weight": Tensor((32, 4, 3, 3), None)}, DDIM_CODE)
    with pytest.raises(CheckpointError, match="has no residual blocks on the way down"):
        find(monkeypatch, {name: content[name] for name in ("conv_in.weight", "conv_out.weight")}, DDIM_CODE)
