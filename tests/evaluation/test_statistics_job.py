"""Statistics of a run: what they are, and what is drawn and evaluated with them."""

import json
import tracemalloc
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddx
from ddx.data.augment import to_float
from ddx.diffusion import random
from ddx.diffusion.bound import analytic, optimal, pictures, statistics, terms
from ddx.diffusion.papers import analytic_dpm
from ddx.diffusion.reverse.rows import downward
from ddx.evaluation import evaluate, measure, statistics_job, sums
from ddx.evaluation.work import Examples, Work
from ddx.runs import job, trained
from ddx.runtime.errors import ConfigError, NonFiniteError
from ddx.sampling import load_statistics, measured, sample
from tests.conftest import BLURRING, HEAT, linked

FEW = {"max_examples": 40, "batch_size": 16}


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def run(whole, tmp_path_factory):
    """A run with statistics."""
    folder = linked(whole, tmp_path_factory.mktemp("measured") / "run")
    line = measure(folder, **FEW).message
    assert line.endswith("statistics.json, statistics.npz") and "40 examples of train" in line
    return folder


def denoiser(source, process, clip):
    model, params = source.system.model, source.params
    return ddx.denoiser(process, lambda x, t: model.apply({"params": params}, x, t), clip=clip)


def test_they_are_the_mean_errors_at_every_time(run):
    source = trained.load(run)
    found = measured._load(source, run, None, True)
    examples = ddx.data.batch_indices(0, 0, 1500, 40)
    x_0 = to_float(ddx.data.load("digits").read(examples)["image"])
    keys = random.example_keys(jax.random.key(0), jnp.asarray(examples, jnp.uint32))
    process = ddx.in_dct_basis(source.system.process)
    u_0, draw = process.basis.analysis(x_0), terms.noise_at(keys, x_0)
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
    assert "already there" in measure(run, out=tmp_path, max_examples=40, batch_size=7).message
    assert (tmp_path / "statistics.npz").read_bytes() == before and not (tmp_path / "parts").exists()


def test_they_serve_another_schedule(run):
    of = load_statistics(next((run / "statistics").glob("*dct*")))
    other = ddx.in_dct_basis(ddx.ddpm(20, "sigmoid"))
    row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(other, (12, 5, 0)).expand())
    logsnr = float(statistics.noise_logsnr(other, 12))
    i = int(np.searchsorted(-of.logsnr, -logsnr))
    v = (analytic.analytic(of, per_coordinate=True, limit=np.inf)(None, row) - row.lambda2) / row.gamma**2
    low, high = np.minimum(of.mse[i - 1], of.mse[i]), np.maximum(of.mse[i - 1], of.mse[i])
    assert np.all((v >= low * 0.999) & (v <= high * 1.001)) and np.any(high > low * 1.1)
    with pytest.raises(ConfigError, match="has no finished statistics"):
        load_statistics(run)


