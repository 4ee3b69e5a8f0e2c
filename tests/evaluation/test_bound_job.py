"""Evaluations: exact for any batch and any number of devices, resumable, and what they write."""

import csv
import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ddx
from ddx.data import order
from ddx.evaluation import bound_job, evaluate
from ddx.runs import job, trained
from ddx.runtime.errors import ConfigError, DataError, NonFiniteError
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
FEW = {"max_examples": 10, "batch_size": 4}


def result(out):
    return json.loads((out / "bpd.json").read_text())["result"]


def numbers(out):
    with np.load(out / "bpd.npz", allow_pickle=False) as file:
        return dict(file)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def few(improved, tmp_path_factory):
    out = tmp_path_factory.mktemp("few")
    evaluate(improved, out=out, **FEW)
    return out


def test_the_result_is_that_of_bits_per_dim(improved, few):
    """By hand: the checkpoint's EMA and classes, noise from fold_in(key(seed), example)."""
    source = trained.load(improved)
    data = ddx.data.load("digits", split="test")
    examples = order.batch_indices(0, 0, data.num_examples, 10)
    batch = data.read(examples)
    x_0 = batch["image"].astype(np.float32) / 127.5 - 1
    model = source.system.model
    denoise = ddx.denoiser(
        source.system.process,
        lambda x, t: model.apply({"params": source.params}, x, t, jnp.asarray(batch["label"])),
    )
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), examples)
    bits = ddx.bits_per_dim(denoise, x_0, keys, variance="range")
    ours = numbers(few)
    np.testing.assert_array_equal(ours["example"], examples)
    np.testing.assert_array_equal(ours["times"], [1, 2, 3, 4])
    np.testing.assert_allclose(ours["total"], bits.total, rtol=1e-4)
    np.testing.assert_allclose(ours["prior"], bits.prior, rtol=1e-4)
    np.testing.assert_allclose(ours["terms"], bits.terms.mean(0), rtol=1e-4)
    np.testing.assert_allclose(ours["mse"], bits.mse.mean(0), rtol=1e-4)
    told = result(few)
    np.testing.assert_allclose(told["bits_per_dim"], bits.total.mean(), rtol=1e-4)
    np.testing.assert_allclose(told["standard_error"], np.std(bits.total, ddof=1) / np.sqrt(10), rtol=1e-3)
    np.testing.assert_allclose(told["rate"] + told["decoder"], told["bits_per_dim"], rtol=1e-6)


def test_the_protocol_is_written_beside_the_result(few):
    protocol = json.loads((few / "bpd.json").read_text())["protocol"]
    assert protocol == {
        "data": "digits",
        "split": "test",
        "num_examples": 10,
        "of_examples": 297,
        "weights": "averaged",
        "num_steps": 4,
        "trajectory": "full",
        "variance": "range",
        "clip": True,
        "cdf": "exact",
        "noise_draws_per_term": 1,
        "seed": 0,
    }


@pytest.mark.parametrize("batch_size", [3, 64, *(pytest.param(size, marks=pytest.mark.soak) for size in (1, 10))])
def test_the_batch_size_changes_only_rounding(improved, few, tmp_path, batch_size):
    evaluate(improved, max_examples=10, batch_size=batch_size, out=tmp_path)
    for name, expected in numbers(few).items():
        np.testing.assert_allclose(numbers(tmp_path)[name], expected, rtol=2e-5, err_msg=name)


def test_an_example_has_the_same_bound_whatever_else_is_evaluated(improved, few, tmp_path):
    evaluate(improved, max_examples=4, out=tmp_path)
    np.testing.assert_allclose(numbers(tmp_path)["total"], numbers(few)["total"][:4], rtol=2e-5)


