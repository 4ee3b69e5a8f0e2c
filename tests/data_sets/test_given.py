"""Images that a user gives: made as those that a run trains on, or refused before they cost anything."""

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddx.data import Conversion, given, given_images, load
from ddx.data.decode import to_array
from ddx.runtime.errors import DataError

RNG = np.random.default_rng(0)


def noise(height, width):
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def saved(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def refused(path, shape=(8, 8, 1), convert=None):
    """The message of the refusal."""
    with pytest.raises(DataError) as error:
        given_images(path, convert or Conversion(shape[-1], shape[:2]), shape)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", [(), (3, 5, 12, 16)])
@pytest.mark.parametrize("image_size", [0, 8])
def test_a_folder_or_a_picture_gives_what_training_sees(tmp_path, image_size, crop, channels):
    for index in range(3):
        (tmp_path / "ab"[index % 2]).mkdir(exist_ok=True)
        saved(tmp_path / "ab"[index % 2] / f"{index}.png", noise(20, 30))
    data = load("folder", directory=str(tmp_path), image_size=image_size, channels=channels, crop=crop)
    conversion = Conversion(channels, data.image_shape[:2], crop)
    seen = data.read(np.arange(3))["image"]
    np.testing.assert_array_equal(given_images(tmp_path, conversion, data.image_shape), seen)
    one = given_images(tmp_path / "a" / "0.png", conversion, data.image_shape)
    np.testing.assert_array_equal(one, seen[:1])


def test_a_picture_that_is_as_large_as_the_images_stays_as_it_is(tmp_path):
    pixels = noise(8, 12)
    found = given_images(saved(tmp_path / "a.png", pixels), Conversion(3, (8, 12)), (8, 12, 3))
    np.testing.assert_array_equal(found, pixels[None])


def test_other_pictures_are_shrunk_till_they_just_cover_it_and_their_centre_is_taken():
    columns = np.repeat(np.arange(36, dtype=np.uint8)[None] * 7, 30, 0)
    picture = Image.fromarray(columns)
    for size, expected in (
        ((30, 12), columns[:, 12:24]),  # the height decides: nothing is resized
        ((8, 36), columns[:8]),  # the width decides
        ((15, 18), None),
    ):
        found = to_array(picture, size, 1)
        assert found.shape == (*size, 1)
        if expected is not None:
            np.testing.assert_array_equal(found[..., 0], expected)
    rows = np.repeat(np.arange(30, dtype=np.uint8)[:, None] * 8, 36, 1)
    np.testing.assert_array_equal(to_array(Image.fromarray(rows), (8, 36), 1)[..., 0], rows[11:19])
    # Half as large, twice: means of blocks.
    pixels = noise(32, 48)
    means = pixels.reshape(8, 4, 12, 4, 3).mean((1, 3))
    assert np.abs(to_array(Image.fromarray(pixels), (8, 12), 3) - means).max() <= 2  # rounded four times


@pytest.mark.parametrize("size", [(8, 12), (12, 8), (7, 31), (1, 64), (64, 1)])
@pytest.mark.parametrize("picture", [(20, 30), (64, 64), (9, 200), (3, 2), (1, 1), (61, 59)])
def test_any_picture_becomes_the_rectangle_asked_for(size, picture):
    flat = Image.new("RGB", picture[::-1], (3, 141, 59))
    np.testing.assert_array_equal(to_array(flat, size, 3), np.broadcast_to((3, 141, 59), (*size, 3)))


@pytest.mark.parametrize("picture", [(20, 30), (64, 48), (9, 200), (16, 16), (17, 15), (5, 9)])
def test_a_square_by_two_sides_is_a_square_by_one(picture):
    image = Image.fromarray(noise(*picture))
    np.testing.assert_array_equal(to_array(image, (16, 16), 3), to_array(image, 16, 3))


def test_a_picture_that_does_not_hold_the_crop_is_refused_and_arrays_are_taken_as_they_are(tmp_path):
    conversion = Conversion(3, (8, 8), (10, 5, 16, 16))
    for name in ("small.png", "folder/small.png"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        path = saved(tmp_path / name, noise(8, 8))
        message = refused(path.parent if "/" in name else path, (8, 8, 3), conversion)
        assert message.startswith(
            "data.crop=(10, 5, 16, 16) reaches beyond the 8x8 pixels (height x width) of an image."
        )
        assert str(path) in message and message.endswith(".npz file of uint8 (N, 8, 8, 3)")
    images = RNG.integers(0, 256, (2, 8, 8, 3), np.uint8)  # the advice
    np.savez(tmp_path / "cut.npz", images)
    np.testing.assert_array_equal(given_images(tmp_path / "cut.npz", conversion, (8, 8, 3)), images)


def test_both_splits_of_a_folder_are_taken(tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        saved(tmp_path / name / "a.png", noise(8, 8))
    assert len(given_images(tmp_path, Conversion(1, (8, 8)), (8, 8, 1))) == 2
    (tmp_path / "train" / "a.png").unlink()
    (tmp_path / "train").rmdir()
    assert len(given_images(tmp_path, Conversion(1, (8, 8)), (8, 8, 1))) == 1


def test_an_empty_folder_is_told_without_advice_on_the_config(tmp_path):
    message = refused(tmp_path)
    assert "has 0 images" in message and message.endswith("Name an image, a folder of images or an .npz file.")
    assert "data.dir" not in message


# What must not be read


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.npz", "folder/a.png"])
@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_what_is_no_regular_file_is_not_read(tmp_path, name, kind):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    message = refused(path.parent if "/" in name else path)
    assert "it is no regular file" in message and str(path) in message


def test_a_link_to_an_image_is_one(tmp_path):
    (tmp_path / "link.png").symlink_to(saved(tmp_path / "a.png", noise(8, 8)))
    assert given_images(tmp_path / "link.png", Conversion(1, (8, 8)), (8, 8, 1)).shape == (1, 8, 8, 1)


def test_a_file_too_large_for_an_image_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**33)
    assert "8589934592 bytes, more than 536870912" in refused(tmp_path / "a.png")


def header(shape, dtype="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def stored(path, content, name="samples.npy"):
    """An .npy or an .npz file with this content."""
    if path.suffix == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        (
            (10**13, 8, 8, 1),
            "|u1",
            "holds 10000000000000 images of 8 x 8 x 1, too many for memory. Give at most 33554432",
        ),
        ((40_000_000, 8, 8, 1), "|u1", "holds 40000000 images of 8 x 8 x 1, too many"),
        ((5, 10**6, 10**6, 3), "|u1", "of shape (5, 1000000, 1000000, 3); expected uint8 (N, 8, 8, 1)"),
        ((10**13, 8, 8, 1), "<f8", "holds float64 of shape (10000000000000, 8, 8, 1); expected uint8"),
        ((-5, 8, 8, 1), "|u1", "expected uint8 (N, 8, 8, 1)"),
        ((0, 8, 8, 1), "|u1", "expected uint8 (N, 8, 8, 1)"),
        ((), "|u1", "holds uint8 of shape (); expected uint8"),
        ((5, 8, 8, 1), "|O", "holds object of shape"),
        ((5, 8, 8, 1), "|u1", "cannot read"),  # there are fewer
    ],
)
def test_arrays_are_judged_by_their_headers(tmp_path, suffix, shape, dtype, message):
    path = stored(tmp_path / f"a{suffix}", header(shape, dtype) + bytes(64))
    tracemalloc.start()
    try:
        assert message in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(2**20, 8, 8), (2**20, 64)])
