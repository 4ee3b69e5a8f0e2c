"""Runs of coloured noise, from their config to samples and scores."""

import jax
import numpy as np
import pytest

import ddx
from ddx.interop import export
from ddx.runs import trained
from ddx.runtime.errors import ConfigError
from ddx.sampling import measured
from ddx.system import make_process, make_system
from ddx.training import train


@pytest.mark.parametrize(
    ("changes", "ratio"),
    [
        ({"process__noise": "power", "process__noise_power": -1.0}, 2.0),
        ({"process__noise": "band", "process__noise_high": 0.2, "process__noise_floor": 0.25}, 4.0),
        ({"process__noise": "power", "process__kind": "blurring", "loss__prediction": "v"}, 2**0.5),
    ],
)
def test_the_process_of_a_config_has_its_weights(tiny_config, changes, ratio):
    w = make_process(tiny_config(**changes)).basis.weights((8, 8))
    np.testing.assert_allclose(w[0, 1] / w[0, 2], ratio)
    white = {"process__kind": changes["process__kind"], "loss__prediction": "v"} if len(changes) == 3 else {}
    assert make_process(tiny_config(**white)).basis.weights is None


def test_a_run_is_trained_sampled_loaded_and_bounded(tiny_config, tmp_path, no_pictures):
    train(tiny_config(process__noise="power", process__noise_power=-1.0), tmp_path / "run")
    run = ddx.load(tmp_path / "run")
    assert run.process.of_frequencies
    assert run.sample(2).shape == (2, 8, 8, 1)
    bits = run.evaluate(num_steps=5, max_examples=4, batch_size=4).values
    assert np.isfinite(bits["bits_per_dim"])
    with pytest.raises(ConfigError, match=r"diffusers has nothing for process\.noise"):
        export("diffusers", tmp_path / "run", tmp_path / "theirs")
    again = tmp_path / "ours"
    export("safetensors", tmp_path / "run", again)
    np.testing.assert_array_equal(ddx.load(again / "weights.safetensors").sample(2), run.sample(2))


def test_what_white_noise_alone_has_is_refused(tiny_config, tmp_path):
    config = tiny_config(process__noise="band")
    source = trained.Trained(12, "", make_system(config, (8, 8, 1)), None)
    for name, message in {
        "analytic_pixel": "colours its noise has statistics of frequencies, not of pixels. Use basis dct",
        "analytic_paper": "its limits are of white noise in pixels. Use analytic",
        "ocm_probes_frequency": None,
    }.items():
        if message is None:
            assert measured.variance(source, tmp_path, name, False)[0].process is source.system.process
            continue
        with pytest.raises(ConfigError, match=message):
            measured.variance(source, tmp_path, name, False)
    narrow = tiny_config(process__noise="band", process__noise_low=0.01, process__noise_high=0.02)
    with pytest.raises(ConfigError, match=r"images of \(8, 8\) have no frequency in the band"):
        make_system(narrow, (8, 8, 1))
    assert jax.tree.leaves(make_system(config, (8, 8, 1)).shapes())
