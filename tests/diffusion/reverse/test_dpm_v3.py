"""DPM-Solver-v3 contains the solvers that it generalises, is exact on Gaussian data, and has its order on others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.forward.basis import PIXEL
from ddx.diffusion.forward.process import Process
from ddx.diffusion.forward.schedules import Cosine
from ddx.diffusion.reverse.dpm_v3 import ModelStatistics, dpm_v3
from tests import oracle
from tests.diffusion.reverse.test_solvers import flow, log_snr_times, slope
from tests.walks import walker

SHAPE = (3, 2, 1)
FINE = ddx.ddpm(200_000)
SMOOTH = Process(PIXEL, Cosine(1000, -10.0, 10.0))  # real times


def tables(logsnr, linear=lambda x: 0 * x, mean=lambda x: 0 * x, std=lambda x: 1 + 0 * x):
    """Statistics that are the same for all coordinates, from functions of half log-SNR."""
    of = [f(logsnr / 2).reshape(-1, 1, 1, 1) for f in (linear, mean, std)]
    return ModelStatistics(logsnr, *of, 1)


def mixture(seed=0):
    rng = np.random.default_rng(seed)
    return oracle.Mixture(rng.uniform(0.4, 0.8, SHAPE), rng.uniform(0.01, 0.05, SHAPE))


def noise(seed=0):
    return jax.random.normal(jax.random.key(seed), (2, *SHAPE), jnp.float64)


@pytest.mark.parametrize("order", [2, 3])
def test_with_l_of_one_it_is_unipc(order):
    with jax.enable_x64(True):
        denoise = ddx.denoiser(FINE, mixture().model_fn(FINE), clip=False)
        times = log_snr_times(FINE, 9, 7)
        plain = tables(np.linspace(*FINE.schedule.logsnr[[-1, 1]], 40), linear=lambda x: 1 + 0 * x)
        found = ddx.sample(denoise, None, noise(), times, solver=dpm_v3(plain, order))
        np.testing.assert_allclose(found, ddx.sample(denoise, None, noise(), times, solver=f"unipc_{order}"), rtol=1e-9)


def test_without_l_it_integrates_eps_that_is_a_line_exactly():
    """With E f = 0 and std f = e^-lambda g is eps, as in DPM-Solver."""
    with jax.enable_x64(True):

        def at(u_t, level):
            eps = jnp.full_like(u_t, 1.0) * (0.5 - 0.3 * level.logsnr)
            return ddx.Denoised((u_t - level.sigma * eps) / level.alpha, eps)

        solver = dpm_v3(tables(np.linspace(-10, 10, 4001), std=lambda x: np.exp(-x)), 2)
        u_T = jnp.ones((1, *SHAPE))
        rows = ddx.plan(SMOOTH, (900, 600, 300, 0), solver=solver)
        # The first step, an Euler step, is taken again through both its ends; the second follows the line.
        found = ddx.walk(ddx.Denoiser(SMOOTH, at), jax.tree.map(lambda x: x[:2], rows), u_T, solver=solver)
        t, s = SMOOTH.marginal(900), SMOOTH.marginal(300)
        x, dx = np.polynomial.legendre.leggauss(60)
        h = (s.logsnr - t.logsnr) / 2
        x, dx = t.logsnr / 2 + h * (x + 1) / 2, h * dx / 2
        exact = s.alpha * (u_T / t.alpha - (dx * np.exp(-x) * (0.5 - 0.6 * x)).sum())
        np.testing.assert_allclose(found, exact, rtol=1e-7)


def statistics_of(process, data, count=16, seed=5):
    """Statistics of the optimal network of some data, from examples."""
    rng = np.random.default_rng(seed)
    side = data.mean if isinstance(data, oracle.Gaussian) else data.mean * rng.choice([-1.0, 1.0], (count, *SHAPE))
    x_0 = jnp.asarray(side + np.sqrt(data.variance) * rng.standard_normal((count, *SHAPE)))
    denoise = ddx.denoiser(process, data.model_fn(process), clip=False)
    return denoise, ddx.estimate_model_statistics(denoise, x_0, jax.random.key(seed))


def test_one_step_of_any_length_is_exact_on_gaussian_data():
    with jax.enable_x64(True):
        process, data = ddx.iddpm(4000), oracle.random_gaussian(SHAPE)
        denoise, found = statistics_of(process, data)
        solver = dpm_v3(found)
        for t, s in ((3900, 1), (3900, 2000), (2000, 30)):
            m_t, m_s = process.marginal(t), process.marginal(s)
            x_t = m_t.alpha * data.mean + np.sqrt(m_t.alpha**2 * data.variance + m_t.sigma**2) * noise()
            x_s = flow(data, m_s, m_t, x_t)
            rows = jax.tree.map(lambda x: x[:1], ddx.plan(process, (t, s, 0), solver=solver))
            np.testing.assert_allclose(ddx.walk(denoise, rows, x_t, solver=solver), x_s, atol=2e-4)
            euler = jax.tree.map(lambda x: x[:1], ddx.plan(process, (t, s, 0)))
            assert float(jnp.abs(ddx.walk(denoise, euler, x_t) - x_s).max()) > 0.02
        # And upwards.
        x_1 = ddx.encode(denoise, x_s, (2000, 0), solver=solver)
        m_1 = process.marginal(1)
        np.testing.assert_allclose(x_1, flow(data, process.marginal(2000), m_1, x_s), atol=2e-3)


@pytest.mark.parametrize(("order", "expected"), [(1, 2), (2, 3)])
def test_the_order_is_that_of_its_corrector(order, expected):
    """Whatever the statistics, as long as they are smooth."""
    data, Ks = mixture(), (32, 64, 128)
    smooth = tables(
        np.linspace(-12, 20, 3000),
        linear=lambda x: 1 / (1 + 0.5 * np.exp(2 * x)),
        mean=lambda x: 0.3 * np.sin(x),
        std=lambda x: np.exp(0.5 * np.sin(1 + x)),
    )
    errors = []
    with jax.enable_x64(True):
        walk = walker(ddx.denoiser(FINE, data.model_fn(FINE), clip=False), dpm_v3(smooth, order), size=32).sample
        for K in Ks:
            times = log_snr_times(FINE, K, 7)
            m_T, m_1 = FINE.marginal(times[0]), FINE.marginal(times[-2])
            exact = data.expectation(m_1.alpha, m_1.sigma, data.flow(m_1, m_T, noise()))
            errors.append(float(jnp.abs(walk(noise(), times) - exact).max()))
    assert expected - 0.2 < slope(Ks, errors) < expected + 1.2, errors


def test_what_it_cannot_do_is_refused():
    process = ddx.ddpm(100)
    with pytest.raises(ValueError, match="three levels or more"):
        dpm_v3(tables(np.asarray([-1.0, 1.0])))
    with pytest.raises(ValueError, match="without a blur"):
        ddx.plan(ddx.blurring(20), (20, 10, 0), solver=dpm_v3(tables(np.linspace(-9, 9, 5))))
    with pytest.raises(ValueError, match="of log-SNRs from -1 to 1, and the steps go from -10"):
        ddx.plan(process, (100, 50, 0), solver=dpm_v3(tables(np.linspace(-1, 1, 5))))
    of_images = tables(np.linspace(-12, 12, 5))
    of_images = of_images._replace(std=np.ones((5, 2, 3, 1)), mean=np.ones((5, 2, 3, 1)), linear=np.ones((5, 2, 3, 1)))
    denoise = ddx.denoiser(process, lambda x, t: 0.3 * x)
    with pytest.raises(ValueError, match=r"of images \(2, 3, 1\), not \(3, 2, 1\)"):
        ddx.sample(denoise, None, jnp.ones((1, *SHAPE)), (100, 50, 0), solver=dpm_v3(of_images))
    with pytest.raises(ValueError, match="is for eta = 0"):
        ddx.plan(process, (100, 50, 0), eta=1.0, solver=dpm_v3(of_images))
