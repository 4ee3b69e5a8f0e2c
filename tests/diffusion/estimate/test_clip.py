"""clip="x0": a clipped x_0 beside the network's own eps, as diffusers' DDIM has it by default."""

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
