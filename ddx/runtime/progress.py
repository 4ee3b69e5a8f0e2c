"""What a user sees while something runs: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from tqdm import tqdm


class Progress:
    """Progress of a long loop: count of total, rate, time left, and values worth seeing.

    On a terminal it is one bar; elsewhere `line` prints a plain line, so logs stay readable.
    """

    def __init__(self, what: str, total: int, start: int = 0, batch_size: int = 0, unit: str = "step") -> None:
        """`start` of `total` units are done; `batch_size` > 0 adds images a second to the rate."""
        self._what, self._total, self._batch_size, self._unit = what, total, batch_size, unit
        self._count, self._since = start, start
        self._clock = time.perf_counter()
        self.rate = 0.0
        self._bar: Any = None
        if sys.stderr.isatty():  # a bar within a bar goes when it is done
            self._bar = tqdm(
                total=total,
                initial=start,
                desc=what,
                unit=unit,
                leave=batch_size > 0,
                dynamic_ncols=True,
                smoothing=0.1,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""
        self._count += count
        if self._bar is not None:
            self._bar.update(count)

    def restart_clock(self) -> None:
        """Leave out of the rate what was not the loop's own work (compiling, saving, drawing)."""
        self._since, self._clock = self._count, time.perf_counter()

    def line(self, **values: float) -> None:
        """Show values, and the rate since the last call or `restart_clock`; elsewhere than on a terminal, as a line."""
        now = time.perf_counter()
        if self._count > self._since:
            self.rate = (self._count - self._since) / max(now - self._clock, 1e-9)
        self._since, self._clock = self._count, now
        shown = {name: f"{value:.4g}" for name, value in values.items()}
        if self._batch_size:
            shown["images/s"] = f"{self.rate * self._batch_size:.0f}"
        if self._bar is not None:
            self._bar.set_postfix(shown)
            return
        left = _duration((self._total - self._count) / self.rate) if self.rate else "?"
        text = "  ".join(f"{name} {value}" for name, value in shown.items())
        print(
            f"{self._what} {self._count}/{self._total}  {self.rate:.3g} {self._unit}s/s  ETA {left}  {text}".rstrip(),
            flush=True,
        )

    def tick(self) -> None:
        """Elsewhere than on a terminal: print a line if the last is ten seconds old or all is done."""
        if self._bar is None and (self._count == self._total or time.perf_counter() - self._clock > 10):
            self.line()

    def write(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
