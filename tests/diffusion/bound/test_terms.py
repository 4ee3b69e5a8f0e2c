"""The bound, where the truth is known: exact networks for Gaussian data."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.bound import terms
from ddx.diffusion.estimate.denoiser import Denoised
from ddx.diffusion.forward.basis import Basis
from ddx.diffusion.objective import losses
from ddx.diffusion.reverse import variance
from ddx.diffusion.reverse.rows import downward, to_previous
from tests import golden
from tests.oracle import Gaussian


def grey(key, shape, scale=0.35):
    """Grey levels drawn from a Gaussian."""
    x = 0.1 + scale * jax.random.normal(key, shape)
    return jnp.clip(jnp.round((x + 1) * 127.5), 1, 254) / 127.5 - 1


def true_bits(x, mean, sigma):
    """-log2 of the probability of grey levels under a Gaussian, by the standard library."""
    x = np.asarray(x, np.float64)
    cdf = np.vectorize(lambda y: 0.5 * math.erfc(-(y - mean) / sigma / math.sqrt(2)))
    return -np.log2(cdf(x + 1 / 255) - cdf(x - 1 / 255)).mean((1, 2, 3))


def even_in_logsnr(num_steps, first=7.0, last=-9.0):
    """Noise levels with fixed ends, so that more steps are finer ones."""
    abar = 1 / (1 + np.exp(-np.linspace(first, last, num_steps)))
    return ddx.process_from_betas(1 - abar / np.concatenate([[1.0], abar[:-1]]))


def test_the_bound_of_the_exact_network_is_above_the_truth_and_approaches_it_as_steps_grow():
    data = Gaussian(jnp.asarray(0.1), jnp.asarray(0.35**2))
    names = ("exact", "small", "large")

    def variance_of(which):
        # The decoder has the exact variance throughout: its step is the same one for every number of steps.
        def variance(d, row):
            exact = data.optimal_variance()(d, row)
            return jnp.where(row.target.sigma == 0, exact, jnp.stack([exact, row.small, row.upper])[which])

        return variance

    with jax.enable_x64(True):
        x_0 = grey(jax.random.key(0), (12, 16, 16, 3)).astype(jnp.float64)
        truth = true_bits(x_0, 0.1, 0.35).mean()

        gaps = {name: [] for name in names}
        for num_steps in (8, 32, 128):
            process = even_in_logsnr(num_steps)
            denoise = ddx.denoiser(process, data.model_fn(process, "v"), "v", clip=False)

            @jax.jit
            def bits(x, which, denoise=denoise):
                return ddx.bits_per_dim(denoise, x, jax.random.key(1), variance=variance_of(which)).total

            for which, name in enumerate(names):
                gaps[name].append(float(bits(x_0, which).mean()) - truth)
    reached = gaps.pop("exact")
    # 9,216 pixels and one draw a term: a mean is known to about 0.01.
    for falling in gaps.values():
        assert 0.3 < falling[0] > 3 * falling[1] > 9 * falling[2] > 0 and falling[2] < 0.2, gaps
    # With the exact variance every step is exact, whatever their number.
    np.testing.assert_allclose(reached, 0.0, atol=0.02)


@pytest.mark.parametrize("spacing", ["full", "10", "5,3"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_term_with_the_posterior_variance_is_half_the_snr_difference_times_the_squared_error(schedule, spacing):
    T = 60
    process, betas = ddx.ddpm(T, schedule), ddx.diffusion.forward.betas.betas(schedule, T)
    times = ddx.trajectory(T) if spacing == "full" else ddx.trajectory(T, None, spacing)
    abar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    with np.errstate(divide="ignore"):
        snr = abar / (1 - abar)
    with jax.enable_x64(True):
        x_0 = grey(jax.random.key(0), (3, 4, 4, 1)).astype(jnp.float64)
        denoise = ddx.denoiser(process, golden.fake_model())
        bits = ddx.bits_per_dim(denoise, x_0, jax.random.key(1), times, "small")
    ascending = np.asarray(sorted(times))
    expected = 0.5 * (snr[ascending[:-1]] - snr[ascending[1:]]) * np.asarray(bits.mse) / np.log(2)
    np.testing.assert_allclose(bits.terms[:, 1:], expected[:, 1:], rtol=1e-9)


def test_the_bound_does_not_depend_on_how_the_batch_is_split():
    process, times = ddx.iddpm(100), ddx.trajectory(100, 10)
    denoise = ddx.denoiser(process, golden.fake_model("range"))
    x_0 = grey(jax.random.key(0), (6, 4, 4, 1))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), jnp.arange(6))
    whole = ddx.bits_per_dim(denoise, x_0, jax.random.key(1), times, "range")
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        bits = ddx.bits_per_dim(denoise, x_0[part], keys[part], times, "range")
        for ours, expected in zip(bits[:5], whole[:5], strict=True):
            np.testing.assert_allclose(ours, expected[part], rtol=1e-5, atol=1e-6)


def test_the_noise_of_a_time_is_the_same_on_every_trajectory():
    process = ddx.ddpm(50)
    denoise = ddx.denoiser(process, golden.fake_model())
    x_0 = grey(jax.random.key(0), (2, 4, 4, 1))
    full = ddx.bits_per_dim(denoise, x_0, jax.random.key(1))
    strided = ddx.bits_per_dim(denoise, x_0, jax.random.key(1), (50, 31, 7, 0))
    assert list(strided.times) == [7, 31, 50]
    np.testing.assert_allclose(strided.mse, full.mse[:, strided.times - 1], rtol=1e-5)
    np.testing.assert_allclose(strided.prior, full.prior)
    np.testing.assert_allclose(full.total, full.prior + full.terms.sum(1), rtol=1e-6)
    # A term of a long step is not the sum of its short ones, but of their order.
    assert np.all(strided.total > full.total)


def test_the_mean_of_the_rescaled_kl_over_all_times_is_the_bound():
    T = 12
    process = ddx.iddpm(T)
    x_0 = grey(jax.random.key(0), (2, 4, 4, 1))
    noise = jax.random.normal(jax.random.key(1), (T, *x_0.shape))
    denoise = ddx.denoiser(process, golden.fake_model("range"), clip=False)
    bits = ddx.bits_per_dim(denoise, x_0, None, None, "range", noise)
    loss = jax.jit(lambda t, z: losses.kl_loss(process, golden.fake_model("range"), x_0, t, z))
    every = [loss(jnp.full(2, t), noise[t - 1]) for t in range(1, T + 1)]
    np.testing.assert_allclose(bits.total, bits.prior + np.mean(every, 0), rtol=1e-5)


@pytest.mark.parametrize("prediction", ["x0", "v", "mean"])
def test_a_loss_is_that_of_the_estimate_however_the_network_says_it(prediction):
    """One estimator of the data, put into the words of each prediction by the paper's own formulas."""
    T = 50
    process, betas = ddx.iddpm(T), ddx.diffusion.forward.betas.betas("cosine", T)
    abar = np.concatenate([[1.0], np.cumprod(1 - betas)])

    def says(prediction):
        def model_fn(x_t, i):
            a, before, beta = (jnp.asarray(v)[:, None, None, None] for v in (abar[i + 1], abar[i], betas[i]))
            x_0 = 0.4 * x_t + 0.1
            eps = (x_t - jnp.sqrt(a) * x_0) / jnp.sqrt(1 - a)
            mean = (jnp.sqrt(before) * beta * x_0 + jnp.sqrt(1 - beta) * (1 - before) * x_t) / (1 - a)
            output = {"eps": eps, "x0": x_0, "v": jnp.sqrt(a) * eps - jnp.sqrt(1 - a) * x_0, "mean": mean}[prediction]
            return jnp.concatenate([output, 0.3 * x_t], -1)

        return model_fn

    with jax.enable_x64(True):
        x_0, t = grey(jax.random.key(0), (4, 4, 4, 1)).astype(jnp.float64), np.asarray([1, 2, 30, 50])
        noise = jax.random.normal(jax.random.key(1), x_0.shape)
        expected = ddx.kl_loss(process, says("eps"), x_0, t, noise)
        ours = ddx.kl_loss(process, says(prediction), x_0, t, noise, prediction)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        hybrid = ddx.hybrid_loss(process, says(prediction), x_0, t, noise, prediction)
        np.testing.assert_allclose(hybrid.vb, expected / T, rtol=1e-6)
        np.testing.assert_allclose(hybrid.mse, ddx.simple_loss(process, says(prediction), x_0, t, noise, prediction))


