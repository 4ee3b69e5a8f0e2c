"""Data whose optimal network is known in closed form: independent Gaussian coordinates.

If u_0 ~ N(mean, variance) then (u_0, u_t) is jointly Gaussian and, with SNR = alpha^2 / sigma^2,

    E[u_0 | u_t]   = (mean / variance + SNR u_t / alpha) / (1 / variance + SNR)
    Cov[u_0 | u_t] = 1 / (1 / variance + SNR)

Nothing here uses the library's step coefficients, so what samplers must reach is known from elsewhere.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr


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


class Mixture(NamedTuple):
    """u_0 is one of two Gaussians, per coordinate: N(centre +- mean, variance), each with probability 1 / 2.

    Coordinates are independent, so the flow of each is the one increasing map between its laws.
    """

    mean: np.ndarray
    variance: np.ndarray
    centre: float = 0.0

    def _sides(self, alpha, sigma):
        """The means, from the centre, and the common spread of the two Gaussians of u_t."""
        return alpha * self.mean, jnp.sqrt(alpha**2 * self.variance + sigma**2)

    def expectation(self, alpha, sigma, u_t):
        """E[u_0 | u_t]."""
        mean, spread = self._sides(alpha, sigma)
        gain = self.variance * alpha / spread**2
        v_t = u_t - alpha * self.centre
        side = jnp.tanh(mean * v_t / spread**2)  # P(+) - P(-)
        return self.centre + gain * v_t + side * self.mean * (1.0 - alpha * gain)

    def model_fn(self, process):
        """The optimal network of eps of a process with integer times in pixels."""

        def model_fn(x_t, model_time):
            m = process.marginal(model_time + process.time_offset)
            return (x_t - m.alpha * self.expectation(m.alpha, m.sigma, x_t)) / m.sigma

        return model_fn

    def _below(self, m, u):
        """P(u_t < u)."""
        (mean, spread), u = self._sides(m.alpha, m.sigma), u - m.alpha * self.centre
        return 0.5 * (ndtr((u - mean) / spread) + ndtr((u + mean) / spread))

    def flow(self, m_s, m_t, u_t):
        """The exact solution of the probability-flow equation from t to s, by bisection."""
        wanted = self._below(m_t, u_t)
        low, high = jnp.full_like(u_t, -9.0), jnp.full_like(u_t, 9.0)
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = self._below(m_s, middle) > wanted
            low, high = jnp.where(above, low, middle), jnp.where(above, middle, high)
        return 0.5 * (low + high)
