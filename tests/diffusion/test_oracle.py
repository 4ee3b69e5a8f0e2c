"""Samplers are exact where the truth is known: on Gaussian data with its optimal network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from tests import oracle

SHAPE = (4, 3, 2)
PROCESSES = {"linear": ddx.ddpm(1000), "cosine": ddx.iddpm(400), "sigmoid": ddx.ddpm(300, "sigmoid")}


def walker(process, data, variance, prediction="eps", solver="euler"):
    """walk(plan, x_T, noise), compiled once for each number of steps."""
    denoise = ddx.denoiser(process, data.model_fn(process, prediction), prediction, clip=False)
    return jax.jit(lambda plan, x_T, noise: ddx.walk(denoise, plan, x_T, None, solver, variance, noise))


def moments_of_samples(process, data, times, eta, variance, solver="euler", walk=None):
    """The exact mean and variance of samples in float64, with no sampling error.

    For an affine sampler x_0 = c + sum_k A_k z_k with diagonal A_k, c and all A_k are read off by feeding unit noises.
    """
    shape, K = data.mean.shape, len(times) - 1
    walk = walk or walker(process, data, variance, solver=solver)
    plan = ddx.plan(process, times, eta, solver=solver)
    # Batch entry 0 has no noise at all; entry j + 1 has a unit at draw j, x_T counting as draw 0.
    units = jnp.eye(K + 1)[:, :, None, None, None] * jnp.ones((1, 1, *shape))
    units = jnp.concatenate([jnp.zeros((1, K + 1, *shape)), units])
    out = np.asarray(walk(plan, units[:, 0], jnp.moveaxis(units[:, 1:], 1, 0)))
    return out[0], np.square(out[1:] - out[0]).sum(0)


@functools.cache
def optimal(name, prediction):
    data = oracle.random_gaussian(SHAPE)
    return walker(PROCESSES[name], data, data.optimal_variance(), prediction)


def some(K, prediction):
    """Every K with one prediction, and every prediction with one K; all pairs with soak."""
    return pytest.param(K, prediction, marks=() if prediction == "eps" or K == 5 else pytest.mark.soak)


@pytest.mark.parametrize(
    ("K", "prediction"), [some(K, prediction) for K in (1, 2, 5, 20) for prediction in ("eps", "x0", "v")]
)
@pytest.mark.parametrize("eta", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("name", PROCESSES)
def test_optimal_variance_samples_the_data_in_any_number_of_steps(name, K, eta, prediction):
    process = PROCESSES[name]
    times = ddx.trajectory(process.num_steps, None, np.linspace(process.num_steps, 0, K + 1).astype(int))
    with jax.enable_x64(True):
        data = oracle.random_gaussian(SHAPE)
        mean, variance = moments_of_samples(process, data, times, eta, None, walk=optimal(name, prediction))
        m = process.marginal(times[-2])
        # Sampling returns the mean of its last step; the noise left out is what x_{t_K} does not tell of x_0.
        left_out = data.covariance(m.alpha, m.sigma)
        # x_T is N(0, 1) and not exactly q(x_T), which differs by alpha_T.
        prior = float(process.marginal(process.num_steps).alpha)
        np.testing.assert_allclose(mean, data.mean, atol=1.01 * prior)
        np.testing.assert_allclose(variance, data.variance - left_out, atol=max(prior**2, 1e-12))


@pytest.mark.parametrize("name", PROCESSES)
def test_optimal_variance_is_exact_when_x_T_is(name):
    process, times = PROCESSES[name], ddx.trajectory(PROCESSES[name].num_steps, 10)
    with jax.enable_x64(True):
        data = oracle.random_gaussian(SHAPE)
        mean, variance = moments_of_samples(
            process, data._replace(mean=0 * data.mean), times, 1.0, data.optimal_variance()
        )
        m_T, m_1 = process.marginal(times[0]), process.marginal(times[-2])
        # Only x_T's variance, 1 instead of alpha_T^2 c + sigma_T^2, separates the samples from the data.
        explained = (m_T.alpha * data.variance / (m_T.alpha**2 * data.variance + m_T.sigma**2)) ** 2
        excess = explained * (1 - m_T.alpha**2 * data.variance - m_T.sigma**2)
        np.testing.assert_allclose(mean, 0, atol=1e-14)
        np.testing.assert_allclose(variance, data.variance - data.covariance(m_1.alpha, m_1.sigma) + excess, rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "K"),
    [
        pytest.param(name, K, marks=() if name == "linear" or K == 10 else pytest.mark.soak)
        for name in PROCESSES
        for K in (1, 3, 10, 40)
    ],
)
def test_ddim_follows_its_closed_form(name, K):
    process = PROCESSES[name]
    times = ddx.trajectory(process.num_steps, K)
    with jax.enable_x64(True):
        data = oracle.random_gaussian(SHAPE)
        mean, variance = moments_of_samples(process, data, times, 0.0, "small")
        expected_mean, expected_variance = data.ddim_moments(process, times)
        np.testing.assert_allclose(mean, expected_mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(variance, expected_variance, rtol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_and_ddim_converge_to_the_data_at_first_order(variance, eta):
    if eta == 0.0 and variance == "large":
        with pytest.raises(ValueError, match="eta = 1"):
            ddx.sample(ddx.denoiser(ddx.ddpm(), None), None, jnp.zeros((1, *SHAPE)), eta=eta, variance=variance)
        return
    errors = []
    with jax.enable_x64(True):
        data = oracle.random_gaussian((2, 1, 1))._replace(mean=jnp.zeros((2, 1, 1)))
        for T in (100, 200, 400):
            process = ddx.iddpm(T)
            found = moments_of_samples(process, data, ddx.trajectory(T), eta, variance)[1]
            errors.append(float(np.abs(found - data.variance).max()))
    orders = np.log2(np.asarray(errors[:-1]) / np.asarray(errors[1:]))
    assert np.all(orders > 0.8), (errors, orders)
    assert errors[-1] < 0.02


@pytest.mark.parametrize("K", [1, 7, 100])
def test_a_single_data_point_is_returned_exactly(K):
    process = PROCESSES["linear"]
    with jax.enable_x64(True):
        point = oracle.Gaussian(oracle.random_gaussian(SHAPE).mean, jnp.zeros(SHAPE))
        denoise = ddx.denoiser(process, point.model_fn(process, "x0"), "x0")
        x_T = jax.random.normal(jax.random.key(0), (3, *SHAPE))
        walk = jax.jit(lambda plan: ddx.walk(denoise, plan, x_T, jax.random.key(1)))
        for eta in (0.0, 0.5, 1.0):
            x_0 = walk(ddx.plan(process, ddx.trajectory(1000, K), eta))
            np.testing.assert_allclose(x_0, np.broadcast_to(point.mean, x_0.shape), atol=1e-12)


def test_posterior_times_marginal_is_the_joint_of_the_forward_chain():
    """Bayes' rule, by Gaussian conditioning on the joint of (x_s, x_t) given x_0."""
    process = PROCESSES["linear"]
    rng = np.random.default_rng(0)
    x_0, x_t = (rng.standard_normal((6, 2, 2, 1)) for _ in range(2))
    s, t = np.array([1, 5, 100, 499, 998, 0]), np.array([2, 700, 101, 500, 1000, 1])
    with jax.enable_x64(True):
        m_s = process.marginal(s)
        mean_t, variance_t = ddx.q_transition(process, m_s.alpha * x_0, s, t)
        m_t = process.marginal(t)
        ratio = m_t.alpha / m_s.alpha
        total = ratio**2 * m_s.sigma**2 + variance_t
        np.testing.assert_allclose(mean_t, m_t.alpha * x_0, rtol=1e-12)
        np.testing.assert_allclose(total, m_t.sigma**2, rtol=1e-12)
        gain = m_s.sigma**2 * ratio / total
        mean, variance = ddx.q_posterior(process, x_0, x_t, s, t)
        np.testing.assert_allclose(mean, m_s.alpha * x_0 + gain * (x_t - m_t.alpha * x_0), rtol=1e-9, atol=1e-12)
        # sigma^2 - gain^2 total cancels to 1e-16 / variance, hence the absolute tolerance.
        np.testing.assert_allclose(variance, m_s.sigma**2 - gain**2 * total, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_every_eta_keeps_the_marginals(eta):
    process = PROCESSES["cosine"]
    t = np.array([1, 2, 50, 399, 400, 400])
    s = np.array([0, 1, 3, 398, 399, 7])
    c, m_s, m_t = ddx.step_coefficients(process, s, t, eta), process.marginal(s), process.marginal(t)
    np.testing.assert_allclose(c.k * m_t.alpha + c.gamma, m_s.alpha, rtol=1e-13)
    np.testing.assert_allclose(c.k**2 * m_t.sigma**2 + c.lambda2, m_s.sigma**2, rtol=1e-12, atol=1e-300)
