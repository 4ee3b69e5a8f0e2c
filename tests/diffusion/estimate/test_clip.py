"""clip="x0": a clipped x_0 beside the network's own eps, as diffusers' DDIM has it by default. Dynamic thresholding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.reverse.rows import downward
from tests import golden


def network(x, i):
    return 0.7 * jnp.tanh(x) + 0.0005 * i[:, None, None, None]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_clipped_ddim_is_diffusers(schedule, eta):
    """DDIMScheduler 0.42.1 in float64, clip_sample=True, use_clipped_model_output=False, 10 of 1,000 steps."""
    data = golden.load("diffusers_clip")
    process = ddx.ddpm() if schedule == "linear" else ddx.process_from_betas(data["cosine/betas"])
    times = ddx.trajectory(1000, 10, "leading")
    with jax.enable_x64(True):
        denoise = ddx.denoiser(process, network, clip="x0")
        for i, expected in enumerate(data[f"{schedule}/{eta}"]):  # every state, each from the one before
            x_t = data["x_T"] if i == 0 else data[f"{schedule}/{eta}"][i - 1]
            found = _one_step(process, denoise, x_t, times[i : i + 2], eta, data["noise"][i])
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
        x_0 = ddx.sample(denoise, None, data["x_T"], times, eta, noise=data["noise"])
        np.testing.assert_allclose(x_0, data[f"{schedule}/{eta}"][-1], rtol=1e-7, atol=1e-9)
        agreeing = ddx.sample(ddx.denoiser(process, network), None, data["x_T"], times, eta, noise=data["noise"])
        assert float(jnp.abs(agreeing - x_0).max()) > 0.01


def _one_step(process, denoise, x_t, times, eta, z):
    from ddx.diffusion.reverse.solvers import euler

    t, s = times
    steps = downward(process, (t, s, 0) if s else (t, 0), eta).expand()
    row = jax.tree.map(lambda x: jnp.asarray(x[0]), steps)
    return euler().step(denoise, jnp.asarray(x_t), (), row, z)[0]


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_clipped_ddim_is_its_paper_s_equation_12(eta):
    """A loop that knows nothing of k and gamma, on times and in a range of values that clip nearly all."""
    process, times = ddx.ddpm(100, "cosine"), (97, 60, 31, 8, 1, 0)
    rng = np.random.default_rng(0)
    x, noise = 3 * rng.standard_normal((2, 3, 3, 1)), rng.standard_normal((5, 2, 3, 3, 1))
    alpha_bar = process.marginal(np.asarray(times)).alpha.ravel() ** 2
    x_t = x
    for i, t in enumerate(times[:-1]):
        a_t, a_s = alpha_bar[i], alpha_bar[i + 1]
        eps = 0.7 * np.tanh(x_t) + 0.0005 * (t - 1)
        x_0 = np.clip((x_t - np.sqrt(1 - a_t) * eps) / np.sqrt(a_t), -1, 1)
        sigma = eta * np.sqrt((1 - a_s) / (1 - a_t)) * np.sqrt(1 - a_t / a_s)
        x_t = np.sqrt(a_s) * x_0 + np.sqrt(1 - a_s - sigma**2) * eps + (sigma * noise[i] if i < 4 else 0)
    with jax.enable_x64(True):
        found = ddx.sample(ddx.denoiser(process, network, clip="x0"), None, x, times, eta, noise=noise)
    np.testing.assert_allclose(found, x_t, rtol=1e-9, atol=1e-12)


def test_without_anything_to_clip_both_ways_are_the_same():
    process, x_T = ddx.ddpm(100, "cosine"), 0.1 * jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    flat = lambda x, t: x  # noqa: E731
    for process in (ddx.ddpm(100, "cosine"), ddx.blurring(100, 3.0)):
        both = [ddx.denoiser(process, flat, "v", clip) for clip in (True, "x0")]
        walks = [jax.jit(lambda plan, d=d: ddx.walk(d, plan, x_T, jax.random.key(1))) for d in both]
        for eta in (0.0, 1.0):
            one, other = (walk(ddx.plan(process, (100, 50, 10, 0), eta)) for walk in walks)
            np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "dpmpp_3m"])
def test_solvers_of_higher_order_refuse_it(solver):
    process = ddx.ddpm(20, "cosine")
    with pytest.raises(ValueError, match="clip='x0' belongs to solver 'euler'"):
        ddx.sample(ddx.denoiser(process, network, clip="x0"), None, jnp.ones((1, 2, 2, 1)), solver=solver)


# Dynamic thresholding. A network of x0 says what is thresholded.


def thresholded(x_0, percentile, process=None, **changes):
    """What a denoiser makes of an estimate."""
    process = dataclasses.replace(process or ddx.ddpm(100, "cosine"), **changes)
    denoise = ddx.denoiser(process, lambda x, t: jnp.asarray(x_0), "x0", ddx.DynamicThreshold(percentile))
    x_t = jnp.asarray(np.random.default_rng(0).standard_normal(np.shape(x_0)))
    d = jax.jit(lambda: denoise(x_t, 30))()
    if process.blur is None:
        m = process.marginal(30)
        np.testing.assert_allclose(m.alpha * d.x_0 + m.sigma * d.eps, x_t, atol=1e-5)  # eps follows from x_0
    return d.x_0


def row(*values):
    return np.reshape(values, (1, 1, -1, 1))


def test_each_image_is_clipped_to_its_own_percentile_and_scaled():
    values = row(0.0, -0.5, 1.0, 2.0, -4.0)
    np.testing.assert_allclose(thresholded(values, 75), row(0.0, -0.25, 0.5, 1.0, -1.0), atol=1e-6)  # s = 2
    np.testing.assert_allclose(thresholded(values, 87.5), values.clip(-3, 3) / 3, atol=1e-6)  # between 2 and 4
    np.testing.assert_allclose(thresholded(values, 100), values / 4, atol=1e-6)
    np.testing.assert_allclose(thresholded(values, 25), values.clip(-1, 1), atol=1e-6)  # s is 1 at least
    colours = values.reshape(1, 1, 1, 5)  # all of a pixel's channels count
    np.testing.assert_allclose(thresholded(colours, 75), row(0.0, -0.25, 0.5, 1.0, -1.0).reshape(1, 1, 1, 5), atol=1e-6)
    two = np.concatenate([values, values / 2])
    np.testing.assert_allclose(thresholded(two, 75)[1:], thresholded(values / 2, 75), atol=1e-6)


def test_data_from_0_to_1_are_thresholded_about_their_middle():
    values = row(0.5, 0.25, 1.0, 1.5, -1.5)  # as 0, -0.5, 1, 2, -4
    np.testing.assert_allclose(thresholded(values, 75, low=0.0), row(0.5, 0.375, 0.75, 1.0, 0.0), atol=1e-6)


def test_an_estimate_in_the_range_of_the_data_is_not_changed_and_pixels_count_in_any_basis():
    values = np.random.default_rng(1).uniform(-1, 1, (2, 4, 4, 1))
    np.testing.assert_allclose(thresholded(values, 99.5), values, atol=1e-6)
    for process in (ddx.in_dct_basis(ddx.ddpm(100, "cosine")), ddx.blurring(100, 2.0)):
        np.testing.assert_allclose(thresholded(3 * values, 90, process), thresholded(3 * values, 90), atol=2e-5)


def test_every_solver_takes_it():
    process, x_T = ddx.ddpm(100, "cosine"), 3 * jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    denoise = ddx.denoiser(process, network, clip=ddx.DynamicThreshold(90.0))
    for solver in ("euler", "heun", "dpmpp_2m"):
        x_0 = ddx.sample(denoise, None, x_T, (100, 50, 10, 0), solver=solver)
        assert np.abs(x_0).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    "clip", [ddx.DynamicThreshold(0), ddx.DynamicThreshold(101), ddx.DynamicThreshold("99"), "dynamic", 99.5, None]
)
def test_what_is_no_way_to_clip_is_refused(clip):
    with pytest.raises(ValueError, match=r"must be above 0 and at most 100|must be True, False, 'x0' or a ddx.Dynamic"):
        ddx.denoiser(ddx.ddpm(100, "cosine"), network, clip=clip)
