"""Names of files and folders, on this machine or in a bucket.

A path is a pure one, so that nothing can be done with it but by `ddx.runtime.storage`: `pathlib.Path` on this machine,
`etils.epath.Path` for gs://bucket/name.
"""

import os
import pathlib
import re
from typing import Any, TypeGuard

from ddx.runtime.errors import ConfigError

Path = pathlib.PurePath

_GS = "gs://"
# gs://bucket, or gs:/bucket as pathlib writes it. A folder whose name merely contains a colon is none.
_SCHEME = re.compile(r"\s*([^/\s]*://|[A-Za-z][\w+.-]*:/)")


def user_path(given: Any, option: str) -> Path:
    """The path that a user named with `option`: on this machine, where "~" is the home folder, or gs://bucket/name.

    Every path that a user names comes through here, so that none is taken for another kind by mistake.

    Raises:
      ConfigError: it is no path, or empty, or too long, or has another scheme, or there is no home folder for its "~".
    """
    if not isinstance(given, str | os.PathLike) or not isinstance(text := os.fspath(given), str):
        raise ConfigError(f"{option}={given!r} is no path. Give a string, such as 'runs/digits'")
    if not text or "\0" in text:
        raise ConfigError(f"{option}={text!r} names nothing. Give a path, such as runs/digits")
    if text.startswith(_GS):
        return _in_bucket(text, option)
    if _SCHEME.match(text):
        raise ConfigError(
            f"{option}={text} is neither a path on this machine nor gs://bucket/name, which ddx reads and writes."
            " Name one of these, and copy what lies elsewhere"
        )
    found = pathlib.Path(os.path.expanduser(text))
    if len(os.fsencode(found)) > 4000 or any(len(os.fsencode(part)) > 255 for part in found.parts):
        raise ConfigError(f"{option}={text} is too long for a file system. Give a shorter path")
    if found.parts[:1] == ("~",):
        raise ConfigError(f"{option}={text} is in a home folder, and this user has none. Give a path without ~")
    return found


def optional_path(given: Any, option: str) -> Path | None:
    """The same of a path that may be left out: None for None."""
    return None if given is None else user_path(given, option)


def local_path(given: Any, option: str) -> pathlib.Path:
    """The same of what must be on this machine.

    Raises:
      ConfigError: as `user_path`; or it is in a bucket.
    """
    found = user_path(given, option)
    if not is_local(found):
        raise ConfigError(f"{option}={found} must be on this machine. Name a local path")
    return found


def is_local(path: Path) -> TypeGuard[pathlib.Path]:
    """Whether a path is on this machine, and not in a bucket."""
    return isinstance(path, pathlib.Path) and not str(path).startswith(_GS)


def absolute(path: Path) -> Path:
    """The path as it is found from any folder."""
    return pathlib.Path(os.path.abspath(path)) if is_local(path) else path


def place(path: str | Path) -> str:
    """What all paths to one place have in common."""
    text = str(path)
    return text.rstrip("/") if text.startswith(_GS) else os.path.realpath(os.path.expanduser(text))


def _in_bucket(text: str, option: str) -> Path:
    if not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+[a-z0-9](/.*)?", text, re.DOTALL):
        raise ConfigError(f"{option}={text} names no bucket. Write it as gs://bucket/name")
    from etils import epath  # a tenth of a second

    return epath.Path(text)
