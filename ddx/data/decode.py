"""From an image file's bytes to a uint8 array of the wanted size and channels.

What a file is comes from its content, not from its name, and only the formats below are tried. An animation gives its
first frame. Every failure is a `ValueError` that holds the reason alone; who knows where the bytes came from adds that.
"""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# Where Pillow starts to warn of a decompression bomb; it refuses only twice that, and its setting is process-wide.
MAX_PIXELS = 89_478_485


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


def to_array(image: Image.Image, size: int, channels: int, crop: tuple[int, ...] = ()) -> np.ndarray:
    """Converts to grey or RGB, cuts out a part, and resizes to a square.

    Args:
        image: a decoded image of any mode. Transparency is dropped, 16-bit grey keeps its high byte as Pillow does for
            16-bit RGB.
        size: pixels a side; 0 leaves the size alone. Larger images are halved with a box filter while both sides stay
            >= size, then the short side is brought to size with a bicubic filter and the centre is cut out (Improved
            DDPM's recipe).
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
        image = _to_square(image, size)
    array = np.asarray(image, np.uint8)
    return array[..., None] if channels == 1 else array


def one_line(error: object) -> str:
    """The error's text as part of a sentence: no line breaks, no full stop, cut to a readable length."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _to_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I;16"):  # convert("L") would clip every value over 255 to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA"):  # straight to RGB is a warning where the palette has transparency
        image = image.convert("RGBA")
    wanted = "L" if channels == 1 else "RGB"
    if image.mode not in ("L", wanted):  # every mode converts to RGB, not every one to grey
        image = image.convert("RGB")
    return image if image.mode == wanted else image.convert(wanted)


def _to_square(image: Image.Image, size: int) -> Image.Image:
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if width * height > MAX_PIXELS:
        raise ValueError(f"too elongated to resize ({image.width}x{image.height} to {width}x{height} pixels)")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
