"""Sampling jobs: exact, resumable, and what they write."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

import ddx
from ddx.runs import job
from ddx.runs.checkpoint import Checkpoints
from ddx.runtime.errors import CheckpointError, ConfigError, DataError
from ddx.sampling import interpolate, reconstruct, sample
from ddx.training import train
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]


def samples(folder):
    with np.load(folder / "samples.npz") as file:
        return file["samples"]


def test_sample_i_depends_only_on_seed_and_i(whole, tmp_path):
    kwargs = {"sampler": "ancestral", "num_steps": 20}
    sample(whole, 7, out=tmp_path / "a", batch_size=7, **kwargs)
    sample(whole, 5, out=tmp_path / "b", batch_size=2, **kwargs)
    sample(whole, 5, out=tmp_path / "c", batch_size=2, seed=1, **kwargs)
    a, b, c = (samples(tmp_path / name) for name in "abc")
    assert a.shape == (7, 8, 8, 1) and a.dtype == np.uint8
    assert np.abs(a[:5].astype(int) - b).max() <= 1 and np.mean(a[:5] == b) > 0.99
    assert np.mean(b == c) < 0.5
    assert Image.open(tmp_path / "a" / "grid.png").size == (3 * 68 + 4, 3 * 68 + 4)


def test_the_grid_of_a_run_shows_the_samples_of_its_seed(whole, tmp_path):
    sample(whole, 4, out=tmp_path)
    assert (tmp_path / "grid.png").read_bytes() == (whole / "samples" / "000012.png").read_bytes()


def test_samples_come_from_the_averaged_weights(whole, tiny_config, tmp_path):
    """Drawn again by hand: the checkpoint's EMA, DDIM with 5 steps, sample i from fold_in(key(seed), i)."""
    sample(whole, 3, out=tmp_path, seed=5)
    config = tiny_config()
    system = ddx.system.make_system(config, (8, 8, 1))
    target = {"ema": jax.eval_shape(system.init, jax.random.key(0))}
    ema = Checkpoints(whole / "checkpoints").restore(12, target)["ema"]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), np.arange(3))
    x_T = ddx.diffusion.reverse.walk.initial_noise(system.process, keys, (8, 8, 1))
    x_0 = ddx.sample(system.denoiser(ema, True), keys, x_T, ddx.trajectory(20, 5), 0.0)
    assert np.abs(np.asarray((x_0 + 1) * 127.5) - samples(tmp_path)).max() < 0.51


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_steps": 21}, "exceeds process.num_steps=20"),
        ({"eta": 20.0}, r"sample\.eta=20 adds more noise than there is; use at most 1"),
        ({"eta": -1.0}, "at least 0"),
        ({"trajectory": "quadratic"}, "choose one of: full"),
        ({"trajectory": "ddim10", "num_steps": 5}, "visits 10 times, not 5"),
        ({"solver": "heun", "eta": 0.5}, "without noise"),
        ({"preset": "ddim_cifar"}, "Choose one of: ddpm_cifar10"),
        ({"step": 5}, "Choose one of: "),
        ({"eta": 0.5, "sampler": "ancestral"}, "belongs to the ddim sampler"),
        ({"keep_eps": True, "solver": "heun"}, "keep_eps=True belongs to the ddim sampler with solver euler and clip"),
        ({"variance": "large"}, "belongs to the ancestral sampler"),
        ({"num_samples": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
    ],
)
def test_impossible_sampling_is_refused(whole, kwargs, message, tmp_path):
    with pytest.raises((ConfigError, CheckpointError), match=message):
        sample(whole, **{"num_samples": 4, "out": tmp_path, **kwargs})


def test_sampling_needs_a_trained_network(tmp_path):
    with pytest.raises(CheckpointError, match="has no trained network"):
        sample(tmp_path / "nothing")


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def command(workdir, out, *args, devices=1):
    env = processes.environment(devices)
    argv = [sys.executable, "-m", "launch.sample", f"--workdir={workdir}", f"--out={out}", *args]
    return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


