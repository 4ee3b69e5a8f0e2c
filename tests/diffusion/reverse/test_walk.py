"""The sampler: its keys, its one program, its cuts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion import random
from ddx.diffusion.reverse import solvers
from ddx.diffusion.reverse.rows import downward
from ddx.diffusion.reverse.walk import advance, initial_noise, no_noise, noise_from, start

SHAPE = (4, 4, 2)


def model_fn(x, t):
    return 0.3 * x + 0.001 * t[:, None, None, None]


@pytest.fixture(scope="module")
def process():
    return ddx.ddpm(100, "cosine")


def draw(process, key, x_T, **kwargs):
    return ddx.sample(ddx.denoiser(process, model_fn), key, x_T, ddx.trajectory(100, 10), 1.0, **kwargs)


def test_sample_i_depends_only_on_key_and_i(process):
    keys = random.example_keys(jax.random.key(7), jnp.arange(6))
    x_T = initial_noise(process, keys, SHAPE)
    together = draw(process, keys, x_T)
    apart = jnp.concatenate([draw(process, keys[i : i + 2], x_T[i : i + 2]) for i in (0, 2, 4)])
    np.testing.assert_allclose(together, apart, rtol=1e-6, atol=1e-6)
    # A single key stands for the keys of examples 0, 1, 2, ...; raw keys mean what typed ones do.
    np.testing.assert_array_equal(together, draw(process, jax.random.key(7), x_T))
    np.testing.assert_array_equal(together, draw(process, jax.random.PRNGKey(7), x_T))


def test_different_examples_steps_and_starts_have_independent_noise(process):
    keys = random.example_keys(jax.random.key(0), jnp.arange(3))
    x_T = initial_noise(process, keys, SHAPE)
    draws = jnp.stack([x_T, *(noise_from(keys, x_T)(k) for k in range(4))]).reshape(15, -1)
    gram = np.asarray(draws @ draws.T) / draws.shape[1]
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 0.7 and np.linalg.matrix_rank(gram) == 15


def test_the_noise_of_a_key_is_the_noise_that_can_be_injected(process):
    keys = random.example_keys(jax.random.key(3), jnp.arange(2))
    x_T = initial_noise(process, keys, SHAPE)
    given = jnp.stack([noise_from(keys, x_T)(k) for k in range(10)])
    np.testing.assert_allclose(draw(process, keys, x_T), draw(process, None, x_T, noise=given), rtol=1e-6, atol=1e-6)


def test_one_program_serves_every_schedule_eta_and_trajectory_of_a_length():
    traces = []

    @jax.jit
    def walk(steps, x_T, draws):
        traces.append(1)
        denoise = ddx.denoiser(ddx.ddpm(), model_fn)
        kernel = solvers.euler()
        return advance(denoise, start(kernel, x_T), steps, draws, kernel, lambda z: z).u_t

    x_T, draws = jnp.ones((2, *SHAPE)), jnp.ones((10, 2, *SHAPE))
    for process, eta in ((ddx.ddpm(1000), 0.0), (ddx.iddpm(4000), 0.5), (ddx.ddpm(50, "quad"), 1.0)):
        times = ddx.trajectory(process.num_steps, 10)
        found = walk(downward(process, times, eta), x_T, draws)
        expected = ddx.sample(ddx.denoiser(process, model_fn), None, x_T, times, eta, noise=draws)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_a_walk_may_be_cut_anywhere(process, solver):
    denoise = ddx.denoiser(process, model_fn)
    eta = 1.0 if solver == "euler" else 0.0
    kernel = solvers.make_solver(solver, eta)
    steps = kernel.prepared(process, downward(process, ddx.trajectory(100, 10), eta))
    keys = random.example_keys(jax.random.key(0), jnp.arange(2))
    x_T = initial_noise(process, keys, SHAPE)
    draw_fn = noise_from(keys, x_T)

    @jax.jit
    def walk(walking, steps, k):
        return advance(denoise, walking, steps, k, kernel, draw_fn)

    whole = walk(start(kernel, x_T), steps, jnp.arange(10))
    first = walk(start(kernel, x_T), jax.tree.map(lambda x: x[:5], steps), jnp.arange(5))
    second = walk(first, jax.tree.map(lambda x: x[5:], steps), jnp.arange(5, 10))
    np.testing.assert_array_equal(whole.u_t, second.u_t)


def test_eta_1_is_the_ancestral_sampler_and_its_noise_grows_with_eta(process):
    x_T = jnp.zeros((1, *SHAPE))
    point = ddx.denoiser(process, lambda x, t: jnp.zeros_like(x), "x0")
    spread = []
    for eta in (0.0, 0.5, 1.0):
        steps = downward(process, (100, 50, 0), eta).expand()
        spread.append(float(steps.small[0, 0, 0, 0]))
        assert float(jnp.abs(ddx.sample(point, jax.random.key(0), x_T, (100, 50, 0), eta)).max()) == 0
    np.testing.assert_allclose(spread, [0.0, 0.25 * spread[2], spread[2]])
    _, posterior = ddx.q_posterior(process, x_T, x_T, 50, 100)
    np.testing.assert_allclose(spread[2], posterior)


def test_a_function_around_a_denoiser_samples_too(process):
    denoise = ddx.denoiser(process, model_fn)
    x_T = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    args = (jax.random.key(1), x_T, ddx.trajectory(100, 10), 1.0)
    np.testing.assert_array_equal(
        ddx.sample(ddx.from_pixels(process, lambda x, t: denoise(x, t)), *args), ddx.sample(denoise, *args)
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"times": (50, 100, 0)}, "strictly decreasing"),
        ({"times": (50, 10)}, "end in 0"),
        ({"eta": -0.1}, "eta=-0.1"),
        ({"variance": "tiny"}, "choose one of: small, large"),
        ({"variance": "large", "eta": 0.5}, "eta = 1"),
        ({"key": None, "eta": 1.0}, "needs a key"),
        ({"eta": 1.5}, r"eta may be at most 1\.0"),
        ({"solver": "rk4"}, "choose one of: euler, heun"),
        ({"solver": "heun", "eta": 1.0}, "is for eta = 0"),
        ({"solver": "dpmpp_2m", "eta": 1.0, "variance": "large"}, "belongs to solver 'euler'"),
        ({"noise": jnp.zeros((3, 1, *SHAPE)), "eta": 1.0}, "one draw a step"),
    ],
)
def test_mistakes_are_named(process, kwargs, message):
    kwargs = {"key": jax.random.key(0), "x_T": jnp.zeros((1, *SHAPE)), **kwargs}
    with pytest.raises(ValueError, match=message):
        ddx.sample(ddx.denoiser(process, model_fn), **kwargs)


def test_a_deterministic_sampler_needs_no_key(process):
    x_T = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    denoise, times = ddx.denoiser(process, model_fn), ddx.trajectory(100, 10)
    found = ddx.sample(denoise, None, x_T, times)
    np.testing.assert_array_equal(found, ddx.sample(denoise, jax.random.key(1), x_T, times))
    # A variance of one's own may add noise at eta = 0 (Analytic-DPM's DDIM), so noise is drawn for it.
    with pytest.raises(ValueError, match="needs a key"):
        ddx.sample(denoise, None, x_T, times, variance=lambda d, step: step.large)


def test_an_eta_above_1_keeps_the_marginals_while_it_can():
    """DDIM's step with sigma_s^2 - lambda2 >= 0 has the right marginal at s for any eta (its lemma 1)."""
    process, times = ddx.ddpm(1000), ddx.trajectory(1000)
    steps = downward(process, times, 1.0).expand()
    limit = float(np.min(1 / np.sqrt(-np.expm1(-2 * steps.h[:-1]))))
    eta = 0.999 * limit
    assert eta > 1.2
    t, s = np.asarray(times[:-1]), np.asarray(times[1:])
    m_s, m_t = process.marginal(s), process.marginal(t)
    c = ddx.step_coefficients(process, s, t, eta)
    np.testing.assert_allclose(c.k * m_t.alpha + c.gamma, m_s.alpha, rtol=1e-12)
    np.testing.assert_allclose(c.k**2 * m_t.sigma**2 + c.lambda2, m_s.sigma**2, rtol=1e-12, atol=1e-300)
    denoise, x_T = ddx.denoiser(process, model_fn), jnp.ones((1, *SHAPE))
    assert bool(jnp.isfinite(ddx.sample(denoise, jax.random.key(0), x_T, times, eta)).all())
    with pytest.raises(ValueError, match=r"may be at most"):
        ddx.sample(denoise, jax.random.key(0), x_T, times, 1.001 * limit)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_the_memory_of_a_sampler_does_not_grow_with_its_steps(solver):
    process = ddx.ddpm(1000)
    denoise = ddx.denoiser(process, lambda x, t: jnp.tanh(x))
    x_T = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)

    def compiled(K):
        times = ddx.trajectory(1000, K)
        eta = 1.0 if solver in ("euler", "dpmpp_2m") else 0.0
        run = jax.jit(lambda key, x: ddx.sample(denoise, key, x, times, eta, solver=solver))
        return run.lower(jax.random.key(0), x_T).compile().memory_analysis()

    few, many = compiled(10), compiled(1000)
    table = 1000 * 20 * 4  # twenty numbers a row
    assert many.temp_size_in_bytes <= few.temp_size_in_bytes + table
    assert many.argument_size_in_bytes == few.argument_size_in_bytes