def test_hybrid_training_moves_the_mean_by_the_simple_loss_and_the_variance_by_the_bound():
    process = ddx.iddpm(100)
    x_0, t = grey(jax.random.key(0), (4, 4, 4, 1)), np.asarray([1, 2, 50, 100])
    noise = jax.random.normal(jax.random.key(1), x_0.shape)

    def model(weights):
        return lambda x, i: jnp.concatenate([weights[0] * x, weights[1] * x], -1)

    def gradient(loss):
        return jax.jit(jax.grad(lambda w: loss(model(w)).mean()))(jnp.asarray([0.5, 0.1]))

    simple = gradient(lambda m: ddx.simple_loss(process, m, x_0, t, noise))
    bound = gradient(lambda m: ddx.kl_loss(process, m, x_0, t, noise))
    hybrid = gradient(lambda m: ddx.hybrid_loss(process, m, x_0, t, noise, vlb_weight=0.25).loss)
    np.testing.assert_allclose(hybrid, [simple[0], 0.25 * bound[1]], rtol=1e-5)
    assert bound[0] != 0 and simple[1] == 0


@pytest.mark.parametrize(("s", "t"), [(0, 1), (0, 40), (3, 4), (10, 90), (99, 100)])
def test_the_range_ends_at_the_posterior_and_at_the_transition_variance_of_any_step(s, t):
    process = ddx.iddpm(100)
    table = downward(process, (t, s, 0) if s else (t, 0)).expand()
    row = jax.tree.map(lambda x: x[0], table)
    x = jnp.zeros((1, 2, 2, 1))
    ends = [variance.learned_range(Denoised(x, x, jnp.full(x.shape, v)), row) for v in (-1.0, 0.0, 1.0)]
    upper = ddx.q_transition(process, x, s, t)[1]
    # A step to the data has no posterior variance; DDPM's clipped one stands for it.
    lower = ddx.q_posterior(process, x, x, s, t)[1] if s else row.small
    np.testing.assert_allclose(ends[0], np.broadcast_to(lower, x.shape), rtol=1e-5)
    np.testing.assert_allclose(ends[2], np.broadcast_to(upper, x.shape), rtol=1e-5)
    np.testing.assert_allclose(ends[1], np.sqrt(ends[0] * ends[2]), rtol=1e-5)


