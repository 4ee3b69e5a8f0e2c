"""How noise and blur evolve with time: numbers that are the same for all coordinates of an image.

A schedule of noise gives a and sigma of q = N(a (.), sigma^2) and logsnr = log(a^2 / sigma^2); one of blur gives the
dissipation time tau = sigma_B^2 / 2 of a Gaussian blur of sigma_B pixels. Each also gives its change between two times,
without the cancellation of subtracting its values there.

Times known on the host are answered in float64 NumPy, traced ones in the graph.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Noise(NamedTuple):
    """a, sigma and logsnr at a time."""

    a: Any
    sigma: Any
    logsnr: Any


@dataclass(frozen=True, eq=False)
class NoiseTable:
    """Noise at the integer times 0..T.

    Attributes:
      log_alpha: (T + 1,) float64, log a.
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

    def at(self, t: Any) -> Noise:
        """The noise at integer times t, () or (B,)."""
        return Noise(*(look_up(table, t) for table in (np.exp(self.log_alpha), np.exp(self.log_sigma), self.logsnr)))

    def log_alpha_change(self, s: Any, t: Any) -> Any:
        """log(a_t / a_s)."""
        return change(self.log_alpha, s, t)

    def logsnr_change(self, s: Any, t: Any) -> Any:
        """log(SNR_t / SNR_s); -inf where s = 0 is noise-free."""
        return change(self.logsnr, s, t)


@dataclass(frozen=True)
class Cosine:
    """The variance-preserving cosine schedule, its log-SNR limited at both ends, for real times in [0, T].

    logsnr = -2 log tan(phi) with an angle phi that grows linearly from where it is logsnr_max to where it is logsnr_min
    (Hoogeboom & Salimans 2023), so a = cos(phi) and sigma = sin(phi).
    """

    num_steps: int
    logsnr_min: float
    logsnr_max: float
    continuous: ClassVar[bool] = True

    def at(self, t: Any) -> Noise:
        """The noise at times t, () or (B,)."""
        xp, t = checked(t, self.num_steps)
        sigma, a = xp.sin(self._phi(t)), xp.sin(self._psi(t))
        return Noise(a, sigma, 2.0 * (xp.log(a) - xp.log(sigma)))

    def log_alpha_change(self, s: Any, t: Any) -> Any:
        """log(a_t / a_s), with a difference of cosines as a product."""
        (xp, t), (_, s) = checked(t, self.num_steps, s), checked(s, self.num_steps, t)
        half = 0.5 * self._range * (t - s) / self.num_steps
        middle = self._psi(t) + half
        return xp.log1p(-2.0 * xp.cos(middle) * xp.sin(half) / xp.sin(self._psi(s)))

    def logsnr_change(self, s: Any, t: Any) -> Any:
        """log(SNR_t / SNR_s), with a ratio of tangents as 1 + a quotient of sines."""
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

    def _phi(self, t: Any) -> Any:
        return self._range * (t / self.num_steps) + self._first

    def _psi(self, t: Any) -> Any:
        """The angle pi / 2 - phi, which is small at T, and there precise."""
        return self._range * ((self.num_steps - t) / self.num_steps) + self._last


@dataclass(frozen=True, eq=False)
class BlurTable:
    """Blur at the integer times 0..T: `sigma`, (T + 1,) float64 standard deviations in pixels."""

    sigma: np.ndarray

    def tau(self, t: Any) -> Any:
        """The dissipation time at integer times t, () or (B,)."""
        return look_up(0.5 * self.sigma**2, t)

    def tau_change(self, s: Any, t: Any) -> Any:
        """tau_t - tau_s."""
        return change(0.5 * self.sigma**2, s, t)


