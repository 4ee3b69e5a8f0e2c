"""Scores of samples, with a network of features that is a known function of the pixels."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from PIL import Image

import ddx
from ddx.evaluation import distance_job, evaluate, evaluators
from ddx.evaluation.discrepancy import kid
from ddx.evaluation.frechet import fitted
from ddx.evaluation.inception_score import inception_score
from ddx.evaluation.manifolds import manifolds
from ddx.evaluation.reference_job import Reference
from ddx.evaluation.scores import check_numbers
from ddx.features import NETWORKS, Extractor
from ddx.runs import trained
from ddx.runs.data import open_examples
from ddx.runtime.errors import ConfigError, DataError
from ddx.sampling.generator import Generator
from tests.conftest import linked

CLIP = NETWORKS["clip"]
MATRIX = np.random.default_rng(0).standard_normal((64, 12)).astype(np.float32)
TWELVE = {"num_samples": 12, "max_examples": 30, "seed": 3}
ALL = ("fd", "is", "kid", "pr")


def feature(images):
    """What the network says of (N, 8, 8, 1) images."""
    return np.tanh(np.reshape(images, (len(images), -1)).astype(np.float32) / 100 @ MATRIX / 8)


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """The network, in the place of the one that suits digits; two protocols, of which one is of negatives."""
    row = NETWORKS["inception"]._replace(name="efficientnet_lite0", label="FD-test", num_features=12, num_logits=12)
    row = row._replace(protocols=("tf1", "torch"))

    def apply(params, images):
        x = images[..., 0].reshape(len(images), -1).astype(jnp.float32)  # grey in three channels too
        found = jnp.tanh(x / 100 @ params / 8)
        return {"features": found, "logits": found * 3}

    def load(name, protocol=None, weights=None):
        return Extractor(row._replace(name=name), protocol or "tf1", "0123", MATRIX, apply)

    monkeypatch.setattr("ddx.features.load", load)
    monkeypatch.setattr(
        "ddx.evaluation.feature_sets.features.NETWORKS", {"efficientnet_lite0": row, "digits": row, "inception": row}
    )


@pytest.fixture
def run(whole, tmp_path):
    """A folder of its own for what is written."""
    return linked(whole, tmp_path / "run")


@pytest.fixture
def scored(run):
    """Scores of twelve samples, all of them."""
    return evaluate(run, ALL, **TWELVE)


def frechet(x, y):
    """The distance by SciPy's square root of a matrix."""
    root = scipy.linalg.sqrtm(np.cov(x, rowvar=False) @ np.cov(y, rowvar=False))
    shift = np.sum((x.mean(0) - y.mean(0)) ** 2)
    return shift + np.trace(np.cov(x, rowvar=False) + np.cov(y, rowvar=False) - 2 * root.real)


def expected(run, **settings):
    """The features of the samples and of the data, and the logits."""
    samples = feature(ddx.load(run).sample(12, seed=3, **settings)).astype(np.float64)
    data, indices = open_examples(trained.load(run), None, None, 30, 3)
    return samples, feature(data.read(indices)["image"]).astype(np.float64), samples * 3


def test_scores_are_those_of_the_run_s_samples_and_its_training_set(run, scored):
    samples, data, logits = expected(run)
    found = scored.values
    np.testing.assert_allclose(found["fd"], frechet(samples, data), rtol=1e-4)
    np.testing.assert_allclose(found["kid"], kid(samples, data, 3).distance, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["is"], inception_score(logits)[0], rtol=1e-5)
    for name, value in manifolds(samples, data)._asdict().items():
        np.testing.assert_allclose(found[name], value, err_msg=name)
    assert found["label"] == "FD-test" and found["few_samples"]
    assert "FD-test" in scored.message and "FID" not in scored.message
    assert "fewer than 10,000" in scored.message and "30 examples of digits train" in scored.message
    np.testing.assert_allclose(scored.arrays()["features"], samples, atol=1e-5)
    record = json.loads((scored.out / "fd.json").read_text())
    assert (record["protocol"], record["feature_weights"], record["num_samples"]) == ("tf1", "0123", 12)
    assert record["reference"]["num_examples"] == 30


