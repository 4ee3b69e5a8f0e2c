"""A picture of the forward process: how DDPM, Blurring Diffusion and heat take an image apart."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ddx.data import load
from ddx.data.augment import to_float
from ddx.data.decode import one_line, read_image, to_array
from ddx.data.sources import folder
from ddx.diffusion.forward.gaussian import q_sample
from ddx.diffusion.forward.process import Process
from ddx.diffusion.papers.blurring import blurring
from ddx.diffusion.papers.ddpm import ddpm
from ddx.diffusion.papers.ihdm import ihdm
from ddx.diffusion.random import example_keys, seed_key, white_noise
from ddx.runtime import devices, storage
from ddx.runtime.errors import ConfigError, DataError
from ddx.runtime.folders import make_directory
from ddx.runtime.paths import Path, optional_path, user_path
from ddx.runtime.pictures import to_uint8
from ddx.runtime.storage import replacing

MOST_IMAGES, MOST_COLUMNS, MOST_PIXELS = 4, 50, 256
_LABELS = ("DDPM", "Blurring\nDiffusion", "IHDM")
_LEFT, _TOP, _FONT, _PAD = 1.05, 0.4, 0.18, 0.05  # beside the pictures, for labels; in widths of one
_DPI = 128  # a power of two: sizes in inches are exact


@devices.job("drawing", "Show fewer or smaller images")
def forward(
    images: str | Path | None = None,
    *,
    num_columns: int = 9,
    sigma_blur_max: float | None = None,
    seed: int = 0,
    out: str | Path = "forward",
) -> str:
    """Draw x_t ~ q(x_t | x_0) of images under three processes: a row for each, time goes from left to right.

    Args:
      images: a picture, or a folder of them, of which the first 4 are taken. They are cut to squares of the size of the
        first, of 256 pixels at most. None for a digit.
      num_columns: times to show, 2 to 50, evenly from 0, the images themselves, to T.
      sigma_blur_max: standard deviation of the blur at T, in pixels; None for half the height of the images.
      seed: names the noise.
      out: the PNG file to write; ".png" may be left out.

    Returns:
      A line that says what was written.

    Raises:
      ConfigError: an argument cannot be used.
      DataError: the images cannot be read.
      AcceleratorError, OutOfMemoryError: as `ddx.runtime.devices.job` says.
    """
    out, images = user_path(out, "--out"), optional_path(images, "--images")
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed} must be at least 0 and below 4,294,967,296")
    name = out.name.removesuffix(".png")
    path = out.parent / f"{name}.png"
    if name in ("", ".", "..") or storage.is_dir(path):
        raise ConfigError(f"--out={out} names no file. Give one, such as --out=forward.png")
    x_0 = load("digits").read(np.zeros(1, int))["image"] if images is None else _read(images)
    _check(x_0, num_columns, sigma_blur_max)
    make_directory(path.parent, "--out")
    rows = forward_rows(x_0, num_columns, sigma_blur_max, seed)
    _save(path, rows)
    return f"wrote {path}"


def forward_rows(
    images: np.ndarray, num_columns: int = 9, sigma_blur_max: float | None = None, seed: int = 0
) -> np.ndarray:
    """The pictures of `forward` as an array.

    DDPM has the cosine schedule, so that Blurring Diffusion differs from it in the blur alone. Image i has the same
    noise in all rows and columns, which depends only on (seed, i). What leaves the range of the data is clipped.

    Args:
      images: (N, H, W, C) uint8.
      num_columns: K.
      sigma_blur_max: as in `forward`.
      seed: as in `forward`.

    Returns:
      (N, 3, K, H, W, C) uint8.

    Raises:
      ConfigError: an argument cannot be used.
    """
    blur = _check(images, num_columns, sigma_blur_max)
    processes = (
        ddpm(schedule="cosine"),
        blurring(sigma_blur_max=blur),
        ihdm(sigma_blur_min=min(0.5, blur), sigma_blur_max=blur),
    )
    noise = white_noise(example_keys(seed_key(seed), np.arange(len(images))), images.shape[1:])
    pairs = zip(images, noise, strict=True)
    return np.stack([[_row(process, *pair, num_columns) for process in processes] for pair in pairs])


def _check(images: np.ndarray, num_columns: int, sigma_blur_max: float | None) -> float:
    """The blur at T, of arguments that can be used."""
    blur = 0.5 * images.shape[1] if sigma_blur_max is None else sigma_blur_max
    if not 0 < blur <= 1e6:
        raise ConfigError(
            f"sigma_blur_max={blur} must be above 0 and at most 1,000,000; half the height of the images is usual"
        )
    if not 2 <= num_columns <= MOST_COLUMNS:
        raise ConfigError(f"num_columns={num_columns} must be 2 to {MOST_COLUMNS}")
    return blur


def _row(process: Process, image: np.ndarray, noise: jax.Array, num_columns: int) -> np.ndarray:
    """An image (H, W, C) at times from 0 to T, (K, H, W, C) uint8, with the same noise (H, W, C) at all."""
    times = np.linspace(0, process.num_steps, num_columns)[1:]
    x_0 = jnp.broadcast_to(to_float(image, process.low), (len(times), *image.shape))
    x_t = q_sample(process, x_0, times if process.continuous else times.round(), noise)
    return np.concatenate([image[None], to_uint8(x_t, process.low)])


def _read(path: Path) -> np.ndarray:
    """The first pictures at a path, (N, H, W, C) uint8, squares of the size and with the channels of the first."""
    try:
        pictures = _folder(path) if storage.is_dir(path) else [read_image(path)]
        size, channels = min(MOST_PIXELS, *pictures[0].size), 1 if _is_grey(pictures[0]) else 3
        return np.stack([to_array(picture, size, channels) for picture in pictures])
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}). Name an image or a folder of images") from None
    except ValueError as error:
        raise DataError(f"image cannot be used: {one_line(error)}. {path}. Name another") from None


def _folder(path: Path) -> list[Image.Image]:
    source = folder(str(path), "all", "Name an image or a folder of images.")
    return [picture for picture, _ in source.examples(range(min(MOST_IMAGES, source.num_examples)))]


def _is_grey(picture: Image.Image) -> bool:
    return picture.mode in ("1", "L", "LA") or picture.mode.startswith("I;16")


def _save(path: Path, rows: np.ndarray) -> None:
    """Write rows (N, 3, K, H, W, C) as one picture with labels, every pixel as many whole ones of the file."""
    n, processes, columns, height, width, channels = rows.shape
    scale = max(1, 128 // max(height, width))
    gap = max(2, width * scale // 32)
    cells = rows.repeat(scale, 3).repeat(scale, 4)
    cells = np.pad(cells, ((0, 0),) * 3 + ((gap, gap),) * 2 + ((0, 0),), constant_values=255)
    height, width = cells.shape[3:5]
    blocks = cells.transpose(0, 1, 3, 2, 4, 5).reshape(n, processes * height, columns * width, channels)
    blocks = np.pad(blocks, ((0, 0), (0, 4 * gap), (0, 0), (0, 0)), constant_values=255)  # set images apart
    picture = blocks.reshape(-1, *blocks.shape[2:])[: -4 * gap]
    middles = blocks.shape[1] * np.arange(n)[:, None] + height * (np.arange(processes) + 0.5)

    left, top = round(_LEFT * width), round(_TOP * width)
    across, down = left + picture.shape[1], top + picture.shape[0]
    figure = Figure(figsize=(across / _DPI, down / _DPI), dpi=_DPI)
    axes = figure.add_axes((left / across, 0.0, picture.shape[1] / across, picture.shape[0] / down))
    colours = np.broadcast_to(picture, (*picture.shape[:2], 3))  # a colour map would round the greys
    axes.imshow(colours, interpolation="nearest", aspect="auto")
    axes.set_xticks(width * (np.arange(columns) + 0.5), [_time(i, columns - 1) for i in range(columns)])
    axes.set_yticks(middles.ravel(), _LABELS * n)
    axes.tick_params(length=0, labelsize=_FONT * width * 72 / _DPI, pad=_PAD * width * 72 / _DPI)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _time(i: int, last: int) -> str:
    """The time i T / last: "t = 0", "T/8", "T/4", "3T/8", ..., "T"."""
    part = fractions.Fraction(i, last)
    factor = "" if part.numerator == 1 else str(part.numerator)
    return f"{factor}T" + (f"/{part.denominator}" if part.denominator > 1 else "") if i else "t = 0"
