"""The mathematics agrees with the reference implementations' own outputs."""

import functools
import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.forward import betas
from ddx.diffusion.reverse import solvers, variance
from ddx.diffusion.reverse.encode import encoding_plan
from ddx.diffusion.reverse.rows import downward, num_rows
from ddx.diffusion.reverse.walk import advance, no_noise, start
from tests import golden


def entries(name, pattern, soak=r"$"):
    """The entries of a file; those that match `soak` are compared in the longer checks alone."""
    keys = [key for key in golden.load(name) if re.fullmatch(pattern, key)]
    assert keys, f"{name} has no {pattern}"
    marked = [pytest.param(key, marks=[pytest.mark.soak] * bool(re.match(soak, key))) for key in keys]
    return pytest.mark.parametrize("key", marked)


def flat(x):
    return np.asarray(x).reshape(len(x), -1)[:, 0]


def tables(process, times):
    """The references' tables, by their names, of the process respaced to `times`."""
    step = jax.tree.map(lambda x: flat(x)[::-1], downward(process, times).expand())
    alpha, sigma, logsnr = step.level.alpha, step.level.sigma, step.level.logsnr
    abar = alpha**2
    previous = np.concatenate([[1.0], abar[:-1]])
    with jax.enable_x64(True):
        fixedlarge = np.asarray(variance.large(None, step))
    return {
        "betas": -np.expm1(np.diff(2 * process.schedule.log_alpha[[*times[::-1]]])),
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": previous,
        "alphas_cumprod_next": np.concatenate([abar[1:], [0.0]]),
        "sqrt_alphas_cumprod": alpha,
        "sqrt_one_minus_alphas_cumprod": sigma,
        "log_one_minus_alphas_cumprod": 2 * np.log(sigma),
        "sqrt_recip_alphas_cumprod": 1 / alpha,
        "sqrt_recipm1_alphas_cumprod": np.exp(-logsnr / 2),
        "posterior_variance": step.lambda2,
        "posterior_log_variance_clipped": np.log(step.small),
        "posterior_mean_coef1": step.gamma,
        "posterior_mean_coef2": step.k,
        "fixedlarge_variance": fixedlarge,
        "fixedlarge_log_variance": np.log(fixedlarge),
        "timestep_map": process.model_time(step.level.t),
    }


@entries("id_schedules", ".*")
def test_tables_of_the_full_chain(key):
    schedule, table = key.split("/")
    process = golden.process(schedule)
    ours = tables(process, ddx.trajectory(process.num_steps))[table]
    # log(1 - alpha_bar_T) is -2e-9 there: both sides round 1 - alpha_bar_T to a float64 near 1.
    np.testing.assert_allclose(
        ours, golden.load("id_schedules")[key], rtol=1e-8, atol=3e-16 if "log_one" in table else 0
    )


@entries("id_respace", r"[a-z]+\d+\|[^/]+/(?!model_t).*")
def test_tables_of_a_respaced_chain(key):
    data = golden.load("id_respace")
    spec, table = key.split("/")
    times = (*(data[f"{spec}/timestep_map"][::-1] + 1).tolist(), 0)
    ours = tables(golden.process(spec.split("|")[0]), times)[table]
    # The reference forms 1 - (1 - beta) products of a respaced chain: its own rounding reaches 1e-12 of 1, not of the
    # entry.
    np.testing.assert_allclose(ours, data[key], rtol=1e-8, atol=1e-15)


@pytest.mark.parametrize(
    ("file", "schedule"),
    [("ddim_repo", name) for name in ("linear", "quad", "const", "jsd", "sigmoid")]
    + [("tf_repo", name) for name in ("linear", "quad", "const", "jsd", "warmup10", "warmup50")],
)
def test_betas(file, schedule):
    expected = golden.load(file)[f"schedule/{schedule}"]
    np.testing.assert_allclose(betas.betas(schedule, len(expected)), expected, rtol=1e-12)
    assert ddx.ddpm(len(expected), schedule).num_steps == len(expected)


