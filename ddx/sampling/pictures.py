"""Pictures of samples besides their grid: the film of the way to them, and a file for each."""

import math
import zipfile
from typing import Any

import numpy as np

from ddx.diffusion.arrays import Trajectory
from ddx.runtime import folders, storage
from ddx.runtime.errors import ConfigError
from ddx.runtime.folders import make_directory, remove_temporaries
from ddx.runtime.paths import Path
from ddx.runtime.pictures import film_frames, film_strip, save_gif, save_png
from ddx.sampling.generator import Generator
from ddx.system import System

FILM = ("film.gif", "film.png")
FILM_IMAGES, FILM_FRAMES = 16, 40


def check_png(system: System) -> None:
    """Refuse, before anything is drawn, files that would not hold the images."""
    channels = system.image_shape[-1]
    if channels not in (1, 3):
        raise ConfigError(
            f"png: a PNG holds 1 or 3 channels, and these have {channels}. Leave out --png; samples.npz holds them"
        )


def write_pngs(out: Path, count: int) -> int:
    """Write each sample that has no file yet, one in memory at a time; how many were written."""
    folder = out / "png"
    make_directory(folder, "--out")
    remove_temporaries(folder)
    paths = [folder / f"{i:0{max(6, len(str(count - 1)))}d}.png" for i in range(count)]
    there = set(folders.names(folder))
    missing = {path for path in paths if path.name not in there}
    if missing:
        with (
            storage.opened(out / "samples.npz") as whole,
            zipfile.ZipFile(whole) as archive,
            archive.open("samples.npy") as file,
        ):
            np.lib.format.read_magic(file)
            shape = np.lib.format.read_array_header_2_0(file)[0][1:]
            for path in paths:
                image = np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)
                if path in missing:
                    save_png(path, image)
    return len(missing)


def film(generator: Generator, params: Any, record: dict[str, Any], out: Path) -> None:
    """Draw the first images once more, and the way to them."""
    batch = next(generator.batches(params, record["seed"], min(FILM_IMAGES, record["at_once"], record["num_samples"])))
    assert batch.film is not None
    x_t, x_0 = (np.asarray(x) for x in batch.film)
    save_png(out / "film.png", film_strip(x_t, x_0, batch.images))
    save_gif(out / "film.gif", film_frames(x_t, x_0, batch.images))


def frames(times: Trajectory) -> Trajectory:
    """Times to film: all that are visited, or FILM_FRAMES of them evenly."""
    count = min(FILM_FRAMES, len(times) - 1)
    chosen = np.unique(np.linspace(0, len(times) - 2, count).round().astype(int))
    return tuple(times[i] for i in chosen)
