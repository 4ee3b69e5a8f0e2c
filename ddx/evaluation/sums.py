"""What jobs that sum over the examples of a split share: the sums at every level of a plan, part by part."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddx.diffusion.bound.terms import noise_at
from ddx.diffusion.random import example_keys, seed_key
from ddx.diffusion.reverse.rows import Plan, num_rows
from ddx.evaluation.work import Examples, Parts, Work, batch_size, carry_out, output_folder, record_of
from ddx.runs.job import Job, Result
from ddx.runtime import devices, parallel
from ddx.runtime.paths import Path
from ddx.runtime.progress import Progress
from ddx.sampling.generator import in_pieces
from ddx.system import System

_PARTS = 8  # at most so many files of an unfinished job: each holds a number for every level and coordinate


def measure_sums(
    work: Work,
    examples: Examples,
    system: System,
    clip: bool,
    rows: Plan,
    *,
    of_rows: Callable[..., Any],
    of_images: Callable[..., Any],
    finish: Callable[[Path, Job], dict[str, Any]],
    tell: Callable[[dict[str, Any]], str],
) -> Result:
    """A job that measures a network: JOB.json, its record, and JOB.npz, in a folder of JOB in the run's.

    Args:
      work: the job.
      examples: what to sum over.
      system: the network's, its process in the basis of the sums.
      clip: whether the network's x_0 are clipped.
      rows: the levels.
      of_rows: (denoise, x_0, weight, rows, draw) -> a named tuple of sums over a batch, by row.
      of_images: (x_0, weight, draw) -> a named tuple of sums over a batch that no row changes.
      finish: (path, job) -> the summary, when all parts are there; it writes the arrays to the path.
      tell: says what was measured, from the summary.
    """
    config, count, batch = work.source.system.config, len(examples.indices), batch_size(work, examples)
    process = {"process": config.process.to_dict(), "prediction": config.loss.prediction}
    record = record_of(work, examples, {"basis": work.settings["basis"], "clip": clip}, **process)
    out = output_folder(work, work.job, examples, clip=clip)

    def parts(size: int, done: frozenset[int]) -> Parts:
        sizes = min(batch, size), size
        return _parts(work, examples, system, clip, rows, of_rows, of_images, sizes, done)

    return carry_out(
        work.job,
        out,
        record,
        count,
        -(-math.ceil(count / _PARTS) // batch) * batch,
        files=(f"{work.job}.json", f"{work.job}.npz"),
        parts=parts,
        finish=lambda job: finish(out / f"{work.job}.npz", job),
        tell=tell,
    )


def _parts(
    work: Work,
    examples: Examples,
    system: System,
    clip: bool,
    rows: Plan,
    of_rows: Callable[..., Any],
    of_images: Callable[..., Any],
    sizes: tuple[int, int],
    done: frozenset[int],
) -> Parts:
    """The sums over the examples of each part, without those whose first place is in `done`.

    `sizes` are of a batch and of a part. The key of an example depends on the seed and the example alone.
    """

    def rows_of_batch(params: Any, rows: Any, keys: Any, images: Any, label: Any, weight: Any) -> Any:
        x_0 = system.to_float(images)
        denoise = system.denoiser(params, clip, system.told(x_0, label))
        return of_rows(denoise, x_0, weight, rows, noise_at(keys, x_0))

    def images_of_batch(keys: Any, images: Any, weight: Any) -> Any:
        x_0 = system.to_float(images)
        return of_images(x_0, weight, noise_at(keys, x_0))

    data, indices, seed = examples.data, examples.indices, work.settings["seed"]
    (batch, size), num_levels = sizes, num_rows(rows)
    call = parallel.over_batch(rows_of_batch, shared=2, split=4)
    call_images = parallel.over_batch(images_of_batch, shared=0, split=3)
    shares, params = len(devices.own()), parallel.replicate(work.source.params)
    starts = range(0, len(indices), size)
    calls = {start: math.ceil(min(size, len(indices) - start) / batch) * num_levels for start in starts}
    with Progress("measuring", sum(calls.values()), sum(calls[start] for start in starts if start in done)) as progress:
        for start in starts:
            if start in done:
                continue
            total: dict[str, np.ndarray] = {}
            for first in range(start, min(start + size, len(indices)), batch):
                here = indices[first : min(first + batch, start + size)]
                filled = np.resize(here, -(-batch // shares) * shares)
                weight = (np.arange(len(filled)) < len(here)).astype(np.float32)
                read = data.read(filled)
                keys = example_keys(seed_key(seed), jnp.asarray(filled, jnp.uint32))
                split = parallel.split_batch((keys, read["image"], read["label"], weight))
                for numbers, some in in_pieces(rows, progress):
                    for name, x in call(params, some, *split)._asdict().items():
                        summed = _over_devices(x)
                        if name not in total:
                            total[name] = np.zeros((num_levels, *summed.shape[1:]))
                        total[name][numbers[0] : numbers[-1] + 1] += summed
                for name, x in call_images(split[0], split[1], split[3])._asdict().items():
                    total[name] = total.get(name, 0.0) + _over_devices(x)
            yield start, total
            del total


def _over_devices(x: Any) -> np.ndarray:
    total: np.ndarray = np.asarray(x, np.float64).sum(0)
    return total
