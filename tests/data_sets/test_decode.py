"""Image files of every kind: converted rightly, or refused with the reason and the file's name."""

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ddx.data import load
from ddx.data.decode import MAX_PIXELS, open_image, to_array
from ddx.runtime.errors import ConfigError, DataError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
# 4 columns by 2 rows; blocks of 2x2 so that JPEG's colour subsampling loses nothing.
COLOURS = np.array([[RED, RED, BLUE, BLUE]] * 2, np.uint8)
GREYS = np.array([[0, 50, 100, 255]] * 2, np.uint8)
GREYS_RGB = np.repeat(GREYS[..., None], 3, -1)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds hardly any pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def palette_with_alpha():
    image = Image.fromarray(COLOURS).convert("P", palette=Image.Palette.ADAPTIVE)
    return saved(image, "PNG", transparency=bytes([0, 128]))


def exif_rotated():
    """Stored upside down and marked so (orientation 3)."""
    exif = Image.Exif()
    exif[0x0112] = 3
    return saved(Image.fromarray(COLOURS[::-1, ::-1]), "PNG", exif=exif)


def animated_gif():
    first, second = (Image.fromarray(colours) for colours in (COLOURS, 255 - COLOURS))
    return saved(first, "GIF", save_all=True, append_images=[second])


def colours(mode="RGB"):
    return Image.fromarray(COLOURS).convert(mode)


def translucent(image):
    image.putalpha(7)
    return image


noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))

READABLE = {  # name: (bytes, the pixels they show, tolerance)
    "rgb.png": (saved(colours(), "PNG"), COLOURS, 0),
    "rgb.webp": (saved(colours(), "WEBP", lossless=True), COLOURS, 0),
    "jpeg_called.png": (saved(colours(), "JPEG", quality=100, subsampling=0), COLOURS, 3),
    "png_called.JPG": (saved(colours(), "PNG"), COLOURS, 0),
    "cmyk.jpg": (saved(colours("CMYK"), "JPEG", quality=100, subsampling=0), COLOURS, 6),
    "grey.png": (saved(Image.fromarray(GREYS), "PNG"), GREYS_RGB, 0),
    "grey.jpeg": (saved(Image.fromarray(GREYS), "JPEG", quality=100), GREYS_RGB, 2),
    "grey_alpha.png": (saved(translucent(Image.fromarray(GREYS)), "PNG"), GREYS_RGB, 0),
    "rgb_alpha.png": (saved(translucent(colours()), "PNG"), COLOURS, 0),
    "black_white.png": (saved(Image.fromarray(GREYS > 75), "PNG"), np.where(GREYS_RGB > 75, 255, 0), 0),
    "grey16.png": (saved(Image.fromarray(GREYS.astype(np.uint16) * 257), "PNG"), GREYS_RGB, 0),
    "palette.png": (saved(colours().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), COLOURS, 0),
    "palette_alpha.png": (palette_with_alpha(), COLOURS, 0),
    "exif_rotated.png": (exif_rotated(), COLOURS, 0),
    "animated_gif_called.png": (animated_gif(), COLOURS, 0),
}

UNREADABLE = {  # name: (bytes, reason)
    "empty.png": (b"", "it is empty"),
    "truncated.png": (saved(noise, "PNG")[:5000], "truncated"),
    "truncated.jpg": (saved(noise, "JPEG")[:-500], "truncated"),
    "header_only.png": (saved(noise, "PNG")[:20], "Truncated File Read"),
    "text.png": (b"An image, I promise.\n" * 20, "not an image of a known kind"),
    "tiff_called.png": (saved(noise, "TIFF"), "not an image of a known kind"),
    "damaged.png": (saved(noise, "PNG").replace(b"IDAT", b"IDAX"), "."),
    "bomb.png": (png_header(60_000, 60_000), "60000"),
    "small_bomb.png": (png_header(10_000, 9_000), "10000x9000 pixels, more than 89478485"),
}


@pytest.mark.parametrize("name", READABLE)
def test_what_can_be_shown_is_converted_to_rgb_rightly(tmp_path, name):
    data, expected, tolerance = READABLE[name]
    (tmp_path / name).write_bytes(data)
    shown = load("folder", directory=str(tmp_path)).read([0])["image"][0]
    assert shown.dtype == np.uint8
    np.testing.assert_allclose(shown.astype(int), expected.astype(int), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in READABLE if name.startswith(("grey", "black"))])
def test_grey_images_as_one_channel_keep_their_values(name):
    data, expected, tolerance = READABLE[name]
    grey = to_array(open_image(data, upright=False), 0, 1)
    np.testing.assert_allclose(grey.astype(int), expected[..., :1].astype(int), rtol=0, atol=tolerance)


