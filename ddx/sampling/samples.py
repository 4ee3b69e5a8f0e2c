"""A sampling job: from the folder of a run to many images, which may be interrupted at any moment.

samples.json     the job, see `ddx.runs.job`; "sha256" of samples.npz when it is finished
samples.npz      "samples": (N, H, W, C) uint8
grid.png         the first images; beside what they are drawn from, if that is given
png/             each image in a file of its own, if asked for
film.gif, .png   the way to the first of them, if asked for; drawn apart, so that it changes no sample
"""

import hashlib
import zipfile
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ddx.config.sampling import SAMPLING
from ddx.data import Dataset
from ddx.diffusion.arrays import Trajectory
from ddx.diffusion.catalogue import MEASURED_SOLVERS, OPTIMAL_TRAJECTORIES, OPTIMAL_VARIANCES, PROBED_VARIANCES
from ddx.diffusion.reverse.rows import num_rows
from ddx.runs import trained
from ddx.runs.data import fingerprint_of, training_images
from ddx.runs.job import Job, Result, working
from ddx.runtime import devices, hosts, storage
from ddx.runtime.paths import Path, optional_path, user_path
from ddx.runtime.pictures import grid, save_png
from ddx.runtime.storage import replacing, sha256
from ddx.sampling import edits, measured
from ddx.sampling.generator import Generator
from ddx.sampling.pictures import FILM, check_png, film, frames, write_pngs
from ddx.sampling.sampler import Sampler, make_sampler
from ddx.sampling.settings import (
    Labels,
    check_count,
    check_numbers,
    check_settings,
    class_numbers,
    describe,
    settled_config,
    to_tell,
)
from ddx.system import System

GRID_IMAGES = 100  # at most so many in the picture; all are in samples.npz


