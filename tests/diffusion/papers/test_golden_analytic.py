"""Analytic-DPM, SN and NPR against the outputs of their own code and against true posterior variances.

Times count from 1 in these references too; the networks are told t * 1000 / T, or t - 1 ("shift1").
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.bound import analytic, optimal, statistics
from ddx.diffusion.forward import betas, gaussian
from ddx.diffusion.forward.basis import largest_variance
from ddx.diffusion.forward.process import Level, Marginal
from ddx.diffusion.objective import losses
from ddx.diffusion.papers import analytic_dpm
from ddx.diffusion.reverse import variance
from ddx.diffusion.reverse.rows import downward
from tests import golden

ANALYTIC, EXTENDED = golden.load("golden_analytic"), golden.load("golden_extended")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def nhwc(x):
    return jnp.asarray(golden.nhwc(x))


def entries(data, pattern, keep=lambda match: True):
    return [pytest.param(m, id=key) for key in data if (m := re.fullmatch(pattern, key)) and keep(m)]


@functools.cache
def process(name):
    schedule, num_steps = re.fullmatch(r"([a-z]+)(\d+)", name).groups()
    return ddx.ddpm(int(num_steps), schedule)


def eps_net(x, t):
    c = jnp.reshape(t, (-1, 1, 1, 1)) / 1000
    return (0.25 + 0.70 * c) * x + 0.10 * jnp.tanh(2 * x) - 0.05 * c * x**3 / (1 + x**2)


def sn_net(x, t):
    c = jnp.reshape(t, (-1, 1, 1, 1)) / 1000
    return eps_net(x, t) ** 2 + 0.30 * (1 - c) / (1 + jnp.exp(-x)) - 0.05


def npr_net(x, t):
    c = jnp.reshape(t, (-1, 1, 1, 1)) / 1000
    return 0.20 * (1 - c) / (1 + x**2) - 0.03


HEADS = {"SN": sn_net, "NPR": npr_net, "IDDPM": lambda x, t: jnp.tanh(x)}


def network(process, head=None, shift=False):
    def model_fn(x, model_time):
        t = model_time if shift else (model_time + 1) * 1000 / process.num_steps
        return eps_net(x, t) if head is None else jnp.concatenate([eps_net(x, t), head(x, t)], -1)

    return model_fn


def denoiser(process, head=None, clip="x0", shift=False):
    return ddx.denoiser(process, network(process, head, shift), clip=clip)


def of_ms_eps(process, ms_eps):
    """Statistics that know the mean square of eps alone; its entry 0 is not used."""
    n = process.num_steps
    logsnr, zeros = statistics.noise_logsnr(process, np.arange(1, n + 1)), np.zeros(n)
    return statistics.Statistics(logsnr, zeros, zeros, ms_eps[1:], zeros, np.ones((1, 1, 1)), 1)


def gamma(process, ms_eps):
    return analytic.analytic(of_ms_eps(process, ms_eps), "gamma", limit=1.0)


def lambda2(d, step):
    return step.lambda2


VARIANCES = {
    "SN": variance.sn(),
    "NPR": variance.npr(),
    "heuristic_avg0": variance.heuristic(),
    "heuristic_avg1": variance.heuristic(averaged=True),
    "small": variance.small,
    "big": variance.large,
}


def draw(process, denoise, x_T, times, eta, v, noise, is_ddim):
    noise = jnp.concatenate([nhwc(noise), jnp.zeros((1, *x_T.shape))])
    solver = "euler" if is_ddim else analytic_dpm.published_ddpm(v)
    return ddx.sample(denoise, None, x_T, times, eta, v if is_ddim else "small", noise, solver)


SAMPLE = r"sample/(addpm|addim|addpm_dpseg|addpm_shift1)/([a-z]+\d+)/(\w+)/K(\d+)/(?:eta([\d.]+)/)?clip(\d)_(\d)/x"


@pytest.mark.parametrize("entry", entries(ANALYTIC, SAMPLE, lambda m: int(m[4]) <= 10))
def test_samples_of_analytic_dpm(entry):
    kind, schedule, table, num_visits, eta, count, y = entry.groups()
    p, ms_eps = process(schedule), ANALYTIC[f"ms_eps/{schedule}/{table}"]
    times = ddx.trajectory(p.num_steps, int(num_visits), "analytic_dpm")
    if kind == "addpm_dpseg":
        times = analytic_dpm.gamma_trajectory(p, ms_eps, int(num_visits))
    v = analytic_dpm.clip_last(gamma(p, ms_eps), times, float(y), int(count))
    denoise = denoiser(p, shift=kind == "addpm_shift1")
    noise = ANALYTIC[entry[0][:-1] + "noise"]
    found = draw(p, denoise, nhwc(ANALYTIC["sample/xT"]), times, float(eta or 1), v, noise, kind == "addim")
    np.testing.assert_allclose(found, nhwc(ANALYTIC[entry[0]]), rtol=1e-8, atol=1e-8)


NAIVE = r"sample/(ddpm|ddim)_naive/([a-z]+\d+)/K(\d+)/(?:small(\d)|eta([\d.]+))/x"


@pytest.mark.parametrize("entry", entries(ANALYTIC, NAIVE, lambda m: int(m[3]) <= 10))
def test_samples_of_its_baselines(entry):
    kind, schedule, num_visits, small, eta = entry.groups()
    p = process(schedule)
    times = ddx.trajectory(p.num_steps, int(num_visits), "analytic_dpm")
    v = lambda2 if kind == "ddim" else variance.small
    if small == "0":  # the only baseline whose noise is limited
        v = analytic_dpm.clip_last(variance.large, times, 1.0)
    noise = ANALYTIC[entry[0][:-1] + "noise"]
    found = draw(p, denoiser(p), nhwc(ANALYTIC["sample/xT"]), times, float(eta or 1), v, noise, kind == "ddim")
    np.testing.assert_allclose(found, nhwc(ANALYTIC[entry[0]]), rtol=1e-8, atol=1e-8)


EXTENDED_SAMPLE = r"sample/([a-z]+\d+)/(\w+)-(ddpm|ddim)/(?:(linear_ddim|quad_ddim)/)?K(\d+)/x"


@pytest.mark.parametrize("entry", entries(EXTENDED, EXTENDED_SAMPLE))
def test_samples_of_sn_npr_and_the_heuristic(entry):
    schedule, kind, sampler, spacing, num_visits = entry.groups()
    p = process(schedule)
    spacing = {"linear_ddim": "uniform", "quad_ddim": "quad", None: "analytic_dpm"}[spacing]
    times = ddx.trajectory(p.num_steps, int(num_visits), spacing)
    v = gamma(p, EXTENDED[f"ms_eps/{schedule}/biased"]) if kind == "A" else VARIANCES[kind]
    is_ddim = sampler == "ddim"
    if is_ddim and kind == "small":
        v = lambda2
    v = analytic_dpm.clip_last(v, times, 1.0 if is_ddim else 2.0)
    args = (denoiser(p, HEADS.get(kind)), nhwc(EXTENDED["sample/xT"]), times, 0.0 if is_ddim else 1.0, v)
    found = draw(p, *args, EXTENDED[f"sample/noise_K{num_visits}"], is_ddim)
    np.testing.assert_allclose(found, nhwc(EXTENDED[entry[0]]), rtol=1e-8, atol=1e-8)


ONESTEP = r"onestep/(\w+?)/s(\d+)_t(\d+)/(eps|eps_eps2|eps_epsc)/clip(\d)/avg(\d)/.*"
FACTORIES = {"eps": variance.heuristic, "eps_eps2": variance.sn, "eps_epsc": variance.npr}


@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.parametrize("schedule", ["linear1000", "cosine1000"])
def test_single_steps_of_sn_npr_and_the_heuristic(schedule, kind):
    # On cosine1000 their own arithmetic loses digits next to T, where (sigma / alpha)^2 is 4e8.
    p, rtol = process(schedule), 1e-6 if schedule == "cosine1000" else 1e-8
    head = {"eps": None, "eps_eps2": sn_net, "eps_epsc": npr_net}[kind]
    x_t, seen = nhwc(EXTENDED["onestep/xt"]), 0

    @functools.cache
    def row_of(s, t, eta):
        rows = downward(p, (t, 0) if s == 0 else (t, s, 0), eta)
        return jax.tree.map(lambda x: jnp.asarray(x[0]), rows.expand())

    @functools.cache
    def estimate(s, t, clip):  # of x_t, which no eta changes
        return denoiser(p, head, "x0" if clip == "1" else False).at(x_t, row_of(s, t, 1.0).level)

    for entry in entries(EXTENDED, ONESTEP, lambda m: m[1] == schedule and m[4] == kind):
        key = entry.values[0][0]
        s, t, _, clip, averaged = entry.values[0].groups()[1:]
        s, t, what = int(s), int(t), key.split("/avg")[1][2:]
        d = denoiser(p, head, "x0" if clip == "1" else False)
        eta = float(what.split("/")[0][4:]) if what.startswith("ddim") else 1.0
        row, found = row_of(s, t, eta), estimate(s, t, clip)
        v = FACTORIES[kind](averaged=averaged == "1", limit=1.0 if clip == "1" else None)
        noisy = row.target._replace(sigma=jnp.ones(()))  # no decoder
        if what == "x0_pred":
            value = found.x_0
        elif what == "cov_x0":
            value = v(found, row._replace(lambda2=0.0, gamma=1.0, target=noisy))
        elif what.endswith("sigma2"):
            value = v(found, row._replace(target=noisy))
        elif what.startswith("ddpm"):
            value = row.k * x_t + row.gamma * found.x_0
        else:
            only = ddx.diffusion.reverse.solvers.euler(lambda d, step: jnp.zeros(()))
            value = only.step(d, x_t, (), row, 0.0)[0]
        expected = EXTENDED[key]
        expected = nhwc(expected) if expected.ndim == 4 else expected
        scale = np.abs(expected).max()
        np.testing.assert_allclose(np.broadcast_to(value, expected.shape), expected, rtol=rtol, atol=rtol * scale)
        seen += 1
    assert seen > 100


def bound(p, denoise, v, times, x_0, noise):
    """Rows of nats: the decoder, whose variance is always that of the step from 2 to 1, KL terms, the prior."""
    small = ddx.step_coefficients(p, 1, 2).lambda2

    def with_decoder(d, step):
        return jnp.where(step.target.sigma == 0, small, v(d, step))

    nats = np.prod(x_0.shape[1:]) * np.log(2)
    bits = ddx.bits_per_dim(denoise, x_0, None, times, with_decoder, nhwc(noise)[::-1], cdf="tanh")
    return nats * np.concatenate([np.asarray(bits.terms).T, np.asarray(bits.prior)[None]])


ELBO = r"elbo/(ms_eps|naive_small(\d))/([a-z]+\d+)/(?:(linear|dp_seg)/)?K(\d+)/terms"


@pytest.mark.parametrize("entry", entries(ANALYTIC, ELBO, lambda m: ANALYTIC[m[0][:-5] + "noise"].size))
def test_bounds_of_analytic_dpm(entry):
    kind, small, schedule, spacing, num_visits = entry.groups()
    p, ms_eps = process(schedule), ANALYTIC[f"ms_eps/{schedule}/biased"]
    times = ddx.trajectory(p.num_steps, int(num_visits), "analytic_dpm")
    if spacing == "dp_seg":
        times = analytic_dpm.gamma_trajectory(p, ms_eps, int(num_visits))
    v = gamma(p, ms_eps) if kind == "ms_eps" else VARIANCES["small" if small == "1" else "big"]
    found = bound(p, denoiser(p), v, times, nhwc(ANALYTIC["elbo/x0"]), ANALYTIC[entry[0][:-5] + "noise"])
    np.testing.assert_allclose(found, ANALYTIC[entry[0]], rtol=1e-8, atol=1e-9)


EXTENDED_ELBO = r"elbo/([a-z]+\d+)/(\w+)/K(\d+)/terms"


@pytest.mark.parametrize("entry", entries(EXTENDED, EXTENDED_ELBO, lambda m: EXTENDED[m[0][:-5] + "noise"].size))
def test_bounds_of_sn_npr_and_a_learned_range(entry):
    schedule, kind, num_visits = entry.groups()
    p = process(schedule)
    times = ddx.trajectory(p.num_steps, int(num_visits), "analytic_dpm")
    v = gamma(p, EXTENDED[f"ms_eps/{schedule}/biased"]) if kind == "A" else VARIANCES.get(kind, variance.learned_range)
    noise = EXTENDED[entry[0][:-5] + "noise"]
    found = bound(p, denoiser(p, HEADS.get(kind)), v, times, nhwc(EXTENDED["elbo/x0"]), noise)
    np.testing.assert_allclose(found, EXTENDED[entry[0]], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["linear40", "cosine12"])
def test_the_mean_square_of_eps(name):
    p = process(name)
    x_0 = nhwc(ANALYTIC["gamma/x0"])[ANALYTIC[f"gamma/{name}/order"]]
    rows = jax.tree.map(lambda x: x[::-1], downward(p, ddx.trajectory(p.num_steps)))
    noise = nhwc(ANALYTIC[f"gamma/{name}/noise"])
    sums = statistics.error_sums(denoiser(p, clip=True), x_0, jnp.ones(len(x_0)), rows, noise, lambda z: z)
    np.testing.assert_allclose(
        sums.eps / len(x_0), ANALYTIC[f"gamma/{name}/ms_eps"][1:], rtol=2e-7
    )  # theirs is float32


@pytest.mark.parametrize("first", [0, 1])
def test_dynamic_programming(first):
    # Nodes are 0..24, or 1..24 with K nodes instead of K steps.
    paths = optimal.dynamic_program(ANALYTIC[f"dp/F{first}"][first:, first:], 24 - first)
    for match in (m.values[0] for m in entries(ANALYTIC, rf"dp/F{first}_path_K(\d+)")):
        k = int(match[1]) - first
        np.testing.assert_array_equal(paths.to_last(k) + first, ANALYTIC[match[0]])
        np.testing.assert_allclose(paths.cost[k, -1], ANALYTIC[f"dp/F{first}_cost_K{match[1]}"], rtol=1e-12)


@pytest.mark.parametrize("table", ["gauss", "biased"])
@pytest.mark.parametrize("schedule", ["linear1000", "cosine1000"])
def test_costs_and_trajectories_of_analytic_dpm(schedule, table):
    p, ms_eps = process(schedule), ANALYTIC[f"ms_eps/{schedule}/{table}"]
    costs = analytic_dpm.gamma_costs(p, ms_eps)[ANALYTIC[f"dpcost/{schedule}/{table}/rows"]]
    np.testing.assert_allclose(costs, ANALYTIC[f"dpcost/{schedule}/{table}/J"], rtol=1e-8, atol=1e-12)
    for match in (m.values[0] for m in entries(ANALYTIC, rf"dpseg/{schedule}/{table}/K(\d+)/path")):
        times = analytic_dpm.gamma_trajectory(p, ms_eps, int(match[1]))
        np.testing.assert_array_equal(times[-2::-1], ANALYTIC[match[0]])


CLOSED, GENERAL = golden.load("golden_closed_form"), golden.load("golden_general_diag")
PAIRS = r"([a-z]+\d+)/K(\d+)/eta([\d.]+)/lam2_iso_diag"


def of_gaussian(process):
    """The statistics of the exact network for N(mu, Sigma): errors without any of its own."""
    eigenvalues, vectors = np.linalg.eigh(CLOSED["data/Sigma"])
    logsnr = statistics.noise_logsnr(process, np.arange(1, process.num_steps + 1))
    shrunk = eigenvalues / (1 + np.exp(logsnr)[:, None] * eigenvalues)
    mse = np.einsum("ik,tk->ti", vectors**2, shrunk).reshape(-1, 1, 6, 1)
    zeros, spectrum = np.zeros(len(logsnr)), np.diag(CLOSED["data/Sigma"]).reshape(1, 6, 1)
    ms_eps = 1 - np.exp(logsnr) * mse.mean((1, 2, 3))
    return statistics.Statistics(logsnr, mse, zeros, ms_eps, zeros, spectrum, 1)


@pytest.mark.parametrize("entry", entries(CLOSED, PAIRS))
def test_variances_are_those_of_the_true_posterior(entry):
    schedule, num_visits, eta = entry.groups()
    p, of = process(schedule), of_gaussian(process(schedule))
    for (s, t), (_, isotropic, *diagonal) in zip(CLOSED[f"{schedule}/K{num_visits}/st"], CLOSED[entry[0]], strict=True):
        if s == 0:
            continue
        row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(p, (int(t), int(s), 0), float(eta)).expand())
        # The data of the closed form have more variance than its posterior at every time, so no limit acts.
        found = analytic.analytic(of)(None, row), analytic.analytic(of, per_coordinate=True)(None, row)
        np.testing.assert_allclose(found[0].ravel(), isotropic, rtol=1e-8)
        np.testing.assert_allclose(found[1].ravel(), diagonal, rtol=1e-8)
        from_eps = analytic.analytic(of._replace(ms_eps=CLOSED[f"{schedule}/ms_eps"][1:]), "gamma")(None, row)
        # 1 - E eps^2 has lost digits where the SNR is 1e-9.
        np.testing.assert_allclose(from_eps.ravel(), isotropic, rtol=1e-6 if schedule == "cosine1000" else 1e-8)


@pytest.mark.parametrize("schedule", ["linear1000", "cosine1000", "vpsde1000"])
def test_the_mean_squared_error_of_the_exact_network(schedule):
    of = of_gaussian(process(schedule))
    rtol = 1e-6 if schedule == "cosine1000" else 1e-8
    np.testing.assert_allclose(of.mse.mean((1, 2, 3)), CLOSED[f"{schedule}/mse_x0"][1:], rtol=1e-8)
    np.testing.assert_allclose(of.ms_eps, CLOSED[f"{schedule}/ms_eps"][1:], rtol=rtol)


@pytest.mark.parametrize("schedule", ["linear1000", "cosine1000", "vpsde1000"])
def test_terms_of_the_bound_are_those_of_gaussian_data(schedule):
    p, of = process(schedule), of_gaussian(process(schedule))
    mse = np.concatenate([of.mse[:1], of.mse])
    diagonal, isotropic = optimal.step_costs(p, mse), optimal.step_costs(p, mse.mean((1, 2, 3)))
    for key in (key for key in CLOSED if re.fullmatch(rf"{schedule}/K\d+/elbo/kl_iso", key)):
        base = key.removesuffix("elbo/kl_iso")
        s, t = CLOSED[base + "st"][1:].T
        np.testing.assert_allclose(6 * isotropic[s, t], CLOSED[key], rtol=1e-8)
        np.testing.assert_allclose(6 * diagonal[s, t], CLOSED[base + "elbo/kl_diag"], rtol=1e-8)


HEAD = r"([a-z]+\d+)/heads/s(\d+)_t(\d+)/eta([\d.]+)/(SN_exact|NPR_wrongmean|SN_wrongmean)"


@pytest.mark.parametrize("entry", entries(CLOSED, HEAD))
def test_exact_heads_give_the_variances_of_their_papers(entry):
    schedule, s, t, eta, kind = entry.groups()
    p, heads = process(schedule), f"{schedule}/heads/t{t}/"
    row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(p, (int(t), int(s), 0), float(eta)).expand())
    wrong = kind != "SN_exact"
    of = {name: CLOSED[heads + name].reshape(-1, 1, 6, 1) for name in ("eps_star", "eps_hat", "sn_head", "npr_head")}
    eps = of["eps_hat" if wrong else "eps_star"]
    head, v = (of["npr_head"], variance.npr) if kind.startswith("NPR") else (of["sn_head"], variance.sn)
    m = row.level
    d = ddx.Denoised(None, None, jnp.asarray(head), output=jnp.asarray(eps), gain=m.sigma / m.alpha)
    found = v(limit=None)(d, row)
    expected = CLOSED[entry[0]]
    rtol = 2e-6 if schedule == "cosine1000" else 1e-8
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["vp", "vp_percoord", "ve", "rectified", "subvp", "blur"])
def test_any_diagonal_process_has_these_steps_and_variances(kind):
    cases = [key.rsplit("/", 1)[0] for key in GENERAL if re.fullmatch(rf"{kind}/.*/k_gamma_lam2", key)]
    assert len(cases) >= 12
    for case in cases:
        eta = float(case.rsplit("eta", 1)[1])
        a_s, s_s, a_t, s_t = GENERAL[case + "/in_as_ss_at_st"]
        m_s, m_t = (Marginal(a, s, 2 * (np.log(a) - np.log(s))) for a, s in ((a_s, s_s), (a_t, s_t)))
        found = gaussian.solve(m_s, m_t, m_t.logsnr - m_s.logsnr, eta)
        np.testing.assert_allclose(np.stack(found), GENERAL[case + "/k_gamma_lam2"], rtol=1e-8, atol=1e-14)
        posterior = found.lambda2 + found.gamma**2 * GENERAL[case + "/V_u0"]
        np.testing.assert_allclose(posterior, GENERAL[case + "/post_diag"], rtol=1e-8, atol=1e-14)


def test_a_variance_of_each_frequency_makes_the_bound_independent_of_the_steps():
    p, data = ddx.ddpm(), GENERAL["dct/var"]
    snr = np.exp(p.schedule.logsnr[1:])
    mse = np.concatenate([np.zeros((1, 1024)), 1 / (1 / data + snr[:, None])]).reshape(1001, 32, 32, 1)
    costs = [optimal.step_costs(p, table) for table in (mse.mean((1, 2, 3)), mse)]
    for num_visits in (5, 10, 25, 100):
        times = ddx.trajectory(1000, num_visits, "analytic_dpm")[-2::-1]
        found = [cost[times[:-1], times[1:]].sum() for cost in costs]
        expected = GENERAL[f"dct/K{num_visits}/kl_bits_small_big_iso_diag"][2:]
        np.testing.assert_allclose(np.asarray(found) / np.log(2), expected, rtol=1e-8)


@pytest.mark.parametrize("head", ["SN", "NPR"])
def test_losses_of_the_heads(head):
    p, x_0 = process("linear1000"), nhwc(EXTENDED["loss/x0"])
    t, eps = EXTENDED["loss/n"], nhwc(EXTENDED["loss/eps"])
    np.testing.assert_allclose(ddx.q_sample(p, x_0, t, eps), nhwc(EXTENDED["loss/xn"]), rtol=1e-8, atol=1e-12)
    found = losses.head_loss(p, network(p, HEADS[head]), x_0, t, eps, head.lower())
    for value, name in zip(found, ("dsm", "ddm"), strict=True):
        np.testing.assert_allclose(value * np.prod(x_0.shape[1:]), EXTENDED[f"loss/{head}/{name}"], rtol=1e-8)
    frozen = jax.grad(lambda w: losses.head_loss(p, scaled(p, HEADS[head], w), x_0, t, eps, "npr").head.sum())(1.0)
    assert frozen == 0.0


def scaled(p, head, w):
    """The network, its prediction times w and its head as it is."""
    model_fn = network(p, head)

    def rescaled(x, t):
        output = model_fn(x, t)
        return output.at[..., :3].multiply(w)

    return rescaled


@pytest.mark.parametrize("small", [0, 1])
@pytest.mark.parametrize("schedule", ["linear40", "cosine12"])
def test_costs_of_fixed_variances_and_their_trajectories(schedule, small):
    p, base = process(schedule), f"elboF/{schedule}/small{small}/"
    x_0, noise, n = nhwc(ANALYTIC["elbo/x0"]), nhwc(ANALYTIC[base + "noise"]), p.num_steps
    rows = jax.tree.map(lambda x: x[::-1], downward(p, ddx.trajectory(n)))
    sums = statistics.error_sums(denoiser(p, clip=True), x_0, jnp.ones(len(x_0)), rows, noise, lambda z: z)
    mse = np.concatenate([[0.0], sums.mse.mean((1, 2, 3)) / len(x_0)])
    found = 48 * optimal.step_costs(p, mse, variance="small" if small else "large")
    expected = ANALYTIC[base + "F"]
    above = np.triu(np.ones((n + 1, n + 1), bool), 1)
    above[0] = False  # the decoder's
    np.testing.assert_allclose(found[above], expected[above], rtol=1e-8)
    paths = optimal.dynamic_program(expected, n)
    for match in (m.values[0] for m in entries(ANALYTIC, re.escape(base) + r"path_K(\d+)")):
        np.testing.assert_array_equal(paths.to_last(int(match[1])), ANALYTIC[match[0]])
        nelbo = paths.cost[int(match[1]), -1] + ANALYTIC[base + "last_term"]
        np.testing.assert_allclose(nelbo, ANALYTIC[f"{base}nelbo_K{match[1]}"], rtol=1e-8)


def test_joint_training_as_published_is_that_of_the_second_moment():
    # Its head g fits eps^2 - eps_hat^2, with the gradient for eps_hat too.
    p, x_0 = process("linear1000"), nhwc(EXTENDED["loss/x0"])
    t, eps = EXTENDED["loss/n"], nhwc(EXTENDED["loss/eps"])
    second = network(p, lambda x, t: npr_net(x, t) + eps_net(x, t) ** 2)
    found = losses.head_loss(p, second, x_0, t, eps, "sn")
    for value, name in zip(found, ("dsm", "ddm"), strict=True):
        np.testing.assert_allclose(value * np.prod(x_0.shape[1:]), EXTENDED[f"loss/joint_epsc/{name}"], rtol=1e-8)


@pytest.mark.parametrize("head", ["SN", "NPR", "small", "big"])
@pytest.mark.parametrize("schedule", ["linear40", "cosine12"])
def test_costs_of_any_variance_are_the_terms_of_the_bound(schedule, head):
    fixed = head in ("small", "big")
    data, base = (ANALYTIC, f"elboF/{schedule}/small{int(head == 'small')}/") if fixed else (EXTENDED, "")
    base = base or f"elboF/{schedule}/{head}/"
    p = process(schedule)
    noise = nhwc(data[base + "noise"])
    args = (denoiser(p, HEADS.get(head)), nhwc(data["elbo/x0"]), noise, lambda z: z, VARIANCES[head], "tanh")
    found = 48 * optimal.bound_costs(*args)
    expected = data[base + "F"]
    above = np.triu(np.ones(expected.shape, bool), 1)
    np.testing.assert_allclose(found[above], expected[above], rtol=1e-8)
    for match in (m.values[0] for m in entries(data, re.escape(base) + r"(?:dp_vb|path)_K(\d+)")):
        path = optimal.dynamic_program(found, p.num_steps).to_last(int(match[1]))
        np.testing.assert_array_equal(path[-len(data[match[0]]) :], data[match[0]])


@pytest.mark.parametrize("schedule", ["linear1000", "cosine1000", "vpsde1000", "linear40", "cosine12"])
def test_schedules(schedule):
    p, n = process(schedule), int(re.sub("[a-z]", "", schedule))
    theirs = {name: EXTENDED[f"sched/{schedule}/{name}"][1:] for name in ("betas", "cum_alphas", "cum_betas")}
    np.testing.assert_allclose(betas.betas(re.sub(r"\d", "", schedule), n), theirs["betas"], rtol=1e-8)
    m = p.marginal(np.arange(1, n + 1))
    np.testing.assert_allclose(m.alpha.ravel() ** 2, theirs["cum_alphas"], rtol=1e-8)
    np.testing.assert_allclose(m.sigma.ravel() ** 2, theirs["cum_betas"], rtol=1e-8)


@pytest.mark.parametrize("schedule", ["linear1000", "cosine1000", "vpsde1000"])
def test_coefficients_of_long_steps(schedule):
    p, pairs = process(schedule), EXTENDED["pairs_st"]
    keys = [f"pairs/{schedule}/{name}" for name in ("skip_alpha", "skip_beta", "tilde_beta")]
    for (s, t), *expected in zip(pairs, *(EXTENDED[key] for key in keys), strict=True):
        if s == 0:
            continue
        log_alpha = p.schedule.log_alpha_change(int(s), int(t))
        found = (np.exp(2 * log_alpha), -np.expm1(2 * log_alpha), ddx.step_coefficients(p, int(s), int(t)).lambda2)
        np.testing.assert_allclose([float(np.ravel(x)[0]) for x in found], expected, rtol=1e-8)


# Bao et al. 2022, table 7, as printed: of the step to x_1's neighbour in K even steps, by K: the upper and lower bound
# of theorem 2 for DDPM, and the upper bound for DDIM, whose lower one is 0.
TABLE_7 = {
    ("linear", 1000, (10, 25, 50, 100)): [
        ("1.45e-1", "2.24e-2", "6.20e-3", "2.10e-3"),
        ("9.99e-5", "9.96e-5", "9.84e-5", "9.55e-5"),
        ("1.37e-1", "1.96e-2", "4.82e-3", "1.36e-3"),
    ],
    ("cosine", 1000, (10, 25, 50, 100)): [
        ("3.56e-2", "6.15e-3", "1.85e-3", "6.80e-4"),
        ("4.12e-5", "4.10e-5", "4.04e-5", "3.89e-5"),
        ("3.33e-2", "5.22e-3", "1.37e-3", "4.18e-4"),
    ],
    ("cosine", 4000, (25, 50, 100, 200)): [
        ("5.93e-3", "1.84e-3", "6.44e-4", "2.61e-4"),
        ("9.85e-6", "9.81e-6", "9.72e-6", "9.51e-6"),
        ("5.46e-3", "1.59e-3", "5.03e-4", "1.77e-4"),
    ],
}


@pytest.mark.parametrize(("schedule", "num_steps", "visits"), TABLE_7)
def test_bounds_of_the_variance_are_those_of_the_paper_s_table_7(schedule, num_steps, visits):
    p, printed = ddx.ddpm(num_steps, schedule), TABLE_7[schedule, num_steps, visits]
    most = float(largest_variance(p.basis, (1, 1))[0, 0, 0])
    for column, k in enumerate(visits):
        t = ddx.trajectory(num_steps, k, "analytic_dpm")[-3]
        found = []
        for eta in (1.0, 0.0):
            row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(p, (t, 1, 0), eta).expand())
            m = row.level
            # No eps has a negative mean square: V is at most sigma^2 / alpha^2 as well.
            found += [variance.total(row, min(most, float((m.sigma / m.alpha).max()) ** 2)), row.lambda2]
        assert [f"{float(np.ravel(x)[0]):.2e}".replace("e-0", "e-") for x in found[:3]] == [
            line[column] for line in printed
        ]
        assert float(np.ravel(found[3])[0]) == 0.0


@pytest.mark.parametrize("case", sorted({key.split("/")[1] for key in GENERAL if re.match(r"mixture/a", key)}))
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_heads_of_every_prediction_say_the_same_of_data_that_are_no_gaussian(case, prediction):
    a, sigma = (float(x) for x in re.fullmatch(r"a([\d.]+)_s([\d.]+)", case).groups())
    p, q, scale = GENERAL[f"mixture/{case}/{prediction}/p_q_scale"]
    u_t, u_0, known = (GENERAL[f"mixture/cond/{name}"].reshape(1, 3, 3, 1) for name in ("ut", "E_u0", "Var_u0"))
    # y = p u_0 + q eps, and eps = (u_t - a u_0) / sigma: its mean and its variance given u_t.
    y, of_y = p * u_0 + q * (u_t - a * u_0) / sigma, known * (p - q * a / sigma) ** 2
    numbers = (jnp.asarray(x) for x in (a, sigma, 2 * np.log(a / sigma), a))
    level = Level(jnp.asarray(5), jnp.asarray(4), *numbers, tau=None)
    row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(process("cosine12"), (5, 2, 0), 1.0).expand())
    row = row._replace(level=level, lambda2=0.0, gamma=1.0)
    for variance_of, head in ((variance.sn, of_y + y**2), (variance.npr, of_y)):
        output = jnp.concatenate([jnp.asarray(y), jnp.asarray(head)], -1)
        d = ddx.denoiser(process("cosine12"), lambda *_, output=output: output, prediction).at(jnp.asarray(u_t), level)
        np.testing.assert_allclose(variance_of(limit=None)(d, row), known, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(d.gain**2, scale, rtol=1e-8)
