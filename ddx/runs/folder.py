"""A run's folder: its config, its lock, and what is where.

config.json        the validated config; config_history.json: what was changed in it at which step, if anything was
LOCK               held by the process that trains here
backbone.json      for a run that trains a head: the checkpoint of another run whose weights it is on
init_from.json     for a run that starts from another's weights: the checkpoint that they are of
checkpoints/       `ddx.runs.checkpoint`; checkpoints.last names the last finished save
metrics.jsonl      one line each logged step
tensorboard/       the same as events, and the grids
samples/           grids of samples drawn from the averaged weights, by step
"""

import contextlib
import fcntl
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from ml_collections import ConfigDict

from ddx.config import values as config_lib
from ddx.runtime.errors import ConfigError
from ddx.runtime.files import make_directory, write_json, write_text


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
    """The validated config to run with: the given one, or that of the folder.

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


def save_config(workdir: pathlib.Path, config: ConfigDict, history: list[dict[str, Any]]) -> None:
    """Write config.json, unless it says the same already, and the history of its changes, if there are any."""
    text, path = config_lib.to_json(config), workdir / "config.json"
    if not path.exists() or path.read_text() != text:
        write_text(path, text)
    if history:
        write_json(workdir / "config_history.json", history)
    else:
        (workdir / "config_history.json").unlink(missing_ok=True)  # of checkpoints that are gone


def forget_later(workdir: pathlib.Path, step: int) -> None:
    """Remove the grids of steps after this one, which will be done again, perhaps with another config."""
    for path in (workdir / "samples").glob("*.png"):
        if path.stem.isdecimal() and int(path.stem) > step:
            path.unlink()


@contextlib.contextmanager
def lock(folder: pathlib.Path, option: str = "--workdir") -> Iterator[None]:
    """Keep other processes from writing to the folder that `option` names; the lock ends with the process.

    Raises:
      ConfigError: another process holds it, or it cannot be had.
    """
    make_directory(folder, option)
    path = folder / "LOCK"
    with _lock_file(path, option) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder} is in use by {_holder(file)}. Wait for it, or use another {option}") from None
        except OSError as error:
            raise ConfigError(
                f"cannot lock {path} ({error.strerror or error}), as on some network file systems."
                f" Use another {option}, on a local disk"
            ) from None
        with contextlib.suppress(OSError):  # who holds it is told where that can be written
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}".encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)  # the file stays: a process that waits for it must not lock one that is gone


def _lock_file(path: pathlib.Path, option: str) -> BinaryIO:
    try:
        return open(path, "ab+", buffering=0)  # unbuffered: nothing is left to fail when it is closed
    except OSError as error:
        raise ConfigError(f"cannot open {path} ({error.strerror or error}). Use another {option}") from None


def _holder(file: BinaryIO) -> str:
    """What a lock file says of the process that holds it; it may be read before that is written."""
    file.seek(0)
    match = re.match(r"process \d+ on \S+", file.read(300).decode(errors="replace"))
    return match[0] if match else "another process"
