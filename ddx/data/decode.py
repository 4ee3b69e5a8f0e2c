"""From an image file's bytes to a uint8 array of the wanted size and channels.

What a file is comes from its content, not from its name, and only the formats below are tried. An animation gives its
first frame. Every failure is a `ValueError` that holds the reason alone; who knows where the bytes came from adds that.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ddx.runtime import storage
from ddx.runtime.paths import Path

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# Where Pillow starts to warn of a decompression bomb; it refuses only twice that, and its setting is process-wide.
MAX_PIXELS = 89_478_485
MAX_BYTES = 2**29  # of a file: more than so many pixels take in any of the formats


class CropError(ValueError):
    """An image does not hold the part that is to be cut out of it."""


class ChannelsError(ValueError):
    """An array of channels that no picture has is to be converted."""


@dataclass(frozen=True)
class Conversion:
    """How pictures become images of one size: the same way for those that a run trains on and those that it is given.

    Arrays of any number of channels that are to stay as they are do so. `size` is (H, W); None leaves pictures as large
    as they are. `crop` is cut out before they are resized.
    """

    channels: int
    size: tuple[int, int] | None = None
    crop: tuple[int, ...] = ()

    def keeps(self, picture: Image.Image | np.ndarray) -> bool:
        """Whether it is an array (H, W, C) that stays as it is."""
        if self.crop or not isinstance(picture, np.ndarray):
            return False
        return self.channels == picture.shape[-1] and self.size in (None, picture.shape[:2])

    def __call__(self, picture: Image.Image | np.ndarray) -> np.ndarray:
        """A decoded picture, or an array (H, W, C) uint8, as `to_array` gives it.

        Raises:
            CropError: the crop reaches beyond the picture.
            ChannelsError: an array is to change, and is no picture of 1 or 3 channels.
            ValueError: the picture cannot be resized, or images of other channels than pictures have are wanted.
        """
        if isinstance(picture, np.ndarray):
            if self.keeps(picture):
                return picture
            picture = _as_picture(picture)
        if self.channels not in (1, 3):
            raise ValueError(f"a picture has 1 or 3 channels, not {self.channels}")
        crop = self.crop
        if crop and (crop[0] + crop[2] > picture.height or crop[1] + crop[3] > picture.width):
            raise CropError(
                f"data.crop={crop} reaches beyond the {picture.height}x{picture.width} pixels (height x width)"
                " of an image"
            )
        return to_array(picture, self.size or 0, self.channels, crop)


def read_image(path: Path) -> Image.Image:
    """Decodes an image file, turned as its EXIF orientation asks.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no regular file (a pipe, or a device that never ends), too large, or no image.
    """
    size = storage.size(path)
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes, more than {MAX_BYTES}")
    return open_image(storage.read_bytes(path), upright=True)


def open_image(data: bytes, *, upright: bool) -> Image.Image:
    """Decodes an image completely, so that damage shows here.

    Args:
        data: the content of a file.
        upright: turn the image as its EXIF orientation asks.

    Raises:
        ValueError: the bytes are no image, damaged, or an image of more than MAX_PIXELS, which is refused before it is
            decoded.
    """
    if not data:
        raise ValueError("it is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}")
        image.load()
        return ImageOps.exif_transpose(image) if upright else image
    except UnidentifiedImageError:
        # Pillow's own text names a BytesIO object.
        raise ValueError(f"not an image of a known kind ({', '.join(FORMATS)})") from None
    # Pillow's parsers raise whatever the bytes lead them into: OSError, SyntaxError, struct.error...
    except Exception as error:
        raise ValueError(one_line(error)) from error


def to_array(image: Image.Image, size: int | tuple[int, int], channels: int, crop: tuple[int, ...] = ()) -> np.ndarray:
    """Converts to grey or RGB, cuts out a part, and resizes.

    Args:
        image: a decoded image of any mode. Transparency is dropped, 16-bit grey keeps its high byte as Pillow does for
            16-bit RGB.
        size: (H, W), or pixels a side of a square; 0 leaves the size alone. Larger images are halved with a box filter
            while they cover the size, then brought to the least size that covers it with a bicubic filter, and the
            centre is cut out (Improved DDPM's recipe for squares). An image of that size stays as it is.
        channels: 1 or 3.
        crop: (top, left, height, width), within the image, to cut out before it is resized; empty for all.

    Returns:
        (H, W, channels) uint8.

    Raises:
        ValueError: the image is so elongated that its resized form has more than MAX_PIXELS.
    """
    image = _to_channels(image, channels)
    if crop:
        top, left, height, width = crop
        image = image.crop((left, top, left + width, top + height))
    if size:
        image = _to_size(image, *(size if isinstance(size, tuple) else (size, size)))
    array = np.asarray(image, np.uint8)
    return array[..., None] if channels == 1 else array


def one_line(error: object) -> str:
    """The error's text as part of a sentence: no line breaks, no full stop, cut to a readable length."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _as_picture(array: np.ndarray) -> Image.Image:
    channels = array.shape[-1]
    if channels not in (1, 3):
        raise ChannelsError(
            f"images of {channels} channels cannot be cropped, resized or turned grey or coloured, only those of 1 or 3"
        )
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if channels == 1 else array))


def _to_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I;16"):  # convert("L") would clip every value over 255 to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA"):  # straight to RGB is a warning where the palette has transparency
        image = image.convert("RGBA")
    wanted = "L" if channels == 1 else "RGB"
    if image.mode not in ("L", wanted):  # every mode converts to RGB, not every one to grey
        image = image.convert("RGB")
    return image if image.mode == wanted else image.convert(wanted)


def _to_size(image: Image.Image, height: int, width: int) -> Image.Image:
    while image.height >= 2 * height and image.width >= 2 * width:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(height / image.height, width / image.width)
    # The side that decides the scale is exactly as long as asked for; rounding must not make the other one shorter.
    across, down = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    if across * down > MAX_PIXELS:
        raise ValueError(f"too elongated to resize ({image.width}x{image.height} to {across}x{down} pixels)")
    image = image.resize((across, down), Image.Resampling.BICUBIC)
    left, top = (across - width) // 2, (down - height) // 2
    return image.crop((left, top, left + width, top + height))
