"""How wrong a trained network is at every time: a job that may be interrupted at any moment.

statistics.json   the protocol and, when it is finished, a summary
statistics.npz    the fields of `ddx.diffusion.bound.statistics.Statistics`
"""

import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddx.data import Dataset
from ddx.diffusion.bound import statistics as stats
from ddx.diffusion.bound.terms import bound_rows, noise_at
from ddx.diffusion.random import example_keys, seed_key
from ddx.diffusion.reverse.rows import num_rows
from ddx.evaluation.settings import check_counts, default_clip
from ddx.runs import trained
from ddx.runs.data import fingerprint_of, open_examples
from ddx.runs.job import Job, Result, working
from ddx.runtime import parallel
from ddx.runtime.errors import ConfigError, NonFiniteError
from ddx.runtime.paths import Path, optional_path, user_path
from ddx.runtime.progress import Progress
from ddx.runtime.storage import sha256, write_arrays
from ddx.sampling import measured
from ddx.sampling.generator import in_pieces
from ddx.system import System

PARTS = 8  # at most so many files of an unfinished job: each holds a number for every time and coordinate
_MOMENTS = ("first", "second")  # sums of the coordinates and of their squares


@parallel.job("measuring", parallel.FEWER_AT_ONCE)
def measure(
    workdir: str | Path,
    *,
    split: str | None = None,
    basis: str = "dct",
    clip: bool | None = None,
    max_examples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    step: int | None = None,
    weights: str | None = None,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
) -> Result:
    """Measure the mean squared errors that analytic variances and optimal trajectories need, at all T times.

    An interrupted measurement goes on after the last part that was written; a finished one changes nothing.

    Args:
      workdir: folder of a training run.
      split: of the run's data set; None for the one it was trained on.
      basis: whose coordinates to tell apart, "dct" or "pixel".
      clip: clip the estimate of x_0, as samplers will; None for wherever the network tells it at all times.
      max_examples: a random part of the split of this size; None for all. A few hundred do.
      batch_size: examples at once; None for the run's sample.batch_size.
      seed: names the noise and the part.
      step: of the checkpoint; None for the newest, or for that of the job to go on with in `out`.
      weights: "ema", the averaged ones, or "raw"; None for the run's sample.weights.
      data_dir: where the data set lies, if not where the run found it.
      out: folder to write to; None for one in the workdir named after the protocol.

    Returns:
      What was written, with a summary; its arrays() are the fields of `ddx.diffusion.bound.statistics.Statistics`.

    Raises:
      ConfigError: a setting is invalid, or `out` holds another job.
      CheckpointError: the folder has no run, or no usable checkpoint.
      DataError: the data set cannot be read.
      NonFiniteError: an error is not finite.
      AcceleratorError, OutOfMemoryError: as `ddx.runtime.parallel.job` says.
    """
    workdir, out = user_path(workdir, "--workdir"), optional_path(out, "--out")
    data_dir = optional_path(data_dir, "--data_dir")
    check_counts(max_examples, batch_size)
    source = trained.load_for_job(workdir, step, out, "statistics", weights)
    return measure_trained(source, workdir, split, basis, clip, max_examples, batch_size, seed, data_dir, out)


