"""Networks of Analytic-DPM's code and of Extended Analytic-DPM's, whose heads predict what variances are from.

Both use networks of other codes, with the names that the tensors have there: Improved DDPM's for CIFAR-10 and ImageNet,
DDIM's for CelebA and LSUN. Analytic-DPM's own checkpoints hold them as {"models_states": {"eps_model": {name: tensor}},
"ema_models_states": ..., ...}. A head has layers of its own, beside the last ones (`ddx.interop.names`), and its file
does not say whether it is for SN-DPM or for NPR-DPM.
"""

from collections.abc import Mapping
from typing import Any

from ddx.interop.checkpoints import DDIM_CODE, IDDPM_CODE, Hints, chosen, published_as, published_name, recognised
from ddx.interop.found import Found
from ddx.interop.shapes import shape_of
from ddx.runtime import folders, storage
from ddx.runtime.errors import CheckpointError, ConfigError, shown
from ddx.runtime.paths import Path
from ddx.runtime.tensors import NUMPY, TORCH, Tensors, read

_CIFAR10 = ("analytic_cifar10:linear", "analytic_cifar10:cosine")
_LIKE_DDIM = DDIM_CODE._replace(
    published=published_as(ddim_celeba64="ddim_celeba64", ddpm_lsun="ddpm_lsun:bedroom"), shared=()
)
_LIKE_IDDPM = IDDPM_CODE._replace(
    published=published_as(analytic_cifar10=_CIFAR10, iddpm_imagenet64="iddpm_imagenet64:uncond")
)
_STATES = {"ema": "ema_models_states", "raw": "models_states"}


def find(source: Path, hints: Hints) -> Found:
    """The network in a file, or in a folder with one, as `ddx.interop.checkpoints.find` does.

    Raises:
      ConfigError: the network is no published one, or what the user says of it is not what it needs.
      CheckpointError: the file is missing, damaged or of another code.
    """
    path = source if storage.is_file(source) else _only(source, of_statistics=False)
    tensors = _states(read(path), path, hints.weights)
    if any(name.removeprefix("module.").startswith("all_modules.") for name in tensors):
        raise ConfigError(f"{path} is of an NCSN++ of score_sde, which ddx has not. Convert another network")
    code = _LIKE_DDIM if "conv_in.weight" in tensors else _LIKE_IDDPM
    found = recognised(tensors, path, hints, code)
    if published_name(shape_of(tensors, code.family, path), code) == "analytic_cifar10":
        if not found.config.process.first_time:
            raise ConfigError(
                f"{path} is a network of Analytic-DPM's own, which are told times from 1. Pass"
                f" --config={_CIFAR10[0]}, or --config.process.first_time=1"
            )
    if hints.config is None:  # its code draws all its networks in one way, whatever those did that trained them
        found.config.sample.clip, found.config.sample.trajectory = True, "even"
    return found


def statistics_in(source: Path) -> Path | None:
    """The file of statistics in a folder, by its name or its folder's; None in a folder without, and beside a file.

    Raises:
      CheckpointError: there are several.
    """
    return _only(source, of_statistics=True) if storage.is_dir(source) and _files(source, True) else None


def _states(found: Any, path: Path, weights: str) -> Tensors:
    """The tensors by name in what a file holds, which may be a checkpoint of the code's training."""
    if not isinstance(found, Mapping) or not any(name in found for name in _STATES.values()):
        return chosen(found, path, weights)
    models = found.get(_STATES[weights])
    if not isinstance(models, Mapping) or not models:
        other = "raw" if weights == "ema" else "ema"
        raise CheckpointError(f"{path} holds no {weights} weights. Pass --weights={other} for the others")
    if len(models) > 1:
        raise CheckpointError(
            f"{path} holds {len(models)} networks, {shown(', '.join(map(str, models)))}. Save one alone"
        )
    return chosen(next(iter(models.values())), path, weights)


def _files(folder: Path, of_statistics: bool) -> list[Path]:
    """The files in a folder that are of statistics, by their name or their folder's, or PyTorch's others."""
    kinds = (NUMPY, *TORCH) if of_statistics else TORCH
    files = [file for file in folders.files_below(folder) if file.suffix in kinds]
    return sorted(file for file in files if ("ms_eps" in file.name or file.parent.name == "ms_eps") == of_statistics)


def _only(folder: Path, of_statistics: bool) -> Path:
    """The one file of its kind in a folder."""
    files = _files(folder, of_statistics) if storage.is_dir(folder) else []
    if len(files) != 1:
        what, flag = ("statistics (ms_eps)", "--statistics") if of_statistics else ("a network", "--source")
        names = ": " + ", ".join(file.name for file in files[:5]) if files else ""
        raise CheckpointError(f"{folder} has {len(files) or 'no'} files of {what}{names}. Name the file with {flag}")
    return files[0]
