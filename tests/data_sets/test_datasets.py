"""The shipped digits, folders of images, and what all data sets have in common."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ddx.data import Storage, load
from ddx.runtime.errors import ConfigError, DataError

ON_DEMAND = Storage(memory_mib=0)  # decodes whatever is read


def everything(dataset):
    return dataset.read(np.arange(dataset.num_examples))


def paint(path, value=0, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def values(dataset):
    return everything(dataset)["image"][:, 0, 0, 0].tolist()


def labels(dataset):
    return everything(dataset)["label"].tolist()


def one_line_of(error):
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 4
    return str(error.value)


def test_importing_loads_neither_jax_nor_tfds():
    code = "import sys, ddx.data; print([m for m in ('jax', 'tensorflow', 'tensorflow_datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Digits


def test_digits_are_the_1797_images_of_the_uci_set():
    digits = load("digits", split="all")
    assert (digits.num_examples, digits.image_shape, digits.num_classes) == (1797, (8, 8, 1), 10)
    batch = everything(digits)
    assert np.bincount(batch["label"]).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert set(np.unique(batch["image"])) == {round(value * 255 / 16) for value in range(17)}
    # The first image, a zero, as the set's description prints it.
    first = [0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0], [0, 3, 15, 2, 0, 11, 8, 0]
    np.testing.assert_array_equal(batch["image"][0, :3, :, 0], np.rint(np.array(first) * 255 / 16))
    assert batch["label"][:10].tolist() == list(range(10))


def test_digits_train_and_test_are_the_first_1500_and_the_rest():
    whole, train, test = (everything(load("digits", split=split)) for split in ("all", "train", "test"))
    assert len(train["label"]) == 1500
    for name in ("image", "label"):
        np.testing.assert_array_equal(np.concatenate([train[name], test[name]]), whole[name])


def test_digits_resize_and_take_colour_like_any_image():
    digits = load("digits", split="test", image_size=32, channels=3)
    assert digits.image_shape == (32, 32, 3)
    assert everything(digits)["image"].shape == (297, 32, 32, 3)


def test_digits_have_no_other_split():
    with pytest.raises(DataError, match=r"'validation'\. Choose one of: train, test, all") as error:
        load("digits", split="validation")
    one_line_of(error)


# Folders


@pytest.mark.parametrize("split", ["train", "all"])
def test_a_flat_folder_is_sorted_by_name_and_has_one_class(tmp_path, split):
    for value, name in ((3, "c.png"), (1, "B.PNG"), (2, "a.webp")):
        paint(tmp_path / name, value)
    dataset = load("folder", split=split, directory=str(tmp_path))
    assert values(dataset) == [1, 2, 3]
    assert labels(dataset) == [0, 0, 0]
    assert (dataset.num_classes, dataset.image_shape) == (1, (4, 4, 3))


def test_sub_folders_are_classes_in_sorted_order(tmp_path):
    for value, name in ((0, "dog/x.png"), (1, "cat/deep/er/y.png"), (2, "cat/z.png"), (3, "bird/w.png")):
        paint(tmp_path / name, value)
    (tmp_path / "ant").mkdir()
    dataset = load("folder", directory=str(tmp_path))
    assert values(dataset) == [3, 1, 2, 0]
    assert labels(dataset) == [0, 1, 1, 2]
    assert dataset.num_classes == 3


def test_train_and_test_folders_are_splits_that_share_their_classes(tmp_path):
    for value, name in ((0, "train/cat/a.png"), (1, "train/dog/b.png"), (2, "test/dog/c.png"), (9, "other/d.png")):
        paint(tmp_path / name, value)
    train, test, every = (load("folder", split=s, directory=str(tmp_path)) for s in ("train", "test", "all"))
    assert (values(train), labels(train)) == ([0, 1], [0, 1])
    assert (values(test), labels(test)) == ([2], [1])
    assert (values(every), labels(every)) == ([0, 1, 2], [0, 1, 1])
    assert train.num_classes == test.num_classes == every.num_classes == 2


def test_hidden_files_and_other_files_are_left_out(tmp_path):
    for name in ("a.png", ".hidden.png", ".cache/b.png"):
        paint(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert load("folder", directory=str(tmp_path)).num_examples == 1


@pytest.mark.parametrize("files", [[], ["a.npy", "deep/b.npy", "c.txt"]])
def test_a_folder_without_images_says_what_was_looked_for_and_found(tmp_path, files):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError) as error:
        load("folder", directory=str(tmp_path))
    message = one_line_of(error)
    assert f"{tmp_path} has 0 images (looked for .png .jpg .jpeg .webp, sub-folders included)" in message
    assert ("Found: 2 .npy, 1 .txt." if files else "Found: nothing.") in message


def test_a_split_without_a_folder_says_which_there_are(tmp_path):
    paint(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"no split 'test'.*has train and all") as error:
        load("folder", split="test", directory=str(tmp_path))
    one_line_of(error)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a directory") as error:
        load("folder", directory=str(tmp_path / "nowhere"))
    one_line_of(error)


def test_a_folder_has_to_be_named():
    with pytest.raises(ConfigError, match=r"data\.dir"):
        load("folder")


def test_a_file_that_vanished_is_named(tmp_path):
    for name in ("a.png", "b.png"):
        paint(tmp_path / name)
    dataset = load("folder", directory=str(tmp_path), storage=ON_DEMAND)
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match=r"No such file.*b\.png") as error:
        dataset.read([1])
    one_line_of(error)


@pytest.mark.parametrize("memory_mib", [1024, 0])
def test_images_of_different_sizes_need_an_image_size(tmp_path, memory_mib):
    storage = Storage(memory_mib)
    for index in range(600):
        paint(tmp_path / f"{index:03}.png", size=(4, 5) if index in (314, 599) else (4, 4))
    with pytest.raises(DataError, match=r"5x4 pixels.*first of its set is 4x4.*314\.png.*data\.image_size") as error:
        everything(load("folder", directory=str(tmp_path), storage=storage))
    one_line_of(error)
    assert load("folder", directory=str(tmp_path), image_size=4).image_shape == (4, 4, 3)


# All data sets


def test_large_sets_are_read_by_index_and_give_the_same(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(40):
        (tmp_path / f"{index % 3}").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(tmp_path / f"{index % 3}" / f"{index}.png")
    in_memory = load("folder", directory=str(tmp_path), image_size=5)
    by_index = load("folder", directory=str(tmp_path), image_size=5, storage=ON_DEMAND)
    (tmp_path / "0" / "0.png").unlink()
    indices = rng.integers(1, 40, 100)
    for name, array in in_memory.read(indices).items():
        np.testing.assert_array_equal(by_index.read(indices)[name], array)
        assert by_index.read(indices)[name].dtype == array.dtype
    with pytest.raises(DataError):
        by_index.read([0])


@pytest.mark.parametrize("memory_mib", [1024, 0])
def test_indices_are_checked_and_arrays_are_the_callers_own(memory_mib):
    digits = load("digits", split="test", storage=Storage(memory_mib))
    for bad in ([-1], [297], [0, 1000]):
        with pytest.raises(IndexError):
            digits.read(bad)
    before = digits.read([0, 1])
    before["image"][:] = 77
    assert not (digits.read([0, 1])["image"] == 77).all()
    empty = digits.read(np.array([], np.int64))
    assert empty["image"].shape == (0, 8, 8, 1)


def test_a_data_set_cannot_be_changed():
    with pytest.raises(AttributeError):
        load("digits").split = "test"


def test_nothing_is_printed_where_there_is_no_terminal(capfd):
    load("digits")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [{"channels": 2}, {"channels": 4}, {"image_size": -1}, {"image_size": (4, 0)}])
def test_arguments_that_cannot_be_used_are_refused(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        load("digits", **arguments)
