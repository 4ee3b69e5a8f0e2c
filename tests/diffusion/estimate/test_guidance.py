"""Guidance, with and without a classifier: what is guided is known in closed form on Gaussian data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.diffusion.papers import ihdm
from tests import oracle

SHAPE = (4, 4, 1)
PIXELS = ddx.iddpm(100)
PROCESSES = {"pixels": PIXELS, "dct": ddx.in_dct_basis(PIXELS), "blur": ddx.blurring(100, 2.0)}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def pair(process, prediction="v", seed=0, clip=False):
    """Exact denoisers of two Gaussians."""
    ours, theirs = (oracle.random_gaussian(SHAPE, seed + i) for i in range(2))
    return tuple(ddx.denoiser(process, data.model_fn(process, prediction), prediction, clip) for data in (ours, theirs))


def noisy(seed=0, batch=3):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((batch, *SHAPE)))


def never(x_t, model_time):
    raise AssertionError("this network is not to be evaluated")


# With the classes' Gaussians of one variance C, the score is linear in the mean: what is guided is a Gaussian of mean
# m_u + w (m_c - m_u) at every level.


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("scale", [3.0, 0.5, 0.0, -1.0])
def test_two_gaussians_of_one_variance_are_guided_to_a_third(name, scale):
    process, variance = PROCESSES[name], oracle.random_gaussian(SHAPE).variance
    means = [oracle.random_gaussian(SHAPE, seed).mean for seed in (1, 2)]
    conditional, unconditional, third = (
        ddx.denoiser(process, oracle.Gaussian(mean, variance).model_fn(process, "v"), "v", clip=False)
        for mean in (*means, means[1] + scale * (means[0] - means[1]))
    )
    guided = ddx.classifier_free_guidance(conditional, unconditional, scale)
    for t in (1, 60, 100):
        found, expected = guided(noisy(), t), third(noisy(), t)
        for field in ("x_0", "eps", "output"):
            np.testing.assert_allclose(getattr(found, field), getattr(expected, field), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_its_samples_have_the_mean_and_the_variance_of_the_guided_gaussian(eta):
    """Read off exactly: an affine walk of zeros and of units gives the mean and every factor."""
    process, w, times = PIXELS, 2.5, tuple(range(100, -1, -1))
    variance = oracle.random_gaussian(SHAPE).variance
    means = [oracle.random_gaussian(SHAPE, seed).mean for seed in (1, 2)]
    data = [oracle.Gaussian(mean, variance) for mean in means]
    both = [ddx.denoiser(process, one.model_fn(process), clip=False) for one in data]
    guided = ddx.classifier_free_guidance(*both, w)
    exact, K = data[0].optimal_variance(), len(times) - 1
    units = jnp.eye(K + 1)[:, :, None, None, None] * jnp.ones((1, 1, *SHAPE))
    units = jnp.concatenate([jnp.zeros((1, K + 1, *SHAPE)), units])
    out = ddx.sample(
        guided, None, units[:, 0], times, eta, exact if eta else "small", noise=jnp.moveaxis(units[:, 1:], 1, 0)
    )
    third = oracle.Gaussian(means[1] + w * (means[0] - means[1]), variance)
    if eta:  # the last step ends in its mean, which takes the variance of p(x_0 | x_1) away
        left = third.covariance(*(np.ravel(x)[0] for x in process.marginal(1)[:2]))
        moments = third.mean, variance - left
    else:
        moments = third.ddim_moments(process, times)
    np.testing.assert_allclose(out[0], moments[0], atol=0.005 if eta else 1e-9)  # some of the mean is left at T
    np.testing.assert_allclose(jnp.square(out[1:] - out[0]).sum(0), moments[1], rtol=1e-6)


@pytest.mark.parametrize("name", PROCESSES)
def test_any_two_gaussians_are_guided_in_their_scores(name):
    """The guided score is w s_c + (1 - w) s_u, with the scores of N(alpha m, alpha^2 C + sigma^2)."""
    process, w = PROCESSES[name], 1.7
    ours, theirs = (oracle.random_gaussian(SHAPE, seed) for seed in (3, 4))
    guided = ddx.classifier_free_guidance(*pair(process, seed=3), w)
    x_t = noisy()
    for t in (5, 80):
        m, u_t = process.marginal(t, SHAPE[:2]), process.basis.analysis(x_t)
        scores = [(m.alpha * d.mean - u_t) / (m.alpha**2 * d.variance + m.sigma**2) for d in (ours, theirs)]
        eps = -m.sigma * (w * scores[0] + (1 - w) * scores[1])
        d = guided(x_t, t)
        np.testing.assert_allclose(process.basis.analysis(d.eps), eps, rtol=1e-8, atol=1e-10)
        signal = m.alpha * process.basis.analysis(d.x_0)
        np.testing.assert_allclose(signal + m.sigma * eps, u_t, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "velocity", "mean"])
def test_guiding_the_output_is_guiding_what_is_read_from_it(prediction):
    networks = [lambda x, t, k=k: jnp.tanh(k * x) + 0.001 * t[:, None, None, None] for k in (0.5, 2.0)]
    both = [ddx.denoiser(PIXELS, network, prediction, clip=False) for network in networks]
    w = 3.0

    def line(x, t):
        y_c, y_u = (network(x, t) for network in networks)
        return y_u + w * (y_c - y_u)

    found = ddx.classifier_free_guidance(*both, w)(noisy(), 40)
    expected = ddx.denoiser(PIXELS, line, prediction, clip=False)(noisy(), 40)
    for field in ("x_0", "eps", "output"):
        np.testing.assert_allclose(getattr(found, field), getattr(expected, field), rtol=1e-10, atol=1e-10)
    assert ddx.classifier_free_guidance(*both, w).prediction == prediction


def test_scale_1_is_none_bit_for_bit_and_0_the_unconditional_network_at_one_evaluation():
    conditional, unconditional = pair(PIXELS)
    not_to_be = ddx.denoiser(PIXELS, never, "v", clip=False)
    assert ddx.classifier_free_guidance(conditional, not_to_be, 1.0) is conditional
    assert ddx.classifier_free_guidance(conditional, not_to_be, 1, (10, 20)) is conditional
    assert ddx.classifier_free_guidance(not_to_be, unconditional, 0.0) is unconditional
    traced = jax.jit(lambda w: ddx.classifier_free_guidance(conditional, unconditional, w)(noisy(), 30))
    plain = jax.jit(lambda: conditional(noisy(), 30))()
    jax.tree.map(np.testing.assert_array_equal, traced(1.0), plain)  # and the graph of any scale, too
    assert np.any(traced(2.0).x_0 != plain.x_0)


def test_outside_of_the_interval_nothing_is_guided_and_the_second_network_not_evaluated():
    conditional, unconditional = pair(PIXELS)
    seen = []

    def counted(u_t, level):
        jax.debug.callback(lambda t: seen.append(float(np.ravel(t)[0])), level.t)
        return unconditional.at(u_t, level)

    counting = dataclasses.replace(unconditional, at=counted)
    guided = ddx.classifier_free_guidance(conditional, counting, 3.0, (20, 60))
    always = ddx.classifier_free_guidance(conditional, unconditional, 3.0)
    each = jax.jit(lambda t: guided(noisy(), t))
    for t in (19, 20, 60, 61):
        expected = (always if 20 <= t <= 60 else conditional)(noisy(), t)
        for found in (guided(noisy(), t), each(t)):  # known on the host, and traced
            np.testing.assert_allclose(found.x_0, expected.x_0, rtol=1e-12, atol=1e-12)
    jax.effects_barrier()
    assert sorted(seen) == [20, 20, 60, 60]
    t = np.array([19, 20, 61])  # times of their own
    for found in (guided(noisy(), t), each(t)):
        np.testing.assert_allclose(found.eps[1], always(noisy(), t).eps[1], rtol=1e-12)
        np.testing.assert_allclose(found.eps[::2], conditional(noisy(), t).eps[::2], rtol=1e-12)
    seen.clear()
    ddx.sample(guided, None, noisy(), (100, 70, 50, 30, 10, 0), solver="heun")
    jax.effects_barrier()
    # Heun evaluates at both ends of a step: 70, 50, 30 and 10 twice, of which 50 and 30 lie inside.
    assert sorted(seen) == [30, 30, 50, 50]


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "unipc_2"])
def test_walks_with_an_interval_switch_where_it_ends(solver):
    conditional, unconditional = pair(PIXELS)
    guided = ddx.classifier_free_guidance(conditional, unconditional, 2.0, (0, 50))
    upper = ddx.sample(conditional, None, noisy(), (100, 75, 50, 25, 0), solver=solver)
    assert np.all(np.isfinite(ddx.sample(guided, None, noisy(), (100, 75, 50, 25, 0), solver=solver)))
    whole = ddx.classifier_free_guidance(conditional, unconditional, 2.0, (0, 100))
    free = ddx.classifier_free_guidance(conditional, unconditional, 2.0)
    found, expected = (ddx.sample(d, None, noisy(), (100, 75, 50, 25, 0), solver=solver) for d in (whole, free))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert np.any(np.abs(found - upper) > 0.01)


def test_further_outputs_are_the_conditional_network_s():
    networks = [lambda x, t, k=k: jnp.concatenate([k * x, jnp.full_like(x, k)], -1) for k in (1.0, 2.0)]
    both = [ddx.denoiser(PIXELS, network, clip=False) for network in networks]
    np.testing.assert_array_equal(ddx.classifier_free_guidance(*both, 3.0)(noisy(), 30).extra, np.ones((3, *SHAPE)))


@pytest.mark.parametrize("name", ["npr", "sn", "ocm"])
def test_a_head_s_variance_is_the_conditional_network_s_whatever_guides_it(name):
    """A head for E[y^2] beside a guided y would leave no variance at all."""
    y_c, y_u = (lambda x, k=k: k * jnp.tanh(x) for k in (0.9, 0.4))
    both = [
        ddx.denoiser(PIXELS, lambda x, t, y=y: jnp.concatenate([y(x), y(x) ** 2 - 0.2], -1), clip=False)
        for y in (y_c, y_u)
    ]
    by_class = ddx.classifier_guidance(both[0], lambda x, t: (x**2).sum((1, 2, 3)), 5.0)
    row = jax.tree.map(lambda x: x[0], ddx.plan(PIXELS, (50, 20, 0), 1.0)).expand(SHAPE[:2])
    variance = {"npr": ddx.npr, "sn": ddx.sn, "ocm": ddx.ocm}[name](limit=None)
    expected = variance(both[0].at(noisy(), row.level), row)
    for guided in (
        ddx.classifier_free_guidance(*both, 4.0),
        ddx.classifier_free_guidance(*both, 4.0, (20, 60)),
        by_class,
        ddx.classifier_free_guidance(by_class, both[1], 2.0),
    ):
        d = guided.at(noisy(), row.level)
        assert np.abs(d.output - both[0].at(noisy(), row.level).output).max() > 0.1
        np.testing.assert_array_equal(variance(d, row), expected)


def test_networks_of_two_predictions_are_guided_in_what_they_estimate():
    (conditional, _), (_, unconditional) = pair(PIXELS, "v"), pair(PIXELS, "eps")
    mixed, same = (ddx.classifier_free_guidance(conditional, other, 2.0) for other in (unconditional, pair(PIXELS)[1]))
    assert mixed.prediction is None and mixed(noisy(), 30).output is None
    np.testing.assert_allclose(mixed(noisy(), 30).x_0, same(noisy(), 30).x_0, rtol=1e-9)


def test_heat_is_guided():
    process = ddx.ihdm(5, sigma_blur_max=2.0)
    both = [ddx.denoiser(process, lambda x, t, k=k: k * x, "residual", clip=False) for k in (0.1, 0.3)]
    guided = ddx.classifier_free_guidance(*both, 2.0)
    third = ddx.denoiser(process, lambda x, t: -0.1 * x, "residual", clip=False)
    key, solver = jax.random.key(0), ihdm.heat_sampler(0.0)
    found, expected = (ddx.sample(d, key, noisy(), solver=solver) for d in (guided, third))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_clipping_comes_after_guiding():
    both = pair(PIXELS)
    guided = ddx.clipping(ddx.classifier_free_guidance(*both, 30.0))
    d = guided(noisy(), 30)
    assert np.abs(d.x_0).max() == 1 and np.any(np.abs(ddx.classifier_free_guidance(*both, 30.0)(noisy(), 30).x_0) > 1)
    m = PIXELS.marginal(30)
    np.testing.assert_allclose(m.alpha * d.x_0 + m.sigma * d.eps, noisy(), rtol=1e-9, atol=1e-9)
    for clip in (True, "x0", ddx.DynamicThreshold()):
        ours, theirs = pair(PIXELS, clip=clip)
        for wrong in ((ours, both[1]), (both[0], theirs)):
            with pytest.raises(ValueError, match=r"clips x_0 already .*make it with clip=False"):
                ddx.classifier_free_guidance(*wrong, 2.0)
        with pytest.raises(ValueError, match="clips x_0 already"):
            ddx.classifier_guidance(ours, lambda x, t: x.sum((1, 2, 3)))
        with pytest.raises(ValueError, match="clips x_0 already"):
            ddx.clipping(ours, True)


@pytest.mark.parametrize(
    ("scale", "interval", "message"),
    [
        (float("nan"), None, "scale=nan must be a finite number"),
        (np.ones(3), None, "must be a finite number"),
        ("2", None, "scale='2' must be a finite number"),
        (None, None, "must be a finite number"),
        (2.0, 5, "must be two times"),
        (2.0, ("1", "5"), "must be two times"),
        (2.0, (60, 20), "must be two times, the lower one first"),
        (2.0, (0, 101), r"of 0\.\.100"),
        (2.0, (1, 2, 3), "must be two times"),
    ],
)
def test_what_is_no_scale_or_interval_is_refused(scale, interval, message):
    with pytest.raises(ValueError, match=message):
        ddx.classifier_free_guidance(*pair(PIXELS), scale, interval)


def test_denoisers_of_different_processes_are_refused():
    conditional, again = pair(PIXELS)[0], pair(ddx.iddpm(100))[1]
    assert np.isfinite(ddx.classifier_free_guidance(conditional, again, 2.0)(noisy(), 30).x_0).all()
    for process in (ddx.ddpm(100), ddx.iddpm(50), PROCESSES["dct"], dataclasses.replace(PIXELS, time_offset=0)):
        with pytest.raises(ValueError, match="different processes"):
            ddx.classifier_free_guidance(conditional, pair(process)[1], 2.0)
    with pytest.raises(ValueError, match="must be a denoiser"):
        ddx.classifier_free_guidance(conditional, PIXELS, 2.0)


# Classes y = 0, 1 of probabilities 0.3 and 0.7, Gaussian each. With exact networks the unconditional estimate follows
# from the mixture's density, and Bayes' rule gives the classifier.

PRIOR = np.array([0.3, 0.7])


def mixture(process):
    """log p(x_t) of the mixture and log p(y | x_t), as functions of (x_t, model_time)."""
    data = [oracle.random_gaussian(SHAPE, seed) for seed in (5, 6)]

    def joint(x_t, model_time):
        t = model_time * process.num_steps / 1000 if process.continuous else model_time + process.time_offset
        m, u_t = process.marginal(t, SHAPE[:2]), process.basis.analysis(x_t)
        logs = []
        for p, d in zip(PRIOR, data, strict=True):
            v = m.alpha**2 * d.variance + m.sigma**2
            logs.append(np.log(p) - 0.5 * ((u_t - m.alpha * d.mean) ** 2 / v + jnp.log(v)).sum((1, 2, 3)))
        return jnp.stack(logs)

    def log_density(x_t, model_time):
        return jax.nn.logsumexp(joint(x_t, model_time), axis=0)

    def log_prob(y):
        return lambda x_t, model_time: joint(x_t, model_time)[y] - log_density(x_t, model_time)

    return data, log_density, log_prob


@pytest.mark.parametrize(("name", "prediction"), [("pixels", "eps"), ("pixels", "x0"), ("dct", "v"), ("blur", "v")])
@pytest.mark.parametrize("y", [0, 1])
def test_the_exact_classifier_turns_the_exact_unconditional_estimate_into_the_conditional_one(name, prediction, y):
    process = PROCESSES[name]
    data, log_density, log_prob = mixture(process)

    def unconditional(x_t, model_time):
        t = model_time * process.num_steps / 1000 if process.continuous else model_time + process.time_offset
        m, a = process.marginal(t, SHAPE[:2]), process.level(t).a
        score = process.basis.analysis(jax.grad(lambda x: log_density(x, model_time).sum())(x_t))
        eps = -m.sigma * score
        u_0 = (process.basis.analysis(x_t) - m.sigma * eps) / m.alpha
        return process.basis.synthesis({"eps": eps, "x0": u_0, "v": a * eps - m.sigma * u_0}[prediction])

    denoise = ddx.denoiser(process, unconditional, prediction, clip=False)
    guided = ddx.classifier_guidance(denoise, log_prob(y))
    exact = ddx.denoiser(process, data[y].model_fn(process, prediction), prediction, clip=False)
    moved = 0.0
    for t in (2, 50, 95):
        x_t = ddx.q_sample(process, data[0].mean + 0.5 * noisy(1), t, noisy(2))  # between the two
        found, expected = guided(x_t, t), exact(x_t, t)
        for field in ("x_0", "eps", "output"):
            np.testing.assert_allclose(getattr(found, field), getattr(expected, field), rtol=1e-6, atol=1e-6)
        moved = max(moved, float(jnp.abs(found.eps - denoise(x_t, t).eps).max()))
    assert moved > 1e-3


def test_the_scale_multiplies_the_gradient_and_composes_with_the_other_kind():
    conditional, unconditional = pair(PIXELS)
    log_prob = lambda x, t: (x * jnp.arange(1.0, 17.0).reshape(SHAPE)).sum((1, 2, 3))  # noqa: E731
    moved = [ddx.classifier_guidance(conditional, log_prob, s)(noisy(), 30) for s in (0.0, 1.0, 3.0)]
    np.testing.assert_allclose(moved[2].eps - moved[0].eps, 3 * (moved[1].eps - moved[0].eps), rtol=1e-9)
    np.testing.assert_array_equal(moved[0].x_0, conditional(noisy(), 30).x_0)
    both = ddx.classifier_free_guidance(ddx.classifier_guidance(conditional, log_prob), unconditional, 2.0)
    m, d = PIXELS.marginal(30), both(noisy(), 30)
    np.testing.assert_allclose(m.alpha * d.x_0 + m.sigma * d.eps, noisy(), rtol=1e-9, atol=1e-9)


def test_where_nothing_is_left_of_the_data_a_classifier_guides_nothing():
    betas = np.append(np.linspace(0.01, 0.3, 9), 1.0)
    process = ddx.process_from_betas(betas)
    denoise = ddx.denoiser(process, lambda x, t: 0.5 * x, "v", clip=False)
    guided = ddx.classifier_guidance(denoise, lambda x, t: (x**2).sum((1, 2, 3)))
    for one, other in ((10, True), (9, False)):
        same = np.array_equal(guided(noisy(), one).x_0, denoise(noisy(), one).x_0)
        assert same == other and np.all(np.isfinite(guided(noisy(), one).x_0))


def test_what_is_no_classifier_or_scale_of_one_is_refused():
    conditional = pair(PIXELS)[0]
    classes = lambda x, t: jax.nn.log_softmax(jnp.stack([x.sum((1, 2, 3)), x.max((1, 2, 3))], -1))  # noqa: E731
    with pytest.raises(ValueError, match=r"must return one number an image, \(3,\); got \(3, 2\)\. Take the class"):
        ddx.classifier_guidance(conditional, classes)(noisy(), 30)
    for scale in (float("nan"), "2", np.ones(2)):
        with pytest.raises(ValueError, match="must be a finite number; 0 is no guidance"):
            ddx.classifier_guidance(conditional, classes, scale)
