"""Runs of coloured noise, from their config to samples and scores."""

import types

import jax
import numpy as np
import pytest

import ddx
from ddx.diffusion.forward.basis import DCT
from ddx.interop import export
from ddx.runs import trained
from ddx.runs.data import open_dataset
from ddx.runs.meta import checked
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.sampling import measured
from ddx.system import make_process, make_system
from ddx.training import spectrum, train


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


def test_a_run_keeps_the_spectrum_of_its_data_and_all_that_reads_it_has_it(
    tiny_config, tmp_path, no_pictures, monkeypatch
):
    config = tiny_config(process__noise="equal_snr", train__num_steps=4)
    train(config, tmp_path / "run")
    data = open_dataset(config)
    x_0 = data.read(np.arange(data.num_examples))["image"] / 127.5 - 1
    with jax.enable_x64(True):
        variance = np.asarray(DCT.analysis(x_0)).var(0)
    least = (2 / 255) ** 2 / 12  # of rounding to grey levels
    run = ddx.load(tmp_path / "run")
    np.testing.assert_allclose(run.process.basis.weights((8, 8)) ** 2, np.maximum(variance, least), rtol=1e-9)

    # Neither resuming nor sampling measures again.
    monkeypatch.setattr(spectrum, "measure", lambda *_: pytest.fail("measured again"))
    config.train.num_steps = 6
    assert train(config, tmp_path / "run").finished
    run = ddx.load(tmp_path / "run")
    images = run.sample(2)
    bits = run.evaluate(num_steps=5, max_examples=4, batch_size=4).values
    assert images.shape == (2, 8, 8, 1) and np.isfinite(bits["bits_per_dim"])
    export("safetensors", tmp_path / "run", tmp_path / "ours")
    np.testing.assert_array_equal(ddx.load(tmp_path / "ours" / "model.safetensors").sample(2), images)
    with pytest.raises(ConfigError, match=r"diffusers has nothing for process\.noise"):
        export("diffusers", tmp_path / "run", tmp_path / "theirs")


def held(images):
    return types.SimpleNamespace(
        num_examples=len(images), image_shape=images.shape[1:], read=lambda indices: {"image": images[indices]}
    )


def test_mirrored_images_count_both_ways_and_a_missing_spectrum_is_told(tiny_config):
    config = tiny_config(process__noise="equal_snr", data__flip=True)
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    images[:, :, 2:] //= 3  # dark on the right
    given = held(images)
    both = held(np.concatenate([images, images[:, :, ::-1]]))
    expected = spectrum.measure(tiny_config(process__noise="equal_snr"), both)
    np.testing.assert_allclose(spectrum.measure(config, given), expected, rtol=1e-9)

    with pytest.raises(ConfigError, match=r"process\.noise='equal_snr': its weights are of a data set, measured when"):
        make_system(config, (8, 8, 1))
    assert make_process(config).schedule.num_steps == 20
    meta = {"config": config.to_dict(), "image_shape": [8, 8, 1]}
    for wrong in ({}, {"spectrum": [[1.0]]}, {"spectrum": np.full((8, 8, 1), -1.0).tolist()}):
        with pytest.raises(CheckpointError, match="no usable spectrum"):
            checked(meta | wrong, "the folder")
    assert checked(meta | {"spectrum": np.ones((8, 8, 1)).tolist()}, "the folder")


def test_what_white_noise_alone_has_is_refused(tiny_config, tmp_path):
    config = tiny_config(process__noise="band")
    source = trained.Trained(12, "", make_system(config, (8, 8, 1)), None)
    for name, message in {
        "analytic_pixel": "colours its noise has statistics of frequencies, not of pixels. Use basis dct",
        "analytic_paper": "its limits are of white noise in pixels. Use analytic",
        **dict.fromkeys(("ocm_probes_frequency", "ocm_probes", "heuristic")),
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
