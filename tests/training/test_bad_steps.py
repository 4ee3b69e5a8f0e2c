"""Steps whose loss or gradient is not finite: they change nothing, and too many of them end a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.runs.checkpoint import Checkpoints
from ddx.runtime.errors import NonFiniteError
from ddx.training import program, train
from ddx.training.step import make_step

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def poisoned(monkeypatch):
    """Makes the loss of some steps NaN."""

    def make(*steps):
        def with_bad_steps(loss, optimizer, **how):
            def step(state, key, batch):
                bad = jnp.isin(state.step + 1, jnp.array(steps))

                def some(*args):
                    each, parts = loss(*args)
                    return jnp.where(bad, jnp.nan, each), parts

                return make_step(some, optimizer, **how)(state, key, batch)

            return step

        monkeypatch.setattr(program, "make_step", with_bad_steps)

    return make


BAD = (1, 3, 4, 6, 7, 8, 9)  # the same in all tests, which share the compiled step


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_few_change_nothing_and_are_counted(tiny_config, tmp_path, poisoned, capsys):
    poisoned(*BAD)
    config = tiny_config(train__max_bad_steps=2, train__log_every=2, train__checkpoint_every=1, train__num_steps=5)
    config.unlock().train.keep_checkpoints = 20
    assert train(config, tmp_path).finished
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [2, 4, 5]
    assert [line.get("skipped") for line in found] == [1, 2, None]
    assert "loss" not in found[1] and all(np.isfinite(line["loss"]) for line in found if "loss" in line)
    assert "step 4: 2 of the last steps were not finite and changed nothing" in capsys.readouterr().out
    # None is saved while the last step changed nothing.
    assert Checkpoints(tmp_path / "checkpoints").steps() == [2, 5]


@pytest.mark.parametrize("log_every", [100, *(pytest.param(n, marks=pytest.mark.soak) for n in (1, 2, 3))])
def test_too_many_in_a_row_end_the_run_where_they_do_wherever_it_is_logged(tiny_config, tmp_path, poisoned, log_every):
    poisoned(*BAD)
    config = tiny_config(train__max_bad_steps=3, train__log_every=log_every, train__checkpoint_every=5)
    with pytest.raises(NonFiniteError, match=r"at step 9 and the 3 before, .* newest checkpoint is 5\. Lower"):
        train(config, tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [5]
    with pytest.raises(NonFiniteError, match="at step 9 and the 3 before"):  # the count goes on in a resumed run
        train(config, tmp_path)
    config.unlock().train.max_bad_steps = 4
    assert train(config, tmp_path).finished


def test_a_bad_step_leaves_the_weights_as_they_are(tiny_config, tmp_path, poisoned):
    poisoned(*BAD)
    for num_steps in (5, 6):
        train(tiny_config(train__num_steps=num_steps), tmp_path)
    for kind in ("ema", "raw"):
        before, after = (ddx.load(tmp_path, step, kind).params for step in (5, 6))
        jax.tree.map(np.testing.assert_array_equal, before, after)