def test_an_interrupted_measurement_goes_on_and_ends_in_the_same_bits(run, tmp_path, monkeypatch):
    settings = {"max_examples": 40, "batch_size": 16}
    whole = next((run / "statistics").glob("*dct*")) / "statistics.npz"
    write, parts = job.Job.write, []

    def stopping(self, start, **arrays):
        write(self, start, **arrays)
        parts.append(start)
        if len(parts) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(job.Job, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        measure(run, out=tmp_path, **settings)
    measure(run, out=tmp_path, max_examples=40, batch_size=3)  # goes on in parts of the size that it began with
    assert parts == [0, 16, 32]
    np.testing.assert_allclose(arrays(tmp_path / "statistics.npz")["mse"], arrays(whole)["mse"], rtol=1e-5, atol=1e-7)


def test_those_of_its_own_split_come_first_and_none_of_another_clipping_are_used(run, tmp_path):
    for name in ("checkpoints", "config.json"):
        (tmp_path / name).symlink_to(run / name)
    source = trained.load(tmp_path)
    measure(tmp_path, split="test", max_examples=9, batch_size=9)
    assert measured.origin(source, tmp_path, True, "analytic")["statistics"]["split"] == "test"
    measure(tmp_path, max_examples=4, batch_size=4)
    measure(tmp_path, max_examples=5, batch_size=5, clip=False)
    assert measured.origin(source, tmp_path, True, "analytic")["statistics"]["num_examples"] == 4
    assert measured.origin(source, tmp_path, False, "analytic")["statistics"]["num_examples"] == 5
    one, other = (measured.variance(source, tmp_path, "analytic", clip)[1] for clip in (True, False))
    row = jax.tree.map(lambda x: jnp.asarray(x[0]), downward(source.system.process, (3, 1, 0)).expand())
    assert float(one(None, row).squeeze()) != float(other(None, row).squeeze())
    folder = next((tmp_path / "statistics").glob("*unclipped"))
    (folder / "statistics.npz").unlink()
    with pytest.raises(ConfigError, match=r"is damaged\. Remove its folder"):
        sample(tmp_path, 1, variance="analytic", clip=False)
    (folder / "statistics.json").write_text("{")
    with pytest.raises(ConfigError, match=r"is damaged\. Remove its folder"):
        sample(tmp_path, 1, variance="analytic", clip=False)


@pytest.fixture
def large(tiny_config, monkeypatch):
    """A system whose sums take 22 MB; what its network does is not computed."""
    system = ddx.system.make_system(tiny_config(process__num_steps=400), (48, 48, 3))

    def over_batch(function, shared, split):
        def errors(params, rows, keys, images, label, weight):
            n = len(rows.adds_noise)
            one = np.ones((1, n), np.float32)
            return statistics.Sums(np.full((1, n, 48, 48, 3), images[0, 0, 0, 0], np.float32), one, one, one)

        ones = [np.ones((1, 48, 48, 3), np.float32)] * 2
        return errors if split == 4 else lambda keys, images, weight: statistics_job.Moments(*ones)

    monkeypatch.setattr(sums.parallel, "over_batch", over_batch)
    monkeypatch.setattr(sums.parallel, "split_batch", lambda x: x)
    return system


def peak_in_parts(work):
    """What some work finds, and the most memory that it takes, in parts of a job of `large`; without NumPy's buffer."""
    tracemalloc.start()
    try:
        found = work()
        return found, (tracemalloc.get_traced_memory()[1] - 2**24) / (400 * 48 * 48 * 3 * 8)
    finally:
        tracemalloc.stop()


class Ones:
    """A data set whose image i is i everywhere."""

    def read(self, indices):
        images = np.ones((len(indices), 48, 48, 3), np.uint8) * np.asarray(indices, np.uint8)[:, None, None, None]
        return {"image": images, "label": np.zeros(len(indices), np.int32)}


def test_at_most_two_parts_of_a_measurement_are_in_memory(large, tmp_path):
    of_job = Work("statistics", tmp_path, types.SimpleNamespace(params=()), {"seed": 0})
    examples = Examples("train", Ones(), np.arange(1, 9))
    parts = sums._parts(of_job, examples, large, True, *statistics_job._sums_of(large), (1, 2), frozenset())
    open_job = job.Job(tmp_path, "statistics", {"weights": "w"}, 8, 2)
    open_job.begin()

    def measured_parts():
        for start, part in parts:
            open_job.write(start, **part)
            del part

    _, peak = peak_in_parts(measured_parts)
    assert peak < 1.4, peak  # a part, and what one call of the network returns
    result, peak = peak_in_parts(
        lambda: statistics_job._finish(tmp_path / "statistics.npz", open_job, large, 8),
    )
    assert peak < 2.2, peak
    assert result["rmse_middle"] == pytest.approx(np.sqrt(4.5))  # sums over examples 1 to 8, by 8
    assert arrays(tmp_path / "statistics.npz")["mse"].min() == arrays(tmp_path / "statistics.npz")["mse"].max() == 4.5


def test_errors_that_are_not_finite_are_refused(run, tmp_path, monkeypatch):
    original = statistics.error_sums

    def broken(*args):
        sums = original(*args)
        return sums._replace(mse=sums.mse.at[0].set(jnp.nan))

    monkeypatch.setattr(statistics, "error_sums", broken)
    with pytest.raises(NonFiniteError, match="the network's error is not finite"):
        measure(run, out=tmp_path, max_examples=4, batch_size=4)
    assert not (tmp_path / "statistics.npz").exists()


TO_MEASURE = "Measure them with python -m launch.evaluate --workdir=.* --metrics=statistics"


@pytest.mark.parametrize("name", ["analytic_frequency", "analytic_pixel", "analytic_paper"])
def test_samples_have_the_variance_that_is_asked_for(run, tmp_path, name):
    basis = "pixel" if name == "analytic_pixel" else "dct"
    if basis == "pixel":
        measure(run, basis="pixel", max_examples=20, batch_size=20)
    sample(run, 3, out=tmp_path, sampler="ddim", eta=0.0, num_steps=5, variance=name, seed=2)
    source = trained.load(run)
    of = measured._load(source, run, basis, True)
    each, from_eps = name.endswith(("frequency", "pixel")), name.endswith(("gamma", "paper"))
    v = analytic.analytic(
        of, "gamma" if from_eps else "mse", per_coordinate=each, limit=1.0 if name == "analytic_paper" else None
    )
    process = source.system.process
    process = ddx.in_dct_basis(process) if name.endswith("frequency") else process
    keys = random.example_keys(jax.random.key(2), jnp.arange(3))
    x_T = ddx.diffusion.reverse.walk.initial_noise(process, keys, (8, 8, 1))
    times, clip, solver = ddx.trajectory(20, 5), True, ddx.diffusion.reverse.solvers.euler(v)
    if name == "analytic_paper":
        clip, solver = "x0", ddx.diffusion.reverse.solvers.euler(analytic_dpm.clip_last(v, times, 1.0))
    x_0 = ddx.sample(denoiser(source, process, clip), keys, x_T, times, 0.0, solver=solver)
    found = arrays(tmp_path / "samples.npz")["samples"]
    assert np.abs(np.clip((np.asarray(x_0) + 1) * 127.5, 0, 255) - found).max() < 1.01
    record = json.loads((tmp_path / "samples.json").read_text())
    assert record["sample"]["variance"] == name and record["statistics"]["basis"] == basis


def test_optimal_times_are_those_of_its_errors(run, tmp_path):
    settings = {"num_steps": 5, "max_examples": 4, "batch_size": 4, "variance": "analytic"}
    evaluate(run, out=tmp_path, trajectory="optimal", **settings)
    protocol = json.loads((tmp_path / "bpd.json").read_text())["protocol"]
    source = trained.load(run)
    of = measured._load(source, run, None, True)
    mse = np.concatenate([[0.0], of.mse.mean((1, 2, 3))])
    assert (mse > of.spectrum.mean()).any()  # where the variance, and so its cost, is limited
    costs = optimal.step_costs(source.system.process, mse, limit=of.spectrum.mean())
    best = ddx.optimal_trajectories(costs, 5)[5]
    assert protocol["trajectory"] == "times:" + ",".join(map(str, best[:-1])) and protocol["num_steps"] == 5


def test_times_for_pictures_are_those_of_its_errors_in_every_frequency(run, tmp_path):
    sample(run, 1, out=tmp_path, trajectory="optimal_pictures", num_steps=5, seed=1)
    source = trained.load(run)
    of = measured._load(source, run, "dct", True)
    costs = pictures.picture_costs(pictures.smoothed_mse(source.system.process, of.mse, of.spectrum), of.spectrum)
    best = ddx.optimal_trajectories(costs, 5, to_data=True)[5]
    record = json.loads((tmp_path / "samples.json").read_text())
    assert record["sample"]["trajectory"] == "times:" + ",".join(map(str, best[:-1]))
    assert best != ddx.trajectory(20, 5, measured.trajectory(source, run, "optimal", 5, "analytic", True))
    assert measured.trajectory(source, run, "optimal_pictures", 1, "small", True) == "times:20"
    every = ddx.trajectory(20)[:-1]
    assert (
        measured.trajectory(source, run, "optimal_pictures", 20, "small", True) == f"times:{','.join(map(str, every))}"
    )


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (lambda run, other: sample(other, 1, variance="analytic"), "Measure them with python -m launch.evaluate"),
        (lambda run, other: evaluate(other, variance="analytic"), "has no statistics of step 12 with x_0 clipped"),
        (lambda run, other: evaluate(other, variance="analytic", clip=False), f"{TO_MEASURE} --noclip"),
        (lambda run, other: evaluate(other, variance="analytic_pixel"), f"{TO_MEASURE} --basis=pixel --clip"),
        (lambda run, other: evaluate(run, trajectory="optimal", num_steps=-1), "num_steps=-1 must be at least 0"),
        (lambda run, other: evaluate(run, eta=0.0), "eta=0.0 must be above 0 and at most 100"),
        (lambda run, other: evaluate(run, eta=0.5, variance="large"), "variance='large' belongs to eta=1"),
        (lambda run, other: evaluate(run, eta=9.0), "eta"),
        (lambda run, other: evaluate(run, trajectory="optimal", num_steps=21), r"1\.\.20"),
        (lambda run, other: sample(run, 1, trajectory="optimal_pictures", num_steps=21), "num_steps=21 exceeds|1..20"),
        (lambda run, other: sample(other, 1, trajectory="optimal_pictures", num_steps=5), f"{TO_MEASURE} --clip"),
        (lambda run, other: sample(run, 1, trajectory="optimal_pictures", clip=False), f"{TO_MEASURE} --noclip"),
        (lambda run, other: measure(run, basis="fft"), "basis='fft' must be one of: dct, pixel"),
        (lambda run, other: measure(run, max_examples=0), "max_examples=0 must be at least 1"),
        (lambda run, other: measure(run, batch_size=-1), "batch_size=-1 must be at least 1"),
        (lambda run, other: sample(run, 1, variance="analytic", sampler="ddim", solver="heun"), "'heun' has its own"),
    ],
)
def test_mistakes_are_named(job, message, run, whole):
    with pytest.raises(ConfigError, match=message) as error:
        job(run, whole)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["analytic_gamma", "analytic_paper", "analytic_pixel"])
