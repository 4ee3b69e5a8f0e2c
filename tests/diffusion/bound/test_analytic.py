"""Optimal variances and trajectories: what must hold whatever the numbers."""

import dataclasses
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.bound import analytic, optimal, statistics
from ddx.diffusion.forward.basis import DCT, largest_variance
from ddx.diffusion.papers import analytic_dpm
from ddx.diffusion.reverse import solvers
from ddx.diffusion.reverse.rows import downward
from tests import golden, oracle


def natural_spectrum():
    """The variance of every frequency of CIFAR-10's images, (32, 32, 1), and data that are Gaussian with it."""
    variance = golden.load("golden_general_diag")["dct/var"].reshape(32, 32, 1)
    return oracle.Gaussian(np.zeros(variance.shape), variance)


def exact_statistics(process, data):
    t = np.arange(1, process.num_steps + 1)
    m = process.marginal(t, data.variance.shape[:2])
    mse, zeros = data.covariance(m.alpha, m.sigma), np.zeros(len(t))
    logsnr = statistics.noise_logsnr(process, t)
    ms_eps = 1 - (m.alpha**2 / m.sigma**2 * mse).mean((1, 2, 3))
    return statistics.Statistics(logsnr, mse, zeros, ms_eps, zeros, np.asarray(data.variance), 1)


def variance_of_samples(process, data, times, eta, variance, until):
    """That of u at the time `until`, of each coordinate, from the exact variance at times[0].

    The sampler is linear and diagonal: every step has a gain, and what its noise adds.
    """
    denoise = ddx.denoiser(process, data.model_fn(process), clip=False)
    m = process.marginal(times[0], data.variance.shape[:2])
    found = m.alpha**2 * data.variance + m.sigma**2
    rows = jax.tree.map(jnp.asarray, downward(process, times, eta, data.variance.shape[:2]))
    kernel = solvers.euler(variance) if variance else solvers.euler()

    @jax.jit
    def step(row):
        u = jnp.stack([jnp.zeros(data.variance.shape), jnp.ones(data.variance.shape)])
        row = row.expand(data.variance.shape[:2])._replace(adds_noise=jnp.ones(()))
        still = kernel.step(denoise, u, (), row, 0.0)[0]
        return still[1] - still[0], kernel.step(denoise, u, (), row, 1.0)[0][0] - still[0]

    for i, s in enumerate(times[1:]):
        gain, added = step(jax.tree.map(lambda x, i=i: x[i], rows))
        found = gain**2 * found + added**2
        if s == until:
            return np.asarray(found)
    raise AssertionError(until)


def test_in_cosines_any_number_of_steps_keeps_every_frequency_of_images():
    # At eta = 0 and from T to x_1. The highest band is the quarter of the frequencies that have the least variance.
    data = natural_spectrum()
    with jax.enable_x64(True):
        process = ddx.in_dct_basis(ddx.ddpm())
        of = exact_statistics(process, data)
        m = process.marginal(1)
        truth = np.asarray(m.alpha**2 * data.variance + m.sigma**2)
        high = data.variance <= np.quantile(data.variance, 0.25)

        def ratio(times, variance):
            return variance_of_samples(process, data, times, 0.0, variance, 1) / truth

        for num_visits in (5, 10, 25, 100):
            times = ddx.trajectory(1000, num_visits, "analytic_dpm")
            every = ratio(times, analytic.analytic(of, per_coordinate=True))
            np.testing.assert_allclose(every, 1.0, atol=0.002)
        times = ddx.trajectory(1000, 10, "analytic_dpm")
        ddim, isotropic = ratio(times, None)[high].mean(), ratio(times, analytic.analytic(of))[high].mean()
        assert abs(ddim - 0.16) < 0.01 and abs(isotropic - 26.4) < 0.1, (ddim, isotropic)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_same_for_a_blur(eta):
    process = ddx.blurring(1000, 20.0)
    data = natural_spectrum()
    with jax.enable_x64(True):
        of = exact_statistics(process, data)
        m = process.marginal(0, (32, 32))
        truth = m.alpha**2 * data.variance + m.sigma**2
        for num_visits in (5, 25):
            times = tuple(np.linspace(1000, 0, num_visits + 1).round().astype(int).tolist())
            variance = analytic.analytic(of, per_coordinate=True)
            found = variance_of_samples(process, data, times, eta, variance, 0)
            np.testing.assert_allclose(found / truth, 1.0, atol=1e-6)


