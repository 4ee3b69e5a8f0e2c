"""Readers of a run that goes on: what is saved and removed meanwhile makes no reader fail, or read what is wrong."""

import errno
import fcntl
import shutil
import threading
import time
import warnings

import jax
import numpy as np
import pytest

from ddx.runs import manifest, trained
from ddx.runs.checkpoint import Checkpoints
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.lock import lock
from ddx.sampling import sample
from ddx.training import train
from tests.training.test_run import finish, launch


def items(step):
    return {"ema": {"conv": {"kernel": np.full((64, 64), step, np.float32)}, "bias": np.full(3, step, np.float32)}}


def saving(directory, keep, first, stop, failures, pause=0.0):
    """A run that saves as fast as it can."""
    try:
        checkpoints, step = Checkpoints(directory, keep), first
        while not stop.is_set():
            checkpoints.save(step, items(step), {"step": step})
            step += 1
            time.sleep(pause)
    except BaseException as error:
        failures.append(error)


def read_while_saving(directory, keep, seconds, slow=0.0):
    """The steps that a reader has read in this time, each compared with what was saved."""
    Checkpoints(directory, keep).save(1, items(1), {"step": 1})
    stop, failures, read = threading.Event(), [], []
    run = threading.Thread(target=saving, args=(directory, keep, 2, stop, failures))
    run.start()
    try:
        reader, end = Checkpoints(directory), time.monotonic() + seconds
        while time.monotonic() < end or len(read) < 3:
            with reader.reading() as step:
                meta = reader.meta(step)
                time.sleep(slow)
                found = reader.restore(step, {"ema": items(0)["ema"]})
                assert reader.seal(step)
            assert meta == {"step": step}
            jax.tree.map(np.testing.assert_array_equal, found, items(step))
            read.append(step)
    finally:
        stop.set()
        run.join()
    assert not failures, failures
    return read


@pytest.mark.parametrize(("keep", "slow"), [(1, 0.0), (1, 0.3), (3, 0.0)])
def test_a_reader_always_succeeds_while_a_run_saves_and_removes(tmp_path, keep, slow):
    """Also one that is slower than the run, which has removed several checkpoints before it is done with one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is taken for damaged or lost
        read = read_while_saving(tmp_path / "checkpoints", keep, 2.0, slow)
    assert read == sorted(read) and read[-1] > read[0]
    assert len(Checkpoints(tmp_path / "checkpoints").steps()) <= keep + 1


@pytest.mark.soak
@pytest.mark.parametrize("keep", [1, 3])
def test_readers_succeed_for_minutes(tmp_path, keep):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_while_saving(tmp_path / "checkpoints", keep, 120.0)) > 100


def test_where_nothing_can_be_locked_a_reader_takes_the_next(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, items(1), {})
    damage = manifest.damage

    def slow(folder, step):
        if step == 1:  # the run goes on while the first is read
            checkpoints.save(2, items(2), {})
        return damage(folder, step)

    monkeypatch.setattr(manifest, "damage", slow)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Checkpoints(tmp_path / "checkpoints").reading() as step:
            assert step == 2
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 1 in .*\. Choose one of: \[2\]"):
            with checkpoints.reading(1):
                pass


def test_a_network_whose_checkpoint_goes_while_it_is_restored_is_that_of_the_next(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "run")
    restore = Checkpoints.restore

    def gone(self, step, targets):
        if step == 12:
            (self.directory / "12" / "MANIFEST.json").unlink()
            shutil.rmtree(self.directory / "12")
            (self.directory / "8").rename(self.directory / "7")  # only its name tells them apart
            (self.directory / "7").rename(self.directory / "8")
        return restore(self, step, targets)

    monkeypatch.setattr(Checkpoints, "restore", gone)
    with pytest.warns(UserWarning, match="step 12 was saved"):
        assert trained.load(tmp_path / "run").step == 8


def test_a_checkpoint_that_is_read_stays_until_a_later_save(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, items(1), {})
    with checkpoints.reading() as step:
        checkpoints.save(2, items(2), {})
        assert step == 1 and checkpoints.steps() == [1, 2]
        checkpoints.save(3, items(3), {})
        assert checkpoints.steps() == [1, 3]
    checkpoints.save(4, items(4), {})
    assert checkpoints.steps() == [4]


def test_a_network_is_loaded_from_a_run_that_saves_and_keeps_one(whole, tmp_path):
    """A load takes longer than a save: it traces the network between the checksums and the weights."""
    shutil.copytree(whole, tmp_path / "run")
    mine = Checkpoints(tmp_path / "run" / "checkpoints", keep=1)
    meta, expected = mine.meta(12), trained.load(whole).params
    stop, failures, loaded = threading.Event(), [], []

    def save():
        try:
            step = 13
            while not stop.is_set():
                mine.save(step, {"ema": expected}, meta)
                step += 1
        except BaseException as error:
            failures.append(error)

    run = threading.Thread(target=save)
    run.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            end = time.monotonic() + 3
            while time.monotonic() < end or len(loaded) < 2:
                found = trained.load(tmp_path / "run")
                jax.tree.map(np.testing.assert_array_equal, found.params, expected)
                loaded.append(found.step)
    finally:
        stop.set()
        run.join()
    assert not failures and loaded == sorted(loaded) and loaded[-1] > loaded[0]


@pytest.mark.soak
def test_jobs_draw_from_a_run_that_goes_on(tiny_config, tmp_path):
    """A process that trains, a save every step of which one is kept, and jobs one after the other."""
    config = tiny_config(train__num_steps=400, train__checkpoint_every=1, train__keep_checkpoints=1)
    train(tiny_config(train__num_steps=1), tmp_path / "run")
    process, lines = launch(config, tmp_path / "run"), []
    while process.poll() is None:
        lines.append(sample(tmp_path / "run", 2, num_steps=2).message)
    finish(process)
    assert len(lines) > 5 and all(line.startswith(("wrote 2 samples", "already there: 2 samples")) for line in lines)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOLCK, "No locks available"),
        (errno.ENOSYS, "Function not implemented"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_lock_that_cannot_be_had_says_why(tmp_path, monkeypatch, number, text):
    def refuse(*_):
        raise OSError(number, text)

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ConfigError, match=rf"cannot lock .*LOCK \({text}\).* Use another --out") as error:
        with lock(tmp_path, "--out"):
            pass
    assert "in use" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"proc", b"process 12", b"\xff\xfe\x00", b"\n"])
def test_a_lock_without_a_name_is_held_by_another_process(tmp_path, content):
    with lock(tmp_path):
        (tmp_path / "LOCK").write_bytes(content)
        with pytest.raises(ConfigError, match=r"is in use by another process\. Wait for it"):
            with lock(tmp_path):
                pass


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "LOCK").mkdir()
    with pytest.raises(ConfigError, match=r"cannot open .*LOCK \(Is a directory\)\. Use another --workdir"):
        with lock(tmp_path):
            pass
