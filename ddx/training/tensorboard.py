"""TensorBoard events of a run: a file of its own for each process that trains it, written without a thread.

The thread of tensorboardX's SummaryWriter ends where a disk is full, and whoever has more events for it waits for ever.
"""

import os
import pathlib
import tempfile
import time
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from ddx.runtime import folders
from ddx.runtime.folders import make_directory
from ddx.runtime.growing import EVERY
from ddx.runtime.paths import Path, is_local
from ddx.runtime.storage import writing


class Events:
    """Writes to a folder; to one in a bucket when it is flushed and after half a minute, the whole file again."""

    def __init__(self, folder: Path, step: int) -> None:
        """Begin after a step: TensorBoard forgets what other files say of later ones."""
        self._folder, self._temporary = folder, None if is_local(folder) else tempfile.TemporaryDirectory(prefix="ddx-")
        local = pathlib.Path(self._temporary.name) if self._temporary else pathlib.Path(folder)
        with writing(folder):
            make_directory(local, "--workdir")
            self._file = EventsWriter(str(local / "events"), f".{os.getpid()}")
            self._file.write_event(Event(step=step + 1, file_version="brain.Event:2"))
            self._file.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        self._local, self._uploaded, self._at = local, True, time.monotonic()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers at a step, by name."""
        self._write(step, [summary.scalar(name, value) for name, value in values.items()])

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """An (H, W, 1 or 3) uint8 picture at a step."""
        self._write(step, [summary.image(name, picture, dataformats="HWC")])

    def flush(self) -> None:
        """Bring what was written to the bucket."""
        if self._temporary is not None and not self._uploaded:
            folders.upload(self._local, self._folder)
            self._uploaded, self._at = True, time.monotonic()

    def close(self) -> None:
        """End the file."""
        with writing(self._folder):
            self._file.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _write(self, step: int, summaries: list[Any]) -> None:
        with writing(self._folder):
            for each in summaries:
                self._file.write_event(Event(summary=each, step=step, wall_time=time.time()))
            self._file.flush()
        self._uploaded = False
        if time.monotonic() - self._at > EVERY:
            self.flush()