@dataclass(frozen=True)
class SineBlur:
    """sigma_B = sigma_blur_max sin^p(pi t / 2 T) for real times in [0, T] (Hoogeboom & Salimans 2023).

    The power p is 2 ("sin2") or 1 ("sin").
    """

    num_steps: int
    sigma_blur_max: float
    power: int

    def tau(self, t: Any) -> Any:
        """The dissipation time at times t, () or (B,)."""
        xp, t = checked(t, self.num_steps)
        return 0.5 * self.sigma_blur_max**2 * xp.sin(0.5 * np.pi * (t / self.num_steps)) ** (2 * self.power)

    def tau_change(self, s: Any, t: Any) -> Any:
        """tau_t - tau_s, by sin^2 x - sin^2 y = sin(x + y) sin(x - y)."""
        (xp, t), (_, s) = checked(t, self.num_steps, s), checked(s, self.num_steps, t)
        x, y = (0.5 * np.pi * (time / self.num_steps) for time in (t, s))
        rise = xp.sin(x + y) * xp.sin(0.5 * np.pi * ((t - s) / self.num_steps))
        if self.power == 2:
            rise = rise * (xp.sin(x) ** 2 + xp.sin(y) ** 2)
        return 0.5 * self.sigma_blur_max**2 * rise


def is_host(*times: Any) -> bool:
    """Whether all times are known now, so that their coefficients can be computed in float64."""
    return not any(isinstance(t, jax.core.Tracer) for t in times)


_ROUNDED = 1 + 1e-6  # T may have been computed in float32


def checked(t: Any, num_steps: int, *others: Any) -> tuple[Any, Any]:
    """The namespace to compute in, NumPy or JAX, and real times t for it; NaN for a traced one outside [0, T].

    Raises:
      ValueError: a time known on the host is no number in [0, T].
    """
    if not is_host(t, *others):
        t = jnp.asarray(_numbers(t), jnp.result_type(float))
        t = jnp.where((t > num_steps) & (t <= num_steps * _ROUNDED), num_steps, t)
        return jnp, jnp.where((t >= 0) & (t <= num_steps), t, jnp.nan)
    t = np.asarray(_numbers(t), np.float64)
    if not np.all((t >= 0) & (t <= num_steps)):
        raise _out_of_range(t, num_steps)
    return np, t


def whole(t: Any) -> Any:
    """Times to calculate with: integers of a type that holds t - 1 and T - t, real ones as they are."""
    t = _numbers(t)
    if isinstance(t, jax.Array):
        return t.astype(jnp.int32) if jnp.issubdtype(t.dtype, jnp.integer) else t
    t = np.asarray(t)
    return t.astype(np.int64) if t.dtype.kind in "iu" else t


def look_up(table: np.ndarray, t: Any) -> Any:
    """Entries of a table over 0..T at integer times; NaN for traced ones outside of it, never another level.

    Raises:
      ValueError: a time known on the host is no integer in [0, T].
    """
    if not is_host(t):
        return _entries(jnp.asarray(table), t)
    return table[_index(t, len(table) - 1)]


def change(table: np.ndarray, s: Any, t: Any) -> Any:
    """The difference of two entries, without rounding them first."""
    if is_host(s, t):
        return table[_index(t, len(table) - 1)] - table[_index(s, len(table) - 1)]
    # Two floats hold one float64: neighbouring entries subtract exactly although each is rounded.
    high = table.astype(jnp.result_type(float))
    low = np.where(np.isfinite(table), table - np.where(np.isfinite(table), high, 0.0), 0.0).astype(high.dtype)
    high_t, high_s, low_t, low_s = (_entries(jnp.asarray(part), i) for part in (high, low) for i in (t, s))
    return (high_t - high_s) + (low_t - low_s)


def _entries(table: jax.Array, t: Any) -> jax.Array:
    t = jnp.asarray(_numbers(t))
    if not jnp.issubdtype(t.dtype, jnp.integer):
        raise ValueError(f"times in the graph must be integers; got {t.dtype}: this process has the times 0..T")
    return table.at[t].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _index(t: Any, num_steps: int) -> np.ndarray:
    index = np.asarray(_numbers(t))
    if index.dtype.kind not in "iu" and not np.all(index == np.round(index)):
        raise ValueError(f"time {t} is not an integer; this process has the times 0..{num_steps}")
    if np.any(index < 0) or np.any(index > num_steps):
        raise _out_of_range(t, num_steps)
    return index.astype(np.int64)


def _numbers(t: Any) -> Any:
    """Times that are numbers; bool is an index of another kind."""
    dtype = getattr(t, "dtype", None) or np.asarray(t).dtype
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)):
        raise ValueError(f"times must be numbers; got {t!r}")
    return t


def _out_of_range(t: Any, num_steps: int) -> ValueError:
    return ValueError(f"time {t} is out of range; this process has the times 0 (data) to {num_steps} (noise)")
