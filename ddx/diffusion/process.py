"""A process: an orthonormal basis and, per coordinate, how signal and noise evolve with time.

    q(u_t | u_0) = N(alpha_t u_0, sigma_t^2)        logsnr_t = log(alpha_t^2 / sigma_t^2)        t = 0 (data) .. T

Everything that the rest of the library needs of a process is here: the marginal at a time, the log-SNR difference of
two times, and the time that the network is told. Tables are built in float64 on the host from logarithms, so neither 1
- alpha_bar near t = 0 nor SNR ratios of neighbouring steps lose digits.

Times given as Python or NumPy values (or concrete JAX arrays) are answered in float64 NumPy; traced ones inside the
graph, in JAX's default float. Coefficients have the shape () for a scalar time and (B, 1, 1, 1) for times of shape
(B,), ready to broadcast to images.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion import schedules
from ddx.diffusion.basis import PIXEL, Basis


class Marginal(NamedTuple):
    """q(u_t | u_0) = N(alpha u_0, sigma^2), per basis coordinate; broadcastable to (B, H, W, C)."""

    alpha: Any
    sigma: Any
    logsnr: Any


class Level(NamedTuple):
    """What a denoiser needs to know of a time t."""

    t: Any  # () or (B,)
    model_time: Any  # () or (B,): the network's input for t
    marginal: Marginal


def is_host(*times: Any) -> bool:
    """Whether all times are known now, so that their coefficients can be computed in float64."""
    return not any(isinstance(t, jax.core.Tracer) for t in times)


def _to_images(x: Any) -> Any:
    return x[:, None, None, None] if x.ndim == 1 else x


@dataclass(frozen=True, eq=False)
class Process:
    """A diagonal Gaussian diffusion with num_steps noise levels.

    Attributes:
      basis: the coordinates in which the process is diagonal.
      num_steps: T.
      log_alpha: (T + 1,) float64, log alpha_t; entry 0 is the data, 0.
      logsnr: (T + 1,) float64, strictly decreasing; entry 0 is +inf, the last may be -inf.
      rescale_time: tell the network times as if T were 1000 (Improved DDPM's code with rescale_timesteps).
    """

    basis: Basis
    num_steps: int
    log_alpha: np.ndarray
    logsnr: np.ndarray
    rescale_time: bool = False

    def marginal(self, t: Any, shape: tuple[int, ...] | None = None) -> Marginal:
        """alpha, sigma and logsnr of q(u_t | u_0) at integer times t, () or (B,), in [0, T].

        `shape` = (H, W) is needed by processes whose coefficients differ between coordinates; a scalar one ignores it.

        Raises:
          ValueError: a time known on the host is no integer in [0, T].
        """
        del shape
        # sigma^2 = sigmoid(-logsnr), from whichever of alpha and sigma is small: no cancellation at either end.
        log_sigma = -0.5 * np.logaddexp(0.0, self.logsnr)
        alpha, sigma = np.exp(self.log_alpha), np.exp(log_sigma)
        return Marginal(*(self._look_up(table, t) for table in (alpha, sigma, self.logsnr)))

    def log_alpha_difference(self, s: Any, t: Any, shape: tuple[int, ...] | None = None) -> Any:
        """log(alpha_t / alpha_s), without rounding the two logarithms first."""
        del shape
        return self._difference(self.log_alpha, s, t)

    def logsnr_difference(self, s: Any, t: Any, shape: tuple[int, ...] | None = None) -> Any:
        """log(SNR_t / SNR_s), without rounding the two log-SNRs first; -inf where s = 0 is noise-free."""
        del shape
        return self._difference(self.logsnr, s, t)

    def model_time(self, t: Any) -> Any:
        """What the network is told for time t: the 0-based index t - 1 of the reference implementations."""
        return (t - 1) * (1000.0 / self.num_steps) if self.rescale_time else t - 1

    def level(self, t: Any, shape: tuple[int, ...] | None = None) -> Level:
        """The `Level` of times t, () or (B,)."""
        t = np.asarray(t) if is_host(t) else t
        return Level(t, self.model_time(t), self.marginal(t, shape))

    def _look_up(self, table: np.ndarray, t: Any) -> Any:
        if not is_host(t):
            return _to_images(jnp.asarray(table)[t])
        return _to_images(table[self._index(t)])

    def _difference(self, table: np.ndarray, s: Any, t: Any) -> Any:
        if is_host(s, t):
            return _to_images(table[self._index(t)] - table[self._index(s)])
        # Two floats hold one float64: neighbouring log-SNRs subtract exactly although each is rounded.
        high = table.astype(jnp.result_type(float))
        low = np.where(np.isfinite(table), table - np.where(np.isfinite(table), high, 0.0), 0.0).astype(high.dtype)
        high_t, high_s, low_t, low_s = (jnp.asarray(part)[i] for part in (high, low) for i in (t, s))
        return _to_images((high_t - high_s) + (low_t - low_s))

    def _index(self, t: Any) -> np.ndarray:
        index = np.asarray(t)
        if index.dtype.kind not in "iu" and not np.all(index == np.round(index)):
            raise ValueError(f"time {t} is not an integer; this process has the times 0..{self.num_steps}")
        index = index.astype(np.int64)
        if np.any(index < 0) or np.any(index > self.num_steps):
            raise ValueError(
                f"time {t} is out of range; this process has the times 0 (data) to {self.num_steps} (noise)"
            )
        return index


def process_from_betas(betas: Any, rescale_time: bool = False) -> Process:
    """The variance-preserving process alpha_t^2 = prod_{i <= t} (1 - beta_i), sigma_t^2 = 1 - alpha_t^2 (DDPM eq. 4).

    Args:
      betas: (T,) host array; 0 < beta < 1, and the last may be 1 (then x_T is pure noise).
      rescale_time: tell the network times as if T were 1000.

    Raises:
      ValueError: wrong shape or a beta out of range.
    """
    betas = np.asarray(betas, np.float64)
    schedules.check_betas(betas)
    with np.errstate(divide="ignore"):  # log 0 at t = 0 (no noise) and, if beta_T = 1, at T (no signal) are meant
        log_alpha = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])
        logsnr = 2.0 * log_alpha - np.log(-np.expm1(2.0 * log_alpha))
    return Process(PIXEL, len(betas), log_alpha, logsnr, rescale_time)


def ddpm(num_steps: int = 1000, schedule: str = "linear", rescale_time: bool = False) -> Process:
    """DDPM's process (Ho et al. 2020, section 4): linear betas from 1e-4 to 0.02, scaled by 1000 / num_steps.

    `schedule` is any name of `ddx.diffusion.schedules.SCHEDULES`; `rescale_time` tells the network times as if T were
    1000.

    Raises:
      ValueError: the schedule is unknown or has no valid betas for num_steps.
    """
    return process_from_betas(schedules.betas(schedule, num_steps), rescale_time)


def iddpm(num_steps: int = 4000, rescale_time: bool = False) -> Process:
    """Improved DDPM's process (Nichol & Dhariwal 2021, eq. 17): cosine alpha_bar, betas clipped at 0.999.

    Most of its released networks were trained with `rescale_time`: they are told times as if T were 1000.
    """
    return ddpm(num_steps, "cosine", rescale_time)
