"""A plan is data: one compiled walk serves them all, and what the walk asks of a network is what a denoiser says."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.papers import ddim
from ddx.diffusion.papers.analytic_dpm import published_ddpm
from ddx.diffusion.reverse import solvers
from ddx.diffusion.reverse.solvers import euler
from tests import golden, oracle

SHAPE = (4, 4, 1)


def x_T(batch=2, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(0), (batch, *SHAPE), dtype)


def test_one_trace_of_the_public_walk_serves_schedules_etas_and_trajectories():
    traces = []
    denoise = ddx.denoiser(ddx.ddpm(), golden.fake_model())

    @jax.jit
    def walk(plan, x, noise):
        traces.append(1)
        return ddx.walk(denoise, plan, x, noise=noise)

    noise = jax.random.normal(jax.random.key(1), (10, 2, *SHAPE))
    for process in (ddx.ddpm(1000), ddx.iddpm(4000), ddx.ddpm(50, "quad")):
        for eta, spacing in ((0.0, "even"), (0.5, "trailing"), (1.0, "even")):
            times = ddx.trajectory(process.num_steps, 10, spacing)
            found = walk(ddx.plan(process, times, eta), x_T(), noise)
            own = ddx.denoiser(process, golden.fake_model())
            expected = ddx.sample(own, None, x_T(), times, eta, noise=noise)
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "deis", "unipc_2", "unipc_3"])
def test_a_plan_for_a_solver_walks_as_sample_does(solver):
    process = ddx.iddpm(100)
    denoise, times = ddx.denoiser(process, golden.fake_model(), clip=False), ddx.trajectory(100, 8, "trailing")
    plan = ddx.plan(process, times, solver=solver)
    found = jax.jit(lambda plan, x: ddx.walk(denoise, plan, x, solver=solver))(plan, x_T())
    np.testing.assert_allclose(found, ddx.sample(denoise, None, x_T(), times, solver=solver), rtol=1e-5, atol=1e-5)


def test_a_walk_that_ends_before_the_data_may_be_taken_up_there():
    process = ddx.ddpm(20, "cosine")
    denoise, times, z = ddx.denoiser(process, golden.fake_model()), (20, 10, 3, 0), jnp.zeros((4, 2, *SHAPE))
    for eta in (0.0, 1.0):
        x_1 = ddx.walk(denoise, ddx.plan(process, times, eta, end=1), x_T(), noise=z[:3])
        x_0 = ddx.walk(denoise, ddx.plan(process, (1, 0), eta), x_1, noise=z[:1])
        np.testing.assert_allclose(x_0, ddx.sample(denoise, None, x_T(), (20, 10, 3, 1, 0), eta, noise=z), atol=1e-6)
    same = ddx.walk(denoise, ddx.plan(process, (3, 0), 0.0, end=3), x_T())  # a step to where it begins
    np.testing.assert_allclose(same, x_T(), atol=1e-6)
    with pytest.raises(ValueError, match="end=4 must lie between 0 and 3, the last time that is visited"):
        ddx.plan(process, times, end=4)


def test_a_plan_that_adds_noise_needs_it():
    process = ddx.ddpm(20, "cosine")
    denoise, plan = ddx.denoiser(process, golden.fake_model()), ddx.plan(process, (20, 10, 0), 1.0)
    with pytest.raises(ValueError, match="needs a key"):
        ddx.walk(denoise, plan, x_T())
    drawn = ddx.walk(denoise, plan, x_T(), jax.random.key(3))
    np.testing.assert_array_equal(drawn, ddx.sample(denoise, jax.random.key(3), x_T(), (20, 10, 0), 1.0))
    for eta, variance in ((0.0, "large"), (1.0, "learnt")):
        with pytest.raises(ValueError, match="variance"):
            ddx.walk(denoise, ddx.plan(process, (20, 10, 0), eta), x_T(), jax.random.key(3), variance=variance)


def test_the_last_row_is_told_apart_from_the_rows_without_noise():
    plan = ddx.plan(ddx.ddpm(20, "cosine"), (20, 10, 0), 1.0)
    np.testing.assert_array_equal(plan.last.ravel(), [0, 1])
    np.testing.assert_array_equal(plan.adds_noise.ravel(), [1, 0])
    noisy = ddx.plan(ddx.blurring(20), (20, 10, 0), 1.0, noisy_end=True)
    np.testing.assert_array_equal(noisy.last.ravel(), [0, 1])
    np.testing.assert_array_equal(noisy.adds_noise.ravel(), [1, 1])


@pytest.mark.parametrize("name", ["linear", "cosine4000", "jsd"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_rows_in_float32_keep_the_coefficients_of_the_host(name, eta):
    process = ddx.iddpm() if name == "cosine4000" else ddx.ddpm(1000, name)
    rows = ddx.plan(process, eta=eta)
    exact = rows.expand()
    found = jax.jit(lambda rows: rows.expand())(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), rows))
    for field in ("k", "gamma", "lambda2", "small", "upper"):
        ours = np.asarray(getattr(found, field), np.float64)
        np.testing.assert_allclose(ours, getattr(exact, field), rtol=1e-6, atol=1e-30, err_msg=field)


def count(function, *args):
    """How often a program multiplies matrices, as a change of basis does twice, and asks the network, once a step."""
    text = str(jax.make_jaxpr(function)(*args))
    return len(re.findall(r"dot_general", text))


def test_guidance_costs_no_further_change_of_basis():
    process = ddx.blurring(20, 2.0)
    with_label, without = (ddx.denoiser(process, lambda x, t, w=w: w * x, "v", clip=False) for w in (0.3, 0.2))

    def at(u_t, level):
        d, other = with_label.at(u_t, level), without.at(u_t, level)
        eps = other.eps + 3.0 * (d.eps - other.eps)
        return d._replace(x_0=(u_t - level.sigma * eps) / level.alpha, eps=eps)

    guided = dataclasses.replace(with_label, at=at)
    alone, both = (count(lambda x, d=d: ddx.sample(d, None, x, (20, 10, 0)), x_T()) for d in (with_label, guided))
    # Each step of one network changes the basis there and back, the walk once at either end: 2 products each.
    assert alone == 4 + 4 and both == 4 + 8
    # The outputs of linear networks mix as their weights do.
    expected = ddx.denoiser(process, lambda x, t: (0.2 + 3.0 * 0.1) * x, "v", clip=False)
    ours, theirs = (ddx.sample(d, None, x_T(), (20, 10, 0)) for d in (guided, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_equation_12_in_the_papers_own_form_is_the_step_that_runs():
    process = ddx.ddpm()
    with jax.enable_x64(True):
        x = x_T(dtype=jnp.float64)
        denoise = ddx.denoiser(process, golden.fake_model(), clip=False)
        eps = golden.fake_model()(x, jnp.full(2, 599))
        z = jax.random.normal(jax.random.key(5), x.shape, jnp.float64)
        for eta in (0.0, 0.3, 1.0):
            noise = jnp.stack([z, 0 * z])
            _, film = ddx.progressive(denoise, None, x, (200,), (600, 200, 0), eta, noise=noise)
            np.testing.assert_allclose(film.x_t[0], ddim.step(process, x, eps, 200, 600, eta, z), rtol=1e-10)


def around_a_prediction(of_eps, of_x_0):
    """A network of y = p x_0 + q eps, with p and q a user's own, of Gaussian data."""
    return lambda process, level: (of_x_0 * jnp.ones_like(level.sigma), of_eps * (1.0 + level.alpha))


