"""Checkpoints: orbax files under checkpoints/<step>/, sealed by a manifest of their SHA-256 checksums.

The manifest is written last, so a checkpoint without one is the remains of an interrupted save. Before anything is
restored, every file is compared with it: zarr chunks carry no checksum, and a flipped bit would come back as a wrong
weight without a word. A damaged checkpoint is set aside as <step>.corrupt and the one before it is used; a run never
starts afresh by itself.
"""

import json
import pathlib
import shutil
import warnings
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddx.errors import CheckpointError
from ddx.files import digest, sha256, write_text

MANIFEST = "MANIFEST.json"
_FORMAT = 1


class Checkpoints:
    """The checkpoints of one run. A checkpoint is a dict of named items, each a pytree, that can be restored alone."""

    def __init__(self, directory: pathlib.Path, keep: int = 1) -> None:
        """`directory` is created by the first save; the newest `keep` checkpoints are kept."""
        self.directory = directory.absolute()
        self._keep = keep
        # Outlives the folder: a run whose checkpoints are gone must not start afresh by itself.
        self._record = self.directory.with_suffix(".last")

    def save(self, step: int, items: dict[str, Any], meta: dict[str, Any]) -> None:
        """Write a checkpoint, with some JSON beside the items, and then remove the oldest beyond `keep`.

        Raises:
          CheckpointError: it could not be written; the earlier ones are untouched.
        """
        items = jax.device_get(items)  # NumPy arrays: the files then know nothing of devices
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._clear_unfinished()
            with self._manager() as manager:
                manager.save(step, args=ocp.args.Composite(**{k: ocp.args.StandardSave(v) for k, v in items.items()}))
            write_text(self._path(step) / MANIFEST, _seal(_manifest(self._path(step), step, items) | {"meta": meta}))
            write_text(self._record, f"{step}\n")
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"cannot save a checkpoint at step {step} in {self.directory}: {_first_line(error)}."
                " Mend that and run the same command again to go on from the checkpoint before"
            ) from error
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self._path(old))

    def steps(self) -> list[int]:
        """The steps whose save was finished, good or damaged since, ascending."""
        if not self.directory.is_dir():
            return []
        return sorted(
            int(path.parent.name) for path in self.directory.glob(f"*/{MANIFEST}") if path.parent.name.isdecimal()
        )

    def newest(self, *, set_aside: bool) -> int | None:
        """The newest step with an undamaged checkpoint, or None if no save was ever finished.

        Args:
          set_aside: rename damaged checkpoints that are newer to <step>.corrupt. Only for the run that owns the folder.

        Raises:
          CheckpointError: a save was finished once and no usable checkpoint is left.
        """
        reasons = []
        for step in reversed(self.steps()):
            reason = self._damage(step)
            if reason is None:
                return step
            reasons.append(f"{step}: {reason}")
            aside = self._path(step).with_name(f"{step}.corrupt")
            warnings.warn(
                f"checkpoint {self._path(step)} is damaged ({reason}); "
                + (f"set aside as {aside.name}" if set_aside else "using the one before"),
                stacklevel=2,
            )
            if set_aside:
                shutil.rmtree(aside, ignore_errors=True)
                self._path(step).rename(aside)
        if not reasons and self._record.exists():
            reasons = [f"{self._record.name} says that step {self._record.read_text().strip()} was saved"]
        if reasons:
            raise CheckpointError(
                f"no usable checkpoint in {self.directory} ({'; '.join(reasons)})."
                " Put one back, or use a new folder to start from step 0"
            )
        return None

    def check(self, step: int) -> None:
        """Raise CheckpointError unless there is an undamaged checkpoint of this step."""
        if step not in self.steps():
            raise CheckpointError(f"no checkpoint of step {step} in {self.directory}; there are: {self.steps()}")
        reason = self._damage(step)
        if reason is not None:
            raise CheckpointError(f"checkpoint {self._path(step)} is damaged ({reason}). Use another step")

    def seal(self, step: int) -> str:
        """What no other checkpoint has: the checksum of its checksums."""
        return self._read_manifest(step)["seal"]

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON that was saved beside the items of an undamaged checkpoint."""
        return self._read_manifest(step)["meta"]

    def restore(self, step: int, targets: dict[str, Any]) -> dict[str, Any]:
        """Restore the items named in `targets`, each like its target (arrays or `jax.ShapeDtypeStruct`), on the host.

        Raises:
          CheckpointError: the checkpoint holds other arrays than the targets.
        """
        manifest = self._read_manifest(step)
        wrong = []
        for name, target in targets.items():
            saved, wanted = manifest["arrays"].get(name, {}), _arrays(target)
            for path in sorted(saved.keys() | wanted.keys()):
                if saved.get(path) != wanted.get(path):
                    wrong.append(
                        f"{name}{path}: saved {saved.get(path, 'nothing')}, needed {wanted.get(path, 'nothing')}"
                    )
        if wrong:
            more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise CheckpointError(
                f"checkpoint {self._path(step)} does not fit this config: {'; '.join(wrong[:5])}{more}."
                " Use the config that it was trained with"
            )
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), targets)
        with self._manager() as manager:
            restored = manager.restore(
                step, args=ocp.args.Composite(**{k: ocp.args.StandardRestore(v) for k, v in abstract.items()})
            )
        return {name: restored[name] for name in targets}

    def _path(self, step: int) -> pathlib.Path:
        return self.directory / str(step)

    def _read_manifest(self, step: int) -> dict[str, Any]:
        return json.loads((self._path(step) / MANIFEST).read_text())

    def _manager(self) -> ocp.CheckpointManager:
        # Saving waits for the disk: the manifest seals what is there. Old checkpoints go after it, not before.
        options = ocp.CheckpointManagerOptions(max_to_keep=None, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.directory, options=options)

    def _clear_unfinished(self) -> None:
        finished = {self._path(step) for step in self.steps()}
        for path in self.directory.iterdir():
            unfinished = path.name.isdecimal() and path not in finished
            if unfinished or ".orbax-checkpoint-tmp" in path.name:
                shutil.rmtree(path, ignore_errors=True)
                path.unlink(missing_ok=True)

    def _damage(self, step: int) -> str | None:
        """Why a checkpoint cannot be trusted, or None."""
        path = self._path(step)
        try:
            manifest = self._read_manifest(step)
            seal = manifest.pop("seal")
            if manifest["format"] != _FORMAT:
                return f"written in format {manifest['format']}, this version reads {_FORMAT}"
            if seal != digest(manifest):
                return f"{MANIFEST} has changed"
            if manifest["step"] != step:
                return f"it belongs to step {manifest['step']}"
            for name, expected in manifest["files"].items():
                if not (path / name).is_file():
                    return f"{name} is missing"
                if sha256(path / name) != expected:
                    return f"{name} has changed"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return f"{MANIFEST} is unreadable: {_first_line(error)}"
        return None


def _seal(manifest: dict[str, Any]) -> str:
    """The manifest as text, with a checksum of itself."""
    return json.dumps(manifest | {"seal": digest(json.loads(json.dumps(manifest)))}, indent=1)


def _manifest(path: pathlib.Path, step: int, items: dict[str, Any]) -> dict[str, Any]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {
        "format": _FORMAT,
        "step": step,
        "jax": jax.__version__,
        "arrays": {name: _arrays(item) for name, item in items.items()},
        "files": {str(file.relative_to(path)): sha256(file) for file in files},
    }


def _arrays(tree: Any) -> dict[str, str]:
    """{"['conv_in']['kernel']": "float32 (3, 3, 3, 128)", ...}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{np.dtype(leaf.dtype)} {tuple(leaf.shape)}" for path, leaf in leaves}


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
