"""The sampler: its keys, its one program, its cuts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion import gaussian, noise, sampling, timesteps, variance

SHAPE = (4, 4, 2)


def model_fn(x, t):
    return 0.3 * x + 0.001 * t[:, None, None, None]


@pytest.fixture(scope="module")
def process():
    return ddx.ddpm(100, "cosine")


def draw(process, key, x_T, **kwargs):
    return ddx.sample(process, ddx.denoiser(process, model_fn), key, x_T, ddx.trajectory(100, 10), 1.0, **kwargs)


def test_sample_i_depends_only_on_key_and_i(process):
    keys = noise.example_keys(jax.random.key(7), jnp.arange(6))
    x_T = sampling.initial_noise(keys, SHAPE)
    together = draw(process, keys, x_T)
    apart = jnp.concatenate([draw(process, keys[i : i + 2], x_T[i : i + 2]) for i in (0, 2, 4)])
    np.testing.assert_allclose(together, apart, rtol=1e-6, atol=1e-6)
    # A single key stands for the keys of examples 0, 1, 2, ...; raw keys mean what typed ones do.
    np.testing.assert_array_equal(together, draw(process, jax.random.key(7), x_T))
    np.testing.assert_array_equal(together, draw(process, jax.random.PRNGKey(7), x_T))


def test_different_examples_steps_and_starts_have_independent_noise():
    keys = noise.example_keys(jax.random.key(0), jnp.arange(3))
    x_T = sampling.initial_noise(keys, SHAPE)
    draws = jnp.stack([x_T, *(sampling.noise_from(keys, x_T)(k) for k in range(4))]).reshape(15, -1)
    gram = np.asarray(draws @ draws.T) / draws.shape[1]
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 0.7 and np.linalg.matrix_rank(gram) == 15


def test_the_noise_of_a_key_is_the_noise_that_can_be_injected(process):
    keys = noise.example_keys(jax.random.key(3), jnp.arange(2))
    x_T = sampling.initial_noise(keys, SHAPE)
    given = jnp.stack([sampling.noise_from(keys, x_T)(k) for k in range(10)])
    np.testing.assert_allclose(draw(process, keys, x_T), draw(process, None, x_T, noise=given), rtol=1e-6, atol=1e-6)


def test_one_program_serves_every_schedule_eta_and_trajectory_of_a_length():
    traces = []

    @jax.jit
    def walk(steps, x_T, draws):
        traces.append(1)
        denoise = ddx.denoiser(ddx.ddpm(), model_fn)
        return sampling.walk(denoise.at, x_T, steps, draws, variance.small, lambda z: z)

    x_T, draws = jnp.ones((2, *SHAPE)), jnp.ones((10, 2, *SHAPE))
    for process in (ddx.ddpm(1000), ddx.iddpm(4000), ddx.ddpm(50, "quad")):
        for eta in (0.0, 0.5, 1.0):
            times = ddx.trajectory(process.num_steps, 10)
            found = walk(gaussian.step_table(process, times, eta), x_T, draws)
            expected = ddx.sample(process, ddx.denoiser(process, model_fn), None, x_T, times, eta, noise=draws)
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    assert len(traces) == 1


def test_a_walk_may_be_cut_anywhere(process):
    denoise = ddx.denoiser(process, model_fn)
    steps = gaussian.step_table(process, ddx.trajectory(100, 10), 1.0)
    keys = noise.example_keys(jax.random.key(0), jnp.arange(2))
    x_T = sampling.initial_noise(keys, SHAPE)
    draw_fn = sampling.noise_from(keys, x_T)

    @jax.jit
    def walk(u_t, steps, k):
        return sampling.walk(denoise.at, u_t, steps, k, variance.small, draw_fn)

    whole = walk(x_T, steps, jnp.arange(10))
    first = walk(x_T, jax.tree.map(lambda x: x[:5], steps), jnp.arange(5))
    second = walk(first, jax.tree.map(lambda x: x[5:], steps), jnp.arange(5, 10))
    np.testing.assert_array_equal(whole, second)


def test_eta_1_is_the_ancestral_sampler_and_its_noise_grows_with_eta(process):
    x_T = jnp.zeros((1, *SHAPE))
    point = ddx.denoiser(process, lambda x, t: jnp.zeros_like(x), "x0")
    spread = []
    for eta in (0.0, 0.5, 1.0):
        steps = gaussian.step_table(process, (100, 50, 0), eta)
        spread.append(float(steps.small[0, 0, 0, 0]))
        assert float(jnp.abs(ddx.sample(process, point, jax.random.key(0), x_T, (100, 50, 0), eta)).max()) == 0
    np.testing.assert_allclose(spread, [0.0, 0.25 * spread[2], spread[2]])
    _, posterior = ddx.q_posterior(process, x_T, x_T, 50, 100)
    np.testing.assert_allclose(spread[2], posterior)


def test_a_function_around_a_denoiser_samples_too(process):
    denoise = ddx.denoiser(process, model_fn)
    x_T = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    args = (jax.random.key(1), x_T, ddx.trajectory(100, 10), 1.0)
    np.testing.assert_array_equal(
        ddx.sample(process, lambda x, t: denoise(x, t), *args), ddx.sample(process, denoise, *args)
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"times": (50, 100, 0)}, "strictly decreasing"),
        ({"times": (50, 10)}, "end in 0"),
        ({"eta": -0.1}, "eta=-0.1"),
        ({"variance": "tiny"}, "choose one of: small, large"),
        ({"variance": "large", "eta": 0.5}, "eta = 1"),
        ({"key": None}, "needs a key"),
        ({"noise": jnp.zeros((3, 1, *SHAPE))}, "one draw a step"),
    ],
)
def test_mistakes_are_named(process, kwargs, message):
    kwargs = {"key": jax.random.key(0), "x_T": jnp.zeros((1, *SHAPE)), **kwargs}
    with pytest.raises(ValueError, match=message):
        ddx.sample(process, ddx.denoiser(process, model_fn), **kwargs)


def test_sampling_differentiates(process):
    def squared(scale):
        denoise = ddx.denoiser(process, lambda x, t: scale * x, clip=False)
        return jnp.square(ddx.sample(process, denoise, jax.random.key(0), jnp.ones((1, *SHAPE)), (100, 30, 0))).sum()

    with jax.enable_x64(True):
        step = 1e-6
        numeric = (squared(0.3 + step) - squared(0.3 - step)) / (2 * step)
        np.testing.assert_allclose(jax.grad(squared)(0.3), numeric, rtol=1e-3)


def test_training_times_are_uniform_over_1_to_T():
    t = timesteps.uniform(noise.example_keys(jax.random.key(0), jnp.arange(20_000)), 10)
    counts = np.bincount(t, minlength=11)
    assert counts[0] == 0 and t.max() == 10
    # Each count is binomial(20000, 1/10): six standard deviations are 255.
    assert np.abs(counts[1:] - 2000).max() < 255
