"""A run's folder: its config, its lock, and what is where.

config.json        the validated config
LOCK               held by the process that trains here
backbone.json      for a run that trains a head: the checkpoint of another run whose weights it is on
checkpoints/       `ddx.training.checkpoint`; checkpoints.last names the last finished save
metrics.jsonl      one line each logged step
tensorboard/       the same as events, and the grids
samples/           grids of samples drawn from the averaged weights, by step
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from ddx import config as config_lib
from ddx.errors import ConfigError
from ddx.files import make_directory, write_text


def load_config(workdir: pathlib.Path) -> ConfigDict | None:
    """The config of the run in a folder, or None if there is none.

    Raises:
      ConfigError: config.json is unreadable.
    """
    path = workdir / "config.json"
    try:
        return config_lib.from_json(path.read_text(), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error}). Restore it, or use a new --workdir") from None


def run_config(workdir: pathlib.Path, config: ConfigDict | None) -> ConfigDict:
    """The validated config to run with: the given one if it fits the run in the folder, or the folder's own.

    Raises:
      ConfigError: there is neither, or the two differ in a key that decides the state of a run.
    """
    saved = load_config(workdir)
    if config is None:
        if saved is None:
            raise ConfigError(f"{workdir} has no config.json. Pass --config, such as --config=digits")
        return saved
    config = config_lib.validate(config)
    if saved is not None:
        check_same_run(workdir, saved, config)
    return config


def check_same_run(workdir: pathlib.Path, old: Any, new: Any) -> None:
    """Refuse, with a ConfigError, to go on with a config that would have led to another state."""
    different = config_lib.differences(old, new)
    if different:
        raise ConfigError(
            f"{workdir} was started with another config ({'; '.join(different[:5])})."
            " Use a new --workdir, or the config of that run"
        )


def save_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Write config.json, unless it says the same already."""
    text, path = config_lib.to_json(config), workdir / "config.json"
    if not path.exists() or path.read_text() != text:
        write_text(path, text)


@contextlib.contextmanager
def lock(folder: pathlib.Path, option: str = "--workdir") -> Iterator[None]:
    """Keep other processes from writing to the folder that `option` names; the lock ends with the process.

    Raises:
      ConfigError: another process holds it.
    """
    make_directory(folder, option)
    path = folder / "LOCK"
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise ConfigError(
                f"{folder} is in use by {file.read().strip()}. Wait for it, or use another {option}"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # the file stays: a process that waits for it must not lock one that is gone
