"""A run as a value: `ddx.load`, and what a notebook does with it."""

import jax
import numpy as np
import pytest
from PIL import Image

import ddx
from ddx.runs.checkpoint import Checkpoints
from ddx.runtime.errors import ConfigError
from ddx.sampling import sample
from ddx.sampling.settings import describe
from ddx.training.metrics import MetricsWriter


@pytest.fixture(scope="module")
def run(whole):
    return ddx.load(whole)


def test_it_has_what_the_run_was_trained_as(run, whole, tiny_config):
    assert run.step == 12 and run.workdir == whole
    assert run.config.process.to_dict() == tiny_config().process.to_dict()
    assert run.process.num_steps == 20 and run.model.channels == tiny_config().model.channels
    x = np.zeros((2, 8, 8, 1), np.float32)
    raw = run.model.apply({"params": run.params}, x, np.full(2, 6.0, np.float32))
    np.testing.assert_allclose(run.denoiser(clip=False)(x, 7).eps, raw, atol=1e-6)


def test_its_samples_are_those_of_the_command_and_again_cost_no_compilation(run, whole, tmp_path):
    written = sample(whole, 6, num_steps=4, eta=0.5, seed=3, out=tmp_path)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        images = run.sample(6, num_steps=4, eta=0.5, seed=3)
        assert [name for name in compiled if "compile" in name]
        compiled.clear()
        other = run.sample(6, num_steps=4, eta=0.5, seed=4)
        assert not [name for name in compiled if "compile" in name]
    finally:
        jax.monitoring.clear_event_listeners()
    np.testing.assert_array_equal(images, written.arrays()["samples"])
    assert (other != images).any()


def test_raw_weights_are_those_of_the_last_step(run, whole, tmp_path):
    raw = ddx.load(whole, weights="raw")
    like = jax.eval_shape(raw.system.init, jax.random.key(0))
    kept = Checkpoints(whole / "checkpoints").restore(12, {"params": like})["params"]
    jax.tree.map(np.testing.assert_array_equal, raw.params, kept)
    written = sample(whole, 2, weights="raw", out=tmp_path)
    np.testing.assert_array_equal(raw.sample(2), written.arrays()["samples"])
    assert (raw.sample(2) != run.sample(2)).any()
    with pytest.raises(ConfigError, match="holds another job"):
        sample(whole, 2, weights="ema", out=tmp_path)


def test_it_is_scored(run, tmp_path):
    result = run.evaluate(max_examples=3, batch_size=3, num_steps=0, out=tmp_path)
    bound = result.arrays()["total"]
    assert bound.shape == (3,) and result.values["bits_per_dim"] == pytest.approx(bound.mean())
    assert str(result).startswith(f"{bound.mean():.4f}") and result.out == tmp_path


def test_every_sample_is_a_file_on_request(whole, tmp_path):
    first = sample(whole, 5, png=True, out=tmp_path)
    assert str(first).endswith("/samples.npz, grid.png, png")
    (tmp_path / "png" / "000002.png").unlink()
    again = sample(whole, 5, png=True, out=tmp_path)
    assert str(again).startswith("wrote") and str(sample(whole, 5, png=True, out=tmp_path)).startswith("already there")
    files = sorted((tmp_path / "png").iterdir())
    assert [file.name for file in files] == [f"{i:06d}.png" for i in range(5)]
    for file, image in zip(files, again.arrays()["samples"], strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), image[..., 0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_step": 3}, "unknown setting num_step. Did you mean num_steps?"),
        ({"num_images": 3}, "unknown setting num_images"),
        ({"eta": -1.0}, "sample.eta=-1.0 must be at least 0"),
        ({"weights": "raw"}, r"Use ddx.load\(..., weights=...\)"),
        ({"num_samples": 0}, "num_samples=0 must be at least 1"),
        ({"num_samples": "4"}, "num_samples='4' is no whole number"),
    ],
)
def test_mistakes_are_one_line(run, settings, message):
    with pytest.raises(ConfigError, match=message):
        run.sample(**({"num_samples": 2} | settings))


def test_unknown_weights_are_named(whole):
    with pytest.raises(ConfigError, match="weights='averaged' must be one of: ema, raw"):
        ddx.load(whole, weights="averaged")


NAMES = {
    "ddim5_uniform_eta0": {},
    "ddim_full_eta0.5_dpmpp_2m": {"num_steps": 0, "trajectory": "full", "eta": 0.5, "solver": "dpmpp_2m"},
    "ancestral5_times9-4_large_unclipped_noisy_end": {
        **{"sampler": "ancestral", "trajectory": "times:9,4", "variance": "large", "clip": False, "noisy_end": True}
    },
    "ddim5_uniform_eta0_raw": {"weights": "raw"},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_job_s_folder_is_named_after_its_settings(tiny_config, name):
    config = tiny_config()
    for key, value in NAMES[name].items():
        config.sample[key] = value
    assert describe(config) == name


def test_grids_during_training_are_of_the_weights_that_are_asked_for(tiny_config, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(MetricsWriter, "picture", lambda self, step, name, picture: drawn.append(picture))
    outcome = ddx.train(tiny_config(sample__weights="raw"), tmp_path)
    assert outcome.finished
    expected = ddx.load(tmp_path).sample(4, seed=0)
    from ddx.runtime.pictures import grid

    np.testing.assert_array_equal(drawn[-1], grid(expected))
