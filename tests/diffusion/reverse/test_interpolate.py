"""Between images: what the ends are, what is shared, what the noise level decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion import random
from ddx.diffusion.reverse.walk import initial_noise
from tests import oracle

SHAPE = (4, 4, 2)
TIMES = ddx.trajectory(100, 10, "even")
WEIGHTS = (0.0, 0.3, 1.0)


@pytest.fixture(scope="module")
def process():
    return ddx.ddpm(100, "cosine")


@pytest.fixture(scope="module")
def denoise(process):
    return ddx.denoiser(process, lambda x, t: 0.5 * jnp.tanh(x) + 0.001 * t[:, None, None, None], clip=False)


def pair(seed=0):
    return jax.random.normal(jax.random.key(seed), (2, 3, *SHAPE))


def test_slerp_keeps_the_norm_and_moves_by_equal_angles():
    with jax.enable_x64(True):
        a, b = np.random.default_rng(0).standard_normal((2, 3, *SHAPE))
        a, b = (x / np.sqrt(np.square(x).sum((1, 2, 3), keepdims=True)) for x in (a, b))
        path = np.asarray(ddx.slerp(a, b, np.linspace(0, 1, 6)))
        np.testing.assert_allclose(path[0], a, atol=1e-14)
        np.testing.assert_allclose(path[-1], b, atol=1e-14)
        np.testing.assert_allclose(np.square(path).sum((2, 3, 4)), 1, rtol=1e-12)
        neighbours = (path[1:] * path[:-1]).sum((2, 3, 4))
        np.testing.assert_allclose(neighbours, np.broadcast_to(neighbours[:1], neighbours.shape), rtol=1e-12)


def test_slerp_between_parallel_images_is_linear():
    x = jnp.ones((1, *SHAPE))
    np.testing.assert_allclose(ddx.slerp(x, 2 * x, (0.5,))[0], 1.5 * x, rtol=1e-6)
    assert bool(jnp.isfinite(ddx.slerp(x, -x, (0.5,))).all())
    np.testing.assert_allclose(ddx.slerp(0 * x, x, (0.5,))[0], 0.5 * x, rtol=1e-6)
    assert bool(jnp.isfinite(jax.grad(lambda a: ddx.slerp(a, x, (0.5,)).sum())(x)).all())


def test_latents_ends_are_their_own_images(process, denoise):
    x_a, x_b = pair()
    xs = ddx.interpolate(denoise, x_a, x_b, WEIGHTS, TIMES)
    assert xs.shape == (3, 3, *SHAPE)
    for end, x_T in ((0, x_a), (-1, x_b)):
        np.testing.assert_allclose(xs[end], ddx.sample(denoise, None, x_T, TIMES), rtol=1e-4, atol=1e-5)


def test_images_interpolate_through_their_codes(process):
    data = oracle.random_gaussian(SHAPE)
    denoise = ddx.denoiser(process, data.model_fn(process), clip=False)
    x_a, x_b = (data.mean + np.sqrt(data.variance) * x for x in pair())
    times = ddx.trajectory(100)
    codes = [ddx.encode(denoise, x, times, "heun") for x in (x_a, x_b)]
    xs = ddx.interpolate(denoise, *codes, (0.0, 1.0), times, "heun")
    # What is left is the first step: images are taken for x_1, with sigma_1 = 0.02.
    np.testing.assert_allclose(xs, jnp.stack([x_a, x_b]), atol=0.02)


def test_diffused_images_at_weight_0_and_1_do_not_see_the_other(process, denoise):
    (x_a, x_b), (y_a, y_b) = pair(0), pair(1)
    run = lambda a, b: ddx.interpolate_diffused(denoise, jax.random.key(5), a, b, WEIGHTS, 50, TIMES)  # noqa: E731
    first = run(x_a, x_b)
    np.testing.assert_allclose(first[0], run(x_a, y_b)[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(first[-1], run(y_a, x_b)[-1], rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(first[1] - run(x_a, y_b)[1]).max()) > 1e-2


def test_all_weights_share_the_noise(process, denoise):
    x, _ = pair()
    for shared in (True, False):
        xs = ddx.interpolate_diffused(denoise, jax.random.key(5), x, x, WEIGHTS, 50, TIMES, shared_noise=shared)
        same = float(jnp.abs(xs - xs[:1]).max())
        # One image with one noise is one x_t at every weight; with a noise for each end it is not.
        assert (same < 1e-5) == shared


def test_at_0_pixels_are_mixed_and_at_T_images_are_forgotten(process):
    denoise = ddx.denoiser(process, lambda x, t: 0.5 * jnp.tanh(x))
    (x_a, x_b), (y_a, y_b) = pair(0), pair(1)
    run = lambda a, b, t: ddx.interpolate_diffused(denoise, jax.random.key(5), a, b, WEIGHTS, t, TIMES)  # noqa: E731
    np.testing.assert_allclose(run(x_a, x_b, 0)[1], 0.7 * x_a + 0.3 * x_b, rtol=1e-5, atol=1e-6)
    # alpha_T is 2e-5 here.
    np.testing.assert_allclose(run(x_a, x_b, 100), run(y_a, y_b, 100), atol=0.05)
    grid = ddx.coarse_to_fine(denoise, jax.random.key(5), x_a, x_b, WEIGHTS, (0, 50, 100), times=TIMES)
    np.testing.assert_allclose(grid[1], run(x_a, x_b, 50), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"t=101 must lie in 0\.\.100"):
        run(x_a, x_b, 101)


@pytest.mark.parametrize("i", [0, 4, 9, *(pytest.param(i, marks=pytest.mark.soak) for i in (1, 2, 3, 5, 6, 7, 8))])
def test_images_that_share_a_latent(process, denoise, i):
    keys, t = random.example_keys(jax.random.key(3), jnp.arange(4)), TIMES[i]
    x_T = initial_noise(process, keys[:1], SHAPE)
    x_0, x_t = ddx.share_latent(denoise, jax.random.key(3), x_T, 4, t, TIMES)
    whole, film = ddx.progressive(denoise, keys[:1], x_T, (t,), TIMES, 1.0)
    np.testing.assert_allclose(x_t, film.x_t[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(x_0[:1], whole, rtol=1e-4, atol=1e-5)
    if i == 9:  # no noise is left to draw: all are one image
        assert float(jnp.abs(x_0 - x_0[:1]).max()) < 1e-5
    else:
        assert float(jnp.abs(x_0[1:] - x_0[:1]).max()) > 1e-2


def test_what_cannot_share_a_latent_is_refused(process, denoise):
    x_T = jnp.ones((1, *SHAPE))
    with pytest.raises(ValueError, match="t=7 is not among the visited times"):
        ddx.share_latent(denoise, jax.random.key(3), x_T, 4, 7, TIMES)
    with pytest.raises(ValueError, match="must be one image"):
        ddx.share_latent(denoise, jax.random.key(3), jnp.ones((2, *SHAPE)), 4, 56, TIMES)
