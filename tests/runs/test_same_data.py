"""A run resumes with the data that it began with, wherever these lie, or not at all."""

import dataclasses
import json
import shutil

import pytest
from PIL import Image

from ddx.data.sources import digits
from ddx.evaluation import evaluate, measure
from ddx.runs import trained
from ddx.runs.checkpoint import MANIFEST, Checkpoints
from ddx.runs.manifest import seal
from ddx.runtime.errors import ConfigError, DataError
from ddx.sampling import sample
from ddx.training import train
from tests.training.test_run import assert_same_bits, files


def paint(folder, name, value):
    """A picture of 8 x 8 pixels, as many bytes for any value."""
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path, "BMP")


def animals(folder):
    for value in range(6):
        paint(folder, f"train/{'cat' if value < 3 else 'dog'}/{value}", 40 * value)
        paint(folder, f"test/{'cat' if value < 3 else 'dog'}/{value}", 40 * value + 5)
    return folder


@pytest.fixture(scope="module")
def of_animals(tiny_config):
    """Changes of a config: two steps on a folder, grey, with classes unless said otherwise."""

    def make(directory, **changes):
        values = {"data__name": "folder", "data__dir": str(directory), "data__channels": 1, "train__batch_size": 4}
        values |= {"model__class_conditional": True, "train__num_steps": 2, "train__checkpoint_every": 100}
        return tiny_config(**values | changes)

    return make


@pytest.fixture(scope="module")
def run(of_animals, tmp_path_factory):
    """A run of two steps on cats and dogs, and their folder."""
    folder = tmp_path_factory.mktemp("run")
    train(of_animals(animals(folder / "animals")), folder / "run")
    return folder


@pytest.fixture
def copied(run, tmp_path):
    """The same, for this test alone."""
    shutil.copytree(run, tmp_path / "copied")
    return tmp_path / "copied"


@pytest.fixture
def other_digits(monkeypatch):
    """Digits of which one has another pixel."""

    def altered(split):
        source = digits(split)
        return dataclasses.replace(source, fingerprint=lambda: source.fingerprint()._replace(content="other"))

    monkeypatch.setattr("ddx.data.datasets.digits", altered)


def forget(workdir, *names):
    """Checkpoints as an older version wrote them, which said nothing of the data."""
    for path in (workdir / "checkpoints").glob(f"*/{MANIFEST}"):
        manifest = json.loads(path.read_text())
        del manifest["seal"]
        for name in names:
            del manifest["meta"][name]
        path.write_text(seal(manifest))


def test_a_checkpoint_tells_its_data(run):
    meta = Checkpoints(run / "run" / "checkpoints").meta(2)
    assert meta["data"]["classes"] == ["cat", "dog"] and meta["data"]["num_examples"] == 6
    assert meta["image_shape"] == [8, 8, 1] and meta["num_classes"] == 2
    assert len(meta["data"]["content"]) == 64


def rename_classes(folder):
    (folder / "train" / "cat").rename(folder / "train" / "zebra")
    (folder / "test" / "cat").rename(folder / "test" / "zebra")


