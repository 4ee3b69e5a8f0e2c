"""NumPy files as data sets: what is stored is what is read, and what cannot be used is one line."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from ddx.data import Storage, load
from ddx.data.fingerprint import differences
from ddx.runtime.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
LABELS = np.array([2, 0, 1, 0, 2])


def noise(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def stored(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def opened(path, **options):
    return load("array", directory=str(path), **options)


def everything(data):
    return data.read(np.arange(data.num_examples))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("memory_mib", [1024, 0])
def test_what_is_stored_is_what_is_read(tmp_path, channels, memory_mib):
    images = noise(5, 8, 12, channels)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", images=images, labels=LABELS, classes=np.array(["ant", "bee", "cat"]))
    np.savez_compressed(tmp_path / "b.npz", samples=np.asfortranarray(images), labels=LABELS.astype(np.uint8))
    found = [opened(tmp_path / n, storage=Storage(memory_mib=memory_mib)) for n in ("a.npy", "a.npz", "b.npz")]
    for data in found:
        assert (data.num_examples, data.image_shape) == (5, (8, 12, channels))
        np.testing.assert_array_equal(everything(data)["image"], images)
    assert [data.classes for data in found] == [("",), ("ant", "bee", "cat"), ("0", "1", "2")]
    assert [everything(data)["label"].tolist() for data in found] == [[0] * 5, LABELS.tolist(), LABELS.tolist()]


@pytest.mark.parametrize("memory_mib", [1024, 0])
def test_what_is_read_is_the_callers_own(tmp_path, memory_mib):
    np.save(tmp_path / "a.npy", images := noise(5, 4, 4, 2))
    data = opened(tmp_path / "a.npy", storage=Storage(memory_mib=memory_mib))
    everything(data)["image"][:] = 0
    np.testing.assert_array_equal(everything(data)["image"], images)


def test_images_without_a_channel_axis_are_grey_and_any_single_array_is_the_images(tmp_path):
    images = noise(5, 6, 4)
    data = opened(stored(tmp_path / "a.npz", x=images, labels=LABELS))
    assert data.image_shape == (6, 4, 1)
    np.testing.assert_array_equal(everything(data)["image"][..., 0], images)


def test_arrays_larger_than_memory_are_read_from_their_file_without_a_copy(tmp_path):
    np.save(tmp_path / "a.npy", noise(5, 4, 4, 3))
    storage = Storage(memory_mib=0, disk_mib=1, cache_dir=str(tmp_path / "cache"), write=True)
    assert opened(tmp_path / "a.npy", storage=storage).kept == f"read from {tmp_path / 'a.npy'}"
    assert not (tmp_path / "cache").exists()
    assert "in a decoded copy" in opened(tmp_path / "a.npy", storage=storage, image_size=2).kept


def test_a_file_that_is_cut_short_while_it_is_read_is_told(tmp_path):
    np.save(tmp_path / "a.npy", noise(50, 64, 64, 3))
    data = opened(tmp_path / "a.npy", storage=Storage(memory_mib=0))
    with open(tmp_path / "a.npy", "r+b") as file:
        file.truncate(1000)
    for read in (lambda: data.read([49]), data.fingerprint):
        with pytest.raises(DataError, match=r"a\.npy was cut short while it was read"):
            read()


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_as_arrays_are_converted_as_in_a_folder(tmp_path, channels):
    images = noise(3, 20, 31, channels)
    np.save(tmp_path / "a.npy", images)
    (tmp_path / "folder").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0] if channels == 1 else image).save(tmp_path / "folder" / f"{index}.png")
    for options in ({"image_size": (4, 6)}, {"crop": (2, 3, 10, 20)}, {"channels": 1}, {"channels": 3}):
        both = {"channels": channels} | options
        expected = everything(load("folder", directory=str(tmp_path / "folder"), **both))["image"]
        np.testing.assert_array_equal(everything(opened(tmp_path / "a.npy", **options))["image"], expected)


@pytest.mark.parametrize("options", [{"image_size": 4}, {"crop": (0, 0, 4, 4)}, {"channels": 1}, {"channels": 3}])
@pytest.mark.parametrize("channels", [2, 4])
def test_arrays_that_are_no_pictures_are_not_converted(tmp_path, options, channels):
    np.save(tmp_path / "a.npy", images := noise(3, 8, 12, channels))
    with pytest.raises(ConfigError, match=f"images of {channels} channels cannot be cropped, resized") as error:
        opened(tmp_path / "a.npy", **options)
    assert "\n" not in str(error.value) and "Leave out data.crop" in str(error.value)
    np.testing.assert_array_equal(everything(opened(tmp_path / "a.npy", image_size=(8, 12)))["image"], images)


def test_a_file_is_one_split(tmp_path):
    np.save(tmp_path / "a.npy", noise(3, 4, 4, 3))
    assert opened(tmp_path / "a.npy", split="all").num_examples == opened(tmp_path / "a.npy").num_examples == 3
    with pytest.raises(DataError, match=r"no split 'test'.* has train and all"):
        opened(tmp_path / "a.npy", split="test")


def damaged_npy(path):
    np.save(path, noise(9, 8, 8, 3))
    path.write_bytes(path.read_bytes()[:-100])


def damaged_npz(path):
    np.savez(path, images=noise(9, 8, 8, 3))
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)


def no_arrays(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no arrays")


U8 = noise(5, 4, 4, 3)
MISTAKES = {
    "floats.npy": (lambda p: np.save(p, U8 / 255), r"holds float64 of shape \(5, 4, 4, 3\).*np\.rint\(255 \* x\)"),
    "wide.npy": (lambda p: np.save(p, U8.astype(np.int64)), "holds int64"),
    "objects.npy": (lambda p: np.save(p, U8.astype(object), allow_pickle=True), "holds object"),
    "one.npy": (lambda p: np.save(p, U8[0, 0]), r"of shape \(4, 3\)"),
    "five.npy": (lambda p: np.save(p, U8[None]), r"of shape \(1, 5, 4, 4, 3\)"),
    "none.npy": (lambda p: np.save(p, U8[:0]), r"of shape \(0, 4, 4, 3\)"),
    "thin.npy": (lambda p: np.save(p, U8[:, :, :0]), r"of shape \(5, 4, 0, 3\)"),
    "empty.npy": (lambda p: p.write_bytes(b""), "cannot read"),
    "text.npy": (lambda p: p.write_text("images"), "cannot read"),
    "cut.npy": (damaged_npy, "cannot read"),
    "header.npy": (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': " + b"(" * 110), "cannot read"),
    "missing.npy": (lambda p: None, "cannot read .*No such file"),
    "folder.npy": (lambda p: p.mkdir(), "cannot read .*no regular file"),
    "picture.png": (lambda p: Image.new("L", (4, 4)).save(p), r"is no \.npy or \.npz file"),
    "empty.npz": (lambda p: p.write_bytes(b""), "cannot read"),
    "flipped.npz": (damaged_npz, "cannot read"),
    "nothing.npz": (no_arrays, "has no array `images`; it has nothing"),
    "two.npz": (lambda p: np.savez(p, a=U8, b=U8), "has no array `images`; it has a, b"),
    "floats.npz": (lambda p: np.savez(p, images=U8 / 255), "holds float64"),
    "labels.npz": (lambda p: np.savez(p, images=U8, labels=LABELS[:4]), "an integer for each of the 5 images"),
    "float_labels.npz": (lambda p: np.savez(p, images=U8, labels=LABELS / 2), "labels of type float64"),
    "low.npz": (lambda p: np.savez(p, images=U8, labels=LABELS - 1), "labels from -1 to 1"),
    "huge.npz": (lambda p: np.savez(p, images=U8, labels=LABELS * 10**9), "labels from 0 to 2000000000"),
    "names.npz": (lambda p: np.savez(p, images=U8, labels=LABELS, classes=np.array(["a", "b"])), "has 2 names"),
    "object_names.npz": (
        lambda p: np.savez(p, images=U8, labels=LABELS, classes=np.array(["a", "b", "c"], object)),
        r"classes of type object.*np\.array\(names, str\)",
    ),
    "only_names.npz": (lambda p: np.savez(p, images=U8, classes=np.array(["a"])), "classes and no labels"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_used_is_one_line_that_names_the_file(tmp_path, name):
    make, message = MISTAKES[name]
    make(tmp_path / name)
    with pytest.raises(DataError, match=message) as error:
        opened(tmp_path / name)
    assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)


def test_no_file_is_a_mistake_of_the_config():
    with pytest.raises(ConfigError, match=r"Set data\.dir"):
        load("array")


def test_the_fingerprint_is_of_the_images_and_not_of_their_file(tmp_path):
    classes = np.array(["ant", "bee", "cat"])
    first = opened(stored(tmp_path / "a.npz", images=U8, labels=LABELS, classes=classes)).fingerprint()
    again = stored(tmp_path / "b.npz", samples=np.asfortranarray(U8), labels=LABELS.astype(np.int8), classes=classes)
    assert opened(again).fingerprint() == first
    grey = U8[..., 0]
    np.save(tmp_path / "grey.npy", grey)
    np.save(tmp_path / "grey4.npy", grey[..., None])
    assert opened(tmp_path / "grey.npy").fingerprint() == opened(tmp_path / "grey4.npy").fingerprint()
    changed = U8.copy()
    changed[3, 1, 2, 0] ^= 1
    for arrays, message in (
        ({"images": changed}, "the content of the images"),
        ({"labels": np.roll(LABELS, 1)}, "the names, labels or sizes of the images"),
        ({"images": U8[:4], "labels": LABELS[:4]}, "5 examples -> 4"),
        ({"classes": np.array(["ant", "bee", "dog"])}, "classes ant, bee, cat -> ant, bee, dog"),
    ):
        other = stored(tmp_path / "c.npz", **{"images": U8, "labels": LABELS, "classes": classes} | arrays)
        assert differences(first.record(), opened(other).fingerprint()) == [message]
