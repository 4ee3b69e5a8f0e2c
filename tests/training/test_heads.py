"""Heads that predict a network's error: trained on one that stays as it is, and with it from the start."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.config import flatten, head_config
from ddx.diffusion import random
from ddx.diffusion.objective import losses
from ddx.diffusion.papers import analytic_dpm
from ddx.diffusion.reverse.rows import downward
from ddx.evaluation import evaluate
from ddx.evaluation.work import open_split
from ddx.models import of_head
from ddx.runs import trained
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.parallel import run_once
from ddx.sampling import interpolate, measured, sample
from ddx.training import backbone, train
from tests import oracle
from tests.conftest import HEAT
from tests.training.test_run import arrays, assert_same_bits


def of(workdir, kind="npr", form="simple", **changes):
    """The config of a head on the network of a run."""
    config = head_config(str(workdir), kind, form)
    for key, value in {"train.ema_decay": 0.5, **changes}.items():
        group, name = key.split(".")
        config[group][name] = value
    return config


def test_the_head_alone_is_trained_and_the_network_stays_as_its_run_left_it(headed, whole):
    found, before = trained.load(headed), trained.load(whole)
    head = of_head(found.params)
    assert {name for name in head if head[name]} == {"head_norm", "head_conv"}
    frozen = {name: module for name, module in found.params.items() if not head[name]}
    jax.tree.map(np.testing.assert_array_equal, frozen, before.params)
    assert float(np.abs(found.params["head_conv"]["kernel"]).max()) > 1e-4
    # The optimiser and the averages know of the head alone.
    assert not any("down_0" in name for name in arrays(headed) if not name.startswith("['frozen']"))
    record = json.loads((headed / "backbone.json").read_text())
    assert record == {"workdir": str(whole), "step": 12, "seal": before.seal}


def test_an_interrupted_run_ends_in_the_same_bits_whatever_becomes_of_the_network_s(whole, headed, tmp_path):
    network = tmp_path / "network"
    shutil.copytree(whole, network)
    train(of(network, **{"train.num_steps": 5, "train.checkpoint_every": 100}), tmp_path / "run")
    shutil.rmtree(network)
    train(None, tmp_path / "run")  # to the 5 steps that it was to do
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["train"] |= {"num_steps": 12, "checkpoint_every": 4}
    train(ddx.config.validate(config), tmp_path / "run")
    assert_same_bits(headed, tmp_path / "run")


def test_a_run_that_begins_again_does_so_on_the_same_checkpoint(whole, tiny_config, tmp_path):
    network = tmp_path / "network"
    shutil.copytree(whole, network)
    config = of(network)
    system = ddx.system.make_system(config, (8, 8, 1))
    (tmp_path / "head").mkdir()
    first = backbone.load(tmp_path / "head", system)
    train(tiny_config(train__num_steps=14), network)
    again = backbone.load(tmp_path / "head", system)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert trained.load(network).step == 14
    (tmp_path / "other").mkdir()
    later = backbone.load(tmp_path / "other", system)
    assert np.abs(later["conv_in"]["kernel"] - first["conv_in"]["kernel"]).max() > 0
    record = tmp_path / "head" / "backbone.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"seal": "x"}))
    with pytest.raises(CheckpointError, match="is not the one that"):
        backbone.load(tmp_path / "head", system)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"step": 13}))
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 13 .* remove it to begin on another"):
        backbone.load(tmp_path / "head", system)
    record.write_text("[]")
    with pytest.raises(ConfigError, match="names no checkpoint"):
        backbone.load(tmp_path / "head", system)


def test_of_a_network_that_learned_variances_the_prediction_is_taken(improved_config, tmp_path, monkeypatch):
    theirs = ddx.system.make_system(improved_config(), (8, 8, 1), 10)
    params = run_once(theirs.init, jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), params)
    monkeypatch.setattr(trained, "load", lambda *_: trained.Trained(12, "seal", theirs, params))
    (tmp_path / "config.json").write_text(ddx.config.to_json(theirs.config))
    ours = ddx.system.make_system(of(tmp_path, "sn", "complex"), (8, 8, 1), 10)
    frozen = backbone.load(tmp_path, ours)
    head = {name: module for name, module in run_once(ours.init, jax.random.key(1)).items() if name.startswith("head")}
    assert set(head) == {"head_norm", "head_conv", "head_block"} and ours.config.sample.variance == "small"
    args = (jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), jnp.asarray([0, 1, 3]), jnp.asarray([1, 5, 9]))
    new = jax.jit(ours.model.apply)({"params": {**frozen, **head}}, *args)
    old = jax.jit(theirs.model.apply)({"params": params}, *args)
    assert new.shape == old.shape == (3, 8, 8, 2)
    np.testing.assert_allclose(new[..., :1], old[..., :1], rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(new[..., 1] - old[..., 1]).max()) > 1e-3


def test_from_the_start_both_are_trained_and_the_log_tells_of_both(tiny_config, tmp_path):
    changes = {"loss__prediction": "v", "loss__objective": "head", "loss__variance": "sn"}
    train(tiny_config(**changes), tmp_path)
    for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()):
        np.testing.assert_allclose(line["loss"], line["mse"] + line["head"], rtol=1e-5)
    source = trained.load(tmp_path)
    assert source.params["conv_out"]["kernel"].shape[-1] == 2 and not any(of_head(source.params).values())
    assert "npr" not in evaluate(tmp_path, max_examples=2, num_steps=3).message


@pytest.mark.parametrize("kind", ["npr", "sn"])
def test_a_head_that_is_trained_long_enough_knows_the_variance_of_the_posterior(kind):
    # Gaussian data and the exact network: what the head is to learn does not depend on the image, only on the time.
    process = ddx.in_dct_basis(ddx.ddpm(20, "cosine"))
    gaussian = oracle.random_gaussian((4, 4, 1))
    network = gaussian.model_fn(process, "v")
    rng, t = np.random.default_rng(0), 8
    with jax.enable_x64(True):
        u_0 = gaussian.mean + np.sqrt(gaussian.variance) * rng.standard_normal((20000, 4, 4, 1))
        x_0, z = process.basis.synthesis(jnp.asarray(u_0)), jnp.asarray(rng.standard_normal(u_0.shape))
        m = process.marginal(t)
        y_hat = process.basis.analysis(network(ddx.q_sample(process, x_0, t, z), np.full(len(u_0), t - 1)))

        def loss(w):
            # SN's head has to know y^2, NPR's its error: affine in the square of the prediction.
            head = w + (1.0 if kind == "sn" else 0.0) * jnp.square(y_hat)
            model_fn = lambda x, _: jnp.concatenate([network(x, np.full(len(x), t - 1)), head], -1)  # noqa: E731
            return losses.head_loss(process, model_fn, x_0, np.full(len(u_0), t), z, kind, "v").head.mean()

        zero = jnp.zeros((4, 4, 1))
        gradient, curvature = jax.grad(loss)(zero), 2.0 / 16
        w = -gradient / curvature  # the loss is a parabola
        head = w + (1.0 if kind == "sn" else 0.0) * jnp.square(y_hat[:1])
        output = process.basis.synthesis(y_hat[:1])
        row = jax.tree.map(lambda x: jnp.asarray(x)[0], downward(process, (t, 3, 0), 1.0).expand())
        denoise = ddx.denoiser(process, lambda *_: jnp.concatenate([output, head], -1), "v")
        v = getattr(ddx, kind)(limit=None)(denoise.at(jnp.zeros((1, 4, 4, 1)), row.level), row)[0]
        truth = row.lambda2 + row.gamma**2 * gaussian.covariance(m.alpha, m.sigma)
        np.testing.assert_allclose(v, truth, rtol=0.04)


@pytest.mark.parametrize(("name", "sampler"), [("npr", "ancestral"), ("npr_paper", "ddim")])
def test_samples_have_the_variance_that_the_head_says(name, sampler, headed, tmp_path):
    given = {"eta": 0.0} if sampler == "ddim" else {}
    sample(headed, 3, out=tmp_path, sampler=sampler, num_steps=5, variance=name, seed=2, **given)
    source = trained.load(headed)
    process, params = source.system.process, source.params
    keys = random.example_keys(jax.random.key(2), jnp.arange(3))
    x_T = ddx.diffusion.reverse.walk.initial_noise(process, keys, (8, 8, 1))
    times, eta = ddx.trajectory(20, 5), 0.0 if sampler == "ddim" else 1.0
    v, clip = ddx.npr(), True
    solver = ddx.diffusion.reverse.solvers.euler(v)
    if name == "npr_paper":
        clip, solver = "x0", ddx.diffusion.reverse.solvers.euler(analytic_dpm.clip_last(v, times, 1.0))
    denoise = ddx.denoiser(process, lambda x, t: source.system.model.apply({"params": params}, x, t), clip=clip)
    x_0 = ddx.sample(denoise, keys, x_T, times, eta, solver=solver)
    with np.load(tmp_path / "samples.npz") as file:
        found = file["samples"]
    assert np.abs(np.clip((np.asarray(x_0) + 1) * 127.5, 0, 255) - found).max() < 1.01
    assert json.loads((tmp_path / "samples.json").read_text())["sample"]["variance"] == name


def test_a_head_of_frequencies_works_in_them_from_training_to_the_bound(whole, tmp_path):
    run, settings = tmp_path / "run", {"num_steps": 5, "max_examples": 4, "batch_size": 4}
    train(of(whole, "ocm_frequency", "dense", **{"train.num_steps": 3}), run)
    source, before = trained.load(run), trained.load(whole)
    assert source.system.process.basis.name == "dct"
    for name, basis in (("ocm_frequency", "dct"), ("ocm_probes", "pixel"), ("heuristic", "pixel")):
        assert measured.variance(source, run, name, True)[0].process.basis.name == basis
    head = of_head(source.params)
    assert {name for name in head if head[name]} == {"head_norm", "head_block", "head_dense0", "head_dense1"}
    for name, module in before.params.items():
        jax.tree.map(np.testing.assert_array_equal, source.params[name], module)
    assert "variance ocm_frequency" in evaluate(run, out=tmp_path / "bound", **settings).message
    agrees_with(tmp_path / "bound", source, source.system.denoiser(source.params, True))
    assert sample(run, 2, out=tmp_path / "samples", variance="ocm_frequency", num_steps=3).arrays()["samples"].any()


@pytest.mark.parametrize(("name", "basis"), [("ocm_probes", "pixel"), ("ocm_probes_frequency", "dct")])
def test_probes_need_no_head_and_belong_to_an_example(name, basis, whole, tmp_path):
    given = {"variance": name, "probes": 2, "num_steps": 3}
    evaluate(whole, out=tmp_path / "bound", max_examples=4, **given | {"num_steps": 5})
    source = trained.load(whole)
    system = measured.in_basis(source.system, basis)
    agrees_with(tmp_path / "bound", source, system.denoiser(source.params, True), draws=2)
    found = [
        sample(whole, 3, out=tmp_path / f"of{size}", sampler="ancestral", batch_size=size, **given) for size in (1, 3)
    ]
    one, three = (result.arrays()["samples"].astype(int) for result in found)
    assert np.abs(one - three).max() <= 1 and np.ptp(one) > 0
    assert json.loads((tmp_path / "of1" / "samples.json").read_text())["sample"]["probes"] == 2


def agrees_with(folder, source, denoise, draws=0):
    """The bound in a folder is that of a denoiser by `ddx.bits_per_dim`, with its head or with probes."""
    protocol = json.loads((folder / "bpd.json").read_text())["protocol"]
    with np.load(folder / "bpd.npz") as file:
        total, examples, times = file["total"], file["example"], file["times"]
    data = open_split(source, {"split": "test", "max_examples": 4, "seed": 0, "data_dir": None}).data
    x_0 = source.system.to_float(data.read(examples)["image"])
    keys = random.example_keys(random.seed_key(0), jnp.asarray(examples, jnp.uint32))
    denoise = ddx.hutchinson(denoise, keys, draws) if draws else denoise
    assert protocol.get("probes", 0) == draws
    expected = ddx.bits_per_dim(denoise, x_0, keys, (*times[::-1].tolist(), 0), "ocm").total
    np.testing.assert_allclose(total, expected, rtol=2e-4)


def test_the_bound_has_it_too_and_by_default(headed, tmp_path):
    settings = {"num_steps": 5, "max_examples": 4, "batch_size": 4}
    assert "variance npr" in evaluate(headed, out=tmp_path / "npr", **settings).message
    evaluate(headed, out=tmp_path / "small", variance="small", **settings)
    evaluate(headed, out=tmp_path / "heuristic", variance="heuristic_averaged", **settings)
    with np.load(tmp_path / "npr" / "bpd.npz") as one, np.load(tmp_path / "small" / "bpd.npz") as other:
        np.testing.assert_array_equal(one["mse"], other["mse"])
        assert np.all(one["terms"][1:] != other["terms"][1:])


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (lambda run, other: sample(other, 1, variance="npr"), "--config=heads:npr"),
        (lambda run, other: sample(run, 1, variance="sn_paper"), "variance='sn_paper' needs a network with a head"),
        (lambda run, other: evaluate(run, variance="sn"), "head for it, and this one has .npr."),
        (lambda run, other: head_config(str(run / "none"), "npr"), "Name the folder of a run that is trained"),
        (lambda run, other: sample(run, 1, variance="npr", sampler="ddim", solver="heun"), "this variance belongs to"),
        (lambda run, other: interpolate(run, 2, variance="npr"), "variance=npr is for samples and bounds"),
        (lambda run, other: interpolate(run, 2, trajectory="optimal"), "trajectory=optimal is for samples and bounds"),
        (lambda run, other: sample(other, 1, variance="ocm"), "--config=heads:ocm,.*, or use ocm_probes"),
        (
            lambda run, other: sample(other, 1, probes=2),
            "probes=2 belongs to samples with the variances",
        ),
        (lambda run, other: interpolate(other, 2, probes=2), "probes=2 belongs to samples with the variances"),
        (lambda run, other: sample(other, 1, variance="ocm_probes", probes=0), "probes=0 must be at least 1"),
        (lambda run, other: evaluate(other, probes=2), "belongs to the variances ocm_probes and .*, not small"),
        (lambda run, other: evaluate(other, variance="ocm_probes", probes=0), "probes=0 must be at least 1"),
        (
            lambda run, other: interpolate(run, 2, trajectory="optimal_pictures"),
            "trajectory=optimal_pictures is for samples and bounds",
        ),
        (lambda run, other: evaluate(run, variance="range"), r"small, large, npr, analytic, .*npr_paper1"),
        (lambda run, other: train(of(other, **{"train.backbone": str(run / "no")}), run.parent / "no"), "no trained"),
    ],
)
def test_mistakes_are_named(job, message, headed, whole):
    with pytest.raises((ConfigError, CheckpointError), match=message) as error:
        job(headed, whole)
    assert "\n" not in str(error.value)


def test_a_head_s_config_is_its_network_s(whole):
    theirs, ours = (flatten(config) for config in (trained.load(whole).system.config, head_config(str(whole), "npr")))
    changed = {key for key in ours if ours[key] != theirs[key]}
    assert changed == {"loss.objective", "loss.variance", "model.head", "train.backbone"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process.num_steps": 30}, "num_steps 20 -> 30"),
        ({"data.low": 0}, "data.low -1 -> 0"),
        ({"loss.prediction": "v"}, "prediction eps -> v"),
        ({"model.scale_shift": True}, "scale_shift False -> True"),
        ({"model.channels": 64}, "as --config=heads:npr,"),
        ({}, r"images \(8, 8, 1\) -> \(8, 8, 3\)"),
    ],
)
def test_another_network_is_refused(changes, message, whole, tiny_config, tmp_path):
    theirs = ddx.system.make_system(tiny_config(), (8, 8, 1))
    ours = ddx.system.make_system(of(whole, **changes), (8, 8, 1) if changes else (8, 8, 3))
    with pytest.raises(ConfigError, match=message) as error:
        backbone._check_same(tmp_path, theirs, ours)
    assert "\n" not in str(error.value)


def test_a_head_s_own_settings_do_not_come_from_its_network(whole, tiny_config, tmp_path):
    config = json.loads((whole / "config.json").read_text())
    config["loss"] |= {"reduction": "sum", "times": "antithetic"}
    config["model"]["dropout"] = 0.3
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = head_config(str(tmp_path), "sn", "complex")
    assert (ours.loss.reduction, ours.loss.times, ours.model.dropout) == ("mean", "uniform", 0.0)
    (tmp_path / "config.json").write_text(ddx.config.to_json(tiny_config(**HEAT)))
    with pytest.raises(ConfigError, match=r"belongs to a loss\.prediction of eps, x0, v, velocity, not 'residual'"):
        head_config(str(tmp_path), "npr")


def test_variances_by_name_are_limited_by_the_range_of_the_data(headed):
    source = trained.load(headed)
    low = source._replace(system=source.system._replace(process=dataclasses.replace(source.system.process, low=0.0)))
    table = downward(source.system.process, (20, 5, 2, 1, 0)).expand()
    row, near = (jax.tree.map(lambda x, i=i: jnp.asarray(x)[i], table) for i in (0, 2))
    row = row._replace(lambda2=0.0, gamma=1.0)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    for of, most in ((source, 1.0), (low, 0.25)):
        d = of.system.denoiser(of.params, True).at(x, row.level)
        d = d._replace(extra=jnp.full(x.shape, 1e9), eps=jnp.full(x.shape, 0.1))
        for name in ("npr", "npr_paper", "npr_paper1", "heuristic", "heuristic_averaged"):
            _, found = measured.variance(of, headed, name, True)
            np.testing.assert_allclose(found(d, row), most)
    each, averaged = (measured.variance(source, headed, name, True)[1] for name in ("heuristic", "heuristic_averaged"))
    d = d._replace(eps=jnp.linspace(0.0, 0.9, 128).reshape(x.shape), most=jnp.ones((8, 8, 1)))
    assert each(d, near).shape == x.shape and averaged(d, near).shape == (2, 1, 1, 1)
    np.testing.assert_allclose(averaged(d, near).squeeze(), np.asarray(each(d, near)).mean((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "sampler", "clip", "levels"),
    [
        ("npr_paper", "ancestral", True, 2),
        ("npr_paper1", "ancestral", False, 1),
        ("sn_paper", "ddim", True, 1),
        ("npr", "ancestral", True, None),
    ],
)
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_the_published_limits_are_those_of_the_sampler(name, sampler, clip, levels, low, tiny_config):
    config = tiny_config(sample__sampler=sampler, sample__clip=clip, sample__trajectory="even")
    system = ddx.system.make_system(config, (8, 8, 1))
    big = lambda d, step: jnp.ones((1, 1, 1))  # noqa: E731
    how = measured.as_published(ddx.sampling.sampler.make_sampler(config, system, big), big, name, low)
    d = ddx.Denoised(jnp.zeros((1, 8, 8, 1)), jnp.zeros((1, 8, 8, 1)), None)
    rows = [jax.tree.map(lambda x, i=i: jnp.asarray(x)[i], how.plan).expand() for i in range(5)]
    added = [
        float(
            how.solver.step(ddx.Denoiser(system.process, lambda *_: d), jnp.zeros((1, 8, 8, 1)), (), row, 1.0)[0].max()
        )
        for row in rows
    ]
    assert added[0] == added[2] == 1.0 and added[4] == 0.0
    limit = 1.0 if levels is None else levels * (1 - low) / 255 * np.sqrt(np.pi / 2)
    np.testing.assert_allclose(added[3], limit, rtol=1e-5)
    assert how.clip == ("x0" if levels and clip else clip)
