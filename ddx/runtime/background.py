"""Work beside the loop: one piece at a time, in order, and none of its errors lost."""

import threading
from collections.abc import Callable
from typing import Any

from ddx.runtime import between_hosts


class Background:
    """Does what it is given in a thread; the next piece waits for the one before.

    When the block ends all is done, unless the user has asked twice to stop: the process then ends without it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "Background":
        between_hosts.to_finish.append(self._join)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            if kind is None:
                self.wait()
            elif not issubclass(kind, KeyboardInterrupt):
                self._join()
        finally:
            between_hosts.to_finish.remove(self._join)

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def start(self, work: Callable[[], None]) -> None:
        """Begin some work, when the work before is done; raises what that raised."""
        self.wait()

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what the work raised that has ended."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Until all is done; raises what it raised."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error
