"""The Fréchet distance of two sets of features, each taken for a Gaussian.

    FD = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))          (1)

(Dowson and Landau 1982; Heusel et al. 2017, whose FID it is on Inception features.) With C_i = A_i^T A_i, the last
trace is the sum of the singular values of A_1 A_2^T: so it takes two symmetric eigendecompositions, which give A_i, and
no square root of a matrix that is not symmetric. All of it is in float64, for in float32 it is wrong by percents where
there are fewer samples than dimensions.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Mean and covariance of N features of D dimensions, in float64.

    Attributes:
      num_examples: N.
      mean: (D,).
      scatter: (D, D), the sum over features of the outer product of their deviations from the mean.
    """

    num_examples: int
    mean: np.ndarray
    scatter: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), unbiased: the scatter by N - 1."""
        return self.scatter / (self.num_examples - 1)


def moments(features: np.ndarray) -> Moments:
    """The moments of features, (N, D)."""
    mean = np.asarray(np.mean(features, axis=0, dtype=np.float64))
    deviations = features - mean
    return Moments(len(features), mean, deviations.T @ deviations)


def merged(one: Moments, other: Moments) -> Moments:
    """The moments of two sets of features together (Chan, Golub and LeVeque 1979, eqs. 2.1)."""
    n, m = one.num_examples, other.num_examples
    shift = other.mean - one.mean
    between = np.outer(shift, shift) * (n * m / (n + m))
    return Moments(n + m, one.mean + shift * (m / (n + m)), one.scatter + other.scatter + between)


def joined(parts: Iterable[Moments]) -> Moments:
    """The moments of many sets together, of which only one need be in memory."""
    return functools.reduce(merged, parts)


class Gaussian(NamedTuple):
    """A mean, and a factor of a covariance.

    Attributes:
      mean: (D,).
      factor: (rank, D); factor^T factor is the covariance.
      trace: of the covariance.
    """

    mean: np.ndarray
    factor: np.ndarray
    trace: float


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    """The Gaussian of a mean (D,) and a covariance (D, D).

    Eigenvalues that are rounding errors of zero are left out: their square roots would count.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    factor = (vectors[:, kept] * np.sqrt(values[kept])).T
    return Gaussian(np.asarray(mean, np.float64), factor, float(np.trace(covariance)))


def fitted(features: np.ndarray) -> Gaussian:
    """The Gaussian with the moments of features, (N, D)."""
    of_features = moments(features)
    return gaussian(of_features.mean, of_features.covariance)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Equation (1), never below zero."""
    overlap = np.linalg.svd(one.factor @ other.factor.T, compute_uv=False).sum() if len(one.factor) else 0.0
    shift = float(np.sum((one.mean - other.mean) ** 2))
    return max(shift + one.trace + other.trace - 2 * float(overlap), 0.0)


class Extrapolation(NamedTuple):
    """A distance as it would be with infinitely many samples, and the standard error of the line that tells it."""

    distance: float
    standard_error: float


_SIZES = 15


def extrapolated(features: np.ndarray, reference: Gaussian, seed: int = 0) -> Extrapolation:
    """The distance of infinitely many samples (Chong and Forsyth 2020): few samples are farther away than many.

    The distance is linear in 1/N; a line through the distances of random parts of the samples, whose sizes go from a
    tenth to all of them, is read at 1/N = 0. Its standard error does not know that the parts overlap, nor that the
    reference is a sample too.

    Args:
      features: (N, D).
      reference: what the distance is to.
      seed: chooses the parts.
    """
    rng = np.random.default_rng(seed)
    sizes = np.unique(np.linspace(max(len(features) // 10, 2), len(features), _SIZES).round().astype(int))
    parts = (features[rng.permutation(len(features))[:size]] for size in sizes)
    distances = np.array([frechet_distance(fitted(part), reference) for part in parts])
    line = np.stack([np.ones(len(sizes)), 1 / sizes], axis=1)
    coefficients, *_ = np.linalg.lstsq(line, distances, rcond=None)
    variance = np.sum((distances - line @ coefficients) ** 2) / max(len(sizes) - 2, 1)
    error = np.sqrt(variance * np.linalg.inv(line.T @ line)[0, 0]) if len(sizes) > 2 else np.inf
    return Extrapolation(float(coefficients[0]), float(error))
