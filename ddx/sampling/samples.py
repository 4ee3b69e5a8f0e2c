"""A sampling job: from the folder of a run to many images, which may be interrupted at any moment.

samples.json     the job, see `ddx.runs.job`; "sha256" of samples.npz when it is finished
samples.npz      "samples": (N, H, W, C) uint8
grid.png         the first images
film.gif, .png   the way to the first of them, if asked for; drawn apart, so that it changes no sample
"""

import hashlib
import pathlib
import zipfile
from typing import Any

import numpy as np

from ddx.diffusion.arrays import Trajectory
from ddx.diffusion.catalogue import OPTIMAL_VARIANCES
from ddx.runs import trained
from ddx.runs.data import fingerprint_of, training_images
from ddx.runs.job import Job, working
from ddx.runtime import parallel
from ddx.runtime.arguments import integers
from ddx.runtime.errors import ConfigError
from ddx.runtime.files import local_path, optional_path, replacing, sha256
from ddx.runtime.pictures import film_frames, film_strip, grid, save_gif, save_png
from ddx.sampling import measured
from ddx.sampling.generator import Generator
from ddx.sampling.sampler import make_sampler
from ddx.sampling.settings import describe, sampling_config, to_tell

GRID_IMAGES = 100  # at most so many in the picture; all are in samples.npz
FILM = ("film.gif", "film.png")
FILM_IMAGES, FILM_FRAMES = 16, 40


@parallel.job("sampling", parallel.FEWER_AT_ONCE)
def sample(
    workdir: str | pathlib.Path,
    num_samples: int = 64,
    *,
    preset: str | None = None,
    labels: tuple[int, ...] | None = None,
    low_res: str | pathlib.Path | None = None,
    seed: int = 0,
    step: int | None = None,
    gif: bool = False,
    data_dir: str | pathlib.Path | None = None,
    out: str | pathlib.Path | None = None,
    **settings: Any,
) -> str:
    """Draw images from the averaged weights of a run's checkpoint. Image i depends only on (seed, i).

    Interrupted and called again with the same arguments, the job goes on after the last batch that was written and ends
    in the same bits; finished, it changes nothing.

    Args:
      workdir: folder of a training run; process, network and weights come from there.
      num_samples: N.
      preset: a paper's setting, one of `ddx.config.keys.SAMPLING_PRESETS`, changed by what else is given.
      labels: classes of the images, of a network that knows classes, and from the first again; None for all in turn.
      low_res: for a super-resolution network, the images to enlarge, and from the first again: a folder, a .npy or an
        .npz file, such as the samples.npz of a smaller network.
      seed: names the noise.
      step: of the checkpoint; None for the newest, or for that of the job to go on with in `out`.
      gif: also write the way from noise to the first images as film.gif and film.png.
      data_dir: where the training set lies from whose images ihdm starts, if not where the run found it.
      out: folder to write to; None for one in the workdir named after the settings.
      **settings: those of `ddx.config.keys.SAMPLING`, such as sampler, num_steps, eta, solver, variance, clip or
        batch_size; what is not given, or None, is the run's own. Besides the variances of a config there are the
        `OPTIMAL_VARIANCES` of `ddx.diffusion.catalogue` for every sampler: the analytic ones need the run's statistics,
        "sn" and "npr" a network with such a head. The trajectory "optimal" needs statistics too.

    Returns:
      A line that says what was written.

    Raises:
      ConfigError: a setting is invalid, or `out` holds another job.
      CheckpointError: the folder has no run, or no usable checkpoint.
      DataError: the images to enlarge cannot be read.
      AcceleratorError, OutOfMemoryError: as `ddx.runtime.parallel.job` says.
    """
    workdir, out = local_path(workdir, "--workdir"), optional_path(out, "--out")
    low_res = optional_path(low_res, "--low_res")
    data_dir = optional_path(data_dir, "--data_dir")
    labels = None if labels is None else integers("labels", labels)
    if num_samples < 1:
        raise ConfigError(f"num_samples={num_samples} must be at least 1")
    source = trained.load_for_job(workdir, step, out, "samples", settings.get("weights"))
    variance, trajectory = settings.get("variance"), settings.get("trajectory")
    if trajectory == "optimal":
        settings["trajectory"] = _optimal(source, workdir, settings)
    if variance in OPTIMAL_VARIANCES:
        settings["variance"] = None  # of no config
    config = sampling_config(source.system.config, seed, preset, **settings)
    chosen_name = str(variance or config.sample.variance)
    system, chosen = measured.variance(source, workdir, chosen_name, config.sample.clip)
    how = make_sampler(config, system, chosen)
    if chosen is not None:
        how = measured.as_published(how, chosen, chosen_name, system.process.low)
    told = to_tell(source.system, labels, low_res)
    images = training_images(source, data_dir)
    generator = Generator(system, how, told=told, images=images)
    record: dict[str, Any] = {
        **trained.identity(source, workdir),
        "num_samples": num_samples,
        "seed": seed,
        "labels": list(labels or ()),
        "at_once": generator.batch_size(num_samples),
        "sample": config.sample.to_dict() | {"variance": chosen_name},
        **measured.origin(source, workdir, chosen_name, config.sample.clip),
    }
    described = describe(config, None if chosen is None else chosen_name)
    name = f"step{source.step}_seed{seed}_n{num_samples}_{described}"
    name += f"_class{'-'.join(map(str, labels))}" if labels else ""
    if low_res is not None:
        record["low_res"] = hashlib.sha256(told["low_res"].tobytes()).hexdigest()
        name += f"_of_{low_res.stem}_{record['low_res'][:8]}"
    if images is not None:
        record["starts_from"] = f"{images.num_examples} images of {images.name} {source.system.config.data.split}"
        record["starts_from_checksum"] = fingerprint_of(images, np.arange(images.num_examples))
    out = out or workdir / "sampled" / name
    with working(out):
        job = Job(out, "samples", record, num_samples, record["at_once"], fixed=True)
        finished = _is_finished(out, job.before)
        if not finished:
            for batch in generator.batches(source.params, seed, num_samples, job.begin()):
                job.write(batch.start, samples=batch.images)
            _finish(out, job, (num_samples, *source.system.image_shape))
        job.remove_parts()
        filmed = not gif or all((out / name).exists() for name in FILM)
        if not filmed:
            _film(Generator(system, how, _frames(how.times), told, images), source.params, record, out)
    said = "already there:" if finished and filmed else "wrote"
    written = ", ".join(("samples.npz", "grid.png", *(FILM if gif else ())))
    return f"{said} {num_samples} samples of step {source.step}, {len(how.times) - 1} steps each: {out}/{written}"


