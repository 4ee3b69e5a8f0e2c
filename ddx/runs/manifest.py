"""What seals the folder of a checkpoint: MANIFEST.json, with the SHA-256 of every other file and of itself.

It is written last, and removed first: a folder without it is no checkpoint, neither yet nor any more. So one that goes
while somebody reads it is not taken for a damaged one. Who reads a checkpoint locks its manifest, for which the run
leaves it there a while longer.
"""

import contextlib
import fcntl
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from ddx.runtime import folders, storage
from ddx.runtime.errors import CheckpointError, telling_line
from ddx.runtime.paths import Path, is_local
from ddx.runtime.storage import digest, sha256

MANIFEST = "MANIFEST.json"
_FORMAT = 1


def describe(folder: pathlib.Path, step: int, items: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says of the files in a folder and of the arrays of the items that they hold."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        "format": _FORMAT,
        "step": step,
        "jax": jax.__version__,
        "arrays": {name: arrays_of(item) for name, item in items.items()},
        "files": {str(file.relative_to(folder)): sha256(file) for file in files},
    }


def seal(manifest: dict[str, Any]) -> str:
    """The manifest as text, with a checksum of itself."""
    return json.dumps(manifest | {"seal": digest(json.loads(json.dumps(manifest)))}, indent=1)


def read(folder: Path) -> dict[str, Any]:
    """The manifest of an undamaged checkpoint."""
    manifest: dict[str, Any] = json.loads(storage.read_text(folder / MANIFEST))
    return manifest


def exists(folder: Path) -> bool:
    """Whether the folder is a checkpoint, good or damaged."""
    return storage.exists(folder / MANIFEST)


def damage(folder: pathlib.Path, step: int) -> str | None:
    """Why the checkpoint of a step cannot be trusted, or None."""
    try:
        manifest = read(folder)
        expected_seal = manifest.pop("seal")
        if manifest["format"] != _FORMAT:
            return f"written in format {manifest['format']}, this version reads {_FORMAT}"
        if expected_seal != digest(manifest):
            return f"{MANIFEST} has changed"
        if manifest["step"] != step:
            return f"it belongs to step {manifest['step']}"
        if not all(isinstance(said, dict) for said in (manifest["meta"], *manifest["arrays"].values())):
            return f"{MANIFEST} does not say what it holds"
        for name, expected in manifest["files"].items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if sha256(folder / name) != expected:
                return f"{name} has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} is unreadable: {telling_line(error)}"
    return None


def hold(folder: Path) -> contextlib.ExitStack | None:
    """Keep a run from removing a checkpoint until the result is closed; None if it is removed already.

    In a bucket nothing can be kept: it may go while it is read.
    """
    held = contextlib.ExitStack()
    if not is_local(folder):
        return held if exists(folder) else None
    try:
        file = held.enter_context(storage.open_regular(folder / MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # `damage` tells why
        return held
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        is_there = os.fstat(file.fileno()).st_nlink > 0
    except BlockingIOError:  # it is just being removed
        is_there = False
    except OSError:  # a file system without locks: it may go while it is read
        return held
    if not is_there:
        held.close()
    return held if is_there else None


def remove(folder: Path) -> None:
    """Remove a checkpoint, its manifest first, unless somebody reads it or has removed it.

    Of a link to a folder, only the link is removed: what it leads to is not the run's.
    """
    if not is_local(folder):
        storage.remove(folder / MANIFEST)
        folders.remove_tree(folder)
        return
    with contextlib.suppress(OSError):  # it is gone, or it is none
        with storage.open_regular(folder / MANIFEST) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            except OSError:  # a file system without locks
                pass
            (folder if folder.is_symlink() else folder / MANIFEST).unlink()
    folders.remove_tree(folder)  # without a manifest, the next save clears what is left


def arrays_of(tree: Any) -> dict[str, str]:
    """{"['conv_in']['kernel']": "float32 (3, 3, 3, 128)", ...}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{np.dtype(leaf.dtype)} {tuple(leaf.shape)}" for path, leaf in leaves}


def check_fit(
    folder: Path,
    saved: dict[str, dict[str, str]],
    targets: dict[str, Any],
    others: tuple[str, ...] = (),
    remedy: str = "Use the config that it was trained with",
) -> None:
    """Refuse, with a CheckpointError, a checkpoint whose items do not have the arrays of the targets.

    `saved` are its arrays, item by item, as `arrays_of` tells them; `others` are differences that no array shows.
    """
    wrong = list(others)
    for name, target in targets.items():
        have, wanted = saved.get(name, {}), arrays_of(target)
        for array in sorted(have.keys() | wanted.keys()):
            if have.get(array) != wanted.get(array):
                wrong.append(
                    f"{name}{array}: saved {have.get(array, 'nothing')}, needed {wanted.get(array, 'nothing')}"
                )
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"checkpoint {folder} does not fit this config: {'; '.join(wrong[:5])}{more}. {remedy}")