def test_a_table_of_one_schedule_serves_another():
    data = natural_spectrum()
    of = exact_statistics(ddx.in_dct_basis(ddx.ddpm()), data)
    other = ddx.in_dct_basis(ddx.iddpm())
    row = jax.tree.map(lambda x: jnp.asarray(x)[2], downward(other, (3000, 2500, 1800, 1200, 0), 1.0).expand())
    for per_coordinate in (False, True):
        found = analytic.analytic(of, per_coordinate=per_coordinate)(None, row)
        exact = analytic.analytic(exact_statistics(other, data), per_coordinate=per_coordinate)(None, row)
        np.testing.assert_allclose(found, exact, rtol=1e-3)


def test_the_errors_of_the_exact_network_are_the_closed_form():
    data = oracle.random_gaussian((4, 4, 1))
    process = ddx.in_dct_basis(ddx.ddpm(20, "cosine"))
    with jax.enable_x64(True):
        denoise = ddx.denoiser(process, data.model_fn(process), clip=False)
        rows = jax.tree.map(lambda x: x[::-1], downward(process, ddx.trajectory(20)))
        rng = np.random.default_rng(0)
        count, total, zeros = 4000, None, None
        u_0 = np.asarray(data.mean) + np.sqrt(np.asarray(data.variance)) * rng.standard_normal((count, 4, 4, 1))
        noise = jnp.asarray(rng.standard_normal((20, count, 4, 4, 1)))
        x_0, weight = DCT.synthesis(jnp.asarray(u_0)), jnp.ones(count)
        total = statistics.error_sums(denoise, x_0, weight, rows, noise, lambda z: z)
        zeros = statistics.error_sums(denoise, x_0, weight.at[5:].set(0), rows, noise, lambda z: z)
        five = statistics.error_sums(denoise, x_0[:5], weight[:5], rows, noise[:, :5], lambda z: z)
    for a, b in zip(zeros, five, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    moments = u_0.sum(0), np.square(u_0).sum(0)
    of = statistics.statistics(process, total, moments, np.arange(1, 21), count)
    np.testing.assert_allclose(of.spectrum, data.variance, rtol=0.1)
    exact = exact_statistics(process, data)
    z = (of.mse.mean((1, 2, 3)) - exact.mse.mean((1, 2, 3))) / of.mse_error
    assert np.abs(z).max() < 4 and np.abs(z).mean() > 0.2  # the errors are neither too small nor too large
    np.testing.assert_allclose(of.mse, exact.mse, rtol=0.12)


@pytest.mark.parametrize("low", [-1.0, 0.0])
@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_no_data_vary_more_than_their_range_allows(basis, low):
    process = dataclasses.replace(ddx.in_dct_basis(ddx.ddpm(20)) if basis == "dct" else ddx.ddpm(20), low=low)
    most = largest_variance(process.basis, (4, 6), low)
    # Half of the images are the sign of a vector of the basis, half are its opposite: that coordinate varies most.
    for place in ((0, 0), (1, 2), (3, 5)):
        with jax.enable_x64(True):
            vector = process.basis.synthesis(jnp.zeros((4, 6, 1)).at[place].set(1.0))
            images = jnp.stack([jnp.where(sign * vector > 0, 1.0, low) for sign in (1, -1)])
            found = np.asarray(process.basis.analysis(images)).var(0)
        assert np.all(found <= most + 1e-9)
        if basis == "dct":
            np.testing.assert_allclose(found[place], most[place], rtol=1e-9)
    assert basis == "dct" or np.all(most == ((1 - low) / 2) ** 2)


def test_of_one_image_the_range_of_the_data_limits_the_variance():
    process = ddx.ddpm(20, "cosine")
    denoise = ddx.denoiser(process, golden.fake_model(), "v")
    x_0 = np.random.default_rng(0).uniform(-1, 1, (5, 4, 4, 1)).astype(np.float32)
    one, five = (ddx.estimate_statistics(denoise, x_0[:n], jax.random.key(0)) for n in (1, 5))
    assert np.all(one.spectrum == 1.0) and one.num_images == 1
    np.testing.assert_allclose(five.spectrum, x_0.var(0, ddof=1), rtol=1e-4)
    row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(process, (10, 5, 0), 1.0).expand())
    assert float(analytic.analytic(one)(None, row).squeeze()) > 1.2 * float(row.lambda2.squeeze())


