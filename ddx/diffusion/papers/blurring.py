"""Blurring Diffusion: Hoogeboom & Salimans, Blurring Diffusion Models, ICLR 2023.

| in the paper | here |
| --- | --- |
| q(u_t given u_0) of every frequency, alpha_t = a_t d_t | `ddx.q_sample` of the process `blurring`, below |
| the cosine schedule of noise, the sin^2 schedule of blur | `Cosine`, `SineBlur` in `ddx.diffusion.forward` |
| the posterior of every frequency | `ddx.q_posterior`, exact; `printed_coefficients` with the printed limits |
| its loss, the squared error of eps in pixels | `ddx.simple_loss` |
| its sampling algorithm | `ddx.sample(denoise, key, x_T, eta=1.0, solver=printed_step(), noisy_end=True)` |

Here the posterior follows from differences of log-SNRs and needs no limits, every eta has a step, and the bound is
`ddx.bits_per_dim`, as for every process.
"""

from typing import Any

import jax.numpy as jnp

from ddx.diffusion.arrays import Coordinates
from ddx.diffusion.estimate.denoiser import Denoised, Denoiser
from ddx.diffusion.forward.basis import DCT
from ddx.diffusion.forward.betas import BLUR_POWERS, check_num_steps
from ddx.diffusion.forward.blur import SineBlur
from ddx.diffusion.forward.gaussian import StepCoefficients
from ddx.diffusion.forward.process import Level, Process
from ddx.diffusion.forward.schedules import Cosine, Marginal
from ddx.diffusion.reverse.protocol import Memory, Solver, added, no_memory
from ddx.diffusion.reverse.rows import Step


def blurring(
    num_steps: int = 1000,
    sigma_blur_max: float = 20.0,
    blur_schedule: str = "sin2",
    d_min: float = 0.001,
    logsnr_min: float = -10.0,
    logsnr_max: float = 10.0,
) -> Process:
    """Blurring Diffusion (Hoogeboom & Salimans 2023): cosine noise and a growing blur, in the DCT basis.

    Times are real, in [0, T]; at t = 0 there is no blur, and noise at the log-SNR logsnr_max. Without blur the
    process is variance-preserving cosine diffusion.

    Args:
      num_steps: T, the steps of the sampler and of the bound; the process itself depends on t / T alone.
      sigma_blur_max: standard deviation of the blur at T, in pixels; 20 in the paper for CIFAR-10.
      blur_schedule: "sin2", sigma_blur_max sin^2(pi t / 2 T), or "sin" without the square.
      d_min: the fraction of a frequency that even the strongest blur leaves; it lets eps determine x_0 at all times.
      logsnr_min: log-SNR of the noise at T.
      logsnr_max: log-SNR of the noise at 0.

    Returns:
      A process in the DCT basis with real times in [0, T].

    Raises:
      ValueError: a number is out of its range, or the schedule is unknown.
    """
    if blur_schedule not in BLUR_POWERS:
        choices = ", ".join(BLUR_POWERS)
        raise ValueError(f"blur_schedule {blur_schedule!r} is unknown; choose one of: {choices}")
    num_steps = check_num_steps(num_steps)
    if not (0 <= sigma_blur_max <= 1e6 and 0 <= d_min < 1):
        raise ValueError(
            f"sigma_blur_max={sigma_blur_max} must be at least 0 and at most 1e6, d_min={d_min} at least 0 and below 1"
        )
    if not -80 <= logsnr_min < logsnr_max <= 80:
        raise ValueError(f"logsnr_min={logsnr_min} must be below logsnr_max={logsnr_max}, both within -80..80")
    return Process(
        DCT,
        Cosine(num_steps, logsnr_min, logsnr_max),
        SineBlur(num_steps, sigma_blur_max, BLUR_POWERS[blur_schedule]),
        d_min,
        time_offset=0,
        rescale_time=True,
    )


def printed_coefficients(m_s: Marginal | Level, m_t: Marginal | Level, delta: float = 1e-8) -> StepCoefficients:
    """The posterior q(u_s | u_t, u_0) of the printed algorithm, with its limits, for comparison with the exact one.

    Args:
      m_s: the marginal at s, per frequency.
      m_t: the marginal at t > s.
      delta: the least variance to divide by. At T = 1000 the value 1e-8 changes the mean by up to 4e-4.

    Returns:
      k, gamma and the variance, at eta = 1; the paper has no other.
    """
    alpha_ts = m_t.alpha / m_s.alpha

    def precision(variance: Any) -> Any:
        return 1.0 / jnp.maximum(variance, delta)

    forward = m_t.sigma**2 - alpha_ts**2 * m_s.sigma**2
    variance = precision(precision(m_s.sigma**2) + precision(m_t.sigma**2 / alpha_ts**2 - m_s.sigma**2))
    k = alpha_ts * variance / (forward + delta)
    return StepCoefficients(k, m_s.alpha * variance * precision(m_s.sigma**2), variance)


def printed_step(delta: float = 1e-8) -> Solver:
    """The step of the printed sampling algorithm, for plans of eta = 1; "euler" takes the exact step.

    Args:
      delta: the least variance that the algorithm divides by.
    """

    def step(
        denoise: Denoiser, u_t: Coordinates, memory: Memory, row: Step, z: Any
    ) -> tuple[Coordinates, Memory, Denoised]:
        d = denoise.at(u_t, row.level)
        c = printed_coefficients(row.target, row.level, delta)
        return c.k * u_t + c.gamma * d.x_0 + added(row, c.lambda2, z), memory, d

    return Solver(no_memory, step, "printed_step", needs_noise=True)
