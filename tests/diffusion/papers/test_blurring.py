"""Blurring Diffusion: what must hold whatever the numbers. Times are real, coefficients differ between frequencies."""

import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.bound import terms
from ddx.diffusion.forward import basis
from ddx.diffusion.forward.basis import PIXEL
from ddx.diffusion.objective import time_samplers
from ddx.diffusion.reverse import solvers, variance
from ddx.diffusion.reverse.rows import downward, to_previous
from ddx.diffusion.reverse.walk import advance, start
from tests import golden, oracle
from tests.walks import walker

SHAPE = (8, 6)


def spectrum(seed=0, channels=1):
    """Gaussian data with a spectrum that falls as those of images do, and a mean."""
    lam = basis.laplacian(SHAPE)
    rng = np.random.default_rng(seed)
    variances = 3.0 / (0.1 + lam) * rng.uniform(0.5, 2.0, (*SHAPE, channels))
    return oracle.Gaussian(jnp.asarray(0.3 * rng.standard_normal((*SHAPE, channels))), jnp.asarray(variances))


@pytest.mark.parametrize("logsnr", [(-10.0, 10.0), (-6.0, 15.0)], ids=str)
def test_without_blur_it_is_cosine_diffusion(logsnr):
    blurring = ddx.blurring(1000, 0.0, logsnr_min=logsnr[0], logsnr_max=logsnr[1])
    cosine = dataclasses.replace(blurring, basis=PIXEL, blur=None)
    t = np.concatenate([np.arange(1, 1001), np.random.default_rng(0).uniform(1, 1000, 300)])
    s = np.maximum(t - 1, 0)

    def coefficients(process, s, t):
        return ddx.step_coefficients(process, s, t, 0.7, SHAPE), process.marginal(t, SHAPE)

    for a, b in zip(*(jax.tree.leaves(coefficients(p, s, t)) for p in (blurring, cosine)), strict=True):
        np.testing.assert_array_equal(a, np.broadcast_to(b, a.shape))  # bit for bit
    compiled = jax.jit(coefficients, static_argnums=0)
    for a, b in zip(*(jax.tree.leaves(compiled(p, s, t)) for p in (blurring, cosine)), strict=True):
        np.testing.assert_allclose(a, np.broadcast_to(b, a.shape), rtol=1e-6)
    m = cosine.marginal(t)
    np.testing.assert_allclose(m.alpha**2 + m.sigma**2, 1, rtol=1e-14)
    np.testing.assert_allclose(cosine.schedule.at(np.array([0, 1000])).logsnr, logsnr[::-1], rtol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_without_blur_the_sampler_is_that_of_pixels(eta):
    blurring = ddx.blurring(20, 0.0)
    cosine = dataclasses.replace(blurring, basis=PIXEL, blur=None)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        noise, x_T = (jnp.asarray(rng.standard_normal(s)) for s in ((5, 2, *SHAPE, 1), (2, *SHAPE, 1)))
        times = (20, 15, 9, 3, 1, 0)
        images = [
            ddx.sample(ddx.denoiser(p, golden.fake_model(), clip=True), None, x_T, times, eta, noise=z)
            for p, z in ((blurring, basis.dct(noise)), (cosine, noise))
        ]
        np.testing.assert_allclose(*images, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("process", [ddx.blurring(50, 20.0), ddx.blurring(50, 7.0, "sin", 0.0), ddx.ihdm(50)])
def test_a_coarse_blur_grows_and_leaves_the_mean(process):
    t = np.arange(process.num_steps + 1)
    m, a = process.marginal(t, SHAPE), process.level(t).a
    assert np.all(np.diff(m.logsnr.reshape(len(t), -1)[:, 1:], axis=0) < 0)
    np.testing.assert_allclose(m.alpha[0], a[0].item(), rtol=1e-15)  # no blur at 0
    np.testing.assert_allclose(m.alpha[:, 0, 0], a[:, 0, 0], rtol=1e-15)
    assert process.ends_noisy and (process.forgets == (process.d_min == 0))


def textbook(process, t, s, eta):
    """Of a step: alpha_s, and the weights of eps and of the noise, as the papers write them."""
    (a_t, s_t, _), (a_s, s_s, _) = (process.marginal(time, SHAPE) for time in (t, s))
    forward = s_t**2 - (a_t / a_s) ** 2 * s_s**2
    posterior = 1 / (1 / s_s**2 + (a_t / a_s) ** 2 / forward)
    added = eta**2 * posterior
    return a_s, np.sqrt(s_s**2 - added), added


def moments(process, data, times, etas, variance=None):
    """(mean, variance) of the samples for each eta, from x_T ~ N(0, 1) and from a deterministic one, read off exactly.

    The sampler is linear: one image in it stays 0, one tells the gain, and each draw of noise is switched on in one.
    """
    num_steps, shape = len(times) - 1, data.mean.shape
    denoise = ddx.denoiser(process, data.model_fn(process, "v"), "v", clip=False)
    kernel = solvers.euler(variance) if variance else solvers.euler()
    u_T = jnp.zeros((num_steps + 2, *shape)).at[1].set(1.0)
    draws = jnp.zeros((num_steps, num_steps + 2, *shape))
    draws = draws.at[jnp.arange(num_steps), 2 + jnp.arange(num_steps)].set(1.0)

    @jax.jit
    def walk(rows):
        rows = rows._replace(adds_noise=jnp.ones_like(rows.adds_noise))
        return advance(denoise, start(kernel, u_T), rows, draws, kernel, lambda z: z).u_t

    for eta in etas:
        u = walk(jax.tree.map(jnp.asarray, downward(process, times, eta, SHAPE)))
        yield u[0], (u[1] - u[0]), jnp.square(u[2:] - u[0])


def even(num_visits):
    return tuple(np.linspace(1000, 0, num_visits + 1).round().astype(int).tolist())


@pytest.mark.parametrize(
    ("blur", "num_visits"),
    [
        pytest.param(blur, num_visits, marks=() if blur == 2.0 or num_visits == 3 else pytest.mark.soak)
        for blur in (0.0, 2.0, 20.0)
        for num_visits in (1, 3, 12)
    ],
)
def test_the_exact_network_gives_the_spectrum_of_the_closed_form(blur, num_visits):
    process, times, etas = ddx.blurring(1000, blur), even(num_visits), (0.0, 0.5, 1.0)
    with jax.enable_x64(True):
        data = spectrum()
        mean, v = np.asarray(data.mean), np.asarray(data.variance)
        for eta, found in zip(etas, moments(process, data, times, etas), strict=True):
            gain, offset, spread = (
                np.ones(mean.shape),
                -process.marginal(1000, SHAPE).alpha * mean,
                np.zeros(mean.shape),
            )
            for t, s in pairwise(times):
                a_t, s_t, _ = process.marginal(t, SHAPE)
                a_s, of_eps, added = textbook(process, t, s, eta)
                to_x = v * a_t / (a_t**2 * v + s_t**2)
                factor = a_s * to_x + of_eps * (1 - a_t * to_x) / s_t
                gain, offset, spread = gain * factor, offset * factor, factor**2 * spread + added
            expected = process.marginal(0, SHAPE).alpha * mean + offset
            np.testing.assert_allclose(found[0], expected, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(found[1], gain, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(found[2].sum(0), spread, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("num_visits", [1, 2, 5, 20])
def test_the_optimal_variance_is_exact_in_any_number_of_steps(num_visits):
    process, etas = ddx.blurring(1000, 20.0), (0.0, 0.5, 1.0)
    with jax.enable_x64(True):
        data = spectrum(1)
        first, last = (process.marginal(t, SHAPE) for t in (1000, 0))
        for _, gain, spread in moments(process, data, even(num_visits), etas, data.optimal_variance()):
            found = gain**2 * (first.alpha**2 * data.variance + first.sigma**2) + spread.sum(0)
            np.testing.assert_allclose(found, last.alpha**2 * data.variance + last.sigma**2, rtol=1e-9)


def test_solvers_have_their_order_under_a_blur():
    process = ddx.blurring(2**14, 2.0)

    def drawing(solver):
        denoise = ddx.denoiser(process, data.model_fn(process, "v"), "v", clip=False)
        walk = walker(denoise, solver, size=64).sample
        return lambda n: walk(basis.idct(u_T), tuple(np.linspace(2**14, 0, n + 1).round().astype(int).tolist()))

    with jax.enable_x64(True):
        data = spectrum()
        u_T = jnp.asarray(np.random.default_rng(0).standard_normal((2, *data.mean.shape)))
        draw = {solver: drawing(solver) for solver in ("euler", "heun", "dpmpp_2m")}
        exact = draw["heun"](2**11)
        slopes = {}
        for solver in draw:
            errors = [float(jnp.sqrt(jnp.mean((draw[solver](n) - exact) ** 2))) for n in (64, 128, 256)]
            slopes[solver] = -np.polyfit(np.log([64, 128, 256]), np.log(errors), 1)[0]
    assert abs(slopes["euler"] - 1) < 0.2 and abs(slopes["heun"] - 2) < 0.35 and abs(slopes["dpmpp_2m"] - 2) < 0.35, (
        slopes
    )


@pytest.mark.parametrize("schedule", ["sin2", "sin"])
def test_steps_in_float32_have_variances_exact_to_1e_5(schedule):
    process = ddx.blurring(1000, 20.0, schedule)
    times = ddx.trajectory(1000)
    table = downward(process, times, 1.0, (32, 32))
    t = np.asarray(times)
    exact = ddx.step_coefficients(process, t[1:], t[:-1], 1.0, (32, 32))
    rows = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), table)
    found = jax.jit(lambda rows: rows.expand((32, 32)))(rows)
    assert found.lambda2.dtype == jnp.float32
    for name in ("lambda2", "k", "gamma"):
        errors = np.abs(getattr(found, name) / getattr(exact, name) - 1)
        assert errors.max() <= 1e-5, (name, errors.max())
    # So do times in the graph, for losses.
    chain = jax.jit(lambda t: to_previous(process, t).expand((32, 32)))(jnp.asarray(t[:-1]))
    assert np.abs(chain.lambda2 / exact.lambda2 - 1).max() <= 1e-5


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_thousand_steps_in_float32_are_those_in_float64(eta):
    shape = (32, 32, 1)
    lam = basis.laplacian(shape[:2])
    data = oracle.Gaussian(np.zeros(shape), 100.0 / (0.1 + lam) ** 1.5 / 32)
    process = ddx.blurring(1000, 20.0)
    noise = np.random.default_rng(0).standard_normal((1000, 1, *shape)).astype(np.float32)
    x_T = np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)

    def draw():
        denoise = ddx.denoiser(process, data.model_fn(process), clip=False)
        return ddx.sample(denoise, None, jnp.asarray(x_T, jnp.result_type(float)), eta=eta, noise=given())

    def given():
        return jnp.asarray(noise, jnp.result_type(float))

    with jax.enable_x64(True):
        exact = draw()
    with jax.enable_x64(False):
        found = draw()
    assert found.dtype == jnp.float32
    assert np.sqrt(np.mean(np.square(np.asarray(found, np.float64) - exact))) <= 1e-5


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_network_that_hits_its_target_finds_the_data_and_the_noise(prediction):
    process = ddx.blurring(1000, 20.0)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x_0, noise = jnp.asarray(rng.uniform(-1, 1, (40, *SHAPE, 1))), jnp.asarray(rng.standard_normal((40, *SHAPE, 1)))
        t = jnp.asarray(rng.uniform(0, 1000, 40))
        x_t = ddx.q_sample(process, x_0, t, noise)
        goal = ddx.diffusion.estimate.prediction.target(process, prediction, x_0, t, noise)
        d = jax.jit(ddx.denoiser(process, lambda *_: goal, prediction, clip=False))(x_t, t)
        np.testing.assert_allclose(d.x_0, x_0, atol=1e-8)
        np.testing.assert_allclose(d.eps, noise, atol=1e-8)


def test_v_tells_x_0_in_float32_where_eps_cannot():
    process, t = ddx.blurring(1000, 20.0), np.full(4, 900.0)
    rng = np.random.default_rng(0)
    x_0, noise = (jnp.asarray(rng.standard_normal((4, 32, 32, 1)), jnp.float32) for _ in range(2))
    x_t = ddx.q_sample(process, x_0, t, noise)
    error = {}
    for prediction in ("eps", "v"):
        goal = ddx.diffusion.estimate.prediction.target(process, prediction, x_0, t, noise)
        d = ddx.denoiser(process, lambda *_, goal=goal: goal, prediction, clip=False)(x_t, t)
        error[prediction] = float(jnp.abs(d.x_0 - x_0).max())
    assert error["v"] < 1e-4 < error["eps"]


def test_encoding_with_a_constant_noise_and_sampling_is_the_identity():
    process = ddx.blurring(100, 20.0)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        eps, x_0 = (jnp.asarray(rng.standard_normal((2, *SHAPE, 3))) for _ in range(2))
        denoise = ddx.denoiser(process, lambda *_: eps, clip=False)
        times = (100, 71.5, 30, 2, 0.25, 0)
        x_T = ddx.encode(denoise, x_0, times)
        np.testing.assert_allclose(ddx.sample(denoise, None, x_T, times), x_0, rtol=1e-9, atol=1e-9)


def test_the_bound_is_the_sum_that_the_papers_write():
    process = ddx.blurring(6, 3.0)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x_0 = jnp.asarray(rng.integers(0, 256, (3, *SHAPE, 2)) / 127.5 - 1)
        noise = jnp.asarray(rng.standard_normal((7, 3, *SHAPE, 2)))
        denoise = ddx.denoiser(process, golden.fake_model(), "v", clip=False)
        found = ddx.bits_per_dim(denoise, x_0, None, noise=noise, cdf="softmax")
        bits = np.prod(x_0.shape[1:]) * np.log(2)
        u_0 = basis.dct(x_0)
        for t in range(1, 7):
            m, s = process.marginal(t, SHAPE), process.marginal(t - 1, SHAPE)
            u_t = m.alpha * u_0 + m.sigma * noise[t]
            eps = basis.dct(denoise(basis.idct(u_t), np.full(3, t)).eps)
            snr_s, snr_t = s.alpha**2 / s.sigma**2, m.alpha**2 / m.sigma**2
            term = 0.5 * (snr_s / snr_t - 1) * (noise[t] - eps) ** 2  # VDM eq. 14, in eps
            np.testing.assert_allclose(found.terms[:, t - 1], term.sum((1, 2, 3)) / bits, rtol=1e-9)
        at = process.level(0)
        z = at.a * x_0 + at.sigma * basis.idct(noise[0])
        levels = np.arange(256) / 127.5 - 1
        logits = -0.5 * ((z[..., None] - at.a * levels) / at.sigma) ** 2
        chosen = np.rint((np.asarray(x_0) + 1) * 127.5).astype(int)[..., None]
        log_prob = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), chosen, -1)
        np.testing.assert_allclose(found.decoder, -log_prob.sum((1, 2, 3, 4)) / bits, rtol=1e-9)
        np.testing.assert_allclose(found.total, found.prior + found.terms.sum(1) + found.decoder)


