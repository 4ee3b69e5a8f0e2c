"""A run in a bucket: what it does on disk it does there, bit by bit."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import ddx
import ddx.data
from ddx import config as config_lib
from ddx.evaluation import evaluate, measure
from ddx.runs.checkpoint import Checkpoints
from ddx.runtime import bucket, folders, storage
from ddx.runtime.errors import CheckpointError, ConfigError, DdxError, StorageError
from ddx.sampling import forward, interpolate, reconstruct, sample
from ddx.training import train
from tests.buckets import download, upload
from tests.data_sets import prepared_set
from tests.training.test_run import ROOT, assert_same_bits, files


@pytest.fixture
def stored(whole, in_bucket):
    """The run `whole`, in a bucket."""
    upload(whole, in_bucket / "run")
    return in_bucket / "run"


@pytest.fixture
def here(tmp_path):
    """Brings a folder of a bucket to this machine, to be looked at."""

    def brought(folder):
        to = tmp_path / folder.name
        download(folder, to)
        return to

    return brought


def steps(path):
    return [json.loads(line)["step"] for line in storage.read_text(path).splitlines()]


def test_a_run_in_a_bucket_is_the_run_on_disk(whole, tiny_config, in_bucket, here):
    outcome = train(tiny_config(), str(in_bucket))
    assert outcome.finished and str(in_bucket) in outcome.message
    assert "LOCK" not in folders.names(in_bucket)
    copy = here(in_bucket)
    assert_same_bits(whole, copy)
    for name in ("config.json", "samples/000012.png", "checkpoints.last"):
        assert (copy / name).read_bytes() == (whole / name).read_bytes()
    assert steps(in_bucket / "metrics.jsonl") == [2, 4, 6, 8, 10, 12]
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == ["12", "4", "8"]
    assert len(list((copy / "tensorboard").glob("events.*"))) == 1
    before = files(copy)
    assert "already complete" in train(None, str(in_bucket)).message
    download(in_bucket, copy)
    assert files(copy) == before


def test_kill_9_and_rerun_in_a_bucket_ends_in_the_same_bits(server, tiny_config, in_bucket, here, tmp_path):
    config = tiny_config(train__num_steps=60, train__checkpoint_every=10, train__log_every=1)
    (tmp_path / "given.json").write_text(config_lib.to_json(config))
    command = [sys.executable, "-m", "launch.train", f"--config={tmp_path}/given.json", f"--workdir={in_bucket}"]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **options) as process:
        while process.poll() is None and not storage.exists(in_bucket / "checkpoints" / "20" / "MANIFEST.json"):
            time.sleep(0.02)
        process.kill()
        said = process.stdout.read()
    assert process.returncode == -signal.SIGKILL, said
    assert storage.exists(in_bucket / "LOCK")  # of a process that is gone, as is known on its machine
    again = subprocess.run(command, **options, timeout=300)
    assert again.returncode == 0 and "resuming at step" in again.stdout, again.stdout
    train(config, tmp_path / "whole")
    assert_same_bits(tmp_path / "whole", here(in_bucket))
    assert steps(in_bucket / "metrics.jsonl") == list(range(1, 61))


def test_what_is_drawn_and_scored_in_a_bucket_has_the_bits_of_the_disk(whole, stored, in_bucket, tmp_path):
    local = tmp_path / "local"
    jobs = {
        "samples": lambda run, out: sample(run, 6, batch_size=4, gif=True, png=True, out=out),
        "bpd": lambda run, out: evaluate(run, ("bpd", "rate_distortion"), max_examples=6, batch_size=4, out=out),
        "statistics": lambda run, out: measure(run, max_examples=6, batch_size=4, out=out),
        "interpolation": lambda run, out: interpolate(run, num_rows=1, sampler="ddim", eta=0.0, out=out),
    }
    for name, job in jobs.items():
        there, on_disk = job(str(stored), str(in_bucket / name)), job(whole, local / name)
        assert there.files == on_disk.files and there.message == on_disk.message.replace(str(local), str(in_bucket))
        for key, array in on_disk.arrays().items():
            np.testing.assert_array_equal(there.arrays()[key], array, err_msg=f"{name} {key}")
        found = {str(p).removeprefix(f"{in_bucket / name}/") for p in folders.files_below(in_bucket / name)}
        assert found == {str(p.relative_to(local / name)) for p in (local / name).rglob("*") if p.is_file()} - {"LOCK"}
        for path in (local / name).rglob("*.png"):
            assert storage.read_bytes(in_bucket / name / path.relative_to(local / name).as_posix()) == path.read_bytes()
        assert "already there" in str(job(str(stored), str(in_bucket / name))) or name == "interpolation"


def test_a_job_in_a_bucket_resumes_after_the_parts_that_are_there(whole, stored, monkeypatch):
    from ddx.runs.job import Job

    first, done = Job.write, []

    def stop(self, start, **arrays):
        if done:
            raise KeyboardInterrupt
        done.append(start)
        first(self, start, **arrays)

    monkeypatch.setattr(Job, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        sample(str(stored), 6, batch_size=2)
    monkeypatch.setattr(Job, "write", lambda self, start, **arrays: (done.append(start), first(self, start, **arrays)))
    result = sample(str(stored), 6, batch_size=2)
    assert done == [0, 2, 4]
    np.testing.assert_array_equal(result.arrays()["samples"], sample(whole, 6, batch_size=2).arrays()["samples"])
    assert "parts" not in folders.names(result.out)


def test_a_loaded_run_and_the_statistics_in_its_folder(whole, stored):
    measure(str(stored), max_examples=4)
    run = ddx.load(str(stored))
    np.testing.assert_array_equal(run.sample(2), ddx.load(whole).sample(2))
    assert run.sample(2, sampler="ancestral", variance="analytic").shape == (2, 8, 8, 1)


def data_of(kind, top):
    images = ddx.data.load("digits").read(np.arange(16))
    top.mkdir()
    if kind == "folder":
        from ddx.runtime.pictures import save_png

        for i, image in enumerate(images["image"]):
            (top / str(images["label"][i])).mkdir(exist_ok=True)
            save_png(top / str(images["label"][i]) / f"{i}.png", image)
        return {"data__name": "folder", "data__channels": 1}, ""
    if kind == "array":
        np.save(top / "images.npy", images["image"])
        return {"data__name": "array"}, "images.npy"
    examples = [
        {"image": prepared_set.encode(image[..., 0]), "label": int(label)}
        for image, label in zip(images["image"], images["label"], strict=True)
    ]
    features = {"image": prepared_set.image_feature((8, 8, 1)), "label": prepared_set.label_feature(10)}
    prepared_set.write(top, "some", {"train": examples}, features)
    return {"data__name": "some"}, ""


@pytest.mark.parametrize("kind", ["folder", "array", "prepared", "prepared, by the record"])
def test_data_in_a_bucket_are_the_data_on_disk(kind, in_bucket, tmp_path, tiny_config, monkeypatch):
    if kind == "prepared, by the record":
        monkeypatch.setattr("ddx.data.prepared._MOST_FETCHED", 0)
    changes, name = data_of(kind.partition(",")[0], tmp_path / "data")
    upload(tmp_path / "data", in_bucket / "data")
    found = []
    for top in (tmp_path / "data", in_bucket / "data"):
        directory = str(top / name if name else top)
        data = ddx.data.load(changes["data__name"], directory=directory, channels=changes.get("data__channels", 0))
        found.append((data.classes, data.fingerprint(), data.read(np.arange(16))))
    assert found[0][:2] == found[1][:2]
    for key in ("image", "label"):
        np.testing.assert_array_equal(found[0][2][key], found[1][2][key])
    if kind == "array":
        config = tiny_config(train__num_steps=1, data__dir=directory, **changes)
        assert train(config, str(in_bucket / "run")).finished
        assert storage.read_text(in_bucket / "run" / "config.json") == config_lib.to_json(config)


def test_given_images_in_a_bucket(whole, in_bucket, tmp_path):
    data_of("folder", tmp_path / "images")
    upload(tmp_path / "images", in_bucket / "images")
    out = str(in_bucket / "out")
    there = reconstruct(whole, str(in_bucket / "images"), sampler="ddim", num_steps=5, out=out)
    here = reconstruct(whole, tmp_path / "images", sampler="ddim", num_steps=5, out=tmp_path / "out")
    np.testing.assert_array_equal(there.arrays()["latents"], here.arrays()["latents"])
    picture = str(next(iter(folders.files_below(in_bucket / "images"))))
    assert forward.forward(picture, out=str(in_bucket / "rows")) == f"wrote {in_bucket}/rows.png"


def test_a_head_and_first_weights_from_a_run_in_a_bucket(stored, in_bucket, tiny_config):
    head = config_lib.head_config(str(stored), "npr")
    assert train(head, str(in_bucket / "head")).finished
    started = tiny_config(train__init_from=f"{stored}:8", train__num_steps=1)
    assert train(started, str(in_bucket / "started")).finished
    assert json.loads(storage.read_text(in_bucket / "started" / "init_from.json"))["step"] == 8


def test_a_command_without_a_config_uses_that_in_the_bucket(stored, server):
    command = [sys.executable, "-m", "launch.train", f"--workdir={stored}", "--config.train.num_steps=13"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "trained 13 steps: gs://" in done.stdout, done.stderr
    assert config_lib.from_json(storage.read_text(stored / "config.json"), "").train.num_steps == 13


def test_two_runs_in_one_folder_of_a_bucket(in_bucket, tiny_config):
    from ddx.runtime.lock import lock

    with lock(in_bucket), pytest.raises(ConfigError, match="is in use by process"):
        train(tiny_config(), str(in_bucket))
    assert folders.names(in_bucket) == []


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(whole, stored, tiny_config, here):
    damaged = next(p for p in folders.files_below(stored / "checkpoints" / "12" / "ema") if "/d/" in str(p))
    content = bytearray(storage.read_bytes(damaged))
    content[len(content) // 2] ^= 1
    with storage.replacing(damaged) as temporary:
        temporary.write_bytes(content)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert ddx.load(str(stored)).step == 8
    assert "has changed); using the one before" in str(told[0].message)
    with pytest.warns(UserWarning, match=r"12 is damaged .*; set aside as 12\.corrupt"):
        assert train(tiny_config(), str(stored)).finished
    assert "12.corrupt" in folders.names(stored / "checkpoints")
    assert_same_bits(whole, here(stored))


def test_what_is_left_of_a_save_is_no_checkpoint_and_is_cleared(whole, stored, tiny_config):
    storage.write_text(stored / "checkpoints" / "16" / "ema" / "half", "of an upload")
    checkpoints = Checkpoints(stored / "checkpoints")
    assert checkpoints.steps() == [4, 8, 12] and checkpoints.newest(set_aside=False) == 12
    train(tiny_config(train__num_steps=14), str(stored))
    assert folders.names(stored / "checkpoints") == ["12", "14", "8"]


def test_a_server_that_goes_in_the_middle_leaves_the_last_checkpoint(
    server, whole, in_bucket, tiny_config, here, monkeypatch
):
    monkeypatch.setattr(bucket, "PATIENCE", 2.0)
    save = Checkpoints.save

    def going(self, step, *rest):
        if step == 8:
            server.go()
        save(self, step, *rest)

    monkeypatch.setattr(Checkpoints, "save", going)
    try:
        with pytest.raises(DdxError) as error:
            train(tiny_config(), str(in_bucket))
    finally:
        server.come_back()
    assert error.value.exit_code == 3 and "\n" not in str(error.value)
    assert isinstance(error.value, CheckpointError | StorageError)
    monkeypatch.setattr(Checkpoints, "save", save)
    assert Checkpoints(in_bucket / "checkpoints").newest(set_aside=False) == 4
    assert train(None, str(in_bucket)).finished
    assert_same_bits(whole, here(in_bucket))
    assert steps(in_bucket / "metrics.jsonl") == [2, 4, 6, 8, 10, 12]


def test_a_server_that_is_gone_from_the_start_is_one_line_and_exit_3(server, in_bucket):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    code = (
        "from ddx.cli import command, sample; from ddx.runtime import bucket\n"
        "bucket.PATIENCE = 2.0; command.run(sample.main)"
    )
    server.go()
    try:
        command = [sys.executable, "-c", code, f"--workdir={in_bucket}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    finally:
        server.come_back()
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done
    assert done.stderr.startswith(
        f"error: cannot read {in_bucket}/checkpoints.last, tried for 2 s: Connection refused."
    )
