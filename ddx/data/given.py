"""Images that a user hands to a command: a picture, a folder of pictures, or a NumPy file."""

import pathlib
import zipfile

import numpy as np

from ddx.data.datasets import Shape, load
from ddx.data.decode import one_line, open_image, to_array
from ddx.errors import DataError


def given_images(path: pathlib.Path, shape: Shape) -> np.ndarray:
    """The images at a path, (N, H, W, C) uint8 of the wanted shape.

    Args:
        path: an image file; a folder as `load("folder")` reads it, in its order; a .npy file of uint8 images, or an
            .npz file of them under "samples" or alone in it.
        shape: (H, W, C) to convert pictures to (centre-cropped where H = W); arrays must have it.

    Raises:
        DataError: there are none, or they cannot be used.
    """
    if path.suffix in (".npy", ".npz"):
        return _array(path, shape)
    if path.is_dir():
        dataset = load("folder", directory=str(path), image_size=shape[0], channels=shape[-1])
        images = dataset.read(np.arange(dataset.num_examples))["image"]
    else:
        try:
            image = open_image(path.read_bytes(), upright=True)
            images = to_array(image, shape[0], shape[-1])[None]
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror}). Name an image, a folder or an .npz file") from None
        except ValueError as error:
            raise DataError(f"image cannot be used: {one_line(error)}. {path}. Name another") from None
    if images.shape[1:] != shape:
        raise DataError(f"images of {path} have the shape {images.shape[1:]}, the network's are {shape}. Resize them")
    return images


def _array(path: pathlib.Path, shape: Shape) -> np.ndarray:
    try:
        content = np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            content = content["samples" if "samples" in content.files or len(content.files) != 1 else content.files[0]]
    except KeyError:
        raise DataError(f"{path} has no array 'samples'. Store the images under that name") from None
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {path} ({one_line(error)}). Name an .npy or .npz file of images") from None
    if content.dtype != np.uint8 or content.shape[1:] != shape or not len(content):
        raise DataError(
            f"{path} holds {content.dtype} of shape {content.shape}; expected uint8 (N, {', '.join(map(str, shape))})"
        )
    return content
