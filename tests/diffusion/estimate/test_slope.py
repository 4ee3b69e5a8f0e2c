"""The slope of eps: the variance of the data given u_t, exact for Gaussian data and unbiased for any network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.estimate.slope import with_slope
from ddx.diffusion.objective import losses
from ddx.diffusion.reverse.rows import downward
from tests import oracle

SHAPE = (4, 4, 1)
DATA = oracle.random_gaussian(SHAPE)
PROCESSES = {
    "pixels": ddx.ddpm(20, "cosine"),
    "frequencies": ddx.in_dct_basis(ddx.ddpm(20, "cosine")),
    "blur": ddx.blurring(20),
}
KEY = jax.random.key(3)


def row_of(process, times=(8, 3, 0), eta=1.0):
    return jax.tree.map(lambda x: jnp.asarray(x)[0], downward(process, times, eta, SHAPE[:2]).expand(SHAPE[:2]))


def mixed(process, matrix):
    """A network whose eps is `matrix` times u_t."""

    def model_fn(x_t, _):
        u_t = process.basis.analysis(x_t).reshape(len(x_t), -1)
        return process.basis.synthesis((u_t @ matrix.T).reshape(x_t.shape))

    return ddx.denoiser(process, model_fn, clip=False)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("name", PROCESSES)
def test_of_gaussian_data_one_draw_tells_the_variance_of_each_coordinate(name, prediction, clip):
    process = PROCESSES[name]
    with jax.enable_x64(True):
        row = row_of(process)
        m = row.level
        denoise = ddx.denoiser(process, DATA.model_fn(process, prediction), prediction, clip)
        u_t = jax.random.normal(KEY, (2, *SHAPE))
        d = ddx.hutchinson(denoise, KEY, 1).at(u_t, m)
        expected = np.broadcast_to(-(m.sigma**2) / (m.alpha**2 * DATA.variance + m.sigma**2), d.slope.shape)
        np.testing.assert_allclose(d.slope, expected, rtol=1e-9)
        truth = row.lambda2 + row.gamma**2 * DATA.covariance(m.alpha, m.sigma)
        np.testing.assert_allclose(ddx.ocm()(d, row), np.broadcast_to(truth, d.slope.shape), rtol=1e-9)
        plain = denoise.at(u_t, m)
        np.testing.assert_allclose(d.x_0, plain.x_0, rtol=1e-12)
        np.testing.assert_allclose(d.eps, plain.eps, rtol=1e-12)


def test_the_mean_over_all_signs_is_the_diagonal_of_any_network():
    process, matrix = ddx.ddpm(20, "cosine"), np.random.default_rng(0).standard_normal((4, 4))
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 4), -1).reshape(16, 1, 2, 2, 1)
    with jax.enable_x64(True):
        level = process.level(8, (2, 2))
        d = with_slope(mixed(process, matrix), jnp.zeros((1, 2, 2, 1)), level, signs)
        np.testing.assert_allclose(d.slope.ravel(), -level.sigma.ravel() * np.diag(matrix), rtol=1e-9)


def test_the_signs_belong_to_the_example_and_the_time():
    process, matrix = ddx.ddpm(20, "cosine"), np.random.default_rng(0).standard_normal((16, 16))
    level, keys, u_t = process.level(8, SHAPE[:2]), jax.random.split(KEY, 3), jnp.zeros((3, *SHAPE))
    denoise = mixed(process, matrix)
    slope = ddx.hutchinson(denoise, keys).at(u_t, level).slope
    alone = ddx.hutchinson(denoise, keys[1:2]).at(u_t[1:2], level).slope
    np.testing.assert_allclose(slope[1:2], alone, rtol=1e-5, atol=1e-6)
    assert not np.allclose(slope[0], slope[1])
    other = ddx.hutchinson(denoise, keys).at(u_t, process.level(9, SHAPE[:2])).slope
    assert not np.allclose(slope / level.sigma, other / process.level(9, SHAPE[:2]).sigma)
    # They are not the signs of the noise that a bound draws from the same key at the same time.
    noise = ddx.diffusion.bound.terms.noise_at(keys, u_t)(8)
    first = np.outer(np.ones(16), np.eye(16)[0])  # J v is the first of v, so the slope is v up to sign and scale
    v = np.sign(ddx.hutchinson(mixed(process, first), keys, 1).at(u_t, level).slope)
    assert np.all(v != 0) and abs(np.mean(v * np.sign(noise * -noise[:, :1, :1]))) < 0.5


@pytest.mark.parametrize("name", PROCESSES)
def test_with_it_any_number_of_steps_keeps_the_distribution_of_gaussian_data(name):
    process = PROCESSES[name]
    with jax.enable_x64(True):
        x_0 = jnp.round(127.5 * (process.basis.synthesis(np.asarray(DATA.mean, float)[None]) + 1)) / 127.5 - 1
        denoise = ddx.denoiser(process, DATA.model_fn(process, "v"), "v", clip=False)
        probed = ddx.hutchinson(denoise, KEY, 1)
        found = ddx.bits_per_dim(probed, x_0, KEY, (20, 8, 3, 0), "ocm").terms
        exact = ddx.bits_per_dim(denoise, x_0, KEY, (20, 8, 3, 0), DATA.optimal_variance()).terms
        noisy = slice(not process.ends_noisy, None)  # into data without noise every variance is "small"
        np.testing.assert_allclose(found[:, noisy], exact[:, noisy], rtol=1e-8)
        sampled, truth = (
            ddx.sample(of, KEY, jnp.ones((2, *SHAPE)), (20, 8, 3, 1, 0), 0.5, variance)
            for of, variance in ((probed, "ocm"), (denoise, DATA.optimal_variance()))
        )
        np.testing.assert_allclose(sampled, truth, rtol=1e-8)


@pytest.mark.parametrize("name", ["pixels", "frequencies"])
def test_the_head_that_minimises_the_loss_is_the_slope(name):
    process, t = PROCESSES[name], 8
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        network, level = DATA.model_fn(process, "v"), process.level(t, SHAPE[:2])
        x_0, z = (jnp.asarray(rng.standard_normal((3, *SHAPE))) for _ in range(2))
        v = jnp.sign(jnp.asarray(rng.standard_normal((3, *SHAPE))))

        def loss(w):
            model_fn = lambda x, time: jnp.concatenate([network(x, time), jnp.broadcast_to(w, x.shape)], -1)  # noqa: E731
            return losses.head_loss(process, model_fn, x_0, np.full(3, t), z, "ocm", "v", v=v)

        h = -(level.sigma**2) / (level.alpha**2 * DATA.variance + level.sigma**2)
        at_h = loss(h)
        np.testing.assert_allclose(at_h.head, 0.0, atol=1e-20)
        plain = losses.simple_loss(process, network, x_0, np.full(3, t), z, "v")
        np.testing.assert_allclose(at_h.mse, plain, rtol=1e-9)
        assert np.all(loss(h + 0.1).head > 0.009)


def test_no_gradient_flows_into_the_network_through_what_the_head_fits():
    process, v = ddx.ddpm(20, "cosine"), jnp.ones((2, *SHAPE))

    def loss(w, head):
        model_fn = lambda x, _: jnp.concatenate([w * x**2, head * jnp.ones_like(x)], -1)  # noqa: E731
        return losses.head_loss(process, model_fn, v / 2, np.array([8, 9]), v, "ocm", "eps", v=v).head.sum()

    of_network, of_head = jax.grad(loss, (0, 1))(0.3, 0.1)
    assert of_network == 0 and of_head != 0


def test_what_cannot_be_is_refused():
    process, x = PROCESSES["pixels"], jnp.zeros((2, *SHAPE))
    denoise = ddx.denoiser(process, DATA.model_fn(process))
    for draws in (0, True, 1.5):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            ddx.hutchinson(denoise, KEY, draws)
    with pytest.raises(ValueError, match="of one network"):
        ddx.hutchinson(dataclasses.replace(denoise, prediction=None), KEY)
    with pytest.raises(ValueError, match=r"'ocm' needs a network with 2 C output channels, .* or use ddx\.hutchinson"):
        ddx.sample(denoise, KEY, x, (20, 0), 1.0, "ocm")
    two = lambda x, _: jnp.concatenate([x, x], -1)  # noqa: E731
    for head, v in (("ocm", None), ("ocm", x[:1]), ("npr", x)):
        with pytest.raises(ValueError, match="v must be signs like x_0"):
            losses.head_loss(process, two, x, np.array([1, 2]), x, head, v=v)