def test_a_blur_has_statistics_of_frequencies_and_no_gamma(name, tiny_config, tmp_path):
    source = trained.Trained(12, "", ddx.system.make_system(tiny_config(**BLURRING), (8, 8, 1)), None)
    with pytest.raises(ConfigError, match=r"says nothing under a blur|statistics of frequencies, not of pixels"):
        measured.variance(source, tmp_path, name, False)


def test_what_predicts_no_x_0_has_no_optimal_times_or_variances(tiny_config, tmp_path):
    source = trained.Trained(12, "", ddx.system.make_system(tiny_config(**HEAT), (8, 8, 1)), None)
    with pytest.raises(ConfigError, match="needs a network that predicts one of eps, x0, v, velocity, not 'residual'"):
        measured.variance(source, tmp_path, "heuristic", False)
    with pytest.raises(ConfigError, match="needs a network that predicts one of eps, x0, v, velocity, not 'residual'"):
        measured.trajectory(source, tmp_path, "optimal", 3, "small", False)
    with pytest.raises(ConfigError, match="trajectory='optimal_pictures' needs a network that predicts one of eps"):
        measured.trajectory(source, tmp_path, "optimal_pictures", 3, "small", False)


def test_optimal_times_are_as_many_as_the_run_s_steps_and_for_its_variance(run, tmp_path):
    line = sample(run, 1, out=tmp_path, trajectory="optimal", sampler="ancestral", variance="large", seed=1).message
    assert " 5 steps each" in line
    record = json.loads((tmp_path / "samples.json").read_text())["sample"]
    source = trained.load(run)
    best = measured.optimal_times(source, run, 5, "large", True)[5]
    assert record["trajectory"] == "times:" + ",".join(map(str, best[:-1]))
    assert best != measured.optimal_times(source, run, 5, "small", True)[5]


