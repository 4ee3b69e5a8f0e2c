"""A process: an orthonormal basis and, per coordinate, how signal and noise evolve with time.

    q(u_t | u_0) = N(alpha_t u_0, sigma_t^2)        logsnr_t = log(alpha_t^2 / sigma_t^2)        t = 0 (data) .. T

Everything that the rest of the library needs of a process is here: the marginal at a time, the change of the log-SNR
between two times, and the network's input for a time. Values are computed from logarithms, in float64 on the host,
so neither 1 - alpha_bar near t = 0 nor SNR ratios of neighbouring steps lose digits.

Times known on the host are answered in float64 NumPy; traced ones in the graph, in JAX's default float. Coefficients
have the shape () for a scalar time and (B, 1, 1, 1) for times of shape (B,), ready to broadcast to images; where they
differ between frequencies, (H, W, 1) and (B, H, W, 1).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ddx.diffusion.arrays import Array, Coefficient, Shape, Times
from ddx.diffusion.forward.basis import DCT, PIXEL, Basis
from ddx.diffusion.forward.betas import check_betas
from ddx.diffusion.forward.blur import BlurSchedule, log_remaining, log_remaining_change
from ddx.diffusion.forward.schedules import Marginal, NoiseSchedule, NoiseTable
from ddx.diffusion.times import is_host, whole


class Level(NamedTuple):
    """A time of a process, its marginal, and the network's input for it: what a network's output is read with.

    Before `spread`, as in the rows of a plan, alpha and logsnr are what all coordinates would share without a blur.
    """

    t: Array  # () or (B,)
    model_time: Array  # () or (B,): the network's input for t
    alpha: Coefficient
    sigma: Coefficient
    logsnr: Coefficient
    a: Array  # the schedule's factor of alpha, without the blur's
    tau: Array | None  # the dissipation time; None for a process that does not blur

    def spread(self, d_min: Any, shape: Shape | None) -> "Level":
        """This level with the alpha and logsnr of each frequency of images of shape (H, W); unchanged without a blur.

        Raises:
          ValueError: the process blurs, and there is no shape.
        """
        if self.tau is None:
            return self
        d, log_d = log_remaining(self.tau, d_min, _needed(shape))
        return self._replace(alpha=self.a * d, logsnr=self.logsnr + 2.0 * log_d)


class Change(NamedTuple):
    """The values at t minus the values at s, which are not rounded first.

    Before `spread`, log_alpha and logsnr are what all coordinates would share without a blur.
    """

    log_alpha: Coefficient
    logsnr: Coefficient
    tau: Array | None

    def spread(self, s: Level, t: Level, d_min: Any, shape: Shape | None) -> "Change":
        """These changes for each frequency of images of shape (H, W); unchanged without a blur.

        Raises:
          ValueError: the process blurs, and there is no shape.
        """
        if self.tau is None or s.tau is None or t.tau is None:
            return self
        log_d = log_remaining_change(s.tau, t.tau, self.tau, d_min, _needed(shape))
        return self._replace(log_alpha=self.log_alpha + log_d, logsnr=self.logsnr + 2.0 * log_d)


@dataclass(frozen=True, eq=False)
class Process:
    """A diagonal Gaussian diffusion with num_steps noise levels.

    Attributes:
      basis: the coordinates in which the process is diagonal.
      schedule: how signal and noise evolve; its times are integers, or any real numbers in [0, T].
      blur: how the image is blurred as well; None for a process that treats all coordinates alike.
      d_min: the fraction of a frequency that even the strongest blur leaves.
      low: the lowest value of the data; the highest is 1.
      prior_sigma: standard deviation of the prior p(u_T) = N(0, prior_sigma^2), per coordinate. IHDM has another:
        `ddx.diffusion.papers.ihdm`.
      time_offset: the network's input for time t is t - time_offset.
      rescale_time: scale the network's input as if T were 1000 (Improved DDPM's code with rescale_timesteps).
    """

    basis: Basis
    schedule: NoiseSchedule
    blur: BlurSchedule | None = None
    d_min: float = 0.0
    low: float = -1.0
    prior_sigma: float = 1.0
    time_offset: int = 1
    rescale_time: bool = False

    @property
    def num_steps(self) -> int:
        """T."""
        return self.schedule.num_steps

    @property
    def continuous(self) -> bool:
        """Whether times may be any real numbers in [0, T]."""
        return self.schedule.continuous

    @property
    def of_frequencies(self) -> bool:
        """Whether frequencies differ, by a blur or in their noise: such a process is not diagonal in pixels."""
        return self.blur is not None or self.basis.weights is not None

    @property
    def ends_noisy(self) -> bool:
        """Whether there is noise at t = 0, so that p(x_0 | u_0) is a step of its own."""
        return bool(self.schedule.at(0).sigma > 0)

    @property
    def forgets(self) -> bool:
        """Whether nothing is left of some coordinates of x_0 at T, so that u_T and its noise do not determine them."""
        last = self.schedule.at(self.num_steps)
        blurs = self.blur is not None and self.blur.tau(self.num_steps) > 0
        return bool(last.logsnr == -np.inf or (blurs and last.alpha * self.d_min < _LEAST))

    def marginal(self, t: Times, shape: Shape | None = None) -> Marginal:
        """q(u_t | u_0) at times t.

        Args:
          t: () or (B,), in [0, T].
          shape: (H, W) of the images, for processes that blur; others ignore it.

        Returns:
          alpha, sigma and logsnr. In the graph they are NaN for times out of range.

        Raises:
          ValueError: a time known on the host is out of range, or not an integer where times are integers; or the
            process blurs and there is no shape.
        """
        level = self.level(t).spread(self.d_min, shape)
        return Marginal(level.alpha, level.sigma, level.logsnr)

    def level(self, t: Times, shape: Shape | None = None) -> Level:
        """The `Level` of times t.

        Args:
          t: () or (B,), in [0, T].
          shape: (H, W) of the images, for each frequency's own values; None gives what all coordinates share.

        Returns:
          A `Level`; in the graph NaN for times out of range.

        Raises:
          ValueError: a time known on the host is out of range, or not an integer where times are integers.
        """
        time = whole(np.asarray(t) if is_host(t) else t)
        alpha, sigma, logsnr = map(_to_images, self.schedule.at(time))
        tau = None if self.blur is None else _to_images(self.blur.tau(time))
        level = Level(time, self.model_time(time), alpha, sigma, logsnr, alpha, tau)
        return level if shape is None else level.spread(self.d_min, shape)

    def change(self, s: Times, t: Times, shape: Shape | None = None) -> Change:
        """The `Change` from times s to times t.

        Args:
          s: () or (B,), in [0, T].
          t: like s.
          shape: (H, W) of the images, for each frequency's own values; None gives what all coordinates share.

        Returns:
          A `Change`; in the graph NaN for times out of range.

        Raises:
          ValueError: a time known on the host is out of range, or not an integer where times are integers.
        """
        tau = None if self.blur is None else _to_images(self.blur.tau_change(s, t))
        log_alpha, logsnr = self.schedule.log_alpha_change(s, t), self.schedule.logsnr_change(s, t)
        change = Change(_to_images(log_alpha), _to_images(logsnr), tau)
        return change if shape is None else change.spread(self.level(s), self.level(t), self.d_min, shape)

    def model_time(self, t: Times) -> Array:
        """The network's input for times t, () or (B,), as in the papers' code.

        It is the 0-based index t - 1 for DDPM and its successors, t for IHDM, and 1000 t / T for Blurring Diffusion,
        whose paper does not specify it.
        """
        told = whole(t) - self.time_offset
        return told * (1000.0 / self.num_steps) if self.rescale_time else told


_LEAST = 1e-15  # an alpha that a float32 can still be divided by


def _to_images(x: Any) -> Any:
    """(B,) as (B, 1, 1, 1), to broadcast to images; others as they are."""
    return x[:, None, None, None] if x.ndim == 1 else x


def _needed(shape: Shape | None) -> Shape:
    if shape is None:
        raise ValueError("this process treats frequencies differently: pass shape=(H, W)")
    return shape


def process_from_betas(betas: Any, rescale_time: bool = False) -> Process:
    """The variance-preserving process alpha_t^2 = prod_{i <= t} (1 - beta_i), sigma_t^2 = 1 - alpha_t^2 (DDPM eq. 4).

    Args:
      betas: (T,) host array; 0 < beta < 1, and the last may be 1 (then x_T is pure noise).
      rescale_time: give the network times as if T were 1000.

    Returns:
      A process in pixels with the integer times 0..T.

    Raises:
      ValueError: the shape is wrong or a beta is out of range.
    """
    betas = np.asarray(betas, np.float64)
    check_betas(betas)
    with np.errstate(divide="ignore"):  # log 0 at t = 0 (no noise) and, if beta_T = 1, at T (no signal) are meant
        log_alpha = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])
        logsnr = 2.0 * log_alpha - np.log(-np.expm1(2.0 * log_alpha))
    # sigma^2 = sigmoid(-logsnr), from whichever of alpha and sigma is small: no cancellation at either end.
    log_sigma = -0.5 * np.logaddexp(0.0, logsnr)
    return Process(PIXEL, NoiseTable(log_alpha, log_sigma, logsnr), rescale_time=rescale_time)


def in_dct_basis(process: Process) -> Process:
    """The process with its state in the DCT basis, which allows a reverse variance for each frequency.

    Noise is white in either basis, so nothing else changes but the coordinates of `noise=` arguments.

    Args:
      process: a process in pixels.

    Returns:
      A process in the DCT basis.

    Raises:
      ValueError: the process is not in pixels.
    """
    if process.basis is not PIXEL:
        raise ValueError(f"this process is in the {process.basis.name} basis already")
    return dataclasses.replace(process, basis=DCT)
