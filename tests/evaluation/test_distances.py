"""Distances of sets of features, against closed forms, other derivations and loops over pairs."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from ddx.evaluation import discrepancy
from ddx.evaluation.discrepancy import cmmd, kid
from ddx.evaluation.frechet import extrapolated, frechet_distance, gaussian, joined, merged, moments
from ddx.evaluation.inception_score import inception_score
from ddx.evaluation.manifolds import manifolds


def orthogonal(rng, dimensions):
    return np.linalg.qr(rng.standard_normal((dimensions, dimensions)))[0]


@pytest.mark.parametrize("seed", range(5))
def test_the_frechet_distance_is_the_one_of_a_matrix_square_root(seed):
    rng = np.random.default_rng(seed)
    means, covariances = rng.standard_normal((2, 64)), []
    for _ in range(2):
        values = rng.uniform(0.1, 3, 64)
        turn = orthogonal(rng, 64)
        covariances.append(turn * values @ turn.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    found = frechet_distance(*map(gaussian, means, covariances))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("rank", [0, 1, 20, 64])
def test_covariances_that_commute_have_the_distance_of_their_eigenvalues(rank):
    """Of any rank: sum (sqrt a - sqrt b)^2 + |m|^2."""
    rng = np.random.default_rng(rank)
    turn, (a, b) = orthogonal(rng, 64), rng.uniform(0.1, 100, (2, 64))
    a[rank:] = 0
    b[: 64 - rank] = 0
    mean = rng.standard_normal(64)
    one, other = (gaussian(m, turn * values @ turn.T) for m, values in ((mean, a), (0 * mean, b)))
    expected = mean @ mean + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    np.testing.assert_allclose(frechet_distance(one, other), expected, rtol=1e-9)


@pytest.mark.parametrize("count", [5, 60, 500])
def test_a_set_has_no_distance_to_itself_however_few_samples(count):
    x = np.random.default_rng(0).standard_normal((count, 64)).astype(np.float32) * 30 + 100
    of_x = moments(x)
    one = gaussian(of_x.mean, of_x.covariance)
    assert frechet_distance(one, one) <= 1e-9 * one.trace


def test_moments_do_not_depend_on_how_features_come():
    x = (np.random.default_rng(1).standard_normal((501, 16)) + 1e4).astype(np.float32)
    whole = moments(x)
    np.testing.assert_allclose(whole.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-12)
    for size in (1, 7, 250, 501):
        parts = joined(moments(x[i : i + size]) for i in range(0, len(x), size))
        assert parts.num_examples == 501
        np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-14)
        np.testing.assert_allclose(parts.scatter, whole.scatter, rtol=1e-9, atol=1e-9)
    backwards = merged(moments(x[100:]), moments(x[:100]))
    np.testing.assert_allclose(backwards.scatter, whole.scatter, rtol=1e-9, atol=1e-9)


def test_few_samples_are_too_far_away_and_the_extrapolation_mends_it():
    """Of Gaussians whose distance is known: N samples of 32 dimensions are about 32 * 33 / (4 N) too far."""
    rng, sd = np.random.default_rng(2), np.linspace(0.5, 2, 32)
    reference, expected = gaussian(np.zeros(32), np.eye(32)), np.sum((sd - 1) ** 2) + 0.25
    mean = np.full(32, np.sqrt(0.25 / 32))
    plain, found = [], []
    for seed in range(8):
        x = rng.standard_normal((1000, 32)) * sd + mean
        of_x = moments(x)
        plain.append(frechet_distance(gaussian(of_x.mean, of_x.covariance), reference))
        found.append(extrapolated(x, reference, seed))
    spread = np.std(plain, ddof=1) / np.sqrt(8)
    assert np.mean(plain) - expected > 4 * spread
    assert abs(np.mean([x.distance for x in found]) - expected) < 3 * spread
    assert all(0 < x.standard_error < 1 for x in found)


def test_the_kernel_distance_counts_each_pair_once():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((6, 5)), rng.standard_normal((6, 5)) + 0.3

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 5 + 1) ** 3

    own = [np.mean([k(a, b) for a, b in itertools.combinations(z, 2)]) for z in (x, y)]
    expected = sum(own) - 2 * np.mean([k(a, b) for a, b in itertools.product(x, y)])
    of = discrepancy._cubic
    np.testing.assert_allclose(discrepancy._unbiased(of(x, x), of(y, y), of(x, y)), expected, rtol=1e-12)


def test_the_kernel_distance_has_no_bias_and_its_error_is_true():
    """Of 60 pairs of sets: of one law the mean is 0, of two the spread is what each tells of itself."""
    rng = np.random.default_rng(4)
    same = [kid(*rng.standard_normal((2, 60, 4)), seed) for seed in range(60)]
    mean, spread = np.mean([x.distance for x in same]), np.std([x.distance for x in same], ddof=1)
    assert abs(mean) < 3 * spread / np.sqrt(60)
    other = [kid(rng.standard_normal((60, 4)) + 0.7, rng.standard_normal((60, 4)), seed) for seed in range(60)]
    spread = np.std([x.distance for x in other], ddof=1)
    assert 0.75 < np.mean([x.standard_error for x in other]) / spread < 1.35
    assert np.mean([x.distance for x in other]) > 10 * spread / np.sqrt(60)


def test_clips_discrepancy_is_its_double_sum():
    rng = np.random.default_rng(5)
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((2, 12, 8)))

    def mean(a, b):
        return np.mean([[np.exp(-np.sum((p - q) ** 2) / 200) for q in b] for p in a])

    np.testing.assert_allclose(cmmd(x, y[:7]), 1000 * (mean(x, x) + mean(y[:7], y[:7]) - 2 * mean(x, y[:7])), rtol=1e-9)
    assert abs(cmmd(x, x)) < 1e-9


def ball(distances, k):
    """The radius of each row's feature: to its k-th neighbour, after itself."""
    return np.sort(distances, axis=1)[:, k]


