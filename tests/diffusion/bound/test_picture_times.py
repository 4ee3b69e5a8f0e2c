"""Times for pictures: what DDIM's steps lose of Gaussian data, and the times at which they lose least."""

import itertools

import jax
import numpy as np
import pytest

import ddx
from ddx.diffusion.bound import optimal, pictures
from tests import oracle
from tests.diffusion.bound.test_analytic import natural_spectrum, variance_of_samples

OTHERS = ("uniform", "quad", "even", "trailing", "karras", "logsnr")


def errors(process, data, shape=None):
    """The mean squared error of the exact network at the times 0 .. T."""
    m = process.marginal(np.arange(process.num_steps + 1), shape)
    return data.covariance(m.alpha, m.sigma)


def total(costs, times):
    return sum(costs[s, t] for t, s in itertools.pairwise(times))


def distance(process, data, times):
    """The Frechet distance of DDIM's samples from x_T ~ N(0, 1) to the data, by the closed form of its paper."""
    mean, variance = data.ddim_moments(process, times)
    return np.sqrt(np.sum(np.square(mean - data.mean) + np.square(np.sqrt(variance) - np.sqrt(data.variance))))


@pytest.fixture(scope="module")
def natural():
    """Gaussian data with every second frequency of CIFAR-10's, each way."""
    variance = natural_spectrum().variance[::2, ::2]
    return oracle.Gaussian(np.zeros(variance.shape), variance)


@pytest.mark.parametrize("times", [(100, 0), (100, 40, 0), (100, 99, 61, 20, 3, 1, 0), tuple(range(100, -1, -1))])
def test_the_logarithms_of_what_steps_keep_add_up(times):
    process = ddx.ddpm(100)
    m = process.marginal(times[0])
    for C in (0.01, 0.3, 1.0, 50.0):
        data = oracle.Gaussian(np.zeros((1, 1, 1)), np.full((1, 1, 1), C))
        kept = 1 - pictures.picture_costs(errors(process, data), data.variance) / np.sqrt(C)
        exact = m.alpha**2 * C + m.sigma**2  # x_T of the closed form has the variance 1 instead
        found = C / exact * np.exp(2 * sum(np.log(kept[s, t]) for t, s in itertools.pairwise(times)))
        np.testing.assert_allclose(found, data.ddim_moments(process, times)[1].item(), rtol=1e-6)


def test_under_a_blur_too_and_where_the_walk_ends_in_noise():
    process, shape, times = ddx.blurring(20, 2.0), (2, 2), (20, 13, 6, 2, 0)
    data = oracle.Gaussian(np.zeros((2, 2, 1)), np.array([[2.0, 0.5], [0.1, 0.01]])[..., None])
    mse, m = errors(process, data, shape), process.marginal(0, shape)
    kept = 1.0
    for place in np.ndindex(2, 2, 1):
        only = np.zeros_like(data.variance)
        only[place] = 1.0
        costs = pictures.picture_costs(only * mse, only * data.variance)
        steps = [1 - costs[s, t] / np.sqrt(data.variance[place]) for t, s in itertools.pairwise(times)]
        kept = kept + only * (np.prod(steps) - 1.0)
    with jax.enable_x64(True):
        found = variance_of_samples(process, data, times, 0.0, None, 0)
    np.testing.assert_allclose(found, kept**2 * (m.alpha**2 * data.variance + m.sigma**2), rtol=1e-6)


def test_they_are_the_cheapest_of_all():
    rng = np.random.default_rng(0)
    spectrum = rng.uniform(0.01, 2.0, (3, 2, 1))
    costs = pictures.picture_costs(errors(ddx.iddpm(9), oracle.Gaussian(0.0, spectrum)), spectrum)
    found = ddx.optimal_trajectories(costs, 9, to_data=True)
    for k in range(1, 10):
        every = [(9, *reversed(middle), 0) for middle in itertools.combinations(range(1, 9), k - 1)]
        assert found[k] == min(every, key=lambda times: total(costs, times))