def test_progressive_keeps_what_a_shorter_walk_would_see(process):
    denoise, times = ddx.denoiser(process, model_fn), (100, 70, 30, 10, 0)
    x_T, draws = jnp.ones((2, *SHAPE)), jax.random.normal(jax.random.key(1), (4, 2, *SHAPE))
    args = (times, 1.0, "small", draws)
    x_0, film = ddx.progressive(denoise, None, x_T, (10, 100, 30), *args)
    np.testing.assert_array_equal(x_0, ddx.sample(denoise, None, x_T, *args))
    np.testing.assert_array_equal(film.x_t[1], x_T)
    np.testing.assert_allclose(film.x_0[1], denoise(x_T, 100).x_0, rtol=1e-5, atol=1e-6)
    for i, t in enumerate((10, 100, 30)):
        np.testing.assert_allclose(film.x_0[i], denoise(film.x_t[i], t).x_0, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(film.x_0[0], x_0, rtol=1e-5, atol=1e-6)  # the last step's mean is its x_0
    for frames in ((), (100, 100)):
        with pytest.raises(ValueError, match="frames must be different times"):
            ddx.progressive(denoise, None, x_T, frames, *args)
    with pytest.raises(ValueError, match=r"frames \[50\] are not among"):
        ddx.progressive(denoise, None, x_T, (50,), *args)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_encoding_and_decoding_with_a_constant_eps_is_the_identity(process, solver):
    denoise = ddx.denoiser(process, lambda x, t: 0.3 * jnp.ones_like(x), clip=False)
    with jax.enable_x64(True):
        x_0 = jax.random.uniform(jax.random.key(0), (2, *SHAPE), jnp.float64, -1)
        times = ddx.trajectory(100, 7, "even")
        x_T = ddx.encode(denoise, x_0, times, solver)
        back = ddx.sample(denoise, None, x_T, times, solver=solver)
        # Encoding takes x_0 for x_1, decoding knows that x_1 = alpha_1 x_0 + sigma_1 eps.
        m_1 = process.marginal(1)
        np.testing.assert_allclose(back, (x_0 - m_1.sigma * 0.3) / m_1.alpha, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_encoding_reaches_an_end_without_signal(solver):
    process = ddx.ddpm(100, "jsd")
    denoise = ddx.denoiser(process, lambda x, t: 0.3 * x, "v", clip=False)
    x_0, times = jax.random.uniform(jax.random.key(0), (2, *SHAPE)), ddx.trajectory(100, 10, "trailing")
    x_T = ddx.encode(denoise, x_0, times, solver)
    assert times[0] == 100 and process.marginal(100).alpha == 0
    assert bool(jnp.isfinite(x_T).all())
    if solver == "euler":  # the last step leads to the noise that the network sees at the time before
        before = ddx.encode(denoise, x_0, times[1:])
        np.testing.assert_allclose(x_T, denoise(before, times[1]).eps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_bfloat16_images_are_walked_in_float32(process, solver):
    denoise, times = ddx.denoiser(process, model_fn), ddx.trajectory(100, 10, "trailing")
    x_T = jax.random.normal(jax.random.key(0), (2, *SHAPE), jnp.bfloat16)
    x_0 = ddx.sample(denoise, None, x_T, times, solver=solver)
    assert x_0.dtype == jnp.bfloat16
    expected = ddx.sample(denoise, None, x_T.astype(jnp.float32), times, solver=solver)
    np.testing.assert_array_equal(x_0, expected.astype(jnp.bfloat16))


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_every_solver_differentiates(process, solver):
    def total(scale):
        denoise = ddx.denoiser(process, lambda x, t: scale * x, clip=False)
        x_T = jnp.ones((1, *SHAPE), jnp.float64)
        return ddx.sample(denoise, None, x_T, (100, 60, 30, 5, 0), solver=solver).sum()

    with jax.enable_x64(True):
        numeric = (total(0.3 + 1e-6) - total(0.3 - 1e-6)) / 2e-6
        np.testing.assert_allclose(jax.grad(total)(0.3), numeric, rtol=1e-5)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "dpmpp_3m"])
def test_coefficients_may_differ_between_coordinates(solver):
    """Every half of an image walks as a process of its own would."""
    left, right = ddx.ddpm(100, "cosine"), ddx.ddpm(100, "sigmoid")
    kernel = solvers.make_solver(solver)
    times = ddx.trajectory(100, 10, "trailing")
    tables = [kernel.prepared(p, downward(p, times, 0.0)) for p in (left, right)]

    def both(a, b):
        a, b = np.asarray(a), np.asarray(b)
        if a.ndim != 4:
            return a
        half = SHAPE[1] // 2
        widths = [np.broadcast_to(x, (len(x), SHAPE[0], half, 1)) for x in (a, b)]
        return np.concatenate(widths, axis=2)

    mixed = jax.tree.map(both, *tables)

    def at(u_t, level):
        eps = 0.5 * u_t
        return ddx.Denoised((u_t - level.sigma * eps) / level.alpha, eps, None)

    u_T = jax.random.normal(jax.random.key(0), (2, *SHAPE))

    def run(steps):
        k = jnp.zeros(len(times) - 1)
        return advance(ddx.Denoiser(left, at), start(kernel, u_T), steps, k, kernel, no_noise).u_t

    half = SHAPE[1] // 2
    np.testing.assert_allclose(run(mixed)[:, :, :half], run(tables[0])[:, :, :half], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run(mixed)[:, :, half:], run(tables[1])[:, :, half:], rtol=1e-4, atol=1e-4)


def test_encoding_needs_a_step(process):
    with pytest.raises(ValueError, match="encoding needs increasing times"):
        ddx.encode(ddx.denoiser(process, model_fn), jnp.ones((1, *SHAPE)), (1, 0))


def test_sampling_differentiates(process):
    def squared(scale):
        denoise = ddx.denoiser(process, lambda x, t: scale * x, clip=False)
        return jnp.square(ddx.sample(denoise, jax.random.key(0), jnp.ones((1, *SHAPE)), (100, 30, 0))).sum()

    with jax.enable_x64(True):
        step = 1e-6
        numeric = (squared(0.3 + step) - squared(0.3 - step)) / (2 * step)
        np.testing.assert_allclose(jax.grad(squared)(0.3), numeric, rtol=1e-3)
