"""Resuming with another config: what may change, what is recorded of it, and what a new run takes from another."""

import json
import shutil

import jax
import numpy as np
import optax
import pytest

import ddx
from ddx import config as config_lib
from ddx.runs import trained
from ddx.runs.checkpoint import Checkpoints
from ddx.runtime.errors import CheckpointError, ConfigError, NonFiniteError
from ddx.training import loop, origin, resume, train
from ddx.training.state import TrainState, counted, make_optimizer
from tests.training.test_run import arrays, assert_same_bits, steps_logged


class Stop(Exception):
    """A run that dies."""


def history(workdir):
    return json.loads((workdir / "config_history.json").read_text())


def meta(workdir, step):
    return Checkpoints(workdir / "checkpoints").meta(step)


def test_without_a_checkpoint_every_key_may_change_and_nothing_of_the_old_attempt_stays(
    tiny_config, whole, tmp_path, monkeypatch, capsys
):
    """Such as after a first step that ran out of memory, or a run that was killed before its first checkpoint."""
    finite = loop._Run.finite

    def dies(self, step, metrics):
        if step == 5:
            raise Stop
        return finite(self, step, metrics)

    changes = {"train__log_every": 1, "train__sample_every": 2, "train__checkpoint_every": 100}
    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "finite", dies)
        with pytest.raises(Stop):
            train(tiny_config(train__init_from=str(whole), **changes), tmp_path / "run")
    assert steps_logged(tmp_path / "run") == [1, 2, 3, 4]
    assert (tmp_path / "run" / "init_from.json").exists()
    other = {"loss__prediction": "v", "seed": 3, "train__num_steps": 3, "process__schedule": "linear"}
    capsys.readouterr()
    train(tiny_config(**other), tmp_path / "run")
    assert "changed  loss.prediction eps -> v; no checkpoint yet" in capsys.readouterr().out
    assert steps_logged(tmp_path / "run") == [2, 3]
    assert [path.name for path in (tmp_path / "run" / "samples").iterdir()] == ["000003.png"]
    assert (
        not (tmp_path / "run" / "init_from.json").exists() and not (tmp_path / "run" / "config_history.json").exists()
    )
    assert config_lib.from_json((tmp_path / "run" / "config.json").read_text(), "") == tiny_config(**other)
    train(tiny_config(**other), tmp_path / "fresh")
    assert_same_bits(tmp_path / "run", tmp_path / "fresh")


ALL = {
    "model__dropout": 0.1,
    "model__dtype": "bfloat16",
    "model__remat": True,
    "train__batch_size": 8,
    "train__accumulation": 2,
    "train__learning_rate": 1e-4,
    "train__warmup_steps": 0,
    "train__clip_norm": 0.0,
    "train__ema_decay": 0.5,
    "train__ema_warmup": True,
    "train__steps_per_call": 1,
}


def test_all_that_does_not_change_a_state_s_meaning_may_change_and_is_recorded(tiny_config, four, capsys):
    run = four
    before = arrays(run, 4)
    config = tiny_config(train__num_steps=6, **ALL)
    assert train(config, run).step == 6
    recorded = history(run)
    assert [entry["step"] for entry in recorded] == [4]
    assert recorded[0]["changes"]["train.learning_rate"] == [1e-3, 1e-4]
    assert {key.replace(".", "__") for key in recorded[0]["changes"]} == ALL.keys()
    assert meta(run, 6)["history"] == recorded and meta(run, 4)["history"] == []
    assert "changed  train.learning_rate 0.001 -> 0.0001 from step 4 on" in capsys.readouterr().out
    assert config_lib.from_json((run / "config.json").read_text(), "") == config
    assert arrays(run, 4).keys() == arrays(run, 6).keys() == before.keys()
    train(tiny_config(train__num_steps=7), run)  # and back again
    assert [entry["step"] for entry in history(run)] == [4, 6] and history(run)[0] == recorded[0]
    assert history(run)[1]["changes"]["train.warmup_steps"] == [0, 4]


def test_a_changed_run_that_is_interrupted_ends_in_the_same_bits_and_one_record(
    tiny_config, four, tmp_path, monkeypatch
):
    run = four
    shutil.copytree(run, tmp_path / "cut")
    config = tiny_config(train__learning_rate=1e-4, train__num_steps=8, train__checkpoint_every=100)
    train(config, run)
    finite = loop._Run.finite

    def dies(self, step, metrics):
        if step == 6:
            raise Stop
        return finite(self, step, metrics)

    def at_once(*_):
        raise Stop

    # The first rate is thought better of, before there is any checkpoint of it.
    for rate, name, death in ((1e-2, "train", at_once), (1e-4, "finite", dies)):
        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(loop._Run, name, death)
            config.unlock().train.learning_rate = rate
            train(config, tmp_path / "cut")
    train(None, tmp_path / "cut")
    assert_same_bits(run, tmp_path / "cut")
    assert history(run) == history(tmp_path / "cut")
    assert history(run) == [{"step": 4, "changes": {"train.learning_rate": [1e-3, 1e-4]}}]


