"""Learned variances, the bound and the objectives agree with the outputs of Improved DDPM's own code."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.bound import decoder, terms
from ddx.diffusion.objective import losses, time_samplers
from tests import golden
from tests.diffusion.papers.test_golden import NAMES, PREDICTION, entries, states


def rescaled_process(schedule):
    process = golden.process(schedule)
    return ddx.iddpm(process.num_steps, rescale_time=True)


def fake_model(var, weights):
    """The references' network as a function of its six numbers."""
    A, B, C, D, E, G = weights

    def model_fn(x, model_time):
        t = model_time.astype(x.dtype)[:, None, None, None] / 1000
        out = A * x + B * t + C
        if var not in ("learned", "range"):
            return out
        return jnp.concatenate([out, D * x + E * t + G - (4.0 if var == "learned" else 0.0)], axis=-1)

    return model_fn


WEIGHTS = (0.7, 0.2, -0.05, 0.3, -0.1, 0.05)
# Of gradients on the second schedule, those of one prediction.
RARE = r"cosine4000/(rescaled/)?(x0|xprev)/.*/grad"


@entries("id_losses", r".*/((loss|vb)_f\d\d|grad_ABCDEG_f64)", soak=RARE)
def test_losses_and_their_gradients(key):
    data = golden.load("id_losses")
    *head, prediction, var, objective, quantity = key.split("/")
    process = (rescaled_process if len(head) > 1 else golden.process)(head[0])
    context, dtype, tolerance = golden.precision(key)
    T = process.num_steps
    compared = slice(None)
    if dtype == np.float32:
        # The tanh decoder is rounding noise in float32's tails, by up to 7.6 nats a pixel: t = 1 is compared in float64
        # alone, and ours in float32 must hold against the reference's float64.
        compared = data[f"{head[0]}/t"] > 0
        exact = key.replace("_f32", "_f64")  # the run with rescaled times has none
        key, tolerance = exact if exact in data else key, {"rtol": 2e-5, "atol": 2e-6}
    elif not objective.endswith("mse") or var in ("learned", "range"):
        # The reference's decoder has probabilities down to 1e-12 that are differences of numbers near 1: float64 gives
        # four digits of those, the worst of 48 pixels here.
        tolerance = {"rtol": 2e-6 if quantity.startswith("grad") else 2e-8, "atol": 1e-12}
    expected = data[key]
    if quantity.startswith("vb") and objective == "rescaled_mse":
        expected = expected * 1000 / T  # it reports the term with its weight
    with context:
        x_0, noise = (golden.images(golden.nhwc(data[f"{head[0]}/{name}"]), dtype) for name in ("x0_uint8", "noise"))
        args = (x_0, data[f"{head[0]}/t"] + 1, noise, PREDICTION[prediction])

        def loss(weights):
            model_fn, variance = fake_model(var, weights), NAMES.get(var, var)
            if objective.endswith("kl"):
                rescaled = objective == "rescaled_kl"
                return losses.kl_loss(process, model_fn, *args, variance, rescaled, cdf="tanh")
            if var.startswith("fixed"):
                return losses.simple_loss(process, model_fn, *args)
            weight = 1e-3 if objective == "rescaled_mse" else 1 / T
            found = losses.hybrid_loss(process, model_fn, *args, variance, weight, cdf="tanh")
            return found.vb if quantity.startswith("vb") else found.loss

        weights = jnp.asarray(WEIGHTS, dtype)
        if quantity.startswith("grad"):
            ours = jax.jit(jax.grad(lambda w: loss(w).mean()))(weights)
        else:
            ours = loss(weights)
        np.testing.assert_allclose(ours[compared], expected[compared], **tolerance)


@functools.cache
def bits_and_times(run, clip, dtype):
    """The visited times and the bound of a run, evaluated once for all its parts."""
    data, (schedule, spec, _, var) = golden.load("id_bpd"), run.split("/")
    process = golden.process(schedule)
    times = ddx.trajectory(process.num_steps, None, spec)
    x_0, noise = (golden.nhwc(golden.images(data[f"{run}/{n}"], dtype)) for n in ("x0_uint8", "noise_by_t"))
    denoise = ddx.denoiser(process, golden.fake_model(var), clip=clip == "clip1")
    return times, ddx.bits_per_dim(denoise, x_0, None, times, NAMES.get(var, var), noise, cdf="tanh")


@entries("id_bpd", r".*/(vb|xstart_mse|mse|total_bpd|prior_bpd|rd_\w+)_f\d\d")
def test_bits_per_dim_and_its_terms(key):
    data = golden.load("id_bpd")
    schedule, spec, prediction, var, clip, quantity = key.split("/")
    context, dtype, tolerance = golden.precision(key)
    with context:
        times, bits = bits_and_times("/".join([schedule, spec, prediction, var]), clip, dtype)
        coding = terms.rate_distortion(bits.times, bits.prior, bits.terms, bits.mse)
    ours = {
        "vb": bits.terms,
        "xstart_mse": bits.mse,
        "mse": bits.eps_mse,
        "total_bpd": bits.total,
        "prior_bpd": bits.prior,
        "rd_rate_by_t": coding.rate,
        "rd_distortion_rmse255_by_t": coding.distortion,
    }[quantity[:-4]]
    expected = data[key]
    if dtype == np.float32:
        expected = data[key.replace("_f32", "_f64")]
        tolerance = {"rtol": 2e-5, "atol": 2e-5 * float(np.abs(expected).max())}
    elif quantity.startswith("rd_rate"):
        tolerance = {"rtol": 1e-8, "atol": 1e-16 * expected.max()}  # the reference's are differences of two sums
    assert list(bits.times) == sorted(times[:-1])
    np.testing.assert_allclose(ours, expected, **tolerance)


