"""The bound on bits per dimension over a data set, on all devices, in pieces short enough to tell of their progress."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.data import Dataset
from ddx.diffusion.arrays import cast
from ddx.diffusion.bound.terms import (
    Terms,
    bound_rows,
    bound_term,
    bound_terms,
    decoder_bits,
    look,
    noise_at,
    prior_bits,
    squared_errors,
)
from ddx.diffusion.estimate.denoiser import in_coordinates_of
from ddx.diffusion.forward.process import Process
from ddx.diffusion.papers import ihdm_bound
from ddx.diffusion.random import example_keys, fold_in, seed_key
from ddx.diffusion.reverse.rows import num_rows
from ddx.diffusion.reverse.variance import VarianceFn, variance_fn
from ddx.runtime import devices, parallel
from ddx.runtime.progress import Progress
from ddx.sampling.generator import in_pieces, piece
from ddx.system import System


class Part(NamedTuple):
    """What a protocol says of some examples, in float64."""

    prior: np.ndarray  # (n,) bits/dim
    decoder: np.ndarray  # (n,) bits/dim; 0 where the decoder is the first term
    terms: np.ndarray  # (n, K, ...) bits/dim, by ascending time
    mse: np.ndarray  # (n, K)

    @property
    def total(self) -> np.ndarray:
        """The bound of each example, (n,) bits/dim, where terms are (n, K)."""
        return self.prior + self.terms.sum(1) + self.decoder


class Protocol(NamedTuple):
    """Functions of a batch, for one device, that together are a bound."""

    rows: Any  # a table, from the data to the noise; its `level.t` are the times of the terms
    shared: Any  # arrays that `ends` needs besides
    terms: Callable[[Any, Any, Any, Any, Any], Terms]  # (params, rows, keys, images, label)
    ends: Callable[[Any, Any, Any], tuple[Any, Any]]  # (shared, keys, images) -> prior and decoder, (B,) each


def variational(system: System, variance: str | VarianceFn, how: Mapping[str, Any]) -> Protocol:
    """`ddx.bits_per_dim`; the settings `how` are "times", which are a sampler's, "clip", "cdf" and, if not 1, "eta"."""
    process, eta = system.process, how.get("eta", 1.0)
    chosen = variance_fn(variance, eta)

    def terms(params: Any, rows: Any, keys: Any, images: Any, label: Any) -> Terms:
        x_0 = system.to_float(images)
        denoise = system.denoiser(params, how["clip"], system.told(x_0, label), keys=keys)
        return bound_terms(denoise, x_0, rows, rows.level.t, chosen, noise_at(keys, x_0), how["cdf"])

    rows = bound_rows(process, how["times"], system.image_shape[:2], eta)
    return Protocol(rows, (), terms, _ends(system, how["times"][0], how["cdf"]))


class Places(NamedTuple):
    """Where the steps of a trajectory are among the terms of `compared`."""

    time: np.ndarray  # (k,)
    slot: np.ndarray  # (k,)


def compared(
    system: System,
    trajectories: tuple[tuple[int, ...], ...],
    variances: tuple[tuple[Process, VarianceFn], ...],
    clip: bool,
    cdf: str,
) -> tuple[Protocol, list[Places]]:
    """`variational` of many trajectories and variances at once: the network is asked once for each time.

    The noise of a term depends on its time alone, so trajectories share what they ask at a time. A variance comes with
    the process that it belongs to: the system's, or the same in another basis.

    Returns:
      A protocol whose terms are (B, times, slots, variances), and for each trajectory the places of its own.
    """
    process, shape = system.process, system.image_shape[:2]
    tables = [bound_rows(process, times, shape) for times in trajectories]
    rows = jax.tree.map(lambda *leaves: np.concatenate(leaves), *tables)
    visited = np.concatenate([np.asarray(times[-2::-1]) for times in trajectories])
    times, place = np.unique(visited, return_inverse=True)
    slots = np.zeros(len(visited), int)
    order = np.argsort(place, kind="stable")
    slots[order] = np.arange(len(order)) - np.searchsorted(place[order], place[order])
    index = np.zeros((len(times), slots.max() + 1), int)
    index[:] = np.searchsorted(place[order], np.arange(len(times)))[:, None]
    index = order[index]  # a slot that a time does not need repeats its first
    index[place, slots] = np.arange(len(visited))
    lengths = np.cumsum([0, *(len(t) - 1 for t in trajectories)])
    places = [Places(place[i:j], slots[i:j]) for i, j in itertools.pairwise(lengths)]

    def terms(params: Any, rows: Any, keys: Any, images: Any, label: Any) -> Terms:
        x_0 = system.to_float(images)
        u_0, draw = process.basis.analysis(x_0), noise_at(keys, x_0)
        denoise = system.denoiser(params, clip, system.told(x_0, label))

        def one(_: None, rows: Any) -> tuple[None, Terms]:
            first = jax.tree.map(lambda x: x[0], rows)
            at = look(denoise, u_0, first, draw(first.level.t))
            d, x_t = at.d, process.basis.synthesis(at.u_t)
            seen = [(p, p.basis.analysis(x_t), in_coordinates_of(p, process, d), v) for p, v in variances]

            def of(row: Any) -> Any:
                step = row.expand(shape)
                each = [bound_term(p, x_0, u, d, step, v, cdf) for p, u, d, v in seen]
                return jnp.stack(each, axis=-1)

            return None, Terms(jax.lax.map(of, rows), *squared_errors(process, u_0, at))

        found = jax.lax.scan(one, None, cast(rows, x_0.dtype))[1]
        return Terms(jnp.moveaxis(found.terms, 2, 0), found.mse.T, found.eps_mse.T)

    together = jax.tree.map(lambda x: x[index], rows)
    return Protocol(together, (), terms, _ends(system, max(map(max, trajectories)), cdf)), places