JOB = ("--num_samples=30", "--batch_size=4", "--sampler=ancestral", "--num_steps=20", "--gif")


@pytest.mark.parametrize("parts_before", [(2,), *(pytest.param(n, marks=pytest.mark.soak) for n in ((1, 3), (0, 7)))])
def test_kill_9_and_the_same_command_end_in_the_same_bytes(whole, tmp_path, parts_before):
    assert command(whole, tmp_path / "whole", *JOB).wait(300) == 0
    out = tmp_path / "cut"
    for count in parts_before:
        process = command(whole, out, *JOB)
        while len(list(out.glob("parts/0*.npz"))) < count and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = command(whole, out, *JOB)
    assert "wrote 30 samples" in process.communicate(timeout=300)[0]
    assert contents(out) == contents(tmp_path / "whole")
    assert sorted(p.name for p in out.iterdir()) == [
        "LOCK",
        "film.gif",
        "film.png",
        "grid.png",
        "samples.json",
        "samples.npz",
    ]


TEN = {"num_samples": 10, "batch_size": 3, "sampler": "ancestral"}


@pytest.fixture(scope="module")
def ten(whole, tmp_path_factory):
    """The samples of TEN, drawn at once."""
    out = tmp_path_factory.mktemp("ten")
    sample(whole, out=out, **TEN)
    return samples(out)


def test_a_job_goes_on_with_the_batches_that_are_there(whole, ten, tmp_path, monkeypatch):
    """Stopped after every single batch, and with one batch damaged: nothing is missing, nothing drawn twice."""
    drawn, save = [], job.np.savez_compressed

    class Stop(Exception):
        pass

    def one(file, **arrays):
        save(file, **arrays)
        drawn.append(len(arrays["samples"]))
        file.close()
        os.replace(file.name, tmp_path / "cut" / "parts" / f"{sum(drawn[:-1]):08d}.npz")
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(job.np, "savez_compressed", one)
        for _ in range(4):
            with pytest.raises((Stop, FileNotFoundError)):
                sample(whole, out=tmp_path / "cut", **TEN)
    assert drawn == [3, 3, 3, 1]
    (tmp_path / "cut" / "parts" / "00000003.npz").write_bytes(b"PK")
    with pytest.warns(UserWarning, match=r"00000003.npz cannot be used .* doing it again"):
        sample(whole, out=tmp_path / "cut", **TEN)
    np.testing.assert_array_equal(samples(tmp_path / "cut"), ten)


@pytest.mark.parametrize("loss", ["damaged", "gone", "of another job"])
def test_a_batch_that_is_lost_after_it_was_counted_is_told_and_the_same_command_ends_well(
    whole, ten, tmp_path, monkeypatch, loss
):
    write, first = job.Job.write, tmp_path / "cut" / "parts" / "00000000.npz"

    def loses(self, start, **arrays):
        write(self, start, **arrays)
        if start == 9:
            if loss == "gone":
                first.unlink()
            elif loss == "damaged":
                first.write_bytes(first.read_bytes()[:100])
            else:
                np.savez(first, samples=arrays["samples"], job=np.array("x"))

    with monkeypatch.context() as patch:
        patch.setattr(job.Job, "write", loses)
        with pytest.raises(
            CheckpointError, match=r"00000000\.npz cannot be used .* Run the same command again"
        ) as error:
            sample(whole, out=tmp_path / "cut", **TEN)
    assert "\n" not in str(error.value)
    written = []
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(
            job.Job, "write", lambda self, start, **arrays: written.append(start) or write(self, start, **arrays)
        )
        assert sample(whole, out=tmp_path / "cut", **TEN).message.startswith("wrote 10 samples")
    assert written == [0]
    np.testing.assert_array_equal(samples(tmp_path / "cut"), ten)


def test_sigterm_ends_a_job_in_one_line(whole, tmp_path):
    process = command(whole, tmp_path, *JOB)
    while not list(tmp_path.glob("parts/0*.npz")) and process.poll() is None:
        time.sleep(0.002)
    process.terminate()
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 143, output
    assert output.splitlines()[-1] == f"stopped by a signal; the same command resumes: {tmp_path}"
    assert "Traceback" not in output


