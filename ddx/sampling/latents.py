"""Pictures of the latent space of a trained network: interpolations and reconstructions."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddx.data import given_images
from ddx.diffusion.forward.gaussian import q_sample
from ddx.diffusion.random import example_keys, seed_key
from ddx.diffusion.reverse.encode import encodable_times
from ddx.diffusion.reverse.interpolate import noises_of_ends, slerp
from ddx.diffusion.reverse.walk import plan
from ddx.runs import trained
from ddx.runs.data import check_data_dir, training_images
from ddx.runs.job import Result
from ddx.runtime import devices
from ddx.runtime.errors import ConfigError
from ddx.runtime.folders import make_directory
from ddx.runtime.paths import Path, optional_path, user_path
from ddx.runtime.pictures import grid, save_png, to_uint8
from ddx.runtime.storage import write_arrays, write_json
from ddx.sampling.generator import Generator
from ddx.sampling.sampler import Sampler, make_sampler
from ddx.sampling.settings import Labels, check_count, check_numbers, class_numbers, describe, sampling_config, to_tell
from ddx.system import System

WEIGHTS = np.linspace(0.0, 1.0, 11)  # DDIM's figure 6
MOST_ROWS = 1000  # all are in memory
LEVELS = 9  # DDPM's figure 9: from the pixels to pure noise


@devices.job("interpolating", devices.FEWER_AT_ONCE)
def interpolate(
    workdir: str | Path,
    num_rows: int = 8,
    *,
    images: str | Path | None = None,
    labels: Labels | None = None,
    seed: int = 0,
    step: int | None = None,
    preset: str | None = None,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    **given: Any,
) -> Result:
    """Draw what lies between images, 11 a row.

    With the ddim sampler each row walks along the sphere from one latent to another: random latents 2i and 2i + 1 of
    the seed in row i, or the latents of given images. With the ancestral sampler two given images are diffused, mixed
    and led back (DDPM figure 9): the rows mix at ever noisier levels, the first in pixels, the last at T. With the heat
    sampler each row goes from sample 2i to 2i + 1, its blurred image linearly and its noise along the sphere.

    Args:
      workdir: folder of a training run.
      num_rows: rows between random latents; with images, one for each two of them.
      images: an image folder, a .npy or an .npz file with at least two images. Pictures are cropped and resized as the
        run's own were; arrays, uint8 (N, H, W, C) of the network's shape, are taken as they are.
      labels: as in `sample`, of the rows.
      seed: names the noise.
      step: of the checkpoint; None for the newest.
      preset: as in `sample`.
      data_dir: as in `sample`.
      out: folder to write to; None for one in the workdir.
      given: sampler, num_steps, trajectory, solver, eta, variance, clip, batch_size, ..., as in `sample`.

    Returns:
      What was written: interpolation.npz ("samples": (rows, 11, H, W, C) uint8), .png and .json.

    Raises:
      ConfigError: a setting is invalid, or the images are too few.
      CheckpointError: the folder has no run, or no usable checkpoint.
      DataError: the images cannot be read.
      AcceleratorError, OutOfMemoryError: as `ddx.runtime.devices.job` says.
    """
    check_numbers(given)
    workdir, out = user_path(workdir, "--workdir"), optional_path(out, "--out")
    images, data_dir = optional_path(images, "--images"), optional_path(data_dir, "--data_dir")
    check_count(num_rows, MOST_ROWS)

    def check(config: ConfigDict) -> None:
        config = sampling_config(config, seed, preset, **given)
        if config.sample.sampler == "ddim":
            _check_deterministic(config, "interpolating")
            if images is not None:
                _check_unclipped(given)

    source = trained.load(workdir, step, given.get("weights"), check)
    config = sampling_config(source.system.config, seed, preset, **given)
    told = to_tell(source.system, class_numbers(source, labels))
    if config.sample.sampler == "heat" and images is not None:
        raise ConfigError("the heat sampler interpolates between samples, not images. Leave out --images")
    check_data_dir(source, data_dir)
    between = None if images is None else _pairs(images, source.system)
    if config.sample.sampler == "ancestral":
        if between is None:
            raise ConfigError("interpolating with the ancestral sampler needs two images. Name them with --images")
        if len(between) > 2:
            raise ConfigError(
                f"{images} has {len(between)} images; the ancestral sampler interpolates between two."
                " Name a folder or a file with two"
            )
        rows = _through_noise(source, config, seed, told, source.system.to_float(between))
    elif config.sample.sampler == "heat":
        rows = _between_samples(source, config, seed, told, num_rows, data_dir)
    elif source.system.starts_from_images:
        raise ConfigError("samples of ihdm start from blurred images, which have no sphere. Set --sampler=heat")
    else:
        how = make_sampler(config, source.system)
        if between is not None:
            config, how = _encoding(config, source.system, how)
        generator = Generator(source.system, how, told=told)
        if between is None:
            latents = generator.initial(seed, 2 * num_rows)
        else:
            latents = generator.encode(
                source.params, np.asarray(source.system.to_float(between)), np.arange(len(between)) // 2
            )
        path = np.moveaxis(np.asarray(slerp(latents[0::2], latents[1::2], WEIGHTS)), 0, 1)
        row = np.repeat(np.arange(len(path)), len(WEIGHTS))
        flat = generator.decode(source.params, path.reshape(-1, *path.shape[2:]), examples=row)
        rows = flat.reshape(path.shape)
    of = images.stem if images else f"seed{seed}"
    name = f"step{source.step}_{of}_interpolation_{describe(config)}"
    out = out or workdir / "sampled" / name
    record = {"workdir": str(workdir), "step": source.step, "seed": seed, "images": str(images) if images else None}
    samples = to_uint8(rows, source.system.process.low)
    picture = grid(samples.reshape(-1, *samples.shape[2:]), columns=len(WEIGHTS))
    return _write(out, "interpolation", {"samples": samples}, record | {"sample": config.sample.to_dict()}, picture)


@devices.job("reconstructing", devices.FEWER_AT_ONCE)
def reconstruct(
    workdir: str | Path,
    images: str | Path,
    *,
    labels: Labels | None = None,
    step: int | None = None,
    preset: str | None = None,
    out: str | Path | None = None,
    **given: Any,
) -> Result:
    """Encode images into latents and decode them again, both by DDIM without clipping (DDIM section 5.4).

    Args:
      workdir: folder of a training run.
      images: an image, a folder of images, a .npy or an .npz file, as in `interpolate`.
      labels: their classes, as in `sample`.
      step: of the checkpoint; None for the newest.
      preset: as in `sample`.
      out: folder to write to; None for one in the workdir.
      given: num_steps, trajectory, solver, batch_size, as in `sample`.

    Returns:
      What was written: reconstruction.npz ("samples": uint8, "latents": float32), .json with the mean
      squared error per dimension of images in [0, 1], as in DDIM's table 2, and .png: each image beside what came back.

    Raises:
      ConfigError: a setting is invalid.
      CheckpointError: the folder has no run, or no usable checkpoint.
      DataError: the images cannot be read.
      AcceleratorError, OutOfMemoryError: as `ddx.runtime.devices.job` says.
    """
    check_numbers(given)
    workdir, out = user_path(workdir, "--workdir"), optional_path(out, "--out")
    images = user_path(images, "--reconstruct")

    def check(config: ConfigDict) -> None:
        _check_deterministic(sampling_config(config, 0, preset, **given), "reconstructing")
        _check_unclipped(given)

    source = trained.load(workdir, step, given.get("weights"), check)
    config = sampling_config(source.system.config, 0, preset, **given)
    originals = _given(images, source.system)
    x_0, low = np.asarray(source.system.to_float(originals)), source.system.process.low
    config, how = _encoding(config, source.system, make_sampler(config, source.system))
    generator = Generator(source.system, how, told=to_tell(source.system, class_numbers(source, labels)))
    latents = generator.encode(source.params, x_0)
    decoded = generator.decode(source.params, latents)
    error = float(np.mean(np.square((decoded - x_0) / (1.0 - low))))
    name = f"step{source.step}_{images.stem}_reconstruction_{describe(config)}"
    out = out or workdir / "sampled" / name
    record = {
        "workdir": str(workdir),
        "step": source.step,
        "images": str(images),
        "num_images": len(x_0),
        "encoded_to": how.times[0],
        "mean_squared_error": error,
        "sample": config.sample.to_dict(),
    }
    beside = np.stack([originals, to_uint8(decoded, low)], axis=1)[:50].reshape(-1, *x_0.shape[1:])
    arrays = {"samples": to_uint8(decoded, low), "latents": latents}
    written = _write(out, "reconstruction", arrays, record, grid(beside, columns=min(10, len(beside))))
    steps = f"through {len(how.times) - 1} times up to t = {how.times[0]}"
    line = f"{written}; mean squared error {error:.4g} of images in [0, 1], {steps}"
    return written._replace(message=line, values={"mean_squared_error": error, "encoded_to": how.times[0]})


def _check_deterministic(config: ConfigDict, what: str) -> None:
    if config.sample.sampler != "ddim" or config.sample.eta:
        raise ConfigError(f"{what} needs latents that determine their image. Set --sampler=ddim --eta=0")


def _check_unclipped(given: dict[str, Any]) -> None:
    if clips := [name for name in ("clip", "clip_percentile") if given.get(name)]:
        raise ConfigError(f"latents of images are found and read without clipping. Leave out --{clips[0]}")


def _encoding(config: ConfigDict, system: System, how: Sampler) -> tuple[ConfigDict, Sampler]:
    """Latents are found, and read, without clipping, at the highest time from which an image is found again."""
    try:
        times = encodable_times(system.process, config.loss.prediction, how.times, system.image_shape[:2])
    except ValueError as error:
        raise ConfigError(f"{error}, or set another --num_steps or --trajectory") from None
    config.sample.clip, config.sample.clip_percentile = False, 0.0
    rows = plan(system.process, times, how.eta, system.image_shape[:2], how.solver)
    return config, how._replace(clip=False, times=times, plan=rows)


def _given(path: Path, system: System) -> np.ndarray:
    """Pictures as the run's own were made; arrays as they are."""
    return given_images(path, system.conversion, system.image_shape)


