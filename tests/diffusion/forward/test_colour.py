"""Coloured noise, where the truth is known: Gaussian data with independent frequencies, and its exact network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.bound import terms
from ddx.diffusion.estimate.prediction import target
from ddx.diffusion.forward import colour
from ddx.diffusion.forward.basis import DCT, largest_variance
from ddx.diffusion.reverse.sdedit import noised_image
from ddx.diffusion.reverse.walk import initial_noise
from tests import oracle

SHAPE = (4, 3, 2)
WHITE = {"ddpm": ddx.ddpm(1000), "cosine": ddx.iddpm(400), "blurring": ddx.blurring(60, 2.0)}
C = np.random.default_rng(0).uniform(0.002, 0.6, SHAPE)  # the variance of every frequency
W = np.sqrt(C)


def transform(shape=SHAPE):
    """The orthonormal cosine transform as one matrix, from the definition of its rows."""
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    with jax.enable_x64(True):
        return np.asarray(DCT.analysis(units)).reshape(len(units), -1).T


def covariance(linear, shape=SHAPE):
    """The covariance of linear(z), (N, N), for white z in pixels."""
    with jax.enable_x64(True):
        n = int(np.prod(shape))
        images = np.asarray(linear(jnp.eye(n).reshape(n, *shape))).reshape(n, -1)
    return images.T @ images


@pytest.fixture(scope="module")
def of_pixels():
    """N(0, C) in pixels."""
    V = transform()
    return V.T @ np.diag(C.ravel()) @ V


@pytest.mark.parametrize("name", WHITE)
def test_x_t_has_the_mean_of_the_white_process_and_the_noise_sigma_w_in_every_frequency(name, of_pixels):
    white = WHITE[name]
    process = ddx.coloured(white, W)
    with jax.enable_x64(True):
        x_0 = jnp.asarray(np.random.default_rng(1).normal(size=(1, *SHAPE)))
        for t in (1, 20, white.num_steps):
            sigma = float(white.marginal(t, SHAPE[:2]).sigma)
            mean = ddx.q_sample(process, x_0, t, jnp.zeros_like(x_0))
            np.testing.assert_allclose(mean, ddx.q_sample(white, x_0, t, jnp.zeros_like(x_0)), atol=1e-13)
            noise = covariance(lambda z, t=t: ddx.q_sample(process, 0 * z, t, z))
            np.testing.assert_allclose(noise, sigma**2 * of_pixels, atol=1e-14)


def test_with_the_spectrum_of_the_data_every_frequency_has_the_same_snr_at_every_time():
    process, V = ddx.coloured(WHITE["ddpm"], W), transform()
    with jax.enable_x64(True):
        for t in (1, 300, 1000):
            signal = covariance(lambda z, t=t: ddx.q_sample(process, process.basis.colour(z), t, jnp.zeros_like(z)))
            noise = covariance(lambda z, t=t: ddx.q_sample(process, jnp.zeros_like(z), t, z))
            snr = np.diag(V @ signal @ V.T) / np.diag(V @ noise @ V.T)
            np.testing.assert_allclose(snr, np.exp(process.schedule.at(t).logsnr), rtol=1e-10)


def test_the_prior_has_the_colour_of_the_noise(of_pixels):
    process = ddx.coloured(WHITE["ddpm"], W)
    keys = jax.random.split(jax.random.key(0), 20_000)
    x_T = np.asarray(initial_noise(process, keys, SHAPE), np.float64).reshape(len(keys), -1)
    error = np.sqrt((of_pixels**2 + np.outer(np.diag(of_pixels), np.diag(of_pixels))) / len(keys))
    assert np.max(np.abs(x_T.T @ x_T / len(keys) - of_pixels) / error) < 5
    # Images that nothing is left of are noised to it from the same keys.
    without = ddx.coloured(ddx.ddpm(zero_terminal_snr=True), W)
    start = noised_image(without, keys[:3], jnp.ones((3, *SHAPE)), 1000)
    np.testing.assert_allclose(start, initial_noise(without, keys[:3], SHAPE), rtol=1e-5, atol=1e-6)


def test_weights_of_one_are_the_white_process_bit_for_bit():
    white = ddx.in_dct_basis(ddx.ddpm(100, "cosine"))
    x_0 = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    for weights in (np.ones((4, 3, 1)), lambda shape: np.ones((*shape, 1))):
        process = ddx.coloured(ddx.ddpm(100, "cosine"), weights)
        found, expected = (
            (
                p.basis.analysis(x_0),
                ddx.sample(ddx.denoiser(p, lambda x, _: 0.1 * x), jax.random.key(3), x_0, (100, 40, 0), 1.0),
                ddx.bits_per_dim(ddx.denoiser(p, lambda x, _: 0.1 * x), x_0.round(), jax.random.key(3), (100, 40, 0)),
            )
            for p in (process, white)
        )
        jax.tree.map(np.testing.assert_array_equal, found[:2], expected[:2])
        np.testing.assert_allclose(found[2].total, expected[2].total, rtol=1e-5)
    assert ddx.coloured(white, np.ones(SHAPE)).basis is DCT


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("name", WHITE)
def test_the_exact_network_samples_the_data_in_any_number_of_steps(name, prediction):
    """Ancestral sampling with the exact variance, and u_0 ~ N(0, C / w^2) in coordinates, as a linear map of noise."""
    w = np.sqrt(np.random.default_rng(5).uniform(0.01, 1.0, (4, 3, 1)))
    process = ddx.coloured(WHITE[name], w)
    data = oracle.Gaussian(np.zeros(SHAPE), C / w**2)
    denoise = ddx.denoiser(process, data.model_fn(process, prediction), prediction, clip=False)
    T = process.num_steps
    times, V, n = (T, T // 2, T // 5, 1, 0), transform(), int(np.prod(SHAPE))
    with jax.enable_x64(True):

        @jax.jit
        def walk(z):
            return ddx.sample(denoise, None, process.basis.colour(z[0]), times, 1.0, data.optimal_variance(), z[1:])

        parts = [
            covariance(lambda z, k=k: walk(jnp.zeros((5, n, *SHAPE)).at[k].set(z if k == 0 else jnp.asarray(z))))
            for k in range(5)
        ]
        found = np.diag(V @ sum(parts) @ V.T).reshape(SHAPE)
        m = process.marginal(1, SHAPE[:2])
    last = process.marginal(0, SHAPE[:2])
    # The last step ends in its mean; the exact law has its variance too.
    c = ddx.step_coefficients(process, 0, 1, 1.0, SHAPE[:2])
    missing = c.lambda2 + c.gamma**2 * data.covariance(m.alpha, m.sigma)
    exact = last.alpha**2 * data.variance + last.sigma**2
    # Only the prior errs: the chain starts from N(0, w^2), and alpha_T^2 C / w^2 of u_T is left out of it.
    top = process.marginal(T, SHAPE[:2])
    np.testing.assert_allclose(found / w**2 + missing, exact, rtol=3 * float(np.max(top.alpha**2)) + 1e-9)


def test_images_come_back_from_their_latents():
    process = ddx.coloured(ddx.ddpm(1000, "cosine"), W)
    data = oracle.Gaussian(np.zeros(SHAPE), C / W**2)
    denoise = ddx.denoiser(process, data.model_fn(process), clip=False)
    with jax.enable_x64(True):
        x_0 = jax.random.normal(jax.random.key(0), (2, *SHAPE), jnp.float64)
        errors = []
        for count in (25, 100):
            times = ddx.encodable(denoise, ddx.trajectory(1000, count))
            back = ddx.sample(denoise, None, ddx.encode(denoise, x_0, times), times)
            errors.append(float(np.abs(back - x_0).max()))
    assert errors[1] < errors[0] / 2 and errors[1] < 0.1, errors


def test_kl_terms_do_not_change_with_the_colour_where_the_coordinates_are_the_same():
    """The process of noise w with data of variance C and the white one with data of variance C / w^2 are one."""
    w = np.random.default_rng(3).uniform(0.2, 1.5, SHAPE)
    white = ddx.in_dct_basis(ddx.ddpm(50, "cosine"))
    process = ddx.coloured(white, w)
    data = oracle.Gaussian(np.zeros(SHAPE), C)
    with jax.enable_x64(True):
        u_0 = jax.random.normal(jax.random.key(0), (3, *SHAPE), jnp.float64) * np.sqrt(C)
        noise = jax.random.normal(jax.random.key(1), (50, 3, *SHAPE), jnp.float64)
        bits = [
            ddx.bits_per_dim(ddx.denoiser(p, data.model_fn(p), clip=False), p.basis.synthesis(u_0), None, noise=noise)
            for p in (process, white)
        ]
    np.testing.assert_allclose(bits[0].terms[:, 1:], bits[1].terms[:, 1:], rtol=1e-9)
    np.testing.assert_allclose(bits[0].prior, bits[1].prior, rtol=1e-9)
    np.testing.assert_allclose(bits[0].eps_mse, bits[1].eps_mse, rtol=1e-9)
    # Errors of x_0 are in pixels: larger where w is.
    error = np.square(w * np.sqrt(data.covariance(*process.marginal(50)[:2]))).mean()
    assert abs(float(bits[0].mse[:, -1].mean()) / error - 1) < 0.5


def test_the_bound_of_gaussian_data_is_its_entropy_and_what_ties_pixels_together_in_the_last_step():
    """With the exact network and variance every KL is 0; the decoder alone loses, the total correlation of x_0 at x_1.

    Independent pixels of the right variances miss it: the mean of log var(pixel) minus the mean of log var(frequency).
    """
    shape = (8, 8, 1)
    spectrum, V = 0.3 * (1 + 4 * colour.frequencies(shape[:2])) ** -2.0, transform(shape)
    gaps = {}
    with jax.enable_x64(True):
        c = jax.random.normal(jax.random.key(0), (256, *shape), jnp.float64) * np.sqrt(spectrum)
        x_0 = jnp.round((DCT.synthesis(c) + 1) * 127.5) / 127.5 - 1
        density = -0.5 * (np.square(DCT.analysis(x_0)) / spectrum + np.log(2 * np.pi * spectrum))
        truth = -float((density.mean() + np.log(2 / 255)) / np.log(2))  # bits/dim; grey levels are fine for it
        for name, w in (("white", np.ones(shape)), ("equal", np.sqrt(spectrum)), ("blue", 1 / np.sqrt(spectrum))):
            for steps in (2, 20):
                first = np.log(np.mean(w**2) / 0.02**2)  # at the first noise level pixels have 2.5 grey levels of noise
                abar = 1 / (1 + np.exp(-np.linspace(first, -14.0, steps)))
                white = ddx.process_from_betas(1 - abar / np.concatenate([[1.0], abar[:-1]]))
                process = ddx.coloured(white, w)
                data = oracle.Gaussian(np.zeros(shape), spectrum / w**2)
                denoise = ddx.denoiser(process, data.model_fn(process, "v"), "v", clip=False)
                found = ddx.bits_per_dim(denoise, x_0, jax.random.key(1), variance=data.optimal_variance())
                m = process.marginal(1)
                left = w**2 * data.covariance(m.alpha, m.sigma)
                tied = np.log(np.diag(V.T @ np.diag(left.ravel()) @ V)).mean() - np.log(left).mean()
                gaps[name, steps] = float(found.total.mean()) - truth, 0.5 * tied / np.log(2)
    for found, tied in gaps.values():
        assert abs(found - tied) < 0.03, gaps
    assert gaps["white", 20][1] < 0.02 and gaps["equal", 20][1] > 0.2


@pytest.mark.parametrize("name", ["ddpm", "blurring"])
def test_the_decoder_is_a_distribution_over_grey_levels_with_the_variance_of_each_pixel(name):
    w = np.random.default_rng(2).uniform(0.3, 2.0, (2, 2, 1))
    V = transform((2, 2, 1))
    with jax.enable_x64(True):
        process = ddx.coloured(ddx.ddpm(4, "cosine") if name == "ddpm" else ddx.blurring(4, 1.0), w)
        v = jnp.asarray(np.random.default_rng(4).uniform(0.1, 1.0, (1, 2, 2, 1)))
        exact = np.diag(V.T @ np.diag((w**2 * v[0]).ravel()) @ V)
        np.testing.assert_allclose(process.basis.pixel_variance(v, (2, 2)).ravel(), exact, rtol=1e-12)
        # Every image of the 256 levels of one pixel, the others as they are: a pixel's probabilities sum to 1.
        levels = jnp.zeros((256, 2, 2, 1)).at[:, 0, 1, 0].set(jnp.arange(256) / 127.5 - 1)
        others = jnp.zeros((1, 2, 2, 1))
        if name == "ddpm":
            rows = terms.bound_rows(process, (4, 3, 2, 1, 0), (2, 2))
            step = jax.tree.map(lambda x: x[0], rows).expand((2, 2))
            u_t = process.basis.analysis(jnp.full((1, 2, 2, 1), 0.1))
            d = ddx.Denoised(u_t, u_t)

            def bits(x):
                return terms.bound_term(process, x, u_t, d, step, lambda d, step: v)

            per_image = jnp.exp(-4 * np.log(2) * bits(levels))
            grid = jnp.stack(jnp.meshgrid(*[jnp.linspace(-1, 1, 256)[::51]] * 4), -1).reshape(-1, 2, 2, 1)
            assert float(jnp.exp(-4 * np.log(2) * bits(grid)).sum()) <= 1 and 0 < float(per_image.sum()) <= 1
        else:
            noise = 0.3 * jnp.ones((1, 2, 2, 1))
            level = process.level(0)
            mean = process.basis.synthesis(noise) * level.sigma / level.a
            bits = terms.decoder_bits(process, others, noise)
            variance = (level.sigma / level.a) ** 2 * process.basis.pixel_variance(jnp.ones(()), (2, 2))
            log_prob = terms.decoder_log_prob(others, mean, jnp.log(variance))
            np.testing.assert_allclose(bits, -log_prob.mean() / np.log(2), rtol=1e-12)


def test_a_classifiers_gradient_reaches_the_coordinates_by_the_chain_rule():
    process = ddx.coloured(ddx.ddpm(100, "cosine"), W)
    with jax.enable_x64(True):
        x_t = jax.random.normal(jax.random.key(0), (1, *SHAPE), jnp.float64)
        of_pixels = jax.grad(lambda x: jnp.sum(jnp.sin(x)))(x_t)
        by_coordinates = jax.grad(lambda u: jnp.sum(jnp.sin(process.basis.synthesis(u))))(process.basis.analysis(x_t))
        np.testing.assert_allclose(process.basis.gradient(of_pixels), by_coordinates, rtol=1e-12)


def test_the_loss_of_x_0_weighs_frequencies_as_without_colour_and_a_constant_weight_is_that_loss():
    process = ddx.coloured(ddx.ddpm(100, "cosine"), W)
    with jax.enable_x64(True):
        x_0, noise = (jax.random.normal(jax.random.key(i), (2, *SHAPE), jnp.float64) for i in (0, 1))
        t = jnp.asarray([5, 80])
        for network in (lambda x, _: 0.0 * x, lambda x, _: 0.5 * x):
            x_t = ddx.q_sample(process, x_0, t, noise)
            mse = jnp.square(network(x_t, t) - x_0).mean((1, 2, 3))
            for weight in (None, lambda snr: jnp.ones_like(snr)):
                np.testing.assert_allclose(ddx.simple_loss(process, network, x_0, t, noise, "x0", weight), mse)


def test_what_a_network_reads_is_x_0_and_the_coloured_noise_in_pixels():
    process = ddx.coloured(ddx.blurring(60, 2.0), W)
    with jax.enable_x64(True):
        x_0, noise = (jax.random.normal(jax.random.key(i), (2, *SHAPE), jnp.float64) for i in (0, 1))
        t = jnp.asarray([5.0, 30.0])
        x_t = ddx.q_sample(process, x_0, t, noise)
        for prediction in ("eps", "x0", "v"):
            y = target(process, prediction, x_0, t, noise)
            d = ddx.denoiser(process, lambda x, _, y=y: y, prediction, clip=False)(x_t, t)
            np.testing.assert_allclose(d.x_0, x_0, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(d.eps, process.basis.colour(noise), rtol=1e-6, atol=1e-8)


def test_no_coordinate_of_data_in_the_range_varies_more_than_the_limit():
    process = ddx.coloured(ddx.ddpm(10, "cosine"), W)
    most = largest_variance(process.basis, SHAPE[:2])
    with jax.enable_x64(True):
        corners = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (4096, *SHAPE)))
        assert np.all(np.square(process.basis.analysis(corners)).max(0) <= most * (1 + 1e-12))
        best = jnp.sign(process.basis.synthesis(jnp.zeros((1, *SHAPE)).at[0, 2, 1, 0].set(1.0)))
        np.testing.assert_allclose(np.square(process.basis.analysis(best))[0, 2, 1, 0], most[2, 1, 0], rtol=1e-12)


def test_latents_are_interpolated_on_the_sphere_of_white_noise():
    process = ddx.coloured(ddx.ddpm(100, "cosine"), W)
    denoise = ddx.denoiser(process, lambda x, _: 0.1 * x, clip=False)
    with jax.enable_x64(True):
        z_a, z_b = (jax.random.normal(jax.random.key(i), (1, *SHAPE), jnp.float64) for i in (0, 1))
        x_a, x_b = process.basis.colour(z_a), process.basis.colour(z_b)
        np.testing.assert_allclose(process.basis.whiten(x_a), z_a, rtol=1e-9, atol=1e-12)
        found = ddx.interpolate(denoise, x_a, x_b, np.array([0.3]), (100, 50, 0))[0]
        expected = ddx.sample(
            denoise, None, process.basis.colour(ddx.slerp(z_a, z_b, np.array([0.3]))[0]), (100, 50, 0)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_power_laws_and_bands_give_pixels_the_noise_of_a_white_process_on_average():
    for weights in (colour.power_law(-1.0), colour.power_law(0.7), colour.band(0.3, 0.8), colour.band(0, 0.5, 0.01)):
        w = weights((8, 6))
        assert w.shape == (8, 6, 1) and np.all(w > 0)
        np.testing.assert_allclose(np.mean(w**2), 1.0)
    assert np.all(colour.power_law(0.0)((8, 6)) == 1)
    falling = colour.power_law(-1.0)((8, 8))
    assert falling[0, 0] == falling[0, 1] == 2 * falling[0, 2] == 4 * falling[4, 0]
    inside = colour.band(0.25, 0.5)((8, 8))[0, :, 0]
    np.testing.assert_allclose(inside / inside[2], [0.1, 0.1, 1, 1, 0.1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: ddx.coloured(p, np.ones((4, 4))), r"shape \(H, W, 1\)"),
        (lambda p: ddx.coloured(p, np.zeros((4, 4, 1))), "above 0"),
        (lambda p: ddx.coloured(p, np.full((4, 4, 1), np.nan)), "finite"),
        (lambda p: ddx.coloured(p, np.array([[[1.0], [1e-7]]])), "differ by more than 1e6"),
        (lambda p: ddx.coloured(ddx.coloured(p, W), W), "coloured already"),
        (lambda p: ddx.coloured(ddx.ihdm(), W), "do not start from noise"),
        (lambda p: ddx.q_sample(ddx.coloured(p, W), *[jnp.zeros((1, 8, 8, 2)), 5, jnp.zeros((1, 8, 8, 2))]), "not of"),
        (lambda p: colour.band(0.5, 0.5), "low < high"),
        (lambda p: colour.band(0, 1, 0), "floor above 0"),
        (lambda p: colour.band(0.01, 0.02)((8, 8)), "no frequency"),
        (
            lambda p: ddx.inpaint(
                ddx.denoiser(ddx.coloured(p, W), lambda x, _: x),
                jax.random.key(0),
                jnp.zeros((1, *SHAPE)),
                jnp.zeros((1, *SHAPE)),
                np.ones((4, 3, 1), bool),
            ),
            "coloured noise depend",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(ddx.ddpm(100, "cosine"))
