"""Batches read by a background thread, ahead of the step that uses them."""

import collections
import concurrent.futures
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np

from ddx.data.datasets import Dataset
from ddx.data.order import batch_indices


def batches(
    dataset: Dataset,
    *,
    seed: int,
    batch_size: int,
    first_step: int,
    last_step: int,
    prefetch: int = 2,
    rows: slice = slice(None),
) -> "Batches":
    """The batches of steps first_step <= step < last_step, a pure function of (seed, step).

    Use it in a `with` statement, which stops the thread however the block ends; a `for` loop over it alone stops the
    thread when it runs out, raises, or is dropped.

    Args:
        dataset: where the examples come from.
        seed: names the order of the examples, see `ddx.data.order`.
        batch_size: B.
        first_step: 0-based; the step to resume from.
        last_step: exclusive.
        prefetch: batches read ahead of use, at least 1; that many are held in memory.
        rows: the rows of every batch to read.

    Returns:
        An iterator and context manager. It raises what reading raised (`DataError` for an unreadable image), when the
        step that it belongs to is asked for.

    Raises:
        ValueError: prefetch is less than 1.
    """
    return Batches(dataset, seed, batch_size, range(first_step, last_step), prefetch, rows)


class Batches(Iterator[tuple[int, dict[str, np.ndarray]]]):
    """Iterator over (step, {"image": uint8 (B, H, W, C), "label": int32 (B,)}); made by `batches`."""

    def __init__(self, dataset: Dataset, seed: int, batch_size: int, steps: range, prefetch: int, rows: slice):
        """Starts reading; the arguments are those of `batches`."""
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, got {prefetch}")
        self._dataset = dataset
        self._seed = seed
        self._batch_size, self._rows = batch_size, rows
        self._steps = iter(steps)
        # The executor's thread holds no reference to this object and ends when the executor is collected, so a dropped
        # iterator leaves no thread behind even where nobody called close().
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="ddx-data")
        self._ahead: collections.deque[tuple[int, concurrent.futures.Future[dict[str, np.ndarray]]]] = (
            collections.deque()
        )
        for _ in range(prefetch):
            self._read_ahead()

    def _read_ahead(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            read = self._executor.submit(_read, self._dataset, self._seed, step, self._batch_size, self._rows)
            self._ahead.append((step, read))

    def __next__(self) -> tuple[int, dict[str, np.ndarray]]:
        """The next step and its batch; waits for it if it is not read yet."""
        if not self._ahead:
            self.close()
            raise StopIteration
        step, read = self._ahead.popleft()
        try:
            batch = read.result()
        except BaseException:
            self.close()
            raise
        self._read_ahead()
        return step, batch

    def close(self) -> None:
        """Stops the thread, after the batch that it is reading at this moment; iteration is over."""
        self._steps = iter(())
        self._ahead.clear()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()


def _read(dataset: Dataset, seed: int, step: int, batch_size: int, rows: slice) -> dict[str, np.ndarray]:
    return dataset.read(batch_indices(seed, step, dataset.num_examples, batch_size)[rows])
