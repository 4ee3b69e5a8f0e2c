"""Whole folders, on this machine or in a bucket, where a folder is what the names of objects have in common."""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

from ddx.runtime import bucket
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import Path, is_local


def names(folder: Path) -> list[str]:
    """The names of all that is in a folder, in order; none where there is no folder."""
    if not is_local(folder):
        return sorted(bucket.names(bucket.address(folder)))
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.listdir(folder))
    return []


def files_below(folder: Path) -> dict[Path, int | None]:
    """The files in a folder and the folders in it, and the bytes in each where that is known without asking.

    Hidden files and folders are left out, and links to folders.

    Raises:
      OSError: a folder cannot be read, which would leave its files out without a word.
    """
    if not is_local(folder):
        at = bucket.address(folder)
        prefix = f"{at.name}/" if at.name else ""
        found = {obj.name.removeprefix(prefix): obj.size for obj in bucket.below(at)}
        return {folder / name: size for name, size in found.items() if not any(map(_is_hidden, name.split("/")))}
    files: dict[Path, int | None] = {}
    for parent, folders, inside in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        files |= {pathlib.Path(parent, name): None for name in inside if not _is_hidden(name)}
    return files


def download(folder: Path, to: pathlib.Path) -> None:
    """Copy all of a folder in a bucket into one on this machine.

    Raises:
      FileNotFoundError: an object was removed meanwhile.
    """
    at = bucket.address(folder)
    objects = bucket.below(at)
    files = [to / obj.name.removeprefix(f"{at.name}/") for obj in objects]
    for parent in {file.parent for file in files}:
        parent.mkdir(parents=True, exist_ok=True)
    bucket.all_at_once(bucket.get, [bucket.Address(at.bucket, obj.name) for obj in objects], files)


def upload(folder: pathlib.Path, to: Path) -> None:
    """Copy all files in a folder on this machine into one in a bucket."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    at = [bucket.address(to / file.relative_to(folder).as_posix()) for file in files]
    bucket.all_at_once(bucket.put, at, files)


def remove_tree(folder: Path) -> None:
    """Remove a folder, or a file, and all that is in it, as far as that is possible."""
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.unlink(missing_ok=True)
        return
    at = bucket.address(folder)
    bucket.remove(at)
    bucket.all_at_once(bucket.remove, [bucket.Address(at.bucket, obj.name) for obj in bucket.below(at)])


def remove_if_empty(folder: Path) -> None:
    """Remove a folder with nothing in it; leave any other, or none."""
    if is_local(folder):
        with contextlib.suppress(OSError):
            folder.rmdir()


def move_tree(folder: Path, to: Path, last: str) -> None:
    """Give a folder another name, in place of one that has it; in a bucket, the object named `last` moves last."""
    remove_tree(to)
    if is_local(folder):
        folder.rename(pathlib.Path(to))
        return
    at, new = bucket.address(folder), bucket.address(to)
    objects = sorted(bucket.below(at), key=lambda obj: obj.name == f"{at.name}/{last}")
    for obj in objects:
        name = new.name + obj.name.removeprefix(at.name)
        bucket.copy(bucket.Address(at.bucket, obj.name), bucket.Address(new.bucket, name))
    for obj in reversed(objects):
        bucket.remove(bucket.Address(at.bucket, obj.name))


def remove_temporaries(folder: Path) -> None:
    """Remove what `replacing` left of writers that were killed; only for the one that owns the folder."""
    if is_local(folder):
        for path in folder.glob(".*.tmp"):
            if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
                path.unlink(missing_ok=True)


def check_new(path: Path, option: str) -> None:
    """Refuse, with a ConfigError, a folder in which there is something."""
    if names(path):
        raise ConfigError(f"{option}={path} is not empty. Name a new folder")


@contextlib.contextmanager
def making(path: Path, option: str) -> Iterator[Path]:
    """A folder to write to, which becomes the new folder `path` when the block ends well and goes otherwise.

    In a bucket it is the folder itself, whose most telling file should be written last.

    Raises:
      ConfigError: it cannot be created or written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp") if is_local(path) else path
    make_directory(temporary, option)
    try:
        yield temporary
        if is_local(path) and is_local(temporary):
            temporary.rename(path)  # over an empty folder too
    except BaseException:
        remove_tree(temporary)
        raise


def make_directory(path: Path, option: str) -> None:
    """Create a folder that the user named with `option`; in a bucket there are none to create.

    Raises:
      ConfigError: it cannot be created or written to.
    """
    if not is_local(path):
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create {path} ({error.strerror}). Choose another {option}") from None
    try:
        with tempfile.TemporaryFile(dir=path):  # os.access allows root to write to /proc
            pass
    except OSError:
        raise ConfigError(f"cannot write to {path}. Choose another {option}") from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _raise(error: OSError) -> None:
    raise error
