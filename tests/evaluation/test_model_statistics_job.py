"""Model statistics of a run: what they are, and what solver dpm_v3 draws with them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.config.values import validate
from ddx.data.augment import to_float
from ddx.diffusion import random
from ddx.evaluation import evaluate, model_statistics_job
from ddx.runs import job, trained
from ddx.runtime.errors import ConfigError
from ddx.sampling import interpolate, measured, sample, stored
from tests.conftest import BLURRING, HEAT, linked

KIND = "model_statistics"
FEW = {"max_examples": 40, "batch_size": 16}
V3 = {"sampler": "ddim", "eta": 0.0, "solver": "dpm_v3"}


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def run(whole, tmp_path_factory):
    """A run with model statistics."""
    folder = linked(whole, tmp_path_factory.mktemp("measured") / "run")
    line = evaluate(folder, (KIND,), **FEW).message
    assert "at 20 levels, 40 examples of train" in line
    assert line.endswith("model_statistics.json, model_statistics.npz")
    return folder


def in_frequencies(source):
    process = ddx.in_dct_basis(source.system.process)
    model, params = source.system.model, source.params
    return ddx.denoiser(process, lambda x, t: model.apply({"params": params}, x, t))


def test_they_are_those_of_the_same_images_and_noise(run):
    source = trained.load(run)
    found = stored.load(next((run / KIND).iterdir()), KIND)
    examples = ddx.data.batch_indices(0, 0, 1500, 40)
    x_0 = to_float(ddx.data.load("digits").read(examples)["image"])
    keys = random.example_keys(jax.random.key(0), jnp.asarray(examples, jnp.uint32))
    again = ddx.estimate_model_statistics(in_frequencies(source), x_0, keys)
    for name, value in again._asdict().items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert found.num_images == 40 and found.linear.shape == (20, 8, 8, 1)


def test_an_interrupted_measurement_ends_in_the_same_bits_and_a_finished_one_changes_nothing(
    run, tmp_path, monkeypatch
):
    write, parts = job.Job.write, []

    def stopping(self, start, **arrays):
        write(self, start, **arrays)
        parts.append(start)
        if len(parts) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(job.Job, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, (KIND,), out=tmp_path, **FEW)
    evaluate(run, (KIND,), out=tmp_path, **FEW)
    assert parts == [0, 16, 32]
    whole = next((run / KIND).iterdir()) / f"{KIND}.npz"
    assert (tmp_path / f"{KIND}.npz").read_bytes() == whole.read_bytes()
    assert "already there" in evaluate(run, (KIND,), out=tmp_path, **FEW).message


def test_samples_are_drawn_with_them_and_the_record_says_so(run):
    result = sample(run, 3, num_steps=5, seed=2, **V3)
    source = trained.load(run)
    found = stored.load(next((run / KIND).iterdir()), KIND)
    keys = random.example_keys(jax.random.key(2), jnp.arange(3))
    x_T = ddx.diffusion.reverse.walk.initial_noise(source.system.process, keys, (8, 8, 1))
    times = ddx.trajectory(20, 5)
    x_0 = ddx.sample(in_frequencies(source), None, x_T, times, solver=ddx.dpm_v3(found))
    drawn = result.arrays()["samples"]
    assert np.abs(np.clip((np.asarray(x_0) + 1) * 127.5, 0, 255) - drawn).max() < 1.01
    assert np.abs(drawn - sample(run, 3, num_steps=5, seed=2, solver="unipc_2").arrays()["samples"].astype(int)).max()
    record = json.loads((result.out / "samples.json").read_text())
    assert record["sample"]["solver"] == "dpm_v3" and result.out.name.endswith("_dpm_v3")
    assert record[KIND]["sha256"] == stored.find(source, run, KIND, "dct", True).checksum
    assert "already there" in sample(run, 3, num_steps=5, seed=2, **V3).message
    np.testing.assert_array_equal(ddx.load(run).sample(3, seed=2, num_steps=5, **V3), drawn)


def test_a_run_with_those_of_pixels_alone_uses_them(whole, tmp_path):
    for name in ("checkpoints", "config.json"):
        (tmp_path / name).symlink_to(whole / name)
    evaluate(tmp_path, (KIND,), basis="pixel", **FEW)
    system, solver = measured.solver(trained.load(tmp_path), tmp_path, "dpm_v3", True)
    assert system.process.basis.name == "pixel" and solver.name == "dpm_v3"


TO_MEASURE = f"Measure them with python -m launch.evaluate --workdir=.* --metrics={KIND}"


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda run, other: sample(other, 1, **V3), f"has no model statistics of step 12 of the dct.*{TO_MEASURE}"),
        (lambda run, other: sample(run, 1, clip=False, **V3), f"{TO_MEASURE} --noclip"),
        (lambda run, other: sample(run, 1, solver="dpm_v3", eta=0.5), "without noise. Set --sampler=ddim --eta=0"),
        (lambda run, other: sample(run, 1, solver="dpm_v3", sampler="ancestral"), "without noise. Set --sampler=ddim"),
        (lambda run, other: sample(run, 1, keep_eps=True, **V3), "keep_eps=True belongs to solver euler, not dpm_v3"),
        (lambda run, other: sample(run, 1, variance="heuristic", **V3), "this variance would be ignored"),
        (lambda run, other: sample(run, 1, known="a.png", mask="m.png", **V3), "'dpm_v3' remembers earlier steps"),
        (lambda run, other: interpolate(run, solver="dpm_v3"), "for samples, not for encoding and interpolation"),
        (lambda run, other: evaluate(run, (KIND,), max_examples=9), "of 9 examples say little. Take 10 or more"),
    ],
)
def test_mistakes_are_named(do, message, run, whole):
    with pytest.raises(ConfigError, match=message) as error:
        do(run, whole)
    assert "\n" not in str(error.value)


def test_no_config_has_the_solver_and_a_blur_has_no_model_statistics(tiny_config, tmp_path):
    with pytest.raises(ConfigError, match=r"sample.solver='dpm_v3' must be one of: euler, heun"):
        tiny_config(sample__solver="dpm_v3")
    assert validate(tiny_config()).sample.solver == "euler"
    for changes, why in ((BLURRING, "without a blur. Use heun"), (HEAT, "needs a network that predicts one of")):
        source = trained.Trained(12, "", ddx.system.make_system(tiny_config(**changes), (8, 8, 1)), None)
        with pytest.raises(ConfigError, match=why):
            measured.solver(source, tmp_path, "dpm_v3", False)
    assert model_statistics_job.KIND in stored.KINDS
