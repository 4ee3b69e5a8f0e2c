"""A run's folder: its config, its lock, and what is where.

config.json        the validated config; config_history.json: what was changed in it at which step, if anything was
LOCK               held by the process that trains here, see `ddx.runtime.lock`
backbone.json      for a run that trains a head: the checkpoint of another run whose weights it is on
init_from.json     for a run that starts from another's weights: the checkpoint that they are of
checkpoints/       `ddx.runs.checkpoint`; checkpoints.last names the last finished save
metrics.jsonl      one line each logged step
tensorboard/       the same as events, and the grids
samples/           grids of samples drawn from the averaged weights, by step
"""

from typing import Any

from ml_collections import ConfigDict

from ddx.config import values as config_lib
from ddx.runtime import folders, storage
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import Path
from ddx.runtime.storage import write_json, write_text


def load_config(workdir: Path) -> ConfigDict | None:
    """The config of the run in a folder, or None if there is none.

    Raises:
      ConfigError: config.json is unreadable.
    """
    path = workdir / "config.json"
    try:
        return config_lib.from_json(storage.read_text(path), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error}). Restore it, or use a new --workdir") from None


def run_config(workdir: Path, config: ConfigDict | None) -> ConfigDict:
    """The validated config to run with: the given one, or the folder's.

    Whether it fits the checkpoints in the folder, `ddx.training.resume` tells.

    Raises:
      ConfigError: there is neither, or one of them is no config.
    """
    saved = load_config(workdir)
    if config is None:
        if saved is None:
            raise ConfigError(f"{workdir} has no config.json. Pass --config, such as --config=digits")
        return saved
    return config_lib.validate(config)


def save_config(workdir: Path, config: ConfigDict, history: list[dict[str, Any]]) -> None:
    """Write config.json, unless it says the same already, and the history of its changes, if there are any."""
    text, path = config_lib.to_json(config), workdir / "config.json"
    if not storage.is_file(path) or storage.read_text(path) != text:
        write_text(path, text)
    if history:
        write_json(workdir / "config_history.json", history)
    else:
        storage.remove(workdir / "config_history.json")  # of checkpoints that are gone


def forget_later(workdir: Path, step: int) -> None:
    """Remove the grids of steps after this one, which will be done again, perhaps with another config."""
    for name in folders.names(workdir / "samples"):
        number = name.removesuffix(".png")
        if number != name and number.isdecimal() and int(number) > step:
            storage.remove(workdir / "samples" / name)
