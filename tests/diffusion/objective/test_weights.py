"""Weights of squared errors: one loss of x_0 for all predictions, and the papers' own forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.catalogue import X_0_PREDICTIONS
from ddx.diffusion.estimate.prediction import target
from ddx.diffusion.objective import weights
from ddx.diffusion.objective.weights import WEIGHTS

SHAPE = (4, 3, 2, 1)
RNG = np.random.default_rng(0)
X_0, NOISE, DELTA = RNG.uniform(-1, 1, SHAPE), RNG.standard_normal(SHAPE), 0.3 * RNG.standard_normal(SHAPE)
PROCESSES = {
    "linear": (ddx.ddpm(), np.array([1, 120, 600, 1000])),
    "cosine in dct": (ddx.in_dct_basis(ddx.ddpm(1000, "cosine")), np.array([1, 120, 600, 1000])),
    "zero terminal": (ddx.ddpm(zero_terminal_snr=True), np.array([1, 120, 600, 1000])),
    "flow": (ddx.rectified_flow(), np.array([0.5, 120.25, 600, 999.9])),
    "blurring": (ddx.blurring(), np.array([0.0, 120.25, 600, 1000])),
}


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def wrong_by_delta(process, prediction, t):
    """A network whose estimate of x_0 is X_0 + DELTA: it says what would be its target if that were the truth."""
    noisy = np.asarray(process.level(t).sigma) > 0
    x_t = ddx.q_sample(process, X_0, t, NOISE)
    m, basis = process.marginal(t, SHAPE[1:3]), process.basis
    u_t, u_0 = basis.analysis(x_t), basis.analysis(X_0 + DELTA)
    eps = basis.synthesis(np.where(noisy, (u_t - m.alpha * u_0) / np.where(noisy, m.sigma, 1), 0))
    return lambda x, model_time: target(process, prediction, X_0 + DELTA, t, eps)


def loss(process, prediction, t, weight):
    return ddx.simple_loss(process, wrong_by_delta(process, prediction, t), X_0, t, NOISE, prediction, weight)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("process", PROCESSES)
def test_all_predictions_have_one_loss_of_x_0(process, name):
    process, t = PROCESSES[process]
    m = process.marginal(t, SHAPE[1:3])
    snr = (m.alpha / m.sigma) ** 2
    expected = (WEIGHTS[name]()(snr) * np.square(process.basis.analysis(DELTA))).mean((1, 2, 3))
    assert np.all(expected[:-1] > 0)
    for prediction in X_0_PREDICTIONS:
        if prediction == "eps" and process.forgets:
            continue  # refused
        found = loss(process, prediction, t, WEIGHTS[name]())
        rounding = 1e-14 / m.alpha.min() if prediction == "eps" else 0.0  # errors of eps are this much smaller
        np.testing.assert_allclose(found, expected, rtol=1e-12 + rounding)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_multiplies_each_prediction_s_error_as_its_paper_says(gamma):
    process, t = PROCESSES["linear"]
    snr = np.exp(process.marginal(t).logsnr).ravel()
    least = np.minimum(snr, gamma)
    for prediction, factor in {"eps": least / snr, "x0": least, "v": least / (snr + 1)}.items():
        found = loss(process, prediction, t, weights.min_snr(gamma)) / loss(process, prediction, t, None)
        np.testing.assert_allclose(found, factor, rtol=1e-11)


def test_unweighted_losses_are_weights_too():
    process, t = PROCESSES["linear"]
    for prediction, weight in {"eps": weights.p2(0.0), "x0": weights.constant(), "v": weights.edm(1.0)}.items():
        np.testing.assert_allclose(loss(process, prediction, t, weight), loss(process, prediction, t, None), rtol=1e-11)


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_edm_s_weight_leaves_the_error_of_its_own_network_as_it_is(sigma_data):
    """D = c_skip y + c_out F with lambda c_out^2 = 1 (Karras et al. 2022, table 1), for y = x_0 + s eps."""
    process, t = PROCESSES["linear"]

    def outputs_F(process, level):
        s = level.sigma / level.alpha
        c_skip = sigma_data**2 / (s**2 + sigma_data**2)
        c_out = s * sigma_data / (s**2 + sigma_data**2) ** 0.5
        return (1 - c_skip) / c_out, -c_skip * s / c_out  # F = (x_0 - c_skip (x_0 + s eps)) / c_out

    weighted, plain = (loss(process, outputs_F, t, weight) for weight in (weights.edm(sigma_data), None))
    np.testing.assert_allclose(weighted, plain, rtol=1e-9)


def test_the_other_losses_have_the_weight_in_their_squared_error_alone():
    process, t = ddx.ddpm(20, "cosine"), np.array([1, 5, 12, 20])
    weight = weights.min_snr()
    expected = loss(process, "v", t, weight)

    def with_head(x_t, model_time):
        return jnp.concatenate([wrong_by_delta(process, "v", t)(x_t, model_time), 0.1 * x_t], -1)

    heads = [ddx.head_loss(process, with_head, X_0, t, NOISE, "npr", "v", each) for each in (weight, None)]
    np.testing.assert_allclose(heads[0].mse, expected, rtol=1e-12)
    np.testing.assert_array_equal(heads[0].head, heads[1].head)
    hybrid = ddx.hybrid_loss(process, with_head, X_0, t, NOISE, "v", weight=weight)
    plain = ddx.hybrid_loss(process, with_head, X_0, t, NOISE, "v")
    np.testing.assert_allclose(hybrid.mse, expected, rtol=1e-12)
    np.testing.assert_array_equal(hybrid.vb, plain.vb)
    np.testing.assert_allclose(hybrid.loss - hybrid.mse, plain.loss - plain.mse, rtol=1e-9)


@pytest.mark.parametrize(("process", "prediction"), [(ddx.ddpm(10, "cosine"), "mean"), (ddx.ihdm(10), "residual")])
def test_a_prediction_whose_errors_are_none_of_x_0_has_no_weight(process, prediction):
    with pytest.raises(ValueError, match=f"which is none of prediction '{prediction}'; use one of eps"):
        ddx.simple_loss(process, lambda x, t: x, X_0, np.array([1, 2, 3, 4]), NOISE, prediction, weights.constant())