@devices.job("sampling", devices.FEWER_AT_ONCE)
def sample(
    workdir: str | Path,
    num_samples: int | None = None,
    *,
    preset: str | None = None,
    labels: Labels | None = None,
    low_res: str | Path | None = None,
    known: str | Path | None = None,
    mask: str | Path | None = None,
    jump_length: int | None = None,
    num_resamples: int | None = None,
    start: str | Path | None = None,
    strength: float | None = None,
    seed: int = 0,
    step: int | None = None,
    gif: bool = False,
    png: bool = False,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> Result:
    """Draw images from the network of a run's checkpoint. Image i depends only on (seed, i).

    Interrupted and called again with the same arguments, the job resumes after the last batch that was written and ends
    in the same bits; finished, it changes nothing.

    Args:
      workdir: folder of a training run; process, network and weights come from there.
      num_samples: N; None for 64, or one for each image of `known` or `start`.
      preset: a paper's setting, one of `ddx.config.sampling.SAMPLING_PRESETS`, changed by what else is given.
      labels: classes of the images, by number or name, of a network that knows classes, and from the first again; None
        for all in turn; "none" for no class, where it was trained with label dropout.
      low_res: for a super-resolution network, the images to enlarge, and from the first again: a folder, a .npy or an
        .npz file, such as the samples.npz of a smaller network.
      known: images of which a part is kept (`ddx.inpaint`), and from the first again: a picture, a folder, a .npy or an
        .npz file. Pictures are cropped and resized as the run's own were.
      mask: white where `known` is kept and black elsewhere, of the network's size: one, or one for each image.
      jump_length: with `known`, steps that a jump goes back up; None for 10.
      num_resamples: with `known`, how often each stretch of so many steps is walked; None for 10, and 1 for no jumps.
      start: images to start from in place of noise, given as `known` is (SDEdit; under ihdm they are blurred).
      strength: with `start`, the part of T to noise them to: near 0 they stay as they are, at 1 little is left of them.
      seed: names the noise.
      step: of the checkpoint; None for the newest, or for the step of the job to resume in `out`.
      gif: also write the way from noise to the first images as film.gif and film.png.
      png: also write every image as a file of its own, png/000000.png and so on.
      data_dir: where the training set lies from whose images ihdm starts, if not where the run found it.
      out: folder to write to; None for one in the workdir named after the settings.
      **settings: those of `ddx.config.sampling.SAMPLING`, such as sampler, num_steps, eta, solver, variance, clip or
        batch_size; what is not given, or None, is the run's own. Besides the variances of a config there are the
        `OPTIMAL_VARIANCES` of `ddx.diffusion.catalogue` for every sampler: the analytic ones need the run's statistics,
        "sn", "npr" and "ocm" a network with such a head. The trajectories "optimal" and "optimal_pictures" need
        statistics too, and the solver "dpm_v3" model statistics.

    Returns:
      What was written; its arrays() are {"samples": (N, H, W, C) uint8}.

    Raises:
      ConfigError: a setting is invalid, or `out` holds another job.
      CheckpointError: the folder has no run, or no usable checkpoint.
      DataError: images that are given cannot be read or used.
      AcceleratorError, OutOfMemoryError: as `ddx.runtime.devices.job` says.
    """
    workdir, out = user_path(workdir, "--workdir"), optional_path(out, "--out")
    low_res = optional_path(low_res, "--low_res")
    data_dir = optional_path(data_dir, "--data_dir")
    edit = edits.make_edit(known, mask, jump_length, num_resamples, start, strength)
    if num_samples is not None:
        check_count(num_samples)
    check_numbers(settings)

    def check(config: ConfigDict) -> None:
        edits.check(edit, check_settings(config, seed, preset, settings))

    source = trained.load_for_job(workdir, step, out, "samples", settings.get("weights"), check)
    if png:
        check_png(source.system)
    numbers = class_numbers(source, labels)
    drawing = prepare(source, workdir, seed, preset, numbers, low_res, data_dir, settings, edit)
    given, edited = drawing.given, edits.record(edit, drawing.given)
    num_samples = num_samples or (64 if given is None else len(given.images))
    config, images, generator, how = drawing.config, drawing.images, drawing.generator(), drawing.sampler
    record: dict[str, Any] = {
        **trained.identity(source, workdir),
        "num_samples": num_samples,
        "seed": seed,
        "labels": list(numbers or ()),
        "at_once": generator.batch_size(num_samples),
        "sample": config.sample.to_dict() | {"variance": drawing.variance},
        **edited.told,
        **measured.origin(source, workdir, config.sample.clip, drawing.variance, config.sample.solver),
    }
    name = f"step{source.step}_seed{seed}_n{num_samples}_{describe(config, drawing.variance)}"
    name += f"_class{'-'.join(map(str, numbers))}" if numbers else ""
    if low_res is not None:
        record["low_res"] = hashlib.sha256(drawing.told["low_res"].tobytes()).hexdigest()
        name += f"_of_{low_res.stem}_{record['low_res'][:8]}"
    name += edited.name
    if images is not None:
        record["starts_from"] = f"{images.num_examples} images of {images.name} {source.system.config.data.split}"
        record["starts_from_checksum"] = fingerprint_of(images, np.arange(images.num_examples))
    out = out or workdir / "sampled" / name
    with working(out):
        job = Job(out, "samples", record, num_samples, record["at_once"], fixed=True)
        finished = hosts.agreed(lambda: _is_finished(out, job.before))
        if not finished:
            for batch in generator.batches(source.params, seed, num_samples, job.begin()):
                job.write(batch.start, samples=batch.images)

        def complete() -> bool:
            """Whether anything was missing."""
            if not finished:
                _finish(out, job, (num_samples, *source.system.image_shape), given)
            job.remove_parts()
            filmed = not gif or all(storage.is_file(out / name) for name in FILM)
            if not filmed:
                film(drawing.generator(frames(how.times)), source.params, record, out)
            new = write_pngs(out, num_samples) if png else 0
            return not (finished and filmed and not new)

        said = "wrote" if hosts.agreed(complete) else "already there:"
    files = ("samples.npz", "grid.png", *(FILM if gif else ()), *(["png"] if png else []))
    line = f"{said} {num_samples} samples of step {source.step}{edited.said}, {num_rows(how.plan)} steps each"
    return Result(f"{line}: {out}/{', '.join(files)}", out, files)


class Drawing(NamedTuple):
    """How images are drawn from a network, all settings checked."""

    config: ConfigDict
    system: System
    sampler: Sampler
    variance: str  # its name
    told: dict[str, np.ndarray]
    images: Dataset | None  # of the training set, that samples start from
    given: edits.Given | None  # by the user

    @property
    def evaluations(self) -> int:
        """How many networks are evaluated for a sample, random signs of a slope of eps among them."""
        return self.sampler.evaluations + self.system.probes * num_rows(self.sampler.plan)

    def generator(self, frames: Trajectory = ()) -> Generator:
        """What draws, and films the times `frames`; it compiles when it is first used."""
        return Generator(self.system, self.sampler, frames, self.told, self.images, self.given)


def prepare(
    source: trained.Trained,
    workdir: Path,
    seed: int,
    preset: str | None,
    labels: tuple[int, ...] | None,
    low_res: Path | None,
    data_dir: Path | None,
    settings: dict[str, Any],
    edit: edits.Edit = edits.NONE,
) -> Drawing:
    """How to draw from a network with settings, as `sample` describes them.

    Raises:
      ConfigError: a setting is invalid, or not for this network.
      DataError: images that are needed cannot be read.
    """
    config, system, how, variance = settle(source, workdir, seed, preset, settings, edit.strength)
    edits.check(edit, config)
    how, given = edits.edited(how, system, edit), edits.read(edit, system)
    images = training_images(source, data_dir) if edit.start is None else None
    return Drawing(config, system, how, variance, to_tell(source.system, labels, low_res), images, given)


Settled = tuple[ConfigDict, System, Sampler, str]
"""The config, system, sampler and variance of a `Drawing`, for which no images are needed."""


def settle(
    source: trained.Trained,
    workdir: Path,
    seed: int,
    preset: str | None,
    settings: dict[str, Any],
    strength: float | None = None,
) -> Settled:
    """What settings decide of a `Drawing`.

    Raises:
      ConfigError: a setting is invalid, or not for this network.
    """
    variance, solver = settings.get("variance"), None
    if settings.get("trajectory") in OPTIMAL_TRAJECTORIES:
        settings = settings | {"trajectory": _optimal(source, workdir, settings)}
    if variance in OPTIMAL_VARIANCES:
        settings = settings | {"variance": None}  # no config has it
    own = settings.get("probes") if variance in PROBED_VARIANCES else None
    if own is not None:
        settings = settings | {"probes": None}
    config = settled_config(source.system.config, seed, preset, settings)
    if own is not None:
        config.sample.probes = SAMPLING["probes"].checked("probes", own)
    variance = str(variance or config.sample.variance)
    system, chosen = measured.variance(source, workdir, variance, config.sample.clip, config.sample.probes)
    if config.sample.solver in MEASURED_SOLVERS:
        system, solver = measured.solver(source, workdir, config.sample.solver, config.sample.clip)
    how = make_sampler(config, system, chosen, strength, solver)
    if chosen is not None:
        how = measured.as_published(how, chosen, variance, system.process.low)
    return config, system, how, variance


def _optimal(source: trained.Trained, workdir: Path, settings: dict[str, Any]) -> str:
    """The times of an optimal trajectory, in as many steps and for the variance that the run has otherwise."""
    own = source.system.config.sample.to_dict()
    s = own | {name: value for name, value in settings.items() if value is not None}
    variance = settings.get("variance") or (own["variance"] if s["sampler"] == "ancestral" else "analytic")
    return str(
        measured.trajectory(source, workdir, settings["trajectory"], s["num_steps"] or None, variance, s["clip"])
    )


def _finish(out: Path, job: Job, shape: tuple[int, ...], given: edits.Given | None) -> None:
    """Put the batches together. Only one is in memory at a time."""
    wanted = np.arange(min(shape[0], GRID_IMAGES)) if given is None else edits.shown(given, shape[0])
    shown: dict[int, np.ndarray] = {}
    with replacing(out / "samples.npz") as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            # A fixed date: the same samples are the same file.
            entry = zipfile.ZipInfo("samples.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(file, header)
                for first, part in zip(job.starts, job.parts(), strict=True):
                    file.write(part["samples"].tobytes())
                    here = wanted[(wanted >= first) & (wanted < first + len(part["samples"]))]
                    shown |= {i: part["samples"][i - first] for i in here.tolist()}
    images = np.stack([shown[i] for i in wanted.ravel().tolist()]).reshape(*wanted.shape, *shape[1:])
    save_png(out / "grid.png", grid(images) if given is None else edits.beside(given, images))
    job.finish(sha256=sha256(out / "samples.npz"))


def _is_finished(out: Path, before: dict[str, Any]) -> bool:
    files = out / "samples.npz", out / "grid.png"
    return "sha256" in before and all(storage.is_file(path) for path in files) and sha256(files[0]) == before["sha256"]
