"""Images that a user gives to draw from: known parts of what is drawn (RePaint), or images to start from (SDEdit)."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ddx.data import given_images
from ddx.data.decode import to_array
from ddx.diffusion.catalogue import MEASURED_SOLVERS
from ddx.diffusion.reverse.inpaint import check_can_inpaint, with_jumps
from ddx.diffusion.reverse.solvers import make_solver
from ddx.runtime.errors import ConfigError, DataError
from ddx.runtime.paths import Path, optional_path
from ddx.runtime.pictures import grid
from ddx.sampling.sampler import Sampler
from ddx.system import System, make_process

UNKNOWN = 128  # the grey of pixels that are not known, in pictures
JUMP_LENGTH, NUM_RESAMPLES = 10, 10  # the paper's
_CELLS = 100  # of a picture
_STEM = 24  # characters of a file's name in a folder's, which may not be long


class Edit(NamedTuple):
    """What a user gives, as `ddx.sampling.sample` describes it; None for what is not given."""

    known: Path | None = None
    mask: Path | None = None
    jump_length: int | None = None
    num_resamples: int | None = None
    start: Path | None = None
    strength: float | None = None


NONE = Edit()


class Given(NamedTuple):
    """Images to draw from: sample i is drawn from the i-th, and, beyond them, from the first again."""

    images: np.ndarray  # (M, H, W, C) uint8
    mask: np.ndarray | None  # (M, H, W, 1) booleans, True where a pixel is known; None for images to start from

    def of(self, examples: np.ndarray) -> tuple[np.ndarray, ...]:
        """The images of samples, and their masks if parts of them are known."""
        rows = examples % len(self.images)
        return (self.images[rows],) if self.mask is None else (self.images[rows], self.mask[rows])


def make_edit(
    known: str | Path | None = None,
    mask: str | Path | None = None,
    jump_length: int | None = None,
    num_resamples: int | None = None,
    start: str | Path | None = None,
    strength: float | None = None,
) -> Edit:
    """What a user gives, checked as far as it can be before there need be a run.

    Raises:
      ConfigError: it does not go together, or a number is out of range.
    """
    if (known is None) != (mask is None):
        given, missing = ("known", "mask") if mask is None else ("mask", "known")
        raise ConfigError(f"--{given} needs --{missing}: images, and where they are known. Add --{missing}")
    if known is not None and start is not None:
        raise ConfigError("--known keeps parts of images and --start changes all of them. Give one of them")
    if (start is None) != (strength is None):
        have, missing = ("start", "strength, such as 0.5") if strength is None else ("strength", "start, an image")
        raise ConfigError(f"--{have} needs --{missing}. Add it")
    for name, number in (("jump_length", jump_length), ("num_resamples", num_resamples)):
        if number is not None and known is None:
            raise ConfigError(f"--{name} is of images with known parts. Leave it out, or add --known and --mask")
        is_whole = isinstance(number, int) and not isinstance(number, bool)
        if number is not None and not (is_whole and 1 <= number <= _MOST):
            raise ConfigError(f"{name}={number!r} must be an integer, at least 1 and at most {_MOST:,}")
    if strength is not None and not (isinstance(strength, int | float) and 0 < strength <= 1):
        raise ConfigError(
            f"strength={strength!r} must be a number above 0, which changes nothing, and at most 1, pure noise"
        )
    if known is not None:
        jump_length, num_resamples = jump_length or JUMP_LENGTH, num_resamples or NUM_RESAMPLES
    paths = (optional_path(path, f"--{name}") for name, path in (("known", known), ("mask", mask), ("start", start)))
    known, mask, start = paths
    return Edit(known, mask, jump_length, num_resamples, start, strength)


_MOST = 1000  # of either: a plan is in memory


def check(edit: Edit, config: ConfigDict) -> None:
    """Refuse, with a ConfigError, a process or a solver of which no part can be known; it needs no network."""
    if edit.known is None:
        return
    # One that is measured remembers as UniPC does, whose steps it takes.
    named = config.sample.solver
    try:
        check_can_inpaint(
            make_process(config), make_solver("unipc_3" if named in MEASURED_SOLVERS else named)._replace(name=named)
        )
    except ValueError as error:
        raise ConfigError(f"known: {error}") from None


def read(edit: Edit, system: System) -> Given | None:
    """The images of an edit, made as the run's own were, and its masks; None if there are none.

    Raises:
      DataError: they cannot be read; a mask has grey levels, or another size than the network's images; all masks are
        white everywhere, or black; or there are neither one nor as many masks as images.
    """
    path = edit.known or edit.start
    if path is None:
        return None
    images = given_images(path, system.conversion, system.image_shape)
    return Given(images, None if edit.mask is None else _masks(edit.mask, len(images), system.image_shape[:2]))


def _masks(path: Path, count: int, shape: tuple[int, int]) -> np.ndarray:
    height, width = shape

    def convert(picture: Any) -> np.ndarray:
        if picture.size != (width, height):
            found = f"{picture.size[1]} x {picture.size[0]}"
            raise ValueError(f"a mask must be {height} x {width}, as the network's images are, and this is {found}")
        return to_array(picture, 0, 1)

    grey = given_images(path, convert, (height, width, 1))
    between = np.setdiff1d(grey, (0, 255))
    if len(between):
        raise DataError(
            f"mask {path} has grey levels, such as {between[0]}; a mask is white where the image is known and black"
            " elsewhere. Save it as a PNG without smooth edges"
        )
    if (grey == grey.flat[0]).all():
        everywhere = "white everywhere, so nothing is drawn" if grey.flat[0] else "black everywhere, so nothing is kept"
        raise DataError(
            f"mask {path} is {everywhere}. Paint white what is known and black the rest; transparency is not looked at"
        )
    if len(grey) not in (1, count):
        raise DataError(f"{path} has {len(grey)} masks for {count} images. Give one, or one for each image")
    return np.broadcast_to(grey == 255, (count, height, width, 1))


def edited(how: Sampler, system: System, edit: Edit) -> Sampler:
    """A sampler whose plan has the jumps of an edit, if parts are known.

    Raises:
      ConfigError: the trajectory is too short for a jump.
    """
    if edit.jump_length is None or edit.num_resamples is None:
        return how
    try:
        return how._replace(plan=with_jumps(system.process, how.plan, edit.jump_length, edit.num_resamples))
    except ValueError as error:
        raise ConfigError(f"known: {error}") from None


class Edited(NamedTuple):
    """What a job says of an edit: in its record, in the name of its folder, in its last line."""

    told: dict[str, Any] = {}  # noqa: RUF012 - by key
    name: str = ""
    said: str = ""


def record(edit: Edit, given: Given | None) -> Edited:
    """What a job says of an edit; nothing if there is none."""
    if given is None:
        return Edited()
    of_images, *of_mask = (hashlib.sha256(array.tobytes()).hexdigest() for array in given if array is not None)
    if edit.start is not None:
        told = {"start": of_images, "strength": edit.strength}
        return Edited(
            told, f"_from_{edit.start.stem[:_STEM]}_{of_images[:8]}_strength{edit.strength:g}", " from images"
        )
    assert edit.known is not None and edit.mask is not None and given.mask is not None
    told = {"known": of_images, "mask": of_mask[0]}
    told |= {"jump_length": edit.jump_length, "num_resamples": edit.num_resamples}
    name = f"_known_{edit.known.stem[:_STEM]}_{of_images[:8]}_{edit.mask.stem[:_STEM]}_{of_mask[0][:8]}"
    name += f"_jumps{edit.jump_length}x{edit.num_resamples}"
    return Edited(told, name, f" with {np.mean(given.mask):.0%} of their pixels known")


def shown(given: Given, num_samples: int) -> np.ndarray:
    """The samples of a picture, (rows, columns): those drawn from one image are in a row."""
    count = len(given.images)
    columns = max(1, min(num_samples // count, _CELLS // 10 - 1))
    rows = min(count, num_samples, _CELLS // (columns + 1))
    return np.arange(rows)[:, None] + count * np.arange(columns)[None, :]


def beside(given: Given, samples: np.ndarray) -> np.ndarray:
    """A picture of samples (rows, columns, H, W, C), in each row after the image that they are drawn from.

    What is not known of it is grey.
    """
    images = given.images[: len(samples)]
    if given.mask is not None:
        images = np.where(given.mask[: len(samples)], images, np.uint8(UNKNOWN))
    rows = np.concatenate([images[:, None], samples], axis=1)
    return grid(rows.reshape(-1, *rows.shape[2:]), columns=rows.shape[1])
