"""Scores of a network while it is trained."""

import json
import os
import signal
import time

import pytest

import ddx
from ddx.config import from_json
from ddx.evaluation import evaluate
from ddx.runtime.errors import ConfigError, DataError
from ddx.training import train
from ddx.training.loop import _Run

SCORED = {
    "train__evaluate": "bpd",
    "train__evaluate_every": 5,
    "train__evaluate_examples": 6,
    "train__log_every": 100,
    "train__checkpoint_every": 100,
}


def lines(workdir):
    return [json.loads(line) for line in (workdir / "evaluations.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def scored(tiny_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("scored")
    train(tiny_config(**SCORED), workdir)
    return workdir


def test_scores_are_of_the_steps_and_those_of_the_command(scored, tmp_path):
    found = lines(scored)
    assert [(line["step"], line["evaluator"]) for line in found] == [(5, "bpd"), (10, "bpd"), (12, "bpd")]
    result = evaluate(scored, max_examples=6, seed=0, out=tmp_path)
    assert found[-1]["bits_per_dim"] == pytest.approx(result.values["bits_per_dim"], rel=1e-6)
    assert found[0]["bits_per_dim"] != found[-1]["bits_per_dim"]


def test_a_signal_ends_a_scoring_which_the_resumed_run_makes_up_for(scored, tiny_config, tmp_path, monkeypatch):
    begin = _Run.begin

    def signalled(self):
        self.watch._scores = {"bpd": lambda _: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(600)}
        return begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "begin", signalled)
        outcome = train(tiny_config(**SCORED), tmp_path)
    assert (outcome.step, outcome.finished) == (5, False) and not (tmp_path / "evaluations.jsonl").exists()
    assert train(None, tmp_path).finished
    assert lines(tmp_path) == lines(scored)


def test_scores_change_no_bit_and_may_change_in_a_run(scored, whole, tiny_config, tmp_path):
    import jax
    import numpy as np

    jax.tree.map(np.testing.assert_array_equal, ddx.load(scored).params, ddx.load(whole).params)
    config = from_json((scored / "config.json").read_text(), "config")
    config.train.evaluate = ""
    assert "already complete" in train(config, scored).message


@pytest.mark.parametrize(("value", "error"), [({"train__evaluate": "fid,bpd"}, "empty, or of: bpd")])
def test_an_unknown_evaluator_is_refused(tiny_config, value, error):
    with pytest.raises(ConfigError, match=error):
        tiny_config(**value)


def test_a_split_that_is_not_there_is_told_before_the_first_step(tiny_config, tmp_path):
    with pytest.raises(DataError, match="no split 'valid'"):
        train(tiny_config(**SCORED, train__evaluate_split="valid"), tmp_path)
