"""Checkpoints: orbax files under checkpoints/<step>/, each sealed by a manifest (`ddx.runs.manifest`).

A checkpoint without a manifest is the remains of an interrupted save. Before anything is restored, every file is
compared with it: zarr chunks carry no checksum, and a flipped bit would come back as a wrong weight without a word. A
damaged checkpoint is set aside as <step>.corrupt and the one before it is used; a run never starts afresh by itself.

A checkpoint in a bucket is written and read as a copy on this machine: uploaded when it is whole, its manifest last,
and compared with it after the download.
"""

import contextlib
import pathlib
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddx.runs import manifest
from ddx.runs.manifest import MANIFEST
from ddx.runtime import folders, hosts, storage
from ddx.runtime.errors import CheckpointError, StorageError, telling_line
from ddx.runtime.paths import Path, absolute, is_local
from ddx.runtime.storage import write_text

_AROUND = 2**20  # bytes of names, shapes and checksums
# An item is written in about so many files, of as many bytes at least: what is not yet in one waits in memory.
_FILES, _FILE = 64, 2 * 2**20
_STEP = re.compile(r"[1-9][0-9]{0,9}")  # what has another name is somebody else's


class Checkpoints:
    """The checkpoints of one run. A checkpoint is a dict of named items, each a pytree, that can be restored alone."""

    def __init__(self, directory: Path, keep: int = 1) -> None:
        """`directory` is created by the first save; the newest `keep` checkpoints are kept."""
        self.directory = absolute(directory)
        self._keep = keep
        self._copy: tuple[int, tempfile.TemporaryDirectory[str]] | None = None  # of a step in a bucket
        # Outlives the folder: a run whose checkpoints are gone must not start afresh by itself.
        self._record = self.directory.with_suffix(".last")

    def save(self, step: int, items: dict[str, Any], meta: dict[str, Any]) -> None:
        """Write a checkpoint, with some JSON beside the items, and then remove the oldest beyond `keep`.

        One that is being read stays until a later save.

        Raises:
          CheckpointError, StorageError: it could not be written; the earlier ones are untouched.
        """
        items = jax.device_get(items)  # NumPy arrays: the files then know nothing of devices
        folder = self._folder(step)
        try:
            self._clear_unfinished()
            self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(items)))
            with self._written(folder, items) as local:
                text = manifest.seal(manifest.describe(local, step, items) | {"meta": meta})
            write_text(folder / MANIFEST, text)
            write_text(self._record, f"{step}\n")
        except (OSError, ValueError) as error:
            self._clear_unfinished()
            raise CheckpointError(
                f"cannot save a checkpoint at step {step} in {self.directory}: {telling_line(error)}."
                " Fix that and run the same command again; it resumes from the checkpoint before"
            ) from error
        for old in self.steps()[: -self._keep]:
            manifest.remove(self._folder(old))

    def steps(self) -> list[int]:
        """The steps whose save was finished, good or damaged since, ascending."""
        names = [name for name in folders.names(self.directory) if _STEP.fullmatch(name)]
        return sorted(int(name) for name in names if manifest.exists(self.directory / name))

    def newest(self, *, set_aside: bool) -> int | None:
        """The newest step with an undamaged checkpoint, or None if no save was ever finished.

        It warns of damaged checkpoints, and if it is not the last one that was saved.

        Args:
          set_aside: rename damaged checkpoints that are newer to <step>.corrupt. Only for the run that owns the folder.

        Raises:
          CheckpointError: a save was finished once and no usable checkpoint is left.
        """
        step, held = self._newest(set_aside)
        held.close()
        return step

    @contextlib.contextmanager
    def reading(self, step: int | None = None) -> Iterator[int | None]:
        """The newest step with an undamaged checkpoint, or the given one, which no run removes while the block runs.

        None if no save was ever finished.

        Raises:
          CheckpointError: as `newest`; or there is no undamaged checkpoint of the given step.
        """
        if step is None:
            found, held = self._newest(set_aside=False)
        else:
            found, held = step, self._chosen(step)
        with held:
            try:
                yield found
            finally:
                self._forget_copy()

    def seal(self, step: int) -> str:
        """What no other checkpoint has: the checksum of its checksums."""
        return manifest.read(self._folder(step))["seal"]

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON that was saved beside the items of an undamaged checkpoint."""
        return manifest.read(self._folder(step))["meta"]

    def arrays(self, step: int) -> dict[str, dict[str, str]]:
        """The arrays of each item of an undamaged checkpoint, as `manifest.arrays_of` tells them."""
        return manifest.read(self._folder(step))["arrays"]

    def restore(self, step: int, targets: dict[str, Any]) -> dict[str, Any]:
        """Restore the items named in `targets`, each like its target (arrays or `jax.ShapeDtypeStruct`), on the host.

        Raises:
          CheckpointError: the checkpoint holds other arrays than the targets.
        """
        manifest.check_fit(self._folder(step), self.arrays(step), targets)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), targets)
        with _files() as files:
            args = {name: ocp.args.StandardRestore(item) for name, item in abstract.items()}
            restored = files.restore(self._here(step), args=ocp.args.Composite(**args))
        self._forget_copy()
        return {name: restored[name] for name in targets}

    def _folder(self, step: int) -> Path:
        return self.directory / str(step)

    def _check_room(self, num_bytes: int) -> None:
        """Refuse to begin what a disk cannot hold; orbax would leave callbacks of its own behind, which print pages."""
        folder = self.directory if is_local(self.directory) else pathlib.Path(tempfile.gettempdir())
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < num_bytes + _AROUND:
            raise StorageError(
                f"cannot save a checkpoint in {folder}: it takes {num_bytes / 2**20:,.1f} MiB, and {free / 2**20:,.1f}"
                " MiB are free. Make room, and run the same command again; it resumes from the checkpoint before"
            )

    @contextlib.contextmanager
    def _written(self, folder: Path, items: dict[str, Any]) -> Iterator[pathlib.Path]:
        """Write the items to a folder; what is seen in the block is on this machine."""
        args = {name: _saved(item) for name, item in items.items()}
        with contextlib.ExitStack() as stack:
            if is_local(folder):
                folder.parent.mkdir(parents=True, exist_ok=True)
                local = folder
            else:
                local = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ddx-")), folder.name)
            with _files() as files:
                files.save(local, args=ocp.args.Composite(**args))
            if not is_local(folder):
                folders.upload(local, folder)
            yield local

    def _here(self, step: int) -> pathlib.Path:
        """The folder of a checkpoint on this machine; of one in a bucket, a copy."""
        folder = self._folder(step)
        if is_local(folder):
            return folder
        if self._copy is None or self._copy[0] != step:
            self._forget_copy()
            copy = tempfile.TemporaryDirectory(prefix="ddx-")
            self._copy = step, copy
            folders.download(folder, pathlib.Path(copy.name))
        return pathlib.Path(self._copy[1].name)

    def _forget_copy(self) -> None:
        if self._copy is not None:
            self._copy[1].cleanup()
            self._copy = None

    def _damage(self, step: int) -> str | None:
        """Why the checkpoint of a step cannot be trusted, or None."""
        try:
            return manifest.damage(self._here(step), step)
        except FileNotFoundError as error:  # an object was removed during the download
            self._forget_copy()
            return f"{error.filename} is missing"

    def _newest(self, set_aside: bool) -> tuple[int | None, contextlib.ExitStack]:
        """`newest`, and what keeps a run from removing it until it is closed."""
        last = self._last()  # before the steps are listed: what is saved in the meantime is not lost
        damaged: dict[int, str] = {}
        while left := [step for step in self.steps() if step not in damaged]:
            step, folder = left[-1], self._folder(left[-1])
            held = manifest.hold(folder)
            if held is None:
                time.sleep(0.001)
                continue  # the run has removed it, for a newer one
            reason = self._damage(step)
            if reason is None:
                if last is not None and last not in damaged:
                    self._tell_if_lost(last, step)
                return step, held
            held.close()
            if not manifest.exists(folder):
                continue  # it was removed while it was read, on a file system without locks
            damaged[step] = reason
            aside = folder.with_name(f"{step}.corrupt")
            then = f"; set aside as {aside.name}" if set_aside else "; using the one before" * (len(left) > 1)
            warnings.warn(f"checkpoint {folder} is damaged ({reason}){then}", stacklevel=3)
            if set_aside:
                folders.move_tree(folder, aside, last=MANIFEST)
        reasons = [f"{step}: {reason}" for step, reason in damaged.items()]
        if not reasons and last is not None:
            reasons = [f"{self._record.name} says that {f'step {last}' if last else 'one'} was saved"]
        if reasons:
            raise CheckpointError(
                f"no usable checkpoint in {self.directory} ({'; '.join(reasons)})."
                " Put one back, or use a new folder to start from step 0"
            )
        return None, contextlib.ExitStack()

    def _chosen(self, step: int) -> contextlib.ExitStack:
        """What keeps a run from removing the undamaged checkpoint of this step until it is closed."""
        folder = self._folder(step)
        held = manifest.hold(folder)
        if held is not None:
            reason = self._damage(step)
            if reason is None:
                return held
            held.close()
            if manifest.exists(folder):
                raise CheckpointError(f"checkpoint {folder} is damaged ({reason}). Use another --step")
        raise CheckpointError(f"no checkpoint of step {step} in {self.directory}. Choose one of: {self.steps()}")

    def _last(self) -> int | None:
        """The step of the last finished save by its record, 0 if that tells none; None without a record."""
        try:
            text = storage.read_bytes(self._record).decode(errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError:
            return 0
        return int(text) if _STEP.fullmatch(text) else 0

    def _tell_if_lost(self, last: int, step: int) -> None:
        """Warn if `step` is older than the last one that was saved, which nothing else tells."""
        if not last:
            warnings.warn(f"{self._record} names no step; using checkpoint {step}, the newest there is", stacklevel=4)
        if last <= step:
            return
        folder = self._folder(last)
        fate = f"has no {MANIFEST}" if storage.exists(folder) else "is gone"
        if not storage.exists(folder) and storage.exists(folder.with_name(f"{last}.corrupt")):
            fate = f"was damaged and set aside as {last}.corrupt"
        warnings.warn(
            f"{self._record} says that step {last} was saved, but {folder} {fate};"
            f" using checkpoint {step}, the newest there is",
            stacklevel=4,
        )

    def _clear_unfinished(self) -> None:
        finished = set(map(str, self.steps()))
        for name in folders.names(self.directory):
            if (_STEP.fullmatch(name) and name not in finished) or ".orbax-checkpoint-tmp" in name:
                folders.remove_tree(self.directory / name)


class _Kept(np.ndarray):
    """An array that orbax takes no copy of, as it does lest one change while it is written; these stay as they are."""

    def __deepcopy__(self, memo: Any) -> "_Kept":
        return self


def _saved(item: Any) -> Any:
    kept = jax.tree.map(lambda x: np.asarray(x).view(_Kept), item)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(kept))
    return ocp.args.PyTreeSave(kept, ocdbt_target_data_file_size=max(_FILE, size // _FILES))


def _files() -> ocp.Checkpointer:
    # Not a CheckpointManager: that one saves nothing where a folder with a higher number lies, whosever it is. Each
    # process for itself: arrays are whole and on the host, and of several processes one writes.
    here = hosts.index()
    alone = ocp.options.MultiprocessingOptions(here, {here}, f"process_{here}")
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
    return ocp.Checkpointer(handler, multiprocessing_options=alone)
