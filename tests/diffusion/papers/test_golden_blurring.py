"""Blurring Diffusion and IHDM against independent float64 values and the outputs of IHDM's own code.

Times of Blurring Diffusion are in [0, 1] there: with T = 1 they are here.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.bound import decoder
from ddx.diffusion.estimate.denoiser import to_coordinates
from ddx.diffusion.forward import basis
from ddx.diffusion.papers import ihdm_bound
from ddx.diffusion.papers.blurring import printed_coefficients, printed_step
from ddx.diffusion.reverse import flow
from ddx.models.embeddings import time_embedding
from ddx.training.state import update_ema
from tests import golden

SHAPE = (6, 10)
MIX = np.array([[0.6, 0.1, -0.2], [0.05, 0.5, 0.1], [-0.1, 0.2, 0.4]])


def close(found, expected, rtol=1e-8):
    """Entries to rtol of themselves, and those near 0 to that of the largest."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def terms():
    return golden.load("blurring_terms")


def net(z, t):
    return z @ MIX + 0.2 * jnp.roll(z, 1, 1) - 0.1 * jnp.roll(z, 1, 2) + 0.05 * jnp.reshape(t, (-1, 1, 1, 1))


def test_basis_and_noise():
    g, process = terms(), ddx.blurring(1)
    close(basis.dct_matrix(6), g["dct_H"])
    close(basis.dct_matrix(10), g["dct_W"])
    close(basis.laplacian(SHAPE), g["lam"][0])
    noise = process.schedule.at(g["t"])
    close(noise.alpha, g["a"])
    close(noise.sigma, g["sigma"])
    close(noise.logsnr, g["logsnr"])


@pytest.mark.parametrize("sigma_blur_max", [0, 1, 10, 20])
@pytest.mark.parametrize("schedule", ["sin2", "sin"])
def test_alpha_of_every_frequency(schedule, sigma_blur_max):
    g, process = terms(), ddx.blurring(1, sigma_blur_max, schedule)
    name = f"{schedule}_{sigma_blur_max}"
    for t in (g["t"], jnp.asarray(g["t"])):
        m = process.marginal(t, SHAPE)
        close(m.alpha, g[f"alpha_{name}"])
        close(m.alpha / process.level(t).a, g[f"d_{name}"])
    traced = jax.jit(lambda t: process.marginal(t, SHAPE).alpha)(g["t"])
    close(traced, g[f"alpha_{name}"])


