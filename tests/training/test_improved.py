"""Runs of Improved DDPM: learned variances, a sampler of times with a memory, classes, and enlarging networks."""

import json

import jax
import numpy as np
import pytest

import ddx
from ddx.data.augment import shrink
from ddx.runtime.errors import ConfigError
from ddx.runtime.parallel import run_once
from ddx.sampling import interpolate, sample
from ddx.training import train
from tests.training.test_run import arrays, assert_same_bits


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_log_tells_the_parts_of_the_hybrid_loss(improved):
    for line in lines(improved):
        # T = 4: the weight of a term is 1e-3 T.
        np.testing.assert_allclose(line["loss"], line["mse"] + 4e-3 * line["vb"], rtol=1e-5)
        assert {"loss_q0", "loss_q3", "grad_norm"} <= line.keys()


def test_what_the_sampler_of_times_learned_is_in_the_checkpoint_and_comes_back(improved, improved_config, tmp_path):
    history = {name: x for name, x in arrays(improved).items() if name.startswith("['times']")}
    (losses,) = (x for x in history.values() if x.ndim == 2)
    (counts,) = (x for x in history.values() if x.ndim == 1)
    assert losses.shape == (4, 10) and counts.sum() == 12 * 16 and counts.min() >= 10
    # Times are no longer uniform: noise near the data costs more.
    assert len(np.unique(counts)) > 1
    for stop in (2, 9):  # before it has learned, and after
        train(improved_config(train__num_steps=stop, train__checkpoint_every=100), tmp_path / "run")
    train(improved_config(), tmp_path / "run")
    assert_same_bits(improved, tmp_path / "run")


def test_a_run_that_learns_no_times_saves_none(whole):
    assert not any(name.startswith("['times']") for name in arrays(whole))
    manifest = json.loads((whole / "checkpoints" / "12" / "MANIFEST.json").read_text())
    assert set(manifest["arrays"]) == {"params", "ema", "opt_state"}


def test_the_rescaled_bound_is_the_bound_times_t(improved_config):
    params, losses = None, {}
    for objective in ("kl", "rescaled_kl"):
        learned = {"loss__variance": "learned", "sample__variance": "learned"}
        system = ddx.system.make_system(improved_config(loss__objective=objective, **learned), (8, 8, 1), 10)
        params = run_once(system.init, jax.random.key(0)) if params is None else params
        x_0 = np.round(np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 1))).astype(np.float32) / 127.5 - 1
        noise = jax.random.normal(jax.random.key(1), x_0.shape)
        label, t = np.asarray([1, 2, 3]), np.asarray([1, 2, 4])
        losses[objective], parts = jax.jit(system.loss)(
            params, x_0, label, t, noise, jax.random.split(jax.random.key(2), 3)
        )
        assert parts == {}
    np.testing.assert_allclose(losses["rescaled_kl"], 4 * losses["kl"], rtol=1e-5)


def test_samples_use_the_variance_that_was_learned(improved, tmp_path):
    drawn = {}
    for variance in ("small", "range", "large"):
        sample(improved, 4, sampler="ancestral", variance=variance, out=tmp_path / variance)
        drawn[variance] = np.load(tmp_path / variance / "samples.npz")["samples"].astype(int)
    assert np.abs(drawn["range"] - drawn["small"]).max() > 1 and np.abs(drawn["range"] - drawn["large"]).max() > 1
    with pytest.raises(ConfigError, match=r"needs a network trained with loss.variance='learned', not 'range'"):
        sample(improved, 4, sampler="ancestral", variance="learned")


def test_a_fixed_network_has_no_learned_variance(whole):
    with pytest.raises(ConfigError, match=r"needs a network trained with loss.variance='range', not 'small'"):
        sample(whole, 1, preset="iddpm", num_steps=5)


@pytest.fixture(scope="module")
def enlarging(tiny_config, tmp_path_factory):
    """A run that enlarges digits from 4 x 4 to 8 x 8."""
    workdir = tmp_path_factory.mktemp("enlarging")
    train(tiny_config(model__low_res=4, train__num_steps=4, train__batch_size=8), workdir)
    return workdir


def test_a_network_that_enlarges_is_trained_drawn_and_sampled(enlarging, tmp_path):
    assert (enlarging / "samples" / "000004.png").exists()
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1), dtype=np.uint8)
    for name, given in (("a", images), ("b", images[::-1]), ("c", images)):
        np.savez(tmp_path / f"{name}.npz", samples=given)
        sample(enlarging, 3, low_res=tmp_path / f"{name}.npz", out=tmp_path / name)
    a, b, c = (np.load(tmp_path / name / "samples.npz")["samples"] for name in "abc")
    np.testing.assert_array_equal(a, c)
    assert a.shape == (3, 8, 8, 1) and np.any(a != b)
    with pytest.raises(ConfigError, match=r"low_res .* -> "):
        sample(enlarging, 3, low_res=tmp_path / "b.npz", out=tmp_path / "a")


def test_a_network_that_enlarges_says_what_it_lacks(enlarging, whole, tmp_path):
    for job in (sample, interpolate):
        with pytest.raises(ConfigError, match="enlarges images of 4 x 4 x 1: it can only be sampled"):
            job(enlarging, 2)
    with pytest.raises(ConfigError, match=r"does not enlarge images. Leave out --low_res"):
        sample(whole, 2, low_res=tmp_path / "a.npz")


def test_the_images_to_enlarge_are_means_of_blocks():
    images = np.arange(2 * 4 * 8 * 1, dtype=np.float32).reshape(2, 4, 8, 1)
    small = shrink(images, (2, 4, 1))
    assert small.shape == (2, 2, 4, 1)
    np.testing.assert_allclose(small[1, 1, 2, 0], images[1, 2:4, 4:6, 0].mean())
