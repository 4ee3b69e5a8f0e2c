"""How wrong a trained network is at every time: a job that may be interrupted at any moment.

statistics.json   the protocol and, when it is finished, a summary
statistics.npz    the fields of `ddx.diffusion.bound.statistics.Statistics`
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddx.config.evaluation import checked_settings
from ddx.diffusion.bound import statistics as stats
from ddx.diffusion.bound.terms import bound_rows
from ddx.diffusion.estimate.denoiser import Denoiser
from ddx.diffusion.reverse.rows import Plan
from ddx.evaluation.settings import default_clip
from ddx.evaluation.sums import measure_sums
from ddx.evaluation.work import Work, begin, open_split
from ddx.runs.job import Job, Result
from ddx.runtime import devices
from ddx.runtime.errors import ConfigError, NonFiniteError
from ddx.runtime.paths import Path
from ddx.runtime.storage import sha256, write_arrays
from ddx.sampling import measured
from ddx.system import System

STATISTICS_EXAMPLES = 500  # of the training set, for a job that needs statistics and finds none


class Moments(NamedTuple):
    """Sums over images of the coordinates and of their squares, (H, W, C) each."""

    first: Any
    second: Any


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
    clip, system = default_clip(config, given["clip"]), measured.in_basis(source.system, given["basis"])
    examples = open_split(source, given, default=config.data.split)
    count = len(examples.indices)
    rows, of_rows, of_images = _sums_of(system)

    def tell(result: dict[str, Any]) -> str:
        error = f"{result['rmse_middle']:.4g} at T / 2 (+- {result['relative_error_middle']:.1%})"
        return f"root mean squared error {error}, {count} examples of {examples.split}"

    return measure_sums(
        work,
        examples,
        system,
        clip,
        rows,
        of_rows=of_rows,
        of_images=of_images,
        finish=lambda path, job: _finish(path, job, system, count),
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


def _sums_of(system: System) -> tuple[Plan, Callable[..., stats.Sums], Callable[..., Moments]]:
    """All T levels, and what is summed at each and of the images, for `measure_sums`."""
    process = system.process

    def of_rows(denoise: Denoiser, x_0: Any, weight: Any, rows: Plan, draw: Any) -> stats.Sums:
        return stats.error_sums(denoise, x_0, weight, rows, rows.level.t, draw)

    def of_images(x_0: Any, weight: Any, draw: Any) -> Moments:
        del draw
        u_0 = process.basis.analysis(x_0)
        return Moments(*(jnp.einsum("b,b...->...", weight, x) for x in (u_0, jnp.square(u_0))))

    rows = bound_rows(process, tuple(range(process.num_steps, -1, -1)), system.image_shape[:2])
    return rows, of_rows, of_images


def _finish(path: Path, job: Job, system: System, count: int) -> dict[str, Any]:
    total = job.gathered(summed=(*stats.Sums._fields, *Moments._fields))
    sums = stats.Sums(*(total[name] for name in stats.Sums._fields))
    if not all(np.isfinite(x).all() for x in sums):
        raise NonFiniteError("the network's error is not finite at some time. Try --clip, or another --step")
    times = np.arange(1, system.process.num_steps + 1)
    found = stats.statistics(system.process, sums, (total["first"], total["second"]), times, count)
    write_arrays(path, found._asdict())
    middle = (len(times) - 1) // 2
    in_pixels = system.process.basis.units(system.image_shape[:2])
    mse = float((found.mse[middle] * in_pixels).mean())
    result = {
        "rmse_middle": math.sqrt(mse),
        "relative_error_middle": float(found.mse_error[middle] / mean) if (mean := found.mse[middle].mean()) else 0.0,
        "data_variance": float((found.spectrum * in_pixels).mean()),
        "sha256": sha256(path),
    }
    job.finish(result=result)
    return result