def test_the_advice_after_a_loss_that_is_not_finite_can_be_followed(tiny_config, four, whole):
    """Also the record is that of the weights: a rate that led to nothing is no part of it."""
    run = four
    with pytest.raises(NonFiniteError, match=r"newest checkpoint is 4\..* Lower train\.learning_rate"):
        train(tiny_config(train__learning_rate=1e38, train__checkpoint_every=100, train__max_bad_steps=0), run)
    outcome = train(tiny_config(), run)
    assert outcome.step == 12 and outcome.finished
    assert_same_bits(run, whole)
    assert not (run / "config_history.json").exists()


def test_a_checkpoint_of_a_constant_rate_from_before_its_steps_were_counted_resumes(tmp_path):
    params = {"w": np.ones(3, np.float32)}
    optimizer = make_optimizer(1e-3, 0)
    state = TrainState(np.int32(7), params, params, optimizer.init(params))
    old = counted(state.opt_state, None)
    assert jax.tree.structure(old) == jax.tree.structure(
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(params)
    )
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(7, resume.items(state._replace(opt_state=old)), {})
    found = resume.restore(checkpoints, 7, jax.eval_shape(lambda: state))
    assert jax.tree.structure(found) == jax.tree.structure(state) and found.opt_state[1][1].count == 7
    slow = make_optimizer(1.0, 14)
    updates, _ = slow.update({"w": np.ones(3, np.float32)}, found.opt_state, params)
    np.testing.assert_allclose(updates["w"], -0.5, rtol=1e-4)  # half way up


def test_a_run_starts_from_the_averaged_weights_of_another(whole, tiny_config, tmp_path, capsys):
    """Another prediction, schedule, range of the data and objective; after a step at rate 0 they are still the same."""
    changes = {"process__num_steps": 100, "process__schedule": "linear", "loss__prediction": "x0", "data__low": 0}
    changes |= {"train__num_steps": 1, "data__split": "test"}
    for name, source, step in (("newest", whole, 12), ("step", f"{whole}:8", 8)):
        train(tiny_config(train__init_from=str(source), **changes), tmp_path / name)
        found = arrays(tmp_path / name)
        theirs = {n: x for n, x in arrays(whole, step).items() if n.startswith("['ema']")}
        for key, value in theirs.items():
            np.testing.assert_array_equal(found[key], value)
            np.testing.assert_array_equal(found[key.replace("['ema']", "['params']")], value)
        record = json.loads((tmp_path / name / "init_from.json").read_text())
        assert (record["workdir"], record["step"]) == (str(whole), step)
        assert f"weights  the averaged ones of step {step} of {whole}" in capsys.readouterr().out
    assert config_lib.from_json((tmp_path / "step" / "config.json").read_text(), "").train.init_from == f"{whole}:8"


def test_a_run_from_another_resumes_without_it_and_is_bound_to_it(whole, tiny_config, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "source")
    own = {"model__class_conditional": True}  # a layer that the other has not
    config = tiny_config(train__init_from=str(tmp_path / "source"), train__num_steps=2, **own)
    assert train(config, tmp_path / "run").fresh == ("label",)
    assert "fresh    label: nothing there, (10, 64) here\n" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "source")
    config.unlock().train.num_steps = 3
    outcome = train(config, tmp_path / "run")
    assert outcome.step == 3 and outcome.fresh == ("label",)
    (tmp_path / "run" / "init_from.json").write_text("{")
    assert train(config, tmp_path / "run").fresh == ()
    config.train.init_from = str(whole)
    with pytest.raises(ConfigError, match=r"another config \(train\.init_from .*source -> "):
        train(config, tmp_path / "run")


def system(config, num_classes=1):
    return ddx.system.make_system(config, (8, 8, 1), num_classes)


def initial_weights(workdir, ours):
    """What a run would start from, with zeros for what starts afresh."""
    shapes = jax.eval_shape(ours.init, jax.random.key(0))
    return origin.initial_weights(workdir, ours, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))