def test_the_bound_of_the_exact_network_nears_the_truth_from_above():
    # Gaussian data, rounded to grey levels that are fine against every frequency's spread: their entropy is that of the
    # density and the width of a level.
    data = oracle.Gaussian(np.zeros((*SHAPE, 1)), np.full((*SHAPE, 1), 0.05) / (1 + 0.2 * basis.laplacian(SHAPE)))
    u_0 = np.sqrt(data.variance) * np.random.default_rng(0).standard_normal((16, *SHAPE, 1))
    gaps = []
    with jax.enable_x64(True):
        x_0 = jnp.round((basis.idct(jnp.asarray(u_0)) + 1) * 127.5) / 127.5 - 1
        truth = 0.5 * (basis.dct(x_0) ** 2 / data.variance + np.log(2 * np.pi * data.variance)).mean() / np.log(2)
        for num_steps in (500, 2000):
            process = ddx.blurring(num_steps, 2.0)
            denoise = ddx.denoiser(process, data.model_fn(process, "v"), "v", clip=False)
            found = jax.jit(lambda x, d=denoise: ddx.bits_per_dim(d, x, jax.random.key(0), cdf="softmax"))(x_0)
            gaps.append(found.total.mean() - (truth - np.log2(2 / 255)))
    assert 0.4 < gaps[0] < 0.8 and 0 < gaps[1] < 0.12, gaps


