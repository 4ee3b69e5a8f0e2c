"""The bound on bits per dimension over a data set, on all devices, in pieces short enough to tell of their progress."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx import parallel
from ddx.build import System
from ddx.data import Dataset
from ddx.data.augment import to_float
from ddx.diffusion import likelihood
from ddx.diffusion.noise import example_keys
from ddx.diffusion.variance import variance_fn
from ddx.generation import rows_a_call
from ddx.progress import Progress


class Part(NamedTuple):
    """What some examples say: their bounds, and, summed over them, each term and squared error."""

    total: np.ndarray  # (n,) bits/dim
    prior: np.ndarray  # (n,) bits/dim
    terms: np.ndarray  # (K,) float64, by ascending time
    mse: np.ndarray  # (K,) float64


class Bound:
    """Evaluates `ddx.bits_per_dim` for examples of a data set; compiled once, whatever the weights and the examples."""

    def __init__(self, system: System, times: tuple[int, ...], variance: str, clip: bool, cdf: str) -> None:
        """`times` are those of a sampler; the rest is as `ddx.bits_per_dim`'s."""
        process, chosen = system.process, variance_fn(variance)
        self._rows = likelihood.bound_table(process, times, system.image_shape[:2])

        def terms(params: Any, rows: Any, keys: Any, images: Any, label: Any) -> likelihood.Terms:
            x_0 = to_float(images)
            at = system.denoiser(params, clip, system.told(x_0, label)).at
            draw = likelihood.noise_at(keys, x_0)
            return likelihood.bound_terms(at, process.basis, x_0, rows, rows.level.t, chosen, draw, cdf)

        def prior(images: Any) -> Any:
            return likelihood.prior_bits(process, to_float(images), times[0])

        self._terms = parallel.over_batch(terms, shared=2, split=3)
        self._prior = parallel.over_batch(prior, shared=0, split=1)

    def parts(
        self, params: Any, data: Dataset, examples: np.ndarray, seed: int, size: int, done: frozenset[int]
    ) -> Iterator[tuple[int, Part]]:
        """The examples (indices of the data set) in batches of `size`, without those whose first place is in `done`.

        Each comes with the place of its first example.
        The noise of an example depends on (seed, its index, the time) alone, so neither does its bound on the batch.
        """
        starts = range(0, len(examples), size)
        left = [start for start in starts if start not in done]
        devices = parallel.num_devices()
        batch_size = -(-size // devices) * devices
        num_steps = len(self._rows.h)
        params = parallel.replicate(params)
        with Progress("evaluating", len(starts) * num_steps, (len(starts) - len(left)) * num_steps) as progress:
            for start in left:
                here = examples[start : start + size]
                filled = np.resize(here, batch_size)  # what a batch lacks it repeats, and that does not count
                batch = data.read(filled)
                keys = example_keys(jax.random.key(seed), jnp.asarray(filled, jnp.uint32))
                split = parallel.split_batch((keys, batch["image"], batch["label"]))
                prior = parallel.join_batch(self._prior(split[1]))[: len(here)].astype(np.float64)
                pieces = list(self._pieces(params, split, progress))
                terms, mse = (np.concatenate([p[i][: len(here)] for p in pieces], axis=1) for i in (0, 1))
                yield start, Part(prior + terms.sum(1), prior, terms.sum(0), mse.sum(0))

    def _pieces(self, params: Any, split: Any, progress: Progress) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The terms and squared errors, (B, k) each, of some times after the other."""
        num_steps = len(self._rows.h)
        piece = rows_a_call(num_steps)
        for first in range(0, num_steps, piece):
            rows = jax.tree.map(lambda x, i=first: np.asarray(x)[i : i + piece], self._rows)
            found = self._terms(params, rows, *split)
            yield tuple(parallel.join_batch(x).astype(np.float64) for x in (found.terms, found.mse))  # type: ignore[misc]
            progress.advance(len(rows.h))
            progress.tick()