def test_alpha_bar_of_ddim_code():
    alpha = flat(golden.process("linear1000").marginal(np.arange(1001)).alpha)
    # Its cumulative product is in float32: 1000 roundings of 6e-8.
    np.testing.assert_allclose(alpha**2, golden.load("ddim_repo")["linear1000/compute_alpha_f32"], rtol=2e-5)


@pytest.mark.parametrize("key", ["logvar_fixedlarge_f32", "logvar_fixedsmall_f32"])
def test_log_variances_of_ddim_code(key):
    expected = golden.load("ddim_repo")[f"linear1000/{key}"]
    ours = tables(golden.process("linear1000"), ddx.trajectory(1000))
    log = np.log(ours["betas"] if "large" in key else np.maximum(ours["posterior_variance"], 1e-20))
    np.testing.assert_allclose(log, expected, rtol=2e-5, atol=2e-4)


@entries("id_q", r".*_f\d\d")
def test_q(key):
    data = golden.load("id_q")
    schedule, quantity = key.split("/")
    context, dtype, tolerance = golden.precision(key)
    process = golden.process(schedule)
    t = data[f"{schedule}/t"] + 1
    with context:
        x_0, noise, other = (
            golden.images(golden.nhwc(data[f"{schedule}/{name}"]), dtype) for name in ("x0_uint8", "noise", "other")
        )
        x_t = ddx.q_sample(process, x_0, t, noise)
        m = process.marginal(t)
        mean, lambda2 = ddx.q_posterior(process, x_0, x_t, t - 1, t)
        small = downward(process, ddx.trajectory(process.num_steps)).expand().small[::-1][t - 1]

        def estimate(output, prediction):
            return ddx.denoiser(process, lambda *_: output, prediction, clip=False)(x_t, t)

        ours = {
            "x_t": lambda: x_t,
            "q_mean": lambda: m.alpha * x_0,
            "q_var": lambda: m.sigma**2,
            "q_logvar": lambda: 2 * np.log(m.sigma),
            "post_mean": lambda: mean,
            "post_var": lambda: lambda2,
            "post_logvar_clipped": lambda: np.log(small),
            "x0_from_eps": lambda: estimate(other, "eps").x_0,
            "x0_from_xprev": lambda: estimate(other, "mean").x_0,
            "eps_from_x0": lambda: estimate(other, "x0").eps,
            "prior_bpd": lambda: ddx.prior_kl(process, x_0).mean((1, 2, 3)) / np.log(2),
        }[quantity[:-4]]()
        expected = data[key] if data[key].ndim == 1 else golden.nhwc(data[key])
        if quantity == "prior_bpd_f32" and schedule == "cosine4000":
            # 1e-11: the reference's float32 is rounding noise there; its float64 is compared above.
            tolerance = {"rtol": 0, "atol": 1e-6}
        if quantity[-4:] == "_f32" and "x0_from" in quantity:
            tolerance = {"rtol": 2e-5, "atol": 2e-5 * float(np.abs(expected).max())}
        np.testing.assert_allclose(np.broadcast_to(ours, expected.shape), expected, **tolerance)


NAMES = {"fixedsmall": "small", "fixedlarge": "large", "": "small"}


def one_step(process, prediction, var, clip, x_t, t, eta=1.0, z=0.0):
    """Rows of the full chain at times t, one per example, walked once: (x_{t-1}, the estimate, the rows)."""
    table = downward(process, ddx.trajectory(process.num_steps), eta).expand()
    rows = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[::-1][t - 1]), table)
    denoise = ddx.denoiser(process, golden.fake_model(var), prediction, clip)
    kernel = solvers.euler(variance.variance_fn(NAMES.get(var, var)))
    x_s, _, d = kernel.step(denoise, x_t, (), rows, z)
    return x_s, d, rows


PREDICTION = {"eps": "eps", "x0": "x0", "xprev": "mean", "xstart": "x0"}