@pytest.mark.parametrize("process", [ddx.ddpm(1000), ddx.iddpm(1000)], ids=["linear", "cosine"])
def test_samples_are_nearer_to_gaussian_data_than_on_all_other_times(process, natural):
    mse = errors(process, natural)
    costs = pictures.picture_costs(mse, natural.variance)
    found = ddx.optimal_trajectories(costs, 20, to_data=True)
    of_bound = ddx.optimal_trajectories(optimal.step_costs(process, mse.mean((1, 2, 3))), 20)
    for k in (5, 10, 20):
        others = {name: ddx.trajectory(1000, k, name, process.schedule) for name in OTHERS}
        best = min(distance(process, natural, times) for times in (of_bound[k], *others.values()))
        assert distance(process, natural, found[k]) < 0.95 * best


@pytest.mark.parametrize("k", [1, 5, 20])
def test_from_an_exact_x_T_the_distance_is_at_most_the_sum_of_the_costs(natural, k):
    process = ddx.iddpm(100)
    m = process.marginal(100)
    start = np.sqrt(m.alpha**2 * natural.variance + m.sigma**2)
    costs = pictures.picture_costs(errors(process, natural), natural.variance)
    for times in (ddx.trajectory(100, k, "trailing"), ddx.optimal_trajectories(costs, k, to_data=True)[k]):
        kept = np.sqrt(natural.ddim_moments(process, times)[1]) * start
        exact = np.sqrt(np.sum(np.square(np.sqrt(natural.variance) - kept)))
        assert exact <= total(costs, times) + 1e-6 < 2 * exact


def test_what_a_measurement_lets_fall_is_raised_and_what_does_not_vary_costs_nothing():
    spectrum = np.array([[[0.5], [0.0]]])
    mse = np.linspace(0, 0.6, 7).reshape(7, 1, 1, 1) * np.ones((1, 1, 2, 1))  # at the end more than the variance
    costs = pictures.picture_costs(mse, spectrum)
    assert np.isfinite(costs[np.triu_indices(7, 1)]).all() and np.isinf(costs[np.tril_indices(7)]).all()
    assert costs[5, 6] < 1e-7
    np.testing.assert_allclose(costs[0, 5:], np.sqrt(0.5))  # from noise alone, nothing is kept
    dip = mse.copy()
    dip[3] = 0.0
    raised = mse.copy()
    raised[3] = mse[2]
    np.testing.assert_array_equal(pictures.picture_costs(dip, spectrum), pictures.picture_costs(raised, spectrum))


def test_the_noise_of_a_measurement_does_not_choose_the_times(natural):
    process, rng = ddx.iddpm(400), np.random.default_rng(0)
    mse, C = errors(process, natural), natural.variance
    np.testing.assert_allclose(pictures.smoothed_mse(process, mse[1:], C), mse, rtol=1e-9, atol=1e-15)
    exact = pictures.picture_costs(mse, C)
    noisy = mse[1:] * rng.gamma(50, 1 / 50, mse[1:].shape)  # as from 100 images
    times = lambda mse: ddx.optimal_trajectories(pictures.picture_costs(mse, C), 20, to_data=True)[20]  # noqa: E731
    best, smooth, raw = (
        total(exact, times(x)) for x in (mse, pictures.smoothed_mse(process, noisy, C), np.append(mse[:1], noisy, 0))
    )
    assert best <= smooth < 1.01 * best < 1.03 * best < raw


@pytest.mark.parametrize(
    ("mse", "message"),
    [(np.zeros((5, 2, 2, 1)), r"mse of shape \(5, 2, 2, 1\)"), (np.full((5, 4, 4, 1), np.nan), "there is no mse")],
)
def test_mistakes_are_named(mse, message):
    with pytest.raises(ValueError, match=message):
        pictures.picture_costs(mse, np.ones((4, 4, 1)))
