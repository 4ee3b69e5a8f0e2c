"""A process: an orthonormal basis and, per coordinate, how signal and noise evolve with time.

    q(u_t | u_0) = N(alpha_t u_0, sigma_t^2)        logsnr_t = log(alpha_t^2 / sigma_t^2)        t = 0 (data) .. T

Everything that the rest of the library needs of a process is here: the marginal at a time, the log-SNR difference of
two times, and the time that the network is told. Values are computed from logarithms, in float64 on the host, so
neither 1 - alpha_bar near t = 0 nor SNR ratios of neighbouring steps lose digits.

Times given as Python or NumPy values (or concrete JAX arrays) are answered in float64 NumPy; traced ones inside the
graph, in JAX's default float. Coefficients have the shape () for a scalar time and (B, 1, 1, 1) for times of shape
(B,), ready to broadcast to images; where they differ between frequencies, (H, W, 1) and (B, H, W, 1).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ddx.diffusion import schedules
from ddx.diffusion.basis import DCT, PIXEL, Basis
from ddx.diffusion.dissipation import Changes, Scalars, dissipate, dissipate_changes
from ddx.diffusion.levels import BlurTable, Cosine, NoiseTable, SineBlur, is_host, whole


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
    a: Any  # the factor of alpha that all coordinates share: all of it, but for a blur


@dataclass(frozen=True, eq=False)
class Process:
    """A diagonal Gaussian diffusion with num_steps noise levels.

    Attributes:
      basis: the coordinates in which the process is diagonal.
      noise: how a and sigma evolve; its times are integers, or any real numbers in [0, T].
      blur: how the image is blurred besides; None for a process that treats all coordinates alike.
      d_min: what a blur leaves of every frequency.
      low: the lowest value of the data; the highest is 1.
      time_offset: of the network's times: it is told t - time_offset.
      rescale_time: tell the network times as if T were 1000 (Improved DDPM's code with rescale_timesteps).
      paper_delta: 0 for exact steps; else the limit in Blurring Diffusion's printed algorithm, which is then followed.
    """

    basis: Basis
    noise: NoiseTable | Cosine
    blur: BlurTable | SineBlur | None = None
    d_min: float = 0.0
    low: float = -1.0
    time_offset: int = 1
    rescale_time: bool = False
    paper_delta: float = 0.0

    @property
    def num_steps(self) -> int:
        """T."""
        return self.noise.num_steps

    @property
    def continuous(self) -> bool:
        """Whether times may be any real numbers in [0, T]."""
        return self.noise.continuous

    @property
    def ends_noisy(self) -> bool:
        """Whether there is noise at t = 0, so that p(x_0 | u_0) is a step of its own."""
        return bool(self.noise.at(0).sigma > 0)

    @property
    def forgets(self) -> bool:
        """Whether nothing is left of some coordinates at T: they cannot be found from u_T and its noise."""
        last = self.noise.at(self.num_steps)
        blurs = self.blur is not None and self.blur.tau(self.num_steps) > 0
        return bool(last.logsnr == -np.inf or (blurs and last.a * self.d_min < _LEAST))

    def marginal(self, t: Any, shape: tuple[int, ...] | None = None) -> Marginal:
        """alpha, sigma and logsnr of q(u_t | u_0) at times t, () or (B,), in [0, T].

        `shape` = (H, W) is needed by processes whose coefficients differ between coordinates; a scalar one ignores it.

        Raises:
          ValueError: a time known on the host is out of range, or no integer where it must be; or there is no shape.
        """
        at = self.scalars(t)
        return Marginal(*at[:3]) if self.blur is None else spread(at, self.d_min, needed(shape))

    def scalars(self, t: Any) -> Scalars:
        """What all coordinates share at times t."""
        noise = self.noise.at(t)
        tau = 0.0 * noise.a if self.blur is None else self.blur.tau(t)
        return Scalars(*map(to_images, (*noise, tau)))

    def changes(self, s: Any, t: Any) -> Changes:
        """What all coordinates share of a step from t to s, without rounding the values at its ends first."""
        log_a, logsnr = self.noise.log_alpha_change(s, t), self.noise.logsnr_change(s, t)
        tau = 0.0 * (log_a < 0) if self.blur is None else self.blur.tau_change(s, t)
        return Changes(*map(to_images, (log_a, logsnr, tau)))

    def log_alpha_difference(self, s: Any, t: Any, shape: tuple[int, ...] | None = None) -> Any:
        """log(alpha_t / alpha_s), without rounding the two logarithms first."""
        return self._differences(s, t, shape)[0]

    def logsnr_difference(self, s: Any, t: Any, shape: tuple[int, ...] | None = None) -> Any:
        """log(SNR_t / SNR_s), without rounding the two log-SNRs first; -inf where s = 0 is noise-free."""
        return self._differences(s, t, shape)[1]

    def _differences(self, s: Any, t: Any, shape: tuple[int, ...] | None) -> tuple[Any, Any]:
        changes = self.changes(s, t)
        if self.blur is None:
            return changes.log_a, changes.logsnr
        tau_s, tau_t = (to_images(self.blur.tau(time)) for time in (s, t))
        return dissipate_changes(tau_s, tau_t, changes, self.d_min, needed(shape))

    def model_time(self, t: Any) -> Any:
        """What the network is told for time t, as in the original codes.

        The 0-based index t - 1 for DDPM and its successors, t for IHDM, and for Blurring Diffusion, whose paper does
        not say, 1000 t / T.
        """
        t = whole(t) - self.time_offset
        return t * (1000.0 / self.num_steps) if self.rescale_time else t

    def level(self, t: Any, shape: tuple[int, ...] | None = None) -> Level:
        """The `Level` of times t, () or (B,)."""
        t = whole(np.asarray(t) if is_host(t) else t)
        return Level(t, self.model_time(t), self.marginal(t, shape), self.scalars(t).a)


_LEAST = 1e-15  # an alpha that a float32 can still be divided by


def spread(at: Scalars, d_min: Any, shape: tuple[int, ...]) -> Marginal:
    """The marginal of every frequency of images of shape (H, W), from what they share."""
    alpha, logsnr = dissipate(at, d_min, shape)
    return Marginal(alpha, at.sigma, logsnr)


def to_images(x: Any) -> Any:
    """(B,) as (B, 1, 1, 1), to broadcast to images; others as they are."""
    return x[:, None, None, None] if x.ndim == 1 else x


def needed(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape, or a ValueError where there is none to tell frequencies apart by."""
    if shape is None:
        raise ValueError("this process treats frequencies differently: pass shape=(H, W)")
    return shape


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
    # sigma^2 = sigmoid(-logsnr), from whichever of alpha and sigma is small: no cancellation at either end.
    log_sigma = -0.5 * np.logaddexp(0.0, logsnr)
    return Process(PIXEL, NoiseTable(log_alpha, log_sigma, logsnr), rescale_time=rescale_time)


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


def in_dct_basis(process: Process) -> Process:
    """The same process, its state held in cosines: for a reverse variance of each frequency.

    Noise is white in either basis, so nothing else changes but what `noise=` arguments are coordinates of.

    Raises:
      ValueError: the process has other coordinates than pixels already.
    """
    if process.basis is not PIXEL:
        raise ValueError(f"this process is in the {process.basis.name} basis already")
    return dataclasses.replace(process, basis=DCT)


def blurring(
    num_steps: int = 1000,
    sigma_blur_max: float = 20.0,
    blur_schedule: str = "sin2",
    d_min: float = 0.001,
    logsnr_min: float = -10.0,
    logsnr_max: float = 10.0,
    paper_delta: float = 0.0,
) -> Process:
    """Blurring Diffusion (Hoogeboom & Salimans 2023): cosine noise and a growing blur, in the DCT basis.

    Times are real, in [0, T]; at t = 0 there is no blur and noise of a log-SNR of logsnr_max. Without blur it is
    variance-preserving cosine diffusion.

    Args:
      num_steps: T, the steps of the sampler and of the bound; the process itself depends on t / T alone.
      sigma_blur_max: standard deviation of the blur at T, in pixels; 20 is the paper's for CIFAR-10.
      blur_schedule: "sin2", sigma_blur_max sin^2(pi t / 2 T), or "sin" without the square.
      d_min: what is left of every frequency, so that the network's eps tells x_0 at all times.
      logsnr_min: log-SNR of the noise at T.
      logsnr_max: log-SNR of the noise at 0.
      paper_delta: 0 for exact steps; 1e-8 for those of the paper's printed algorithm, whose limits change the mean by
        up to 4e-4 at T = 1000. It has only eta = 1.

    Raises:
      ValueError: a number is out of its range, or the schedule is unknown.
    """
    if blur_schedule not in schedules.BLUR_POWERS:
        choices = ", ".join(schedules.BLUR_POWERS)
        raise ValueError(f"blur_schedule {blur_schedule!r} is unknown; choose one of: {choices}")
    num_steps = schedules.check_num_steps(num_steps)
    if not (0 <= sigma_blur_max <= 1e6 and 0 <= d_min < 1 and 0 <= paper_delta < 1):
        raise ValueError(
            f"sigma_blur_max={sigma_blur_max} must be at least 0 and at most 1e6, d_min={d_min} and"
            f" paper_delta={paper_delta} at least 0 and below 1"
        )
    if not -80 <= logsnr_min < logsnr_max <= 80:
        raise ValueError(f"logsnr_min={logsnr_min} must be below logsnr_max={logsnr_max}, both within -80..80")
    return Process(
        DCT,
        Cosine(num_steps, logsnr_min, logsnr_max),
        SineBlur(num_steps, sigma_blur_max, schedules.BLUR_POWERS[blur_schedule]),
        d_min,
        time_offset=0,
        rescale_time=True,
        paper_delta=paper_delta,
    )


def ihdm(
    num_steps: int = 200,
    sigma_blur_min: float = 0.5,
    sigma_blur_max: float = 24.0,
    sigma: float = 0.01,
    low: float = 0.0,
) -> Process:
    """Inverse Heat Dissipation (Rissanen et al. 2022): ever more blur, with little and constant noise.

    q(u_t | u_0) = N(exp(-lam tau_t) u_0, sigma^2), tau_t = sigma_B^2 / 2, where sigma_B grows from sigma_blur_min at
    t = 1 to sigma_blur_max at T in equal ratios and is 0 at t = 0. `ddx.heat` has what belongs to this model alone.

    Args:
      num_steps: T, the paper's K.
      sigma_blur_min: standard deviation of the least blur, in pixels.
      sigma_blur_max: of the most; about half the image's size.
      sigma: of the noise, for data in [low, 1].
      low: the lowest value of the data.

    Raises:
      ValueError: a number is out of its range.
    """
    num_steps = schedules.check_num_steps(num_steps)
    if not (0 < sigma_blur_min <= sigma_blur_max < np.inf and 0 < sigma < np.inf):
        raise ValueError(
            f"sigma_blur_min={sigma_blur_min} must be above 0 and at most sigma_blur_max={sigma_blur_max}, and"
            f" sigma={sigma} above 0, all finite"
        )
    zeros, log_sigma = np.zeros(num_steps + 1), np.full(num_steps + 1, np.log(sigma))
    blur = np.concatenate([[0.0], np.geomspace(sigma_blur_max, sigma_blur_min, num_steps)[::-1]])
    noise = NoiseTable(zeros, log_sigma, -2.0 * log_sigma)
    return Process(DCT, noise, BlurTable(blur), low=low, time_offset=0)