def test_no_variance_is_below_that_of_the_posterior_or_above_the_data_s():
    data = natural_spectrum()
    process = ddx.in_dct_basis(ddx.ddpm())
    of = exact_statistics(process, data)
    wrong = of._replace(mse=100 * of.mse, ms_eps=of.ms_eps * 1.5)
    for t, s in ((1000, 700), (500, 499), (20, 1)):
        row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(process, (t, s, 0), 1.0).expand())
        for variance in (analytic.analytic(wrong), analytic.analytic(wrong, per_coordinate=True)):
            v = np.asarray(variance(None, row))
            limit = data.variance if v.size > 1 else data.variance.mean()
            assert np.all(v >= row.lambda2) and np.all(v <= row.lambda2 + row.gamma**2 * limit * (1 + 1e-6))
        assert np.all(analytic.analytic(wrong, "gamma")(None, row) >= row.lambda2)


@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_no_other_variance_has_a_tighter_bound_whatever_the_network(basis):
    # On the images and with the noise that the statistics are of: then the optimum is exact for every term.
    process = ddx.in_dct_basis(ddx.ddpm(20)) if basis == "dct" else ddx.ddpm(20)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x_0 = jnp.asarray(rng.integers(0, 256, (6, 4, 4, 1)) / 127.5 - 1)
        noise = jnp.asarray(rng.standard_normal((20, *x_0.shape)))
        denoise = ddx.denoiser(process, golden.fake_model(), "v", clip=False)
        rows = jax.tree.map(lambda x: x[::-1], downward(process, ddx.trajectory(20)))
        weight, given = jnp.ones(6), lambda z: z
        sums = statistics.error_sums(denoise, x_0, weight, rows, noise, given)
        of = statistics.statistics(process, sums, (x_0.sum(0), jnp.square(x_0).sum(0)), np.arange(1, 21), 6)

        def terms(variance):
            found = ddx.bits_per_dim(denoise, x_0, None, variance=variance, noise=noise, cdf="tanh")
            return np.asarray(found.terms)[:, 1:].mean(0)

        isotropic = terms(analytic.analytic(of, limit=np.inf))
        for other in ("small", "large", analytic.analytic(of, "gamma", limit=1.0)):
            assert np.all(isotropic <= terms(other) + 1e-12)
        assert np.all(terms(analytic.analytic(of, per_coordinate=True, limit=np.inf)) <= isotropic + 1e-12)
        mse, limit = np.concatenate([[0.0], of.mse.mean((1, 2, 3))]), float(np.median(of.mse.mean((1, 2, 3))))
        for most in (np.inf, limit):
            costs = optimal.step_costs(process, mse, limit=most) / np.log(2)
            found = terms(analytic.analytic(of, limit=most))
            np.testing.assert_allclose(found, [costs[t - 1, t] for t in range(2, 21)], rtol=1e-9)
        each = np.concatenate([of.mse[:1], of.mse])
        costs = optimal.step_costs(process, each, limit=np.median(of.mse, axis=0)) / np.log(2)
        found = terms(analytic.analytic(of, per_coordinate=True, limit=np.median(of.mse, axis=0)))
        np.testing.assert_allclose(found, [costs[t - 1, t] for t in range(2, 21)], rtol=1e-9)