CHANGES = {
    "classes": (rename_classes, "classes cat, dog -> dog, zebra"),
    "one more": (lambda f: paint(f, "train/dog/9", 9), "6 examples -> 7"),
    "one less": (lambda f: (f / "train" / "dog" / "5.png").unlink(), "6 examples -> 5"),
    "repainted": (lambda f: paint(f, "train/cat/1", 1), "the content of the images"),
    "relabelled": (
        lambda f: (f / "train" / "cat" / "2.png").rename(f / "train" / "dog" / "2.png"),
        "the names, labels or sizes of the images",
    ),
    "a class only in the other split": (lambda f: paint(f, "test/ant/1", 1), "classes cat, dog -> ant, cat, dog"),
    "larger, and no even number": (
        lambda f: [Image.new("L", (17, 15)).save(p, "BMP") for p in f.rglob("*.png")],
        "the names, labels or sizes of the images; images of 8 x 8 x 1 -> 15 x 17 x 1",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_data_are_refused_by_what_differs_and_nothing_changes(copied, of_animals, change):
    alter, message = CHANGES[change]
    alter(copied / "animals")
    before = files(copied / "run")
    with pytest.raises(DataError) as error:
        train(of_animals(copied / "animals", train__num_steps=4), copied / "run")
    text = str(error.value)
    assert error.value.exit_code == 4 and "\n" not in text
    assert text == (
        f"step 2 of {copied / 'run'} was trained on other data than folder (train) holds now ({message})."
        " Put the data back, or name the folder where they are with data.dir, or use a new --workdir"
    )
    assert files(copied / "run") == before


def test_networks_without_classes_do_not_go_on_with_other_images_either(whole, tiny_config, other_digits):
    with pytest.raises(DataError, match=r"step 12 of .* was trained on other data .*\(the content of the images\)"):
        train(tiny_config(train__num_steps=16), whole)


def test_data_that_are_put_back_elsewhere_will_do_and_test_images_may_change(copied, of_animals, tmp_path):
    rename_classes(copied / "animals")
    with pytest.raises(DataError):
        train(of_animals(copied / "animals", train__num_steps=3), copied / "run")
    shutil.rmtree(copied / "animals")
    animals(tmp_path / "moved")
    paint(tmp_path / "moved", "test/cat/0", 99)
    assert train(of_animals(tmp_path / "moved", train__num_steps=3), copied / "run").step == 3


def test_without_a_checkpoint_any_data_will_do(copied, of_animals):
    shutil.rmtree(copied / "run" / "checkpoints")
    (copied / "run" / "checkpoints.last").unlink()  # as if it had been stopped before its first
    rename_classes(copied / "animals")
    assert train(of_animals(copied / "animals"), copied / "run").step == 2


def test_data_are_told_as_they_were_when_the_run_began(of_animals, tmp_path, monkeypatch):
    """They may be out of reach when the checkpoint is saved."""
    folder, save = animals(tmp_path / "animals"), Checkpoints.save

    def gone(*args):
        shutil.rmtree(folder)
        save(*args)

    monkeypatch.setattr(Checkpoints, "save", gone)
    assert train(of_animals(folder), tmp_path / "run").step == 2


def test_an_old_checkpoint_resumes_with_what_is_known_of_its_data(copied, of_animals):
    forget(copied / "run", "data")
    paint(copied / "animals", "train/cat/1", 1)
    assert train(of_animals(copied / "animals", train__num_steps=3), copied / "run").step == 3
    meta = Checkpoints(copied / "run" / "checkpoints").meta(3)
    assert meta["data"]["classes"] == ["cat", "dog"]  # from now on it is held to these


def test_an_old_checkpoint_is_held_to_its_shape_and_number_of_classes(copied, of_animals):
    forget(copied / "run", "data")
    paint(copied / "animals", "train/emu/1", 1)
    with pytest.raises(DataError, match=r"\(2 classes -> 3\)"):
        train(of_animals(copied / "animals", train__num_steps=3), copied / "run")
    shutil.rmtree(copied / "animals" / "train" / "emu")
    for path in (copied / "animals").rglob("*.png"):
        Image.new("L", (8, 16)).save(path, "BMP")
    with pytest.raises(DataError, match=r"\(images of 8 x 8 x 1 -> 16 x 8 x 1\)"):
        train(of_animals(copied / "animals", train__num_steps=3), copied / "run")


# Jobs


FEW = {"max_examples": 2, "batch_size": 2}


def test_what_was_trained_on_is_measured_and_evaluated_only_as_it_was(copied, run):
    altered, safe = str(copied / "animals"), str(run / "animals")
    paint(copied / "animals", "train/cat/1", 1)
    for job in (measure, lambda workdir, **how: evaluate(workdir, split="train", **how)):
        with pytest.raises(DataError) as error:
            job(copied / "run", data_dir=altered, **FEW)
        assert str(error.value) == (
            "the network of step 2 was trained on other data than folder (train) holds now (the content of the images)."
            " Put the data back, or name the folder where they are with --data_dir"
        )
        assert "2 examples of train" in job(copied / "run", data_dir=safe, **FEW).message


def test_labels_of_a_test_set_mean_what_the_network_knows_them_as(copied):
    """Label 0 was cat."""
    rename_classes(copied / "animals")
    with pytest.raises(DataError, match=r"knows other classes than folder test has \(classes cat, dog -> dog, zebra\)"):
        evaluate(copied / "run", data_dir=str(copied / "animals"), **FEW)


def test_an_evaluation_does_not_go_on_with_other_images(copied, tmp_path):
    how = {"data_dir": str(copied / "animals"), "out": tmp_path / "out", **FEW}
    evaluate(copied / "run", **how)
    paint(copied / "animals", "test/dog/5", 99)
    with pytest.raises(ConfigError, match=r"holds another job \(images 2 of 6 examples, .* -> 2 of 6 examples"):
        evaluate(copied / "run", **how)


def test_heat_starts_only_from_the_images_that_it_was_trained_on(heated, other_digits):
    with pytest.raises(DataError, match=r"the network of step 12 .*\(the content of the images\)"):
        sample(heated, 2)


def test_a_head_is_trained_on_the_classes_of_its_network(copied, of_animals, tmp_path):
    rename_classes(copied / "animals")
    head = {"model__head": "simple", "loss__objective": "head", "loss__variance": "npr"}
    head |= {"train__backbone": str(copied / "run")}
    with pytest.raises(DataError, match=r"train\.backbone=.* \(classes cat, dog -> dog, zebra\)"):
        train(of_animals(copied / "animals", **head), tmp_path / "head")


def test_a_network_knows_the_data_of_its_checkpoint(run):
    source = trained.load(run / "run")
    assert source.meta["data"]["classes"] == ["cat", "dog"]


# Decoded copies


def test_where_decoded_images_are_kept_changes_no_bit_and_may_change(whole, four, tiny_config, tmp_path, capsys):
    """Of the first steps, as of the last, in memory."""
    said = []
    for step, disk_mib in ((7, 0), (10, 1)):
        where = {"data__memory_mib": 0, "data__disk_mib": disk_mib, "data__cache_dir": str(tmp_path / "cache")}
        train(tiny_config(train__num_steps=step, **where), four)
        said.append(capsys.readouterr().out)
    train(tiny_config(), four)
    assert "1,500 images of 8 x 8 x 1, decoded whenever they are read (0.1 MiB; data.disk_mib=0)" in said[0]
    assert f"8 x 8 x 1, in a decoded copy of 0.1 MiB, {tmp_path}/cache/digits-train-8x8x1-" in said[1]
    assert "1,500 images of 8 x 8 x 1, in memory" in capsys.readouterr().out
    assert_same_bits(whole, four)