def _ends(system: System, last: int, cdf: str) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """The prior of a chain that starts at the time `last`, and the decoder of a process with noise at t = 0."""
    process = system.process

    def ends(shared: Any, keys: Any, images: Any) -> tuple[Any, Any]:
        x_0 = system.to_float(images)
        prior = prior_bits(process, x_0, last)
        if not process.ends_noisy:
            return prior, jnp.zeros_like(prior)
        return prior, decoder_bits(process, x_0, noise_at(keys, x_0)(0), cdf)

    return ends


def inverse_heat(system: System, training: Dataset, delta: float) -> Protocol:
    """`ddx.heat_bits_per_dim`: dequantised images, and the blurred images of the training set as the prior."""
    process, dims = system.process, float(np.prod(system.image_shape))

    def terms(params: Any, rows: Any, keys: Any, images: Any, label: Any) -> Terms:
        x_0 = _dequantised(keys, images, process.low)
        denoise = system.denoiser(params, False, system.told(x_0, label))
        return ihdm_bound.heat_terms(denoise, x_0, rows, rows.level.t, noise_at(keys, x_0), delta)

    def ends(centres: Any, keys: Any, images: Any) -> tuple[Any, Any]:
        kl = ihdm_bound.kde_kl(process, centres, _dequantised(keys, images, process.low), delta)
        return kl / (dims * np.log(2.0)), jnp.zeros_like(kl)

    parts = []
    blurred = jax.jit(lambda images: ihdm_bound.kde_centres(process, system.to_float(images)))
    for start in range(0, training.num_examples, _AT_ONCE):
        indices = np.arange(start, min(start + _AT_ONCE, training.num_examples))
        parts.append(np.asarray(blurred(training.read(indices)["image"])))
    return Protocol(ihdm_bound.heat_rows(process), np.concatenate(parts), terms, ends)


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

    @property
    def steps_a_piece(self) -> int:
        """How many terms the first piece of the bound has."""
        return num_rows(piece(self._rows))

    def lower(self, params: Any, image_shape: tuple[int, int, int], size: int) -> Any:
        """The terms of a piece of the bound, lowered for the devices and `size` images; parameters may be shapes."""
        keys = example_keys(seed_key(0), jnp.arange(size, dtype=jnp.uint32))
        batch = parallel.split_batch((keys, np.zeros((size, *image_shape), np.uint8), np.zeros(size, np.int32)))
        return self._terms.lower(params, piece(self._rows), *batch)

    def parts(
        self, params: Any, data: Dataset, examples: np.ndarray, seed: int, size: int, done: frozenset[int]
    ) -> Iterator[tuple[int, Part]]:
        """The examples (indices of the data set) in batches of `size`, without those whose first place is in `done`.

        Each comes with the place of its first example.
        The noise of an example depends on (seed, its index, the time) alone, so neither does its bound on the batch.
        """
        starts = range(0, len(examples), size)
        left = [start for start in starts if start not in done]
        shares = len(devices.own())
        batch_size = -(-size // shares) * shares
        num_steps = num_rows(self._rows)
        params, shared = parallel.replicate(params), parallel.replicate(self._shared)
        with Progress("evaluating", len(starts) * num_steps, (len(starts) - len(left)) * num_steps) as progress:
            for start in left:
                here = examples[start : start + size]
                filled = np.resize(here, batch_size)  # what a batch lacks it repeats, and that does not count
                batch = data.read(filled)
                keys = example_keys(seed_key(seed), jnp.asarray(filled, jnp.uint32))
                split = parallel.split_batch((keys, batch["image"], batch["label"]))
                ends = self._ends(shared, *split[:2])
                prior, decoder = (parallel.join_batch(x)[: len(here)].astype(np.float64) for x in ends)
                pieces = [self._terms(params, rows, *split) for _, rows in in_pieces(self._rows, progress)]
                terms, mse = (
                    np.concatenate([parallel.join_batch(x)[: len(here)] for x in found], axis=1, dtype=np.float64)
                    for found in ([p.terms for p in pieces], [p.mse for p in pieces])
                )
                yield start, Part(prior, decoder, terms, mse)