@pytest.mark.parametrize("variance_name", ["learned", "range"])
def test_no_learned_variance_makes_the_bound_or_its_gradient_infinite(variance_name):
    process = ddx.iddpm(100)
    x_0 = grey(jax.random.key(0), (2, 4, 4, 1))

    def loss(weights, t):
        def model_fn(x, i):
            return jnp.concatenate([weights[0] * x, weights[1] + 0 * x], -1)

        return ddx.kl_loss(process, model_fn, x_0, t, jnp.ones_like(x_0), variance=variance_name).mean()

    of = jax.jit(jax.value_and_grad(loss))
    for t, log_variance in itertools.product((1, 50), (-200.0, -60.0, -44.0, -20.0, 20.0, 200.0)):
        value, gradient = of(jnp.asarray([0.9, log_variance]), jnp.full(2, t))
        assert np.isfinite(value) and np.all(np.isfinite(gradient)), (t, log_variance)


def test_a_chain_that_starts_before_T_pays_the_prior_of_its_start():
    """Two ways to leave out the last levels of a process: not to visit them, and not to have them."""
    betas = ddx.diffusion.forward.betas.betas("linear", 100)
    x_0 = grey(jax.random.key(0), (2, 4, 4, 1))
    noise = jax.random.normal(jax.random.key(1), (60, *x_0.shape))
    whole, cut = ddx.process_from_betas(betas), ddx.process_from_betas(betas[:60])
    times = ddx.trajectory(60)
    ours, expected = (
        ddx.bits_per_dim(ddx.denoiser(p, golden.fake_model()), x_0, None, times, "large", noise) for p in (whole, cut)
    )
    assert float(expected.prior.min()) > 0.001
    np.testing.assert_allclose(ours.prior, expected.prior, rtol=1e-5)
    np.testing.assert_allclose(ours.total, expected.total, rtol=1e-5)


