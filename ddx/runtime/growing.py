"""A text file that grows line by line."""

import threading
import time
from collections.abc import Callable

from ddx.runtime import storage
from ddx.runtime.paths import Path, is_local
from ddx.runtime.storage import write_text, writing

EVERY = 30.0  # seconds between two uploads: an object cannot grow, and is written again as a whole


class GrowingFile:
    """Lines, those that are there already and new ones; safe to flush from another thread.

    On this machine a line is in the file when `add` returns, in a bucket after `flush` or half a minute.
    """

    def __init__(self, path: Path, is_kept: Callable[[str], bool]) -> None:
        """Begin with the lines of a file that `is_kept` wants, and without the others."""
        self._path, self._lock = path, threading.Lock()
        is_file = storage.is_file(path)
        text = storage.read_bytes(path).decode(errors="replace") if is_file else ""
        self.lines = [line for line in text.splitlines() if is_kept(line)]
        self._is_written, self._at = self._text() == text, time.monotonic()
        if not is_file and storage.exists(path):  # a pipe, on which each line would wait for a reader
            self._is_written = False
        if not self._is_written:
            self._write()

    def add(self, line: str) -> None:
        """One more line, without its end."""
        self.lines.append(line)
        if is_local(self._path):
            with writing(self._path), open(self._path, "a") as file:
                file.write(line + "\n")
            return
        self._is_written = False
        if time.monotonic() - self._at > EVERY:
            self.flush()

    def flush(self) -> None:
        """Bring all lines to the file."""
        with self._lock:
            if not self._is_written:
                self._write()

    def _write(self) -> None:
        self._is_written, self._at = True, time.monotonic()  # before: a line may be added meanwhile
        try:
            write_text(self._path, self._text())
        except BaseException:
            self._is_written = False
            raise

    def _text(self) -> str:
        return "".join(line + "\n" for line in self.lines)