def test_a_finished_job_says_so_and_changes_nothing(whole, tmp_path):
    assert sample(whole, 4, out=tmp_path).message.startswith("wrote 4 samples of step 12, 5 steps each")
    before = contents(tmp_path)
    assert sample(whole, 4, out=tmp_path).message.startswith("already there: 4 samples")
    assert contents(tmp_path) == before
    (tmp_path / "samples.npz").unlink()
    assert sample(whole, 4, out=tmp_path).message.startswith("wrote")
    assert contents(tmp_path) == before


def test_two_jobs_are_not_mixed(whole, tmp_path):
    sample(whole, 4, out=tmp_path)
    before = contents(tmp_path)
    for change in ({"seed": 1}, {"num_steps": 4}, {"num_samples": 5}, {"batch_size": 2}):
        with pytest.raises(ConfigError, match="holds another job"):
            sample(whole, **{"num_samples": 4, "out": tmp_path, **change})
        assert contents(tmp_path) == before


def test_a_finished_job_of_an_older_version_is_there_already(whole, tmp_path):
    """Its record lacks the settings that are newer."""
    sample(whole, 2, out=tmp_path)
    record = json.loads((tmp_path / "samples.json").read_text())
    del record["sample"]["noisy_end"], record["sample"]["delta"]
    (tmp_path / "samples.json").write_text(json.dumps(record))
    assert sample(whole, 2, out=tmp_path).message.startswith("already there")
    with pytest.raises(ConfigError, match=r"sample\.noisy_end False -> True"):
        sample(whole, 2, out=tmp_path, noisy_end=True)