def test_the_bound_of_white_noise_levels_is_the_same_in_every_basis():
    """A process that treats all coordinates alike may be read in any: here a random rotation of the pixels."""
    rotation = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0])

    def rotated(matrix):
        return lambda x: (x.reshape(*x.shape[:-3], 16) @ matrix).reshape(x.shape)

    with jax.enable_x64(True):
        turned = jnp.asarray(rotation, jnp.float64)
        pixels = ddx.iddpm(20)
        basis = Basis("rotated", rotated(turned), rotated(turned.T))
        other = dataclasses.replace(pixels, basis=basis)
        x_0 = grey(jax.random.key(0), (2, 4, 4, 1)).astype(jnp.float64)
        noise = jax.random.normal(jax.random.key(1), (20, *x_0.shape))
        for variance_name in ("small", "large"):
            bits = [
                ddx.bits_per_dim(ddx.denoiser(p, golden.fake_model()), x_0, None, None, variance_name, n)
                for p, n in ((pixels, noise), (other, basis.analysis(noise)))
            ]
            np.testing.assert_allclose(bits[0].terms, bits[1].terms, rtol=1e-6)
        # A learned variance differs between coordinates; the decoder still has one of its own.
        learned = ddx.denoiser(other, golden.fake_model("range"))
        assert np.all(np.isfinite(ddx.bits_per_dim(learned, x_0, None, None, "range", noise).terms))


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_images_that_are_no_floats_are_refused(dtype):
    process = ddx.iddpm(10)
    with pytest.raises(ValueError, match="x_0 must be floats"):
        ddx.bits_per_dim(ddx.denoiser(process, golden.fake_model()), jnp.zeros((1, 2, 2, 1), dtype), None)


def test_rows_of_the_chain_for_traced_times_are_those_of_the_table():
    process = ddx.ddpm(20)
    table = downward(process, ddx.trajectory(20)).expand()
    rows = jax.jit(lambda t: to_previous(process, t).expand())(jnp.asarray([1, 7, 20]))
    for ours, expected in zip(jax.tree.leaves(rows), jax.tree.leaves(table), strict=True):
        np.testing.assert_allclose(ours, np.asarray(expected)[[19, 13, 0]], rtol=1e-6)


def test_rate_and_distortion_of_a_perfect_receiver():
    terms = np.asarray([[3, 2, 1], [5, 4, 3.0]])
    coding = ddx.rate_distortion([1, 5, 9], np.asarray([0.5, 1.5]), terms, [[0, 1, 4]] * 2)
    np.testing.assert_allclose(coding.rate, [1 + 3 + 2, 1 + 2, 1])
    np.testing.assert_allclose(coding.distortion, [0, 127.5, 255])


def test_what_cannot_be_is_refused():
    process = ddx.iddpm(10)
    x_0 = jnp.zeros((1, 2, 2, 1))
    denoise = ddx.denoiser(process, golden.fake_model())
    with pytest.raises(ValueError, match="needs a network with 2 C output channels"):
        ddx.bits_per_dim(denoise, x_0, jax.random.key(0), variance="range")
    with pytest.raises(ValueError, match=r"noise must have the shape \(10, 1, 2, 2, 1\), one draw a term"):
        ddx.bits_per_dim(denoise, x_0, None, noise=jnp.zeros((9, 1, 2, 2, 1)))
    with pytest.raises(ValueError, match="needs a key"):
        ddx.bits_per_dim(denoise, x_0, None)
    with pytest.raises(ValueError, match="cdf"):
        ddx.bits_per_dim(denoise, x_0, jax.random.key(0), cdf="erf")


def test_a_bound_of_many_steps_is_one_loop():
    process = ddx.ddpm(1000)
    x_0 = jnp.zeros((1, 4, 4, 1))
    sizes = []
    for T in (10, 1000):
        times = ddx.trajectory(1000, T)
        denoise = ddx.denoiser(process, golden.fake_model())
        program = jax.make_jaxpr(lambda x, t=times, d=denoise: ddx.bits_per_dim(d, x, jax.random.key(0), t)[0])
        sizes.append(len(list(itertools.chain(program(x_0).jaxpr.eqns))))
    assert sizes[0] == sizes[1]


def test_a_bound_takes_any_function_as_its_network():
    process = ddx.iddpm(20)
    denoise = ddx.denoiser(process, golden.fake_model())
    x_0 = grey(jax.random.key(0), (2, 4, 4, 1))
    direct, around = (
        terms.bits_per_dim(d, x_0, jax.random.key(1)) for d in (denoise, ddx.from_pixels(process, denoise))
    )
    np.testing.assert_allclose(direct.terms, around.terms, rtol=1e-4)
