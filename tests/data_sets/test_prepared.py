"""Data sets that TensorFlow Datasets has prepared: read as they are, without TensorFlow, or refused with a reason."""

import socket
import sys

import numpy as np
import pytest

from ddx.data import Storage, load
from ddx.runtime.errors import DataError
from tests.data_sets.prepared_set import digits_like, encode, image_feature, label_feature, text_feature, write

FEATURES = {"image": image_feature((6, 6, 3)), "label": label_feature(3)}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture
def tiny(tmp_path):
    """A set of 20 + 5 colour images; its directory, images and labels by split."""
    train, test = digits_like(20, seed=0), digits_like(5, seed=1)
    write(tmp_path, "tiny", {"train": train[0], "test": test[0]}, FEATURES)
    return tmp_path, {"train": train[1:], "test": test[1:]}


@pytest.mark.parametrize("memory_mib", [1024, 0])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_record_is_read_as_it_was_written(tiny, split, memory_mib):
    directory, written = tiny
    images, labels = written[split]
    dataset = load("tiny", split=split, directory=str(directory), storage=Storage(memory_mib))
    assert (dataset.num_examples, dataset.image_shape, dataset.num_classes) == (len(images), (6, 6, 3), 3)
    order = np.random.default_rng(0).permutation(len(images))
    batch = dataset.read(order)
    np.testing.assert_array_equal(batch["image"], images[order])
    np.testing.assert_array_equal(batch["label"], labels[order])
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32


def test_tensorflow_is_not_imported(tiny):
    load("tiny", directory=str(tiny[0]))
    assert "tensorflow" not in sys.modules


def test_the_directory_comes_from_the_environment_when_none_is_given(tiny, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny[0]))
    assert load("tiny").num_examples == 20


def test_splits_are_tfds_expressions(tiny):
    directory, written = tiny
    every = load("tiny", split="all", directory=str(directory))
    assert every.num_examples == 25
    part = load("tiny", split="train[5:8]", directory=str(directory))
    np.testing.assert_array_equal(part.read(np.arange(3))["image"], written["train"][0][5:8])


def test_a_set_that_tfds_knows_by_name_is_read_as_its_copy_describes_it(tmp_path):
    examples, images, _ = digits_like(4, seed=2)
    write(tmp_path, "cifar10", {"train": examples}, FEATURES, version="0.0.7")
    dataset = load("cifar10", directory=str(tmp_path))
    assert dataset.num_classes == 3
    np.testing.assert_array_equal(dataset.read(np.arange(4))["image"], images)


def test_the_newest_version_is_read_unless_one_is_named(tmp_path):
    for version, count in (("1.9.0", 2), ("1.10.0", 3)):
        write(tmp_path, "tiny", {"train": digits_like(count, seed=0)[0]}, FEATURES, version=version)
    assert load("tiny", directory=str(tmp_path)).num_examples == 3
    assert load("tiny:1.9.0", directory=str(tmp_path)).num_examples == 2


def test_a_config_is_part_of_the_name(tmp_path):
    write(tmp_path, "tiny/large", {"train": digits_like(2, seed=0)[0]}, FEATURES, configName="large")
    assert load("tiny/large", directory=str(tmp_path)).num_examples == 2
    with pytest.raises(DataError, match=r"no prepared copy of tiny\..*found: large"):
        load("tiny", directory=str(tmp_path))


def test_an_array_record_copy_beside_another_format_is_enough(tmp_path):
    examples, _, _ = digits_like(2, seed=0)
    other = {"alternativeFileFormats": ["array_record"]}
    write(tmp_path, "tiny", {"train": examples}, FEATURES, file_format="tfrecord", **other)
    assert load("tiny", directory=str(tmp_path)).num_examples == 2


def test_grey_images_stay_grey_and_convert_on_request(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (6, 6), np.uint8)
    write(tmp_path, "grey", {"train": [{"image": encode(grey)}]}, {"image": image_feature((6, 6, 1))})
    dataset = load("grey", directory=str(tmp_path))
    np.testing.assert_array_equal(dataset.read([0])["image"], grey[None, ..., None])
    colour = load("grey", directory=str(tmp_path), channels=3).read([0])["image"]
    np.testing.assert_array_equal(colour, np.repeat(grey[None, ..., None], 3, -1))


def test_a_set_without_labels_has_one_class(tmp_path):
    examples, _, _ = digits_like(4, seed=0)
    write(tmp_path, "plain", {"train": [{"image": e["image"]} for e in examples]}, {"image": FEATURES["image"]})
    dataset = load("plain", directory=str(tmp_path))
    assert dataset.num_classes == 1
    assert not dataset.read(np.arange(4))["label"].any()


def test_other_features_are_left_alone(tmp_path):
    example = digits_like(1, seed=0)[0][0] | {"id": b"first", "mask": b"no image at all"}
    features = FEATURES | {"id": text_feature(), "mask": image_feature((6, 6, 1))}
    write(tmp_path, "rich", {"train": [example]}, features)
    assert load("rich", directory=str(tmp_path)).num_examples == 1


def one_line_of(error):
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 4
    return str(error.value)


