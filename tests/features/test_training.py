"""The classifier of digits is trained by one command, to the same bits."""

import numpy as np
import pytest

import ddx
from ddx import features
from ddx.features.training import train
from ddx.runtime.errors import ConfigError


def config(**changes):
    made = ddx.config.load("features_digits")
    for name, value in changes.items():
        group, _, key = name.partition("__")
        made[group][key] = value
    return made


def test_what_is_trained_is_loaded(tmp_path):
    done = train(config(train__num_steps=3), tmp_path / "x.safetensors")
    loaded = features.load("digits", weights=tmp_path / "x.safetensors")
    assert loaded.digest == done.values["sha256"] != loaded.network.sha256 and loaded.digest in str(done)


def test_data_of_other_classes_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8, 1), np.uint8), labels=np.arange(4))
    with pytest.raises(ConfigError, match="has 4 classes and 1 channels; the network is for 10 classes"):
        train(
            config(data__name="array", data__dir=str(tmp_path / "x.npz"), data__split="all"), tmp_path / "x.safetensors"
        )
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.soak
def test_the_config_as_it_stands_tells_digits_apart_in_the_same_bits(tmp_path):
    done = [train(config(), tmp_path / f"{i}.safetensors").values for i in range(2)]
    assert done[0] == done[1] and done[0]["accuracy"] > 0.955