@pytest.mark.parametrize("blur", [0, 20])
class TestTerms:
    def test_diffuse(self, blur):
        g = terms()
        close(ddx.q_sample(ddx.blurring(1, blur), jnp.asarray(g["x"]), g["t"], g["eps"]), g[f"z_{blur}"])

    def test_posterior_and_transition(self, blur):
        g, process = terms(), ddx.blurring(1, blur)
        s, t = g["pair_s"], g["pair_t"]
        for times in ((s, t), (jnp.asarray(s), jnp.asarray(t))):
            c = ddx.step_coefficients(process, *times, 1.0, SHAPE)
            for found, name in ((c.k, "post_ct"), (c.gamma, "post_c0"), (c.lambda2, "post_var")):
                np.testing.assert_allclose(found, g[f"{name}_{blur}"], rtol=1e-8)
        traced = jax.jit(lambda s, t: ddx.step_coefficients(process, s, t, 1.0, SHAPE))(s, t)
        np.testing.assert_allclose(traced.lambda2, g[f"post_var_{blur}"], rtol=1e-8)
        x = jnp.asarray(g["pair_z"])
        mean, variance = ddx.q_transition(process, x, s, t)
        close(basis.dct(mean), g[f"alpha_ts_{blur}"] * basis.dct(x))
        np.testing.assert_allclose(variance, g[f"sigma2_ts_{blur}"], rtol=1e-8)

    @pytest.mark.parametrize("eta", [0, 0.5, 1, "paper"])
    def test_step(self, blur, eta):
        g = terms()
        process = ddx.blurring(1, blur)
        s, t, z = g["pair_s"], g["pair_t"], jnp.asarray(g["pair_z"])
        d = ddx.denoiser(process, lambda *_: jnp.asarray(g["pair_eps_hat"]), clip=False)(z, t)
        mean, variance = ddx.q_posterior(process, d.x_0, z, s, t, 1.0 if eta == "paper" else eta)
        if eta == "paper":
            printed = printed_coefficients(*(process.marginal(time, z.shape[1:3]) for time in (s, t)), 1e-8)
            mean = basis.idct(printed.k * basis.dct(z) + printed.gamma * basis.dct(d.x_0))
            variance = printed.lambda2
        name = f"paper{{}}_{blur}" if eta == "paper" else f"{{}}eta{eta}_{blur}"
        close(mean, g["step_" + name.format("_mean" if eta == "paper" else "mean_")])
        noisy = mean + basis.idct(jnp.sqrt(variance) * g["pair_noise_freq"])
        close(noisy, g["step_" + name.format("")])

    def test_encode(self, blur):
        g, process = terms(), ddx.blurring(1, blur)
        s, t, z = g["pair_s"], g["pair_t"], jnp.asarray(g["pair_z"])
        denoise = ddx.denoiser(process, lambda x, model_time: net(x, model_time / 1000), clip=False)
        c = ddx.step_coefficients(process, t, s, 0, SHAPE)
        d = to_coordinates(process.basis, denoise(z, s))
        close(basis.idct(c.k * basis.dct(z) + c.gamma * d.x_0), g[f"encode_{blur}"])

    def test_kl_and_prior(self, blur):
        g, process = terms(), ddx.blurring(1, blur)
        c = ddx.step_coefficients(process, g["pair_s"], g["pair_t"], 1.0, SHAPE)
        m = process.marginal(g["pair_t"], SHAPE)
        u_0, estimate = (-m.sigma / m.alpha * basis.dct(jnp.asarray(g[e])) for e in ("kl_eps", "pair_eps_hat"))
        kl = ddx.gaussian_kl(c.gamma * u_0, c.lambda2, c.gamma * estimate, c.lambda2)
        close(kl.sum((1, 2, 3)), g[f"kl_{blur}"])
        close(ddx.prior_kl(process, jnp.asarray(g["x"])).sum((1, 2, 3)), g[f"prior_kl_{blur}"])

    def test_probability_flow(self, blur):
        g, process = terms(), ddx.blurring(1, blur)
        found = flow.rates(process, g["ode_t"], SHAPE)
        for value, name in zip(found, ("f", "g2", "dlogsnr"), strict=True):
            close(value, g[f"ode_{name}_{blur}"])
        denoise = ddx.denoiser(process, lambda x, model_time: net(x, model_time / 1000), clip=False)
        drift = ddx.probability_flow(denoise, jnp.asarray(g["ode_z"]), g["ode_t"])
        close(drift, g[f"ode_drift_{blur}"])


@pytest.mark.parametrize(("cdf", "name"), [("softmax", "softmax"), ("exact", "cdf")])
def test_decoder_at_t_0(cdf, name):
    g, at = terms(), ddx.blurring(1).level(0)
    x_0 = jnp.asarray(g["dec_x_int"] / 127.5 - 1)
    found = decoder.decoder_log_prob(x_0, g["dec_z0"] / at.a, 2 * np.log(at.sigma / at.a), cdf)
    close(found, g[f"dec_logp_{name}"])


@pytest.mark.parametrize("how", ["eta1", "eta0.5", "eta0", "paper"])
@pytest.mark.parametrize("name", ["sin2_0", "sin2_20", "sin_10"])
def test_sampler(name, how):
    g = golden.load("blurring_sampler")
    schedule, blur = name.split("_")
    process = ddx.blurring(int(g["T"]), float(blur), schedule)
    solver = printed_step(1e-8) if how == "paper" else "euler"
    eta = 1.0 if how == "paper" else float(how.removeprefix("eta"))

    def denoise(x_t, t):
        m = process.marginal(t, x_t.shape[1:3])
        x_0 = 0.5 * g["x_c"] + 0.2 * jnp.roll(x_t, 1, 1) - 0.1 * jnp.roll(x_t, 1, 2)
        eps = (x_t - basis.idct(m.alpha * basis.dct(x_0))) / m.sigma
        return ddx.Denoised(x_0, eps, None)

    x_T, noise = jnp.asarray(g["z_1"]), jnp.asarray(g["noise_freq"])
    draw = functools.partial(
        ddx.sample, ddx.from_pixels(process, denoise), None, x_T, eta=eta, noise=noise, solver=solver
    )
    close(draw(), g[f"final_mean_{name}_{how}"])
    close(draw(noisy_end=True), g[f"traj_{name}_{how}"][-1])
    frames = tuple(range(10, 0, -1))
    _, film = ddx.progressive(ddx.from_pixels(process, denoise), None, x_T, frames, eta=eta, noise=noise, solver=solver)
    close(film.x_t, g[f"traj_{name}_{how}"][:-1])