@pytest.mark.parametrize("process", [ddx.ddpm(50, "cosine"), ddx.blurring(50, 2.0)], ids=["noise", "blur"])
def test_a_prediction_of_one_s_own_trains_samples_and_is_bounded(process):
    prediction = around_a_prediction(0.7, -0.4)
    data = oracle.random_gaussian(SHAPE)
    with jax.enable_x64(True):
        network = data.model_fn(process, "x0")

        def model_fn(x_t, model_time):
            t = model_time * process.num_steps / 1000 if process.continuous else model_time + process.time_offset
            level = process.level(t, SHAPE[:2])
            u_t, u_0 = process.basis.analysis(x_t), process.basis.analysis(network(x_t, model_time))
            p, q = prediction(process, level)
            return process.basis.synthesis(p * u_0 + q * (u_t - level.alpha * u_0) / level.sigma)

        own = ddx.denoiser(process, model_fn, prediction, clip=False)
        known = ddx.denoiser(process, network, "x0", clip=False)
        times = (50, 30, 11, 2, 0)
        walks = [jax.jit(lambda plan, d=d: ddx.walk(d, plan, x_T(), jax.random.key(1))) for d in (own, known)]
        for eta in (0.0, 1.0):
            plan = ddx.plan(process, times, eta)
            np.testing.assert_allclose(*(walk(plan) for walk in walks), rtol=1e-6, atol=1e-6)
        x_0 = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, *SHAPE)) / 127.5 - 1)
        bound = lambda d: jax.jit(lambda x: ddx.bits_per_dim(d, x, jax.random.key(2), times).total)  # noqa: E731
        np.testing.assert_allclose(bound(own)(x_0), bound(known)(x_0), rtol=1e-9)
        t, z = np.array([7, 20, 45]), jnp.asarray(np.random.default_rng(1).standard_normal(x_0.shape))
        level = process.level(t, SHAPE[:2])
        p, q = prediction(process, level)
        # At a given u_t an error of x_0 moves y by the following factor.
        u_t = process.basis.analysis(ddx.q_sample(process, x_0, t, z))
        d = known.at(u_t, level)
        error = (p - q * level.alpha / level.sigma) * (d.x_0 - process.basis.analysis(x_0))
        loss = ddx.simple_loss(process, model_fn, x_0, t, z, prediction)
        np.testing.assert_allclose(loss, jnp.square(error).mean((1, 2, 3)), rtol=1e-9)
        code = ddx.encode(own, x_0, times)
        np.testing.assert_allclose(code, ddx.encode(known, x_0, times), rtol=1e-6, atol=1e-6)


