"""Images of which a part is known: what is exact, what resampling cures, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.estimate import slope
from ddx.diffusion.papers import ihdm
from ddx.diffusion.random import batch_keys
from ddx.diffusion.reverse import inpaint, interpolate, walk
from ddx.diffusion.reverse.inpaint import Draws, draws_from, replacing, with_jumps
from ddx.diffusion.reverse.rows import num_rows
from ddx.diffusion.reverse.solvers import euler
from ddx.diffusion.reverse.walk import noise_from
from tests import oracle

SHAPE = (2, 2, 1)
DCT = ddx.in_dct_basis(ddx.ddpm(1000, "cosine"))  # independent coordinates there are correlated pixels
TIMES = ddx.trajectory(1000, 20, "even")
TOP = np.array([True, False]).reshape(2, 1, 1)
KEY = jax.random.key(0)


def data():
    mean, variance = np.array([0.3, -0.2, 0.1, 0.4]), np.array([2.0, 0.5, 0.3, 0.05])
    return oracle.Gaussian(jnp.asarray(mean.reshape(SHAPE)), jnp.asarray(variance.reshape(SHAPE)))


def pixels(gaussian):
    """The mean and covariance of the pixels of data that are Gaussian in the DCT basis."""
    n = int(np.prod(SHAPE))
    to_pixels = np.asarray(DCT.basis.synthesis(jnp.eye(n).reshape(n, *SHAPE))).reshape(n, n).T
    variance = np.broadcast_to(gaussian.variance, SHAPE).ravel()
    return to_pixels @ np.asarray(gaussian.mean).ravel(), to_pixels * variance @ to_pixels.T


def moments(known, mask, jump_length, num_resamples, eta=1.0, process=DCT):
    """The exact mean and covariance of the samples, by the derivatives of an affine sampler by all its draws."""
    optimal = data().optimal_variance() if process is DCT else "small"
    denoise = ddx.denoiser(process, data().model_fn(DCT), clip=False)
    K = num_rows(with_jumps(process, ddx.plan(process, TIMES, eta), jump_length, num_resamples))

    def sampled(x_T, noise):
        each = tuple(z[:, None] for z in noise)
        settings = (TIMES, eta, optimal, jump_length, num_resamples, each)
        return ddx.inpaint(denoise, None, x_T[None], known[None], mask, *settings).ravel()

    zeros = jnp.zeros(SHAPE), jnp.zeros((3, K, *SHAPE))
    mean, by_draws = jax.jit(lambda *draws: (sampled(*draws), jax.jacrev(sampled, (0, 1))(*draws)))(*zeros)
    factor = np.concatenate([np.asarray(part).reshape(mean.size, -1) for part in by_draws], axis=1)
    return np.asarray(mean), factor @ factor.T


def test_resampling_leads_to_the_conditional_law():
    with jax.enable_x64(True):
        mean, covariance = pixels(data())
        known, m = jnp.asarray([[0.7], [-0.4], [0.0], [0.0]]).reshape(SHAPE), np.broadcast_to(TOP, SHAPE).ravel()
        gain = covariance[np.ix_(~m, m)] @ np.linalg.inv(covariance[np.ix_(m, m)])
        wanted_mean = mean[~m] + gain @ (np.asarray(known).ravel()[m] - mean[m])
        wanted_covariance = covariance[np.ix_(~m, ~m)] - gain @ covariance[np.ix_(m, ~m)]
        off_mean, off_covariance = [], []
        for num_resamples in (1, 3, 20):
            mean, covariance = moments(known, TOP, 1, num_resamples)
            np.testing.assert_array_equal(mean[m], np.asarray(known).ravel()[m])
            off_mean.append(np.abs(mean[~m] - wanted_mean).max())
            off_covariance.append(np.abs(covariance[np.ix_(~m, ~m)] - wanted_covariance).max())
        for off in (off_mean, off_covariance):
            assert off[0] > 0.1 and off[1] < 0.5 * off[0] and off[2] < 0.25 * off[1] and off[2] < 0.02, off


@pytest.mark.parametrize(("jump_length", "num_resamples"), [(1, 2), (7, 3)])
def test_a_jump_keeps_the_law_of_the_level_it_leads_to(jump_length, num_resamples):
    with jax.enable_x64(True):
        nothing = np.zeros((1, 1, 1), bool)
        plain = moments(jnp.zeros(SHAPE), nothing, 1, 1)
        mean, covariance = moments(jnp.zeros(SHAPE), nothing, jump_length, num_resamples)
        # All steps are exact, so only x_T, which is not quite N(0, 1), could tell the two apart.
        np.testing.assert_allclose(mean, plain[0], atol=2e-3)
        np.testing.assert_allclose(covariance, plain[1], atol=1e-5)
        np.testing.assert_allclose(covariance, pixels(data())[1], atol=2e-3)


def some_network(x, t):
    return 0.5 * jnp.tanh(x) + 0.001 * t[:, None, None, None]


def arrays(batch_size=3):
    keys = jax.random.split(jax.random.key(1), 2)
    return (jax.random.normal(key, (batch_size, *SHAPE)) for key in keys)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("process", [ddx.ddpm(100), ddx.in_dct_basis(ddx.ddpm(100))], ids=["pixel", "dct"])
def test_where_all_is_known_or_nothing(process, eta):
    denoise, times = ddx.denoiser(process, some_network), ddx.trajectory(100, 5)
    x_T, known = arrays()
    settings = {"times": times, "eta": eta, "jump_length": 2}
    inside = jax.jit(lambda mask, known: ddx.inpaint(denoise, KEY, x_T, known, mask, **settings, num_resamples=3))
    np.testing.assert_array_equal(inside(np.ones(SHAPE, bool), known), known)
    with jax.disable_jit():  # a compiler may round two programs in two ways
        outside = ddx.inpaint(denoise, KEY, x_T, known, np.zeros(SHAPE, bool), **settings, num_resamples=1)
        np.testing.assert_array_equal(outside, ddx.sample(denoise, KEY, x_T, times, eta))
    # What `known` holds elsewhere is not looked at, not even by a change of basis.
    part = inside(np.broadcast_to(TOP, (3, *SHAPE)), known)
    np.testing.assert_array_equal(part, inside(np.broadcast_to(TOP, (3, *SHAPE)), jnp.where(TOP, known, jnp.nan)))
    np.testing.assert_array_equal(part[:, 0], known[:, 0])


@pytest.mark.parametrize("process", [ddx.ddpm(100), ddx.in_dct_basis(ddx.ddpm(100))], ids=["pixel", "dct"])
def test_known_pixels_are_of_the_level_that_a_step_arrives_at(process):
    with jax.enable_x64(True):
        denoise, (x_t, known), noise = ddx.denoiser(process, some_network), arrays(), np.ones((3, *SHAPE))
        rows = with_jumps(process, ddx.plan(process, ddx.trajectory(100, 5), 1.0), 2, 2)
        keeping = replacing(euler(), known, TOP)
        for i, s in enumerate(rows.target.t.tolist()):
            step = jax.tree.map(lambda x, i=i: x[i], rows).expand()
            u_s, _, _ = keeping.step(denoise, process.basis.analysis(x_t), (), step, Draws(0.0, noise, 0.0))
            expected = ddx.q_sample(process, known, s, noise)
            np.testing.assert_allclose(process.basis.synthesis(u_s)[:, 0], expected[:, 0], rtol=1e-10)


def test_the_basis_changes_nothing_but_the_coordinates_of_the_noise():
    with jax.enable_x64(True):
        process, (x_T, known), times = ddx.ddpm(100), arrays(), ddx.trajectory(100, 5)
        draws = np.random.default_rng(0).standard_normal((3, 13, *x_T.shape))
        found = []
        for own, step in ((process, lambda z: z), (ddx.in_dct_basis(process), DCT.basis.analysis)):
            noise = (step(draws[0]), draws[1], step(draws[2]))
            denoise = ddx.denoiser(own, some_network, clip=False)
            settings = {"jump_length": 2, "num_resamples": 3, "noise": noise}
            found.append(ddx.inpaint(denoise, None, x_T, known, TOP, times, 0.7, **settings))
        np.testing.assert_allclose(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_an_image_depends_on_its_own_key_alone(solver):
    denoise, (x_T, known) = ddx.denoiser(ddx.ddpm(100), some_network), arrays()
    keys, settings = batch_keys(KEY, 3), {"times": ddx.trajectory(100, 5), "jump_length": 2, "num_resamples": 2}
    eta = float(solver == "euler")
    whole = ddx.inpaint(denoise, KEY, x_T, known, TOP, eta=eta, solver=solver, **settings)
    alone = ddx.inpaint(denoise, keys[1:2], x_T[1:2], known[1:2], TOP, eta=eta, solver=solver, **settings)
    np.testing.assert_allclose(alone, whole[1:2], rtol=1e-5, atol=1e-6)
    draw = draws_from(keys, x_T, noise_from(keys, x_T))
    noise = tuple(np.stack(z) for z in zip(*map(draw, range(9)), strict=True))
    given = ddx.inpaint(denoise, None, x_T, known, TOP, eta=eta, solver=solver, noise=noise, **settings)
    np.testing.assert_allclose(given, whole, rtol=1e-5, atol=1e-6)
    one, two = noise[0].ravel(), np.concatenate([noise[1].ravel(), noise[2].ravel()])
    assert len(np.unique(np.concatenate([one, two]))) == 3 * one.size  # no draw is used twice


@pytest.mark.parametrize(
    ("jump_length", "num_resamples", "wanted"),
    [
        (1, 1, "6>5 5>4 4>3 3>2 2>1 1>0"),
        (1, 2, "6>5 6>5 5>4 5>4 4>3 4>3 3>2 3>2 2>1 2>1 1>0"),
        (2, 2, "6>5 5>4 4>3 5>4 4>3 3>2 2>1 3>2 2>1 1>0"),
        (5, 3, "6>5 5>4 4>3 3>2 2>1 " * 3 + "1>0"),
    ],
)
def test_a_plan_with_jumps_goes_down_and_up(jump_length, num_resamples, wanted):
    process = ddx.ddpm(6, "cosine")
    rows = with_jumps(process, ddx.plan(process, eta=1.0), jump_length, num_resamples)
    assert " ".join(f"{t}>{s}" for t, s in zip(rows.level.t, rows.target.t, strict=True)) == wanted
    # Where the walk goes up from s to t, the row holds the transition; elsewhere none.
    ratio = np.exp(rows.extra["jump"].log_alpha).ravel()
    for i in range(1, len(ratio)):
        s, t = rows.target.t[i - 1], rows.level.t[i]
        x, _ = ddx.q_transition(process, np.ones((1, *SHAPE)), s, t) if s < t else (np.ones(SHAPE), 0)
        np.testing.assert_allclose(ratio[i], x.ravel()[0], rtol=1e-12)


def test_jumps_to_a_level_without_signal():
    process = ddx.process_from_betas(np.append(np.linspace(0.1, 0.5, 9), 1.0))
    denoise, (x_T, known) = ddx.denoiser(process, some_network, "x0"), arrays()
    assert jnp.isfinite(ddx.inpaint(denoise, KEY, x_T, known, TOP, jump_length=9, num_resamples=2)).all()


def refused(message, process=DCT, mask=TOP, solver="euler", prediction="eps", known=None, noise=None, **settings):
    denoise, (x_T, given) = ddx.denoiser(process, some_network, prediction), arrays()
    settings = {"jump_length": 2, "eta": 0.0, **settings}
    with pytest.raises(ValueError, match=message):
        times = ddx.trajectory(process.num_steps, 5)
        ddx.inpaint(
            denoise, KEY, x_T, given if known is None else known, mask, times, solver=solver, noise=noise, **settings
        )


def test_what_cannot_be_inpainted_is_refused():
    refused("no part of an image can be known under a blur", ddx.blurring(20, 2.0), prediction="v")
    for solver in ("dpmpp_2m", "dpmpp_3m", "deis", "unipc_2"):
        refused(f"'{solver}' remembers earlier steps", solver=solver)
    refused("mask must be an array of booleans", mask=np.ones(SHAPE))
    refused("mask must be an array of booleans", mask=True)
    refused("does not broadcast", mask=np.ones((3, 2, 1), bool))
    refused("does not broadcast", mask=np.ones((2, 3, *SHAPE), bool))
    refused("known must be images like x_T", known=jnp.zeros(SHAPE))
    refused("jump_length=5 needs a walk of more steps", jump_length=5)
    for name in ("jump_length", "num_resamples"):
        for value in (0, -1, 2.0, True):
            refused(f"{name}={value} must be an integer", **{name: value})
    refused("noise must be three arrays", noise=(jnp.zeros((5, 3, *SHAPE)),) * 3)
    refused("noise must be three arrays", num_resamples=1, noise=(jnp.zeros((5, 3, *SHAPE)),) * 2)


def test_no_two_draws_of_an_example_are_of_one_stream():
    """A jump and random signs of ocm_probes, for example: the signs of time k would be of the key of jump k."""
    streams = (walk.INITIAL, interpolate._NOISE_A, interpolate._NOISE_B, ihdm._IMAGE, slope._SIGNS)
    streams += (inpaint._OF_KNOWN, inpaint._OF_JUMP)
    assert len(set(streams)) == len(streams)
