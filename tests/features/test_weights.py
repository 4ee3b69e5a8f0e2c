"""Where weights come from: the files that ship, and those that users bring, which are checked before they are used."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest

import ddx
from ddx import features
from ddx.features import conversion, extractor
from ddx.runtime.errors import CheckpointError, ConfigError, DataError, DdxError
from ddx.runtime.tensors import metadata
from tests.features import weights
from tests.interop.files import safetensors
from tests.test_cli import run

SHIPPED = ("efficientnet_lite0", "digits")
BROUGHT = ("inception", "dinov2", "clip")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of a test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ddx" / "features"


@pytest.fixture
def small(monkeypatch):
    """The transformers, small ones, of which one also stands for Inception."""
    plugs = weights.small_plugs()
    plugs["inception"] = plugs["dinov2"]
    for module in (extractor, conversion):
        monkeypatch.setattr(module, "plug_of", plugs.__getitem__)
    extractor.apply_of.cache_clear()
    yield
    extractor.apply_of.cache_clear()


def test_the_table_is_what_ships_and_what_users_bring():
    assert {name for name, network in features.NETWORKS.items() if network.is_shipped} == set(SHIPPED)
    assert set(features.NETWORKS) == {*SHIPPED, *BROUGHT}
    labels = [network.label for network in features.NETWORKS.values()]
    assert len(set(labels)) == len(labels) and labels.count("FID") == 1


@pytest.mark.parametrize("name", BROUGHT)
def test_without_weights_the_message_has_the_two_commands_that_bring_them(name, home):
    with pytest.raises(DataError) as error:
        features.load(name)
    message, network = str(error.value), features.NETWORKS[name]
    assert error.value.exit_code == 4 and "\n" not in message
    assert message.startswith(
        f"there are no weights of {name} in {home}/{name}.safetensors. Fetch them with: curl -LO "
    )
    assert f"{network.source} and then: python -m launch.convert --from={name} --source=" in message
    with pytest.raises(DataError, match=r"--source=[^ ]+ --out=mine.safetensors"):
        features.load(name, weights="mine.safetensors")
    with pytest.raises(DataError, match=f"Name the .safetensors file that .* --from={name} writes"):
        features.load(name, weights=home)


@pytest.mark.parametrize("of", ["dinov2", "clip"])
def test_weights_are_converted_and_loaded_from_the_cache(of, small, home, tmp_path):
    tensors = {"dinov2": weights.dinov2_hugging_face, "clip": weights.clip}[of]()
    safetensors(tmp_path / "model.safetensors", tensors)
    done = features.convert(of, tmp_path / "model.safetensors")
    assert done.out / done.files[0] == home / f"{of}.safetensors"
    loaded = features.load(of)
    assert loaded.label == loaded.network.label  # of these no checksum is known
    assert loaded.digest == done.values["sha256"] and loaded.digest in str(done)
    found = jax.jit(loaded.apply)(loaded.params, weights.images())["features"]
    assert found.shape == (2, weights.PROJECTED if of == "clip" else weights.WIDTH)
    # What the network does not need is left out; the same source makes the same file.
    again = features.convert(of, tmp_path / "model.safetensors", tmp_path / "again.safetensors")
    assert again.values == done.values
    assert not any("text" in name or "mask" in name for name in json.dumps(metadata(home / f"{of}.safetensors")))


def test_other_weights_of_a_known_file_are_refused_unless_the_user_says_so(small, tmp_path, home):
    path = tmp_path / "model.safetensors"
    safetensors(path, weights.dinov2_hub())
    with pytest.raises(
        CheckpointError, match=r"is not the published file: its SHA-256 begins with .* not with 6726825d"
    ):
        features.convert("inception", path)
    assert not home.exists()
    done = features.convert("inception", path, unverified=True)
    loaded = features.load("inception", weights=home / "inception.safetensors")
    assert loaded.digest == done.values["sha256"] and loaded.label == "FID (other weights)"
    with pytest.raises(
        CheckpointError, match=r"was not written by ddx .* Run python -m launch.convert --from=inception"
    ):
        features.load("inception", weights=path)
    with pytest.raises(CheckpointError, match=r"has the weights of inception, not of clip. Name another file"):
        features.load("clip", weights=home / "inception.safetensors")


def damaged(how):
    tensors = weights.dinov2_hub()
    if how == "missing":
        del tensors["norm.bias"]
    if how == "shape":
        tensors["norm.bias"] = tensors["norm.bias"][:-1]
    if how == "more":
        tensors["register_tokens"] = tensors["cls_token"]
    if how == "not finite":
        tensors["norm.bias"] = tensors["norm.bias"] * np.float32("nan")
    return tensors


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "has no tensor norm.bias, which its network needs"),
        ("shape", r"vit.norm.bias have the shape \(23,\), the network needs \(24,\)"),
        ("more", "has a tensor register_tokens that no part of its network takes"),
        ("not finite", "tensor norm.bias has a number that is not finite"),
    ],
)
def test_weights_of_another_network_are_one_line_and_leave_nothing(how, message, small, home, tmp_path):
    safetensors(tmp_path / "model.safetensors", damaged(how))
    with pytest.raises(CheckpointError, match=message) as error:
        features.convert("dinov2", tmp_path / "model.safetensors")
    assert "\n" not in str(error.value) and not home.exists()


def test_what_ships_is_loaded_checked_and_complete(monkeypatch, tmp_path):
    for name in SHIPPED:
        loaded = features.load(name)
        assert loaded.digest == loaded.network.sha256 and loaded.protocol == loaded.network.protocols[0]
        assert sum(leaf.size for leaf in jax.tree.leaves(loaded.params)) == loaded.network.num_params
    (tmp_path / "digits.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr("ddx.features.weights._SHIPPED", tmp_path)
    with pytest.raises(DataError, match=r"is not as it was shipped. Install ddx again"):
        features.load("digits")


def test_the_licence_of_what_ships_lies_beside_it():
    folder = pathlib.Path(features.__file__).parent / "shipped"
    told = (folder / "README.md").read_text()
    for name in SHIPPED:
        assert f"`{name}.safetensors`" in told and features.NETWORKS[name].sha256 in told


def test_grey_images_are_colour_images_whose_channels_are_equal():
    loaded = features.load("digits")
    grey = ddx.data.load("digits", split="test").read(np.arange(20))["image"]
    apply = jax.jit(loaded.apply)
    found = [apply(loaded.params, images)["features"] for images in (grey, np.repeat(grey, 3, axis=-1))]
    np.testing.assert_array_equal(*found)


def test_digits_are_told_apart():
    loaded, data = features.load("digits"), ddx.data.load("digits", split="test")
    batch = data.read(np.arange(data.num_examples))
    logits = jax.jit(loaded.apply)(loaded.params, batch["image"])["logits"]
    assert (logits.argmax(-1) == batch["label"]).mean() > 0.96


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 8, 8, 2), np.uint8), r"not \(1, 8, 8, 2\) of uint8"),
        (np.zeros((1, 8, 8, 3), np.float32), r"not \(1, 8, 8, 3\) of float32"),
        (np.zeros((8, 8, 3), np.uint8), r"not \(8, 8, 3\) of uint8"),
    ],
)
def test_other_images_are_refused(images, message):
    loaded = features.load("digits")
    with pytest.raises(ConfigError, match=message):
        loaded.apply(loaded.params, images)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("digits", "x.bin"), 2, "digits ships with its weights"),
        (("clip", "/nowhere.bin"), 3, "there is no file /nowhere.bin"),
        (("clip", "x", "y"), 2, "--out=y must end in .safetensors"),
    ],
)
def test_what_cannot_be_converted_is_one_line(arguments, code, message):
    with pytest.raises(DdxError, match=re.escape(message)) as error:
        features.convert(*arguments)
    assert error.value.exit_code == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("incepton",), "feature network 'incepton' is unknown. Did you mean inception?"),
        (("inception", "clean"), "inception has no protocol 'clean'. Choose one of: tf1, torch"),
    ],
)
def test_unknown_names_are_one_line(arguments, message):
    with pytest.raises(ConfigError, match=message):
        features.load(*arguments)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["convert", "--from=clip", "--source=x", "--weights=raw"], 2, "--weights is of networks that draw images"),
        (
            ["convert", "--from=ddim", "--source=x", "--out=y", "--unverified"],
            2,
            "--unverified belongs to --from=incep",
        ),
        (["features", "--config=features_digits", "--out=x.npz"], 2, "--out=x.npz must end in .safetensors"),
    ],
)
def test_mistakes_are_one_line_with_an_exit_code(args, code, message):
    done = run(*args)
    assert done.returncode == code and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