@pytest.mark.parametrize("process", [ddx.blurring(10, 20.0), ddx.ihdm(10)], ids=["blurring", "ihdm"])
def test_a_learned_range_lies_between_the_two_of_each_frequency(process):
    table = downward(process, ddx.trajectory(10), 1.0, SHAPE)
    step = jax.tree.map(lambda x: jnp.asarray(x)[4], table).expand(SHAPE)
    v = jnp.linspace(-1, 1, 48).reshape(*SHAPE, 1)
    for extra, expected in ((-jnp.ones((*SHAPE, 1)), step.small), (jnp.ones((*SHAPE, 1)), step.upper)):
        found = variance.learned_range(ddx.Denoised(None, None, extra), step)
        np.testing.assert_allclose(found, jnp.maximum(expected, np.exp(-36.0)), rtol=1e-5)
    between = variance.learned_range(ddx.Denoised(None, None, v), step)
    assert np.all(between >= 0.999 * jnp.minimum(step.small, step.upper))

    def loss(extra):
        d = ddx.Denoised(0.1 * jnp.ones((2, *SHAPE, 1)), None, extra)
        x_0 = jnp.zeros((2, *SHAPE, 1))
        return terms.bound_term(process, x_0, x_0, d, step, variance.learned_range).sum()

    gradient = jax.jit(jax.grad(loss))(jnp.zeros((2, *SHAPE, 1)))
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient != 0) == (process.d_min > 0)  # with constant noise, small and large are the same


