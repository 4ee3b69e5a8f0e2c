"""Drawing many images from a network, on all devices. Image i depends only on (seed, i)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddx import parallel
from ddx.build import Sampler, System
from ddx.diffusion import gaussian, sampling
from ddx.diffusion.noise import example_keys
from ddx.pictures import to_uint8
from ddx.progress import Progress


class Generator:
    """Draws images with a sampler; compiled once, whatever the weights, the seed and the number of images."""

    def __init__(self, system: System, sampler: Sampler) -> None:
        """`system` and `sampler` are `ddx.build`'s."""
        self._shape = system.image_shape
        self._steps = gaussian.step_table(system.process, sampler.times, sampler.eta, self._shape[:2])
        self._num_steps = len(sampler.times) - 1
        self._batch_size = sampler.batch_size
        self._rows = _rows_a_call(self._num_steps)
        basis = system.process.basis

        def begin(keys: Any) -> Any:
            return basis.analysis(sampling.initial_noise(keys, self._shape))

        def walk(params: Any, steps: Any, draws: Any, keys: Any, u_t: Any) -> Any:
            denoise = system.denoiser(params, sampler.clip)
            return sampling.walk(denoise.at, u_t, steps, draws, sampler.variance, sampling.noise_from(keys, u_t))

        self._begin = parallel.over_batch(begin, shared=0, split=1)
        self._walk = parallel.over_batch(walk, shared=3, split=2)
        self._end = parallel.over_batch(basis.synthesis, shared=0, split=1)

    def __call__(self, params: Any, seed: int, num_images: int) -> np.ndarray:
        """Images 0 .. num_images - 1 of a seed, (N, H, W, C) uint8."""
        key = jax.random.key(seed)
        devices = parallel.num_devices()
        batch_size = -(-min(self._batch_size, num_images) // devices) * devices
        starts = range(0, num_images, batch_size)
        images = []
        params = parallel.replicate(params)
        with Progress("sampling", len(starts) * self._num_steps) as progress:
            for start in starts:
                keys = parallel.split_batch(example_keys(key, jnp.arange(start, start + batch_size)))
                u_t = self._begin(keys)
                for first in range(0, self._num_steps, self._rows):
                    rows = slice(first, min(first + self._rows, self._num_steps))
                    steps = jax.tree.map(lambda x, rows=rows: np.asarray(x)[rows], self._steps)
                    u_t = self._walk(params, steps, np.arange(rows.start, rows.stop), keys, u_t)
                    progress.advance(rows.stop - rows.start)
                    progress.tick()
                images.append(to_uint8(parallel.join_batch(self._end(u_t))))
        return np.concatenate(images)[:num_images]


def _rows_a_call(num_steps: int) -> int:
    """Steps between two looks at the progress bar: at most 20, in equal parts if possible (each length compiles)."""
    parts = [n for n in range(5, 21) if num_steps % n == 0]
    return min(num_steps, max(parts, default=20))