def test_further_metrics_of_the_same_samples_cost_no_drawing(run, monkeypatch):
    first = evaluate(run, ("fd",), **TWELVE)
    assert "kid" not in first.values
    monkeypatch.setattr(Generator, "batches", lambda *_: pytest.fail("drew again"))
    more = evaluate(run, ("fd", "kid"), **TWELVE)
    assert more.message.startswith("FD-test") and "wrote" in more.message
    assert more.values["fd"] == first.values["fd"] and more.values["kid_subset_size"] == 6
    again = evaluate(run, ("fd",), **TWELVE)
    assert "already there" in again.message and again.values == more.values


def test_a_job_that_was_cut_ends_in_the_same_numbers(run, scored, monkeypatch, tmp_path):
    write, written = distance_job.Job.write, []

    def once(self, start, **arrays):
        write(self, start, **arrays)
        written.append(start)
        if len(written) % 2:
            raise KeyboardInterrupt

    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(distance_job.Job, "write", once)
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, ALL, out=out, **TWELVE)
    assert written == [0]
    again = evaluate(run, ALL, out=out, **TWELVE)
    assert {**again.values, "sha256": ""} == {**scored.values, "sha256": ""}


def test_settings_of_drawing_are_those_of_sampling(run, scored):
    settings = {"sampler": "ancestral", "variance": "large", "num_steps": 4}
    found = evaluate(run, ("fd",), **TWELVE, **settings)
    samples, data, _ = expected(run, **settings)
    np.testing.assert_allclose(found.values["fd"], frechet(samples, data), rtol=1e-4)
    assert found.out != scored.out and "ancestral4" in found.out.name


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_given_images_score_as_the_samples_that_they_are(run, scored, tmp_path, kind):
    drawn = ddx.sampling.sample(run, 12, seed=3, png=True, out=tmp_path / "drawn").out
    samples = drawn / "samples.npz" if kind == "npz" else drawn / "png"
    reference = next((run / "references").iterdir())
    out = tmp_path / "scored"
    found = evaluate(None, ALL, samples=samples, reference=reference, out=out, seed=3)
    assert {name: found.values[name] for name in ("fd", "precision")} == pytest.approx(
        {name: scored.values[name] for name in ("fd", "precision")}
    )
    other = evaluate(run, ("fd",), samples=samples, max_examples=30, seed=3)  # named after the samples, in the run
    assert other.values["fd"] == pytest.approx(scored.values["fd"]) and samples.stem in other.out.name


def test_images_may_be_compared_with_images(tmp_path):
    images = ddx.data.load("digits").read(np.arange(60))["image"]
    np.savez(tmp_path / "one.npz", arr_0=images[:30], labels=np.zeros(30, int))
    np.save(tmp_path / "other.npy", images[30:])
    given = {"samples": tmp_path / "one.npz", "reference": tmp_path / "other.npy", "features": "digits"}
    found = evaluate(None, ("fd",), **given, out=tmp_path / "out")
    np.testing.assert_allclose(found.values["fd"], frechet(feature(images[:30]), feature(images[30:])), rtol=1e-4)