def test_colours_turn_grey_by_their_luminance():
    grey = to_array(colours(), 0, 1)
    assert grey.shape == (2, 4, 1)
    np.testing.assert_array_equal(grey[0, :, 0], [76, 76, 29, 29])  # 0.299 and 0.114 of 255


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_shown_is_one_line_with_the_file_and_the_reason(tmp_path, name):
    data, reason = UNREADABLE[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=reason) as error:
        load("folder", directory=str(tmp_path))
    message = str(error.value)
    assert str(tmp_path / name) in message
    assert message.endswith("Replace or remove the file.")
    assert "\n" not in message
    assert "object at 0x" not in message


@pytest.mark.parametrize("side", [10_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_takes_memory(side):
    limit = Image.MAX_IMAGE_PIXELS
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="pixels"):
        open_image(png_header(side, side), upright=False)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(("width", "height"), [(64, 64), (65, 97), (16, 16), (17, 40), (200, 31), (5, 9), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_becomes_the_square_asked_for(width, height, channels):
    array = to_array(noise.resize((width, height)), 16, channels)
    assert array.shape == (16, 16, channels)
    assert array.dtype == np.uint8


def test_the_size_an_image_has_changes_nothing():
    np.testing.assert_array_equal(to_array(noise, 64, 3), np.asarray(noise))


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_a_power_of_two_smaller_is_block_means(halvings):
    size, block = 64 >> halvings, 1 << halvings
    means = np.asarray(noise, float).reshape(size, block, size, block, 3).mean((1, 3))
    assert np.abs(to_array(noise, size, 3) - means).max() <= halvings  # each rounds twice, rows and columns


def test_the_centre_of_the_long_side_is_kept():
    columns = np.repeat(np.arange(48, dtype=np.uint8)[None], 16, 0)
    np.testing.assert_array_equal(to_array(Image.fromarray(columns), 16, 1)[0, :, 0], np.arange(16, 32))
    np.testing.assert_array_equal(to_array(Image.fromarray(columns.T), 16, 1)[:, 0, 0], np.arange(16, 32))


@pytest.mark.parametrize(("height", "width"), [(8, 12), (12, 8), (16, 4)])
def test_a_rectangle_is_block_means_of_its_centre(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (4 * height, 6 * width, 3), dtype=np.uint8)
    # The picture is wider than the target: a sixth of its width goes on either side.
    centre = pixels[:, width:-width].astype(float)
    means = centre.reshape(height, 4, width, 4, 3).mean((1, 3))
    for image, expected in ((pixels, means), (pixels.swapaxes(0, 1), means.swapaxes(0, 1))):
        found = to_array(Image.fromarray(image), expected.shape[:2], 3)
        assert found.shape == expected.shape and np.abs(found - expected).max() <= 2  # it rounds twice each way


@pytest.mark.parametrize("image_size", [(8, 12), [8, 12]])
def test_a_set_of_rectangles(tmp_path, image_size):
    for index, size in enumerate([(31, 17), (12, 8), (200, 100)]):
        noise.resize(size).save(tmp_path / f"{index}.png")
    data = load("folder", directory=str(tmp_path), image_size=image_size)
    assert data.image_shape == (8, 12, 3)
    np.testing.assert_array_equal(data.read([1])["image"][0], np.asarray(noise.resize((12, 8))))


def test_resizing_keeps_a_flat_image_flat():
    flat = Image.new("RGB", (70, 51), (3, 141, 59))
    np.testing.assert_array_equal(to_array(flat, 16, 3), np.broadcast_to((3, 141, 59), (16, 16, 3)))


def test_an_image_too_elongated_to_resize_is_refused(tmp_path):
    width = MAX_PIXELS // 64**2 + 1
    Image.new("L", (width, 1)).save(tmp_path / "thread.png")
    with pytest.raises(DataError, match=r"too elongated.*thread\.png"):
        load("folder", directory=str(tmp_path), image_size=64)


def test_a_crop_is_cut_out_before_resizing():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(to_array(image, 0, 3, (7, 3, 12, 20)), pixels[7:19, 3:23])
    cut = Image.fromarray(pixels[4:20, 6:22])
    np.testing.assert_array_equal(to_array(image, 8, 3, (4, 6, 16, 16)), to_array(cut, 8, 3))
    with pytest.raises(ConfigError, match=r"data.crop=\(5, 0, 4, 8\) reaches beyond the 8x8 pixels .* Set data.crop"):
        load("digits", crop=(5, 0, 4, 8))
    assert load("digits", crop=(4, 0, 4, 8)).image_shape == (4, 8, 1)