def test_real_times_are_drawn_as_evenly_as_integers():
    whole = time_samplers.low_discrepancy(100)
    times = time_samplers.continuous(whole)
    key, places = jax.random.key(0), jnp.arange(1000)
    t, weight = times.draw((), key, places, 1000)
    assert t.dtype == jnp.float32 and np.all((t > 0) & (t <= 100)) and np.all(weight == 1)
    np.testing.assert_array_equal(np.ceil(t), whole.draw((), key, places, 1000)[0])
    within = np.asarray(np.ceil(t) - t)
    assert abs(within.mean() - 0.5) < 0.03 and abs(within.std() - 12**-0.5) < 0.02
    some = times.draw((), key, places[400:500], 1000)[0]
    np.testing.assert_array_equal(some, t[400:500])


def test_a_sampler_that_learns_sees_the_step_of_a_real_time():
    times = time_samplers.continuous(time_samplers.loss_second_moment(4, history=2))
    state = times.update(times.init(), jnp.asarray([0.5, 3.0, 3.2]), jnp.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(state.counts, [1, 0, 1, 1])


def test_the_table_of_a_blur_does_not_grow_with_the_images():
    small, large = (downward(ddx.blurring(100), ddx.trajectory(100), 1.0, n) for n in ((8, 8), (256, 256)))
    sizes = [sum(np.size(x) for x in jax.tree.leaves(table)) for table in (small, large)]
    assert sizes[0] == sizes[1] < 100 * 30


def test_clipping_and_the_decoder_know_the_range_of_the_data():
    chain = dataclasses.replace(ddx.blurring(10, 2.0), low=0.0)
    d = ddx.denoiser(chain, lambda x, t: x, "x0", clip=True)(jnp.full((1, *SHAPE, 1), -0.5), 5)
    assert np.abs(d.x_0).max() < 1e-6
    black, z = jnp.zeros((1, *SHAPE, 1)), jnp.zeros((1, *SHAPE, 1))
    other = dataclasses.replace(chain, low=-1.0)
    # Twice as fine levels against the same noise.
    finer = terms.decoder_bits(chain, black, z)
    assert float(finer[0]) > float(terms.decoder_bits(other, black - 1, z)[0])
    twice = ddx.diffusion.bound.decoder.decoder_log_prob(black, black, -10.0, low=0.0)
    np.testing.assert_allclose(
        twice, ddx.diffusion.bound.decoder.decoder_log_prob(2 * black - 1, 2 * black - 1, -10.0 + np.log(4)), rtol=1e-6
    )


def test_real_times_have_noise_of_their_own_and_can_be_filmed():
    draw = terms.noise_at(jax.random.key(0), jnp.zeros((1, *SHAPE, 1)))
    drawn = [np.asarray(draw(t)) for t in (0, 0.25, 0.5, 10.5, 10)]
    assert len({z.tobytes() for z in drawn}) == 5
    process = ddx.blurring(10, 2.0)
    denoise = ddx.denoiser(process, lambda x, t: 0.5 * x, "v", clip=False)
    x_T = jnp.ones((1, *SHAPE, 1))
    x_0, film = ddx.progressive(denoise, None, x_T, (10, 2.5), (10, 5, 2.5, 0))
    np.testing.assert_allclose(film.x_t[0], x_T, atol=1e-6)
    np.testing.assert_allclose(x_0, ddx.sample(denoise, None, x_T, (10, 5, 2.5, 0)), atol=1e-6)


def test_coarse_steps_in_float32_are_those_in_float64():
    for kind in ("sin2", "sin"):
        process, times = ddx.blurring(1000, 20.0, kind), (1000, 900, 500, 120, 10, 0)
        table = downward(process, times, 0.7, SHAPE)
        found = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), table).expand(SHAPE)
        exact = ddx.step_coefficients(process, np.asarray(times[1:]), np.asarray(times[:-1]), 0.7, SHAPE)
        for name in ("k", "gamma", "lambda2"):
            np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=2e-5)