@pytest.mark.parametrize("kind", ["npr", "sn"])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("process", [ddx.ddpm(20, "cosine"), ddx.blurring(20, 2.0)], ids=["noise", "blur"])
def test_an_exact_head_says_the_variance_of_the_posterior(process, prediction, kind):
    data = oracle.random_gaussian((4, 4, 1))
    network, t = data.model_fn(process, prediction), 12
    with jax.enable_x64(True):
        row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(process, (t, 5, 0), 0.7, (4, 4)))
        row = row.expand((4, 4))
        m, a = row.level, row.level.a
        known = data.covariance(m.alpha, m.sigma)
        p, q = {"eps": (0.0, 1.0), "x0": (1.0, 0.0), "v": (-m.sigma, a)}[prediction]
        of_y = known * jnp.square(p - q * m.alpha / m.sigma)  # y = p u_0 + q eps, and u_t is given
        u_t = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 1)))
        y = network(process.basis.synthesis(u_t), jnp.broadcast_to(row.level.model_time, (2,)))
        head = of_y + (jnp.square(process.basis.analysis(y)) if kind == "sn" else jnp.zeros(u_t.shape))
        denoise = ddx.denoiser(process, lambda *_: jnp.concatenate([y, head], -1), prediction, clip=False)
        found = getattr(ddx, kind)(limit=None)(denoise.at(u_t, row.level), row)
        truth = jnp.broadcast_to(row.lambda2 + jnp.square(row.gamma) * known, found.shape)
        np.testing.assert_allclose(found, truth, rtol=1e-9)
        halved = getattr(ddx, kind)(limit=known / 2)(denoise.at(u_t, row.level), row)
        np.testing.assert_allclose(halved - row.lambda2, (truth - row.lambda2) / 2, rtol=1e-7)


def headed(x, t):
    return jnp.concatenate([golden.fake_model()(x, t), 3.0 + jnp.cos(x)], -1)


@pytest.mark.parametrize(("kind", "eta"), [("npr", 0.0), ("sn", 0.5)])
def test_a_head_s_variance_has_a_name_at_any_eta(kind, eta):
    process, times = ddx.ddpm(20, "cosine"), (20, 9, 1, 0)
    denoise, x_T = ddx.denoiser(process, headed, "v"), jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    named, made, still = (
        ddx.sample(denoise, jax.random.key(1), x_T, times, eta, variance)
        for variance in (kind, getattr(ddx, kind)(), "small")
    )
    np.testing.assert_array_equal(named, made)
    assert float(jnp.abs(named - still).max()) > 1e-2


@pytest.mark.parametrize("kind", ["npr", "sn"])
@pytest.mark.parametrize("process", [ddx.ddpm(20, "cosine"), ddx.blurring(20, 2.0)], ids=["noise", "blur"])
def test_a_head_s_variance_is_limited_in_any_basis(process, kind):
    x_t = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    table = downward(process, (20, 9, 3, 1, 0), 1.0, (4, 4))
    row = jax.tree.map(lambda x: jnp.asarray(x[0]), table).expand((4, 4))
    d = ddx.denoiser(process, headed, "v").at(x_t, row.level)._replace(extra=jnp.full(x_t.shape, 1e9))
    found = (getattr(ddx, kind)()(d, row) - row.lambda2) / row.gamma**2
    most = largest_variance(process.basis, (4, 4))
    np.testing.assert_allclose(found, np.broadcast_to(most, found.shape), rtol=1e-3)