def check_p(data, key, schedule, prediction, var, clip, quantity, to_nhwc, time_key, x_key, z_key):
    context, dtype, tolerance = golden.precision(key)
    process = golden.process(schedule)
    t = data[time_key] + 1
    expected = to_nhwc(data[key])
    with context:
        x_t, z = (golden.images(to_nhwc(data[k]), dtype) for k in (x_key, z_key))
        # The references' mean of a previous-mean network is its raw output: clipping changes only the x_0 they report.
        clip_mean = clip and prediction != "xprev"
        x_s, d, rows = one_step(process, PREDICTION[prediction], var, clip_mean, x_t, t, z=z)
        if quantity == "pred_xstart":
            d = one_step(process, PREDICTION[prediction], var, clip, x_t, t)[1]
        reverse = variance.variance_fn(NAMES.get(var, var))(d, rows)
        ours = {
            "mean": lambda: rows.k * x_t + rows.gamma * d.x_0,
            "pred_xstart": lambda: d.x_0,
            "log_variance": lambda: np.log(reverse),
            "variance": lambda: rows.lambda2 if var == "fixedsmall" else reverse,
            "p_sample": lambda: x_s,
        }[quantity]()
        if dtype == np.float32 and not clip:
            # Unclipped x_0 is amplified by 1 / alpha_T (81,165 for cosine4000): compare relative to its size.
            tolerance = {"rtol": 2e-5, "atol": 2e-5 * float(np.abs(expected).max())}
        np.testing.assert_allclose(np.broadcast_to(ours, expected.shape), expected, **tolerance)


@entries("id_p", r"[a-z]+\d+/(eps|x0|xprev)/\w+/clip\d/\w+")
def test_p_mean_variance_and_ancestral_step(key):
    schedule, prediction, var, clip, quantity = key.split("/")
    args = (prediction, var, clip == "clip1", quantity[:-4], golden.nhwc)
    check_p(golden.load("id_p"), key, schedule, *args, f"{schedule}/t", f"{schedule}/x_t", f"{schedule}/z")


@entries("tf_repo", r"v2/\w+/\w+/(clip\d/\w+|p_sample_f\d\d)")
def test_p_mean_variance_and_ancestral_step_of_ddpm_code(key):
    _, prediction, var, *clip, quantity = key.split("/")
    data = dict(golden.load("tf_repo"))
    if "variance" in quantity and var == "fixedlarge" and not quantity.startswith("log"):
        # At t = 1 this code reports beta_1 as variance and the clipped value as log variance; the log variance is what
        # it uses.
        data[key] = np.where(
            data["t"][:, None, None, None] == 0, np.exp(data[key.replace("/variance", "/log_variance")]), data[key]
        )
    args = (prediction, var, clip != ["clip0"], quantity[:-4], np.asarray)
    check_p(data, key, "linear1000", *args, "t", "x_t_nhwc", "z_nhwc")


@entries("id_p", r"[a-z]+\d+/(eps|x0|xprev)/clip\d/ddim_eta.*")
def test_ddim_step(key):
    data = golden.load("id_p")
    schedule, prediction, clip, quantity = key.split("/")
    eta = float(re.search(r"eta([\d.]+)_", quantity)[1])
    context, dtype, tolerance = golden.precision(key)
    expected = golden.nhwc(data[key])
    if dtype == np.float32:
        # The reference's float32 alpha_bars cost it up to 2e-3 in sigma and eps. Ours in float32 must hold against its
        # float64.
        scale = 1.0 if clip == "clip1" else float(np.abs(expected).max())
        exact = golden.nhwc(data[key.replace("_f32", "_f64")])
        np.testing.assert_allclose(expected, exact, rtol=5e-3, atol=5e-3 * scale)
        expected, tolerance = exact, {"rtol": 2e-5, "atol": 5e-6 * scale}
    with context:
        x_t, z = (golden.images(golden.nhwc(data[f"{schedule}/{name}"]), dtype) for name in ("x_t", "z"))
        t = data[f"{schedule}/t"] + 1
        x_s, *_ = one_step(golden.process(schedule), PREDICTION[prediction], "", clip == "clip1", x_t, t, eta, z)
        np.testing.assert_allclose(x_s, expected, **tolerance)


