"""Images for people: bytes, grids and PNG files."""

import math
from typing import Any

import numpy as np
from PIL import Image

from ddx.runtime.paths import Path
from ddx.runtime.storage import replacing

_GAP = 96  # a grey that stands out from black and from white images
_STRIP_COLUMNS, _STRIP_IMAGES = 10, 4  # of a film on one picture


def to_uint8(x: Any, low: float = -1.0, xp: Any = np) -> Any:
    """Images in [low, 1] as bytes, rounded: from -1 the exact inverse of x / 127.5 - 1.

    DDPM's, Improved DDPM's and IHDM's code truncate instead, which darkens by half a grey level. `xp` is NumPy, or
    jax.numpy in a graph.
    """
    return xp.rint((xp.clip(xp.asarray(x, np.float32), low, 1.0) - low) * (255.0 / (1.0 - low))).astype(np.uint8)


def as_seen(images: np.ndarray) -> np.ndarray:
    """Images (..., C) of any number of channels as those that a screen shows, (..., 1 or 3).

    One channel is grey and three are colours. Of two the first is red, the second green, and blue is 0; of four or more
    the first three are shown.
    """
    channels = images.shape[-1]
    if channels == 2:
        return np.concatenate([images, np.zeros_like(images[..., :1])], axis=-1)
    return images[..., :3] if channels > 3 else images


def grid(images: np.ndarray, columns: int = 0) -> np.ndarray:
    """A picture of many images, row by row, set apart by a gap.

    Args:
      images: (N, H, W, C) uint8, shown as `as_seen` says.
      columns: images a row; 0 for a nearly square picture.

    Returns:
      (rows * cell, columns * cell, 1 or 3) uint8; images under 64 pixels are enlarged by whole factors, so that people
      can see them.
    """
    images = as_seen(images)
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    scale = max(1, 64 // max(height, width))
    images = images.repeat(scale, 1).repeat(scale, 2)
    gap = max(2, images.shape[1] // 16)
    cell_height, cell_width = images.shape[1] + gap, images.shape[2] + gap
    picture = np.full((rows * cell_height + gap, columns * cell_width + gap, channels), _GAP, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * cell_height, gap + i % columns * cell_width
        picture[top : top + image.shape[0], left : left + image.shape[1]] = image
    return picture


def save_png(path: Path, picture: np.ndarray) -> None:
    """Write an (H, W, C) uint8 picture, as `as_seen` shows it."""
    with replacing(path) as temporary:
        _image(picture).save(temporary, format="PNG")


def save_gif(path: Path, frames: list[np.ndarray]) -> None:
    """Write (H, W, C) uint8 pictures as an endless film of four seconds; its last frame stands for one more."""
    images = [_image(frame) for frame in frames]
    each = max(20, 4000 // len(images))  # a GIF counts hundredths of a second
    durations = [each] * (len(images) - 1) + [each + 1000]
    with replacing(path) as temporary:
        images[0].save(temporary, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


def film_frames(x_t: np.ndarray, x_0: np.ndarray, last: np.ndarray) -> list[np.ndarray]:
    """Pictures of the way to some images: x_t on the left, the estimate of x_0 on the right; the images at the end.

    Args:
      x_t: (frames, N, H, W, C) uint8.
      x_0: like x_t.
      last: (N, H, W, C) uint8, what the way leads to.
    """
    pairs = [*zip(x_t, x_0, strict=True), (last, last)]
    return [np.concatenate([grid(left), grid(right)], axis=1) for left, right in pairs]


def film_strip(x_t: np.ndarray, x_0: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The same as one picture: two rows an image, x_t and the estimate of x_0, with time from left to right."""
    chosen = np.linspace(0, len(x_t) - 1, min(_STRIP_COLUMNS, len(x_t))).round().astype(int)
    rows = [
        np.concatenate([way[chosen, i], last[i : i + 1]])
        for i in range(min(_STRIP_IMAGES, len(last)))
        for way in (x_t, x_0)
    ]
    return grid(np.concatenate(rows), columns=len(chosen) + 1)


def _image(picture: np.ndarray) -> Image.Image:
    picture = as_seen(picture)
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
