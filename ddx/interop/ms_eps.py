"""Statistics that Analytic-DPM's code measured, as statistics of a run.

Its files hold one vector, ms_eps: E eps^2 of the network's own eps, a mean over coordinates, at the times 0 .. T, and 0
at t = 0, where nothing is measured. They say neither of which network they are nor of which schedule. Analytic-DPM's
own variances are from this vector alone (equation 2 of `ddx.diffusion.bound.statistics`).
"""

import numpy as np

from ddx.diffusion.bound.statistics import Statistics, noise_logsnr
from ddx.diffusion.forward.basis import largest_variance
from ddx.runtime import folders
from ddx.runtime.errors import CheckpointError
from ddx.runtime.paths import Path
from ddx.runtime.storage import sha256, write_arrays, write_json
from ddx.runtime.tensors import read_array
from ddx.system import System

# A network that errs, and a mean over few images, may exceed 1, or fall below what is possible for one without error.
_MOST, _SLACK = 2.0, 0.2


def of_file(path: Path, system: System) -> Statistics:
    """The statistics of a network, from a file that np.save or torch.save wrote.

    Returns:
      `Statistics` at the times 1 .. T with NaN for what is not known: all but logsnr, ms_eps and the range of the data.

    Raises:
      ConfigError: the file needs PyTorch, which is not installed, or is of no known kind.
      CheckpointError: it is missing or damaged, or its numbers cannot be those of the network.
    """
    ms_eps, process = read_array(path), system.process
    T = process.num_steps
    kind, shape = ms_eps.dtype, ms_eps.shape
    if process.of_frequencies or process.continuous:
        raise _refused(path, "holds the mean square of eps, and the process is not one of noise alone")
    if not np.issubdtype(kind, np.floating) or shape != (T + 1,):
        raise _refused(path, f"holds {kind} of shape {shape}, and {T} noise levels need floats of shape ({T + 1},)")
    ms_eps = ms_eps.astype(np.float64)
    if not np.isfinite(ms_eps).all():
        raise _refused(path, f"has a number that is not finite at t={int(np.argmin(np.isfinite(ms_eps)))}")
    if ms_eps[0] != 0:
        raise _refused(path, f"begins with {ms_eps[0]:g}, and with 0 at t=0 it should")
    logsnr = noise_logsnr(process, np.arange(1, T + 1))
    # V = (1 - ms_eps) / SNR is a variance of data in a range: at most 1 for [-1, 1].
    most = float(np.max(largest_variance(process.basis, (1, 1), process.low)))
    least = 1.0 - most * np.exp(logsnr) - _SLACK
    wrong = np.flatnonzero((ms_eps[1:] <= 0) | (ms_eps[1:] < least) | (ms_eps[1:] > _MOST))
    if len(wrong):
        t, value = int(wrong[0]) + 1, ms_eps[wrong[0] + 1]
        between = f"{max(0.0, least[wrong[0]]):.3g} and {_MOST:g}"
        raise _refused(path, f"has {value:g} at t={t}, where the mean square of eps lies between {between}")
    unknown = np.full(T, np.nan)
    spectrum = np.full((1, 1, 1), most)
    return Statistics(logsnr, unknown[:, None, None, None], unknown, ms_eps[1:], unknown, spectrum, 0)


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} {why}. Use the statistics of this network, and a config with the schedule of both")


def write(run: Path, statistics: Statistics, record: dict[str, object], path: Path) -> None:
    """Write the statistics of the file `path` to the folder of a run, where `ddx.sampling.measured` finds them.

    Neither the basis nor the clipping of x_0 changes ms_eps, so their protocol names none, and no variance that needs
    one takes them.

    Args:
      run: the folder.
      statistics: what `of_file` returned.
      record: whose statistics they are: the run's workdir, step and weights, its process and prediction.
      path: the file.
    """
    folder = run / "statistics" / f"step{record['step']}_converted"
    folders.make_directory(folder, "--out")
    write_arrays(folder / "statistics.npz", statistics._asdict())
    protocol = {"from": str(path), "basis": None, "clip": None, "split": None, "num_examples": 0}
    result = {"source_sha256": sha256(path), "sha256": sha256(folder / "statistics.npz")}
    write_json(folder / "statistics.json", record | {"protocol": protocol, "result": result})
