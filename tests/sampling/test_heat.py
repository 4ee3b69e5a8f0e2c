"""Runs of IHDM and of Blurring Diffusion: training, samples, interpolations and bounds from a folder."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ddx
from ddx.data.augment import to_float
from ddx.diffusion import random
from ddx.diffusion.bound import terms
from ddx.diffusion.papers import ihdm
from ddx.evaluation import evaluate
from ddx.runs import trained
from ddx.runtime.errors import ConfigError
from ddx.runtime.parallel import run_once
from ddx.sampling import interpolate, reconstruct, sample
from ddx.sampling.generator import Generator
from ddx.sampling.sampler import make_sampler
from ddx.system import make_process, make_system, make_time_sampler
from ddx.training.state import init_state, make_optimizer
from ddx.training.step import make_step


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def keys_of(seed, examples):
    return random.example_keys(jax.random.key(seed), jnp.asarray(examples, jnp.uint32))


def denoiser(source, clip=False):
    model, params = source.system.model, source.params
    prediction = source.system.config.loss.prediction
    return ddx.denoiser(source.system.process, lambda x, t: model.apply({"params": params}, x, t), prediction, clip)


OTHER = {
    "process__num_steps": 7,
    "process__sigma_blur_max": 3.0,
    "process__sigma_blur_min": 0.3,
    "process__sigma": 0.05,
    "process__blur_schedule": "sin",
    "process__d_min": 0.01,
    "process__logsnr_min": -8.0,
    "process__logsnr_max": 12.0,
    "data__low": 0,
    "loss__prediction": "v",
    "sample__clip": False,
}


@pytest.mark.parametrize("kind", ["ihdm", "blurring"])
def test_a_config_s_process_is_that_of_its_values(kind, tiny_config):
    found = make_process(tiny_config(process__kind=kind, **OTHER))
    expected = ddx.ihdm(7, 0.3, 3.0, 0.05) if kind == "ihdm" else ddx.blurring(7, 3.0, "sin", 0.01, -8.0, 12.0)
    t = np.arange(8)
    for a, b in zip(found.marginal(t, (8, 6)), expected.marginal(t, (8, 6)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert found.low == 0 and found.num_steps == 7


def test_a_config_s_times_and_loss_are_those_of_its_values(tiny_config):
    kinds = {
        "blurring": tiny_config(process__kind="blurring", **OTHER),
        "hybrid": tiny_config(process__kind="blurring", loss__objective="hybrid", loss__variance="range", **OTHER),
        "ihdm": tiny_config(process__kind="ihdm", **OTHER),
        "released": tiny_config(process__kind="ihdm", loss__last_level=False, **OTHER),
    }
    drawn = {}
    for kind, config in kinds.items():
        times = make_time_sampler(config)
        drawn[kind] = np.asarray(times.draw(times.init(), jax.random.key(0), jnp.arange(500), 500)[0])
    assert np.any(drawn["blurring"] != np.round(drawn["blurring"])) and drawn["hybrid"].dtype.kind == "i"
    assert drawn["ihdm"].max() == 7 and drawn["released"].max() == 6
    systems = [make_system(tiny_config(loss__reduction=r, **OTHER), (8, 8, 1)) for r in ("mean", "sum")]
    params = run_once(systems[0].init, jax.random.key(0))
    x_0 = jax.random.uniform(jax.random.key(1), (2, 8, 8, 1))
    args = (x_0, jnp.zeros(2, int), jnp.asarray([3, 5]), x_0 - 0.5, jax.random.split(jax.random.key(2)))
    mean, total = (jax.jit(system.loss)(params, *args)[0] for system in systems)
    np.testing.assert_allclose(total, 64 * mean, rtol=1e-5)


def test_data_and_pictures_are_in_the_range_of_the_config(heated, tmp_path):
    source = trained.load(heated)
    assert float(source.system.to_float(np.zeros((1, 8, 8, 1), np.uint8)).max()) == 0.0
    limited = source.system.denoiser(source.params, True)(jnp.full((1, 8, 8, 1), -1.0), np.asarray([1]))
    assert float(limited.x_0.min()) >= 0.0
    sample(heated, 4, out=tmp_path / "s", gif=True)
    film = np.asarray(Image.open(tmp_path / "s" / "film.png"))
    first = film[4:68, 4:68]  # x_T: heat leaves about the mean of a digit, 0.3 of the range, not 0.65
    assert 40 < first.mean() < 120


def test_images_under_a_blur_that_leaves_nothing_of_some_frequencies_are_not_encoded(heated, tmp_path):
    np.save(tmp_path / "images.npy", np.full((2, 8, 8, 1), 255, np.uint8))
    with pytest.raises(ConfigError, match="leaves nothing of some frequencies"):
        reconstruct(heated, tmp_path / "images.npy", out=tmp_path / "r", sampler="ddim", num_steps=5)
    assert not (tmp_path / "r").exists()


def test_the_training_step_sees_data_from_low_to_1():
    seen = []

    def loss(params, x_0, label, t, noise, key):
        seen.append(x_0)
        return params["w"] + x_0.mean((1, 2, 3)), {}

    optimizer = make_optimizer(1e-3, 0)
    times = ddx.diffusion.objective.time_samplers.uniform(5)
    settings = {"num_steps": 5, "times": times, "batch_size": 2, "flip": False, "accumulation": 1}
    settings |= {"label_dropout": 0.0, "null_class": 0, "shapes": {"w": jnp.zeros(())}}
    batch = {"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros(2, int), "example": np.arange(2)}
    for low in (-1.0, 0.0):
        step = make_step(loss, optimizer, low=low, clip_norm=0.0, ema_decay=0.9, ema_warmup=False, **settings)
        metrics = step(init_state({"w": jnp.zeros(())}, optimizer), jax.random.key(0), batch)[1]
        assert float(metrics["loss"]) == low


def test_a_film_of_a_process_that_ends_without_signal_is_no_nan(tiny_config, tmp_path):
    config = tiny_config(process__schedule="jsd", loss__prediction="v")
    system = make_system(config, (8, 8, 1))
    how = make_sampler(config, system)
    params = run_once(system.init, jax.random.key(0))
    batch = next(Generator(system, how, how.times[:2]).batches(params, 0, 2))
    assert np.all(np.isfinite(batch.film.x_0)) and batch.film.x_0[0].std() < 100 and batch.film.x_0[0].mean() > 50


def test_samples_start_from_the_blurred_images_of_the_training_set(heated, tmp_path):
    sample(heated, 6, out=tmp_path / "a", seed=3, batch_size=6)
    sample(heated, 3, out=tmp_path / "b", seed=3, batch_size=2)
    a, b = (arrays(tmp_path / name / "samples.npz")["samples"].astype(int) for name in "ab")
    assert np.abs(a[:3] - b).max() <= 1
    source, data = trained.load(heated), ddx.data.load("digits", split="train")
    process, keys = source.system.process, keys_of(3, np.arange(6))
    images = to_float(data.read(np.asarray(ihdm.prior_images(keys, data.num_examples)))["image"], 0.0)
    x_T = ddx.heat_prior(process, keys, images, 0.0125)
    x_0 = ddx.sample(denoiser(source), keys, x_T, eta=1.0, solver=ddx.heat_sampler(0.0125))
    assert np.abs(np.clip(x_0, 0, 1) * 255 - a).max() < 0.51
    assert (tmp_path / "a" / "grid.png").exists()
    assert json.loads((tmp_path / "a" / "samples.json").read_text())["starts_from"] == "1500 images of digits train"


def test_the_released_code_s_prior_has_no_noise_and_the_last_step_may_add_its_own(heated, tmp_path):
    drawn = {}
    for name, change in {"ours": {}, "prior": {"prior_noise": False}, "end": {"noisy_end": True}}.items():
        sample(heated, 4, out=tmp_path / name, delta=0.3, **change)
        drawn[name] = arrays(tmp_path / name / "samples.npz")["samples"].astype(int)
    assert np.abs(drawn["ours"] - drawn["prior"]).max() > 10
    assert np.abs(drawn["ours"] - drawn["end"]).max() > 30


def test_an_interpolation_goes_from_sample_to_sample(heated, tmp_path):
    interpolate(heated, 2, seed=3, out=tmp_path / "i", batch_size=8)
    sample(heated, 4, out=tmp_path / "s", seed=3)
    rows = arrays(tmp_path / "i" / "interpolation.npz")["samples"].astype(int)
    ends = arrays(tmp_path / "s" / "samples.npz")["samples"].astype(int)
    assert rows.shape == (2, 11, 8, 8, 1)
    assert np.abs(rows[:, 0] - ends[0::2]).max() <= 1 and np.abs(rows[:, -1] - ends[1::2]).max() <= 1
    assert np.abs(rows[:, 5] - ends[0::2]).max() > 5


def test_its_bound_is_that_of_heat_bits_per_dim(heated, tmp_path):
    line = evaluate(heated, out=tmp_path, max_examples=5, batch_size=3, delta=0.02).message
    result, found = json.loads((tmp_path / "bpd.json").read_text()), arrays(tmp_path / "bpd.npz")
    assert "variance delta0.02" in line and result["protocol"]["cdf"] == "density"
    source = trained.load(heated)
    test, train = (ddx.data.load("digits", split=split) for split in ("test", "train"))
    keys = keys_of(0, found["example"])
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (8, 8, 1)))(random.fold_in(keys, 2**31 - 5))
    x_0 = (test.read(found["example"])["image"] + uniform) / 256
    centres = ddx.kde_centres(source.system.process, to_float(train.read(np.arange(1500))["image"], 0.0))
    bits = ddx.heat_bits_per_dim(denoiser(source), x_0, keys, centres, 0.02)
    np.testing.assert_allclose(found["total"], bits.total, rtol=2e-5)
    np.testing.assert_allclose(found["prior"], bits.prior, rtol=1e-4)
    np.testing.assert_allclose(found["terms"][0], bits.decoder.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["mse"][1:], bits.mse.mean(0), rtol=1e-5)
    assert result["result"]["bits_per_dim"] == found["total"].mean()


def test_the_bound_of_a_blurring_run_is_that_of_bits_per_dim(blurred, tmp_path):
    evaluate(blurred, ("bpd", "rate_distortion"), out=tmp_path, max_examples=5, batch_size=3)
    found, source = arrays(tmp_path / "bpd.npz"), trained.load(blurred)
    x_0 = to_float(ddx.data.load("digits", split="test").read(found["example"])["image"])
    assert source.system.config.loss.prediction == "v"
    bits = ddx.bits_per_dim(denoiser(source, clip=True), x_0, keys_of(0, found["example"]), variance="range")
    for name in ("total", "prior", "decoder"):
        np.testing.assert_allclose(found[name], getattr(bits, name), rtol=2e-4)
    np.testing.assert_allclose(found["terms"], bits.terms.mean(0), rtol=2e-4)
    result = json.loads((tmp_path / "bpd.json").read_text())["result"]
    assert result["decoder"] == found["decoder"].mean() > 0
    np.testing.assert_allclose(result["rate"] + result["decoder"], result["bits_per_dim"])


def test_a_blurring_run_draws_films_encodes_and_interpolates(blurred, tmp_path):
    settings = {"sampler": "ddim", "num_steps": 20}
    sample(blurred, 3, out=tmp_path / "s", gif=True, **settings)
    assert (tmp_path / "s" / "film.png").exists()
    images = arrays(tmp_path / "s" / "samples.npz")["samples"]
    np.save(tmp_path / "images.npy", images)
    line = reconstruct(blurred, tmp_path / "images.npy", out=tmp_path / "r", **settings).message
    assert float(line.split("error ")[1].split(" ")[0]) < 0.01
    interpolate(blurred, 1, out=tmp_path / "i", **settings)
    rows = arrays(tmp_path / "i" / "interpolation.npz")["samples"].astype(int)
    assert np.abs(rows[0, 0] - images[0]).max() <= 1 and np.abs(rows[0, -1] - images[1]).max() <= 1


def test_decoder_bits_do_not_depend_on_the_basis():
    process, x_0 = ddx.blurring(10), jnp.zeros((1, 8, 8, 1))
    z = jnp.asarray(np.random.default_rng(0).standard_normal(x_0.shape), jnp.float32)
    pixels = dataclasses.replace(process, basis=ddx.diffusion.forward.basis.PIXEL, blur=None)
    found = terms.decoder_bits(process, x_0, process.basis.analysis(z))
    np.testing.assert_allclose(found, terms.decoder_bits(pixels, x_0, z), rtol=1e-5)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (lambda runs: sample(runs["blurred"], 1, delta=0.1), "delta=0.1 belongs to the process ihdm"),
        (lambda runs: sample(runs["blurred"], 1, sampler="heat"), "needs process.kind='ihdm'"),
        (lambda runs: sample(runs["heated"], 1, num_steps=3), "all levels"),
        (lambda runs: interpolate(runs["heated"], 1, sampler="ddim"), "Set --sampler=heat"),
        (lambda runs: evaluate(runs["heated"], variance="small"), "variance is no part of IHDM's bound"),
        (lambda runs: evaluate(runs["heated"], ("rate_distortion",)), "rate_distortion is no part"),
        (lambda runs: evaluate(runs["heated"], delta=0.0), "above 0"),
        (lambda runs: evaluate(runs["blurred"], delta=0.1), "Leave out --delta"),
    ],
)
def test_mistakes_are_named(job, message, heated, blurred, tmp_path):
    with pytest.raises(ConfigError, match=message) as error:
        job({"heated": heated, "blurred": blurred})
    assert "\n" not in str(error.value)