def _pairs(path: Path, system: System) -> np.ndarray:
    images = _given(path, system)
    if len(images) < 2:
        raise ConfigError(f"{path} has one image; interpolation needs two. Name a folder or a file with more")
    return images[: len(images) // 2 * 2]


def _between_samples(
    source: trained.Trained,
    config: Any,
    seed: int,
    told: dict[str, Any],
    num_rows: int,
    data_dir: str | Path | None,
) -> np.ndarray:
    """`ddx.interpolate_heat` between samples 2i and 2i + 1 on all devices."""
    images = training_images(source, data_dir)
    generator = Generator(source.system, make_sampler(config, source.system), told=told, images=images)
    ends = generator.initial(seed, 2 * num_rows)
    w = WEIGHTS[:, None, None, None]
    x_T = np.concatenate([(1 - w) * a + w * b for a, b in zip(ends[0::2], ends[1::2], strict=True)])
    pairs = np.repeat(np.arange(2 * num_rows).reshape(-1, 2), len(WEIGHTS), axis=0)
    flat = generator.decode_between(source.params, x_T, seed, pairs, np.tile(WEIGHTS, num_rows))
    return flat.reshape(num_rows, len(WEIGHTS), *flat.shape[1:])


def _through_noise(source: trained.Trained, config: Any, seed: int, told: dict[str, Any], ends: Any) -> np.ndarray:
    """The rows of DDPM's figure 9 for two images (2, H, W, C): `ddx.coarse_to_fine` on all devices."""
    process = source.system.process
    how = make_sampler(config, source.system)
    generator = Generator(source.system, how, told=told)
    key = example_keys(seed_key(seed), np.zeros(1, int))
    noise = np.concatenate(noises_of_ends(key, ends[:1]))
    visited = np.unique(np.linspace(0, len(how.times) - 1, LEVELS).round().astype(int))[::-1]  # from t = 0 up
    rows = []
    for first in visited.tolist():
        t = how.times[first]
        a, b = np.asarray(ends if t == 0 else q_sample(process, ends, t, noise))
        mixed = np.stack([(1 - w) * a + w * b for w in WEIGHTS])
        same = np.zeros(len(mixed), int)
        rows.append(mixed if t == 0 else generator.decode(source.params, mixed, first, seed, same))
    return np.stack(rows)


def _write(out: Path, name: str, arrays: dict[str, np.ndarray], record: dict[str, Any], picture: np.ndarray) -> Result:
    """Write NAME.npz, NAME.json and the picture NAME.png."""
    make_directory(out, "--out")
    write_arrays(out / f"{name}.npz", arrays)
    save_png(out / f"{name}.png", picture)
    write_json(out / f"{name}.json", record)
    files = (f"{name}.npz", f"{name}.png", f"{name}.json")
    return Result(f"wrote {out}/{', '.join(files)}", out, files)