def test_what_inflates_is_refused_before_it_does(tmp_path, shape):
    path = stored(tmp_path / "a.npz", header(shape) + bytes(2**26))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        assert "expected uint8 (N, 8, 8, 1)" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"(" * 100_000,  # a header of 4 GB
        b"\x93NUMPY\x01\x00\xf0\x0f" + b"(" * 5000,
        b"\x93NUMPY\x09\x09v\x00" + header((1, 8, 8, 1))[10:] + bytes(64),
        b"\x93NUMPY\x01\x00v\x00" + b"{'descr': __import__('os'), 'shape': ()}".ljust(118),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_headers_of_any_kind_are_one_line(tmp_path, content, suffix):
    assert "Name an .npy or .npz file of images" in refused(stored(tmp_path / f"a{suffix}", content))


def test_an_archive_whose_bytes_have_changed_is_one_line(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", samples=RNG.integers(0, 256, (9, 8, 8, 1), np.uint8))
    content = (tmp_path / "a.npz").read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 255
        (tmp_path / "a.npz").write_bytes(changed)
        try:
            given_images(tmp_path / "a.npz", Conversion(1, (8, 8)), (8, 8, 1))
        except DataError as error:
            assert "\n" not in str(error)


def test_arrays_may_be_in_either_order(tmp_path):
    images = np.asfortranarray(RNG.integers(0, 256, (3, 8, 8, 1), np.uint8))
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "a.npz", x=images)
    for name in ("a.npy", "a.npz"):
        np.testing.assert_array_equal(given_images(tmp_path / name, Conversion(1, (8, 8)), (8, 8, 1)), images)


def test_more_pictures_than_memory_holds_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(given, "MAX_BYTES", 2 * 64)
    for index in range(3):
        saved(tmp_path / f"{index}.png", noise(8, 8))
    assert "holds 3 images of 8 x 8 x 1, too many for memory. Give at most 2 at once" in refused(tmp_path)
