"""From images to latents and back: the error falls with the number of steps, on every schedule."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.reverse import solvers
from tests import oracle
from tests.walks import walker

SHAPE = (4, 4, 1)


def trained(process, prediction="eps", error=0.02):
    """A network that errs, smoothly in x and t, as trained ones do."""
    exact = oracle.random_gaussian(SHAPE).model_fn(process, prediction)

    def model_fn(x, t):
        return exact(x, t) + error * jnp.sin(3.0 * x + t[:, None, None, None] * (20.0 / process.num_steps))

    return ddx.denoiser(process, model_fn, prediction, clip=False)


def images():
    data = oracle.random_gaussian(SHAPE)
    return data.mean + np.sqrt(data.variance) * jax.random.normal(jax.random.key(1), (2, *SHAPE), jnp.float64)


def there_and_back(walk, times):
    """The error of an image that is found again."""
    x_0 = images()
    return float(jnp.mean(jnp.square((walk.sample(walk.encode(x_0, times), times) - x_0) / 2)))


@functools.cache
def of_cosine(solver):
    return walker(trained(ddx.ddpm(1000, "cosine")), solver)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
@pytest.mark.parametrize("spacing", ["uniform", "trailing"])
def test_the_error_falls_with_the_number_of_steps(solver, spacing):
    with jax.enable_x64(True):
        walk = of_cosine(solver)
        errors = [
            there_and_back(walk, ddx.encodable(walk.denoise, ddx.trajectory(1000, K, spacing))) for K in (10, 50, 500)
        ]
    # The last step, from x_1, is of the size of its noise, sigma_1 = 0.0064.
    assert errors[1] < errors[0] / 2 and errors[2] < max(errors[1] / 2, 0.0064**2), errors
    assert errors[2] < 5e-5, errors


def test_beyond_the_encodable_times_an_image_is_not_found_again_and_a_warning_says_so():
    denoise, times = trained(ddx.ddpm(1000, "cosine")), ddx.trajectory(1000)
    with jax.enable_x64(True):
        x_0 = images()
        with pytest.warns(UserWarning, match=r"beyond t = 995 .* encode and sample with times=ddx\."):
            x_T = jax.jit(lambda x: ddx.encode(denoise, x, times))(x_0)
        back = jax.jit(lambda x: ddx.sample(denoise, None, x, times))(x_T)
        assert float(jnp.mean(jnp.square((back - x_0) / 2))) > 0.01


@pytest.mark.parametrize(
    ("process", "highest"),
    [
        (ddx.ddpm(), 1000),  # DDIM's table 2
        (ddx.ddpm(1000, "sigmoid"), 1000),
        (ddx.ddpm(1000, "vpsde"), 1000),
        (ddx.ddpm(1000, "cosine"), 995),
        (ddx.iddpm(4000), 3983),
        (ddx.ddpm(20, "cosine"), 19),
        (ddx.blurring(1000, sigma_blur_max=0.0), 1000),
    ],
)
def test_eps_is_encoded_to_where_sigma_is_160_times_alpha(process, highest):
    times = ddx.encodable(trained(process), shape=SHAPE[:2])
    assert times == tuple(range(highest, -1, -1))
    m, above = (process.marginal(t, SHAPE[:2]) for t in (highest, min(highest + 1, process.num_steps)))
    assert np.all(m.sigma <= 160 * m.alpha)
    assert highest == process.num_steps or above.sigma > 160 * above.alpha
    assert ddx.encodable(trained(process), times, SHAPE[:2]) == times


@pytest.mark.parametrize("prediction", ["x0", "v"])
@pytest.mark.parametrize("schedule", ["cosine", "jsd"])
def test_x_0_and_v_are_encoded_through_all_times(schedule, prediction):
    process = ddx.ddpm(200, schedule)
    denoise = trained(process, prediction)
    assert ddx.encodable(denoise) == ddx.trajectory(200)
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("error")
        walk = walker(denoise)
        errors = [there_and_back(walk, ddx.trajectory(200, K)) for K in (20, 200)]
    assert errors[1] < errors[0] / 4 and errors[1] < 2e-3, errors


def test_eps_under_a_blur_is_refused():
    process = ddx.blurring(100, 4.0)
    with pytest.raises(ValueError, match=r"under this blur eps tells no x_0 .* use a network that predicts v"):
        ddx.encodable(ddx.denoiser(process, lambda x, t: x, clip=False), shape=SHAPE[:2])
    v = ddx.denoiser(process, lambda x, t: x, "v", clip=False)
    assert ddx.encodable(v, shape=SHAPE[:2]) == ddx.trajectory(100)


@pytest.mark.parametrize("prediction", ["residual", "x0", "v"])
def test_a_blur_that_leaves_nothing_of_some_frequencies_is_refused(prediction):
    process = ddx.ihdm(20, sigma_blur_max=4.0)
    denoise = ddx.denoiser(process, lambda x, t: x, prediction, clip=False)
    with pytest.raises(ValueError, match="leaves nothing of some frequencies"):
        ddx.encodable(denoise, shape=SHAPE[:2])


def test_a_first_level_that_hides_images_is_refused():
    process = ddx.process_from_betas(np.r_[0.3, np.full(500, 0.01)])
    with pytest.raises(ValueError, match=r"its noise of 0\.55 hides them"):
        ddx.encodable(trained(process))


def test_times_that_are_none_and_functions_that_are_no_denoiser_are_refused():
    process = ddx.ddpm(1000)
    for prediction in ("eps", "v"):
        for times in ((2000, 500, 0), (), (0, 500, 1000), (1000, 500)):
            with pytest.raises(ValueError, match="time"):
                ddx.encodable(trained(process, prediction), times)
    with pytest.raises(ValueError, match=r"pass a ddx\.denoiser"):
        ddx.encodable(lambda x, t: x)


@pytest.mark.parametrize("times", [(1000, 0), (1, 0), (999, 998, 0)])
def test_without_a_time_to_encode_to_there_is_an_error(times):
    with pytest.raises(ValueError, match="encoding needs a time beyond 1"):
        ddx.encodable(trained(ddx.ddpm(1000, "cosine")), times)


class Linear:
    """A schedule of a user's own, alpha = 1 - u / 2 and sigma = u / 2: continuous, without noise at 0."""

    num_steps, continuous = 10, True

    def at(self, t):
        from ddx.diffusion.forward.schedules import Marginal
        from ddx.diffusion.times import checked

        xp, t = checked(t, self.num_steps)
        a, sigma = 1 - 0.05 * t, 0.05 * t
        with np.errstate(divide="ignore"):
            return Marginal(a, sigma, 2 * (xp.log(a) - xp.log(sigma)))

    def log_alpha_change(self, s, t):
        return np.log(self.at(t).alpha / self.at(s).alpha)

    def logsnr_change(self, s, t):
        return self.at(t).logsnr - self.at(s).logsnr


def test_images_of_a_continuous_process_without_noise_at_0_are_taken_for_its_first_level():
    from ddx.diffusion.forward.basis import PIXEL
    from ddx.diffusion.forward.process import Process

    process = Process(PIXEL, Linear(), time_offset=0)
    assert not process.ends_noisy
    for first in (1.0, 0.25):
        times = (*np.linspace(10, first, 400).tolist(), 0)
        denoise = ddx.denoiser(process, lambda x, t: 0.2 * jnp.ones_like(x), clip=False)
        with jax.enable_x64(True):
            x_T = ddx.encode(denoise, images(), times)
            # eps is constant: x_t / alpha_t moves by eps times the change of sigma / alpha.
            start, end = (process.marginal(t) for t in (first, 10.0))
            moved = end.alpha * (images() / start.alpha + 0.2 * (end.sigma / end.alpha - start.sigma / start.alpha))
            np.testing.assert_allclose(x_T, moved, rtol=1e-10)
