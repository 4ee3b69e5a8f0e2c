"""IHDM: its prior, its sampler and its bound, beyond what the golden files hold."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.forward import basis
from ddx.diffusion.papers import ihdm, ihdm_bound
from tests import oracle

SHAPE = (8, 8)


def process(num_steps=20):
    return ddx.ihdm(num_steps, 0.5, 5.0)


def images(count, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(0, 1, (count, *SHAPE, 1)))


def network(process, data):
    """The network of Gaussian data that predicts the next image as well as can be."""

    def model_fn(x_t, t):
        m, s = process.marginal(t, SHAPE), process.marginal(t - 1, SHAPE)
        u_t = basis.dct(x_t)
        return basis.idct(s.alpha * data.expectation(m.alpha, m.sigma, u_t)) - x_t

    return model_fn


def gaussian():
    rng = np.random.default_rng(3)
    spread = 0.3 / (0.1 + basis.laplacian(SHAPE)) * rng.uniform(0.5, 1.5, (*SHAPE, 1))
    return oracle.Gaussian(0.2 * rng.standard_normal((*SHAPE, 1)), spread)


def test_heat_leaves_the_mean_of_an_image_and_obeys_the_maximum_principle():
    x = images(3).astype(jnp.float32)
    blurred = [ddx.blur(process(), x, t) for t in range(21)]
    np.testing.assert_array_equal(blurred[0], ddx.blur(process(), x, 0))
    np.testing.assert_allclose(blurred[0], x, atol=1e-6)
    for less, more in pairwise(blurred):
        np.testing.assert_allclose(more.mean((1, 2, 3)), x.mean((1, 2, 3)), rtol=1e-6)
        assert np.all(more.max((1, 2, 3)) <= less.max((1, 2, 3)) + 1e-6)
        assert np.all(more.min((1, 2, 3)) >= less.min((1, 2, 3)) - 1e-6)


def test_a_network_that_hits_its_target_predicts_the_less_blurred_image():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x_0, noise = images(20), jnp.asarray(rng.standard_normal((20, *SHAPE, 1)))
        t = jnp.asarray(rng.integers(1, 21, 20))
        x_t = ddx.q_sample(process(), x_0, t, noise)
        goal = ddx.diffusion.estimate.prediction.target(process(), "residual", x_0, t, noise)
        for clip in (False, True):
            d = jax.jit(ddx.denoiser(process(), lambda *_: goal, "residual", clip=clip))(x_t, t)
            np.testing.assert_allclose(x_t + d.output, ddx.blur(process(), x_0, t - 1), atol=1e-12)
        m = process().marginal(t, SHAPE)
        np.testing.assert_allclose(m.alpha * basis.dct(d.x_0) + m.sigma * basis.dct(d.eps), basis.dct(x_t), atol=1e-9)
        d = ddx.denoiser(process(), lambda *_: goal, "residual", clip=False)(x_t, t)
        known = np.asarray(process().marginal(t - 1, SHAPE).alpha) > 0.01
        u_0, estimate = basis.dct(x_0), basis.dct(d.x_0)
        np.testing.assert_allclose(np.where(known, estimate, 0), np.where(known, u_0, 0), atol=1e-8)
        np.testing.assert_allclose(np.where(known, 0, estimate), 0, atol=1e-12)


def test_the_sampler_with_the_exact_network_keeps_what_the_blur_did_not_touch():
    # Deterministic and in many steps it undoes the blur of coordinates that the noise does not hide.
    data, chain = gaussian(), ddx.ihdm(400, 0.05, 1.0, 1e-4)
    with jax.enable_x64(True):
        u_0 = np.asarray(data.mean) + np.sqrt(data.variance) * np.random.default_rng(0).standard_normal((2, *SHAPE, 1))
        x_0 = basis.idct(jnp.asarray(u_0))
        denoise = ddx.denoiser(chain, network(chain, data), "residual", clip=False)
        x_T = ddx.blur(chain, x_0, 400)
        found = ddx.sample(denoise, None, x_T, eta=0.0, solver=ddx.heat_sampler(0.0))
        assert float(jnp.abs(x_T - x_0).max()) > 0.1
        error = np.abs(basis.dct(found) - u_0)
        assert error[:, 0, 0].max() < 1e-3 and np.median(error) < 0.02


def test_the_noise_of_its_steps_is_delta_and_the_last_has_none():
    chain, delta = process(3), 0.05
    denoise = ddx.denoiser(chain, lambda x, t: jnp.zeros_like(x), "residual", clip=False)
    x_T = jnp.zeros((4, *SHAPE, 1))
    found = ddx.sample(denoise, jax.random.key(0), x_T, eta=1.0, solver=ddx.heat_sampler(delta))
    z = [np.asarray(ddx.diffusion.reverse.walk.noise_from(jax.random.key(0), x_T)(k)) for k in range(2)]
    np.testing.assert_allclose(found, basis.idct(delta * (z[0] + z[1])), atol=1e-6)


def test_samples_start_from_training_images_that_seed_and_index_choose():
    keys = ddx.diffusion.random.example_keys(jax.random.key(5), jnp.arange(4000))
    chosen = np.asarray(ihdm.prior_images(keys, 10))
    assert chosen.min() == 0 and chosen.max() == 9
    counts = np.bincount(chosen)
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400)
    np.testing.assert_array_equal(ihdm.prior_images(keys[7:9], 10), chosen[7:9])

    x = images(10).astype(jnp.float32)
    x_T = ddx.heat_prior(process(), keys[:64], x[chosen[:64]], 0.1)
    blurred = ddx.blur(process(), x[chosen[:64]], 20)
    np.testing.assert_array_equal(ddx.heat_prior(process(), keys[:64], x[chosen[:64]], 0.0), blurred)
    assert abs(float((x_T - blurred).std()) - 0.1) < 0.005
    np.testing.assert_allclose(ddx.heat_prior(process(), keys[3:5], x[chosen[3:5]], 0.1), x_T[3:5], atol=1e-6)


def test_the_prior_of_one_image_is_its_gaussian_and_more_images_bring_it_nearer():
    chain, delta = process(), 0.02
    with jax.enable_x64(True):
        x, train = images(3), images(40, seed=1)
        of_images = jax.jit(lambda some: ihdm_bound.kde_kl(chain, ddx.kde_centres(chain, some), x, delta))
        one = of_images(train[:1])
        exact = ddx.gaussian_kl(ddx.blur(chain, x, 20), 0.01**2, ddx.blur(chain, train[:1], 20), delta**2)
        np.testing.assert_allclose(one, exact.sum((1, 2, 3)), rtol=1e-8)
        each = [of_images(train[i : i + 1]) for i in range(40)]
        whole = ihdm_bound.kde_kl(chain, ddx.kde_centres(chain, train), x, delta)
        # Not above paying log M for the nearest, nor below the nearest alone.
        assert np.all(whole <= np.min(each, 0) + np.log(40) + 1e-9) and np.all(whole >= np.min(each, 0) - 1e-9)
        joined = jnp.concatenate([ddx.kde_centres(chain, train[:7]), ddx.kde_centres(chain, train[7:])])
        np.testing.assert_allclose(ihdm_bound.kde_kl(chain, joined, x, delta), whole, rtol=1e-12)


def test_the_bound_is_as_the_paper_sums_it():
    chain, delta = process(6), 0.013
    with jax.enable_x64(True):
        x, train, bits = images(4), images(30, seed=1), 64 * np.log(2)
        denoise = ddx.denoiser(chain, network(chain, gaussian()), "residual", clip=False)
        centres, key = ddx.kde_centres(chain, train), jax.random.key(0)
        found = ddx.heat_bits_per_dim(denoise, x, key, centres, delta)
        noise = ddx.diffusion.bound.terms.noise_at(key, x)
        for t in range(1, 7):
            x_t = basis.idct(chain.marginal(t, SHAPE).alpha * basis.dct(x) + 0.01 * noise(t))
            mean = x_t + denoise(x_t, np.full(4, t)).output
            square = np.square(ddx.blur(chain, x, t - 1) - mean).sum((1, 2, 3))
            if t == 1:
                nats = square / (2 * delta**2) + 64 * np.log(delta * np.sqrt(2 * np.pi))
                np.testing.assert_allclose(found.decoder, nats / bits + 8, rtol=1e-9)
            else:
                excess = 0.01**2 / delta**2 - 1 + 2 * np.log(delta / 0.01)
                np.testing.assert_allclose(
                    found.terms[:, t - 2], 0.5 * (square / delta**2 + 64 * excess) / bits, rtol=1e-9
                )
                np.testing.assert_allclose(found.mse[:, t - 2], square / 64, rtol=1e-9)
        np.testing.assert_array_equal(found.times, [2, 3, 4, 5, 6])
        np.testing.assert_allclose(found.total, found.prior + found.terms.sum(1) + found.decoder, rtol=1e-12)
        released = ddx.heat_bits_per_dim(denoise, x, key, centres, delta, levels=range(1, 6))
        np.testing.assert_allclose(released.terms[:, 1:], found.terms[:, :-1], rtol=1e-9)


def test_the_general_bound_and_samplers_hold_for_it_too():
    # The Markov chain of the same marginals: DC does not change, costs nothing, and stays.
    chain, data = ddx.ihdm(30, 0.3, 3.0, 0.05), gaussian()
    with jax.enable_x64(True):

        def model(x, t):
            return basis.idct(data.expectation(*chain.marginal(t, SHAPE)[:2], basis.dct(x)))

        denoise = ddx.denoiser(chain, model, "x0", clip=False)
        x = jnp.round(images(3) * 255) / 255
        bound = jax.jit(lambda x: ddx.bits_per_dim(denoise, x, jax.random.key(0)))(x)
        assert np.all(np.isfinite(bound.total)) and np.all(bound.terms > 0)
        x_T = ddx.q_sample(chain, x, 30, jnp.asarray(np.random.default_rng(0).standard_normal(x.shape)))
        walk = jax.jit(lambda plan: ddx.walk(denoise, plan, x_T, jax.random.key(1)))
        for eta in (0.0, 0.7, 1.0):
            found = walk(ddx.plan(chain, eta=eta))
            np.testing.assert_allclose(basis.dct(found)[:, 0, 0], basis.dct(x_T)[:, 0, 0], rtol=1e-9)
        times = tuple(range(30, -1, -1))
        x_T = ddx.encode(denoise, x, times)
        np.testing.assert_allclose(ddx.sample(denoise, None, x_T, times).mean(), x.mean(), rtol=1e-6)


def test_between_two_states_the_ends_are_their_samples():
    chain = process(5)
    denoise = ddx.denoiser(chain, lambda x, t: -0.1 * x + 0.05, "residual", clip=False)
    x = images(4).astype(jnp.float32)
    keys = ddx.diffusion.random.example_keys(jax.random.key(0), jnp.arange(4))
    found = ddx.interpolate_heat(denoise, (keys[:2], keys[2:]), x[:2], x[2:], jnp.linspace(0, 1, 3), 0.1)
    whole = ddx.sample(denoise, keys, x, eta=1.0, solver=ddx.heat_sampler(0.1))
    np.testing.assert_allclose(found[0], whole[:2], atol=1e-6)
    np.testing.assert_allclose(found[2], whole[2:], atol=1e-6)
    assert float(jnp.abs(found[1] - 0.5 * (found[0] + found[2])).max()) > 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: ddx.sample(d("x0"), None, images(1), eta=0.0, solver=ddx.heat_sampler(0.0)), "residual"),
        (lambda d: ihdm_bound.heat_rows(process(), (0, 3)), r"must lie in 1\.\.20"),
        (lambda d: ddx.sample(d("residual"), None, images(1), eta=1.0, solver=ddx.heat_sampler()), "key"),
        (
            lambda d: ddx.sample(d("residual"), jax.random.key(0), images(1), (20, 7, 0), solver=ddx.heat_sampler()),
            "leave times out",
        ),
        (
            lambda d: ddx.heat_bits_per_dim(d("x0"), images(1), jax.random.key(0), jnp.ones((1, 3))),
            "prediction='residual'",
        ),
        (
            lambda d: ddx.heat_bits_per_dim(d("residual"), images(1), jax.random.key(0), jnp.ones((1, 3)), 0.0),
            "delta=0.0 must be above 0",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(lambda prediction: ddx.denoiser(process(), lambda x, t: x, prediction))
    assert "\n" not in str(error.value)


def test_a_network_of_the_next_image_has_the_general_bound_of_the_x_0_that_it_tells():
    chain, data = ddx.ihdm(10, 0.3, 1.0, 0.05), gaussian()  # so little blur that every coordinate is told
    with jax.enable_x64(True):
        denoise = ddx.denoiser(chain, network(chain, data), "residual", clip=False)
        x = jnp.round(images(3) * 255) / 255
        found = jax.jit(lambda x: ddx.bits_per_dim(denoise, x, jax.random.key(0)))(x)

        def told(x_t, t):
            d = denoise(x_t, t)
            return ddx.Denoised(d.x_0, d.eps, None)

        expected = jax.jit(lambda x: ddx.bits_per_dim(ddx.from_pixels(chain, told), x, jax.random.key(0)))(x)
        np.testing.assert_allclose(found.total, expected.total, rtol=1e-9)
