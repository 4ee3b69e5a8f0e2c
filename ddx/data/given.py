"""Images that a user hands to a command: a picture, a folder of pictures, or a NumPy file."""

import math
import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image

from ddx.data.datasets import Shape, decode
from ddx.data.decode import CropError, one_line, read_image
from ddx.data.npy import SUFFIXES, Header, headers, name_of_images, reading
from ddx.data.sources import folder
from ddx.runtime import storage
from ddx.runtime.errors import DataError
from ddx.runtime.paths import Path, user_path

MAX_BYTES = 2**31  # of pixels: they are all in memory, also as floats
T = TypeVar("T")
Convert = Callable[[Image.Image], np.ndarray]


def given_images(path: str | os.PathLike[str], convert: Convert, shape: Shape) -> np.ndarray:
    """The images at a path, (N, H, W, C) uint8 of the wanted shape.

    Args:
        path: an image file; a folder of them as `ddx.data.sources.folder` reads all of it, in its order; a .npy file of
            uint8 images, or an .npz file of them under "samples" or alone in it.
        convert: brings a picture to the shape: the `Conversion` of what a run trains on, so that both are the same.
            Arrays are taken as they are.
        shape: (H, W, C), which arrays must have.

    Raises:
        ConfigError: it is no path.
        DataError: there are none, or they cannot be used.
    """
    path = user_path(path, "images")
    if path.suffix in SUFFIXES:
        return _array(path, shape)
    if storage.is_dir(path):
        return _folder(path, convert, shape)
    try:
        picture = read_image(path)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}). Name an image, a folder or an .npz file") from None
    except ValueError as error:
        raise DataError(f"image cannot be used: {one_line(error)}. {path}. Name another") from None
    return _converted(picture, convert, shape, str(path))[None]


def _folder(path: Path, convert: Convert, shape: Shape) -> np.ndarray:
    source = folder(str(path), "all", "Name an image, a folder of images or an .npz file.")
    _check_size(path, source.num_examples, shape)

    def converted(index: int, picture: Image.Image) -> np.ndarray:
        return _converted(picture, convert, shape, source.where(index))

    return decode(source, converted, shape, np.arange(source.num_examples))[0]


def _converted(picture: Image.Image, convert: Convert, shape: Shape, where: str) -> np.ndarray:
    try:
        return convert(picture)
    except CropError as error:
        wanted = ", ".join(map(str, shape))
        raise DataError(
            f"{error}. {where}. Give pictures like those that the run was trained on, or, if they are cut out already,"
            f" an .npz file of uint8 (N, {wanted})"
        ) from None
    except ValueError as error:
        raise DataError(f"image cannot be used: {one_line(error)}. {where}. Name another") from None


def _array(path: Path, shape: Shape) -> np.ndarray:
    here = _read(path, lambda: storage.on_this_machine(path))  # once: it is looked at before it is read
    name, (found, dtype) = _read(path, lambda: _described(here))
    if dtype != np.uint8 or found[1:] != shape or found[0] < 1:
        wanted = ", ".join(map(str, shape))
        raise DataError(f"{path} holds {dtype} of shape {found}; expected uint8 (N, {wanted})")
    _check_size(path, found[0], shape)

    def read() -> np.ndarray:
        content = np.load(here, allow_pickle=False)
        images: np.ndarray = content[name] if name else content
        return images

    return _read(path, read)


def _read(path: Path, read: Callable[[], T]) -> T:
    def of_regular_file() -> T:
        storage.size(path)  # refuses any other
        return read()

    return reading(path, of_regular_file, "Name an .npy or .npz file of images")


def _described(path: Path) -> tuple[str, Header]:
    """The name of the images in an .npz file, "" for an .npy file, and what they are."""
    held = headers(path)
    name = name_of_images(held)
    if name is None:
        raise DataError(f"{path} has no array 'images'. Store the images under that name")
    return name, held[name]


def _check_size(path: Path, count: int, shape: Shape) -> None:
    if count * math.prod(shape) > MAX_BYTES:
        raise DataError(
            f"{path} holds {count} images of {' x '.join(map(str, shape))}, too many for memory."
            f" Give at most {MAX_BYTES // math.prod(shape)} at once"
        )