LEVELS = np.arange(256) / 127.5 - 1


def log_prob(cdf, dtype):
    data = golden.load("id_likelihood")
    x = jnp.asarray(LEVELS, dtype)[:, None, None]
    means = jnp.asarray(data[f"means_f{np.dtype(dtype).itemsize * 8}"], dtype)[:, :, None]
    return np.asarray(decoder.decoder_log_prob(x, means, 2 * jnp.asarray(data["log_scale"], dtype), cdf))


def test_the_tanh_decoder_is_the_references():
    with jax.enable_x64(True):
        ours = log_prob("tanh", np.float64)
    expected = golden.load("id_likelihood")["log_prob_f64"]
    # The reference subtracts two numbers near 1: a probability is known to 1e-15.
    assert np.all(np.abs(ours - expected) <= 1e-8 * np.abs(expected) + 1e-15 / np.exp(expected))


def test_the_tanh_decoder_in_float32_where_it_is_not_rounding_noise():
    expected = golden.load("id_likelihood")["log_prob_f64"]
    likely = expected > -8
    np.testing.assert_allclose(log_prob("tanh", np.float32)[likely], expected[likely], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-8), (np.float32, 2e-4)])
def test_the_exact_decoder_is_the_exact_integral_in_the_tails_too(dtype, rtol):
    expected = golden.load("id_likelihood")["log_prob_exact_erf_f64"]
    with jax.enable_x64(dtype == np.float64):
        ours = log_prob("exact", dtype)
    # The reference's difference of two erf is itself rounding noise below 1e-8.
    likely = expected > np.log(1e-6)
    np.testing.assert_allclose(ours[likely], expected[likely], rtol=rtol, atol=2e-5 if dtype == np.float32 else 1e-9)


def fed(history=10):
    data = golden.load("id_resample")
    sampler = time_samplers.loss_second_moment(6, history)
    state = sampler.init()
    for t, loss in zip(data["ts"] + 1, data["losses"], strict=True):
        yield state
        state = sampler.update(state, jnp.asarray(t), jnp.asarray(loss))
    yield state


def test_the_loss_aware_sampler_weighs_times_as_the_reference_does():
    data = golden.load("id_resample")
    with jax.enable_x64(True):
        every = list(fed())
        weights = [np.asarray(time_samplers.probabilities(state)) for state in every]
    for ours, expected in zip(weights, data["weights_after"], strict=True):
        np.testing.assert_allclose(ours, expected / expected.sum(), rtol=1e-6)
    np.testing.assert_allclose(weights[-1], data["p"], rtol=1e-6)
    np.testing.assert_array_equal(np.minimum(every[-1].counts, 10), data["counts"])
    # The rings hold what the reference's queues hold.
    np.testing.assert_allclose(np.sort(every[-1].losses), np.sort(data["history"]), rtol=1e-6)
    t, weight = time_samplers.loss_second_moment(6).draw(every[-1], jax.random.key(0), jnp.arange(64), 64)
    np.testing.assert_allclose(weight, data["importance_weight_by_t"][t - 1], rtol=1e-5)


def test_another_history_and_uniform_share():
    with jax.enable_x64(True):
        *_, state = fed(history=3)
        p = np.asarray(time_samplers.probabilities(state, 0.1))
    expected = golden.load("id_resample")["weights_history3_uniform0.1"]
    np.testing.assert_allclose(p, expected / expected.sum(), rtol=1e-6)


@entries("id_loops", r"p/cosine4000/50/range/.*_f\d\d")
def test_a_whole_sampling_loop_with_a_learned_variance_and_rescaled_times(key):
    data = golden.load("id_loops")
    *run, quantity = key.split("/")
    context, dtype, tolerance = golden.precision(key)
    process = rescaled_process("cosine4000")
    times = ddx.trajectory(4000, None, "50")
    expected = golden.nhwc(data[key])
    with context:
        x_T, noise = (jnp.asarray(golden.nhwc(data["/".join([*run, name])]), dtype) for name in ("x_T", "z"))
        xs, x_0s = states(process, "eps", True, times, 1.0, "range", x_T, noise)
        ours = {"final": xs[-1], "samples": xs, "pred_xstart": x_0s}[quantity[:-4]]
        if dtype == np.float32:
            tolerance = {"rtol": 2e-5, "atol": 2e-5}
        np.testing.assert_allclose(ours, expected, **tolerance)


@entries("id_respace", r".*/model_t_rescaled")
def test_rescaled_network_times(key):
    spec = re.match(r"([a-z]+\d+)\|([^/]+)/", key)
    times = ddx.trajectory(4000, None, spec[2])[:-1][::-1]
    process = rescaled_process(spec[1])
    np.testing.assert_allclose(process.model_time(np.asarray(times)), golden.load("id_respace")[key], rtol=1e-6)
    assert golden.process(spec[1]).model_time(7) == 6
