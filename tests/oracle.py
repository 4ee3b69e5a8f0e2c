"""Data whose optimal network is known in closed form: independent Gaussian coordinates.

If u_0 ~ N(mean, variance) then (u_0, u_t) is jointly Gaussian and, with SNR = alpha^2 / sigma^2,

    E[u_0 | u_t]   = (mean / variance + SNR u_t / alpha) / (1 / variance + SNR)
    Cov[u_0 | u_t] = 1 / (1 / variance + SNR)

Nothing here uses the library's step coefficients, so what samplers must reach is known from elsewhere.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Gaussian(NamedTuple):
    """u_0 ~ N(mean, variance) per coordinate of the process's basis; both broadcast to (H, W, C)."""

    mean: np.ndarray
    variance: np.ndarray

    def covariance(self, alpha, sigma):
        """Cov[u_0 | u_t]."""
        return self.variance * sigma**2 / (alpha**2 * self.variance + sigma**2)

    def expectation(self, alpha, sigma, u_t):
        """E[u_0 | u_t]."""
        gain = self.variance * alpha / (alpha**2 * self.variance + sigma**2)
        return self.mean + gain * (u_t - alpha * self.mean)

    def model_fn(self, process, prediction="eps"):
        """The optimal network of a process, fed 0-based indices as every network is."""

        def model_fn(x_t, model_time):
            t = model_time * process.num_steps / 1000 if process.continuous else model_time + process.time_offset
            m, a = process.marginal(t, x_t.shape[1:3]), process.level(t).a
            u_t = process.basis.analysis(x_t)
            u_0 = self.expectation(m.alpha, m.sigma, u_t)
            eps = (u_t - m.alpha * u_0) / m.sigma
            return process.basis.synthesis({"eps": eps, "x0": u_0, "v": a * eps - m.sigma * u_0}[prediction])

        return model_fn

    def optimal_variance(self):
        """The exact reverse variance as a variance function: lambda2 + gamma^2 Cov[u_0 | u_t]."""

        def variance(d, step):
            m = step.level
            return step.lambda2 + step.gamma**2 * self.covariance(m.alpha, m.sigma)

        return variance

    def ddim_moments(self, process, times):
        """Mean and variance of DDIM's samples from x_T ~ N(0, 1), by its own paper's form x_s = alpha_s x_0 + sigma_s
        eps.

        The optimal estimates are affine in x_t, so each step multiplies the deviation from the data's path by a known
        factor.
        """
        alpha, sigma = (np.asarray(v).ravel() for v in process.marginal(np.asarray(times))[:2])
        factor = 1.0
        for a_t, s_t, a_s, s_s in zip(alpha[:-1], sigma[:-1], alpha[1:], sigma[1:], strict=True):
            factor = factor * (a_s * a_t * self.variance + s_s * s_t) / (a_t**2 * self.variance + s_t**2)
        # x_T = alpha_T mean + (x_T - alpha_T mean), and the first part walks along the data's mean.
        return self.mean - factor * alpha[0] * self.mean, factor**2


def random_gaussian(shape, seed=0):
    """A Gaussian with different means and variances in every pixel."""
    rng = np.random.default_rng(seed)
    return Gaussian(jnp.asarray(rng.uniform(-0.5, 0.5, shape)), jnp.asarray(rng.uniform(0.05, 0.6, shape)))
