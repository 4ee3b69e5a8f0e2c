"""Classifier-free guidance and dynamic thresholding from training to samples, scores and exports."""

import json

import jax
import numpy as np
import pytest

import ddx
from ddx.config.values import validate
from ddx.interop import convert, export
from ddx.interop.diffusers import describe as to_diffusers
from ddx.interop.stablehlo import network as to_stablehlo
from ddx.runs import trained
from ddx.runtime.errors import ConfigError
from ddx.sampling import interpolate, sample
from ddx.sampling.samples import prepare
from ddx.sampling.settings import describe
from ddx.training import train

CLASSES = {"model__class_conditional": True, "model__label_dropout": 0.3}


@pytest.fixture(scope="module")
def guidable(tiny_config, tmp_path_factory):
    """A network that learned to tell 10 classes and none apart a little: 60 steps."""
    workdir = tmp_path_factory.mktemp("guidable")
    train(tiny_config(**CLASSES, train__num_steps=60, train__checkpoint_every=60), workdir)
    return workdir


@pytest.fixture(scope="module")
def run(guidable):
    return ddx.load(guidable)


def test_scale_1_is_the_same_job_and_others_have_folders_of_their_own(guidable, tmp_path):
    plain = sample(guidable, 4)
    assert str(sample(guidable, 4, guidance=1.0)).startswith("already there") and "guidance" not in plain.out.name
    guided = sample(guidable, 4, guidance=3.0, guidance_interval=(2, 15))
    assert guided.out.name == plain.out.name.replace("_eta0", "_eta0_guidance3_2_15")
    assert np.any(guided.arrays()["samples"] != plain.arrays()["samples"])
    record = json.loads((guided.out / "samples.json").read_text())
    assert record["sample"]["guidance"] == 3 and record["sample"]["guidance_interval"] == [2, 15]
    assert str(sample(guidable, 4, guidance=3.0, guidance_interval=(2, 15))).startswith("already there")
    with pytest.raises(ConfigError, match=r"sample\.guidance 1\.0 -> 2\.0"):
        sample(guidable, 4, guidance=2.0, out=plain.out)
    record = json.loads((plain.out / "samples.json").read_text())
    for name in ("guidance", "guidance_interval", "clip_percentile"):  # a job of a version without them
        del record["sample"][name]
    (plain.out / "samples.json").write_text(json.dumps(record))
    assert str(sample(guidable, 4)).startswith("already there")


def test_scale_0_leaves_the_class_out_and_none_is_a_class_by_name_and_number(run):
    without = run.sample(4, labels="none")
    np.testing.assert_array_equal(run.sample(4, labels=10), without)
    np.testing.assert_array_equal(run.sample(4, labels=(3, 7), guidance=0.0), without)
    mixed, three = run.sample(4, labels=(3, "none")), run.sample(4, labels=3)
    np.testing.assert_array_equal(mixed[1::2], without[1::2])
    np.testing.assert_array_equal(mixed[::2], three[::2])
    assert np.any(three != without)


def test_an_interval_without_steps_guides_nothing(run):
    plain = run.sample(4, labels=3)
    np.testing.assert_array_equal(run.sample(4, labels=3, guidance=5.0, guidance_interval=(0, 0)), plain)
    guided, late = (run.sample(4, labels=3, guidance=5.0, guidance_interval=i) for i in ((), (0, 9)))
    assert np.any(guided != plain) and np.any(late != plain) and np.any(late != guided)


def test_the_run_s_denoiser_is_guided_between_its_two_estimates(run):
    x_t = np.random.default_rng(0).standard_normal((3, 8, 8, 1)).astype(np.float32)
    own, none = (run.denoiser(clip=False, labels=labels)(x_t, 9) for labels in ((3, 4, 5), ("none",) * 3))
    expected = none.eps + 2.5 * (own.eps - none.eps)
    found = run.denoiser(clip=False, labels=(3, 4, 5), guidance=2.5)(x_t, 9)
    np.testing.assert_allclose(found.eps, expected, atol=1e-5)
    assert np.abs(run.denoiser(labels=(3, 4, 5), guidance=50.0)(x_t, 9).x_0).max() <= 1  # clipped last
    outside = run.denoiser(clip=False, labels=(3, 4, 5), guidance=2.5, guidance_interval=(10, 20))(x_t, 9)
    np.testing.assert_array_equal(outside.eps, own.eps)


def test_the_run_s_own_scale_is_that_of_its_samples_and_its_denoiser(run, guidable):
    x_t = np.zeros((1, 8, 8, 1), np.float32)
    guided = run.sample(2, guidance=4.0), run.denoiser(labels=1, guidance=4.0)(x_t, 9).x_0
    plain = run.sample(2), run.denoiser(labels=1)(x_t, 9).x_0
    config = run.config.copy_and_resolve_references()
    config.sample.guidance, config.sample.guidance_interval = 4.0, (1, 20)
    own = ddx.load(guidable)
    own.system = own._source.system._replace(config=validate(config))
    own._source = own._source._replace(system=own.system)
    np.testing.assert_array_equal(own.sample(2), guided[0])
    np.testing.assert_array_equal(own.denoiser(labels=1)(x_t, 9).x_0, guided[1])
    np.testing.assert_array_equal(own.sample(2, guidance=1.0), plain[0])  # without its interval
    np.testing.assert_array_equal(own.denoiser(labels=1, guidance=1.0)(x_t, 9).x_0, plain[1])


