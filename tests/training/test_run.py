"""A run, from its config to its pictures: exact, resumable, the same on any number of devices."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from ddx import config as config_lib
from ddx.runs import checkpoint
from ddx.runs.checkpoint import Checkpoints
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.sampling import sample
from ddx.training import train
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]


def arrays(workdir, step=None):
    """Every array of a checkpoint by name, read from the files alone."""
    checkpoints = Checkpoints(pathlib.Path(workdir) / "checkpoints")
    step = step or checkpoints.newest(set_aside=False)
    manifest = json.loads((checkpoints.directory / str(step) / "MANIFEST.json").read_text())["arrays"]
    with checkpoint._files() as files:
        items = files.restore(checkpoints.directory / str(step), args=_restore_all(manifest))
    return {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(dict(items.items()))}


def _restore_all(names):
    import orbax.checkpoint as ocp

    return ocp.args.Composite(**{name: ocp.args.StandardRestore() for name in names})


def assert_same_bits(a, b):
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys() and len(a) > 90
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def largest_difference(a, b):
    a, b = arrays(a), arrays(b)
    return max(float(np.abs(a[n].astype(float) - b[n].astype(float)).max()) for n in a if n.startswith("['params']"))


def launch(config, workdir, devices=1):
    """`python -m launch.train` in a process of its own, with forced CPU devices."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "given.py"
    path.write_text(
        "from ddx import config as c\n"
        f"def get_config():\n    return c.from_json({config_lib.to_json(config)!r}, 'test').unlock()\n"
    )
    env = processes.environment(devices)
    command = [sys.executable, "-m", "launch.train", f"--config={path}", f"--workdir={workdir}"]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, code=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def files(workdir):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(workdir.rglob("*")) if p.is_file()}


