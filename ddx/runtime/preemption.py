"""Stopping cleanly: SIGTERM (a preempted machine) and SIGINT (Ctrl-C) end a run after a call, with a checkpoint."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import TypeVar

Result = TypeVar("Result")

EXIT_CODE = 143
"""What a command returns after it was stopped and has saved: 128 + SIGTERM."""


class _Stopped(BaseException):
    """Raised where the signal is met. It may arrive as another error, for C++ code on its way makes one of its own."""


class Preemption:
    """While the block runs, `requested` tells whether a signal asked to stop. A second signal stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._leaves = False
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

    def unless_requested(self, work: Callable[[], Result]) -> Result | None:
        """The result of some work, or None if a signal asks to stop before it is done, which ends the work at once."""
        result = None
        try:
            self._leaves = True
            try:
                if not self.requested:
                    result = work()
            finally:
                self._leaves = False
        except KeyboardInterrupt:
            raise
        except BaseException:
            if self.requested:
                return None
            raise
        return result

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            interrupt = self._previous[signal.SIGINT]
            if callable(interrupt):
                interrupt(number, frame)
            raise KeyboardInterrupt
        self.requested = True
        if self._leaves:
            raise _Stopped


@contextlib.contextmanager
def one_line(text: str) -> Iterator[None]:
    """While the block runs, SIGTERM prints a line and exits, with EXIT_CODE; for work that loses nothing by it."""
    with _raised(signal.SIGTERM, _Stopped) as met:
        try:
            yield
        except BaseException:
            if not met:
                raise
            print(text, file=sys.stderr)
            sys.exit(EXIT_CODE)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """While the block runs, SIGINT raises KeyboardInterrupt and nothing else, whatever is made of it on its way.

    A process that ignores SIGINT, as shells start those in the background, goes on doing so.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    with _raised(signal.SIGINT, KeyboardInterrupt) as met:
        try:
            yield
        except Exception as error:
            if not met:
                raise
            raise KeyboardInterrupt from error


@contextlib.contextmanager
def _raised(number: int, error: type[BaseException]) -> Iterator[list[int]]:
    """While the block runs, a signal raises an error where the main thread is; the list says whether it was met."""
    met: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield met
        return

    def handle(number: int, frame: FrameType | None) -> None:
        met.append(number)
        raise error

    previous = signal.signal(number, handle)
    try:
        yield met
    finally:
        signal.signal(number, previous)