def test_a_prediction_that_says_nothing_at_T_is_refused():
    with pytest.raises(ValueError, match="says nothing of x_0 at t = T"):
        ddx.denoiser(ddx.ddpm(50, "jsd"), None, lambda process, level: (0.0, 1.0))


@pytest.mark.parametrize(("planned", "walked"), [("euler", "deis"), ("unipc_2", "unipc_3"), ("unipc_2", "euler")])
def test_a_plan_for_another_solver_is_refused(planned, walked):
    process = ddx.ddpm(20, "cosine")
    plan = ddx.plan(process, (20, 10, 0), solver=planned)
    with pytest.raises(ValueError, match=r"the plan was made for .*make it with ddx\.plan"):
        ddx.walk(ddx.denoiser(process, golden.fake_model()), plan, x_T(), solver=walked)


OTHERS = {
    "schedule": ddx.ddpm(20, "quad"),
    "T": ddx.ddpm(30, "cosine"),
    "kind": ddx.blurring(20),
    "times that the network is told": ddx.ddpm(20, "cosine", rescale_time=True),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_plan_of_another_process_is_refused(what):
    denoise = ddx.denoiser(ddx.ddpm(20, "cosine"), golden.fake_model())
    with pytest.raises(ValueError, match="the plan belongs to another process"):
        ddx.walk(denoise, ddx.plan(OTHERS[what], (OTHERS[what].num_steps, 10, 0)), x_T())
    again = ddx.plan(ddx.ddpm(20, "cosine"), (20, 10, 0))
    assert np.isfinite(ddx.walk(denoise, jax.tree.map(jnp.asarray, again), x_T())).all()


@pytest.mark.parametrize("other", [ddx.blurring(20, 3.0), ddx.blurring(20, 20.0, d_min=0.01)], ids=["blur", "d_min"])
def test_a_plan_of_another_blur_is_refused(other):
    denoise = ddx.denoiser(ddx.blurring(20, 20.0), golden.fake_model(), "v", clip=False)
    with pytest.raises(ValueError, match="the plan belongs to another process"):
        ddx.walk(denoise, ddx.plan(other, (20, 10, 0)), x_T())


def test_noise_that_a_traced_plan_lacks_is_nan_or_refused():
    process = ddx.ddpm(20, "cosine")
    denoise = ddx.denoiser(process, golden.fake_model())
    walk = jax.jit(lambda plan, **given: ddx.walk(denoise, plan, x_T(), **given), static_argnames="variance")
    deterministic, ancestral = (ddx.plan(process, (20, 10, 0), eta) for eta in (0.0, 1.0))
    assert np.isfinite(walk(deterministic)).all() and np.isnan(walk(ancestral)).all()
    assert np.isfinite(walk(ancestral, key=jax.random.key(0))).all()
    with pytest.raises(ValueError, match="needs a key"):
        walk(deterministic, variance="npr")
    heat = ddx.ihdm(5, 0.5, 2.0)
    residual = ddx.denoiser(heat, lambda x, t: 0.1 * x, "residual", clip=False)
    with pytest.raises(ValueError, match="needs a key"):
        jax.jit(lambda plan: ddx.walk(residual, plan, x_T(), solver=ddx.heat_sampler()))(ddx.plan(heat))
    with pytest.raises(ValueError, match="all times"):
        ddx.walk(residual, ddx.plan(heat, (5, 2, 0)), x_T(), jax.random.key(0), ddx.heat_sampler())


def test_a_solver_says_which_eta_it_can_do_as_a_name_and_as_an_object():
    process = ddx.ddpm(20, "cosine")
    denoise = ddx.denoiser(process, golden.fake_model())
    for name in ("heun", "dpmpp_3m", "deis", "unipc_2"):
        for solver in (name, solvers.SOLVERS[name]()):
            with pytest.raises(ValueError, match="is for eta = 0, not 1"):
                ddx.sample(denoise, jax.random.key(0), x_T(), (20, 10, 0), 1.0, solver=solver)
            with pytest.raises(ValueError, match="is for eta = 0, not 1"):
                ddx.plan(process, (20, 10, 0), 1.0, solver=solver)


def test_variances_that_are_not_added_may_be_infinite():
    process = ddx.ddpm(20, "jsd")
    denoise = ddx.denoiser(process, lambda x, t: 0.2 * x, "v")
    for variance in (lambda d, step: jnp.where(step.adds_noise > 0, 0.1, jnp.inf), ddx.analytic(one_time())):
        x_0 = ddx.sample(denoise, jax.random.key(0), x_T(), (20, 10, 0), 1.0, variance)
        assert np.isfinite(x_0).all()


def one_time():
    process = ddx.ddpm(20, "jsd")
    denoise = ddx.denoiser(process, lambda x, t: 0.2 * x, "v")
    table = ddx.estimate_statistics(denoise, x_T(), jax.random.key(0))
    arrays = {"logsnr": table.logsnr[:1], "mse": table.mse[:1], "ms_eps": table.ms_eps[:1]}
    return table._replace(**arrays)


def test_what_no_step_could_mean_is_refused():
    heat = ddx.ihdm(5, 0.5, 2.0)
    residual = ddx.denoiser(heat, lambda x, t: 0.1 * x, "residual", clip=False)
    with pytest.raises(ValueError, match="encode with 'euler'"):
        ddx.encode(residual, x_T(), solver=ddx.heat_sampler())
    with pytest.raises(ValueError, match=r"delta=-1\.0"):
        ddx.heat_sampler(-1.0)
    with pytest.raises(ValueError, match="nothing blurs"):
        ddx.denoiser(ddx.ddpm(), None, "residual")


@pytest.mark.parametrize("eta", [0.0, 1e-3, 1.0])
def test_a_plan_of_one_step_adds_the_noise_of_its_eta_however_it_is_walked(eta):
    process, key = ddx.ddpm(20, "cosine"), jax.random.key(0)
    denoise = ddx.denoiser(process, golden.fake_model())
    plan = ddx.plan(process, (20, 0), eta, noisy_end=True)
    expected = ddx.sample(denoise, key, x_T(), (20, 0), eta, noisy_end=True)
    own = ddx.sample(denoise, key, x_T(), (20, 0), eta, noisy_end=True, solver=euler())
    traced = jax.jit(lambda plan, x: ddx.walk(denoise, plan, x, key))(plan, x_T())
    np.testing.assert_allclose([own, traced], [expected, expected], atol=1e-6)
    noise = expected - ddx.sample(denoise, key, x_T(), (20, 0), eta)
    np.testing.assert_allclose(np.std(noise), eta * process.marginal(20).sigma, rtol=0.3, atol=1e-6)


def test_no_step_adds_noise_of_an_infinite_variance_where_it_ends_in_its_mean():
    denoise = ddx.denoiser(ddx.ddpm(20, "cosine"), golden.fake_model())
    key = jax.random.key(0)

    def unknown(d, step):
        return jnp.where(step.target.t == 0, jnp.inf, step.small)

    for solver in (euler(unknown), published_ddpm(unknown)):
        assert np.isfinite(ddx.sample(denoise, key, x_T(), (20, 10, 0), 1.0, solver=solver)).all()


def test_a_plan_names_the_solver_that_it_was_made_for_as_it_is_chosen():
    process = ddx.ddpm(20, "cosine")
    for name in solvers.SOLVERS:
        assert set(ddx.plan(process, (20, 10, 0), solver=name).extra) <= {name}