def steps_logged(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_promises(whole, tiny_config):
    assert config_lib.from_json((whole / "config.json").read_text(), "") == tiny_config()
    assert steps_logged(whole) == [2, 4, 6, 8, 10, 12]
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["12", "4", "8"]
    assert list((whole / "tensorboard").glob("events.*"))
    picture = Image.open(whole / "samples" / "000012.png")
    assert picture.size == (2 * (64 + 4) + 4,) * 2
    assert (whole / "LOCK").read_text() == ""
    last = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss", "grad_norm", "steps_per_second", "images_per_second"} <= last.keys()


def test_a_finished_run_is_left_as_it_is(whole, tiny_config):
    before = files(whole)
    for config in (tiny_config(), None):
        outcome = train(config, whole)
        assert outcome.finished and "already complete at step 12 of 12" in outcome.message
    assert files(whole) == before


def test_another_config_is_refused(whole, tiny_config):
    with pytest.raises(ConfigError, match=r"another config \(loss\.prediction eps -> v\)"):
        train(tiny_config(loss__prediction="v", train__learning_rate=0.5), whole)


def test_a_folder_without_a_run_needs_a_config(tmp_path):
    with pytest.raises(ConfigError, match="Pass --config"):
        train(None, tmp_path)


def kill_and_rerun(config, workdir, moments):
    """Send a signal at each moment (a step that the log has reached), rerun, and let the last run finish."""
    for moment, number in moments:
        process = launch(config, workdir)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            is_saved = (workdir / "checkpoints.last").exists()  # which takes a while, beside the steps
            if (
                is_saved
                and (workdir / "metrics.jsonl").exists()
                and (steps_logged_safely(workdir) or [0])[-1] >= moment
            ):
                break
            time.sleep(0.005)
        time.sleep(random.Random(moment).random() * 0.05)
        assert process.poll() is None, process.communicate()[0]
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == (143 if number == signal.SIGTERM else -number), output
    return finish(launch(config, workdir))


def steps_logged_safely(workdir):
    try:
        return steps_logged(workdir)
    except (OSError, ValueError):
        return None


LONG = {"train__num_steps": 120, "train__checkpoint_every": 15, "train__log_every": 1}


@pytest.fixture(scope="module")
def uninterrupted(tiny_config, tmp_path_factory):
    """A run of 120 steps."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    train(tiny_config(**LONG), workdir)
    return workdir


def check_interrupted(tiny_config, uninterrupted, workdir, moments):
    output = kill_and_rerun(tiny_config(**LONG), workdir, moments)
    assert "resuming at step" in output
    assert_same_bits(uninterrupted, workdir)
    assert steps_logged(workdir) == list(range(1, 121))
    if moments[-1][1] == signal.SIGKILL:  # SIGTERM saves where it comes
        assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"90", "105", "120"}
    pictures = [(run / "samples" / "000120.png").read_bytes() for run in (uninterrupted, workdir)]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    "moments", [(20,), pytest.param((20, 62), marks=pytest.mark.soak)], ids=lambda moments: len(moments)
)
def test_kill_9_and_rerun_ends_in_the_same_bits(tiny_config, uninterrupted, tmp_path, moments):
    check_interrupted(tiny_config, uninterrupted, tmp_path, [(moment, signal.SIGKILL) for moment in moments])


@pytest.mark.parametrize(
    "moments", [(50,), pytest.param((25, 50), marks=pytest.mark.soak)], ids=lambda moments: len(moments)
)
def test_sigterm_saves_at_once_and_the_rerun_ends_in_the_same_bits(tiny_config, uninterrupted, tmp_path, moments):
    check_interrupted(tiny_config, uninterrupted, tmp_path, [(moment, signal.SIGTERM) for moment in moments])


SLOW_TO_SAVE = """
import runpy, sys, time
from ddx.runs import manifest
def describe(*args):
    print("saving", flush=True)
    time.sleep(100)
manifest.describe = describe
sys.argv[0] = "train"
runpy.run_module("ddx.cli.train", run_name="__main__", alter_sys=True)
"""


def test_a_second_signal_does_not_wait_for_a_save(tiny_config, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(config_lib.to_json(tiny_config()))
    command = [sys.executable, "-c", SLOW_TO_SAVE, f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        output = ""
        while "saving" not in output and (line := process.stdout.readline()):
            output += line
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        output += process.communicate(timeout=20)[0]
    assert process.returncode == 130, output
    assert output.endswith("interrupted\n") and "Traceback" not in output
    assert not list((tmp_path / "run" / "checkpoints").glob("*/MANIFEST.json"))


def test_a_signal_before_the_first_step_saves_nothing_and_says_so(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr("ddx.runtime.preemption.Preemption.requested", True, raising=False)
    monkeypatch.setattr("ddx.runtime.preemption.Preemption.__init__", lambda self: setattr(self, "_previous", {}))
    outcome = train(tiny_config(), tmp_path)
    assert outcome.step == 0 and not outcome.finished and "saved" not in outcome.message
    assert Checkpoints(tmp_path / "checkpoints").newest(set_aside=False) is None


def test_a_run_whose_checkpoints_are_gone_does_not_start_afresh(whole, tiny_config, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match="step 12 was saved"):
        train(tiny_config(), tmp_path / "run")
    assert steps_logged(tmp_path / "run") == [2, 4, 6, 8, 10, 12]


def test_a_lost_config_json_does_not_let_another_config_go_on(whole, tiny_config, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"another config \(process\.schedule cosine -> vpsde"):
        train(tiny_config(process__schedule="vpsde", train__num_steps=20), tmp_path / "run")


def test_sampling_from_a_run_that_is_saving_leaves_its_folder_alone(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    unfinished = tmp_path / "run" / "checkpoints" / "16"
    shutil.copytree(tmp_path / "run" / "checkpoints" / "12", unfinished)
    (unfinished / "MANIFEST.json").unlink()
    before = files(tmp_path / "run")
    assert "step 12" in sample(tmp_path / "run", 2, out=tmp_path / "out").message
    assert files(tmp_path / "run") == before


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_kill_9_at_twenty_random_moments(tiny_config, uninterrupted, tmp_path, seed):
    moments = sorted(random.Random(seed).sample(range(16, 115), 3))
    check_interrupted(tiny_config, uninterrupted, tmp_path, [(moment, signal.SIGKILL) for moment in moments])


def test_eight_devices_end_where_one_does(improved, improved_config, tmp_path):
    check_devices(improved, improved_config(), tmp_path)
    saved = hashlib.sha256(b"".join(x.tobytes() for name, x in arrays(tmp_path).items() if name.startswith("['ema']")))
    assert restored(tmp_path, 4) == [saved.hexdigest()] * 4


@pytest.mark.soak
def test_eight_devices_end_where_one_does_after_more_steps(improved_config, tmp_path):
    config = improved_config(train__num_steps=50, train__checkpoint_every=100)
    finish(launch(config, tmp_path / "1"))
    check_devices(tmp_path / "1", config, tmp_path / "8")
    assert len({*restored(tmp_path / "8", 1), *restored(tmp_path / "8", 2), *restored(tmp_path / "8", 4)}) == 1


@pytest.mark.soak
def test_a_run_resumes_on_other_numbers_of_devices(improved, improved_config, tmp_path):
    for devices, num_steps in ((8, 4), (4, 8), (1, improved_config().train.num_steps)):
        output = finish(launch(improved_config(train__num_steps=num_steps), tmp_path, devices=devices))
        assert f"devices  {devices} x cpu" in output
    assert largest_difference(improved, tmp_path) < 1e-6


RESTORED = """
import hashlib, sys
import jax, numpy as np
import ddx
from ddx.runtime import devices, parallel
params = parallel.replicate(ddx.load(sys.argv[1]).params)
for device in range(devices.count()):
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf.addressable_shards[device].data).tobytes())
    print(digest.hexdigest())
"""


def restored(run, devices):
    """The checksums of a run's parameters on each of some devices, in a process of its own."""
    env = processes.environment(devices)
    done = subprocess.run(
        [sys.executable, "-c", RESTORED, run], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def check_devices(one, config, eight):
    """The run `one` on one device, and the same on eight."""
    output = finish(launch(config, eight, devices=8))
    assert "devices  8 x cpu" in output and "16 images = 8 x 2" in output
    assert largest_difference(one, eight) < 1e-6
    losses = [[json.loads(line)["loss"] for line in open(workdir / "metrics.jsonl")] for workdir in (one, eight)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    one, eight = ({k: v for k, v in arrays(run).items() if k.startswith("['times']")} for run in (one, eight))
    assert one
    for name in one:
        np.testing.assert_allclose(one[name], eight[name], rtol=1e-5, err_msg=name)


@pytest.mark.usefixtures("no_pictures")
def test_two_runs_cannot_share_a_folder(tiny_config, tmp_path):
    from ddx.runtime.lock import lock

    with lock(tmp_path), pytest.raises(ConfigError, match=f"is in use by process {os.getpid()}"):
        train(tiny_config(), tmp_path)
    train(tiny_config(train__num_steps=1), tmp_path)