@pytest.mark.parametrize("name", ["tiny", "cifar10", "cifar10:3.0.2", "tiny/large"])
def test_a_missing_copy_says_where_it_was_looked_for_and_how_to_prepare_it(tmp_path, name):
    with pytest.raises(DataError) as error:
        load(name, directory=str(tmp_path))
    message = one_line_of(error)
    assert str(tmp_path) in message
    recipe = f"tfds.builder({name!r}, data_dir={str(tmp_path)!r}, file_format='array_record').download_and_prepare()"
    assert recipe in message
    assert list(tmp_path.iterdir()) == []


def test_a_missing_version_says_which_there_are(tiny):
    with pytest.raises(DataError, match=r"found: 1\.0\.0"):
        load("tiny:2.0.0", directory=str(tiny[0]))


def test_a_tfrecord_copy_is_refused(tmp_path):
    write(tmp_path, "tiny", {}, FEATURES, file_format="tfrecord")
    with pytest.raises(DataError, match=r"tfrecord format.*file_format='array_record'") as error:
        load("tiny", directory=str(tmp_path))
    one_line_of(error)


@pytest.mark.parametrize("split", ["validation", "", "train+", "train[:0]", "train[100%:]"])
def test_a_split_that_is_not_there_lists_those_that_are(tiny, split):
    with pytest.raises(DataError) as error:
        load("tiny", split=split, directory=str(tiny[0]))
    assert "train (20 images), test (5 images)" in one_line_of(error)


@pytest.mark.parametrize("name", ["../tiny", "no such name", "tiny:1", "/tiny", ""])
def test_what_is_no_name_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="not the name of a data set"):
        load(name, directory=str(tmp_path))


@pytest.mark.parametrize("memory_mib", [1024, 0])
def test_an_undecodable_record_is_named_by_its_number(tmp_path, memory_mib):
    examples, _, _ = digits_like(300, seed=0)
    examples[283]["image"] = examples[283]["image"][:60]
    write(tmp_path, "tiny", {"train": examples}, FEATURES)
    with pytest.raises(DataError, match=r"truncated.*Record 283 of split train in .*tiny/1\.0\.0\.") as error:
        load("tiny", directory=str(tmp_path), storage=Storage(memory_mib)).read(np.arange(300))
    one_line_of(error)


def test_a_damaged_record_is_named_by_its_number(tiny):
    directory, written = tiny
    shard = next((directory / "tiny" / "1.0.0").glob("tiny-train*"))
    damaged = bytearray(shard.read_bytes())
    damaged[damaged.index(encode(written["train"][0][7])) + 30] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(DataError, match=r"Record 7 of split train") as error:
        load("tiny", directory=str(directory))
    one_line_of(error)


@pytest.mark.parametrize(
    "damage", ["missing shard", "short shard", "missing label", "damaged info", "damaged features"]
)
def test_a_damaged_copy_is_one_line(tiny, damage):
    directory, _ = tiny
    home = directory / "tiny" / "1.0.0"
    shard = next(home.glob("tiny-train*"))
    if damage == "missing shard":
        shard.unlink()
    elif damage == "short shard":
        shard.write_bytes(shard.read_bytes()[:1000])
    elif damage == "missing label":
        write(directory, "other", {"train": [{"image": digits_like(1, seed=0)[0][0]["image"]}]}, FEATURES)
    elif damage == "damaged info":
        (home / "dataset_info.json").write_text("[]")
    else:
        (home / "features.json").write_text("{}")
    with pytest.raises(DataError) as error:
        load("other" if damage == "missing label" else "tiny", directory=str(directory))
    assert str(directory) in one_line_of(error)


def test_a_label_beyond_the_classes_is_refused(tmp_path):
    examples, _, _ = digits_like(3, seed=0)
    examples[2]["label"] = 3
    write(tmp_path, "tiny", {"train": examples}, FEATURES)
    with pytest.raises(DataError, match=r"label 3 is not one of 3 classes\. Record 2") as error:
        load("tiny", directory=str(tmp_path))
    one_line_of(error)


@pytest.mark.parametrize("features", [{"label": label_feature(3)}, {"image": image_feature((6, 6, 1), "float32")}])
def test_a_set_without_images_of_whole_numbers_is_refused(tmp_path, features):
    write(tmp_path, "tiny", {"train": [{"image": b"", "label": 0}]}, features)
    with pytest.raises(DataError, match="no feature `image` that holds 8 or 16-bit images") as error:
        load("tiny", directory=str(tmp_path))
    one_line_of(error)


@pytest.mark.cifar10
def test_cifar10_is_complete(monkeypatch):
    monkeypatch.undo()
    train, test = load("cifar10"), load("cifar10", split="test")
    assert (train.num_examples, test.num_examples) == (50_000, 10_000)
    for dataset in (train, test):
        assert dataset.image_shape == (32, 32, 3)
        batch = dataset.read(np.arange(dataset.num_examples))
        np.testing.assert_array_equal(np.bincount(batch["label"]), dataset.num_examples // 10)
        # The channels' mean in every description of CIFAR-10, 0.491, 0.482, 0.447.
        np.testing.assert_allclose(batch["image"].mean((0, 1, 2)) / 255, [0.491, 0.482, 0.447], atol=5e-3)
