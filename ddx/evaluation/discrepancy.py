"""The maximum mean discrepancy of two sets of features under a kernel: KID and CMMD.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)          (Gretton et al. 2012)

The estimate of KID leaves out the pairs of a feature with itself. So it has no bias, where the Fréchet distance has one
that grows as samples get fewer.
"""

import math
from typing import NamedTuple

import numpy as np


class Kid(NamedTuple):
    """The kernel distance, averaged over random subsets.

    Attributes:
      distance: the mean over subsets.
      standard_error: from how subsets differ: of the distance between all samples (delete-d jackknife, Shao and Wu
        1989), and of the mean over so many subsets; where both sets are drawn from one law it is too large.
      size: of a subset.
      subsets: their number.
    """

    distance: float
    standard_error: float
    size: int
    subsets: int


_SUBSETS, _SUBSET_SIZE = 100, 1000


def kid(samples: np.ndarray, reference: np.ndarray, seed: int = 0) -> Kid:
    """The kernel distance (Bińkowski et al. 2018): MMD^2, unbiased, with k(x, y) = (x . y / D + 1)^3.

    It is the mean over 100 random pairs of subsets, of 1,000 features each, or of half of the smaller set if that has
    fewer than 2,000.

    Args:
      samples: (N, D).
      reference: (M, D).
      seed: chooses the subsets.

    Raises:
      ValueError: there are fewer than four of one.
    """
    rng, fewest = np.random.default_rng(seed), min(len(samples), len(reference))
    size = min(_SUBSET_SIZE, fewest // 2)
    if size < 2:
        raise ValueError(f"a kernel distance of {fewest} features means nothing")
    found = []
    for _ in range(_SUBSETS):
        x, y = (part[rng.permutation(len(part))[:size]].astype(np.float64) for part in (samples, reference))
        found.append(_unbiased(_cubic(x, x), _cubic(y, y), _cubic(x, y)))
    error = float(np.std(found, ddof=1)) * math.sqrt(size / (fewest - size) + 1 / _SUBSETS)
    return Kid(float(np.mean(found)), error, size, _SUBSETS)


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _unbiased(of_x: np.ndarray, of_y: np.ndarray, between: np.ndarray) -> float:
    n = len(of_x)
    own = of_x.sum() - np.trace(of_x) + of_y.sum() - np.trace(of_y)
    return float(own / (n * (n - 1)) - 2 * between.mean())


_BANDWIDTH, _SCALE, _ROWS = 10.0, 1000.0, 1000


def cmmd(samples: np.ndarray, reference: np.ndarray) -> float:
    """The discrepancy of CLIP embeddings (Jayasumana et al. 2024): 1000 MMD^2 with k = exp(-|x - y|^2 / (2 10^2)).

    As published it keeps the pairs of an embedding with itself.

    Args:
      samples: (N, D), of unit length each.
      reference: (M, D), of unit length each.
    """
    x, y = (np.asarray(part, np.float64) for part in (samples, reference))
    return _SCALE * (_gaussian_mean(x, x) + _gaussian_mean(y, y) - 2 * _gaussian_mean(x, y))


def _gaussian_mean(x: np.ndarray, y: np.ndarray) -> float:
    squares = np.sum(y**2, axis=1)
    total = 0.0
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS]
        distances = np.sum(rows**2, axis=1)[:, None] + squares - 2 * rows @ y.T
        total += float(np.exp(-distances / (2 * _BANDWIDTH**2)).sum())
    return total / (len(x) * len(y))
