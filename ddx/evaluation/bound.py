"""The bound on bits per dimension over a data set, on all devices, in pieces short enough to tell of their progress."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx import parallel
from ddx.build import System
from ddx.data import Dataset
from ddx.diffusion import heat, likelihood
from ddx.diffusion.noise import example_keys, fold_in
from ddx.diffusion.variance import VarianceFn, variance_fn
from ddx.generation import in_pieces
from ddx.progress import Progress


class Part(NamedTuple):
    """What some examples say: their bounds, and, summed over them, each term and squared error."""

    total: np.ndarray  # (n,) bits/dim
    prior: np.ndarray  # (n,) bits/dim
    decoder: np.ndarray  # (n,) bits/dim; 0 where the decoder is the first term
    terms: np.ndarray  # (K,) float64, by ascending time
    mse: np.ndarray  # (K,) float64


class Protocol(NamedTuple):
    """Functions of a batch, for one device, that together are a bound."""

    rows: Any  # a table, from the data to the noise; its `level.t` are the times of the terms
    shared: Any  # arrays that `ends` needs besides
    terms: Callable[[Any, Any, Any, Any, Any], likelihood.Terms]  # (params, rows, keys, images, label)
    ends: Callable[[Any, Any, Any], tuple[Any, Any]]  # (shared, keys, images) -> prior and decoder, (B,) each


def variational(system: System, times: tuple[int, ...], variance: str | VarianceFn, clip: bool, cdf: str) -> Protocol:
    """`ddx.bits_per_dim`; `times` are those of a sampler."""
    process, chosen = system.process, variance_fn(variance)

    def terms(params: Any, rows: Any, keys: Any, images: Any, label: Any) -> likelihood.Terms:
        x_0 = system.to_float(images)
        at = system.denoiser(params, clip, system.told(x_0, label)).at
        return likelihood.bound_terms(process, at, x_0, rows, rows.level.t, chosen, likelihood.noise_at(keys, x_0), cdf)

    def ends(shared: Any, keys: Any, images: Any) -> tuple[Any, Any]:
        x_0 = system.to_float(images)
        prior = likelihood.prior_bits(process, x_0, times[0])
        if not process.ends_noisy:
            return prior, jnp.zeros_like(prior)
        return prior, likelihood.decoder_bits(process, x_0, likelihood.noise_at(keys, x_0)(0), cdf)

    return Protocol(likelihood.bound_table(process, times, system.image_shape[:2]), (), terms, ends)


def inverse_heat(system: System, training: Dataset, delta: float) -> Protocol:
    """`ddx.heat_bits_per_dim`: dequantised images, and the blurred images of the training set as the prior."""
    process, dims = system.process, float(np.prod(system.image_shape))

    def terms(params: Any, rows: Any, keys: Any, images: Any, label: Any) -> likelihood.Terms:
        x_0 = _dequantised(keys, images, process.low)
        at = system.denoiser(params, False, system.told(x_0, label)).at
        return heat.heat_terms(process, at, x_0, rows, rows.level.t, likelihood.noise_at(keys, x_0), delta)

    def ends(centres: Any, keys: Any, images: Any) -> tuple[Any, Any]:
        kl = heat.kde_kl(process, centres, _dequantised(keys, images, process.low), delta)
        return kl / (dims * np.log(2.0)), jnp.zeros_like(kl)

    parts = []
    blurred = jax.jit(lambda images: heat.kde_centres(process, system.to_float(images)))
    for start in range(0, training.num_examples, _AT_ONCE):
        indices = np.arange(start, min(start + _AT_ONCE, training.num_examples))
        parts.append(np.asarray(blurred(training.read(indices)["image"])))
    return Protocol(heat.heat_table(process), np.concatenate(parts), terms, ends)


_AT_ONCE = 1000  # images of the training set
_DEQUANTISE = 2**31 - 5  # a stream of keys: no time is that large


def _dequantised(keys: Any, images: Any, low: float) -> Any:
    """(k + U) / 256 of the way from low to 1, U uniform in [0, 1)."""
    u = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(fold_in(keys, _DEQUANTISE))
    return low + (1.0 - low) * (images.astype(jnp.float32) + u) / 256.0


class Bound:
    """Evaluates a bound for examples of a data set; compiled once, whatever the weights and the examples."""

    def __init__(self, protocol: Protocol) -> None:
        """The protocol is `variational` or `inverse_heat`."""
        self._rows, self._shared = protocol.rows, protocol.shared
        self._terms = parallel.over_batch(protocol.terms, shared=2, split=3)
        self._ends = parallel.over_batch(protocol.ends, shared=1, split=2)

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
        num_steps = len(self._rows.noise)
        params, shared = parallel.replicate(params), parallel.replicate(self._shared)
        with Progress("evaluating", len(starts) * num_steps, (len(starts) - len(left)) * num_steps) as progress:
            for start in left:
                here = examples[start : start + size]
                filled = np.resize(here, batch_size)  # what a batch lacks it repeats, and that does not count
                batch = data.read(filled)
                keys = example_keys(jax.random.key(seed), jnp.asarray(filled, jnp.uint32))
                split = parallel.split_batch((keys, batch["image"], batch["label"]))
                ends = self._ends(shared, *split[:2])
                prior, decoder = (parallel.join_batch(x)[: len(here)].astype(np.float64) for x in ends)
                pieces = list(self._pieces(params, split, progress))
                terms, mse = (np.concatenate([p[i][: len(here)] for p in pieces], axis=1) for i in (0, 1))
                yield start, Part(prior + terms.sum(1) + decoder, prior, decoder, terms.sum(0), mse.sum(0))

    def _pieces(self, params: Any, split: Any, progress: Progress) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The terms and squared errors, (B, k) each, of some times after the other."""
        for _, rows in in_pieces(self._rows, progress):
            found = self._terms(params, rows, *split)
            yield tuple(parallel.join_batch(x).astype(np.float64) for x in (found.terms, found.mse))  # type: ignore[misc]