def test_mu_and_sigma_of_others_are_a_reference_whose_protocol_is_not_known(run, scored, tmp_path):
    (reference,) = (run / "references").iterdir()
    with np.load(reference / "reference.npz") as file:
        np.savez(tmp_path / "stats.npz", mu=file["mean"], sigma=file["covariance"])
    found = evaluate(run, ("fd",), reference=tmp_path / "stats.npz", num_samples=12, seed=3)
    assert found.values["fd"] == pytest.approx(scored.values["fd"])
    assert "protocol is not known" in found.message
    with pytest.raises(ConfigError, match="kid needs features, and the reference has mu and sigma alone"):
        evaluate(run, ("kid",), reference=tmp_path / "stats.npz", num_samples=12, seed=3)
    np.savez(tmp_path / "wrong.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(DataError, match=r"mu and sigma have the shapes \(5,\)"):
        evaluate(run, ("fd",), reference=tmp_path / "wrong.npz", num_samples=12)


def test_mu_and_sigma_are_no_reference_of_a_discrepancy(tmp_path):
    none = Reference(fitted(np.eye(5)), None, 0, {}, "")
    with pytest.raises(ConfigError, match="CMMD needs features"):
        check_numbers(100, none, CLIP)


def test_a_reference_that_is_given_has_no_split(run, scored):
    (reference,) = (run / "references").iterdir()
    with pytest.raises(ConfigError, match="split is of the run's data, and --reference names others"):
        evaluate(run, ("fd",), reference=reference, split="test", num_samples=12)


def test_one_example_is_no_distance(run):
    with pytest.raises(ConfigError, match=r"set train\.evaluate_examples to 2 or more"):
        evaluators.score("fd", trained.load(run), "test", 1, 0)


def test_protocols_are_not_mixed(run, scored, tmp_path):
    (reference,) = (run / "references").iterdir()
    with pytest.raises(ConfigError, match="was made with protocol tf1, not torch, and the two do not compare"):
        evaluate(run, ("fd",), reference=reference, protocol="torch", num_samples=12)
    with pytest.raises(ConfigError, match="fid is a distance of Inception's features, not of digits's"):
        evaluate(run, ("fid",), reference=reference, num_samples=12)
    other = evaluate(run, ("fd",), protocol="torch", **TWELVE)
    assert other.out != scored.out and len(list((run / "references").iterdir())) == 2


def test_a_damaged_reference_is_told(run, scored):
    (reference,) = (run / "references").iterdir()
    file = reference / "reference.npz"
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes(9))
    with pytest.raises(DataError, match=r"reference.npz cannot be used .* Remove it and make it again"):
        evaluate(run, ("fd",), reference=reference, num_samples=12)
    shutil.rmtree(reference)
    with pytest.raises(DataError, match="is no folder and no NumPy file"):
        evaluate(run, ("fd",), reference=reference, num_samples=12)