def test_the_gradient_by_eta_is_finite_where_nothing_is_left():
    process = ddx.blurring(10, 20.0, d_min=0.0)
    by_eta = jax.grad(lambda eta: sum(x.sum() for x in ddx.step_coefficients(process, 0, 10, eta, SHAPE)))(1.0)
    assert np.isfinite(by_eta)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ddx.blurring(10.5), "an integer"),
        (lambda: ddx.blurring(logsnr_max=2000), r"within -80\.\.80"),
        (lambda: ddx.denoiser(ddx.blurring(d_min=1e-30), None), "use 'v' or 'x0'"),
        (lambda: ddx.blurring(blur_schedule="cos"), "choose one of: sin2, sin"),
        (lambda: ddx.blurring(0), "at least 1"),
        (lambda: ddx.blurring(sigma_blur_max=-1.0), "sigma_blur_max=-1"),
        (lambda: ddx.blurring(d_min=1.0), "d_min=1"),
        (lambda: ddx.blurring(logsnr_min=3, logsnr_max=3), "below logsnr_max=3"),
        (lambda: ddx.blurring().marginal(3), r"pass shape=\(H, W\)"),
        (lambda: ddx.blurring().marginal(1000.5, SHAPE), "out of range"),
        (lambda: ddx.blurring().marginal(np.array([3, -0.1]), SHAPE), "out of range"),
        (lambda: ddx.denoiser(ddx.blurring(d_min=0.0), None), "use 'v' or 'x0'"),
        (lambda: ddx.denoiser(ddx.blurring(), None, "residual"), "use 'v'"),
        (lambda: ddx.denoiser(ddx.ihdm(), None, "mean"), "use 'residual'"),
        (lambda: ddx.denoiser(ddx.ihdm(), None, "eps"), "use 'v', 'x0' or, under ihdm's blur, 'residual'"),
        (lambda: ddx.ihdm(0), "at least 1"),
        (lambda: ddx.ihdm(sigma_blur_min=30.0), "at most sigma_blur_max=24"),
        (lambda: ddx.ihdm(sigma=0.0), "sigma=0.0 above 0"),
        (lambda: ddx.probability_flow(ddx.denoiser(ddx.ddpm(), None), jnp.zeros((1, 8, 8, 1)), 3), "integer times"),
        (
            lambda: ddx.sample(ddx.denoiser(ddx.blurring(), None), None, jnp.zeros((1, 8, 8, 1)), (1000, 0.5)),
            "end in 0",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