def test_beyond_a_table_its_ends_hold_and_between_its_knots_a_line():
    logsnr, mse = np.array([40.0, 20.0, -40.0]), np.array([1.0, 3.0, 9.0]).reshape(3, 1, 1, 1)
    zeros = np.zeros(3)
    of = statistics.Statistics(logsnr, mse, zeros, zeros, zeros, np.full((1, 1, 1), 100.0), 9)
    row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(ddx.ddpm(20), (10, 5, 0), 1.0).expand())
    for at, value in ((60.0, 1.0), (30.0, 2.0), (-10.0, 6.0), (-60.0, 9.0), (-np.inf, 9.0)):
        alpha = np.reshape(np.sqrt(1 / (1 + np.exp(-at))), (1, 1, 1))
        sigma = np.reshape(np.sqrt(1 / (1 + np.exp(at))), (1, 1, 1))
        level = row.level._replace(alpha=alpha, sigma=sigma, a=alpha)
        found = analytic.analytic(of)(None, row._replace(level=level, lambda2=0.0, gamma=1.0))
        np.testing.assert_allclose(found, value, rtol=1e-5)


def test_the_last_noise_is_limited_to_grey_levels_of_the_data_s_range():
    times = (20, 11, 4, 1, 0)
    table = downward(ddx.ddpm(20), times).expand()
    for low, y, count in ((-1.0, 2.0, 1), (0.0, 2.0, 1), (0.0, 1.0, 2)):
        v = analytic_dpm.clip_last(lambda d, step: jnp.ones((1, 1, 1)), times, y, count, low)
        found = [float(v(None, jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), table)).squeeze()) for i in range(4)]
        # Of that noise the mean size is y of the 255 levels between low and 1.
        sigma = np.sqrt(found[2])
        np.testing.assert_allclose(sigma * np.sqrt(2 / np.pi) * 255 / (1 - low), y, rtol=1e-5)
        assert found[0] == 1.0 and found[3] == 1.0 and (found[1] == 1.0) == (count == 1)


@pytest.mark.parametrize("eta", [0.3, 0.8])
def test_the_bound_of_ddim_s_family_is_that_of_its_coefficients(eta):
    # A KL of Gaussians with variances lambda2 and v is 0.5 (x - 1 - log x + gamma^2 e^2 / v), x = lambda2 / v.
    process, times = ddx.ddpm(20), (20, 11, 4, 1, 0)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x_0 = jnp.asarray(rng.integers(0, 256, (2, 4, 4, 1)) / 127.5 - 1)
        noise = jnp.asarray(rng.standard_normal((4, *x_0.shape)))
        denoise = ddx.denoiser(process, golden.fake_model(), "v", clip=False)
        v = lambda d, step: 2.0 * step.lambda2 + 0.01  # noqa: E731
        found = ddx.bits_per_dim(denoise, x_0, None, times, v, noise, "tanh", eta)
        for j, (s, t) in enumerate([(1, 4), (4, 11), (11, 20)]):
            a_t, s_t, _ = process.marginal(t)
            s_s, r = process.marginal(s).sigma, np.exp(process.change(s, t).logsnr)
            lambda2 = eta**2 * s_s**2 * (1 - r)
            gamma = process.marginal(s).alpha - np.sqrt(s_s**2 - lambda2) * a_t / s_t  # DDIM eq. 12
            estimate = denoise(a_t * x_0 + s_t * noise[j + 1], np.full(2, t)).x_0
            square = jnp.square(x_0 - estimate).mean((1, 2, 3))
            ratio = lambda2 / (2.0 * lambda2 + 0.01)
            kl = 0.5 * (ratio - 1 - np.log(ratio) + gamma**2 * square / (2.0 * lambda2 + 0.01))
            np.testing.assert_allclose(found.terms[:, j + 1], kl / np.log(2), rtol=1e-8)
        with pytest.raises(ValueError, match="eta=0"):
            ddx.bits_per_dim(denoise, x_0, None, times, noise=noise, eta=0)


