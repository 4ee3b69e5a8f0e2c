"""A schedule of five members makes a process: the straight line from data to noise, which has no signal at T."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.forward.basis import DCT, PIXEL
from ddx.diffusion.forward.blur import SineBlur
from ddx.diffusion.forward.process import Process
from ddx.diffusion.forward.schedules import RectifiedFlow
from ddx.diffusion.reverse.walk import initial_noise
from tests import oracle

SHAPE = (3, 2, 1)
FLOW = ddx.rectified_flow(1000)
TIMES = (*np.linspace(1000, 2, 500).tolist(), 0)


def network(data, prediction="velocity"):
    """The best network there is for Gaussian data."""

    def model_fn(x_t, model_time):
        m = FLOW.marginal(model_time)
        x_0 = data.expectation(m.alpha, m.sigma, x_t)
        noisy = m.sigma > 0
        eps = (x_t - m.alpha * x_0) / jnp.where(noisy, m.sigma, 1.0)
        return {"velocity": eps - x_0, "x0": x_0, "v": m.alpha * eps - m.sigma * x_0}[prediction]

    return model_fn


def test_its_marginals_are_straight_and_their_changes_exact():
    t = np.array([0.0, 1e-9, 1.0, 250.0, 999.0, 1000.0])
    m = FLOW.marginal(t)
    np.testing.assert_allclose(m.alpha.ravel(), 1 - t / 1000, rtol=1e-15)
    np.testing.assert_allclose(m.sigma.ravel(), t / 1000, rtol=1e-15)
    s, t = np.array([100.0, 500.0, 999.0]), np.array([100.0 + 1e-9, 900.0, 1000.0])
    change = FLOW.change(s, t)
    np.testing.assert_allclose(change.log_alpha.ravel()[:2], np.log1p((s - t) / (1000 - s))[:2], rtol=1e-12)
    np.testing.assert_allclose(change.logsnr.ravel()[1], 2 * np.log(0.1 / 0.9 / (0.5 / 0.5)), rtol=1e-12)
    assert change.logsnr.ravel()[2] == -np.inf and FLOW.change(0.0, 5.0).logsnr == -np.inf
    traced = jax.jit(lambda s, t: FLOW.change(s, t).logsnr)(s[:2], t[:2])
    assert np.isfinite(traced).all()


def test_a_step_without_noise_is_euler_s_for_the_velocity():
    """Whatever the network says, and from the first level, without signal, to the data."""

    def velocity(x, model_time):
        return jnp.sin(3 * x) - 0.001 * model_time[:, None, None, None]

    times = (1000, 637.5, 300, 20, 0)
    with jax.enable_x64(True):
        x_T = jax.random.normal(jax.random.key(0), (2, *SHAPE), jnp.float64)
        x = x_T
        for t, s in itertools.pairwise(times):
            x = x + (s - t) / 1000 * velocity(x, jnp.full(2, float(t)))
        found = ddx.sample(ddx.denoiser(FLOW, velocity, "velocity", clip=False), None, x_T, times)
        np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-12)


def test_the_process_depends_on_the_share_of_time_alone():
    coarse, t = ddx.rectified_flow(10), np.array([0.5, 4.0, 10.0])
    np.testing.assert_allclose(coarse.marginal(t).alpha, FLOW.marginal(100 * t).alpha)
    np.testing.assert_allclose(coarse.model_time(t), FLOW.model_time(100 * t))
    np.testing.assert_allclose(FLOW.model_time(t), t)
    with pytest.raises(ValueError, match=r"use 'v', 'x0' or flow matching's 'velocity'"):
        ddx.denoiser(FLOW, lambda x, t: x, "eps")


@pytest.mark.parametrize("prediction", ["velocity", "x0", "v"])
def test_the_flow_of_gaussian_data_scales_deviations_by_the_spread(prediction):
    data = oracle.random_gaussian(SHAPE)
    with jax.enable_x64(True):
        denoise = ddx.denoiser(FLOW, network(data, prediction), prediction, clip=False)
        x_T = initial_noise(FLOW, jax.random.split(jax.random.key(0), 4), SHAPE, jnp.float64)
        found = ddx.sample(denoise, None, x_T, TIMES, solver="heun")
        m = FLOW.marginal(TIMES[-2])
        spread = np.sqrt(m.alpha**2 * data.variance + m.sigma**2)
        x_1 = m.alpha * data.mean + spread * x_T  # at T the data are forgotten, and the spread is 1
        np.testing.assert_allclose(found, data.expectation(m.alpha, m.sigma, x_1), atol=2e-4)


def test_images_are_found_again_from_their_latents():
    data = oracle.random_gaussian(SHAPE)
    with jax.enable_x64(True):
        denoise = ddx.denoiser(FLOW, network(data), "velocity", clip=False)
        x_0 = data.mean + jnp.sqrt(data.variance) * jax.random.normal(jax.random.key(1), (4, *SHAPE), jnp.float64)
        times = (*np.linspace(1000, 1, 50).tolist(), 0)
        x_T = ddx.encode(denoise, x_0, times, "heun")
        found = ddx.sample(denoise, None, x_T, times, solver="heun")
        # Images are taken for x_1, whose sigma is 0.001.
        np.testing.assert_allclose(found, x_0, atol=2e-3)


def test_it_is_bounded_and_its_losses_are_those_of_the_data():
    data = oracle.random_gaussian(SHAPE)._replace(variance=jnp.linspace(0.01, 0.03, 6).reshape(SHAPE))  # hardly clipped
    with jax.enable_x64(True):
        denoise = ddx.denoiser(FLOW, network(data), "velocity", clip=False)
        rng = np.random.default_rng(0)
        u_0 = np.asarray(data.mean) + np.sqrt(np.asarray(data.variance)) * rng.standard_normal((400, *SHAPE))
        x_0 = jnp.asarray(np.rint((np.clip(u_0, -1, 1) + 1) * 127.5) / 127.5 - 1)
        entropy = 0.5 * np.log2(2 * np.pi * np.e * np.asarray(data.variance)).mean() + np.log2(127.5)
        for K in (10, 100):
            times = (*np.linspace(1000, 5, K).tolist(), 0)
            bits = ddx.bits_per_dim(denoise, x_0, jax.random.key(0), times, data.optimal_variance())
            assert np.abs(bits.prior).max() < 1e-12  # x_T is the prior
            assert entropy - 0.2 < float(bits.total.mean()) < entropy + 0.2, (bits.total.mean(), entropy)
        t, z = np.full(400, 300.0), jnp.asarray(rng.standard_normal(u_0.shape))
        loss = jax.jit(lambda x: ddx.simple_loss(FLOW, network(data), x, t, z, "velocity"))(jnp.asarray(u_0))
        # The velocity's error is that of x_0 over sigma, so its mean is Var[x_0 given x_t] / sigma^2.
        expected = (np.asarray(data.covariance(0.7, 0.3)) / 0.3**2).mean()
        np.testing.assert_allclose(loss.mean(), expected, rtol=0.1)
        simple = lambda w: ddx.simple_loss(FLOW, lambda x, t: w * x, x_0, t, z, "velocity").mean()  # noqa: E731
        assert np.isfinite(jax.jit(jax.grad(simple))(0.1))


def test_the_flow_has_no_rate_where_nothing_is_left():
    denoise = ddx.denoiser(FLOW, network(oracle.random_gaussian(SHAPE)), "velocity", clip=False)
    x = jnp.ones((1, *SHAPE))
    with pytest.raises(ValueError, match="no signal is left; start at an earlier time"):
        ddx.probability_flow(denoise, x, 1000.0)
    # dx/dt is the velocity, eps - x_0, over T.
    d = denoise(x, 400.0)
    np.testing.assert_allclose(ddx.probability_flow(denoise, x, 400.0), (d.eps - d.x_0) / 1000, rtol=1e-4, atol=1e-7)


def test_images_are_not_taken_for_noise():
    denoise = ddx.denoiser(FLOW, network(oracle.random_gaussian(SHAPE)), "velocity", clip=False)
    coarse = Process(PIXEL, RectifiedFlow(1), time_offset=0)
    with pytest.raises(ValueError, match=r"its noise of 0\.5 hides them"):
        ddx.encodable(ddx.denoiser(coarse, lambda x, t: x, "velocity"), (1.0, 0.5, 0))
    assert ddx.encodable(denoise, (1000.0, 500.0, 0)) == (1000.0, 500.0, 0)


def test_a_blur_without_noise_at_0_has_no_decoder():
    process = Process(DCT, RectifiedFlow(10), SineBlur(10, 2.0, 2), 0.001, time_offset=0)
    denoise = ddx.denoiser(process, lambda x, t: -x, "v")
    with pytest.raises(ValueError, match="has no decoder"):
        ddx.bits_per_dim(denoise, jnp.zeros((1, *SHAPE)), jax.random.key(0))
