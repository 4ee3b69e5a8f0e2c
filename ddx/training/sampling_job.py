"""A sampling job: from the folder of a run to many images, which may be interrupted at any moment.

samples.json     the job: whose weights, which settings; "sha256" of samples.npz when it is finished
parts/           batches, each written when it is drawn, until the job is finished
samples.npz      "samples": (N, H, W, C) uint8
grid.png         the first images
film.gif, .png   the way to the first of them, if asked for; drawn apart, so that it changes no sample
"""

import contextlib
import json
import pathlib
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ddx import build
from ddx.errors import ConfigError
from ddx.files import digest, make_directory, remove_temporaries, replacing, sha256, write_json
from ddx.generation import Generator
from ddx.pictures import film_frames, film_strip, grid, save_gif, save_png
from ddx.training import trained
from ddx.training.workdir import lock

GRID_IMAGES = 100  # at most so many in the picture; all are in samples.npz
FILM = ("film.gif", "film.png")
FILM_IMAGES, FILM_FRAMES = 16, 40


def sample(
    workdir: str | pathlib.Path,
    num_samples: int = 64,
    *,
    sampler: str | None = None,
    num_steps: int | None = None,
    trajectory: str | None = None,
    solver: str | None = None,
    eta: float | None = None,
    variance: str | None = None,
    clip: bool | None = None,
    preset: str | None = None,
    labels: tuple[int, ...] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    step: int | None = None,
    gif: bool = False,
    out: str | pathlib.Path | None = None,
) -> str:
    """Draw images from the averaged weights of a run's checkpoint. Image i depends only on (seed, i).

    Interrupted and called again with the same arguments, the job goes on after the last batch that was written and ends
    in the same bits; finished, it changes nothing.

    Args:
      workdir: folder of a training run; process, network and weights come from there.
      num_samples: N.
      sampler: "ddim" or "ancestral"; None, here and below, for the run's own setting.
      num_steps: steps a sample.
      trajectory: the times to visit, as `ddx.trajectory` names them.
      solver: "euler", "heun", "dpmpp_2m" or "dpmpp_3m".
      eta: stochasticity of ddim.
      variance: reverse variance of the ancestral sampler.
      clip: clip the estimate of x_0.
      preset: a paper's setting, one of `ddx.keys.SAMPLING_PRESETS`, changed by what else is given.
      labels: classes of the images, of a network that knows classes, and from the first again; None for all in turn.
      seed: names the noise.
      batch_size: images drawn at once.
      step: of the checkpoint; None for the newest, or for that of the job to go on with in `out`.
      gif: also write the way from noise to the first images as film.gif and film.png.
      out: folder to write to; None for one in the workdir named after the settings.

    Returns:
      A line that says what was written.

    Raises:
      ConfigError: a setting is invalid, or `out` holds another job.
      CheckpointError: the folder has no run, or no usable checkpoint.
    """
    workdir = pathlib.Path(workdir)
    if num_samples < 1:
        raise ConfigError(f"num_samples={num_samples} must be at least 1")
    if out is not None and step is None:
        step = _read_record(pathlib.Path(out)).get("step")
    source = trained.load(workdir, step)
    config = trained.settings(
        source.system.config,
        seed,
        preset,
        sampler=sampler,
        num_steps=num_steps,
        trajectory=trajectory,
        solver=solver,
        eta=eta,
        variance=variance,
        clip=clip,
        batch_size=batch_size,
    )
    how = build.sampler(config, source.system)
    labels = trained.classes(source.system, labels)
    generator = Generator(source.system, how, labels=labels)
    record: dict[str, Any] = {
        "workdir": str(workdir),
        "step": source.step,
        "weights": source.seal,
        "num_samples": num_samples,
        "seed": seed,
        "labels": list(labels),
        "at_once": generator.batch_size(num_samples),
        "sample": config.sample.to_dict(),
    }
    name = f"step{source.step}_seed{seed}_n{num_samples}_{trained.describe(config)}"
    name += f"_class{'-'.join(map(str, labels))}" * bool(labels)
    out = pathlib.Path(out) if out else workdir / "sampled" / name
    with lock(out, "--out"):
        before = _read_record(out)
        _check_same_job(out, before, record)
        remove_temporaries(out)
        finished = _is_finished(out, before)
        if not finished:
            write_json(out / "samples.json", record)
            _draw(generator, source.params, record, out / "parts")
            _finish(out, record, source.system.image_shape)
        _remove_parts(out / "parts", record)
        filmed = not gif or all((out / name).exists() for name in FILM)
        if not filmed:
            _film(Generator(source.system, how, _frames(how.times), labels), source.params, record, out)
    said = "already there:" if finished and filmed else "wrote"
    written = ", ".join(("samples.npz", "grid.png", *(FILM if gif else ())))
    return f"{said} {num_samples} samples of step {source.step}, {len(how.times) - 1} steps each: {out}/{written}"