def test_thresholds_are_drawn_with(run):
    plain = run.sample(4)
    for percentile, same in ((0.0, True), (60.0, False)):
        assert np.array_equal(run.sample(4, clip_percentile=percentile), plain) == same
    x_t = 5 * np.ones((1, 8, 8, 1), np.float32)
    by_hand = run.denoiser(ddx.DynamicThreshold(60.0), labels=2)(x_t, 9)
    assert np.any(by_hand.x_0 != run.denoiser(labels=2)(x_t, 9).x_0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": -1.0}, "sample.guidance=-1.0 must be at least 0 and at most 1,000"),
        ({"guidance": 2.0, "guidance_interval": (9, 3)}, "must be empty or two numbers, the lower first"),
        ({"guidance": 2.0, "guidance_interval": (9,)}, "must be empty or two numbers, the lower first"),
        ({"guidance": 2.0, "guidance_interval": 9}, "must be a tuple of ints"),
        ({"guidance": 2.0, "guidance_interval": (3, 21)}, "must end at process.num_steps=20 or before"),
        ({"guidance_interval": (3, 9)}, "sample.guidance=1 is no guidance; set a scale"),
        ({"clip_percentile": 101.0}, "at least 0 and at most 100"),
        ({"clip_percentile": 99.0, "clip": False}, "clip_percentile=99 is a way to clip; set sample.clip=True"),
        ({"clip_percentile": 99.0, "keep_eps": True}, "keep_eps=True keeps the network's; leave one out"),
        ({"clip_percentile": 99.0, "variance": "heuristic_paper"}, "Set --clip_percentile=0, or use heuristic"),
        ({"labels": (11,)}, r"11 must be one of the classes 0\.\.9, or 10 for none"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(run, settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        run.sample(2, **settings)
    assert "\n" not in str(error.value)


def test_only_a_network_with_classes_and_none_is_guided(whole, tiny_config):
    with pytest.raises(ConfigError, match=r"this one knows no classes; train one with model.class_conditional=True"):
        sample(whole, 2, guidance=2.0)
    with pytest.raises(ConfigError, match=r"told classes or none, and this one has not learned to do without"):
        tiny_config(model__class_conditional=True, sample__guidance=2.0)
    with pytest.raises(ConfigError, match=r"label_dropout=0.1 leaves out classes, and the network is told none; set"):
        tiny_config(model__label_dropout=0.1)


def test_jobs_on_latents_are_guided_and_thresholds_are_of_samples(guidable, tmp_path):
    plain, guided = (
        interpolate(guidable, 1, guidance=scale, out=tmp_path / str(scale)).arrays()["samples"] for scale in (1.0, 4.0)
    )
    assert plain.shape == guided.shape == (1, 11, 8, 8, 1) and np.any(plain != guided)


def test_folders_are_named_after_scale_interval_and_threshold(tiny_config):
    config = tiny_config(**CLASSES, sample__guidance=2.5, sample__clip_percentile=99.5)
    assert describe(config) == "ddim5_uniform_eta0_threshold99.5_guidance2.5"


def test_guidance_and_random_signs_are_counted_among_the_evaluations(guidable):
    source = trained.load(guidable)
    four = {"sampler": "ancestral", "num_steps": 4}  # at 16, 11, 6 and 1
    for settings, count in (
        ({}, 4),
        ({"guidance": 2.0}, 8),
        ({"guidance": 2.0, "guidance_interval": (5, 12)}, 6),
        ({"variance": "ocm_probes", "probes": 3}, 16),
        ({"variance": "ocm_probes", "probes": 3, "guidance": 2.0}, 20),
    ):
        assert prepare(source, guidable, 0, None, None, None, None, four | settings).evaluations == count


def test_a_guided_quality_curve_has_no_bound(run, tmp_path):
    how = {"num_steps": 4, "walks": "small", "num_samples": 8, "max_examples": 8}
    plain = run.evaluate("quality", out=tmp_path / "plain", **how).values["table"]
    guided = run.evaluate("quality", out=tmp_path / "guided", guidance=4.0, **how).values["table"]
    assert plain[0]["bits_per_dim"] > 0 and guided[0]["bits_per_dim"] is None
    assert plain[0]["fd"] != guided[0]["fd"] and (plain[0]["evaluations"], guided[0]["evaluations"]) == (4, 8)
    with pytest.raises(ConfigError, match="holds another job"):
        run.evaluate("quality", out=tmp_path / "guided", **how)
    with pytest.raises(ConfigError, match=r"guidance is of quality and fd, not bpd. Leave out --guidance"):
        run.evaluate("bpd", guidance=2.0)


def test_a_written_network_is_the_same_and_diffusers_and_programs_know_none_as_a_class(guidable, run, tmp_path):
    export("safetensors", guidable, tmp_path / "out")
    convert("safetensors", tmp_path / "out" / "model.safetensors", tmp_path / "again")
    again = ddx.load(tmp_path / "again")
    assert again.model == run.model and again.model.null_class
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)
    assert run.params["label"]["embedding"].shape == (11, 64)
    assert "| classes | 0 .. 9; 10 says that there is none" in (tmp_path / "out" / "README.md").read_text()
    assert to_diffusers(run.system)["unet/config.json"]["num_class_embeds"] == 11
    assert to_stablehlo(run.system).inputs["label"].meaning == "classes, 0 .. 9, or 10 for none"


def test_a_run_with_label_dropout_starts_from_one_without(tiny_config, tmp_path, capsys, no_pictures):
    short = {"train__num_steps": 2, "train__checkpoint_every": 2}
    train(tiny_config(model__class_conditional=True, **short), tmp_path / "one")
    train(tiny_config(**CLASSES, **short, train__init_from=str(tmp_path / "one")), tmp_path / "other")
    assert "fresh    label: (10, 64) there, (11, 64) here" in capsys.readouterr().out
