"""What a run ends in whatever way it takes: with the same bits, or but for rounding; and what it learns."""

import json
import shutil

import numpy as np
import pytest

from ddx.runs.checkpoint import Checkpoints
from ddx.runtime.errors import NonFiniteError
from ddx.training import train
from tests.training.test_run import arrays, assert_same_bits, finish, largest_difference, launch, steps_logged


def test_more_steps_go_on_from_a_finished_run_as_if_it_had_never_ended(whole, tiny_config, tmp_path):
    train(tiny_config(train__num_steps=5, train__checkpoint_every=100), tmp_path / "run")
    train(tiny_config(), tmp_path / "run")
    assert_same_bits(whole, tmp_path / "run")
    assert steps_logged(tmp_path / "run") == [2, 4, 5, 6, 8, 10, 12]


def test_metrics_of_a_resumed_run_are_those_of_a_whole_one(tiny_config, tmp_path):
    changes = {"train__log_every": 5, "train__checkpoint_every": 3}
    train(tiny_config(**changes), tmp_path / "whole")
    train(tiny_config(**changes, train__num_steps=11), tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "11")
    train(tiny_config(**changes), tmp_path / "cut")
    lines = [[json.loads(line) for line in open(tmp_path / run / "metrics.jsonl")] for run in ("whole", "cut")]
    for whole, cut in zip(*lines, strict=True):
        assert whole.keys() == cut.keys()
        assert all(whole[name] == cut[name] for name in whole if "second" not in name)


def test_where_calls_are_cut_does_not_change_a_bit(in_fives, tiny_config, tmp_path):
    """By lines of the log, of one step and of two, and by the end of a run."""
    config = {"train__steps_per_call": 5, "train__checkpoint_every": 100}
    train(tiny_config(**config, train__log_every=1, train__num_steps=7), tmp_path)
    train(tiny_config(**config), tmp_path)
    assert_same_bits(in_fives, tmp_path)
    assert steps_logged(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12]


def test_another_default_kind_of_keys_changes_no_bit(tiny_config, tmp_path, monkeypatch):
    config = tiny_config(train__num_steps=2, data__flip=True, model__dropout=0.1, sample__sampler="ancestral")
    train(config, tmp_path / "threefry")
    monkeypatch.setenv("JAX_DEFAULT_PRNG_IMPL", "rbg")  # usual on TPUs
    finish(launch(config, tmp_path / "rbg"))
    assert_same_bits(tmp_path / "threefry", tmp_path / "rbg")
    pictures = [(tmp_path / run / "samples" / "000002.png").read_bytes() for run in ("threefry", "rbg")]
    assert pictures[0] == pictures[1]


def test_accumulation_and_steps_per_call_change_only_rounding(whole, in_fives, tiny_config, tmp_path):
    train(tiny_config(train__accumulation=2), tmp_path)
    assert steps_logged(tmp_path) == [2, 4, 6, 8, 10, 12]
    for workdir in (tmp_path, in_fives):
        assert largest_difference(whole, workdir) < 1e-6


def test_the_network_learns_digits(tiny_config, tmp_path):
    config = tiny_config(
        train__num_steps=150,
        train__batch_size=32,
        train__learning_rate=2e-3,
        train__log_every=50,
        process__num_steps=1000,
    )
    train(config, tmp_path)
    losses = [json.loads(line)["loss"] for line in open(tmp_path / "metrics.jsonl")]
    # Predicting nothing costs 1, the variance of the noise; a network that only copies its input about 0.5.
    assert losses[0] > losses[1] > losses[2] and losses[2] < 0.35, losses


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoints(tiny_config, tmp_path):
    config = tiny_config(
        train__learning_rate=1e38,
        train__warmup_steps=0,
        train__log_every=1,
        train__checkpoint_every=1,
        train__max_bad_steps=3,
    )
    with pytest.raises(NonFiniteError, match=r"not finite at step \d+ and the 3 before, and the update was not"):
        train(config, tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [1]  # the last step that changed anything
    assert all(np.isfinite(x).all() for x in arrays(tmp_path).values())