def test_a_run_that_begins_again_starts_from_the_same_weights(whole, tiny_config, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(whole, source)
    (tmp_path / "run").mkdir()
    ours = system(tiny_config(train__init_from=str(source)))
    first = initial_weights(tmp_path / "run", ours)
    checkpoints = Checkpoints(source / "checkpoints", keep=5)
    moved = jax.tree.map(lambda x: x + 1, first)
    checkpoints.save(14, {"ema": moved}, checkpoints.meta(12))
    again = initial_weights(tmp_path / "run", ours)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    asked = system(tiny_config(train__init_from=f"{source}:14"))
    jax.tree.map(np.testing.assert_array_equal, moved, initial_weights(tmp_path / "run", asked))
    other = system(tiny_config(train__init_from=str(whole)))  # another run is asked for before the first checkpoint
    jax.tree.map(np.testing.assert_array_equal, first, initial_weights(tmp_path / "run", other))
    jax.tree.map(np.testing.assert_array_equal, moved, initial_weights(tmp_path / "run", ours))
    shutil.rmtree(source / "checkpoints" / "14")
    with pytest.warns(UserWarning, match="step 14 was saved"):
        trained.load(source)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 14 .* remove it to begin on another"):
        initial_weights(tmp_path / "run", ours)
    (tmp_path / "run" / "init_from.json").unlink()
    with pytest.warns(UserWarning, match="step 14 was saved"):
        jax.tree.map(np.testing.assert_array_equal, first, initial_weights(tmp_path / "run", ours))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__channels": 64}, r"ema\['down_0_block_0'\]\['conv1'\]\['bias'\]: saved float32 \(16,\), needed"),
        ({"model__num_heads": 4}, r"model\.num_heads: saved 1, needed 4\. "),
        ({"model__groups": 4}, r"model\.groups: saved 8, needed 4\. "),
        ({"model__family": "iddpm"}, r"model\.family: saved ddpm, needed iddpm[;.] "),
        ({"model__multipliers": (1, 1, 1)}, "saved nothing, needed float32"),
    ],
)
def test_another_network_is_no_start(whole, tiny_config, tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=rf"checkpoints/12 does not fit this config: .*{message}") as error:
        initial_weights(tmp_path, system(tiny_config(train__init_from=str(whole), **changes)))
    assert "\n" not in str(error.value) and "copy its model" in str(error.value)
    assert not (tmp_path / "init_from.json").exists()


def test_layers_that_images_classes_and_outputs_decide_start_afresh_and_are_told(
    improved, improved_config, tmp_path, capsys
):
    """From ten classes and a learned variance on grey images to three, five and a fixed one on colours."""
    theirs = trained.load(improved).params
    fixed = {"loss__objective": "simple", "loss__variance": "small", "sample__variance": "small"}
    colours = ddx.system.make_system(improved_config(train__init_from=str(improved), **fixed), (8, 8, 3), 5)
    found = initial_weights(tmp_path, colours)
    shapes = jax.eval_shape(colours.init, jax.random.key(0))
    assert jax.tree.map(np.shape, found) == jax.tree.map(lambda x: x.shape, shapes)
    afresh = {"conv_in", "label", "conv_out"}
    for name, module in found.items():
        if name in afresh:
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(module))
        else:
            jax.tree.map(np.testing.assert_array_equal, module, theirs[name])
    told = capsys.readouterr().out
    assert "fresh    conv_in: (16,) and (3, 3, 1, 16) there, (16,) and (3, 3, 3, 16) here\n" in told
    assert "fresh    label: (10, 64) there, (5, 64) here\n" in told
    assert set(origin.fresh(tmp_path, colours.config)) == afresh
    none = improved_config(train__init_from=str(improved), model__label_dropout=0.1, **fixed)
    nine_and_none = initial_weights(tmp_path, system(none, 9))
    assert nine_and_none["label"]["embedding"].shape == (10, 64) and not nine_and_none["label"]["embedding"].any()
    assert "fresh    label: (10, 64) there, (10, 64) here\n" in capsys.readouterr().out
    without = improved_config(train__init_from=str(improved), model__class_conditional=False, **fixed)
    assert "label" not in initial_weights(tmp_path, system(without))
    told = capsys.readouterr().out
    assert "unused   label: (10, 64) there, nothing here\n" in told and told.count("fresh") == 1


def test_a_start_without_a_trained_network_is_refused(tiny_config, tmp_path):
    for source in (tmp_path / "nothing", tmp_path / "run"):
        with pytest.raises(CheckpointError, match="has no trained network"):
            train(tiny_config(train__init_from=str(source)), tmp_path / "run")


def test_the_head_of_a_run_that_started_from_another_is_its_own(tiny_config, whole, tmp_path):
    config = tiny_config(train__init_from=str(whole))
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    head = config_lib.head_config(tmp_path, "npr")
    assert (head.train.init_from, head.train.backbone) == ("", str(tmp_path))
