"""Solvers have their order: the error against the exact flow of Gaussian data falls as K^-order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.forward.basis import PIXEL
from ddx.diffusion.forward.process import Process
from ddx.diffusion.forward.schedules import Cosine
from ddx.diffusion.reverse import solvers
from tests import oracle
from tests.walks import walker

SHAPE = (3, 2, 1)
PROCESSES = {"linear": ddx.ddpm(200_000), "cosine": ddx.iddpm(200_000)}  # fine enough that any time is one of them


def log_snr_times(process, K, rho=0.0):
    """Times even in log-SNR, or, with rho, in the (1 / rho)-th power of sigma / alpha (Karras et al. 2022, eq. 5)."""
    logsnr = process.schedule.logsnr[1:]
    if rho:
        first, last = (np.exp(-logsnr[[0, -1]] / 2)) ** (1 / rho)
        wanted = -2 * rho * np.log(np.linspace(first, last, K))
    else:
        wanted = np.linspace(logsnr[0], logsnr[-1], K)
    times = len(logsnr) - np.searchsorted(logsnr[::-1], wanted)
    return (*np.unique(np.clip(times, 1, process.num_steps))[::-1].tolist(), 0)


def flow(data, m_s, m_t, x_t):
    """The exact solution of the probability-flow equation: deviations from the mean scale with the spread."""
    spread_s, spread_t = (m.alpha**2 * data.variance + m.sigma**2 for m in (m_s, m_t))
    return m_s.alpha * data.mean + np.sqrt(spread_s / spread_t) * (x_t - m_t.alpha * data.mean)


def errors(process, solver, trajectories):
    data = oracle.random_gaussian(SHAPE)
    walk = walker(ddx.denoiser(process, data.model_fn(process), clip=False), solver, size=32).sample
    x_T = jax.random.normal(jax.random.key(0), (2, *SHAPE), jnp.float64)
    for times in trajectories:
        m_T, m_1 = process.marginal(times[0]), process.marginal(times[-2])
        # The last step, to the data, is x_0 at the last noisy time, in every solver.
        exact = data.expectation(m_1.alpha, m_1.sigma, flow(data, m_1, m_T, x_T))
        yield float(jnp.abs(walk(x_T, times) - exact).max())


def slope(Ks, errors):
    return -np.polyfit(np.log(Ks), np.log(list(errors)), 1)[0]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(
    ("solver", "order", "rho"),
    [("euler", 1, 0), ("heun", 2, 0), ("dpmpp_2m", 2, 0), ("dpmpp_3m", 3, 7), ("unipc_2", 3, 7)],
)
def test_a_solver_has_its_order(name, solver, order, rho):
    process, Ks = PROCESSES[name], (128, 256, 512)
    with jax.enable_x64(True):
        found = slope(Ks, errors(process, solver, [log_snr_times(process, K, rho) for K in Ks]))
    assert abs(found - order) < 0.2, found


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(("solver", "order", "rho"), [("deis", 3, 0), ("unipc_3", 4, 7)])
def test_a_multistep_solver_has_at_least_its_order(name, solver, order, rho):
    process, Ks = PROCESSES[name], (32, 64, 128)
    with jax.enable_x64(True):
        found = slope(Ks, errors(process, solver, [log_snr_times(process, K, rho) for K in Ks]))
    assert order - 0.2 < found < order + 1.2, found


def test_the_corrector_of_unipc_asks_no_further_question():
    asked = []
    denoise = ddx.denoiser(PROCESSES["linear"], lambda x, t: asked.append(1) or 0.3 * x, clip=False)
    times = log_snr_times(PROCESSES["linear"], 6)
    for solver in ("euler", "unipc_3"):
        ddx.sample(denoise, None, jnp.ones((1, *SHAPE)), times, solver=solver)
    assert len(asked) == 2  # traced once each: the scan's body has one network


def test_weights_that_need_a_common_log_snr_are_refused_under_a_blur():
    for solver in ("deis", "unipc_2"):
        with pytest.raises(ValueError, match="without a blur; use 'heun' or 'dpmpp_2m'"):
            ddx.plan(ddx.blurring(20), (20, 10, 0), solver=solver)


@pytest.mark.parametrize("T", [1000, 4000])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_heun_keeps_its_order_when_times_are_even(schedule, T):
    process, Ks = ddx.ddpm(T, schedule), (32, 64, 128)
    with jax.enable_x64(True):
        found = slope(Ks, errors(process, "heun", [ddx.trajectory(T, K, "linspace") for K in Ks]))
    assert abs(found - 2) < 0.2, found


def test_each_order_is_worth_it_at_twenty_steps():
    process = PROCESSES["linear"]
    with jax.enable_x64(True):
        times = [log_snr_times(process, 20)]
        euler, second, third = (next(errors(process, solver, times)) for solver in ("euler", "dpmpp_2m", "dpmpp_3m"))
    assert third < 0.5 * second and second < 0.25 * euler


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_every_solver_is_exact_where_the_data_are_one_point(solver):
    process = ddx.iddpm(1000)
    with jax.enable_x64(True):
        point = oracle.Gaussian(oracle.random_gaussian(SHAPE).mean, jnp.zeros(SHAPE))
        walk = walker(ddx.denoiser(process, point.model_fn(process, "x0"), "x0"), solver, size=1).sample
        x_T = jax.random.normal(jax.random.key(0), (2, *SHAPE), jnp.float64)
        for times in ((1000, 0), (1000, 400, 0), ddx.trajectory(1000, 30, "quad")):
            x_0 = walk(x_T, times)
            np.testing.assert_allclose(x_0, np.broadcast_to(point.mean, x_0.shape), atol=1e-12)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_a_process_that_ends_without_signal_can_be_solved(solver):
    """The first step then has an infinite length in log-SNR."""
    process = ddx.ddpm(100, "jsd")
    assert process.schedule.logsnr[-1] == -np.inf
    with jax.enable_x64(True):
        data = oracle.random_gaussian(SHAPE)
        denoise = ddx.denoiser(process, data.model_fn(process, "v"), "v", clip=False)
        x_T = jax.random.normal(jax.random.key(0), (2, *SHAPE), jnp.float64)
        x_0 = ddx.sample(denoise, None, x_T, ddx.trajectory(100, 50), solver=solver)
        m_T, m_1 = process.marginal(100), process.marginal(1)
        exact = data.expectation(m_1.alpha, m_1.sigma, flow(data, m_1, m_T, x_T))
        # trajectory "uniform" ends at t = 99, whose marginal is close to that of 100.
        assert float(jnp.abs(x_0 - exact).max()) < 0.2


def test_sde_dpm_solver_converges_to_the_datas_moments_faster_than_ancestral_sampling():
    from tests.diffusion.test_oracle import moments_of_samples

    process, spread = PROCESSES["linear"], {}
    with jax.enable_x64(True):
        data = oracle.random_gaussian((2, 1, 1))
        for solver in ("euler", "dpmpp_2m"):
            found = []
            for K in (20, 40, 80):
                times = log_snr_times(process, K)
                variance = moments_of_samples(process, data, times, 1.0, "small", solver=solver)[1]
                found.append(float(np.abs(variance - data.variance).max()))
            spread[solver] = np.array(found)
    assert np.all(spread["dpmpp_2m"] < 0.5 * spread["euler"]), spread
    assert np.all(np.diff(spread["dpmpp_2m"]) < 0), spread


def test_a_kernel_of_ones_own_runs_like_the_others():
    """Stochastic or not, with memory or not, a sampler is a pair of functions."""
    process = ddx.ddpm(100)
    denoise = ddx.denoiser(process, lambda x, t: 0.3 * x)
    x_T = jax.random.normal(jax.random.key(0), (2, *SHAPE))

    def step(denoise, u_t, count, row, z):
        d = denoise.at(u_t, row.level)
        return row.k * u_t + row.gamma * d.x_0 + row.adds_noise * jnp.sqrt(row.small) * z, count + 1, d

    mine = ddx.Solver(lambda u_T: jnp.zeros((), jnp.int32), step)
    found = ddx.interpolate(denoise, x_T, x_T, (0.0,), ddx.trajectory(100, 10), solver=mine)
    np.testing.assert_allclose(found[0], ddx.sample(denoise, None, x_T, ddx.trajectory(100, 10)), atol=1e-5)
    with pytest.raises(ValueError, match="would be ignored"):
        ddx.sample(denoise, None, x_T, variance="large", eta=1.0, solver=mine)
    args = (denoise, jax.random.key(1), x_T, ddx.trajectory(100, 10), 1.0)
    np.testing.assert_array_equal(ddx.sample(*args, solver=mine), ddx.sample(*args))


def test_3m_integrates_a_parabola_exactly_upwards_too():
    """Over the third step x_0 is a parabola of the half log-SNR l, so equation (2) holds without error."""
    with jax.enable_x64(True):
        process = Process(PIXEL, Cosine(1000, -10.0, 10.0))

        def at(u_t, level):
            x_0 = jnp.full_like(u_t, 1.0) * (1.0 + level.logsnr / 2 + (level.logsnr / 2) ** 2)
            return ddx.Denoised(x_0, (u_t - level.alpha * x_0) / level.sigma)

        denoise, x_0 = ddx.Denoiser(process, at), jnp.ones((1, *SHAPE))
        times = (900, 600, 300, 0)
        u_s, u_t = (ddx.encode(denoise, x_0, t, solver="dpmpp_3m") for t in (times, times[1:]))
        s, t = process.marginal(900), process.marginal(600)
        h, l_t = (s.logsnr - t.logsnr) / 2, t.logsnr / 2
        y, dy = np.polynomial.legendre.leggauss(60)
        y, dy = h * (y + 1) / 2, h * dy / 2
        integral = (dy * np.exp(y - h) * (1 + (l_t + y) + (l_t + y) ** 2)).sum()
        assert h < -1  # longer than a series is good for
        np.testing.assert_allclose(u_s, s.sigma / t.sigma * u_t + s.alpha * integral, rtol=1e-10)
