"""Tells where a process hangs: after a while without progress, the phase it is in and the stacks of all its threads."""

import contextlib
import faulthandler
import math
import sys
import threading
import time
from types import TracebackType


class Watchdog:
    """While the block runs, each `phase` may take so many seconds; one that takes longer is told of, and goes on.

    The stacks are written by a thread that needs no interpreter, so that they come even if a library never returns.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds` without a new phase are a hang; 0 is never."""
        self._seconds = seconds
        self._what, self._armed = "", -math.inf
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disarm()

    def phase(self, what: str) -> None:
        """A new phase begins: there is progress.

        Phases come by the thousand, and the clock is set anew, which takes a thread, at most twenty times in the
        seconds that one may take. So a hang may be told of by a twentieth too early.
        """
        self._what, now = what, time.monotonic()
        if self._seconds and now - self._armed > self._seconds / 20:
            self._armed = now
            self._arm()

    def _tell(self) -> None:
        message = f"no progress for {self._seconds:g} s while {self._what}; the stacks of all threads follow"
        print(message, file=sys.stderr, flush=True)

    def _arm(self) -> None:
        self._disarm()
        self._timer = threading.Timer(0.98 * self._seconds, self._tell)
        self._timer.daemon = True
        self._timer.start()
        if sys.__stderr__ is not None:
            with contextlib.suppress(OSError, ValueError):  # it is closed, or no file, as in some notebooks
                faulthandler.dump_traceback_later(self._seconds, file=sys.__stderr__)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            faulthandler.cancel_dump_traceback_later()
            self._timer = None