@entries("tf_repo", r"v1/.*")
def test_celebahq_and_lsun_code(key):
    data = golden.load("tf_repo")
    process, quantity = golden.process("linear1000"), key[3:-4]
    context, dtype, tolerance = golden.precision(key)
    t = data["t"] + 1
    with context:
        x_0, noise, x_t = (golden.images(data[k], dtype) for k in ("x0_uint8_nhwc", "noise_nhwc", "x_t_nhwc"))
        if quantity == "loss":
            ours = ddx.simple_loss(process, golden.fake_model(), x_0, t, noise)
        elif quantity == "posterior_log_variance_clipped":
            ours = np.log(np.maximum(tables(process, ddx.trajectory(1000))["posterior_variance"], 1e-20))
        else:
            _, d, rows = one_step(process, "eps", "fixedsmall", True, x_t, t)
            ours = {
                "mean": rows.k * x_t + rows.gamma * d.x_0,
                "variance": rows.lambda2,
                "log_variance": jnp.log(jnp.maximum(rows.lambda2, 1e-20)),
            }[quantity]
        np.testing.assert_allclose(ours, data[key], **tolerance)


@entries("id_losses", r"[a-z]+\d+/\w+/\w+/(mse|rescaled_mse)/mse_f\d\d")
def test_simple_loss(key):
    data = golden.load("id_losses")
    schedule, prediction, var, *_ = key.split("/")
    context, dtype, tolerance = golden.precision(key)
    with context:
        x_0, noise = (golden.images(golden.nhwc(data[f"{schedule}/{name}"]), dtype) for name in ("x0_uint8", "noise"))
        t = data[f"{schedule}/t"] + 1
        args = (x_0, t, noise, PREDICTION[prediction])
        ours = ddx.simple_loss(golden.process(schedule), golden.fake_model(var), *args)
        np.testing.assert_allclose(ours, data[key], **tolerance)


@entries("id_losses", r"[a-z]+\d+/\w+/fixed\w+/mse/grad_ABCDEG_f\d\d")
def test_gradient_of_the_simple_loss(key):
    data = golden.load("id_losses")
    schedule, prediction, *_ = key.split("/")
    context, dtype, tolerance = golden.precision(key)
    with context:
        x_0, noise = (golden.images(golden.nhwc(data[f"{schedule}/{name}"]), dtype) for name in ("x0_uint8", "noise"))
        t = data[f"{schedule}/t"] + 1

        def loss(abc):
            def model_fn(x, i):
                return abc[0] * x + abc[1] * i[:, None, None, None].astype(x.dtype) / 1000 + abc[2]

            args = (x_0, jnp.asarray(t), noise, PREDICTION[prediction])
            return ddx.simple_loss(golden.process(schedule), model_fn, *args).mean()

        gradient = jax.jit(jax.grad(loss))(jnp.asarray([0.7, 0.2, -0.05], dtype))
        np.testing.assert_allclose(gradient, data[key][:3], **tolerance)


@entries("tf_repo", r"v2/\w+/fixed\w+/loss_mse_f\d\d")
def test_simple_loss_of_ddpm_code(key):
    data = golden.load("tf_repo")
    context, dtype, tolerance = golden.precision(key)
    with context:
        x_0, noise = (golden.images(data[k], dtype) for k in ("x0_uint8_nhwc", "noise_nhwc"))
        args = (x_0, data["t"] + 1, noise, PREDICTION[key.split("/")[1]])
        ours = ddx.simple_loss(golden.process("linear1000"), golden.fake_model(), *args)
        np.testing.assert_allclose(ours, data[key], **tolerance)