@pytest.mark.parametrize("name", ["sin2_0", "sin2_20", "sin_10"])
def test_every_step_in_float32_from_the_reference_s_state(name):
    # A step multiplies the rounding of its state by alpha_s / alpha_t, some hundreds in ten steps under a blur.
    g = golden.load("blurring_sampler")
    schedule, blur = name.split("_")
    process = ddx.blurring(int(g["T"]), float(blur), schedule)
    with jax.enable_x64(False):
        for i in range(10):
            t, eps = 10 - i, jnp.asarray(g[f"eps_{name}_eta1"][i], jnp.float32)
            at_t = ddx.denoiser(process, lambda *_, eps=eps: eps, clip=False)
            times = (t, t - 1) if t == 1 else (t, t - 1, 0)
            noise = jnp.asarray(np.stack([g["noise_freq"][i]] * (len(times) - 1)), jnp.float32)
            x_t = jnp.asarray(g[f"traj_{name}_eta1"][i], jnp.float32)
            if t == 1:
                found = ddx.sample(at_t, None, x_t, times, 1.0, noise=noise, noisy_end=True)
            else:
                _, film = ddx.progressive(at_t, None, x_t, (t - 1,), times, 1.0, noise=noise)
                found = film.x_t[0]
            expected = g[f"traj_{name}_eta1"][i + 1]
            ratio = np.exp(-process.change(t - 1, t, (8, 8)).log_alpha).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * ratio * np.abs(expected).max())


def nhwc(x):
    return jnp.asarray(golden.nhwc(x), jnp.result_type(float))


def heat_net(x, k):
    k = jnp.asarray(k, x.dtype).reshape(-1, 1, 1, 1)
    return -0.05 * x + 0.1 * jnp.roll(x, 1, 2) - 0.03 * jnp.roll(x, 1, 1) + 0.02 * jnp.sin(k / 7)


def heat_process(sigmas, sigma=0.01):
    return ddx.ihdm(len(sigmas) - 1, sigmas[1], sigmas[-1], float(sigma))


@pytest.mark.parametrize("n", [8, 28, 32])
def test_ihdm_blur(n):
    # Its code holds frequencies in float32.
    g = golden.load("ihdm_blur")
    process = heat_process(g[f"n{n}_blur_sigmas"])
    close(basis.laplacian((n, n))[..., 0], g[f"n{n}_freq_sq"], rtol=3e-7)
    close(basis.dct(nhwc(g[f"n{n}_x"])), nhwc(g[f"n{n}_dct_f64"]))
    found = ddx.blur(process, nhwc(g[f"n{n}_x"]), g[f"n{n}_levels"])
    close(found, nhwc(g[f"n{n}_blur_f64"]), rtol=3e-8)
    with jax.enable_x64(False):
        x = jnp.asarray(golden.nhwc(g[f"n{n}_x"]), jnp.float32)
        blurred = jax.jit(lambda x, t: ddx.blur(process, x, t))(x, g[f"n{n}_levels"])
        # Of float32 the true values are the measure: how two transforms are rounded differs between processors.
        expected = golden.nhwc(g[f"n{n}_blur_f64"])
        np.testing.assert_allclose(blurred, expected, atol=1e-6 * np.abs(expected).max())


