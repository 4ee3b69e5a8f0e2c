"""DPM-Solver-v3: steps that know how a network's estimates change on average (Zheng et al. 2023).

In half log-SNR, lambda = log(alpha / sigma), and with z = u / alpha, the probability-flow equation of
`ddx.diffusion.reverse.protocol` is, per coordinate,

    dz / dlambda = -e^(-lambda) eps                                                                              (1)

A part l z of the right-hand side, with a number l at each lambda, is solved without error. What is left is f:

    f = e^(-lambda) eps - l z = (1 - l) z - x_0        d(e^L z) / dlambda = -e^L f        L = int l              (2)

Along a path f changes by about s f + b. What changes less than f itself is

    g = e^(-S) f - B        S = int s        B = int e^(-S) b        g' = e^(-S) (f' - s f - b)                  (3)

so that a step from lambda_i to lambda_j is, without error,

    e^(L_j) z_j = e^(L_i) z_i - int_i^j e^(L + S) (g + B) dlambda                                                (4)

and a solver integrates the polynomial in lambda through the last values of g (the paper's eq. 8 to 10; with the last
one alone it is eq. 9). The paper takes l, s and b to be optimal on average over q(u_t): l minimises the mean square of
the Jacobian of f, and s and b that of f' - s f - b, the rate at which g changes (its section 3.1 and appendix C.1.1),

    l = sigma E[d eps / d u_t]        s = Cov(f, f') / Var f        b = E f' - s E f                             (5)

None of them needs a derivative. With w the noise in u_t, Stein's lemma is

    sigma E[d eps / d u_t] = E[w eps]                                                                            (6)

for any network; for the optimal one, of which eps = E[w | u_t], this is E[eps^2], the mean square behind Analytic-DPM.
And the paths of the optimal network lead from q(u_t) to q(u_s), so means over q follow them: (E f)' = E f' and
(Var f)' = 2 Cov(f, f'). Then s = (log std f)', and (5) is solved by

    e^S = std f        e^S B = E f        g = (f - E f) / std f                                                  (7)

The variable that changes least is f, standardised. As a step of `ddx.diffusion.reverse.protocol`, (4) has, with
h = lambda_j - lambda_i,

    D = [(e^(L_i - L_j) - e^(-h)) z_i - int_i^j e^(L - L_j) (E f + g std f) dlambda] / (1 - e^(-h))              (8)

Where l = 1, E f = 0 and std f = 1 this is DPM-Solver++, and with the corrector UniPC; where l = 0, E f = 0 and
std f = e^(-lambda), so that g = eps, it is DPM-Solver, which takes eps to be the polynomial. For independent Gaussian
coordinates f = -l E[u_0] on every path, and one step of any length is exact. Any smooth l, E f and std f leave the
order as it is: wrong ones make steps less accurate, not inconsistent.
"""

import functools
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ddx.diffusion.arrays import Array, Coordinates
from ddx.diffusion.estimate.denoiser import Denoised
from ddx.diffusion.forward.process import Process
from ddx.diffusion.reverse.multistep import lagrange, predicting, step_lengths, value_times
from ddx.diffusion.reverse.protocol import Solver
from ddx.diffusion.reverse.rows import Plan


class ModelStatistics(NamedTuple):
    """The paper's empirical model statistics, at N levels: NumPy arrays in float64.

    The tables are (N, H, W, C), per coordinate, or (N, 1, 1, 1) for one number for all coordinates.
    """

    logsnr: np.ndarray  # (N,): of the schedule, ascending
    linear: np.ndarray  # l of equation (5)
    mean: np.ndarray  # E f
    std: np.ndarray  # of f, above 0
    num_images: int


