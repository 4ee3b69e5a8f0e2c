"""What jobs that sum over the examples of a split share: the sums at every level of a plan, part by part."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddx.data import Dataset
from ddx.diffusion.random import example_keys, seed_key
from ddx.diffusion.reverse.rows import Plan, num_rows
from ddx.evaluation.work import Parts
from ddx.runtime import devices, parallel
from ddx.runtime.progress import Progress
from ddx.sampling.generator import in_pieces

PARTS = 8  # at most so many files of an unfinished job: each holds a number for every level and coordinate


def parts_of_sums(
    of_rows: Callable[..., Any],
    of_images: Callable[..., Any],
    params: Any,
    rows: Plan,
    data: Dataset,
    examples: np.ndarray,
    seed: int,
    sizes: tuple[int, int],
    done: frozenset[int],
) -> Parts:
    """The sums over the examples of each part, without those whose first place is in `done`.

    Args:
      of_rows: (params, rows, keys, images, label, weight) -> a named tuple of sums over a batch, by row.
      of_images: (keys, images, weight) -> a named tuple of sums over a batch that no row changes.
      params: the network's weights.
      rows: the levels.
      data: the data set.
      examples: (N,), which of its examples.
      seed: names the noise; the key of an example depends on the seed and the example alone.
      sizes: examples at once, and of a part.
      done: the first places of the parts that are done.
    """
    (batch, size), num_levels = sizes, num_rows(rows)
    call = parallel.over_batch(of_rows, shared=2, split=4)
    call_images = parallel.over_batch(of_images, shared=0, split=3)
    shares, params = len(devices.own()), parallel.replicate(params)
    starts = range(0, len(examples), size)
    calls = {start: math.ceil(min(size, len(examples) - start) / batch) * num_levels for start in starts}
    with Progress("measuring", sum(calls.values()), sum(calls[start] for start in starts if start in done)) as progress:
        for start in starts:
            if start in done:
                continue
            total: dict[str, np.ndarray] = {}
            for first in range(start, min(start + size, len(examples)), batch):
                here = examples[first : min(first + batch, start + size)]
                filled = np.resize(here, -(-batch // shares) * shares)
                weight = (np.arange(len(filled)) < len(here)).astype(np.float32)
                read = data.read(filled)
                keys = example_keys(seed_key(seed), jnp.asarray(filled, jnp.uint32))
                split = parallel.split_batch((keys, read["image"], read["label"], weight))
                for numbers, some in in_pieces(rows, progress):
                    for name, x in call(params, some, *split)._asdict().items():
                        summed = _over_devices(x)
                        if name not in total:
                            total[name] = np.zeros((num_levels, *summed.shape[1:]))
                        total[name][numbers[0] : numbers[-1] + 1] += summed
                for name, x in call_images(split[0], split[1], split[3])._asdict().items():
                    total[name] = total.get(name, 0.0) + _over_devices(x)
            yield start, total
            del total


def _over_devices(x: Any) -> np.ndarray:
    total: np.ndarray = np.asarray(x, np.float64).sum(0)
    return total
