"""How wrong a trained network is at every time: a job that may be interrupted at any moment.

statistics.json   the protocol and, when it is finished, a summary
statistics.npz    the fields of `ddx.diffusion.bound.statistics.Statistics`
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddx.config.evaluation import checked_settings
from ddx.data import Dataset
from ddx.diffusion.bound import statistics as stats
from ddx.diffusion.bound.terms import bound_rows, noise_at
from ddx.diffusion.random import example_keys, seed_key
from ddx.diffusion.reverse.rows import num_rows
from ddx.evaluation.settings import default_clip
from ddx.evaluation.work import Parts, Work, batch_size, begin, carry_out, open_split, output_folder, record_of
from ddx.runs.job import Job, Result
from ddx.runtime import devices, parallel
from ddx.runtime.errors import ConfigError, NonFiniteError
from ddx.runtime.paths import Path
from ddx.runtime.progress import Progress
from ddx.runtime.storage import sha256, write_arrays
from ddx.sampling import measured
from ddx.sampling.generator import in_pieces
from ddx.system import System

STATISTICS_EXAMPLES = 500  # of the training set, for a job that needs statistics and finds none
PARTS = 8  # at most so many files of an unfinished job: each holds a number for every time and coordinate
_MOMENTS = ("first", "second")  # sums of the coordinates and of their squares


@devices.job("measuring", devices.FEWER_AT_ONCE)
def measure(workdir: str | Path, **settings: Any) -> Result:
    """Measure the mean squared errors that analytic variances and optimal trajectories need, at all T times.

    An interrupted measurement resumes after the last part that was written; a finished one changes nothing.

    Args:
      workdir: folder of a training run.
      **settings: the settings of "statistics" in `ddx.config.evaluation.EVALUATION`. Clip x_0 as samplers will.

    Returns:
      What was written, with a summary; its arrays() are the fields of `ddx.diffusion.bound.statistics.Statistics`.

    Raises:
      DdxError: as `ddx.evaluation.evaluate` says.
    """
    return measure_trained(begin("statistics", workdir, settings))


def measure_trained(work: Work) -> Result:
    """`measure` a network that is loaded already, whose checkpoint its run may have removed since."""
    source, given, config = work.source, work.settings, work.source.system.config
    if config.loss.prediction == "residual":
        raise ConfigError(
            "statistics are of estimates of x_0, and an IHDM network predicts the next image. Use --metrics=bpd"
        )
    basis, clip = given["basis"], default_clip(config, given["clip"])
    system = measured.in_basis(source.system, basis)
    examples = open_split(source, given, default=config.data.split)
    count = len(examples.indices)
    process = {"process": config.process.to_dict(), "prediction": config.loss.prediction}
    record = record_of(work, examples, {"basis": basis, "clip": clip}, **process)
    out = output_folder(work, measured.FOLDER, examples, clip=clip)
    batch = batch_size(work, examples)

    def parts(size: int, done: frozenset[int]) -> Parts:
        sizes = min(batch, size), size
        return _parts(system, source.params, examples.data, examples.indices, given["seed"], sizes, clip, done)

    def tell(result: dict[str, Any]) -> str:
        error = f"{result['rmse_middle']:.4g} at T / 2 (+- {result['relative_error_middle']:.1%})"
        return f"root mean squared error {error}, {count} examples of {examples.split}"

    return carry_out(
        "statistics",
        out,
        record,
        count,
        -(-math.ceil(count / PARTS) // batch) * batch,
        files=("statistics.json", "statistics.npz"),
        parts=parts,
        finish=lambda job: _finish(out / "statistics.npz", job, system, count),
        tell=tell,
    )


def measured_basis(work: Work, clip: bool) -> str:
    """The basis of the run's statistics, "dct" if there are both; measures, in short, a run that has none.

    It is for another evaluator's job, with its network, and says so.
    """
    for basis in ("dct", "pixel"):
        if measured.exist(work.source, work.workdir, basis, clip):
            return basis
    given = {"clip": clip, "max_examples": STATISTICS_EXAMPLES, "data_dir": work.settings["data_dir"]}
    print(measure_trained(work._replace(job="statistics", settings=checked_settings("statistics", given))), flush=True)
    return "dct"


def _parts(
    system: System,
    params: Any,
    data: Dataset,
    examples: np.ndarray,
    seed: int,
    sizes: tuple[int, int],
    clip: bool,
    done: frozenset[int],
) -> Parts:
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
    shares, params = len(devices.own()), parallel.replicate(params)
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
                filled = np.resize(here, -(-batch // shares) * shares)
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
        raise NonFiniteError("the network's error is not finite at some time. Try --clip, or another --step")
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