def dpm_v3(statistics: ModelStatistics, order: int = 2) -> Solver:
    """DPM-Solver-v3: equation (8), a predictor of an order and a corrector of the next, as UniPC's. eta = 0.

    Between their levels the statistics are interpolated by piecewise cubic polynomials, which are integrated to
    rounding. Steps to the data, and from noise without signal, are Euler steps. For processes without a blur.

    Args:
      statistics: `ddx.estimate_model_statistics` of the network, in the basis of the process that is sampled.
      order: how many g the predictor uses; the corrector uses one more.

    Returns:
      A `ddx.Solver`. Its plans hold 2 order + 6 numbers a coordinate and step, and making one raises a ValueError where
      the process blurs, or a step leaves the log-SNRs of the statistics.

    Raises:
      ValueError: there are fewer than three levels.
    """
    tables = _tables(statistics)

    def prepare(process: Process, rows: Plan) -> tuple[Array, ...]:
        lengths = list(step_lengths(process, rows, order, "dpm_v3"))
        starts = 0.5 * np.asarray(rows.level.logsnr, np.float64).ravel()
        _check_range(tables.nodes, starts, np.asarray([h for h, _ in lengths]))
        alphas = np.asarray(rows.level.alpha, np.float64).ravel()
        found = [
            _coefficients(tables, start, alpha, h, past, order)
            for start, alpha, (h, past) in zip(starts, alphas, lengths, strict=True)
        ]
        predictor, corrector, *more = (np.stack(column) for column in zip(*found, strict=True))
        # The corrector of the step to a row's level: the first row has none.
        return predictor, np.concatenate([np.zeros_like(corrector[:1]), corrector[:-1]]), *more

    def standardised(d: Denoised, u_t: Coordinates, slope: Array, mean: Array, std: Array, *_: Array) -> Coordinates:
        if std.shape not in ((1, 1, 1), u_t.shape[1:]):
            raise ValueError(f"these statistics are of images {std.shape}, not {u_t.shape[1:]}; measure this network's")
        return (slope * u_t - d.x_0 - mean) / std

    def known(u_t: Coordinates, _slope: Array, _mean: Array, _std: Array, by_u: Array, constant: Array) -> Coordinates:
        return by_u * u_t + constant

    return predicting("dpm_v3", order, prepare, standardised, known)


class _Tables(NamedTuple):
    """l, E f and log std f, and their slopes, at ascending nodes in half log-SNR."""

    nodes: np.ndarray  # (N,)
    values: np.ndarray  # (3, N, H, W, C)
    slopes: np.ndarray  # (3, N, H, W, C)

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """l, E f and std f at x (M,), (M, H, W, C) each, by cubic Hermite interpolation."""
        i = np.clip(np.searchsorted(self.nodes, x, side="right") - 1, 0, len(self.nodes) - 2)
        width = (self.nodes[i + 1] - self.nodes[i]).reshape(-1, 1, 1, 1)
        y = (x - self.nodes[i]).reshape(-1, 1, 1, 1) / width
        ends = (1 - y) ** 2 * (1 + 2 * y) * self.values[:, i] + y**2 * (3 - 2 * y) * self.values[:, i + 1]
        bends = y * (1 - y) ** 2 * self.slopes[:, i] - y**2 * (1 - y) * self.slopes[:, i + 1]
        linear, mean, log_std = ends + width * bends
        return linear, mean, np.exp(log_std)


def _tables(statistics: ModelStatistics) -> _Tables:
    nodes = 0.5 * np.asarray(statistics.logsnr, np.float64)
    if len(nodes) < 3 or not np.all(np.diff(nodes) > 0) or not np.all(np.isfinite(nodes)):
        raise ValueError("model statistics need three levels or more, of ascending log-SNRs; visit more levels")
    linear, mean, std = (np.asarray(x, np.float64) for x in statistics[1:4])
    values = np.stack([linear, mean, np.log(std)])
    return _Tables(nodes, values, np.stack([np.gradient(x, nodes, axis=0, edge_order=2) for x in values]))


_ROUNDING = 1e-6  # in half log-SNR