def test_manifolds_are_what_loops_over_pairs_say(monkeypatch):
    monkeypatch.setattr("ddx.evaluation.manifolds._ROWS", 7)  # more than one block
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((30, 3)) * 0.7 + 1.3
    d_xx, d_yy, d_xy = (scipy.spatial.distance.cdist(*pair) for pair in ((x, x), (y, y), (x, y)))
    found = manifolds(x, y)
    assert found.precision == np.mean([any(d_xy[i, j] <= ball(d_yy, 3)[j] for j in range(30)) for i in range(40)])
    assert found.recall == np.mean([any(d_xy[i, j] <= ball(d_xx, 3)[i] for i in range(40)) for j in range(30)])
    inside = [[d_xy[i, j] <= ball(d_yy, 5)[j] for j in range(30)] for i in range(40)]
    np.testing.assert_allclose(found.density, np.sum(inside) / (5 * 40))
    assert found.coverage == np.mean(np.any(inside, axis=0))
    assert 0 < found.precision < 1 and 0 < found.recall < 1


def test_far_sets_share_nothing_and_equal_ones_everything():
    x = np.random.default_rng(7).standard_normal((50, 4)) + 1e3
    assert manifolds(x, x + 1e3) == (0, 0, 0, 0)
    found = manifolds(x, x)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    for refused in (lambda: manifolds(x[:6], x), lambda: kid(x[:3], x)):
        with pytest.raises(ValueError, match="nothing"):
            refused()


@pytest.mark.parametrize("splits", [1, 10])
def test_the_inception_score_is_a_difference_of_entropies(splits):
    logits = np.random.default_rng(8).standard_normal((100, 12)) * 3 + 500
    p = np.exp(logits - scipy.special.logsumexp(logits, axis=1, keepdims=True))
    parts = np.split(p, splits)
    expected = [
        np.exp(scipy.stats.entropy(q.mean(0)) - np.mean([scipy.stats.entropy(row) for row in q])) for q in parts
    ]
    np.testing.assert_allclose(inception_score(logits, splits), (np.mean(expected), np.std(expected)), rtol=1e-9)


def test_sure_classes_score_their_number_and_unsure_ones_one():
    np.testing.assert_allclose(inception_score(1000 * np.eye(7)[np.arange(70) % 7])[0], 7)
    np.testing.assert_allclose(inception_score(np.zeros((10, 7)))[0], 1)