def _optimal(source: trained.Trained, workdir: pathlib.Path, settings: dict[str, Any]) -> str:
    """The times of the trajectory "optimal", in as many steps and for the variance that the run has otherwise."""
    own = source.system.config.sample.to_dict()
    s = own | {name: value for name, value in settings.items() if value is not None}
    variance = settings.get("variance") or (own["variance"] if s["sampler"] == "ancestral" else "analytic")
    return str(measured.trajectory(source, workdir, "optimal", s["num_steps"] or None, variance, s["clip"]))


def _finish(out: pathlib.Path, job: Job, shape: tuple[int, ...]) -> None:
    """Put the batches together. Only one is in memory at a time."""
    shown: list[np.ndarray] = []
    with replacing(out / "samples.npz") as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            # A fixed date: the same samples are the same file.
            entry = zipfile.ZipInfo("samples.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
                for part in job.parts():
                    file.write(part["samples"].tobytes())
                    if sum(map(len, shown)) < GRID_IMAGES:
                        shown.append(part["samples"])
    save_png(out / "grid.png", grid(np.concatenate(shown)[:GRID_IMAGES]))
    job.finish(sha256=sha256(out / "samples.npz"))


def _is_finished(out: pathlib.Path, before: dict[str, Any]) -> bool:
    files = out / "samples.npz", out / "grid.png"
    return "sha256" in before and all(path.is_file() for path in files) and sha256(files[0]) == before["sha256"]


def _film(generator: Generator, params: Any, record: dict[str, Any], out: pathlib.Path) -> None:
    """Draw the first images once more, and the way to them."""
    batch = next(generator.batches(params, record["seed"], min(FILM_IMAGES, record["at_once"], record["num_samples"])))
    assert batch.film is not None
    x_t, x_0 = (np.asarray(x) for x in batch.film)
    save_png(out / "film.png", film_strip(x_t, x_0, batch.images))
    save_gif(out / "film.gif", film_frames(x_t, x_0, batch.images))


def _frames(times: Trajectory) -> Trajectory:
    """Times to film: all that are visited, or FILM_FRAMES of them evenly."""
    count = min(FILM_FRAMES, len(times) - 1)
    chosen = np.unique(np.linspace(0, len(times) - 2, count).round().astype(int))
    return tuple(times[i] for i in chosen)