def test_eight_devices_find_what_one_does(improved, few, tmp_path):
    environment = processes.environment(devices=8)
    command = [sys.executable, "-m", "launch.evaluate", f"--workdir={improved}", f"--out={tmp_path}"]
    done = subprocess.run(
        [*command, "--max_examples=10", "--batch_size=4", "--metrics=bpd,rate_distortion"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert " bits/dim of 10 examples of test, 4 steps, variance range; wrote " in done.stdout
    assert (tmp_path / "rate_distortion.png").exists()
    for name, expected in numbers(few).items():
        np.testing.assert_allclose(numbers(tmp_path)[name], expected, rtol=2e-5, err_msg=name)


def test_an_interrupted_evaluation_goes_on_after_its_last_batch(improved, few, tmp_path, monkeypatch):
    written, write = [], job.Job.write

    class Stop(Exception):
        pass

    def one(self, start, **arrays):
        write(self, start, **arrays)
        written.append(start)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(job.Job, "write", one)
        for _ in range(3):
            with pytest.raises(Stop):
                evaluate(improved, out=tmp_path, **FEW)
    assert written == [0, 4, 8]
    (tmp_path / "parts" / "00000004.npz").write_bytes(b"PK")
    with pytest.warns(UserWarning, match=r"00000004.npz cannot be used .* doing it again"):
        evaluate(improved, out=tmp_path, **FEW)
    for name, expected in numbers(few).items():
        np.testing.assert_array_equal(numbers(tmp_path)[name], expected)
    assert not (tmp_path / "parts").exists()


def test_a_finished_evaluation_changes_nothing_and_curves_can_be_added(improved, tmp_path, monkeypatch):
    assert "; wrote " in evaluate(improved, out=tmp_path, **FEW).message
    before = contents(tmp_path)
    monkeypatch.setattr(bound_job, "Bound", None)  # nothing is evaluated again
    assert "; already there: " in evaluate(improved, out=tmp_path, **FEW).message
    assert contents(tmp_path) == before
    assert "; wrote " in evaluate(improved, ("bpd", "rate_distortion"), out=tmp_path, **FEW).message
    rows = list(csv.DictReader((tmp_path / "rate_distortion.csv").open()))
    expected = numbers(tmp_path)
    coding = ddx.rate_distortion(expected["times"], expected["prior"], expected["terms"], expected["mse"])
    assert [(row["t"], row["reverse_step"]) for row in rows] == [("1", "4"), ("2", "3"), ("3", "2"), ("4", "1")]
    np.testing.assert_allclose([float(row["rate_bits_per_dim"]) for row in rows], coding.rate, rtol=1e-6)
    np.testing.assert_allclose([float(row["distortion_rmse_255"]) for row in rows], coding.distortion, rtol=1e-6)
    picture = np.asarray(Image.open(tmp_path / "rate_distortion.png").convert("RGB"))
    assert picture.shape == (960, 1320, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    monkeypatch.undo()
    (tmp_path / "bpd.npz").unlink()
    assert "; wrote " in evaluate(improved, out=tmp_path, **FEW).message


def test_another_number_of_steps_variance_and_decoder(improved, tmp_path):
    scores = {}
    for name, kwargs in {
        "range": {},
        "small": {"variance": "small"},
        "strided": {"num_steps": 2},
        "listed": {"trajectory": "times:4,1"},
        "tanh": {"cdf": "tanh"},
        "unclipped": {"clip": False},
        "seed": {"seed": 1},
    }.items():
        evaluate(improved, out=tmp_path / name, **FEW, **kwargs)
        scores[name] = result(tmp_path / name)["bits_per_dim"]
    assert scores["strided"] == scores["listed"]
    del scores["listed"]
    assert len(set(scores.values())) == len(scores)


def test_a_single_example_has_no_standard_error(improved, tmp_path):
    message = evaluate(improved, out=tmp_path, max_examples=1).message
    assert result(tmp_path)["standard_error"] is None and "+-" not in message


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"metrics": ("fod",)}, ConfigError, "metrics: 'fod' is unknown. Did you mean fd"),
        ({"metrics": ()}, ConfigError, "metrics: 'none' is unknown"),
        ({"variance": "learned"}, ConfigError, "was not learned by the network. Choose one of: small, large, range"),
        ({"cdf": "erf"}, ConfigError, "cdf='erf' must be one of: exact, tanh, softmax"),
        ({"max_examples": 0}, ConfigError, "max_examples=0 must be at least 1"),
        ({"batch_size": -1}, ConfigError, "batch_size=-1 must be at least 1"),
        ({"num_steps": 5}, ConfigError, "trajectory"),
        ({"num_steps": -1}, ConfigError, "num_steps=-1 must be at least 0"),
        ({"num_steps": (2, 4)}, ConfigError, "num_steps: several are for --metrics=comparison or quality. Give one"),
        ({"num_steps": 2.0}, ConfigError, "num_steps=2.0 must be an int"),
        ({"clip": "no"}, ConfigError, "clip='no' must be True or False"),
        ({"eta": float("nan")}, ConfigError, "eta=nan must be above 0 and at most 100"),
        ({"max_example": 3}, ConfigError, "unknown setting max_example. Did you mean max_examples?"),
        ({"basis": "dct"}, ConfigError, "basis is of statistics and model_statistics, not bpd. Leave out --basis"),
        ({"trajectory": "quad"}, ConfigError, "needs a number of steps"),
        ({"split": "validation"}, (ConfigError, DataError), "validation"),
        ({"seed": -1}, ConfigError, "seed=-1 must be at least 0"),
        ({"step": 7}, Exception, "no checkpoint of step 7"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(improved, tmp_path, kwargs, error, message):
    with pytest.raises(error, match=message) as caught:
        evaluate(improved, **{"out": tmp_path / "out"} | kwargs)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "bpd.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"images .* -> .*; protocol.seed 0 -> 1"),
        ({"trajectory": "times:4,1"}, "times .* -> "),
        ({"split": "train"}, "images .* -> "),
    ],
)
def test_two_evaluations_are_not_mixed(improved, few, change, message):
    before = contents(few)
    with pytest.raises(ConfigError, match=f"holds another job .*{message}"):
        evaluate(improved, out=few, **FEW, **change)
    assert contents(few) == before


