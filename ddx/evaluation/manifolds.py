"""Fidelity and diversity apart: how far samples lie among the data, and the data among samples.

The manifold of a set of features is taken for the union of balls around them, each as large as the distance to its k-th
nearest neighbour in the set.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_ROWS = 1000


class Manifolds(NamedTuple):
    """Shares of samples and of the reference, in [0, 1] but for the density.

    Attributes:
      precision: of the samples that lie in the manifold of the reference (Kynkäänniemi et al. 2019), k = 3.
      recall: of the reference that lies in the manifold of the samples, k = 3.
      density: reference balls around a sample, by k (Naeem et al. 2020); may exceed 1; k = 5.
      coverage: of reference balls with a sample in them, k = 5.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifolds(samples: np.ndarray, reference: np.ndarray) -> Manifolds:
    """How samples (N, D) and the reference (M, D) lie among each other.

    Raises:
      ValueError: there are fewer than seven of one.
    """
    x, y = (np.asarray(part, np.float64) for part in (samples, reference))
    if min(len(x), len(y)) < 7:
        raise ValueError(f"manifolds of {min(len(x), len(y))} features mean nothing")
    of_x, of_y = _radii(x), _radii(y)
    inside, found = np.zeros(len(x), bool), np.zeros(len(y), bool)
    balls, covered = 0, np.zeros(len(y), bool)
    for rows, distances in _distances(x, y):
        inside[rows] = (distances <= of_y[3]).any(1)
        found |= (distances <= of_x[3][rows, None]).any(0)
        balls += int((distances <= of_y[5]).sum())
        covered |= (distances <= of_y[5]).any(0)
    return Manifolds(float(inside.mean()), float(found.mean()), balls / (5 * len(x)), float(covered.mean()))


def _radii(x: np.ndarray) -> dict[int, np.ndarray]:
    """The squared distance of each feature to its third and its fifth nearest neighbour, itself left out."""
    radii = {k: np.empty(len(x)) for k in (3, 5)}
    for rows, distances in _distances(x, x):
        distances[np.arange(len(distances)), np.arange(rows.start, rows.start + len(distances))] = np.inf
        nearest = np.partition(distances, (2, 4), axis=1)
        for k, radius in radii.items():
            radius[rows] = nearest[:, k - 1]
    return radii


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The squared distances of some rows of x to all of y, and which rows; not all of them are in memory."""
    centre = y.mean(0)  # distances do not change, and lose less to rounding
    x, y = x - centre, y - centre
    squares = np.sum(y**2, axis=1)
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        yield rows, np.sum(x[rows] ** 2, axis=1)[:, None] + squares - 2 * x[rows] @ y.T
