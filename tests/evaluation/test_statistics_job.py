"""Statistics of a run: what they are, and what is drawn and evaluated with them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.data.augment import to_float
from ddx.diffusion import analytic, likelihood, noise, optimal, statistics
from ddx.errors import ConfigError
from ddx.evaluation import evaluate, measure
from ddx.training import measured, sample, trained

FEW = {"max_examples": 40, "batch_size": 16}


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def run(whole, tmp_path_factory):
    """A run with statistics; the fixture that others use stays as it is."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    folder.mkdir()
    for entry in whole.iterdir():
        (folder / entry.name).symlink_to(entry)
    line = measure(folder, **FEW)
    assert line.endswith("statistics.json, statistics.npz") and "40 examples of train" in line
    return folder


def denoiser(source, process, clip):
    model, params = source.system.model, source.params
    return ddx.denoiser(process, lambda x, t: model.apply({"params": params}, x, t), clip=clip)


def test_they_are_the_mean_errors_at_every_time(run):
    source = trained.load(run)
    found = measured.load(source, run)
    examples = ddx.data.batch_indices(0, 0, 1500, 40)
    x_0 = to_float(ddx.data.load("digits").read(examples)["image"])
    keys = noise.example_keys(jax.random.key(0), jnp.asarray(examples, jnp.uint32))
    process = ddx.in_dct_basis(source.system.process)
    u_0, draw = process.basis.analysis(x_0), likelihood.noise_at(keys, x_0)
    for t in (1, 7, 20):
        z, m = draw(t), process.marginal(t)
        u_t = m.alpha * u_0 + m.sigma * z
        x_t = process.basis.synthesis(u_t)
        clipped, raw = (denoiser(source, process, clip)(x_t, np.full(40, t)) for clip in (True, False))
        mse = np.square(u_0 - process.basis.analysis(clipped.x_0)).mean(0)
        np.testing.assert_allclose(found.mse[t - 1], mse, rtol=2e-3, atol=1e-6)
        np.testing.assert_allclose(found.ms_eps[t - 1], np.square(raw.eps).mean(), rtol=1e-4)
    np.testing.assert_allclose(
        found.spectrum, np.var(np.asarray(u_0, np.float64), axis=0, ddof=1), rtol=1e-4, atol=1e-6
    )
    # The library's own function, of the same images and noise.
    again = ddx.estimate_statistics(denoiser(source, process, True), x_0, keys)
    for name in statistics.Statistics._fields:
        of_job, of_library = getattr(found, name), getattr(again, name)
        np.testing.assert_allclose(of_job, of_library, rtol=2e-3, atol=1e-6 * np.abs(of_job).max(), err_msg=name)
    np.testing.assert_allclose(found.logsnr, statistics.noise_logsnr(process, np.arange(1, 21)))
    assert found.num_images == 40


def test_they_do_not_depend_on_batches_and_a_finished_job_changes_nothing(run, tmp_path):
    measure(run, out=tmp_path, max_examples=40, batch_size=7)
    whole, cut = (arrays(path / "statistics.npz") for path in (next((run / "statistics").glob("*dct*")), tmp_path))
    for name, value in whole.items():
        np.testing.assert_allclose(value, cut[name], rtol=2e-4, atol=1e-7)
    before = (tmp_path / "statistics.npz").read_bytes()
    assert "already there" in measure(run, out=tmp_path, max_examples=40, batch_size=7)
    assert (tmp_path / "statistics.npz").read_bytes() == before and not (tmp_path / "parts").exists()


NAMES = ["analytic", "analytic_frequency", "analytic_gamma", "analytic_pixel", "analytic_paper"]


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_variance_that_is_asked_for(run, tmp_path, name):
    basis = "pixel" if name == "analytic_pixel" else "dct"
    if basis == "pixel":
        measure(run, basis="pixel", max_examples=20, batch_size=20)
    sample(run, 3, out=tmp_path, sampler="ddim", eta=0.0, num_steps=5, variance=name, seed=2)
    source = trained.load(run)
    of = measured.load(source, run, basis)
    each, from_eps = name.endswith(("frequency", "pixel")), name.endswith(("gamma", "paper"))
    v = analytic.analytic(
        of, "gamma" if from_eps else "mse", per_coordinate=each, limit=1.0 if name == NAMES[4] else None
    )
    process = source.system.process
    process = ddx.in_dct_basis(process) if name.endswith("frequency") else process
    keys = noise.example_keys(jax.random.key(2), jnp.arange(3))
    x_T = ddx.diffusion.sampling.initial_noise(keys, (8, 8, 1))
    times, clip, solver = ddx.trajectory(20, 5), True, ddx.diffusion.kernels.euler(v)
    if name == "analytic_paper":
        clip, solver = "x0", analytic.published_ddim(analytic.clip_last(v, times, 1.0))
    x_0 = ddx.sample(process, denoiser(source, process, clip), keys, x_T, times, 0.0, solver=solver)
    found = arrays(tmp_path / "samples.npz")["samples"]
    assert np.abs(np.clip((np.asarray(x_0) + 1) * 127.5, 0, 255) - found).max() < 1.01
    record = json.loads((tmp_path / "samples.json").read_text())
    assert record["variance"] == name and len(record["statistics"]) == 64


def test_optimal_times_are_those_of_its_errors(run, tmp_path):
    settings = {"num_steps": 5, "max_examples": 4, "batch_size": 4, "variance": "analytic"}
    evaluate(run, out=tmp_path, trajectory="optimal", **settings)
    protocol = json.loads((tmp_path / "bpd.json").read_text())["protocol"]
    source = trained.load(run)
    mse = measured.load(source, run).mse.mean((1, 2, 3))
    costs = optimal.step_costs(source.system.process, np.concatenate([[0.0], mse]))
    best = ddx.optimal_trajectories(costs, 5)[5]
    assert protocol["trajectory"] == "times:" + ",".join(map(str, best[:-1])) and protocol["num_steps"] == 5


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (lambda run, other: sample(other, 1, variance="analytic"), "Measure them with python -m launch.evaluate"),
        (lambda run, other: evaluate(other, variance="analytic"), "has no statistics of step 12"),
        (lambda run, other: evaluate(run, trajectory="optimal", num_steps=21), r"1\.\.20"),
        (lambda run, other: measure(run, basis="fft"), "Choose one of: dct, pixel"),
        (lambda run, other: measure(run, max_examples=0), "max_examples=0 must be at least 1"),
        (lambda run, other: measure(run, batch_size=-1), "batch_size=-1 must be at least 1"),
        (lambda run, other: sample(run, 1, variance="analytic", sampler="ddim", solver="heun"), "'heun' has its own"),
    ],
)
def test_mistakes_are_named(job, message, run, whole):
    with pytest.raises(ConfigError, match=message) as error:
        job(run, whole)
    assert "\n" not in str(error.value)


def test_damaged_statistics_are_refused(run, tmp_path):
    (path,) = (run / "statistics").glob("*dct*/statistics.npz")
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-1] + b"x")
        with pytest.raises(ConfigError, match="is damaged"):
            sample(run, 1, out=tmp_path, variance="analytic")
    finally:
        path.write_bytes(before)