def test_a_batch_of_another_job_is_not_taken_for_ones_own(whole, tmp_path):
    """Its record is gone, its batches are there."""
    sample(whole, 8, out=tmp_path / "right", batch_size=4, seed=1)
    out = tmp_path / "mixed"
    process = command(whole, out, "--num_samples=8", "--batch_size=4", "--seed=0")
    while not (out / "parts" / "00000000.npz").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    (out / "samples.json").unlink()
    (out / ".samples.npz.12.tmp").write_bytes(b"remains")
    (out / "parts" / "thesis.tex").write_text("mine")
    with pytest.warns(UserWarning, match="belongs to another job"):
        sample(whole, 8, out=out, batch_size=4, seed=1)
    np.testing.assert_array_equal(samples(out), samples(tmp_path / "right"))
    assert (out / "parts" / "thesis.tex").read_text() == "mine" and not list(out.glob(".*"))
    assert [p.name for p in (out / "parts").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", ["[]", "null", "{", '{"sample": 5}'])
def test_a_record_that_says_nothing_is_refused(whole, tmp_path, text):
    (tmp_path / "samples.json").write_text(text)
    with pytest.raises(ConfigError, match=r"samples\.json"):
        sample(whole, 4, out=tmp_path)


def test_damaged_results_are_drawn_again_and_a_film_can_be_added(whole, tmp_path):
    sample(whole, 4, out=tmp_path)
    before = contents(tmp_path)
    (tmp_path / "samples.npz").write_bytes(b"PK")
    assert sample(whole, 4, out=tmp_path).message.startswith("wrote") and contents(tmp_path) == before
    (tmp_path / "grid.png").unlink()
    assert sample(whole, 4, out=tmp_path).message.startswith("wrote") and contents(tmp_path) == before
    assert sample(whole, 4, out=tmp_path, gif=True).message.startswith("wrote")
    assert sample(whole, 4, out=tmp_path, gif=True).message.startswith("already there")
    (tmp_path / "film.gif").unlink()
    (tmp_path / "film.png").unlink()
    assert contents(tmp_path) == before


def test_a_preset_over_numbers_of_steps_wants_one(tiny_config, tmp_path):
    train(tiny_config(sample__num_steps=0, train__num_steps=2, sample__solver="dpmpp_2m"), tmp_path)
    with pytest.raises(ConfigError, match="Add --num_steps"):
        sample(tmp_path, 2, preset="ddim_cifar10", out=tmp_path / "out")
    assert "5 steps each" in sample(tmp_path, 2, preset="ddim_cifar10", num_steps=5, out=tmp_path / "out").message
    settings = json.loads((tmp_path / "out" / "samples.json").read_text())["sample"]
    assert (settings["solver"], settings["trajectory"], settings["clip"]) == ("euler", "ddim_cifar10", False)


def test_a_job_stays_with_its_checkpoint(whole, tmp_path):
    """Begun at step 8, it goes on with step 8 although 12 is there."""
    sample(whole, 4, out=tmp_path, step=8)
    (tmp_path / "samples.npz").unlink()
    assert "samples of step 8" in sample(whole, 4, out=tmp_path).message
    with pytest.raises(ConfigError, match="step 8 -> 12"):
        sample(whole, 4, out=tmp_path, step=12)


def test_eight_devices_draw_what_one_does(whole, tmp_path):
    process = command(whole, tmp_path / "8", "--num_samples=20", "--batch_size=16", devices=8)
    sample(whole, 20, batch_size=16, out=tmp_path / "1")
    assert process.wait(300) == 0
    one, eight = (samples(tmp_path / n).astype(int) for n in ("1", "8"))
    assert np.abs(one - eight).max() <= 1 and np.mean(one == eight) > 0.99


def soak(*values):
    """Longer checks of what others of their kind say by default."""
    return pytest.param(*values, marks=pytest.mark.soak)


@pytest.mark.parametrize(
    ("settings", "library"),
    [
        ({"trajectory": "quad", "num_steps": 7}, {"times": (7, "quad")}),
        soak({"trajectory": "10"}, {"times": (None, "10")}),
        ({"solver": "dpmpp_2m", "num_steps": 6}, {"times": (6, "uniform"), "solver": "dpmpp_2m"}),
        soak({"solver": "heun", "num_steps": 5}, {"times": (5, "uniform"), "solver": "heun"}),
        ({"solver": "dpmpp_3m", "num_steps": 7, "clip": False}, {"times": (7, "uniform"), "solver": "dpmpp_3m"}),
        soak({"solver": "deis", "num_steps": 7}, {"times": (7, "uniform"), "solver": "deis"}),
        ({"solver": "unipc_2", "num_steps": 7}, {"times": (7, "uniform"), "solver": "unipc_2"}),
        ({"eta": 0.5, "num_steps": 20}, {"times": (20, "uniform"), "eta": 0.5}),
        ({"preset": "ddim_cifar10_sigma_hat", "num_steps": 5}, {"times": (5, "quad"), "eta": 1.0, "variance": "large"}),
    ],
)
def test_the_job_draws_what_the_library_does(whole, tmp_path, settings, library, tiny_config):
    sample(whole, 3, out=tmp_path, seed=5, **settings)
    system, ema = restored(whole, tiny_config())
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), np.arange(3))
    x_T = ddx.diffusion.reverse.walk.initial_noise(system.process, keys, (8, 8, 1))
    times = ddx.trajectory(20, *library.pop("times"))
    x_0 = ddx.sample(system.denoiser(ema, settings.get("clip", True)), keys, x_T, times, **library)
    x_0 = np.clip(np.asarray(x_0), -1, 1)
    assert np.abs((x_0 + 1) * 127.5 - samples(tmp_path)).max() < 0.52


def test_a_film_ends_in_the_samples(whole, tmp_path):
    sample(whole, 5, out=tmp_path, gif=True)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 6 and film.size == (2 * (2 * 68 + 4), 2 * 68 + 4)  # of the first batch, 4 images
    assert Image.open(tmp_path / "film.png").size == (6 * 68 + 4, 8 * 68 + 4)


def restored(workdir, config):
    """The system and the averaged weights of step 12, read by hand."""
    system = ddx.system.make_system(config, (8, 8, 1))
    target = {"ema": jax.eval_shape(system.init, jax.random.key(0))}
    return system, Checkpoints(workdir / "checkpoints").restore(12, target)["ema"]