def test_simple_loss_of_ddim_code_is_ours_summed_over_pixels():
    data = golden.load("ddim_repo")
    x_0, noise = (golden.images(golden.nhwc(data[k]), np.float32) for k in ("loss/x0_uint8", "loss/noise"))
    ours = (
        ddx.simple_loss(golden.process("linear1000"), golden.fake_model(), x_0, data["loss/t"] + 1, noise) * x_0[0].size
    )
    np.testing.assert_allclose(ours, data["loss/simple_keepdim_f32"], rtol=2e-5)
    np.testing.assert_allclose(ours.mean(), data["loss/simple_f32"], rtol=2e-5)


def states(process, prediction, clip, times, eta, var, x_T, noise):
    """Every state and every x_0 of a walk, first axis the step taken."""
    denoise = ddx.denoiser(process, golden.fake_model(var), prediction, clip)
    x_0, film = ddx.progressive(denoise, None, x_T, times[:-1], times, eta, var, noise)
    return jnp.concatenate([film.x_t[1:], x_0[None]]), film.x_0


def loop_times(spec):
    return ddx.trajectory(1000) if spec == "full" else ddx.trajectory(1000, None, spec)


def loop_arguments(run, dtype):
    """Of a loop of Improved DDPM's code: times, eta, variance, x_T and noise."""
    data, parts = golden.load("id_loops"), run.split("/")
    eta = float(parts[3][3:]) if parts[0] == "ddim" else 1.0
    var = "large" if parts[0] == "p" and parts[-1] != "fixedsmall" else "small"
    x_T, noise = (jnp.asarray(golden.nhwc(data[f"{run}/{name}"]), dtype) for name in ("x_T", "z"))
    return loop_times(parts[2]), eta, var, x_T, noise


@functools.cache
def whole_loop(run, dtype):
    """Its states and x_0, walked once for all that is compared."""
    return states(golden.process("linear1000"), "eps", True, *loop_arguments(run, dtype))


@entries("id_loops", r"(p/linear1000|ddim)/.*_f\d\d")
def test_whole_sampling_loops(key):
    data = golden.load("id_loops")
    *run, quantity = key.split("/")
    context, dtype, tolerance = golden.precision(key)
    expected = golden.nhwc(data[key])
    if dtype == np.float32:
        # The reference's float32 sigmas are off by up to 2e-3 for eta > 0. Ours in float32 must hold against its
        # float64.
        exact = golden.nhwc(data[key.replace("_f32", "_f64")])
        np.testing.assert_allclose(expected, exact, rtol=5e-3, atol=5e-3)
        expected, tolerance = exact, {"rtol": 2e-5, "atol": 1e-5}
    with context:
        if quantity.startswith("final"):
            times, eta, var, x_T, noise = loop_arguments("/".join(run), dtype)
            denoise = ddx.denoiser(golden.process("linear1000"), golden.fake_model())
            ours = ddx.sample(denoise, None, x_T, times, eta, var, noise)
        else:
            xs, x_0s = whole_loop("/".join(run), dtype)
            ours = x_0s if quantity.startswith("pred_xstart") else xs
        np.testing.assert_allclose(ours, expected, **tolerance)


