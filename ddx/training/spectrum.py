"""The variance of each frequency of a training set, which noise of its colour has (`process.noise=equal_snr`).

It is measured once, when a run begins, and kept in every checkpoint of it, sealed by its manifest: what resumes or
samples reads it there, whatever becomes of the data.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddx.data import Dataset
from ddx.diffusion.forward.basis import dct_matrix
from ddx.runtime import hosts

MOST_EXAMPLES = 10_000  # a variance is then known to 1.4 %
_BATCH = 100


def of_noise(config: ConfigDict, data: Dataset, meta: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the noise, {"spectrum": (H, W, C) as lists}: as it did before, or measured.

    Raises:
      DataError: an image cannot be read.
    """
    if config.process.noise != "equal_snr":
        return {}
    if "spectrum" in meta:
        return {"spectrum": meta["spectrum"]}
    found: list[Any] = hosts.agreed(lambda: measure(config, data).tolist())
    print(f"noise    of the spectrum of {min(MOST_EXAMPLES, data.num_examples):,} images", flush=True)
    return {"spectrum": found}


def measure(config: ConfigDict, data: Dataset) -> np.ndarray:
    """The variances of the orthonormal DCT of at most 10,000 images, chosen by the run's seed, (H, W, C) float64.

    Images that are mirrored in training count both ways.
    """
    low = config.data.low
    chosen = np.random.default_rng(config.seed).permutation(data.num_examples)[:MOST_EXAMPLES]
    first, second = np.zeros((2, *data.image_shape))
    rows, columns = (dct_matrix(n) for n in data.image_shape[:2])
    for start in range(0, len(chosen), _BATCH):
        images = data.read(np.sort(chosen[start : start + _BATCH]))["image"]
        x_0 = low + (1.0 - low) / 255.0 * images.astype(np.float64)
        u_0 = np.einsum("ph,qw,bhwc->bpqc", rows, columns, x_0, optimize=True)
        first += u_0.sum(0)
        second += np.square(u_0).sum(0)
    if config.data.flip:
        first[:, 1::2] = 0.0  # odd cosines change their sign
    variance: np.ndarray = np.maximum(second / len(chosen) - np.square(first / len(chosen)), 0.0)
    return variance