def test_the_bound_of_ddim_s_family_can_be_evaluated(run, tmp_path):
    settings = {"num_steps": 5, "max_examples": 4, "batch_size": 4, "variance": "analytic"}
    for eta in (None, 1.0, 0.5):
        evaluate(run, out=tmp_path / str(eta), eta=eta, **settings)
    found = {eta: arrays(tmp_path / str(eta) / "bpd.npz") for eta in (None, 1.0, 0.5)}
    np.testing.assert_array_equal(found[None]["total"], found[1.0]["total"])
    source = trained.load(run)
    examples = found[0.5]["example"]
    x_0 = to_float(ddx.data.load("digits", split="test").read(examples)["image"])
    keys = random.example_keys(jax.random.key(0), jnp.asarray(examples, jnp.uint32))
    process, times = source.system.process, ddx.trajectory(20, 5, "power2")
    v = analytic.analytic(measured._load(source, run, None, True))
    expected = ddx.bits_per_dim(denoiser(source, process, True), x_0, keys, times, v, eta=0.5)
    np.testing.assert_allclose(found[0.5]["total"], expected.total, rtol=1e-4)
    assert np.all(found[0.5]["total"] > found[1.0]["total"])


def test_damaged_statistics_are_refused(run, tmp_path):
    (path,) = (run / "statistics").glob("*dct*/statistics.npz")
    before = path.read_bytes()
    try:
        path.write_bytes(before[:-1] + b"x")
        with pytest.raises(ConfigError, match="is damaged"):
            sample(run, 1, out=tmp_path, variance="analytic")
    finally:
        path.write_bytes(before)
