"""What was measured of a trained network, as it lies in the run's folder: which is there, and which to use.

statistics/NAME/statistics.json, .npz                   by `ddx.evaluation.statistics_job`
model_statistics/NAME/model_statistics.json, .npz       by `ddx.evaluation.model_statistics_job`
"""

import shlex
from typing import Any, NamedTuple

from ddx.diffusion.bound.statistics import Statistics
from ddx.diffusion.reverse.dpm_v3 import ModelStatistics
from ddx.runs.job import DAMAGE, read_record
from ddx.runs.trained import Trained
from ddx.runtime import folders, storage
from ddx.runtime.errors import ConfigError, telling_line
from ddx.runtime.paths import Path
from ddx.runtime.storage import read_arrays, sha256

KINDS: dict[str, Any] = {"statistics": Statistics, "model_statistics": ModelStatistics}
"""By the name of their evaluator, which names their folder and files too."""

EXAMPLES = 1024  # for model statistics, where a user names no number: the paper's least


class Found(NamedTuple):
    """A finished measurement in a run's folder."""

    path: Path  # of the .npz file
    protocol: dict[str, Any]
    checksum: str

    @property
    def told(self) -> dict[str, Any]:
        """What a record says of it."""
        return self.protocol | {"sha256": self.checksum}


def exist(source: Trained, workdir: Path, kind: str, basis: str | None, clip: bool) -> bool:
    """Whether there are any of a checkpoint, in a basis or (None) in either, with x_0 clipped or not."""
    return bool(_all(source, workdir, kind, basis, clip))


def find(source: Trained, workdir: Path, kind: str, basis: str | None, clip: bool | None) -> Found:
    """Those to use: of the split that the network was trained on if there are such, and of the most images.

    Raises:
      ConfigError: there are none, or a record is damaged.
    """
    found = _all(source, workdir, kind, basis, clip)
    if not found:
        of = f" of the {basis} basis" * (basis is not None)
        of += {None: "", True: " with x_0 clipped", False: " with x_0 not clipped"}[clip]
        flags = f" --basis={basis}" * (basis == "pixel") + " --noclip" * (clip is False) + " --clip" * (clip is True)
        flags += f" --weights={source.weights}" * (source.weights != source.system.config.sample.weights)
        flags += f" --max_examples={EXAMPLES}" * (kind == "model_statistics")
        raise ConfigError(
            f"{workdir} has no {kind.replace('_', ' ')} of step {source.step}{of}. Measure them with"
            f" python -m launch.evaluate --workdir={shlex.quote(str(workdir))} --metrics={kind}{flags}"
        )
    own = source.system.config.data.split
    return max(found, key=lambda entry: (entry.protocol["split"] == own, entry.protocol["num_examples"]))


def load(folder: Path, kind: str) -> Any:
    """What a folder holds, in its class of `KINDS`.

    Raises:
      ConfigError: there is nothing of the kind, or it is damaged.
    """
    path, named = folder / f"{kind}.json", kind.replace("_", " ")
    record = _record(path)
    result, arrays = record.get("result"), path.with_suffix(".npz")
    checksum = result.get("sha256") if isinstance(result, dict) else None
    if checksum is None:
        raise ConfigError(f"{path.parent} has no finished {named}. Measure them with launch.evaluate --metrics={kind}")
    if not storage.is_file(arrays) or sha256(arrays) != checksum:
        raise ConfigError(f"{arrays} is damaged. Remove its folder and measure again")
    try:
        file: dict[str, Any] = read_arrays(arrays)
        return KINDS[kind](**{name: file[name][()] for name in KINDS[kind]._fields})
    except DAMAGE as error:
        raise ConfigError(
            f"{arrays} has no {named} ({telling_line(error)}). Remove its folder and measure again"
        ) from None


def _record(path: Path) -> dict[str, Any]:
    try:
        return read_record(path)
    except ConfigError:
        raise ConfigError(f"{path} is damaged. Remove its folder and measure again") from None


def _all(source: Trained, workdir: Path, kind: str, basis: str | None, clip: bool | None) -> list[Found]:
    found = []
    for name in folders.names(workdir / kind):
        path = workdir / kind / name / f"{kind}.json"
        record = _record(path)
        try:
            protocol, checksum = record["protocol"], record["result"]["sha256"]
            wanted = basis in (None, protocol["basis"]) and clip in (None, protocol["clip"])
        except (KeyError, TypeError):
            continue  # not finished
        if wanted and record["weights"] == source.seal:
            found.append(Found(path.with_suffix(".npz"), protocol, checksum))
    return found
