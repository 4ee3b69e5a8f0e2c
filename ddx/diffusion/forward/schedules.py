"""Noise schedules: how signal and noise evolve with time, the same for all coordinates of an image.

A schedule gives alpha and sigma of q(u_t | u_0) = N(alpha_t u_0, sigma_t^2) and logsnr = log(alpha^2 / sigma^2). It
also gives the changes of log alpha and logsnr between two times, without the cancellation of subtracting their values.
`NoiseSchedule` lists what a process needs of a schedule; a schedule of your own is a class with those five members.

| schedule | times | alpha, sigma | source |
| --- | --- | --- | --- |
| NoiseTable | 0, 1, ..., T | any, such as from betas (`ddx.diffusion.forward.betas`) | DDPM eq. 4 |
| Cosine | real | cos phi, sin phi; phi grows linearly | Hoogeboom & Salimans 2023 |
| RectifiedFlow | real | 1 - t / T, t / T | Liu et al. 2023; Lipman et al. 2023 |
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from ddx.diffusion.arrays import Array, Coefficient, Times
from ddx.diffusion.times import change, checked, look_up


class Marginal(NamedTuple):
    """q(u_t | u_0) = N(alpha u_0, sigma^2) and logsnr = log(alpha^2 / sigma^2), per coordinate of the basis."""

    alpha: Coefficient
    sigma: Coefficient
    logsnr: Coefficient


class NoiseSchedule(Protocol):
    """What a process needs of a noise schedule. Times are () or (B,) in [0, T]; results have the shape of the times.

    For times known on the host, results are float64 NumPy, and a time out of range raises a ValueError. For traced
    times, results are computed in the graph, and are NaN where a time is out of range. `ddx.diffusion.times` has
    functions for both.
    """

    @property
    def num_steps(self) -> int:
        """T."""

    @property
    def continuous(self) -> bool:
        """Whether times may be any real numbers in [0, T], not only integers."""

    def at(self, t: Times) -> Marginal:
        """alpha, sigma and logsnr at t."""

    def log_alpha_change(self, s: Times, t: Times) -> Array:
        """log(alpha_t / alpha_s)."""

    def logsnr_change(self, s: Times, t: Times) -> Array:
        """log(SNR_t / SNR_s); -inf where there is no noise at s = 0 or no signal at t = T."""


@dataclass(frozen=True, eq=False)
class NoiseTable:
    """Any schedule at the integer times 0..T.

    Attributes:
      log_alpha: (T + 1,) float64.
      log_sigma: (T + 1,) float64.
      logsnr: (T + 1,) float64; +inf where there is no noise, -inf where there is no signal.
    """

    log_alpha: np.ndarray
    log_sigma: np.ndarray
    logsnr: np.ndarray
    continuous: ClassVar[bool] = False

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.logsnr) - 1

    def at(self, t: Times) -> Marginal:
        """alpha, sigma and logsnr at integer times t, () or (B,)."""
        tables = np.exp(self.log_alpha), np.exp(self.log_sigma), self.logsnr
        return Marginal(*(look_up(table, t) for table in tables))

    def log_alpha_change(self, s: Times, t: Times) -> Array:
        """log(alpha_t / alpha_s) at integer times, () or (B,)."""
        return change(self.log_alpha, s, t)

    def logsnr_change(self, s: Times, t: Times) -> Array:
        """log(SNR_t / SNR_s) at integer times, () or (B,); -inf where there is no noise at s = 0."""
        return change(self.logsnr, s, t)


@dataclass(frozen=True)
class Cosine:
    """The variance-preserving cosine schedule, its log-SNR limited at both ends, for real times in [0, T].

    logsnr = -2 log tan(phi), where the angle phi grows linearly from the angle of logsnr_max to the angle of logsnr_min
    (Hoogeboom & Salimans 2023), so alpha = cos(phi) and sigma = sin(phi).

    Attributes:
      num_steps: T.
      logsnr_min: the log-SNR at T.
      logsnr_max: the log-SNR at 0.
    """

    num_steps: int
    logsnr_min: float
    logsnr_max: float
    continuous: ClassVar[bool] = True

    def at(self, t: Times) -> Marginal:
        """alpha, sigma and logsnr at times t, () or (B,)."""
        xp, t = checked(t, self.num_steps)
        alpha, sigma = xp.sin(self._psi(t)), xp.sin(self._phi(t))
        return Marginal(alpha, sigma, 2.0 * (xp.log(alpha) - xp.log(sigma)))

    def log_alpha_change(self, s: Times, t: Times) -> Array:
        """log(alpha_t / alpha_s) at times () or (B,), with the difference of cosines written as a product."""
        (xp, t), (_, s) = checked(t, self.num_steps, s), checked(s, self.num_steps, t)
        half = 0.5 * self._range * (t - s) / self.num_steps
        middle = self._psi(t) + half
        return xp.log1p(-2.0 * xp.cos(middle) * xp.sin(half) / xp.sin(self._psi(s)))

    def logsnr_change(self, s: Times, t: Times) -> Array:
        """log(SNR_t / SNR_s) at times () or (B,), the ratio of tangents written as 1 + a quotient of sines."""
        (xp, t), (_, s) = checked(t, self.num_steps, s), checked(s, self.num_steps, t)
        along = xp.sin(self._range * (t - s) / self.num_steps)
        return -2.0 * xp.log1p(along / (xp.sin(self._psi(t)) * xp.sin(self._phi(s))))

    @property
    def _first(self) -> float:
        return float(np.arctan(np.exp(-0.5 * self.logsnr_max)))

    @property
    def _last(self) -> float:
        return float(np.arctan(np.exp(0.5 * self.logsnr_min)))

    @property
    def _range(self) -> float:
        return 0.5 * np.pi - self._last - self._first

    def _phi(self, t: Array) -> Array:
        return self._range * (t / self.num_steps) + self._first

    def _psi(self, t: Array) -> Array:
        """The angle pi / 2 - phi, without the cancellation near T, where it is small."""
        return self._range * ((self.num_steps - t) / self.num_steps) + self._last


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight line from data to noise, alpha = 1 - t / T and sigma = t / T, for real times in [0, T].

    There is no noise at 0 and no signal at T. Its natural prediction is "velocity", eps - x_0.

    Attributes:
      num_steps: T.
    """

    num_steps: int
    continuous: ClassVar[bool] = True

    def at(self, t: Times) -> Marginal:
        """alpha, sigma and logsnr at times t, () or (B,)."""
        xp, t = checked(t, self.num_steps)
        alpha, sigma = (self.num_steps - t) / self.num_steps, t / self.num_steps
        with np.errstate(divide="ignore"):  # at either end a logarithm is -inf, as it should be
            return Marginal(xp.asarray(alpha), xp.asarray(sigma), 2.0 * (xp.log(alpha) - xp.log(sigma)))

    def log_alpha_change(self, s: Times, t: Times) -> Array:
        """log(alpha_t / alpha_s) at times () or (B,)."""
        return self._changes(s, t)[0]

    def logsnr_change(self, s: Times, t: Times) -> Array:
        """log(SNR_t / SNR_s) at times () or (B,)."""
        log_alpha, log_sigma = self._changes(s, t)
        return 2.0 * (log_alpha - log_sigma)

    def _changes(self, s: Times, t: Times) -> tuple[Array, Array]:
        """log(alpha_t / alpha_s) and log(sigma_t / sigma_s)."""
        (xp, t), (_, s) = checked(t, self.num_steps, s), checked(s, self.num_steps, t)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_alpha, log_sigma = xp.log1p((s - t) / (self.num_steps - s)), xp.log1p((t - s) / s)
            return xp.where(s == t, 0.0, log_alpha), xp.where(s == t, 0.0, log_sigma)
