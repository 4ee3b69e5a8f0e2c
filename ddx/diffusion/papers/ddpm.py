"""DDPM: Ho, Jain & Abbeel, Denoising Diffusion Probabilistic Models, NeurIPS 2020.

| in the paper | here |
| --- | --- |
| eq. 2 and 4, q(x_t given x_0), with abar_t = alpha_t^2 and 1 - abar_t = sigma_t^2 | `ddx.q_sample` |
| eq. 5, L_T, L_{t-1}, L_0 in bits/dim | `ddx.bits_per_dim`: `prior`, `terms`, and the first term |
| eq. 6 and 7, the posterior q(x_{t-1} given x_t, x_0) | `ddx.q_posterior(process, x_0, x_t, t - 1, t)` |
| section 3.2, sigma_t^2 = beta_t or the posterior variance | variance "large" or "small" |
| eq. 8 and 15, networks that predict the mean, x_0 or eps | predictions "mean", "x0", "eps" |
| eq. 12, L_{t-1} weighted | `ddx.kl_loss` |
| eq. 13, the discretised decoder | `ddx.diffusion.bound.decoder` |
| eq. 14 and algorithm 1, L_simple | `ddx.simple_loss` |
| algorithm 2 and eq. 11, ancestral sampling | `ddx.sample(denoise, key, x_T, eta=1.0)` |
| table 4 and figure 5, rate and distortion | `ddx.rate_distortion` |
| section 4.3 and figure 6, progressive generation | `ddx.progressive` |
| figure 7, images that share x_t | `ddx.share_latent` |
| section 4.4, figures 8 and 9, interpolation | `ddx.interpolate_diffused`, `ddx.coarse_to_fine` |
| section 4, T = 1000 and linear betas | `ddpm`, below |
"""

from ddx.diffusion.forward import betas
from ddx.diffusion.forward.process import Process, process_from_betas


def ddpm(
    num_steps: int = 1000, schedule: str = "linear", rescale_time: bool = False, zero_terminal_snr: bool = False
) -> Process:
    """DDPM's process (section 4): linear betas from 1e-4 to 0.02, scaled by 1000 / num_steps.

    Args:
      num_steps: T.
      schedule: any name of `ddx.diffusion.forward.betas.SCHEDULES`.
      rescale_time: give the network times as if T were 1000.
      zero_terminal_snr: rescale the betas such that nothing is left of the data at T (Lin et al. 2024). Predictions
        must then tell x_0 there ("v", "x0" or "velocity"), and samples should start at T (trajectory "trailing").

    Returns:
      A process in pixels with the integer times 0..T.

    Raises:
      ValueError: the schedule is unknown or has no valid betas for num_steps.
    """
    return process_from_betas(betas.betas(schedule, num_steps, zero_terminal_snr), rescale_time)