def test_the_same_steps_at_other_times_are_another_evaluation(improved, tmp_path):
    evaluate(improved, out=tmp_path, trajectory="times:4,2,1", **FEW)
    with pytest.raises(ConfigError, match=r"holds another job .*times .* -> "):
        evaluate(improved, out=tmp_path, trajectory="times:4,3,1", **FEW)


def test_a_chain_that_leaves_T_out_pays_the_prior_of_its_start(improved, few, tmp_path):
    evaluate(improved, out=tmp_path, trajectory="times:2,1", **FEW)
    assert result(tmp_path)["prior"] > 10 * result(few)["prior"] + 0.01


def test_a_rerun_may_have_another_batch_size(improved, few, tmp_path, monkeypatch):
    before = contents(few)
    assert "already there" in evaluate(improved, out=few, max_examples=10, batch_size=3).message
    assert contents(few) == before
    write, done = job.Job.write, []

    def two(self, start, **arrays):
        if len(done) == 2:
            raise KeyboardInterrupt
        write(self, start, **arrays)
        done.append(start)

    with monkeypatch.context() as patch:
        patch.setattr(job.Job, "write", two)
        with pytest.raises(KeyboardInterrupt):
            evaluate(improved, out=tmp_path, **FEW)
    evaluate(improved, out=tmp_path, max_examples=10, batch_size=64)
    for name, expected in numbers(few).items():
        np.testing.assert_allclose(numbers(tmp_path)[name], expected, rtol=2e-5, err_msg=name)


def test_data_with_other_classes_are_refused(improved, monkeypatch):
    data = ddx.data.load("digits", split="test")
    seven = dataclasses.replace(data, classes=tuple("abcdefg"))
    monkeypatch.setattr("ddx.runs.data.open_dataset", lambda config, check: check(seven))
    with pytest.raises(ConfigError, match="has 7 classes, and the network knows 10"):
        evaluate(improved)


def test_a_bound_that_is_not_finite_is_no_result(improved, tmp_path, monkeypatch):
    load = trained.load

    def broken(*args):
        source = load(*args)
        return source._replace(params=jax.tree.map(lambda x: x * np.nan, source.params))

    monkeypatch.setattr(trained, "load", broken)
    with pytest.raises(NonFiniteError, match="the bound of 10 examples is not finite"):
        evaluate(improved, out=tmp_path, **FEW)
    assert "result" not in json.loads((tmp_path / "bpd.json").read_text())


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY"])
def test_a_record_or_an_array_that_is_damaged_is_made_again(improved, few, tmp_path, content):
    evaluate(improved, out=tmp_path, **FEW)
    (tmp_path / "bpd.npz").write_bytes(content)
    record = json.loads((tmp_path / "bpd.json").read_text())
    (tmp_path / "bpd.json").write_text(json.dumps(record | {"result": "lost"}))
    assert "; wrote " in evaluate(improved, out=tmp_path, **FEW).message
    assert contents(tmp_path)["bpd.npz"] == contents(few)["bpd.npz"]
