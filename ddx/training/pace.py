"""Calls of many steps, short enough for a signal to be answered in time.

Where calls run ahead of the host, a signal is answered when those that were begun are done. So a call has no more steps
than fit into a few seconds, by the time that the calls before it took, and at most one waits behind the one that runs.
Where calls are cut does not change a bit of the state.
"""

import math
import time
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddx.runtime import devices

SECONDS = 2.5
"""What a call is to take; twice that if its steps take twice as long as those before. A step is never cut."""

_MOST = 32  # steps of a call; with more than CIFAR's images have rows, a TPU's compiler lays out batches to be copied

clock = time.monotonic

Metrics = dict[str, Any]


class Pace:
    """How many steps the next call has, and which call is not done yet."""

    def __init__(self, most: int) -> None:
        """`most` steps fit into one call."""
        self._most = most
        self._steps, self._calls = 1, 0
        self.last_call = 0.0  # the seconds that it took
        self._seconds_per_step: float | None = None
        self._begun = self._done = clock()
        self._running: tuple[int, Metrics, float] | None = None

    def begin(self, left: int) -> int:
        """Begin a call: how many steps it is to have, at most `left`.

        The first calls have one step, until one is timed that was not compiled. Then a call has at most twice as many
        as the one before: where reading the batches takes longer than the steps, a time is also that of the next call.
        Of several hosts, whose clocks differ, every call has as many steps as fit.
        """
        self._begun = clock()
        if devices.is_spread():
            return min(self._most, left)
        fit = 1 if self._seconds_per_step is None else int(SECONDS / max(self._seconds_per_step, 1e-9))
        self._steps = max(1, min(fit, 2 * self._steps, self._most))
        return min(self._steps, left)

    def queue(self, steps: int, metrics: Metrics) -> list[Metrics]:
        """The call that was begun is queued, and will have these metrics; wait for the one before it, and return its.

        Metrics have a leading axis of steps, of which the first `steps` are used. Where the host does not run ahead,
        the call is done already.
        """
        done = self.wait()
        self._running = steps, metrics, self._begun
        if all(getattr(values, "is_ready", bool)() for values in metrics.values()):
            done += self.wait()
        return done

    def wait(self) -> list[Metrics]:
        """Wait for the call that is not done yet, if there is one, and return its metrics, on the host."""
        if self._running is None:
            return []
        (steps, metrics, begun), self._running = self._running, None
        found = {name: np.asarray(values)[:steps] for name, values in metrics.items()}
        now = clock()
        self.last_call = now - max(begun, self._done)
        if self._calls:  # the first was compiled
            self._seconds_per_step = self.last_call / steps
        self._calls, self._done = self._calls + 1, now
        return [found]


def steps_per_call(config: ConfigDict, image_shape: tuple[int, int, int]) -> int:
    """The most training steps in one compiled call, whose batches are copied as a whole however few steps it has."""
    # A scan's gradient of a convolution is 24 times slower on CPU; elsewhere a long call hides the host.
    fit = 2**27 // (config.train.batch_size * math.prod(image_shape))
    automatic = 1 if devices.platform() == "cpu" else min(_MOST, max(1, fit))
    return config.train.steps_per_call or automatic