def measure_trained(
    source: trained.Trained,
    workdir: Path,
    split: str | None = None,
    basis: str = "dct",
    clip: bool | None = None,
    max_examples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    out: Path | None = None,
) -> Result:
    """`measure` a network that is loaded already, whose checkpoint its run may have removed since."""
    config = source.system.config
    if config.loss.prediction == "residual":
        raise ConfigError(
            "statistics are of estimates of x_0, and an IHDM network predicts the next image. Leave them out"
        )
    clip = default_clip(config, clip)
    system = measured.in_basis(source.system, basis)
    data, examples = open_examples(source, split, data_dir, max_examples, seed)
    split, count = split or config.data.split, len(examples)
    name = f"step{source.step}_{measured.file_name(split)}_n{count}_{basis}_seed{seed}"
    name += source.tag + "_unclipped" * (not clip)
    out = out or workdir / measured.FOLDER / name
    record = {
        **trained.identity(source, workdir),
        "images": fingerprint_of(data, examples),
        "process": config.process.to_dict(),
        "prediction": config.loss.prediction,
        "protocol": {
            "data": data.name,
            "split": split,
            "num_examples": count,
            "basis": basis,
            "clip": clip,
            "seed": seed,
        },
    }
    batch = min(batch_size or config.sample.batch_size, count)
    size = -(-math.ceil(count / PARTS) // batch) * batch
    with working(out):
        job = Job(out, "statistics", record, count, size)
        result = job.result("statistics.npz")
        finished = result is not None
        if result is None:
            sizes = min(batch, job.size), job.size
            for start, part in _parts(system, source.params, data, examples, seed, sizes, clip, job.begin()):
                job.write(start, **part)
                del part  # hundreds of megabytes: only one is in memory
            result = _finish(out / "statistics.npz", job, system, count)
        job.remove_parts()
    said = "already there:" if finished else "wrote"
    summary = f"root mean squared error {result['rmse_middle']:.4g} at T / 2 (+- {result['relative_error_middle']:.1%})"
    line = f"{summary}, {count} examples of {split}; {said} {out}/statistics.json, statistics.npz"
    return Result(line, out, ("statistics.json", "statistics.npz"), result)


def _parts(
    system: System,
    params: Any,
    data: Dataset,
    examples: np.ndarray,
    seed: int,
    sizes: tuple[int, int],
    clip: bool,
    done: frozenset[int],
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The sums over the examples of each part, without those whose first place is in `done`."""
    process, (batch, size) = system.process, sizes
    shape = system.image_shape
    rows = bound_rows(process, tuple(range(process.num_steps, -1, -1)), system.image_shape[:2])
    num_steps = num_rows(rows)

    def sums(params: Any, rows: Any, keys: Any, images: Any, label: Any, weight: Any) -> stats.Sums:
        x_0 = system.to_float(images)
        denoise = system.denoiser(params, clip, system.told(x_0, label))
        return stats.error_sums(denoise, x_0, weight, rows, rows.level.t, noise_at(keys, x_0))

    def moments(images: Any, weight: Any) -> tuple[Any, Any]:
        u_0 = process.basis.analysis(system.to_float(images))
        return tuple(jnp.einsum("b,b...->...", weight, x) for x in (u_0, jnp.square(u_0)))  # type: ignore[return-value]

    call = parallel.over_batch(sums, shared=2, split=4)
    call_moments = parallel.over_batch(moments, shared=0, split=2)
    devices, params = parallel.num_devices(), parallel.replicate(params)
    starts = range(0, len(examples), size)
    calls = sum(math.ceil(min(size, len(examples) - start) / batch) for start in starts) * num_steps
    before = sum(math.ceil(min(size, len(examples) - start) / batch) for start in starts if start in done) * num_steps
    with Progress("measuring", calls, before) as progress:
        for start in starts:
            if start in done:
                continue
            total = {
                **{name: np.zeros((num_steps, *shape) if name == "mse" else num_steps) for name in stats.Sums._fields},
                **{name: np.zeros(shape) for name in _MOMENTS},
            }
            for first in range(start, min(start + size, len(examples)), batch):
                here = examples[first : min(first + batch, start + size)]
                filled = np.resize(here, -(-batch // devices) * devices)
                weight = (np.arange(len(filled)) < len(here)).astype(np.float32)
                read = data.read(filled)
                keys = example_keys(seed_key(seed), jnp.asarray(filled, jnp.uint32))
                split = parallel.split_batch((keys, read["image"], read["label"], weight))
                for numbers, some in in_pieces(rows, progress):
                    for name, x in call(params, some, *split)._asdict().items():
                        total[name][numbers[0] : numbers[-1] + 1] += _over_devices(x)
                for name, x in zip(_MOMENTS, call_moments(split[1], split[3]), strict=True):
                    total[name] += _over_devices(x)
            yield start, total
            del total


def _over_devices(x: Any) -> np.ndarray:
    total: np.ndarray = np.asarray(x, np.float64).sum(0)
    return total


def _finish(path: Path, job: Job, system: System, count: int) -> dict[str, Any]:
    total = job.gathered(summed=(*stats.Sums._fields, *_MOMENTS))
    sums = stats.Sums(*(total[name] for name in stats.Sums._fields))
    if not all(np.isfinite(x).all() for x in sums):
        raise NonFiniteError("an error of the network is not finite. Try --clip, or another checkpoint")
    times = np.arange(1, system.process.num_steps + 1)
    found = stats.statistics(system.process, sums, (total["first"], total["second"]), times, count)
    write_arrays(path, found._asdict())
    middle = (len(times) - 1) // 2
    mse = float(found.mse[middle].mean())
    result = {
        "rmse_middle": math.sqrt(mse),
        "relative_error_middle": float(found.mse_error[middle]) / mse if mse else 0.0,
        "data_variance": float(found.spectrum.mean()),
        "sha256": sha256(path),
    }
    job.finish(result=result)
    return result
