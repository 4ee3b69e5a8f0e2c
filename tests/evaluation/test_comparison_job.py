"""The table of variances: every cell is the bound that it says, and one command makes it all."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ddx.evaluation import bound, compare, evaluate, statistics_job
from ddx.evaluation.work import Work
from ddx.runs import trained
from ddx.runtime.errors import ConfigError
from ddx.sampling import measured

FEW = {"max_examples": 6, "batch_size": 4}


def table(out):
    rows = json.loads((out / "comparison.json").read_text())["result"]["table"]
    return {(row["variance"], row["trajectory"], row["num_steps"]): row["bits_per_dim"] for row in rows}


@pytest.fixture(scope="module")
def compared(headed, tmp_path_factory):
    """A run that had no statistics, and its comparison."""
    folder = tmp_path_factory.mktemp("compared")
    run, out = folder / "run", folder / "out"
    shutil.copytree(headed, run, ignore=shutil.ignore_patterns("statistics", "evaluated"))
    assert not measured.exist(trained.load(run), run, "dct", True)
    return run, out, compare(run, num_steps=(5, 20), out=out, **FEW).message


@pytest.mark.parametrize(
    ("variance", "trajectory", "num_steps"),
    [
        ("npr", "even", 5),
        ("large", "optimal", 5),
        ("analytic", "even", 5),
        pytest.param("npr", "optimal", 5, marks=pytest.mark.soak),
        pytest.param("small", "even", 20, marks=pytest.mark.soak),
    ],
)
def test_a_cell_is_the_bound_that_is_evaluated_alone(variance, trajectory, num_steps, compared, tmp_path):
    run, out, _ = compared
    evaluate(run, out=tmp_path, variance=variance, trajectory=trajectory, num_steps=num_steps, **FEW)
    alone = json.loads((tmp_path / "bpd.json").read_text())["result"]["bits_per_dim"]
    np.testing.assert_allclose(table(out)[variance, trajectory, num_steps], alone, rtol=2e-5)


def test_what_is_written_is_the_table(compared):
    run, out, line = compared
    found = table(out)
    variances = ["small", "large", "npr", "analytic", "analytic_frequency"]
    assert list(found) == [(v, t, k) for t in ("even", "optimal") for k in (5, 20) for v in variances]
    with open(out / "comparison.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["bits_per_dim"]) for row in rows] == list(found.values())
    with np.load(out / "comparison.npz") as file:
        total, example = file["total"], file["example"]
    np.testing.assert_allclose(total.mean(0), list(found.values()), rtol=1e-12)
    errors = [float(row["standard_error"]) for row in rows]
    np.testing.assert_allclose(total.std(0, ddof=1) / np.sqrt(6), errors, rtol=1e-9)
    assert len(example) == 6 and not (out / "parts").exists()
    assert (out / "comparison.md").read_text().rstrip() in line
    assert f"| npr | even | {found['npr', 'even', 5]:.4g} | {found['npr', 'even', 20]:.4g} |" in line
    assert Image.open(out / "comparison.png").size[0] > 500
    assert measured.exist(trained.load(run), run, "dct", True)


def test_all_steps_are_the_same_whatever_the_times_are_called(compared):
    found = table(compared[1])
    for (variance, trajectory, k), value in found.items():
        if k == 20 and trajectory == "optimal":
            assert value == found[variance, "even", 20]


def test_an_interrupted_comparison_goes_on_and_a_finished_one_changes_nothing(compared, tmp_path, monkeypatch):
    run, out, _ = compared
    whole, parts = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}, []
    original = bound.Bound.parts

    def stopping(self, *args):
        for part in original(self, *args):
            parts.append(part[0])
            yield part
            if len(parts) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(bound.Bound, "parts", stopping)
    with pytest.raises(KeyboardInterrupt):
        compare(run, num_steps=(5, 20), out=tmp_path, **FEW)
    compare(run, num_steps=(20, 5), out=tmp_path, **FEW)
    assert parts == [0, 4]
    assert {name: (tmp_path / name).read_bytes() for name in ("comparison.npz", "comparison.csv")} == {
        name: whole[name] for name in ("comparison.npz", "comparison.csv")
    }
    assert "already there" in compare(run, num_steps=(5, 20), out=out, **FEW).message
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == whole
    (out / "comparison.npz").write_bytes(whole["comparison.npz"][:-1] + b"x")
    assert "wrote" in compare(run, num_steps=(5, 20), out=out, batch_size=1, max_examples=6).message
    assert (out / "comparison.npz").read_bytes() == whole["comparison.npz"]
    (out / "comparison.png").unlink()
    assert "wrote" in compare(run, num_steps=(5, 20), out=out, **FEW).message and (out / "comparison.png").exists()


@pytest.mark.soak
def test_a_blur_and_a_learned_range_have_their_rows(blurred, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(blurred, run)
    compare(run, num_steps=(5,), out=tmp_path / "out", **FEW)
    found = table(tmp_path / "out")
    assert {v for v, *_ in found} == {"small", "large", "range", "analytic", "analytic_frequency"}
    evaluate(run, out=tmp_path / "alone", variance="analytic_frequency", trajectory="optimal", num_steps=5, **FEW)
    alone = json.loads((tmp_path / "alone" / "bpd.json").read_text())["result"]["bits_per_dim"]
    np.testing.assert_allclose(found["analytic_frequency", "optimal", 5], alone, rtol=2e-5)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (lambda run: compare(run, num_steps=(1, 5)), r"num_steps=1 must lie in 2\.\.20"),
        (lambda run: compare(run, num_steps=(21,)), r"2\.\.20"),
        (lambda run: compare(run, batch_size=0), "batch_size=0 must be at least 1"),
    ],
)
def test_mistakes_are_named(job, message, compared):
    with pytest.raises(ConfigError, match=message) as error:
        job(compared[0])
    assert "\n" not in str(error.value)


def test_a_run_may_remove_the_checkpoint_that_is_compared(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("statistics"))
    source = trained.load(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    monkeypatch.setattr(statistics_job, "STATISTICS_EXAMPLES", 4)
    work = Work("comparison", tmp_path / "run", source, {"data_dir": None})
    assert statistics_job.measured_basis(work, True) == "dct"
    assert measured.exist(source, tmp_path / "run", "dct", True)
