"""Flow matching: Liu, Gong & Liu, Flow Straight and Fast, and Lipman et al., Flow Matching, both ICLR 2023.

With X_1 the noise and X_0 the data (Liu et al. name them the other way round), and times that run from 0 to T:

| in the papers | here |
| --- | --- |
| the straight line X_t = (1 - t) X_0 + t X_1 | `ddx.q_sample` of the process `rectified_flow`, below |
| the regression of its velocity X_1 - X_0 | `ddx.simple_loss` with prediction "velocity" |
| dx = v(x, t) dt by Euler's method | `ddx.sample(denoise, None, x_T, times, eta=0.0)`, equation (1) below |
| the same by another method | `solver="heun"`, or a solver of yours on `ddx.probability_flow` |
| logit-normal times (Esser et al. 2024, section 3.1) | `ddx.diffusion.objective.time_samplers.lognormal` |

With alpha = 1 - t / T and sigma = t / T a step of eta = 0 is u_s = alpha_s x_0 + sigma_s eps, so from
u_t = alpha_t x_0 + sigma_t eps

    u_s = u_t + (alpha_s - alpha_t) x_0 + (sigma_s - sigma_t) eps = u_t + (s - t) / T (eps - x_0)               (1)

which is Euler's step for the velocity. So everything that holds for a process here (any eta, solvers, encoding, the
bound) holds for flow matching too.
"""

from ddx.diffusion.forward.basis import PIXEL
from ddx.diffusion.forward.betas import check_num_steps
from ddx.diffusion.forward.process import Process
from ddx.diffusion.forward.schedules import RectifiedFlow


def rectified_flow(num_steps: int = 1000) -> Process:
    """The straight line from data to noise: alpha = 1 - t / T, sigma = t / T for real times in [0, T].

    Nothing is left of the data at T and there is no noise at 0. The network's input for a time is 1000 t / T.

    Args:
      num_steps: T, the steps of the full sampler and of the bound; the process itself depends on t / T alone.

    Returns:
      A process in pixels.

    Raises:
      ValueError: num_steps is not an integer above 0.
    """
    return Process(PIXEL, RectifiedFlow(check_num_steps(num_steps)), time_offset=0, rescale_time=True)
