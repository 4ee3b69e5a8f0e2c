"""Improved DDPM: Nichol & Dhariwal, Improved Denoising Diffusion Probabilistic Models, ICML 2021.

| in the paper | here |
| --- | --- |
| eq. 4 to 7, L_vlb | `ddx.bits_per_dim`, `ddx.kl_loss` |
| eq. 15, the variance between beta and beta tilde | variance "range"; "learned" outputs the log variance itself |
| eq. 16, L_hybrid | `ddx.hybrid_loss` |
| eq. 17, the cosine schedule | `iddpm`, below; `ddx.diffusion.forward.betas` "cosine" |
| eq. 18, times drawn by importance | `ddx.diffusion.objective.time_samplers.loss_second_moment` |
| section 4, fewer steps | `ddx.trajectory(4000, 100, "sections")` |
"""

from ddx.diffusion.forward.process import Process
from ddx.diffusion.papers.ddpm import ddpm


def iddpm(num_steps: int = 4000, rescale_time: bool = False) -> Process:
    """Improved DDPM's process (eq. 17): cosine alpha_bar, betas clipped at 0.999.

    Args:
      num_steps: T.
      rescale_time: give the network times as if T were 1000, as most of the paper's released networks expect.

    Returns:
      A process in pixels with the integer times 0..T.

    Raises:
      ValueError: num_steps is not an integer above 0.
    """
    return ddpm(num_steps, "cosine", rescale_time)