def test_latents_are_interpolated_and_images_come_back(whole, tmp_path, tiny_config):
    assert "wrote" in interpolate(whole, 2, out=tmp_path / "a").message
    with np.load(tmp_path / "a" / "interpolation.npz") as file:
        assert file["samples"].shape == (2, 11, 8, 8, 1)
        ends = file["samples"][:, [0, -1]]
    sample(whole, 4, out=tmp_path / "samples")
    assert np.abs(ends.reshape(4, 8, 8, 1).astype(int) - samples(tmp_path / "samples")).max() <= 1
    line = reconstruct(whole, tmp_path / "samples" / "samples.npz", out=tmp_path / "b", num_steps=20).message
    error = json.loads((tmp_path / "b" / "reconstruction.json").read_text())["mean_squared_error"]
    assert f"mean squared error {error:.4g}" in line
    with np.load(tmp_path / "b" / "reconstruction.npz") as file:
        back = file["samples"] / 255.0
    clipped_error = np.square(back - samples(tmp_path / "samples") / 255.0).mean()
    assert clipped_error <= error * 1.1 + 1e-4
    np.savez(tmp_path / "two.npz", samples(tmp_path / "samples")[:2])
    for solver in ("ddim", "ancestral"):
        written = interpolate(whole, images=tmp_path / "two.npz", out=tmp_path / solver, sampler=solver, num_steps=20)
        assert "interpolation.png" in written.files
    with np.load(tmp_path / "ancestral" / "interpolation.npz") as file:
        grid = file["samples"]
    assert grid.shape == (9, 11, 8, 8, 1)
    np.testing.assert_array_equal(grid[0, 0], samples(tmp_path / "samples")[0])
    assert (grid[-1] == grid[-1, :1]).mean() > 0.5  # at T hardly anything is left of the images
    # The rows are the library's own, drawn with the key of image 0.
    system, ema = restored(whole, tiny_config())
    ends = samples(tmp_path / "samples")[:2].astype(np.float32) / 127.5 - 1
    key = jax.random.fold_in(jax.random.key(0), 0)[None]
    times = ddx.trajectory(20)
    levels = tuple(times[i] for i in (10, 0))
    xs = ddx.coarse_to_fine(
        system.denoiser(ema, True), key, ends[:1], ends[1:], np.linspace(0, 1, 11), levels, times=times
    )
    expected = (np.clip(np.asarray(xs)[:, :, 0], -1, 1) + 1) * 127.5
    assert np.abs(expected - grid[[4, 8]]).max() < 0.52


@pytest.mark.parametrize("solver", ["euler", "unipc_2"])
def test_images_come_back_by_the_steps_of_the_times_that_are_kept(whole, tmp_path, tiny_config, solver):
    x_0 = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    np.save(tmp_path / "images.npy", x_0)
    reconstruct(whole, tmp_path / "images.npy", out=tmp_path, num_steps=20, solver=solver)
    system, ema = restored(whole, tiny_config())
    denoise = system.denoiser(ema, False)
    times = ddx.encodable(denoise, ddx.trajectory(20))
    assert 2 < len(times) < 21
    latents = ddx.encode(denoise, x_0 / np.float32(127.5) - 1, times, solver)
    back = ddx.sample(denoise, None, latents, times, solver=solver)
    with np.load(tmp_path / "reconstruction.npz") as file:
        np.testing.assert_allclose(file["latents"], latents, rtol=1e-3, atol=1e-3)
        assert np.abs(np.clip((np.asarray(back) + 1) * 127.5, 0, 255) - file["samples"]).max() < 0.6


