"""Values and gradients are numbers, also where a coefficient is 0 or infinite."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.forward import betas
from ddx.diffusion.reverse.rows import downward

SHAPE = (4, 4, 1)
X = jax.random.normal(jax.random.key(0), (2, *SHAPE))
KEY = jax.random.key(1)
ENDS = ddx.ddpm(20, "jsd")  # alpha_T = 0


def with_head(x, t):
    return jnp.concatenate([0.3 * x, 0.1 + 0.0 * x], axis=-1)


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_a_heuristic_variance_without_signal_is_that_of_the_data_s_range(averaged, prediction):
    """Of x_T without signal nothing is known but the range: V = 1 in [-1, 1]."""
    denoise = ddx.denoiser(ENDS, lambda x, t: 0.3 * x, prediction)
    variance = ddx.heuristic(averaged)
    row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(ENDS, (20, 10, 0)).expand())
    found = variance(denoise.at(X, row.level), row)
    np.testing.assert_allclose(found, np.broadcast_to(row.lambda2 + row.gamma**2, found.shape), rtol=1e-6)
    for eta in (0.0, 1.0):
        x_0 = ddx.sample(denoise, KEY, X, ddx.trajectory(20, 4), eta, variance=variance)
        assert np.isfinite(x_0).all()


@pytest.mark.parametrize("name", ["sn", "npr", "ocm", "heuristic", "heuristic averaged"])
def test_samplers_with_optimal_variances_have_gradients(name):
    """Where V is clipped to 0, at eta = 0 the variance is 0 and its root has no slope."""
    process = ddx.ddpm(20, "cosine")
    named = {"sn": ddx.sn(), "npr": ddx.npr(), "ocm": ddx.ocm(), "heuristic": ddx.heuristic()}
    variance = named.get(name, ddx.heuristic(True))

    def loss(scale, plan):
        def model_fn(x, t):
            return jnp.concatenate([scale * jnp.tanh(2 * x), scale * jnp.sin(5 * x)], axis=-1)

        denoise = ddx.denoiser(process, model_fn)
        denoise = ddx.hutchinson(denoise, KEY) if name == "ocm" else denoise
        return ddx.walk(denoise, plan, 2 * X, KEY, variance=variance).sum()

    gradient = jax.jit(jax.grad(loss))
    for eta in (0.0, 0.5, 1.0):
        assert np.isfinite(gradient(0.7, ddx.plan(process, ddx.trajectory(20, 5), eta)))


def test_heun_does_not_ask_the_network_at_noise_free_data():
    process = ddx.ddpm(20, "cosine")
    denoise = ddx.denoiser(process, lambda x, t: 0.3 * x)
    plain = ddx.sample(denoise, None, X, ddx.trajectory(20, 5), solver="heun")
    noisy = ddx.sample(denoise, None, X, ddx.trajectory(20, 5), solver="heun", noisy_end=True)
    np.testing.assert_array_equal(plain, noisy)
    assert np.isfinite(plain).all()


def test_a_heun_step_keeps_the_type_of_the_state_under_x64():
    process = ddx.ddpm(20, "cosine")
    seen = []

    def model_fn(x, t):
        seen.append(x.dtype)
        return 0.3 * x

    with jax.enable_x64(True):
        for solver in ("euler", "heun", "dpmpp_2m", "dpmpp_3m"):
            ddx.sample(ddx.denoiser(process, model_fn), None, X, ddx.trajectory(20, 5), solver=solver)
    assert set(seen) == {jnp.dtype("float32")}


@pytest.mark.parametrize("x64", [False, True])
def test_films_at_real_times_show_what_was_there(x64):
    process = ddx.blurring(20, 2.0)
    denoise = ddx.denoiser(process, lambda x, t: 0.3 * x, "v")
    times = (20.0, 13.7, 6.1, 0.3, 0.0)
    with jax.enable_x64(x64):
        _, film = ddx.progressive(denoise, KEY, X, (13.7, 0.3), times, 1.0)
        assert film.x_t.dtype == X.dtype
        for i, first in enumerate((13.7, 0.3)):
            assert float(jnp.abs(film.x_t[i]).min()) > 0
            d = denoise(film.x_t[i], first)
            np.testing.assert_allclose(film.x_0[i], d.x_0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_cannot_start_at_data_without_noise(eta):
    with pytest.raises(ValueError, match=r"start at t=0, where the data have no noise|earlier s < t"):
        ddx.step_coefficients(ddx.ddpm(), 5, 0, eta)
    with pytest.raises(ValueError, match=r"no noise|earlier"):
        ddx.step_coefficients(ddx.ddpm(), np.array([5, 3]), np.array([0, 7]), eta)
    up = ddx.step_coefficients(ddx.ddpm(), 5, 1, 0.0)
    assert np.isfinite(up).all()


@pytest.mark.parametrize("name", betas.SCHEDULES)
def test_tables_of_every_schedule_are_made_without_a_warning(name):
    process = ddx.ddpm(50, name)
    prediction = "v" if process.forgets else "eps"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = downward(process, ddx.trajectory(50)).expand()
        for field in ("k", "gamma", "lambda2", "small", "upper", "h"):
            assert np.isfinite(getattr(table, field)).all(), field
        values = ddx.step_coefficients(process, 3, 50, 0.3), ddx.q_transition(process, X, 49, 50)
        for value in (*jax.tree.leaves(values), ddx.prior_kl(process, X), ddx.prior_kl(process, X, 1)):
            assert np.isfinite(value).all()
        denoise = ddx.denoiser(process, lambda x, t: 0.1 * x, prediction)
        assert np.isfinite(ddx.bits_per_dim(denoise, X, KEY, (50, 20, 1, 0)).total).all()
        assert np.isfinite(ddx.sample(denoise, KEY, X, (50, 20, 1, 0), 1.0)).all()
        if name == "const":  # its x_1 is nearly noise already
            return
        times = ddx.encodable(denoise, ddx.trajectory(50, 5))
        assert np.isfinite(ddx.encode(denoise, X, times)).all()


@pytest.mark.parametrize("process", [ddx.blurring(20, 2.0), ddx.ihdm(20, sigma_blur_max=2.0)], ids=["blur", "heat"])
def test_tables_of_blurs_are_made_without_a_warning(process):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = downward(process, ddx.trajectory(20))
        row = jax.tree.map(lambda x: np.asarray(x[3]), table).expand((4, 4))
        assert np.isfinite(row.k).all() and np.isfinite(row.gamma).all()
        for s, t in ((3, 4), (3, 20)):
            for part in ddx.q_transition(process, X, s, t):
                assert np.isfinite(part).all()
        assert np.isfinite(ddx.prior_kl(process, X, 20)).all()
    for part in jax.jit(lambda s, t: ddx.q_transition(process, X, s, t))(3, 4):
        assert np.isfinite(part).all()


def test_the_prior_is_the_same_for_times_in_the_graph():
    for process in (ddx.ddpm(), ddx.ddpm(1000, "cosine"), ddx.ihdm(100, sigma=0.01), ddx.blurring(1000, 3.0)):
        graph = jax.jit(lambda x, t, process=process: ddx.prior_kl(process, x, t))
        for t in (1, process.num_steps // 2, process.num_steps):
            np.testing.assert_allclose(graph(X, t), ddx.prior_kl(process, X, t), rtol=2e-4, atol=1e-9)
    assert np.isnan(jax.jit(lambda t: ddx.prior_kl(ddx.ddpm(), X, t))(1001)).all()
    assert np.isinf(ddx.prior_kl(ddx.ddpm(), X, 0)).all()
