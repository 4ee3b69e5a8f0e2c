"""Walks from noised images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.random import batch_keys
from ddx.diffusion.reverse.sdedit import noised_image, times_from
from ddx.diffusion.reverse.walk import initial_noise
from tests import oracle

SHAPE = (2, 3, 1)
PROCESS = ddx.ddpm(1000, "cosine")
TIMES = ddx.trajectory(1000, 10, "even")
KEYS = batch_keys(jax.random.key(0), 2)


def test_the_times_of_a_walk_from_t():
    assert times_from((9, 6, 3, 0), 7) == (7, 6, 3, 0)
    assert times_from((9, 6, 3, 0), 6) == (6, 3, 0)
    assert times_from((9, 6, 3, 0), 1) == (1, 0)


@pytest.mark.parametrize("strength", [0.9, 0.3, 0.001])
def test_a_walk_from_noised_data_ends_in_data(strength):
    """Exact steps lead from data to data, whatever the strength; from a weak one to nearly the same image."""
    t = round(strength * 1000)
    with jax.enable_x64(True):
        data = oracle.random_gaussian(SHAPE)
        denoise = ddx.denoiser(PROCESS, data.model_fn(PROCESS), clip=False)
        times = times_from(TIMES, t)

        def walked(x_0, noise, noises):
            x_t = ddx.q_sample(PROCESS, x_0[None], t, noise[None])
            steps = noises[:, None]
            return ddx.sample(denoise, None, x_t, times, 1.0, data.optimal_variance(), steps)[0]

        def moved(x_0, noise, noises):
            one = jnp.ones(SHAPE)  # coordinates are independent: one product has the diagonal of every derivative
            mean, by_data = jax.jvp(lambda x: walked(x, noise, noises), (x_0,), (one,))
            by_noise = jax.jvp(lambda z: walked(x_0, z, noises), (noise,), (one,))[1]
            units = jnp.eye(len(noises))[:, :, None, None, None] * one
            by_steps = jax.vmap(lambda u: jax.jvp(lambda z: walked(x_0, noise, z), (noises,), (u,))[1])(units)
            return mean, by_data, jnp.square(by_noise) + jnp.square(by_steps).sum(0)

        zeros = jnp.zeros(SHAPE)
        mean, by_data, by_draws = jax.jit(moved)(data.mean, zeros, jnp.zeros((len(times) - 1, *SHAPE)))
        m = PROCESS.marginal(times[-2])
        left_out = data.covariance(m.alpha, m.sigma)  # the last step ends in its mean
        np.testing.assert_allclose(mean, data.mean, atol=1e-12)
        np.testing.assert_allclose(by_data**2 * data.variance + by_draws, data.variance - left_out, rtol=1e-9)
        assert (by_data > 0.99).all() == (strength == 0.001) and (by_data < 0.1).all() == (strength == 0.9)


def test_without_signal_the_start_is_that_of_sampling():
    process = ddx.process_from_betas(np.append(np.linspace(0.1, 0.5, 9), 1.0))
    x_0 = jnp.ones((2, *SHAPE))
    np.testing.assert_array_equal(noised_image(process, KEYS, x_0, 10), initial_noise(process, KEYS, SHAPE))
    weak, noise = noised_image(process, KEYS, x_0, 1), initial_noise(process, KEYS, SHAPE)
    np.testing.assert_allclose(weak, ddx.q_sample(process, x_0, 1, noise), rtol=1e-6)


def test_heat_starts_from_a_blurred_image():
    process, x_0 = ddx.ihdm(6, sigma_blur_max=2.0), jax.random.normal(jax.random.key(1), (2, *SHAPE))
    np.testing.assert_array_equal(ddx.heat_prior(process, KEYS, x_0, 0.0, 3), ddx.blur(process, x_0, 3))
    np.testing.assert_array_equal(ddx.heat_prior(process, KEYS, x_0, 0.1, 6), ddx.heat_prior(process, KEYS, x_0, 0.1))
