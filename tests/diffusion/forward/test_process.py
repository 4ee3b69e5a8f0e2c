"""Processes: tables, times, and the agreement of host and graph."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.forward import betas

ALL = {name: ddx.ddpm(1000, name) for name in betas.SCHEDULES}
ALL |= {"cosine4000": ddx.iddpm(), "zero terminal": ddx.ddpm(zero_terminal_snr=True)}


@pytest.mark.parametrize("name", ALL)
def test_the_data_is_noise_free_and_noise_only_grows(name):
    m = ALL[name].marginal(np.arange(ALL[name].num_steps + 1))
    assert m.alpha[0] == 1 and m.sigma[0] == 0 and m.logsnr[0] == np.inf
    assert np.all(np.diff(m.logsnr.ravel()) < 0)
    np.testing.assert_allclose(m.alpha**2 + m.sigma**2, 1, rtol=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_times_in_the_graph_give_the_coefficients_of_the_host_to_float32(name):
    process = ALL[name]
    t = np.random.default_rng(0).integers(2, process.num_steps + 1, 500)
    s = np.maximum(t - np.random.default_rng(1).choice([1, 1, 2, 50, 999], 500), 0)
    exact = ddx.step_coefficients(process, s, t, 0.7)
    graph = jax.jit(lambda s, t: ddx.step_coefficients(process, s, t, 0.7))(s, t)
    marginal = jax.jit(process.marginal)(t)
    for found, expected in zip((*graph, *marginal[:2]), (*exact, *process.marginal(t)[:2]), strict=True):
        assert found.dtype == jnp.float32 and found.shape == (500, 1, 1, 1)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-30)


def test_scalar_times_have_no_axes_and_batches_broadcast_to_images():
    process = ddx.ddpm(10, "cosine")
    assert process.marginal(3).alpha.shape == ()
    assert process.marginal(np.array([3, 4]), shape=(8, 8)).alpha.shape == (2, 1, 1, 1)
    assert float(process.marginal(jnp.asarray(3)).alpha) == process.marginal(3).alpha


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.marginal(1001), "out of range"),
        (lambda p: p.marginal(np.array([3, -1])), "out of range"),
        (lambda p: p.marginal(0.5), "not an integer"),
        (lambda p: ddx.step_coefficients(p, 5, 5), "earlier"),
        (lambda p: ddx.step_coefficients(p, 4, 5, eta=-0.5), "eta=-0.5"),
        (lambda p: ddx.step_coefficients(p, 4, 5, eta=2.5), "eta may be at most 1.97"),
        (lambda p: ddx.ddpm(1000, "cosin"), "choose one of: linear"),
        (lambda p: ddx.ddpm(0), "at least 1"),
        (lambda p: ddx.ddpm(10), "beta_T = 2 > 1"),
        (lambda p: ddx.process_from_betas([[0.1]]), r"shape \(T,\)"),
        (lambda p: ddx.process_from_betas([0.1, 1.0, 0.2]), r"\(0, 1\)"),
        (lambda p: ddx.process_from_betas([0.1, float("nan")]), r"\(0, 1\)"),
        (lambda p: ddx.trajectory(1000, 50, "unifrom"), "choose one of: full, uniform"),
        (lambda p: ddx.trajectory(1000, 1001), r"1\.\.1000"),
        (lambda p: ddx.trajectory(1000, 50, "full"), "uniform"),
        (lambda p: ddx.trajectory(1000, None, (5, 7, 0)), "decrease"),
        (lambda p: ddx.trajectory(1000, None, ()), "decrease"),
        (lambda p: ddx.denoiser(p, None, "epsilon"), "choose one of: eps"),
        (lambda p: ddx.denoiser(ddx.ddpm(1000, "jsd"), None, "eps"), "says nothing of x_0 at t = T"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(ddx.ddpm())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "mean"])
@pytest.mark.parametrize("name", ["linear", "cosine4000"])
def test_a_network_that_hits_its_target_finds_the_data_and_the_noise(name, prediction):
    process = ALL[name]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x_0, noise = jnp.asarray(rng.uniform(-1, 1, (40, 3, 2, 1))), jnp.asarray(rng.standard_normal((40, 3, 2, 1)))
        t = jnp.asarray(rng.integers(1, process.num_steps + 1, 40))
        x_t = ddx.q_sample(process, x_0, t, noise)
        goal = ddx.diffusion.estimate.prediction.target(process, prediction, x_0, t, noise)
        d = jax.jit(ddx.denoiser(process, lambda *_: goal, prediction, clip=False))(x_t, t)
        np.testing.assert_allclose(d.x_0, x_0, atol=1e-9)
        np.testing.assert_allclose(d.eps, noise, atol=1e-8)
        assert d.extra is None


def test_zero_terminal_snr_works_with_v_and_x0():
    process = ddx.ddpm(50, "jsd")
    x_T = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    for prediction in ("v", "x0"):
        denoise = ddx.denoiser(process, lambda x, t: 0.5 * x, prediction)
        assert np.all(np.isfinite(ddx.sample(denoise, jax.random.key(1), x_T, eta=1.0)))


def test_clipping_limits_x_0_and_derives_eps_anew():
    process = ddx.ddpm()
    x_t = 3 * jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    d = ddx.denoiser(process, lambda x, t: jnp.concatenate([-x, 7 * x], -1), "eps")(x_t, 700)
    m = process.marginal(700)
    assert float(jnp.abs(d.x_0).max()) == 1.0
    np.testing.assert_allclose(m.alpha * d.x_0 + m.sigma * d.eps, x_t, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(d.extra, 7 * x_t)


def test_a_network_with_the_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="outputs 4 channels for images of 3"):
        ddx.denoiser(ddx.ddpm(), lambda x, t: jnp.zeros((*x.shape[:3], 4)))(jnp.zeros((1, 4, 4, 3)), 5)


def test_the_network_is_told_zero_based_indices():
    seen = []
    ddx.denoiser(ddx.ddpm(), lambda x, t: seen.append(t) or x)(jnp.zeros((2, 4, 4, 1)), np.array([1, 1000]))
    np.testing.assert_array_equal(seen[0], [0, 999])


def test_the_public_names_exist():
    for name in ddx.__all__:
        assert getattr(ddx, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ddx.nonsense  # noqa: B018