@functools.cache
def loop_of_ddim_code(run, dtype):
    """The states and the x_0 of a loop, walked once for both, and which steps they are of."""
    data, (kind, visits, *rest) = golden.load("ddim_repo"), run.split("/")
    # Its quadratic spacing repeats index 0; a repeated step changes nothing, so walk it once and drop its noise.
    kept = np.append(np.diff(data[f"{run}/seq"][::-1]) < 0, True)
    spacing, K = re.fullmatch(r"([a-z]+)(\d+)", visits).groups()
    noisy = kind == "ddpm_noisy"
    eta, var = (1.0, "large") if noisy else (float(rest[0][3:]), "small")
    x_T, noise = (jnp.asarray(golden.nhwc(data[f"{run}/{name}"]), dtype) for name in ("x_T", "z"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times = ddx.trajectory(1000, int(K), spacing)
    return *states(golden.process("linear1000"), "eps", noisy, times, eta, var, x_T, noise[kept]), kept


@entries("ddim_repo", r"(generalized|ddpm_noisy)/.*_f\d\d")
def test_loops_of_ddim_code(key):
    data = golden.load("ddim_repo")
    *run, quantity = key.split("/")
    context, dtype, tolerance = golden.precision(key)
    expected = golden.nhwc(data[key])
    if dtype == np.float32:
        exact = golden.nhwc(data[key.replace("_f32", "_f64")])
        np.testing.assert_allclose(expected, exact, rtol=5e-3, atol=5e-3)
        expected, tolerance = exact, {"rtol": 2e-5, "atol": 2e-5}
    with context:
        xs, x_0s, kept = loop_of_ddim_code("/".join(run), dtype)
        expected = expected[1:][kept] if quantity.startswith("xs") else expected[kept]
        np.testing.assert_allclose(xs if quantity.startswith("xs") else x_0s, expected, **tolerance)


def test_short_loop_of_ddpm_code():
    data = golden.load("tf_repo")
    process = ddx.process_from_betas(data["short/betas"])
    x_T, noise = jnp.asarray(data["short/x_T"]), jnp.asarray(data["short/z_in_order_used"])
    xs, x_0s = states(process, "eps", True, ddx.trajectory(20), 1.0, "large", x_T, noise)
    np.testing.assert_allclose(xs[-1], data["short/p_sample_loop"], rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(xs[-1], data["short/progressive_sample"], rtol=2e-5, atol=2e-6)
    # Slot j of the progressive dump holds x_0 at index 5 j, the (19 - 5 j)-th step taken.
    slots = np.moveaxis(np.asarray(x_0s)[::-1][::5], 0, 1)
    np.testing.assert_allclose(slots, data["short/progressive_xstartpreds_B_N_HWC_freq5"], rtol=2e-5, atol=2e-6)


def dropped(listed):
    """(the times of a reference's 1-based list, how many of them it repeats)."""
    return (*sorted(set(np.asarray(listed).tolist()), reverse=True), 0), len(listed) - len(set(listed.tolist()))


def check_trajectory(listed, *args):
    """Exactly the reference's times; what it repeats is dropped and counted."""
    times, repeats = dropped(listed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert ddx.trajectory(*args) == times
    assert len(caught) == (repeats > 0)
    if repeats:
        assert f"repeats {repeats}," in str(caught[0].message)


@entries("ddim_repo", r"seq/.*")
def test_trajectories_of_ddim_code(key):
    _, spacing, K = key.split("/")
    check_trajectory(golden.load("ddim_repo")[key] + 1, 1000, int(K), spacing)


@entries("id_respace", r"\d+:[\d,]+|\d+:ddim\d+")
def test_trajectories_of_improved_ddpm_code(key):
    T, spec = key.split(":")
    check_trajectory(golden.load("id_respace")[key] + 1, int(T), None, spec)
    if spec.isdigit():
        check_trajectory(golden.load("id_respace")[key] + 1, int(T), int(spec), "iddpm")


@pytest.mark.parametrize("key", json.loads((golden.DATA / "id_respace_errors.json").read_text()))
def test_strings_that_improved_ddpm_code_refuses(key):
    T, spec = key.split(":")
    with pytest.raises(ValueError, match=r"cannot divide section of 10 steps into 11|no integer stride"):
        ddx.trajectory(int(T), None, spec)


@entries("id_respace", r"\d+:accepted_ddimN")
def test_the_numbers_that_an_integer_stride_can_visit(key):
    T = int(key.split(":")[0])
    accepted = []
    for N in range(1, T + 1):
        try:
            accepted.append(len(ddx.trajectory(T, None, f"ddim{N}")) - 1)
        except ValueError:
            continue
    np.testing.assert_array_equal(accepted, golden.load("id_respace")[key])


@entries("analytic_traj", r"traj/.*")
def test_trajectories_of_analytic_dpm_code(key):
    _, spacing, N, K = key.split("/")
    spacing = {"linear": "even", "quad_ddim": "quad"}.get(spacing, spacing)
    check_trajectory(golden.load("analytic_traj")[key], int(N[1:]), int(K[1:]), spacing)


@pytest.mark.parametrize("key", ["kl_f32", "kl_f64", "kl_vs_std_normal_f64"])
def test_gaussian_kl(key):
    data = golden.load("id_likelihood")
    context, dtype, tolerance = golden.precision(key)
    with context:
        mean_1, log_1, mean_2, log_2 = (
            jnp.asarray(data[f"kl_{k}"], dtype) for k in ("mean1", "logvar1", "mean2", "logvar2")
        )
        if "std" in key:
            mean_2, log_2 = 0.0, jnp.zeros(())
        kl = ddx.gaussian_kl(mean_1, jnp.exp(log_1), mean_2, jnp.exp(log_2))
        np.testing.assert_allclose(kl, data[key], **tolerance)


def encoded(denoise, x_0, times):
    """Every state of an encoding, its steps taken one by one."""
    rows, solver = encoding_plan(denoise.process, times, solvers.euler()), solvers.euler()
    step = jax.jit(lambda state, row: advance(denoise, state, row, jnp.zeros(1), solver, no_noise))
    states = [start(solver, x_0)]
    for i in range(num_rows(rows)):
        states.append(step(states[-1], jax.tree.map(lambda x, i=i: x[i : i + 1], rows)))
    return [state.u_t for state in states[1:]]


@entries("id_loops", r"encode/linear1000/50/.*_f\d\d")
def test_encoding_and_decoding(key):
    data = golden.load("id_loops")
    context, dtype, tolerance = golden.precision(key)
    process, times = golden.process("linear1000"), ddx.trajectory(1000, None, "50")
    with context:
        x_0 = golden.images(golden.nhwc(data["encode/linear1000/50/x0_uint8"]), dtype)
        denoise = ddx.denoiser(process, golden.fake_model(), clip=False)
        x_T = ddx.encode(denoise, x_0, times)
        expected = golden.nhwc(data[key])
        if dtype == np.float32:
            tolerance = {"rtol": 2e-5, "atol": 2e-5 * float(np.abs(expected).max())}
        quantity = key.split("/")[-1][:-4]
        if quantity == "trajectory":
            ours = jnp.stack(encoded(denoise, x_0, times))
            np.testing.assert_allclose(ours[-1], x_T, **tolerance)
            np.testing.assert_allclose(ours[9], ddx.encode(denoise, x_0, times[-12:]), **tolerance)
        elif quantity == "decoded":
            ours = ddx.sample(denoise, None, x_T, times)
        else:
            # Past T there is no signal: the code that goes on has the noise itself.
            ours = denoise(x_T, times[0]).eps
        np.testing.assert_allclose(ours, expected, **tolerance)


def test_slerp():
    data = golden.load("id_slerp")
    with jax.enable_x64(True):
        ours = ddx.slerp(*(jnp.asarray(data[k], jnp.float64) for k in ("slerp_z1", "slerp_z2", "slerp_alpha")))
        # Their angle is over the channels-first array, which is the same set of numbers.
        np.testing.assert_allclose(ours, data["slerp"], rtol=1e-6, atol=1e-7)


def test_interpolation_of_ddpm_code():
    data = golden.load("tf_repo")
    process, t = ddx.process_from_betas(data["short/betas"]), int(data["short/interp_t"]) + 1
    denoise = ddx.denoiser(process, golden.fake_model())
    noise = (data["short/interp_noise1"], data["short/interp_noise2"], data["short/z_in_order_used"][:t])
    images = (jnp.asarray(data[f"short/interp_x{i}"]) for i in (1, 2))
    ours = ddx.interpolate_diffused(denoise, None, *images, [data["short/interp_lam"]], t, noise=noise)
    np.testing.assert_allclose(ours[0], data["short/interp_out_v1_fixedsmall_z_first12"], rtol=2e-5, atol=2e-6)