def test_trajectories_are_the_cheapest_of_all():
    rng = np.random.default_rng(0)
    process = ddx.ddpm(20)
    costs = optimal.step_costs(process, rng.uniform(0.01, 0.5, 21))
    found = optimal.optimal_trajectories(costs, 20)
    assert found[20] == ddx.trajectory(20) and found[1] == (20, 0)
    for k in (2, 3, 4):
        every = itertools.combinations(range(2, 20), k - 2)
        cost = lambda path: sum(costs[s, t] for t, s in itertools.pairwise(path))  # noqa: E731
        best = min((cost((20, *reversed(middle), 1)), (20, *reversed(middle), 1)) for middle in every)
        np.testing.assert_allclose(cost(found[k][:-1]), best[0], rtol=1e-12)
        assert found[k] == (*best[1], 0)
    noisy = optimal.optimal_trajectories(optimal.step_costs(ddx.blurring(6, 2.0), np.full(7, 0.2), (4, 4)), 6, True)
    assert noisy[6] == (6, 5, 4, 3, 2, 1, 0) and all(path[0] == 6 and path[-1] == 0 for path in noisy.values())


def test_of_paths_that_cost_the_same_the_first_counts():
    paths = optimal.dynamic_program(np.zeros((5, 5)), 4)
    assert [paths.to_last(k).tolist() for k in (1, 2, 3)] == [[0, 4], [0, 1, 4], [0, 1, 2, 4]]


@pytest.mark.parametrize("first_bad", [21, 20, 18, 12])
def test_the_published_trajectory_visits_as_many_times_as_are_asked_for(first_bad):
    process = ddx.ddpm(20, "cosine")
    ms_eps = np.where(np.arange(21) >= first_bad, 1.01, 0.6 + 0.01 * np.arange(21))
    for num_visits in range(2 if first_bad == 21 else 3, 21):
        times = analytic_dpm.gamma_trajectory(process, ms_eps, num_visits)
        assert times[0] == 20 and times[-2:] == (1, 0) and len(times) == num_visits + 1
        assert all(s < t for t, s in itertools.pairwise(times))


def test_all_trajectories_of_a_thousand_times_take_seconds():
    process = ddx.ddpm()
    mse = exact_statistics(process, natural_spectrum()).mse.mean((1, 2, 3))
    costs = optimal.step_costs(process, np.concatenate([[0.0], mse]))
    start = time.process_time()
    found = optimal.optimal_trajectories(costs, 1000)
    assert time.process_time() - start < 10 and len(found) == 1000
    total = [sum(costs[s, t] for t, s in itertools.pairwise(path[:-1])) for path in found.values()]
    assert np.all(np.diff(total[1:]) <= 1e-12)  # one variance for all frequencies: more steps cost less


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda of: analytic.analytic(of, "sn"), "choose mse or gamma"),
        (lambda of: analytic.analytic(of, "gamma", per_coordinate=True), "use source='mse'"),
        (lambda of: ddx.in_dct_basis(ddx.blurring()), "dct basis already"),
        (lambda of: optimal.dynamic_program(np.zeros((5, 5)), 5), "1 to 4 steps"),
        (lambda of: optimal.dynamic_program(np.full((5, 5), np.nan), 2), "between nodes 0 and 1 is not a number"),
        (lambda of: optimal.optimal_trajectories(np.zeros((5, 5)), 5), r"1\.\.4"),
        (lambda of: optimal.optimal_trajectories(np.full((5, 5), np.inf), 2, True), "no path of 1 steps has a finite"),
        (lambda of: analytic_dpm.gamma_trajectory(ddx.ddpm(20, "cosine"), np.zeros(21), 1), r"2\.\.20; got 1"),
        (lambda of: analytic_dpm.gamma_trajectory(ddx.ddpm(20, "cosine"), np.full(21, 2.0), 5), "from t = 1 on"),
        (lambda of: ddx.npr()(ddx.Denoised(0, 0, None), None), "needs a network with 2 C output channels"),
        (lambda of: ddx.sn()(ddx.Denoised(0, 0, 1.0), None), "needs a ddx.denoiser of a network"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(None)
    assert "\n" not in str(error.value)


def test_gamma_is_refused_under_a_blur():
    process = ddx.blurring(20, 2.0)
    of = exact_statistics(process, oracle.random_gaussian((4, 4, 1)))
    row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(process, (10, 5, 0), 1.0, (4, 4))).expand((4, 4))
    with pytest.raises(ValueError, match="says nothing under a blur"):
        analytic.analytic(of, "gamma")(None, row)
