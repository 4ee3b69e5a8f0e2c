"""Files of a run that somebody made up, with checksums that fit, end in one line."""

import json
import os
import shutil

import pytest

from ddx.runs import manifest, trained
from ddx.runs.job import read_record
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.training import train


def resealed(run, **changes):
    """The run, whose manifest says something else and is sealed again."""
    path = run / "checkpoints" / "4" / manifest.MANIFEST
    said = json.loads(path.read_text())
    del said["seal"]
    for name, value in changes.items():
        if value is ...:
            del said[name]
        else:
            said[name] = value
    path.write_text(manifest.seal(said))
    return run


@pytest.mark.parametrize(
    "changes", [{"arrays": ...}, {"arrays": 5}, {"arrays": {"ema": 5}}, {"meta": ...}, {"meta": [1]}]
)
def test_a_manifest_without_arrays_or_meta_is_a_damaged_checkpoint(four, changes):
    resealed(four, **changes)
    for use in (lambda: trained.load(four), lambda: train(None, four)):
        with (
            pytest.warns(UserWarning, match="is damaged"),
            pytest.raises(CheckpointError, match="no usable checkpoint"),
        ):
            use()
        if not (four / "checkpoints" / "4").exists():  # training sets it aside
            (four / "checkpoints" / "4.corrupt").rename(four / "checkpoints" / "4")


ODD = {
    "image_shape": ([10**9, 10**9, 1], [8, 8], 5, None, ["8", "8", "1"], [0, 8, 1], {"a": 1}),
    "config": (None, 5, {"train": 5}, {"nosuch": 1}, {"model": {"channels": 10**12}}),
    "num_classes": (0, "x", 10**20),
    "spectrum": (5, "x", [[1.0]], [[[-1.0]] * 8] * 8),
    "pending": (5, [1], {"loss": 5}, {"loss": [1], "mse": []}),
    "history": (5, {"a": 1}, [5], [{"step": "x"}]),
    "bad_steps": ("x", -1, 10**20),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
def test_a_checkpoint_that_says_what_no_run_says_is_refused(four, name, value):
    meta = manifest.read(four / "checkpoints" / "4")["meta"]
    resealed(four, meta=meta | {name: value})
    for use in (lambda: trained.load(four), lambda: train(None, four)):
        with pytest.raises(CheckpointError, match=f"checkpoints/4 has no usable {name}") as error:
            use()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, "5", "[]", '{"a": 1}', "\0", "{"])
def test_the_record_of_a_job_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "samples.json").write_text(text)
    with pytest.raises(ConfigError, match=r"samples\.json"):
        read_record(tmp_path / "samples.json")


@pytest.mark.parametrize("step", ["../../x", {"a": 1}, 1.5, [4], True])
def test_the_record_of_a_job_names_a_step(four, tmp_path, step):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "samples.json").write_text(json.dumps({"weights": "x", "step": step}))
    with pytest.raises(ConfigError, match="names no step"):
        trained.load_for_job(four, None, tmp_path / "out", "samples")


@pytest.mark.parametrize("result", [5, [1], {"sha256": 5}, {"sha256": "x"}, None])
def test_statistics_that_are_none_are_refused(tmp_path, result):
    from ddx.sampling.measured import load_statistics

    (tmp_path / "statistics.json").write_text(json.dumps({"weights": "x", "result": result}))
    with pytest.raises(ConfigError, match=r"no finished statistics|is damaged"):
        load_statistics(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and more", b"\x93NUMPY"])
def test_arrays_of_statistics_that_are_none_are_refused(tmp_path, content):
    from ddx.runtime.storage import sha256
    from ddx.sampling.measured import load_statistics

    (tmp_path / "statistics.npz").write_bytes(content)
    record = {"weights": "x", "result": {"sha256": sha256(tmp_path / "statistics.npz")}}
    (tmp_path / "statistics.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"statistics\.npz has no statistics"):
        load_statistics(tmp_path)


def not_a_file(kind, path):
    """In place of a file of a run: a pipe that nobody writes to, or a device without end."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_nothing_waits_for_what_is_no_file(four, tmp_path, kind):
    shutil.copytree(four, tmp_path / "run")
    not_a_file(kind, tmp_path / "run" / "config.json")
    trained.load(tmp_path / "run")  # its checkpoint knows the config too
    not_a_file(kind, tmp_path / "samples.json")
    with pytest.raises(ConfigError, match=r"samples\.json"):
        read_record(tmp_path / "samples.json")
    not_a_file(kind, four / "checkpoints" / "4" / manifest.MANIFEST)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(CheckpointError, match="no usable checkpoint"),
    ):
        trained.load(four)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("no_pictures")
def test_a_run_replaces_metrics_that_are_no_file(four, tiny_config):
    not_a_file("pipe", four / "metrics.jsonl")
    train(tiny_config(train__num_steps=6), four)
    assert [json.loads(line)["step"] for line in (four / "metrics.jsonl").read_text().splitlines()] == [6]


@pytest.mark.usefixtures("no_pictures")
def test_of_a_linked_checkpoint_a_run_removes_the_link_alone(four, tiny_config, tmp_path):
    elsewhere = (four / "checkpoints" / "4").rename(tmp_path / "elsewhere")
    (four / "checkpoints" / "4").symlink_to(elsewhere)
    train(tiny_config(train__num_steps=16), four)  # keeps three: 8, 12 and 16
    assert sorted(p.name for p in (four / "checkpoints").iterdir()) == ["12", "16", "8"]
    assert manifest.damage(elsewhere, 4) is None