SCHEDULES = {
    "mnist": (100, 20),
    "mnist_small": (50, 20),
    "cifar10": (200, 24),
    "afhq256": (200, 128),
    "afhq64": (200, 32),
    "ffhq256": (200, 128),
    "ffhq128": (200, 128),
    "lsun_church128": (400, 64),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_ihdm_schedules(name):
    steps, largest = SCHEDULES[name]
    close(ddx.ihdm(steps, 0.5, largest).blur.sigma, golden.load("ihdm_blur")[f"schedule_{name}"])


def test_ihdm_loss():
    g = golden.load("ihdm_loss")
    process, x = heat_process(g["blur_sigmas"], g["sigma"]), nhwc(g["x"])
    close(ddx.blur(process, x, g["steps"]), nhwc(g["blurred"]), rtol=2e-7)
    close(ddx.blur(process, x, g["steps"] - 1), nhwc(g["less_blurred"]), rtol=2e-7)
    loss = ddx.simple_loss(process, heat_net, x, g["steps"], nhwc(g["eps"]), "residual") * np.prod(x.shape[1:])
    close(loss, g["losses"], rtol=1e-6)
    close(loss.mean(), g["loss"], rtol=1e-6)
    # Its code draws 1..T-1: T, where samples start, is never trained.
    assert (g["randint_lo"], g["randint_hi"]) == (1, process.num_steps)


def heat_denoiser(process):
    return ddx.denoiser(process, heat_net, "residual", clip=False)


def test_ihdm_sampler():
    g = golden.load("ihdm_sampler")
    process, kernel = heat_process(g["blur_sigmas"]), ddx.heat_sampler(float(g["delta"]))
    denoise, x_T = heat_denoiser(process), nhwc(g["u_K"])
    noise = basis.dct(nhwc(g["noise"]))
    found = ddx.sample(denoise, None, x_T, eta=1.0, noise=noise, solver=kernel)
    close(found, nhwc(g["final_mean"]), rtol=5e-7)
    frames = tuple(range(10, 0, -1))
    _, film = ddx.progressive(denoise, None, x_T, frames, eta=1.0, noise=noise, solver=kernel)
    close(film.x_t, nhwc(g["trajectory"])[:-1], rtol=5e-7)
    last = ddx.sample(denoise, None, x_T, eta=1.0, noise=noise, solver=kernel, noisy_end=True)
    close(last, nhwc(g["trajectory"])[-1], rtol=5e-7)
    shared = jnp.broadcast_to(basis.dct(nhwc(g["shared_noise"]))[::-1, None], noise.shape)
    found = ddx.sample(denoise, None, x_T, eta=1.0, noise=shared, solver=kernel)
    close(found, nhwc(g["shared_final_mean"]), rtol=5e-7)


def test_ihdm_interpolation():
    g = golden.load("ihdm_sampler")
    process, points = heat_process(g["blur_sigmas"]), nhwc(g["interp_init"])
    noise = tuple(basis.dct(nhwc(g[f"interp_noise{i}"]))[::-1, None] for i in (1, 2))
    weights = np.linspace(0, 1, int(g["interp_num_points"]))
    args = (heat_denoiser(process), None, points[:1], points[-1:], weights, float(g["delta"]), noise)
    close(ddx.interpolate_heat(*args)[:, 0], nhwc(g["interp_final_mean"]), rtol=5e-7)


def test_ihdm_bound_as_released():
    # Every example has one level a pass, and its term stands for all of them; levels are 1..K-1.
    g = golden.load("ihdm_elbo")
    process, x = heat_process(g["blur_sigmas"], g["sigma"]), nhwc(g["test"])
    steps, nats = process.num_steps, np.prod(x.shape[1:]) * np.log(2)
    centres = ddx.kde_centres(process, nhwc(g["train"]))
    kl = ihdm_bound.kde_kl(process, centres, x, float(g["delta"]))
    close(kl, g["L_K"], rtol=3e-6)
    close(kl, g["elbo_L_K"], rtol=3e-6)

    rows, denoise = ihdm_bound.heat_rows(process, tuple(range(1, steps))), heat_denoiser(process)
    terms = functools.partial(ihdm_bound.heat_terms, denoise, draw=lambda z: z, delta=float(g["delta"]))
    first = jax.tree.map(lambda row: row[:1], rows)
    decoded = [terms(x[4 * b : 4 * b + 4], first, basis.dct(nhwc(g["noise_0"][b]))[None]) for b in range(2)]
    l_0 = np.mean([d.terms for d in decoded]) * nats - 8 * nats  # in nats of a density over [0, 1]
    close(l_0, g["elbo_L_others"][0], rtol=1e-6)
    close(np.mean([d.mse for d in decoded]) * np.prod(x.shape[1:]), g["elbo_mse"][0], rtol=1e-6)

    sums, squares = np.zeros(steps), np.zeros(steps)
    passes, batches = g["labels"].shape[:2]
    for p in range(passes):
        for b in range(batches):
            found = terms(
                x[4 * b : 4 * b + 4],
                jax.tree.map(lambda row: row[1:], rows),
                jnp.broadcast_to(basis.dct(nhwc(g["noise_mid"][p, b])), (steps - 1, 4, *x.shape[1:])),
            )
            for i, level in enumerate(g["labels"][p, b]):
                sums[level] += found.terms[i, level - 1] * nats
                squares[level] += found.mse[i, level - 1] * np.prod(x.shape[1:])
    share = g["labels"].size / (steps - 1)
    close(sums[1:] / share, g["elbo_L_others"][1:], rtol=2e-6)
    close(squares[1:] / share, g["elbo_mse"][1:], rtol=2e-6)


def test_ihdm_average_of_weights_and_time_embedding():
    g = golden.load("ihdm_misc")
    average = jnp.zeros(3)
    for step, value in enumerate(g["ema_values"]):
        average = update_ema(average, jnp.asarray(value), step, float(g["ema_decay"]), True)
        close(average, g["ema_shadow"][step])
    embedding = time_embedding(ddx.ihdm(200).model_time(jnp.asarray(g["temb_k"])), 128, cosine_first=True)
    np.testing.assert_allclose(embedding, g["temb"], atol=2e-5)
