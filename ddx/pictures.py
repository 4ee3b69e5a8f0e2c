"""Images for people: bytes, grids and PNG files."""

import math
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from ddx.files import replacing


def to_uint8(x: Any) -> np.ndarray:
    """Images in [-1, 1] as bytes, rounded: the exact inverse of x / 127.5 - 1.

    DDPM's and Improved DDPM's code truncate instead, which darkens by half a grey level.
    """
    return np.rint((np.clip(np.asarray(x, np.float32), -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def grid(images: np.ndarray, columns: int = 0) -> np.ndarray:
    """A picture of many images, row by row, set apart by a gap.

    Args:
      images: (N, H, W, C) uint8, C = 1 or 3.
      columns: images a row; 0 for a nearly square picture.

    Returns:
      (rows * cell, columns * cell, C) uint8; images under 64 pixels are enlarged by whole factors, so that a person can
      see them.
    """
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


def save_png(path: pathlib.Path, picture: np.ndarray) -> None:
    """Write an (H, W, 1 or 3) uint8 picture."""
    with replacing(path) as temporary:
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(temporary, format="PNG")


_GAP = 96  # a grey that stands out from black and from white images