def _draw(generator: Generator, params: Any, record: dict[str, Any], parts: pathlib.Path) -> None:
    """Draw the batches that are not in the folder yet."""
    make_directory(parts, "--out")
    remove_temporaries(parts)
    done = frozenset(start for start in _starts(record) if _read_part(parts, start, record) is not None)
    for batch in generator.batches(params, record["seed"], record["num_samples"], done):
        with replacing(_part(parts, batch.start)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, samples=batch.images, job=np.array(_job(record)))


def _finish(out: pathlib.Path, record: dict[str, Any], image_shape: tuple[int, int, int]) -> None:
    """Put the batches together. Only one is in memory at a time."""
    shape = (record["num_samples"], *image_shape)
    shown: list[np.ndarray] = []
    with replacing(out / "samples.npz") as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            # A fixed date: the same samples are the same file.
            entry = zipfile.ZipInfo("samples.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
                for images in _images(out / "parts", record):
                    file.write(images.tobytes())
                    if sum(map(len, shown)) < GRID_IMAGES:
                        shown.append(images)
    save_png(out / "grid.png", grid(np.concatenate(shown)[:GRID_IMAGES]))
    write_json(out / "samples.json", record | {"sha256": sha256(out / "samples.npz")})


def _is_finished(out: pathlib.Path, before: dict[str, Any]) -> bool:
    files = out / "samples.npz", out / "grid.png"
    return "sha256" in before and all(path.is_file() for path in files) and sha256(files[0]) == before["sha256"]


def _film(generator: Generator, params: Any, record: dict[str, Any], out: pathlib.Path) -> None:
    """Draw the first images once more, and the way to them."""
    batch = next(generator.batches(params, record["seed"], min(FILM_IMAGES, record["at_once"], record["num_samples"])))
    assert batch.film is not None
    save_png(out / "film.png", film_strip(batch.film.x_t, batch.film.x_0, batch.images))
    save_gif(out / "film.gif", film_frames(batch.film.x_t, batch.film.x_0, batch.images))


def _remove_parts(parts: pathlib.Path, record: dict[str, Any]) -> None:
    for start in _starts(record):
        _part(parts, start).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or somebody else's files are in it
        parts.rmdir()


def _starts(record: dict[str, Any]) -> range:
    return range(0, record["num_samples"], record["at_once"])


def _job(record: dict[str, Any]) -> str:
    """Tells the batches of one job from those of another; where the run's folder lies does not matter."""
    return digest({key: value for key, value in record.items() if key != "workdir"})


def _images(parts: pathlib.Path, record: dict[str, Any]) -> Iterator[np.ndarray]:
    for start in _starts(record):
        images = _read_part(parts, start, record)
        assert images is not None
        yield images


def _part(parts: pathlib.Path, start: int) -> pathlib.Path:
    return parts / f"{start:08d}.npz"


def _read_part(parts: pathlib.Path, start: int, record: dict[str, Any]) -> np.ndarray | None:
    """A batch, or None if it is not there; one that is damaged or of another job is not there."""
    path = _part(parts, start)
    try:
        with np.load(path, allow_pickle=False) as file:
            images, job = file["samples"], str(file["job"])
        if job == _job(record):
            return images
        problem = "it belongs to another job"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        problem = str(error)
    warnings.warn(f"{path} cannot be used ({problem}); drawing it again", stacklevel=2)
    return None


def _read_record(out: pathlib.Path) -> dict[str, Any]:
    """samples.json, empty if there is none."""
    path = out / "samples.json"
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path} ({error}). Remove it, or use another --out") from None
    if not isinstance(record, dict) or not isinstance(record.get("sample"), dict):
        raise ConfigError(f"{path} describes no sampling job. Remove it, or use another --out")
    return record


def _check_same_job(out: pathlib.Path, before: dict[str, Any], record: dict[str, Any]) -> None:
    """Refuse to mix the batches of two jobs."""
    if not before:
        return

    def flat(job: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in job.items() if key not in ("workdir", "sha256", "sample")}
        return given | {f"sample.{key}": value for key, value in job.get("sample", {}).items() if key != "num_images"}

    old, new = flat(before), flat(json.loads(json.dumps(record)))
    different = [f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]
    if different:
        raise ConfigError(
            f"{out} holds samples of another job ({'; '.join(different[:5])}). Use another --out, or remove it"
        )


def _frames(times: tuple[int, ...]) -> tuple[int, ...]:
    """Times to film: all that are visited, or FILM_FRAMES of them evenly."""
    count = min(FILM_FRAMES, len(times) - 1)
    chosen = np.unique(np.linspace(0, len(times) - 2, count).round().astype(int))
    return tuple(times[i] for i in chosen)