@pytest.mark.parametrize(
    ("metrics", "settings", "message"),
    [
        (("fid",), {"features": "digits"}, "fid is a distance of Inception's features, not of digits's"),
        (("fd",), {"protocol": "grey8"}, "protocol=grey8 is not of digits"),
        (("fd",), {"samples": "x"}, "--samples=x is no folder"),
        (("fd",), {"num_samples": 1}, "num_samples=1 must be at least 2"),
        (("kid",), {"num_samples": 3}, "kid of 3 images means nothing. Give at least 4"),
        (("pr",), {"max_examples": 6}, "pr of 6 images means nothing"),
        (("fd",), {"eta": -1.0}, "eta=-1.0 must be at least 0"),
        (("fd",), {"sampler": "ancestral", "eta": 0.5}, "eta=0.5 belongs to the ddim sampler"),
        (("fd", "bpd"), {}, "--metrics=fd is a job of its own"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(run, metrics, settings, message):
    few = {"max_examples": 30, "num_samples": 12}
    few = {name: value for name, value in few.items() if name not in settings and "samples" not in settings}
    with pytest.raises((ConfigError, DataError)) as error:
        evaluate(run, metrics, **few, **settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_without_a_run_everything_has_to_be_given(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((8, 8, 8, 1), np.uint8))
    with pytest.raises(ConfigError, match="Name the folder of a run, or give --reference, --out too"):
        evaluate(None, ("fd",), samples=tmp_path / "x.npy")
    with pytest.raises(ConfigError, match="num_samples is of samples that are drawn, and --samples names some"):
        evaluate(None, ("fd",), samples=tmp_path / "x.npy", reference=tmp_path, out=tmp_path / "out", num_samples=5)


def test_pictures_of_different_sizes_are_told_with_advice_for_them(tmp_path):
    for side in (8, 9):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / f"{side}.png")
    with pytest.raises(DataError, match="Name a folder of images of one size with --samples") as error:
        evaluate(None, ("fd",), samples=tmp_path, reference=tmp_path, out=tmp_path / "out")
    assert "data." not in str(error.value)


def test_images_of_four_channels_are_refused_before_anything_is_drawn(tmp_path):
    np.save(tmp_path / "four.npy", np.zeros((20, 8, 8, 4), np.uint8))
    with pytest.raises(ConfigError, match="images of 4 channels: networks of features take 1 or 3"):
        evaluate(None, ("fd",), samples=tmp_path / "four.npy", reference=tmp_path, out=tmp_path / "out")


def test_training_scores_the_same_way(run):
    source = trained.load(run)
    score = evaluators.score("fd", source, "test", 20, 0)
    job = evaluate(run, ("fd",), split="test", max_examples=20, num_samples=20, features="digits")
    assert score(source.params) == {"fd_test": pytest.approx(job.values["fd"], rel=1e-6)}


def test_the_curve_of_quality_is_made_of_the_other_jobs_numbers(run):
    few = {"max_examples": 30, "num_samples": 12}
    found = evaluate(run, ("quality",), walks="heun,large", num_steps=4, **few)
    table = {(row["walk"], row["num_steps"]): row for row in found.values["table"]}
    assert [table[walk, 4]["evaluations"] for walk in ("heun", "large")] == [7, 4]
    fd = evaluate(run, ("fd",), sampler="ancestral", variance="large", num_steps=4, **few)
    assert table["large", 4]["fd"] == pytest.approx(fd.values["fd"])
    bound = {"variance": "large", "num_steps": 4, "trajectory": "uniform", "max_examples": 500}
    bits = evaluate(run, ("bpd",), **bound, out=run / "bits")
    assert table["large", 4]["bits_per_dim"] == pytest.approx(bits.values["bits_per_dim"], abs=0.02)
    assert table["heun", 4]["bits_per_dim"] is None
    assert {path.name for path in found.out.iterdir()} >= {"quality.png", "quality.csv", "quality.md", "quality.npz"}
    assert (found.out / "quality.csv").read_text().splitlines()[0].startswith("walk,num_steps,evaluations,fd,kid")
    assert "already there" in evaluate(run, ("quality",), walks="heun,large", num_steps=4, **few).message
    with pytest.raises(ConfigError, match="holds another job"):  # points in another order are other parts
        evaluate(run, ("quality",), walks="large,heun", num_steps=4, out=found.out, **few)
    with pytest.raises(ConfigError, match="num_steps=21 must lie in"):
        evaluate(run, ("quality",), num_steps=(2, 21), **few)


def test_the_curve_of_quality_is_on_the_times_that_are_asked_for(run):
    few = {"max_examples": 30, "num_samples": 12}
    quality = {"walks": "euler", "num_steps": 4, **few}
    found = evaluate(run, ("quality",), trajectory="optimal_pictures", **quality)  # which measures the run first
    fd = evaluate(run, ("fd",), sampler="ddim", trajectory="optimal_pictures", num_steps=4, **few)
    assert found.values["table"][0]["fd"] == pytest.approx(fd.values["fd"])
    others = [evaluate(run, ("quality",), trajectory=name, **quality) for name in ("trailing", None)]
    assert len({result.out for result in (found, *others)}) == 3
    assert len({result.values["table"][0]["fd"] for result in (found, *others)}) == 3
    for name in ("times:4,1", "full"):
        with pytest.raises(ConfigError, match="has its own number of steps, and quality is of several"):
            evaluate(run, ("quality",), trajectory=name, **quality)
