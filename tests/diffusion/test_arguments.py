"""What public functions do with arguments of the wrong kind: they refuse them, or work on them right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion import random as noise_lib
from ddx.diffusion.bound import decoder, optimal
from ddx.diffusion.estimate import prediction
from ddx.diffusion.reverse.walk import initial_noise, noise_from

B, SHAPE = 2, (4, 4, 1)
DDPM, BLUR, HEAT = ddx.ddpm(20, "cosine"), ddx.blurring(20, 2.0), ddx.ihdm(5, sigma_blur_max=2.0)
TIMES = (20, 10, 0)
KEY = jax.random.key(0)


def zeros(x, t):
    return jnp.zeros_like(x)


def two(x, t):
    return jnp.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)


DENOISE = ddx.denoiser(DDPM, zeros)
OF_HEAT = ddx.denoiser(HEAT, zeros, "residual", clip=False)
OF_BLUR = ddx.denoiser(BLUR, zeros, "v")
NOISE = jnp.ones((B, *SHAPE))

# Every public function that takes images or noise: x is what is tried in place of one of them.
CALLS = {
    "q_sample x_0": lambda x: ddx.q_sample(DDPM, x, 3, NOISE),
    "q_sample noise": lambda x: ddx.q_sample(DDPM, NOISE, 3, x),
    "q_sample blur": lambda x: ddx.q_sample(BLUR, x, 3, NOISE),
    "q_transition": lambda x: ddx.q_transition(DDPM, x, 3, 4),
    "q_posterior x_0": lambda x: ddx.q_posterior(DDPM, x, NOISE, 3, 4),
    "q_posterior x_t": lambda x: ddx.q_posterior(DDPM, NOISE, x, 3, 4),
    "prior_kl": lambda x: ddx.prior_kl(DDPM, x),
    "blur": lambda x: ddx.blur(HEAT, x, 3),
    "denoiser": lambda x: DENOISE(x, 3),
    "target x_0": lambda x: prediction.target(DDPM, "v", x, 3, NOISE),
    "target noise": lambda x: prediction.target(DDPM, "v", NOISE, 3, x),
    "sample x_T": lambda x: ddx.sample(DENOISE, KEY, x, TIMES),
    "sample noise": lambda x: ddx.sample(DENOISE, None, NOISE, TIMES, 1.0, noise=jnp.stack([x, x])),
    "inpaint x_T": lambda x: ddx.inpaint(DENOISE, KEY, x, NOISE, NOISE > 0, TIMES, jump_length=1),
    "inpaint known": lambda x: ddx.inpaint(DENOISE, KEY, NOISE, x, NOISE > 0, TIMES, jump_length=1),
    "progressive": lambda x: ddx.progressive(DENOISE, KEY, x, (10,), TIMES),
    "encode": lambda x: ddx.encode(DENOISE, x, (10, 5, 0)),
    "slerp": lambda x: ddx.slerp(x, NOISE, (0.5,)),
    "interpolate": lambda x: ddx.interpolate(DENOISE, x, NOISE, (0.5,), TIMES),
    "interpolate_diffused": lambda x: ddx.interpolate_diffused(DENOISE, KEY, x, NOISE, (0.5,), 10, TIMES),
    "interpolate_diffused in pixels": lambda x: ddx.interpolate_diffused(DENOISE, KEY, x, NOISE, (0.5,), 0),
    "coarse_to_fine": lambda x: ddx.coarse_to_fine(DENOISE, KEY, NOISE, x, (0.5,), (0, 10), times=TIMES),
    "share_latent": lambda x: ddx.share_latent(DENOISE, KEY, x[:1], 2, 10, TIMES),
    "heat_prior": lambda x: ddx.heat_prior(HEAT, noise_lib.batch_keys(KEY, B), x, 0.01),
    "kde_centres": lambda x: ddx.kde_centres(HEAT, x),
    "heat_bits_per_dim": lambda x: ddx.heat_bits_per_dim(OF_HEAT, x, KEY, jnp.zeros((1, 16))),
    "interpolate_heat": lambda x: ddx.interpolate_heat(OF_HEAT, (KEY, KEY), x, NOISE, (0.5,)),
    "simple_loss x_0": lambda x: ddx.simple_loss(DDPM, zeros, x, np.array([1, 2]), NOISE),
    "simple_loss noise": lambda x: ddx.simple_loss(DDPM, zeros, NOISE, np.array([1, 2]), x),
    "kl_loss": lambda x: ddx.kl_loss(DDPM, two, x, np.array([1, 2]), NOISE),
    "hybrid_loss": lambda x: ddx.hybrid_loss(DDPM, two, x, np.array([1, 2]), NOISE),
    "head_loss": lambda x: ddx.head_loss(DDPM, two, x, np.array([1, 2]), NOISE, "npr"),
    "bits_per_dim x_0": lambda x: ddx.bits_per_dim(DENOISE, x, KEY, TIMES),
    "bits_per_dim noise": lambda x: ddx.bits_per_dim(DENOISE, NOISE, None, TIMES, noise=jnp.stack([x, x])),
    "estimate_statistics": lambda x: ddx.estimate_statistics(DENOISE, x, KEY),
    "estimate_model_statistics": lambda x: ddx.estimate_model_statistics(DENOISE, x, KEY),
    "bound_costs": lambda x: optimal.bound_costs(
        DENOISE, x, np.arange(20), lambda k: NOISE, ddx.diffusion.reverse.variance.small
    ),
    "probability_flow": lambda x: ddx.probability_flow(OF_BLUR, x, 3.0),
    "decoder_log_prob": lambda x: decoder.decoder_log_prob(x, NOISE, 0.0),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_images_and_noise_that_are_no_floats_are_refused(name, dtype):
    with pytest.raises(ValueError, match=f"must be floats.*got {dtype}"):
        CALLS[name](jnp.ones((B, *SHAPE), dtype))
    with pytest.raises(ValueError, match=f"must be floats.*got {dtype}"):
        CALLS[name](np.ones((B, *SHAPE), dtype))


# Those that return images, with the place of the images among what they return.
LIKE = {
    "q_sample x_0": 0,
    "sample x_T": 0,
    "progressive": slice(None),
    "encode": 0,
    "interpolate_diffused": 0,
    "interpolate_diffused in pixels": 0,
    "share_latent": slice(None),
    "heat_prior": 0,
    "interpolate_heat": 0,
    "blur": 0,
}


@pytest.mark.parametrize("name", LIKE)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_images_come_back_in_the_type_they_came_in(name, dtype):
    found = CALLS[name](jnp.full((B, *SHAPE), 0.5, dtype))
    for leaf in jax.tree.leaves(found if isinstance(found, tuple) else (found,)):
        assert leaf.dtype == dtype and bool(jnp.isfinite(leaf.astype(jnp.float32)).all())


def test_between_two_images_the_type_is_theirs():
    for a, b, found in (("bfloat16", "bfloat16", "bfloat16"), ("bfloat16", "float32", "float32")):
        x_a, x_b = jnp.full((B, *SHAPE), 0.5, a), jnp.full((B, *SHAPE), -0.2, b)
        assert ddx.slerp(x_a, x_b, (0.5,)).dtype == found
        assert ddx.interpolate(DENOISE, x_a, x_b, (0.5,), TIMES).dtype == found
    assert ddx.slerp([[[1.0]]], [[[2.0]]], (0.5,)).shape == (1, 1, 1, 1)


def test_noise_of_bfloat16_images_is_drawn_in_float32():
    x_T = jnp.zeros((1, 64, 64, 4), jnp.bfloat16)
    draws = noise_from(KEY, x_T)(0)
    assert draws.dtype == jnp.float32 and len(np.unique(draws)) > 10_000
    np.testing.assert_array_equal(draws, noise_from(KEY, x_T.astype(jnp.float32))(0))
    rounded = initial_noise(DDPM, noise_lib.batch_keys(KEY, 1), (64, 64, 16), jnp.bfloat16)
    assert rounded.dtype == jnp.bfloat16 and float(jnp.abs(rounded.astype(jnp.float32)).max()) > 3.5
    found = ddx.sample(DENOISE, KEY, x_T, TIMES, 1.0)
    exact = ddx.sample(DENOISE, KEY, x_T.astype(jnp.float32), TIMES, 1.0)
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


def test_the_divergence_of_integers_is_that_of_floats():
    found = ddx.gaussian_kl(np.array([3], np.uint8), 1, np.array([5], np.uint8), 1)
    np.testing.assert_allclose(found, [2.0])


def test_noise_is_of_floats():
    with pytest.raises(ValueError, match="of floats, not of int32"):
        initial_noise(DDPM, noise_lib.batch_keys(KEY, 1), SHAPE, jnp.int32)


@pytest.mark.parametrize("t", [True, "5", None, 2.5, float("nan"), -1, 21, [True, False], 1j])
def test_times_that_are_none_are_refused(t):
    for call in (
        lambda: DDPM.marginal(t),
        lambda: ddx.q_sample(DDPM, NOISE, t, NOISE),
        lambda: DENOISE(NOISE, t),
        lambda: ddx.simple_loss(DDPM, zeros, NOISE, t, NOISE),
        lambda: ddx.q_transition(DDPM, NOISE, 0, t),
        lambda: ddx.blur(HEAT, NOISE, t),
    ):
        with pytest.raises(ValueError, match="time"):
            call()
    if t != 2.5:
        with pytest.raises(ValueError, match="time"):
            ddx.probability_flow(OF_BLUR, NOISE, t)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64, np.float32])
def test_times_of_any_type_of_numbers_mean_the_same(dtype):
    process = ddx.ddpm(100, "cosine", rescale_time=True)
    t = np.asarray([1, 100], dtype)
    found = ddx.kl_loss(process, two, NOISE, t, NOISE, variance="small")
    np.testing.assert_array_equal(found, ddx.kl_loss(process, two, NOISE, np.array([1, 100]), NOISE, variance="small"))
    if np.dtype(dtype).kind != "f":
        graph = jax.jit(lambda t: ddx.kl_loss(process, two, NOISE, t, NOISE, variance="small"))(jnp.asarray(t))
        np.testing.assert_allclose(graph, found, rtol=1e-5)


LOSSES = {
    "simple": lambda p, t: ddx.simple_loss(p, zeros, NOISE, t, NOISE, "residual" if p.blur else "eps"),
    "kl": lambda p, t: ddx.kl_loss(p, two, NOISE, t, NOISE),
    "hybrid": lambda p, t: ddx.hybrid_loss(p, two, NOISE, t, NOISE),
    "head": lambda p, t: ddx.head_loss(p, two, NOISE, t, NOISE, "sn"),
    "ocm": lambda p, t: ddx.head_loss(p, two, NOISE, t, NOISE, "ocm", v=NOISE),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("process", [DDPM, ddx.ihdm(20, sigma_blur_max=2.0)], ids=["ddpm", "ihdm"])
def test_a_loss_at_a_time_that_is_no_noise_level_is_refused_or_nan(name, process):
    if name != "simple" and process is not DDPM:
        return  # eps says nothing of x_0 under such a blur
    loss = LOSSES[name]
    for t in (0, -1, 21):
        with pytest.raises(ValueError, match="out of range"):
            loss(process, np.array([t, 1]))
    traced = jax.jit(lambda t: loss(process, t))
    for t in (0, -1, -20, 21, 1001):
        for part in jax.tree.leaves(traced(jnp.array([t, 1]))):
            assert np.isnan(part[0]) and np.isfinite(part[1])
    for part in jax.tree.leaves(traced(jnp.array([20, 1]))):
        assert np.isfinite(part).all()


def test_a_real_time_beyond_the_ends_is_nan_in_the_graph():
    loss = jax.jit(lambda t: ddx.simple_loss(BLUR, zeros, NOISE, t, NOISE))
    assert np.isfinite(loss(jnp.array([0.0, 20.0]))).all()
    assert np.isnan(loss(jnp.array([-0.1, 20.1]))).all()
    flow = jax.jit(lambda t: ddx.probability_flow(OF_BLUR, NOISE, t))
    assert np.isnan(flow(20.5)).all() and np.isfinite(flow(19.5)).all()


def test_a_level_beyond_the_ends_is_nan_in_the_graph_never_another_level():
    graph = jax.jit(lambda t: ddx.q_sample(DDPM, NOISE, t, NOISE))
    for t in (-1, -20, 21, 1000):
        assert np.isnan(graph(t)).all()
    np.testing.assert_allclose(graph(20), ddx.q_sample(DDPM, NOISE, 20, NOISE), rtol=1e-6)
    for part in jax.jit(lambda s, t: ddx.q_transition(DDPM, NOISE, s, t))(5, 3):
        assert np.isnan(part).all()
    for s, t in ((5, 0), (5, 5)):
        for part in jax.jit(lambda s, t: ddx.step_coefficients(DDPM, s, t, 0.0))(s, t):
            assert np.isnan(part)
    for t in (0, 21):
        d = jax.jit(lambda t: ddx.denoiser(DDPM, zeros, "x0")(NOISE, t))(t)
        assert np.isnan(d.x_0).all() and np.isnan(d.eps).all()
    assert np.isnan(jax.jit(lambda s, t: ddx.q_posterior(DDPM, NOISE, NOISE, s, t)[0])(5, 3)).all()


@pytest.mark.parametrize("first", [DDPM, zeros, None, lambda x_t, t: ddx.Denoised(x_t, x_t)])
def test_what_is_no_denoiser_is_refused_everywhere(first):
    calls = {
        "sample": lambda: ddx.sample(first, KEY, NOISE, TIMES),
        "walk": lambda: ddx.walk(first, ddx.plan(DDPM, TIMES), NOISE),
        "progressive": lambda: ddx.progressive(first, KEY, NOISE, TIMES[:1], TIMES),
        "encode": lambda: ddx.encode(first, NOISE, TIMES),
        "bits_per_dim": lambda: ddx.bits_per_dim(first, NOISE, KEY, TIMES),
        "interpolate": lambda: ddx.interpolate(first, NOISE, NOISE, (0.5,), TIMES),
        "interpolate_diffused": lambda: ddx.interpolate_diffused(first, KEY, NOISE, NOISE, (0.5,), 5),
        "share_latent": lambda: ddx.share_latent(first, KEY, NOISE[:1], 2, 10, TIMES),
        "heat_bits_per_dim": lambda: ddx.heat_bits_per_dim(first, NOISE, KEY, jnp.zeros((1, 16))),
        "interpolate_heat": lambda: ddx.interpolate_heat(first, (KEY, KEY), NOISE, NOISE, (0.5,)),
        "probability_flow": lambda: ddx.probability_flow(first, NOISE, 3.0),
        "estimate_statistics": lambda: ddx.estimate_statistics(first, NOISE, KEY),
        "estimate_model_statistics": lambda: ddx.estimate_model_statistics(first, NOISE, KEY),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=r"must be a denoiser.*ddx\.from_pixels"):
            call()
            pytest.fail(name)


@pytest.mark.parametrize("eta", [5.0, -0.5, float("nan"), float("inf"), jnp.float32(5), np.float64(-0.5), "1", None])
def test_an_impossible_eta_is_refused_whatever_its_type(eta):
    for call in (
        lambda: ddx.step_coefficients(DDPM, 9, 10, eta),
        lambda: ddx.q_posterior(DDPM, NOISE, NOISE, 9, 10, eta),
        lambda: ddx.sample(DENOISE, KEY, NOISE, TIMES, eta),
        lambda: ddx.progressive(DENOISE, KEY, NOISE, (10,), TIMES, eta),
        lambda: ddx.share_latent(DENOISE, KEY, NOISE[:1], 2, 10, TIMES, eta),
        lambda: ddx.bits_per_dim(DENOISE, NOISE, KEY, TIMES, eta=eta),
    ):
        with pytest.raises(ValueError, match="eta"):
            call()


@pytest.mark.parametrize("kind", [jnp.float32, jnp.asarray, np.float32, np.asarray, int])
def test_an_eta_of_any_type_of_number_is_that_number(kind):
    for call in (
        lambda eta: ddx.step_coefficients(DDPM, 9, 10, eta),
        lambda eta: ddx.sample(DENOISE, KEY, NOISE, TIMES, eta, variance="large"),
        lambda eta: ddx.bits_per_dim(DENOISE, NOISE, KEY, TIMES, eta=eta).total,
    ):
        np.testing.assert_array_equal(call(kind(1)), call(1.0))


def test_a_traced_eta_works_or_says_how():
    exact = ddx.step_coefficients(DDPM, 5, 10, 0.3)
    np.testing.assert_allclose(jax.jit(lambda eta: ddx.step_coefficients(DDPM, 5, 10, eta))(0.3), exact, rtol=2e-6)
    for wrong in (5.0, -0.1, float("nan")):
        assert np.isnan(jax.jit(lambda eta: ddx.step_coefficients(DDPM, 5, 10, eta))(wrong).k)
    for call in (
        lambda eta: ddx.sample(DENOISE, KEY, NOISE, TIMES, eta),
        lambda eta: ddx.bits_per_dim(DENOISE, NOISE, KEY, TIMES, eta=eta),
        lambda eta: ddx.share_latent(DENOISE, KEY, NOISE[:1], 2, 10, TIMES, eta),
    ):
        with pytest.raises(ValueError, match=r"eta is traced.*static_argnames"):
            jax.jit(call)(0.3)
    np.testing.assert_array_equal(
        jax.jit(lambda x, eta: ddx.sample(DENOISE, KEY, x, TIMES, eta), static_argnames="eta")(NOISE, eta=0.3),
        jax.jit(lambda x: ddx.sample(DENOISE, KEY, x, TIMES, 0.3))(NOISE),
    )


def test_noise_of_the_wrong_shape_is_refused_at_any_eta():
    for eta in (0.0, 0.5, 1.0):
        for shape in ((3, B, *SHAPE), (2, 1, *SHAPE), (B, *SHAPE)):
            with pytest.raises(ValueError, match="noise must have the shape"):
                ddx.sample(DENOISE, None, NOISE, TIMES, eta, noise=jnp.zeros(shape))
            with pytest.raises(ValueError, match="noise must have the shape"):
                ddx.progressive(DENOISE, None, NOISE, (10,), TIMES, eta, noise=jnp.zeros(shape))
    with pytest.raises(ValueError, match="noise must be like x_0"):
        ddx.simple_loss(DDPM, zeros, NOISE, np.array([1, 2]), NOISE[:1])
    with pytest.raises(ValueError, match="must be like them"):
        ddx.interpolate_diffused(
            DENOISE, None, NOISE, NOISE, (0.5,), 10, TIMES, noise=(NOISE[:1], NOISE, jnp.stack([NOISE]))
        )
    with pytest.raises(ValueError, match="noises of x_a and x_b must have the shape"):
        ddx.interpolate_heat(OF_HEAT, (KEY, KEY), NOISE, NOISE, (0.5,), noise=(NOISE, NOISE))


@pytest.mark.parametrize("clip", ["xo", "true", 1, None, 0.5])
def test_a_clip_that_is_none_is_refused(clip):
    with pytest.raises(ValueError, match=r"clip=.* must be True, False, 'x0' or a ddx.DynamicThreshold"):
        ddx.denoiser(DDPM, zeros, clip=clip)


@pytest.mark.parametrize("times", ["20", "1050", b"20", 20, ("20", "0"), (20, None, 0), (20, 2.5, 0), [[20, 0]]])
def test_times_to_visit_that_are_no_numbers_are_refused(times):
    with pytest.raises(ValueError, match="times"):
        ddx.sample(DENOISE, KEY, NOISE, times)
    with pytest.raises(ValueError, match="times"):
        ddx.bits_per_dim(DENOISE, NOISE, KEY, times)
    with pytest.raises(ValueError, match="times"):
        ddx.progressive(DENOISE, KEY, NOISE, times)


@pytest.mark.parametrize("kind", [list, np.asarray, jnp.asarray, lambda t: np.asarray(t, np.float64), iter])
def test_times_to_visit_may_be_any_sequence_of_numbers(kind):
    found = ddx.sample(DENOISE, KEY, NOISE, kind(TIMES), 1.0)
    np.testing.assert_array_equal(found, ddx.sample(DENOISE, KEY, NOISE, TIMES, 1.0))


def test_traced_times_to_visit_say_what_to_do():
    with pytest.raises(ValueError, match=r"times are traced.*close over them"):
        jax.jit(lambda times: ddx.sample(DENOISE, KEY, NOISE, times))(jnp.asarray(TIMES))
