"""Stopping cleanly: SIGTERM (a preempted machine) and SIGINT (Ctrl-C) end a run at the next step, with a checkpoint."""

import signal
import threading
from types import FrameType, TracebackType

EXIT_CODE = 143
"""What a command returns after it was stopped and has saved: 128 + SIGTERM."""


class Preemption:
    """While the block runs, `requested` tells whether a signal asked to stop. A second signal stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():  # only there can signals be handled
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
