"""Walks of a network on all devices, in batches and in pieces short enough to tell of their progress."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.data import Dataset
from ddx.diffusion.arrays import Trajectory
from ddx.diffusion.papers import ihdm
from ddx.diffusion.random import example_keys, seed_key
from ddx.diffusion.reverse.encode import encoding_plan
from ddx.diffusion.reverse.film import Film, filmed
from ddx.diffusion.reverse.rows import Plan, num_rows
from ddx.diffusion.reverse.walk import State
from ddx.runtime import devices, parallel
from ddx.runtime.pictures import to_uint8
from ddx.runtime.progress import Progress
from ddx.sampling.edits import Given
from ddx.sampling.functions import Between, functions
from ddx.sampling.sampler import Sampler
from ddx.system import System

OfExamples = tuple[Any, Any, Any]
"""Of the examples of a batch: their keys, or `Between`; what the network is told of them; what is known of them."""


class Batch(NamedTuple):
    """Images start .. start + N - 1 of a seed, (N, H, W, C) uint8, and the film of the way to them, if asked for."""

    start: int
    images: np.ndarray
    film: Film | None  # of (frames, N, H, W, C) uint8


class Generator:
    """Draws images with a sampler; compiled once, whatever the weights, the seed and the number of images."""

    def __init__(
        self,
        system: System,
        sampler: Sampler,
        frames: Trajectory = (),
        told: dict[str, Any] | None = None,
        images: Dataset | None = None,
        given: Given | None = None,
    ) -> None:
        """`system` is from `ddx.system`, `sampler` from `ddx.sampling.sampler`.

        `images` is the training set, which a system that starts from images needs, unless such images are `given`.
        Where `given` are known parts, the plan of the sampler is one with jumps.
        `frames` are the times to film, if any. Of image i the network is told the i-th rows of `told`, or, beyond them,
        from the first again; of its class, if that is not there, 0, 1, ... in turn.
        """
        classes = {"label": np.arange(system.model.num_classes, dtype=np.int32)} if system.model.num_classes else {}
        self._told = jax.tree.map(np.asarray, classes | (told or {}))
        self._shape = system.image_shape
        self._process = system.process
        self._sampler = sampler
        solver = filmed(sampler.solver, frames) if frames else sampler.solver
        self._images = images if system.starts_from_images else None
        self._known = given if given is not None and given.mask is not None else None
        self._starts = given if self._known is None else None
        self._low = system.process.low
        basis = system.process.basis
        # A film shows the estimate of x_0 as blurred as x_t is: what else a network may say of it is lost in noise.
        at = system.process.level(np.asarray(frames, float), self._shape[:2])
        kept = np.divide(at.alpha, at.a, out=np.ones_like(at.alpha), where=at.a > 0)
        kept = kept[:, None].astype(np.float32)

        made = functions(system, sampler, solver)

        def end(known: Any, state: State) -> Any:
            if not frames:
                return made.end(known, state), None
            film = state.memory[1]
            return made.end(known, state), Film(basis.synthesis(film.x_t), basis.synthesis(kept * film.x_0))

        self._noise = parallel.over_batch(made.noise, shared=0, split=1)
        self._chosen = parallel.over_batch(lambda keys: ihdm.prior_images(keys, self._num_images()), shared=0, split=1)
        self._prior = parallel.over_batch(made.prior, shared=0, split=2)
        self._begin = parallel.over_batch(made.begin, shared=0, split=1)
        self._walk = parallel.over_batch(made.walk, shared=3, split=4)
        self._end = parallel.over_batch(end, shared=0, split=2)

    def __call__(self, params: Any, seed: int, num_images: int) -> np.ndarray:
        """Images 0 .. num_images - 1 of a seed, (N, H, W, C) uint8. Image i depends only on (seed, i)."""
        return np.concatenate([batch.images for batch in self.batches(params, seed, num_images)])

    @property
    def num_steps(self) -> int:
        """The steps to an image."""
        return num_rows(self._sampler.plan)

    @property
    def steps_a_piece(self) -> int:
        """How many steps the first piece of the walk has."""
        return num_rows(piece(self._sampler.plan))

    def batch_size(self, num_images: int) -> int:
        """Images drawn at once: the sampler's batch size, no more than needed, and the same on every device."""
        here = len(devices.own())
        return -(-min(self._sampler.batch_size, num_images) // here) * here

    def batches(self, params: Any, seed: int, num_images: int, done: frozenset[int] = frozenset()) -> Iterator[Batch]:
        """The same, batch by batch as they are done; batches whose first image is in `done` are left out."""
        size, rows = self.batch_size(num_images), num_rows(self._sampler.plan)
        starts = range(0, num_images, size)
        left = [start for start in starts if start not in done]
        params = parallel.replicate(params)
        with Progress("sampling", len(starts) * rows, (len(starts) - len(left)) * rows) as progress:
            for start in left:
                examples = np.arange(start, start + size)
                of_examples = self._of_examples(seed, examples)
                state = self._begin(self._initial(of_examples[0], examples))
                state = self._take(params, state, of_examples, self._sampler.plan, progress)
                x_0, film = self._end(of_examples[2], state)
                count = min(size, num_images - start)
                if film is not None:
                    film = Film(*(to_uint8(_join_film(x)[:, :count], self._low) for x in film))
                yield Batch(start, to_uint8(parallel.join_batch(x_0)[:count], self._low), film)

    def initial(self, seed: int, num_images: int) -> np.ndarray:
        """The x_T that images 0 .. num_images - 1 of a seed start from, (N, H, W, C)."""
        size = self.batch_size(num_images)
        starts = range(0, num_images, size)
        batches = [np.arange(start, start + size) for start in starts]
        parts = [self._initial(self._of_examples(seed, examples)[0], examples) for examples in batches]
        return np.concatenate([parallel.join_batch(part) for part in parts])[:num_images]

    def decode(
        self, params: Any, x_t: np.ndarray, first: int = 0, seed: int = 0, examples: np.ndarray | None = None
    ) -> np.ndarray:
        """Images in the data's range from given states x_t, (N, H, W, C) at the `first`-th visited time.

        The steps draw the noise of the images `examples` of the seed, (N,), by default 0 .. N - 1, and the network is
        told what it is told of those.
        """
        steps = jax.tree.map(lambda x: x[first:], self._sampler.plan)
        examples = np.arange(len(x_t)) if examples is None else examples
        return self._through(params, x_t, steps, "decoding", lambda rows: self._of_examples(seed, examples[rows]))

    def decode_between(
        self, params: Any, x_t: np.ndarray, seed: int, pairs: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """Images from given states at the first time, with noise between that of two images (`ddx.interpolate_heat`).

        Row i draws from the images pairs[i], (N, 2), of the seed with weights[i]; 0 is the first one's noise. The
        network is told what it is told of the first.
        """

        def of(rows: np.ndarray) -> OfExamples:
            (keys, *rest), (others, *_) = (self._of_examples(seed, pairs[rows, end]) for end in (0, 1))
            return Between(keys, others, parallel.split_batch(weights[rows].astype(np.float32))), *rest

        return self._through(params, x_t, self._sampler.plan, "decoding", of)

    def encode(self, params: Any, x_0: np.ndarray, examples: np.ndarray | None = None) -> np.ndarray:
        """The latents of images, as `ddx.encode` finds them, for a deterministic, unclipped sampler."""
        steps = encoding_plan(self._process, self._sampler.times, self._sampler.solver)
        examples = np.arange(len(x_0)) if examples is None else examples
        return self._through(params, x_0, steps, "encoding", lambda rows: self._of_examples(0, examples[rows]))

    def _through(
        self, params: Any, x: np.ndarray, rows: Plan, what: str, of: Callable[[np.ndarray], OfExamples]
    ) -> np.ndarray:
        size, done = self.batch_size(len(x)), []
        params = parallel.replicate(params)
        starts = range(0, len(x), size)
        with Progress(what, len(starts) * num_rows(rows)) as progress:
            for start in starts:
                chosen = np.arange(start, start + size) % len(x)  # the last batch is filled up from the first images
                state = self._begin(parallel.split_batch(x[chosen].astype(np.float32)))
                of_examples = of(chosen)
                state = self._take(params, state, of_examples, rows, progress)
                done.append(parallel.join_batch(self._end(of_examples[2], state)[0]))
        return np.concatenate(done)[: len(x)]

    def _initial(self, keys: Any, examples: np.ndarray) -> Any:
        """The x_T of examples, with these keys."""
        if self._starts is not None:
            return self._prior(keys, parallel.split_batch(self._starts.of(examples)[0]))
        if self._images is None:
            return self._noise(keys)
        chosen = parallel.join_batch(self._chosen(keys))
        return self._prior(keys, parallel.split_batch(self._images.read(chosen)["image"]))

    def _num_images(self) -> int:
        assert self._images is not None
        return self._images.num_examples

    def _of_examples(self, seed: int, examples: np.ndarray) -> OfExamples:
        """The keys of images of a seed, what the network is told of them and what is known of them."""
        keys = example_keys(seed_key(seed), jnp.asarray(examples))
        told = {name: rows[examples % len(rows)] for name, rows in self._told.items()}
        return parallel.split_batch((keys, told, self._known.of(examples) if self._known is not None else ()))

    def lower(self, params: Any) -> Any:
        """The walk through a piece of the plan, lowered for the devices and a whole batch; parameters may be shapes."""
        x_T, arguments = self._first_piece()
        return self._walk.lower(params, *arguments, self._begin.lower(x_T).out_info)

    def first_piece(self, params: Any) -> Callable[[], Any]:
        """What walks a whole batch through the first piece of the plan, from grey images."""
        x_T, arguments = self._first_piece()
        params, state = parallel.replicate(params), self._begin(x_T)
        return lambda: self._walk(params, *arguments, state)

    def _first_piece(self) -> tuple[Any, tuple[Any, ...]]:
        """Grey images, and what a walk through the first piece of the plan takes between parameters and state."""
        size = self.batch_size(self._sampler.batch_size)
        x_T = parallel.split_batch(np.zeros((size, *self._shape), np.float32))
        rows = piece(self._sampler.plan)
        return x_T, (rows, np.arange(num_rows(rows)), *self._of_examples(0, np.arange(size)))

    def _take(self, params: Any, state: Any, of_examples: OfExamples, rows: Plan, progress: Progress) -> Any:
        for numbers, some in in_pieces(rows, progress):
            state = self._walk(params, some, numbers, *of_examples, state)
        return state


def _join_film(x: Any) -> np.ndarray:
    """(devices, frames, b, ...) to (frames, B, ...), on the host."""
    x = np.moveaxis(np.asarray(x), 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def piece(table: Any, first: int = 0) -> Any:
    """The rows of a plan from `first` on, so many as are short enough to tell of their progress."""
    num_steps = num_rows(table)
    # At most 20 rows, in equal pieces if possible (each length compiles).
    size = min(num_steps, max((n for n in range(5, 21) if num_steps % n == 0), default=20))
    return jax.tree.map(lambda x: np.asarray(x)[first : first + size], table)


def in_pieces(table: Any, progress: Progress) -> Iterator[tuple[np.ndarray, Any]]:
    """A plan piece by piece: the rows' numbers, and the rows."""
    first, num_steps = 0, num_rows(table)
    while first < num_steps:
        rows = piece(table, first)
        numbers = np.arange(first, first + num_rows(rows))
        yield numbers, rows
        first += len(numbers)
        progress.advance(len(numbers))
        progress.tick()
