"""Arguments of Python calls: one value alone is that value, and numbers of NumPy and JAX are numbers."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx import config as config_lib
from ddx.data import augment
from ddx.evaluation import compare, evaluate
from ddx.runtime import arguments
from ddx.runtime.errors import ConfigError
from ddx.sampling import sample


def test_one_name_is_that_name_not_its_letters():
    assert arguments.names("metrics", "bpd") == ("bpd",)
    assert arguments.names("metrics", ["bpd", "rate_distortion"]) == ("bpd", "rate_distortion")
    for wrong in (b"bpd", 3, None, ["bpd", 3], [b"bpd"]):
        with pytest.raises(ConfigError, match=r"metrics=.* must be a name"):
            arguments.names("metrics", wrong)


@pytest.mark.parametrize("three", [3, np.int64(3), np.uint8(3), jnp.int32(3), np.array(3), [3], (np.int32(3),)])
def test_one_integer_of_any_kind_is_that_integer(three):
    found = arguments.integers("labels", three)
    assert found == (3,) and type(found[0]) is int


@pytest.mark.parametrize("wrong", ["3", b"3", 3.0, True, None, ["3"], [3.5], np.ones((2, 2), int), [True]])
def test_what_is_no_integer_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"(?s)labels=.* must be an integer"):
        arguments.integers("labels", wrong)


def test_scores_and_samples_take_one_value_where_they_take_several(whole, improved, tmp_path):
    for i, metrics in enumerate(("bpd", ("bpd",))):
        evaluate(whole, metrics, max_examples=4, out=tmp_path / str(i))
    assert (tmp_path / "0" / "bpd.npz").read_bytes() == (tmp_path / "1" / "bpd.npz").read_bytes()
    with pytest.raises(ConfigError, match="'bdp' is unknown"):
        evaluate(whole, "bdp")
    with pytest.raises(ConfigError, match="num_steps='25' must be an integer"):
        compare(whole, num_steps="25")
    given = {"num_steps": np.int64(2), "seed": np.int64(5), "batch_size": np.int32(4)}
    for i, labels in enumerate((3, np.array([3]), (3,))):
        sample(improved, np.int64(2), labels=labels, out=tmp_path / f"class{i}", **given)
    archives = {(tmp_path / f"class{i}" / "samples.npz").read_bytes() for i in range(3)}
    assert len(archives) == 1
    record = json.loads((tmp_path / "class0" / "samples.json").read_text())
    assert record["labels"] == [3] and record["seed"] == 5 and record["num_samples"] == 2


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, jnp.int32])
def test_numbers_of_numpy_and_jax_are_config_values(kind):
    config = config_lib.default_config().to_dict()
    config["train"] |= {"num_steps": kind(7), "learning_rate": np.float32(0.5)}
    config["model"]["multipliers"], config["data"]["flip"] = np.array([1, 2]), np.bool_(True)
    checked = config_lib.validate(config)
    values = checked.train.num_steps, checked.train.learning_rate, checked.model.multipliers, checked.data.flip
    assert values == (7, 0.5, (1, 2), True)
    assert [type(v) for v in values] == [int, float, tuple, bool]
    assert config_lib.from_json(config_lib.to_json(checked), "") == checked
    config["train"]["num_steps"] = np.float32(7)
    with pytest.raises(ConfigError, match="must be an int"):
        config_lib.validate(config)


def test_processes_and_trajectories_take_numbers_of_any_kind():
    assert ddx.trajectory(np.int64(1000), np.int32(50)) == ddx.trajectory(1000, 50)
    assert ddx.ddpm(np.int64(20), "cosine").num_steps == 20
    assert ddx.blurring(np.int64(20)).num_steps == 20 and ddx.ihdm(np.int64(5)).num_steps == 5
    with pytest.raises(ValueError, match="spacing"):
        ddx.trajectory(1000, None, b"uniform")


def test_floats_are_not_made_floats_again():
    with pytest.raises(ValueError, match="must be uint8 grey levels"):
        augment.to_float(np.ones((1, 2, 2, 1), np.float32))
