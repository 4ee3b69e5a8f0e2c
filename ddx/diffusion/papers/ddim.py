"""DDIM: Song, Meng & Ermon, Denoising Diffusion Implicit Models, ICLR 2021.

The paper's alpha_t is DDPM's abar_t, so its sqrt(alpha_t) is `alpha` here and its sqrt(1 - alpha_t) is `sigma`. The
paper's sigma_t is the standard deviation of a step's noise, sqrt(lambda2) here. `step` below is equation 12 as printed;
`ddx.sample` runs the same step as k u_t + gamma x_0 + sqrt(lambda2) z, and tests check that the two agree.

| in the paper | here |
| --- | --- |
| eq. 7, q_sigma(x_{t-1} given x_t, x_0), and lemma 1 | `ddx.q_posterior(process, x_0, x_t, s, t, eta)` |
| eq. 9, x_0 from eps | prediction "eps" |
| eq. 12, a step | `step`; in walks `ddx.diffusion.reverse.solvers.euler`, k and gamma `ddx.step_coefficients` |
| eq. 16, sigma by eta | `ddx.step_coefficients(process, s, t, eta).lambda2` |
| sigma-hat, the noise of DDPM's "large" variance | `ddx.sample(..., eta=1.0, variance="large")` |
| section 4.2, subsequences of times, and appendix D.2 | `ddx.trajectory(T, K, "uniform")` or "quad" |
| eq. 13 and 14, the ordinary differential equation | eta = 0; `ddx.probability_flow` for real times |
| section 5.3, figure 6 and eq. 67, slerp | `ddx.slerp`, `ddx.interpolate` |
| section 5.4 and table 2, encoding and reconstruction | `ddx.encode`, `ddx.encodable` |
"""

import jax.numpy as jnp

from ddx.diffusion.arrays import Images
from ddx.diffusion.forward.gaussian import step_coefficients
from ddx.diffusion.forward.process import Process


def step(
    process: Process, x_t: Images, eps: Images, s: int, t: int, eta: float = 0.0, noise: Images | float = 0.0
) -> Images:
    """Equation 12 as printed: one step from t to s < t.

        x_s = sqrt(abar_s) (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t) + sqrt(1 - abar_s - sigma_t^2) eps + sigma_t z

    The paper calls the first term predicted x_0, the second the direction pointing to x_t, the third random noise. The
    first divides by sqrt(abar_t), which the walks of this library avoid.

    Args:
      process: a variance-preserving process in pixels.
      x_t: (B, H, W, C).
      eps: the network's prediction, like x_t.
      s: the time to go to.
      t: the time to start from.
      eta: stochasticity: sigma_t is eta times the standard deviation of DDPM's posterior (eq. 16).
      noise: z, like x_t; not needed at eta = 0.

    Returns:
      x_s, like x_t.

    Raises:
      ValueError: s or t is not a time of the process, or s >= t.
    """
    at_s, at_t = process.marginal(s), process.marginal(t)
    sigma2 = step_coefficients(process, s, t, eta).lambda2
    predicted_x_0 = (x_t - at_t.sigma * eps) / at_t.alpha
    direction = jnp.sqrt(at_s.sigma**2 - sigma2) * eps
    return at_s.alpha * predicted_x_0 + direction + jnp.sqrt(sigma2) * noise
