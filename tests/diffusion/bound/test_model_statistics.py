"""The statistics of DPM-Solver-v3 are what its paper defines: optimal on average over q(u_t), along the flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.bound.model_statistics import level_times
from tests import oracle

DATA = oracle.Mixture(np.asarray([0.7, 0.4]).reshape(2, 1, 1), np.asarray([0.02, 0.05]).reshape(2, 1, 1), centre=0.5)


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    side = np.where(rng.random((count, 2, 1, 1)) < 0.5, 1.0, -1.0)
    return jnp.asarray(DATA.centre + DATA.mean * side + np.sqrt(DATA.variance) * rng.standard_normal((count, 2, 1, 1)))


def paper(half_logsnr):
    """l, s and b of one level by the paper's definition, (2,) each, with derivatives along the flow."""

    def levels(x):
        alpha = jnp.sqrt(jax.nn.sigmoid(2 * x))
        return alpha, alpha * jnp.exp(-x)

    def eps(z, x):
        alpha, sigma = levels(x)
        u = alpha * z
        return (u - alpha * DATA.expectation(alpha, sigma, u[..., None, None])[..., 0, 0]) / sigma

    def weights(x):
        """Nodes z and the mass of q there."""
        alpha, sigma = levels(x)
        mean, spread = DATA.mean[:, 0, 0], jnp.sqrt(DATA.variance[:, 0, 0] + (sigma / alpha) ** 2)
        v = jnp.linspace(-1, 1, 4001)[:, None] * (mean + 9 * spread)
        density = jnp.exp(-0.5 * ((v - mean) / spread) ** 2) + jnp.exp(-0.5 * ((v + mean) / spread) ** 2)
        return DATA.centre + v, density / density.sum(0)

    def linear(x):
        z, p = weights(x)
        alpha, sigma = levels(x)
        by_z = jax.jvp(lambda z: eps(z, x), (z,), (jnp.ones_like(z),))[1]
        return (p * sigma / alpha * by_z).sum(0)

    def f(z, x):
        return jnp.exp(-x) * eps(z, x) - linear(x) * z

    x = jnp.asarray(half_logsnr, jnp.float64)
    z, p = weights(x)
    value, rate = jax.jvp(f, (z, x), (-jnp.exp(-x) * eps(z, x), jnp.ones_like(x)))
    mean, mean_rate = (p * value).sum(0), (p * rate).sum(0)
    s = (p * (value - mean) * (rate - mean_rate)).sum(0) / (p * (value - mean) ** 2).sum(0)
    return np.asarray(linear(x)), np.asarray(s), np.asarray(mean_rate - s * mean)


def test_they_are_the_papers_l_s_and_b_without_a_derivative():
    with jax.enable_x64(True):
        process = ddx.iddpm(1000)
        x_0 = images(20_000)
        denoise = ddx.denoiser(process, DATA.model_fn(process), clip=False)
        found = ddx.estimate_model_statistics(denoise, x_0, jax.random.key(0))
        x = found.logsnr / 2
        s = np.gradient(np.log(found.std), x, axis=0)
        b = np.gradient(found.mean, x, axis=0) - s * found.mean
        most = 0.0
        for wanted in (-0.8, -0.2, 0.5, 1.5, 2.5):
            i = int(np.argmin(np.abs(x - wanted)))
            linear, paper_s, paper_b = paper(x[i])
            np.testing.assert_allclose(found.linear[i].ravel(), linear, atol=0.01)
            np.testing.assert_allclose(s[i].ravel(), paper_s, atol=0.06)
            np.testing.assert_allclose(b[i].ravel(), paper_b, atol=0.04)
            most = max(most, np.abs(paper_b).max())
    assert most > 0.1  # b is something


def test_levels_are_even_in_log_snr_where_there_are_times_for_it():
    for process in (ddx.iddpm(4000), ddx.ddpm(1000), ddx.rectified_flow(1000)):
        times = level_times(process)
        logsnr = process.marginal(np.asarray(times[:-1])).logsnr.ravel()
        assert 60 < len(logsnr) <= 120 and times[-2:] == (1, 0) and np.all(np.isfinite(logsnr))
        assert times[0] == process.num_steps - (process.marginal(process.num_steps).alpha == 0)
        assert np.median(np.diff(logsnr)) == pytest.approx((logsnr[-1] - logsnr[0]) / 119, rel=0.05)


def test_what_says_nothing_is_refused():
    denoise = ddx.denoiser(ddx.ddpm(100), lambda x, t: 0.3 * x)
    with pytest.raises(ValueError, match="of 9 images say little; take 10 or more"):
        ddx.estimate_model_statistics(denoise, jnp.zeros((9, 2, 1, 1)), jax.random.key(0))
    with pytest.raises(ValueError, match="without a blur"):
        ddx.estimate_model_statistics(
            ddx.denoiser(ddx.blurring(20), lambda x, t: x, "v"), jnp.zeros((10, 2, 2, 1)), jax.random.key(0)
        )
    with pytest.raises(ValueError, match="three noise levels or more, and this process has 2"):
        level_times(ddx.iddpm(2))
