"""The discretised decoder: a distribution over 256 levels, exact and finite wherever it is asked."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx.diffusion.bound.decoder import CDFS, decoder_log_prob

LEVELS = np.arange(256) / 127.5 - 1
SIGMAS = (1e-4, 1e-3, 0.004, 0.0074, 0.05, 0.5, 3.0, 40.0)
log_probs = jax.jit(decoder_log_prob, static_argnums=3)
MEANS = (-30.0, -1.5, -1.0, -0.9961, -0.3, 0.0, 0.00392, 0.77, 1.0, 2.0, 50.0)


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("cdf", CDFS)
def test_the_probabilities_of_all_levels_sum_to_one(cdf, x64):
    with jax.enable_x64(x64):
        mean, sigma = jnp.asarray(list(itertools.product(MEANS, SIGMAS))).T
        p = jnp.exp(log_probs(jnp.asarray(LEVELS)[:, None], mean, 2 * jnp.log(sigma), cdf))
        np.testing.assert_allclose(p.sum(0), 1.0, atol=1e-9 if x64 else 3e-5)


@pytest.mark.parametrize("log_variance", [-300.0, -60.0, -52.6, -45.0, -36.0, -25.0])
@pytest.mark.parametrize("cdf", CDFS)
def test_a_decoder_that_is_certain_gives_one_level_all_probability(cdf, log_variance):
    mean = jnp.asarray([-2.0, -0.37, 0.001, 0.77, 2.0])  # none on the border of two levels
    log_prob = log_probs(jnp.asarray(LEVELS)[:, None], mean, log_variance, cdf)
    nearest = np.abs(LEVELS[:, None] - np.asarray(mean)).argmin(0)
    np.testing.assert_allclose(np.exp(log_prob), np.arange(256)[:, None] == nearest, atol=2e-12)
    if cdf == "exact":
        assert np.all(np.isfinite(log_prob))
        # The further off a level, the less probable, without end.
        assert np.all(np.diff(np.asarray(log_prob)[130:, 2]) < 0)


def exact_log_prob(x, mean, sigma):
    """By the standard library's erfc, for intervals of which one end is not too far out."""
    a, b = (-math.inf if x == 0 else x / 127.5 - 1 - 1 / 255), (math.inf if x == 255 else x / 127.5 - 1 + 1 / 255)
    a, b = ((y - mean) / sigma / math.sqrt(2) for y in (a, b))
    if a < 0 < b:
        return math.log1p(-0.5 * (math.erfc(-a) + math.erfc(b)))
    a, b = sorted((abs(a), abs(b)))
    return math.log(0.5 * (math.erfc(a) - math.erfc(b)))


@pytest.mark.parametrize("mean", [-1.0, -0.2, 0.31, 1.0])
@pytest.mark.parametrize("sigma", [0.002, 0.01, 0.1, 1.0])
def test_float32_agrees_with_the_standard_library_down_to_1e_minus_280(mean, sigma):
    levels = [k for k in range(0, 256, 5) if abs(k / 127.5 - 1 - mean) / sigma <= 35]
    found = log_probs(*(jnp.float32(v) for v in (np.arange(256) / 127.5 - 1, mean, 2 * math.log(sigma))), "exact")
    for k in levels:
        ours = float(found[k])
        expected = exact_log_prob(k, float(np.float32(mean)), sigma)
        # x - mean is known to 6e-8, and log P changes with it by |x - mean| / sigma^2.
        atol = 1e-5 + 2e-7 * abs(k / 127.5 - 1 - mean) / sigma**2
        assert math.isclose(ours, expected, rel_tol=3e-6, abs_tol=atol), (k, ours, expected)
    assert len(levels) > 1


@pytest.mark.parametrize("cdf", CDFS)
@pytest.mark.parametrize("x64", [True, False])
def test_values_and_gradients_are_finite_everywhere(cdf, x64):
    with jax.enable_x64(x64):
        x = jnp.asarray(LEVELS[[0, 1, 100, 254, 255]])[:, None, None]
        mean = jnp.asarray([-1e30, -1e6, -30.0, -1.0, -0.99, 0.0, 0.3, 1.0, 17.0, 1e4, 1e30])[:, None]
        log_variance = jnp.asarray([-300.0, -60.0, -30.0, -9.8, -4.0, 0.0, 10.0, 60.0, 300.0])

        @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
        def total(mean, log_variance):
            value = decoder_log_prob(x, mean, log_variance, cdf)
            return value.sum(), value

        shapes = jnp.broadcast_to(mean, (11, 9)), jnp.broadcast_to(log_variance, (11, 9))
        (_, value), gradients = jax.jit(total)(*shapes)
        assert np.all(np.isfinite(value)) and np.all(np.asarray(value) <= 1e-6)
        for gradient in gradients:
            assert np.all(np.isfinite(gradient))


def test_the_gradient_in_the_tail_pulls_the_mean_back():
    """d log P / d mean is about (x - mean) / sigma^2 far out, where the tanh decoder's is 0."""
    arguments = jnp.float32(LEVELS[128]), jnp.float32(-0.5), jnp.float32(2 * math.log(0.005))
    gradient = jax.jit(jax.grad(decoder_log_prob, argnums=1), static_argnums=3)
    nearer = LEVELS[128] - 1 / 255 + 0.5  # of the interval, the end that is nearer to the mean
    np.testing.assert_allclose(gradient(*arguments), nearer / 0.005**2, rtol=1e-2)
    assert float(gradient(*arguments, "tanh")) == 0.0


def test_float32_gradients_are_float64s():
    x, mean, log_sigma = np.meshgrid(LEVELS[[0, 1, 77, 128, 255]], [-1.4, -0.99, -0.3, 0.0, 1.0], np.log(SIGMAS[1:6]))

    def gradients(dtype):
        arrays = [jnp.asarray(a.ravel(), dtype) for a in (x, mean, 2 * log_sigma)]
        return jax.jit(jax.vmap(jax.grad(decoder_log_prob, argnums=(1, 2))))(*arrays)

    single = gradients(np.float32)
    with jax.enable_x64(True):
        double = gradients(np.float64)
    for one, two in zip(single, double, strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-3, atol=1e-3)


def test_an_unknown_cdf_is_refused():
    with pytest.raises(ValueError, match="cdf 'logistic' is unknown; choose one of: exact, tanh"):
        decoder_log_prob(0.0, 0.0, 0.0, "logistic")
