"""Evaluators and their settings: what the catalogue names exists, and what a job does not take is refused."""

import pkgutil
import sys
import types

import pytest

import ddx
from ddx.config import evaluation as catalogue
from ddx.config.evaluators import EVALUATORS, Evaluator
from ddx.evaluation import evaluate, evaluators
from ddx.runs import trained
from ddx.runs.job import Result
from ddx.runtime.errors import ConfigError

GIVEN = {"split": "test", "max_examples": 3, "seed": 1}


def test_what_the_catalogue_names_exists():
    for evaluator in EVALUATORS.values():
        functions = [name for name in (evaluator.job, evaluator.score) if name]
        assert functions and all(callable(pkgutil.resolve_name(name)) for name in functions)
    for name, row in catalogue.EVALUATION.items():
        assert set(row.several) <= set(row.jobs) <= set(EVALUATORS), name
        if row.default is not None:
            assert row.checked(name, row.default) == row.default and row.kind is type(row.default), name


@pytest.mark.parametrize(
    ("job", "given", "message"),
    [
        ("bpd", {"num_step": None}, "unknown setting num_step. Did you mean num_steps?"),
        ("statistics", {"eta": 0.5}, "eta is of bpd and fd, not statistics. Leave out --eta"),
        ("comparison", {"variance": "small"}, "variance is of bpd and fd, not comparison. Leave out --variance"),
        ("bpd", {"variance": "tiny"}, "variance='tiny' must be one of: small, large"),
        ("bpd", {"seed": "1"}, "seed='1' must be an int, such as 0"),
        ("bpd", {"step": True}, "step=True must be an int"),
        ("bpd", {"split": 3}, "split=3 must be a string"),
        ("bpd", {"out": 3}, "--out=3 is no path"),
        ("comparison", {"num_steps": 2.5}, "num_steps=2.5 must be an integer or a sequence of integers"),
    ],
)
def test_what_is_no_setting_of_a_job_is_refused_in_one_line(job, given, message):
    with pytest.raises(ConfigError) as error:
        catalogue.checked_settings(job, given)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_what_is_not_given_is_as_by_default_and_one_value_is_that_value():
    assert catalogue.checked_settings("bpd", {"eta": None, "num_steps": (4,)})["num_steps"] == 4
    assert catalogue.checked_settings("bpd", {}) == {
        name: row.default for name, row in catalogue.rows_of("bpd").items()
    }
    assert catalogue.checked_settings("comparison", {"num_steps": 4})["num_steps"] == (4,)


@pytest.fixture
def size(monkeypatch):
    """An evaluator in a file of its own, named in the catalogue: whether a network is told classes."""
    file = types.ModuleType("ddx.evaluation.size")
    file.evaluate = lambda workdir, **settings: Result(
        "done", workdir, (), catalogue.checked_settings("size", settings)
    )
    file.score = lambda source, split, examples, seed: lambda params: {"classes": source.system.model.num_classes}
    monkeypatch.setitem(sys.modules, file.__name__, file)

    def named(**functions):
        row = Evaluator("whether classes are told", **functions)
        monkeypatch.setitem(EVALUATORS, "size", row)

    return named


def test_a_new_evaluator_is_a_file_and_a_name(size, improved):
    size(job="ddx.evaluation.size:evaluate", score="ddx.evaluation.size:score")
    assert set(ddx.load(improved).evaluate("size", **GIVEN).values) == {
        *("split", "max_examples", "seed", "weights", "batch_size", "step", "data_dir", "out")
    }
    source = trained.load(improved)
    assert evaluators.score("size", source, "test", 3, 1)(source.params) == {"classes": 10}
    with pytest.raises(ConfigError, match="--metrics=size is a job of its own"):
        evaluate(improved, ("size", "bpd"))


def test_an_evaluator_without_a_job_is_refused_in_one_line(size, improved):
    size(score="ddx.evaluation.size:score")
    with pytest.raises(ConfigError, match=r"'size' is for train.evaluate alone. Choose of: bpd, rate_distortion, stat"):
        evaluate(improved, "size")


def test_an_evaluator_without_a_score_is_refused_in_one_line(tiny_config):
    with pytest.raises(ConfigError, match=r"train.evaluate='statistics' must be empty, or of: bpd"):
        tiny_config(train__evaluate="statistics")


def test_all_metrics_are_found_by_one_call(improved, tmp_path):
    few = {"max_examples": 2, "batch_size": 2}
    found = evaluate(improved, ("rate_distortion",), out=tmp_path / "bpd", **few)
    assert "rate_distortion.png" in found.files
    found = ddx.load(improved).evaluate("statistics", out=tmp_path / "statistics", **few)
    assert "rmse_middle" in found.values
