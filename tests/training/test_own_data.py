"""Runs on data of a user's own: arrays of any shape and number of channels."""

import json

import numpy as np
import pytest

import ddx
import ddx.data
from ddx.evaluation import evaluate
from ddx.runs.checkpoint import Checkpoints
from ddx.runtime.errors import ConfigError, DataError
from ddx.sampling import interpolate, reconstruct, sample
from ddx.training import train

RNG = np.random.default_rng(0)
LABELS = np.arange(20) % 2


def noise(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def short(tiny_config):
    """A config of two steps."""
    values = {"train__num_steps": 2, "train__batch_size": 4, "train__checkpoint_every": 100, "sample__num_images": 2}
    return lambda **changes: tiny_config(**values | changes)


@pytest.fixture(scope="module")
def of_arrays(short, tmp_path_factory):
    """A run on images of 8 x 12 pixels and four channels, and the file that they are in."""
    folder = tmp_path_factory.mktemp("arrays")
    np.savez(folder / "a.npz", images=noise(20, 8, 12, 4), labels=LABELS, classes=np.array(["ant", "bee"]))
    config = short(
        data__name="array",
        data__dir=str(folder / "a.npz"),
        data__image_size=(8, 12),
        model__class_conditional=True,
    )
    train(config, folder / "run")
    return folder


def test_a_run_on_four_channels_is_trained_sampled_and_scored(of_arrays, tmp_path):
    meta = Checkpoints(of_arrays / "run" / "checkpoints").meta(2)
    assert meta["image_shape"] == [8, 12, 4] and meta["data"]["classes"] == ["ant", "bee"]
    assert json.loads((of_arrays / "run" / "config.json").read_text())["data"]["image_size"] == [8, 12]
    assert sample(of_arrays / "run", 3, gif=True, out=tmp_path / "s").arrays()["samples"].shape == (3, 8, 12, 4)
    assert evaluate(of_arrays / "run", split="train", max_examples=4, out=tmp_path / "e").values
    interpolate(of_arrays / "run", 1, out=tmp_path / "i")
    reconstruct(of_arrays / "run", tmp_path / "s" / "samples.npz", out=tmp_path / "r", labels=(0,))


def test_classes_are_drawn_by_name(of_arrays, tmp_path):
    by_name = sample(of_arrays / "run", 3, labels=("bee", "ant"), out=tmp_path / "a")
    by_number = sample(of_arrays / "run", 3, labels=(1, 0), out=tmp_path / "b")
    assert (by_name.out / "samples.npz").read_bytes() == (by_number.out / "samples.npz").read_bytes()
    assert json.loads((by_name.out / "samples.json").read_text())["labels"] == [1, 0]
    run = ddx.load(of_arrays / "run")
    np.testing.assert_array_equal(run.sample(3, labels=["bee", "ant"]), by_name.arrays()["samples"])
    run.denoiser(labels="bee")
    with pytest.raises(ConfigError, match=r"'bees' is none of the 2 classes\. Choose one, such as bee"):
        run.sample(3, labels="bees")


def test_files_of_four_channels_are_refused_before_anything_is_drawn(of_arrays, tmp_path):
    with pytest.raises(
        ConfigError, match=r"a PNG holds 1 or 3 channels, and these have 4\. Leave out --png; samples\.npz"
    ):
        sample(of_arrays / "run", 3, png=True, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_pictures_are_no_images_of_four_channels(of_arrays, tmp_path):
    from PIL import Image

    Image.new("RGB", (12, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="a picture has 1 or 3 channels, not 4"):
        reconstruct(of_arrays / "run", tmp_path / "a.png", labels=(0,), out=tmp_path / "r")


def test_a_run_resumes_with_the_same_arrays_in_another_file_and_refuses_others(of_arrays, short, tmp_path):
    def resume(**arrays):
        content = dict(np.load(of_arrays / "a.npz")) | arrays
        np.savez(tmp_path / "b.npz", **content)
        config = short(
            data__name="array",
            data__dir=str(tmp_path / "b.npz"),
            data__image_size=(8, 12),
            model__class_conditional=True,
            train__num_steps=3,
        )
        return train(config, of_arrays / "run")

    with pytest.raises(DataError, match=r"other data than array \(train\) holds now \(the content of the images"):
        resume(images=noise(20, 8, 12, 4))
    with pytest.raises(DataError, match="classes ant, bee -> ant, fly"):
        resume(classes=np.array(["ant", "fly"]))
    assert resume().step == 3


PAIRS = list(zip(noise(20, 8, 12, 3), LABELS, strict=True))


@pytest.fixture(scope="module")
def of_an_object(short, tmp_path_factory):
    """A run on a list of images and labels, whose config names digits."""
    folder = tmp_path_factory.mktemp("object")
    config = short(model__class_conditional=True)
    train(config, folder, data=PAIRS)
    return config, folder


def test_a_run_on_an_object_is_sampled(of_an_object, tmp_path):
    _, folder = of_an_object
    assert json.loads((folder / "config.json").read_text())["data"]["name"] == "given"
    meta = Checkpoints(folder / "checkpoints").meta(2)
    assert meta["image_shape"] == [8, 12, 3] and meta["data"]["classes"] == ["0", "1"]
    assert sample(folder, 2, png=True, out=tmp_path).arrays()["samples"].shape == (2, 8, 12, 3)


def test_what_needs_the_data_of_an_object_is_refused(of_an_object, tmp_path):
    with pytest.raises(DataError, match=r"this job reads the run's data, which were passed from Python") as error:
        evaluate(of_an_object[1], max_examples=4, out=tmp_path / "e")
    assert "\n" not in str(error.value) and not (tmp_path / "e").exists()


def test_a_run_on_an_object_resumes_with_the_same_examples_alone(of_an_object, tmp_path):
    config, folder = of_an_object
    config.train.num_steps = 3
    saved = json.loads((folder / "config.json").read_text())
    saved["train"]["num_steps"] = 3  # a run that was interrupted
    (folder / "config.json").write_text(json.dumps(saved))
    for given in (config, None):
        with pytest.raises(DataError, match=r"given from Python\. Give them again, with ddx\.training\.train") as error:
            train(given, folder)
        assert "\n" not in str(error.value)
    with pytest.raises(
        DataError, match=r"than list \(from Python\) holds now \(20 examples -> 19\)\. Give its own data"
    ):
        train(config, folder, data=PAIRS[:-1])
    with pytest.raises(DataError, match="the content of the images"):
        train(config, folder, data=[(255 - image, label) for image, label in PAIRS])
    assert train(config, folder, data=ddx.data.from_object(tuple(PAIRS))).step == 3


def test_given_data_are_not_converted(short, tmp_path):
    for changes, key in (({"data__channels": 1}, "channels"), ({"data__image_size": (12, 8)}, "image_size")):
        with pytest.raises(ConfigError, match=rf"data\.{key}=.* does not fit the given images of 8 x 12 x 3"):
            train(short(**changes), tmp_path, data=PAIRS)
    with pytest.raises(ConfigError, match=r"data\.crop="):
        train(short(data__crop=(0, 0, 4, 4)), tmp_path, data=PAIRS)


def test_a_run_on_a_named_set_is_not_continued_on_an_object(of_arrays, short):
    with pytest.raises(ConfigError, match=r"data\.name array -> given"):
        train(None, of_arrays / "run", data=PAIRS)
