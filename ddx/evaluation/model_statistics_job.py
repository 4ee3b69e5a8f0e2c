"""What DPM-Solver-v3 needs to know of a trained network: a job that may be interrupted at any moment.

model_statistics.json   the protocol and, when it is finished, a summary
model_statistics.npz    the fields of `ddx.diffusion.reverse.dpm_v3.ModelStatistics`
"""

from typing import Any

import numpy as np

from ddx.config.evaluation import checked_settings
from ddx.diffusion.bound import model_statistics as stats
from ddx.diffusion.reverse.rows import Plan
from ddx.evaluation.settings import default_clip
from ddx.evaluation.sums import measure_sums
from ddx.evaluation.work import Work, begin, open_split
from ddx.runs.job import Job, Result
from ddx.runtime import devices
from ddx.runtime.errors import ConfigError, NonFiniteError
from ddx.runtime.paths import Path
from ddx.runtime.storage import sha256, write_arrays
from ddx.sampling import measured, stored
from ddx.system import System

KIND = "model_statistics"


@devices.job("measuring", devices.FEWER_AT_ONCE)
def measure(workdir: str | Path, **settings: Any) -> Result:
    """Measure what solver "dpm_v3" needs, at up to 120 levels that are about even in log-SNR.

    An interrupted measurement resumes after the last part that was written; a finished one changes nothing.

    Args:
      workdir: folder of a training run.
      **settings: the settings of "model_statistics" in `ddx.config.evaluation.EVALUATION`. Clip x_0 as samplers will.

    Returns:
      What was written, with a summary; its arrays() are the fields of
      `ddx.diffusion.reverse.dpm_v3.ModelStatistics`.

    Raises:
      DdxError: as `ddx.evaluation.evaluate` says; the process blurs, or there are too few examples.
    """
    return _measure(begin(KIND, workdir, settings))


def measure_if_none(work: Work, clip: bool) -> None:
    """Measure, in short, a run that has no model statistics, for another evaluator's job, with its network; say so."""
    if stored.exist(work.source, work.workdir, KIND, None, clip):
        return
    given = {"clip": clip, "max_examples": stored.EXAMPLES, "data_dir": work.settings["data_dir"]}
    print(_measure(work._replace(job=KIND, settings=checked_settings(KIND, given))), flush=True)


def _measure(work: Work) -> Result:
    source, given, config = work.source, work.settings, work.source.system.config
    measured.check_dpm_v3(source)
    clip, system = default_clip(config, given["clip"]), measured.in_basis(source.system, given["basis"])
    try:
        rows = stats.level_rows(system.process)
    except ValueError as error:
        raise ConfigError(f"{error}. Use another solver") from None
    examples = open_split(source, given, default=config.data.split)
    count = len(examples.indices)
    if count < stats.LEAST_EXAMPLES:
        raise ConfigError(f"model statistics of {count} examples say little. Take {stats.LEAST_EXAMPLES} or more")

    def of_images(x_0: Any, weight: Any, draw: Any) -> stats.DataSums:
        return stats.data_sums(system.process, x_0, weight, draw)

    def tell(result: dict[str, Any]) -> str:
        return f"l, E f and std f at {result['levels']} levels, {count} examples of {examples.split}"

    return measure_sums(
        work,
        examples,
        system,
        clip,
        rows,
        of_rows=stats.level_sums,
        of_images=of_images,
        finish=lambda path, job: _finish(path, job, system, rows, count),
        tell=tell,
    )


def _finish(path: Path, job: Job, system: System, rows: Plan, count: int) -> dict[str, Any]:
    total = job.gathered(summed=(*stats.LevelSums._fields, *stats.DataSums._fields))
    of_levels = stats.LevelSums(*(total[name] for name in stats.LevelSums._fields))
    of_data = stats.DataSums(*(total[name] for name in stats.DataSums._fields))
    if not all(np.isfinite(x).all() for x in of_levels):
        raise NonFiniteError("the network's estimate is not finite at some level. Try --clip, or another --step")
    found = stats.model_statistics(system.process, rows, of_levels, of_data, count)
    write_arrays(path, found._asdict())
    result = {
        "levels": len(found.logsnr),
        "logsnr": [float(found.logsnr[0]), float(found.logsnr[-1])],
        "sha256": sha256(path),
    }
    job.finish(result=result)
    return result