def _check_range(nodes: np.ndarray, starts: np.ndarray, h: np.ndarray) -> None:
    """Refuse steps that leave the levels of the statistics, but for those of infinite length."""
    ends = (starts + h)[h != 0]
    reached = np.concatenate([starts[np.isfinite(starts)], ends])
    if len(reached) and not (nodes[0] - _ROUNDING <= reached.min() and reached.max() <= nodes[-1] + _ROUNDING):
        raise ValueError(
            f"the model statistics are of log-SNRs from {2 * nodes[0]:.4g} to {2 * nodes[-1]:.4g}, and the steps go"
            f" from {2 * reached.min():.4g} to {2 * reached.max():.4g}; measure them on this schedule"
        )


def _coefficients(
    tables: _Tables, start: float, alpha: float, h: float, past: list[float], order: int
) -> tuple[np.ndarray, ...]:
    """What a step needs, in the order of its use.

    These are the weights of g in the D of equation (8), for the predictor and for the corrector; the factor of u_t in
    f, E f and std f; and the factor of u_t in D and the constant of D.
    """
    shape = tables.values.shape[2:]
    slope, mean, std = np.zeros(shape), np.zeros(shape), np.ones(shape)  # without signal: g = -x_0
    if np.isfinite(start):
        linear, mean, std = (x[0] for x in tables.at(np.asarray([start])))
        slope = (1.0 - linear) / alpha
    predictor, corrector = np.zeros((order, *shape)), np.zeros((order + 1, *shape))
    if h == 0:  # an infinite step: D = x_0
        predictor[0] = -std
        return predictor, corrector, slope, mean, std, slope, -mean
    share = 1.0 / np.expm1(-h)
    times = value_times(h, past, with_end=False), value_times(h, past, with_end=True)
    length, of_mean, (of_values, with_end) = _integrals(tables, start, h, times)
    predictor[: len(of_values)], corrector[: len(with_end)] = share * of_values, share * with_end
    by_u = -share * np.exp(-h) * np.expm1(h - length) / alpha
    return predictor, corrector, slope, mean, std, by_u, share * of_mean


def _integrals(
    tables: _Tables, start: float, h: float, times: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """L_j - L_i; the integral of e^(L - L_j) E f; and of e^(L - L_j) std f times each Lagrange polynomial of `times`.

    The step is cut at the nodes, between which the tables are polynomials, and is walked from its end.
    """
    inside = tables.nodes[(tables.nodes > min(start, start + h)) & (tables.nodes < max(start, start + h))]
    edges = [start, *(inside if h > 0 else inside[::-1]), start + h]
    y, dy, antiderivative = _quadrature()
    shape = tables.values.shape[2:]
    length, of_mean = np.zeros(shape), np.zeros(shape)
    of_values = [np.zeros((len(nodes), *shape)) for nodes in times]
    for low, high in reversed(list(pairwise(edges))):
        at = low + (high - low) * y
        linear, mean, std = tables.at(at)
        whole = (high - low) * np.tensordot(dy, linear, 1)
        since_low = (high - low) * np.tensordot(antiderivative, linear, 1)
        density = (high - low) * dy[:, None, None, None] * np.exp(since_low - whole - length)
        of_mean += (density * mean).sum(0)
        for nodes, total in zip(times, of_values, strict=True):
            polynomials = np.stack(list(lagrange(nodes, at - start)))
            total += np.tensordot(polynomials, density * std, 1)
        length += whole
    return length, of_mean, of_values


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray, Any]:
    """Gauss-Legendre nodes in [0, 1], their weights, and the matrix that integrates a polynomial's values from 0."""
    y, dy = np.polynomial.legendre.leggauss(6)
    y, dy = 0.5 * (y + 1.0), 0.5 * dy
    powers = np.arange(len(y))
    return y, dy, (y[:, None] ** (powers + 1) / (powers + 1)) @ np.linalg.inv(y[:, None] ** powers)