@pytest.mark.parametrize("count", [1, 6, 11, *map(soak, (2, 5, 7))])
def test_any_number_of_images_comes_back(whole, tmp_path, count):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), np.uint8))
    assert "mean squared error" in reconstruct(whole, tmp_path / "images.npy", out=tmp_path, num_steps=3).message
    rows, columns = -(-count // 5), min(10, 2 * count)
    assert Image.open(tmp_path / "reconstruction.png").size == (columns * 68 + 4, rows * 68 + 4)


def write(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


def two(folder, dtype=np.uint8):
    np.save(folder / "two.npy", np.zeros((2, 8, 8, 1), dtype))
    return folder / "two.npy"


@pytest.mark.parametrize(
    ("job", "error", "message"),
    [
        (lambda w, t: reconstruct(w, t / "none.png", out=t), DataError, "cannot read"),
        (lambda w, t: reconstruct(w, t / "none.npz", out=t), DataError, "cannot read"),
        (lambda w, t: reconstruct(w, ROOT / "README.md", out=t), DataError, "cannot be used"),
        (lambda w, t: reconstruct(w, t, out=t), DataError, "image"),
        (lambda w, t: interpolate(w, 2, sampler="ancestral", out=t), ConfigError, "needs two images"),
        (lambda w, t: interpolate(w, 0, out=t), ConfigError, "at least 1"),
        (lambda w, t: reconstruct(w, write(t, "a.npz", b""), out=t), DataError, "cannot read"),
        (lambda w, t: reconstruct(w, write(t, "a.npy", b"PK"), out=t), DataError, "cannot read"),
        (lambda w, t: reconstruct(w, write(t, "a.npz", b"PK"), out=t), DataError, "cannot read"),
        (lambda w, t: reconstruct(w, two(t, np.float32), out=t), DataError, "expected uint8"),
        (lambda w, t: reconstruct(w, two(t), num_steps=1, out=t), ConfigError, "a time beyond 1"),
        (lambda w, t: reconstruct(w, two(t), eta=1.0, out=t), ConfigError, "Set --sampler=ddim --eta=0"),
        (lambda w, t: interpolate(w, 2, eta=1.0, out=t), ConfigError, "Set --sampler=ddim --eta=0"),
        (lambda w, t: reconstruct(w, t / "none.npz", clip=True, out=t), ConfigError, "Leave out --clip$"),
        (
            lambda w, t: interpolate(w, images=t, clip_percentile=99.5, out=t),
            ConfigError,
            "Leave out --clip_percentile$",
        ),
        (lambda w, t: interpolate(w, images=ROOT / "docs" / "digits.png", out=t), ConfigError, "has one image"),
    ],
)
def test_impossible_pictures_are_refused(whole, tmp_path, job, error, message):
    with pytest.raises(error, match=message):
        job(whole, tmp_path)


@pytest.fixture(scope="module")
def conditional(tiny_config, tmp_path_factory):
    """A network that learned to tell 10 classes apart a little: 60 steps."""
    workdir = tmp_path_factory.mktemp("conditional")
    train(tiny_config(model__class_conditional=True, train__num_steps=60, train__checkpoint_every=60), workdir)
    return workdir


def test_classes_are_drawn_as_asked(conditional, tmp_path):
    for name, labels in {"default": None, "three": (3,), "turn": (0, 3)}.items():
        sample(conditional, 12, out=tmp_path / name, labels=labels)
    default, three, turn = (samples(tmp_path / name) for name in ("default", "three", "turn"))
    same = [np.array_equal(default[i], three[i]) for i in range(12)]
    assert same == [i % 10 == 3 for i in range(12)]
    assert np.abs(turn[1::2].astype(int) - three[1::2]).max() <= 1 and not np.array_equal(turn[0], three[0])
    assert json.loads((tmp_path / "turn" / "samples.json").read_text())["labels"] == [0, 3]
    assert "wrote" in interpolate(conditional, 1, labels=(7,), out=tmp_path / "between").message
    with pytest.raises(ConfigError, match=r"10 must be one of the classes 0\.\.9"):
        sample(conditional, 2, labels=(1, 10), out=tmp_path / "wrong")


def test_a_network_without_classes_takes_no_labels(whole, tiny_config, tmp_path):
    with pytest.raises(ConfigError, match="trained without classes"):
        sample(whole, 2, labels=(1,), out=tmp_path)
    with pytest.raises(ConfigError, match="has no labels"):
        ddx.system.make_system(tiny_config(model__class_conditional=True), (8, 8, 1))
