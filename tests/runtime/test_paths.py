"""Paths that a user names: absolute where they are kept, in a bucket or on this machine, and none taken for another."""

import os
import pathlib
import subprocess
import sys

import pytest

import ddx.data
from ddx import config as config_lib
from ddx.config.keys import PATHS
from ddx.evaluation import compare, evaluate, measure
from ddx.runs.data import open_dataset
from ddx.runs.folder import load_config
from ddx.runtime import bucket
from ddx.runtime.errors import CheckpointError, ConfigError, StorageError
from ddx.runtime.paths import absolute, is_local, local_path, place, user_path
from ddx.sampling import forward, interpolate, load_statistics, reconstruct, sample
from ddx.training import train

ROOT = pathlib.Path(__file__).parents[2]
ELSEWHERE = [
    "s3://bucket/run",
    "file:///home/run",
    "hf://user/model",
    "GS://bucket",
    "abfss://c@account/run",
    "my_remote://run",
    "gs:/bucket/run",
    pathlib.Path("gs://bucket/run"),
]
TAKERS = {
    "train": lambda path: train(config_lib.default_config(), path),
    "train again": lambda path: train(None, path),
    "sample": lambda path: sample(path),
    "sample out": lambda path: sample("run", out=path),
    "sample low_res": lambda path: sample("run", low_res=path),
    "sample data_dir": lambda path: sample("run", data_dir=path),
    "interpolate": lambda path: interpolate(path),
    "interpolate out": lambda path: interpolate("run", out=path),
    "interpolate images": lambda path: interpolate("run", images=path),
    "interpolate data_dir": lambda path: interpolate("run", data_dir=path),
    "reconstruct": lambda path: reconstruct(path, "images"),
    "reconstruct images": lambda path: reconstruct("run", path),
    "reconstruct out": lambda path: reconstruct("run", "images", out=path),
    **{
        f"{job.__name__} {name}": lambda path, job=job, name=name: job(**({"workdir": "run"} | {name: path}))
        for job in (evaluate, measure, compare)
        for name in ("workdir", "out", "data_dir")
    },
    "load_statistics": load_statistics,
    "forward images": lambda path: forward.forward(path),
    "forward out": lambda path: forward.forward(out=path),
    "head_config": lambda path: config_lib.head_config(path, "npr"),
    "load digits": lambda path: ddx.data.load("digits", directory=path),
    "load folder": lambda path: ddx.data.load("folder", directory=path),
    "load cifar10": lambda path: ddx.data.load("cifar10", directory=path),
    "given_images": lambda path: ddx.data.given_images(path, ddx.data.Conversion(1), (8, 8, 1)),
    **{key: lambda path, key=key: with_key(key, str(path)) for key in PATHS},
    "train.init_from step": lambda path: with_key("train.init_from", f"{path}:12"),
}


def with_key(key, value, **others):
    config = config_lib.default_config()
    for name, v in ({key: value} | others).items():
        group, _, name = name.partition(".")
        config[group][name] = v
    return config_lib.validate(config)


@pytest.mark.parametrize("taker", TAKERS)
def test_a_path_with_a_scheme_is_refused_before_anything_else(taker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ELSEWHERE:
        with pytest.raises(ConfigError, match="gs://bucket/name") as error:
            TAKERS[taker](path)
        assert "\n" not in str(error.value) and str(path).partition(":")[0] in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taker", TAKERS)
def test_every_path_may_be_in_a_bucket(taker, tmp_path, monkeypatch):
    def asked():
        raise StorageError("asked for")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bucket, "_client", asked)
    if taker == "data.cache_dir":
        with pytest.raises(ConfigError, match="must be on this machine"):
            TAKERS[taker]("gs://bucket/run")
    elif taker == "load digits" or taker in PATHS or taker.startswith("train.init_from"):
        if taker == "train.backbone":
            return  # needs a head, see test_in_bucket.py
        TAKERS[taker]("gs://bucket/run")  # nothing is read there
    else:
        with pytest.raises((StorageError, CheckpointError), match=r"asked for|run has no trained network"):
            TAKERS[taker]("gs://bucket/run")
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_in_the_environment_is_read(monkeypatch):
    def asked():
        raise StorageError("asked for")

    monkeypatch.setattr(bucket, "_client", asked)
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://tfds-data/datasets")
    with pytest.raises(StorageError, match="asked for"):
        ddx.data.load("cifar10")


def test_a_path_in_a_bucket_stays_as_it_is():
    for given in ("gs://bucket/a/b", "gs://bucket/a/b/"):
        path = user_path(given, "--workdir")
        assert str(path) == "gs://bucket/a/b" and str(path / "c.json") == "gs://bucket/a/b/c.json"
        assert path.name == "b" and str(path.with_suffix(".last")) == "gs://bucket/a/b.last"
        assert user_path(path, "--workdir") == path and not is_local(path) and absolute(path) == path
        assert place(given) == place(path) == "gs://bucket/a/b"
    assert with_key("data.dir", "gs://bucket/a").data.dir == "gs://bucket/a"
    assert with_key("train.init_from", "gs://bucket/a:20").train.init_from == "gs://bucket/a:20"
    assert config_lib.named_run("gs://bucket/a:20") == ("gs://bucket/a", 20)
    assert config_lib.named_run("gs://bucket/a") == ("gs://bucket/a", None)


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("train", "workdir"),
        ("sample", "workdir"),
        ("sample", "out"),
        ("sample", "images"),
        ("sample", "reconstruct"),
        ("sample", "low_res"),
        ("evaluate", "data_dir"),
        ("forward", "out"),
    ],
)
def test_commands_refuse_it_in_one_line_and_write_nothing(command, flag, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", f"launch.{command}", f"--{flag}=s3://bucket/x"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(
        f"error: --{flag}=s3://bucket/x is neither a path on this machine nor gs://bucket/name"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["runs/a:b", "a:b/c", "12:30", "a:", "./gs/x", "/x/gs://y", "runs/http:b"])
def test_a_colon_alone_is_no_scheme(path):
    assert local_path(path, "--workdir") == pathlib.Path(path)


@pytest.mark.parametrize("path", ["", None, 5, b"runs", "a\0b"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ConfigError, match="--workdir="):
        local_path(path, "--workdir")


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs", "--out") == tmp_path / "runs"
    assert with_key("data.dir", "~/x").data.dir == str(tmp_path / "x")


def test_a_tilde_without_a_home_folder_is_refused(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConfigError, match="this user has none"):
        local_path("~/runs", "--workdir")


def test_a_config_keeps_folders_as_absolute_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert with_key("data.dir", "a/../b/").data.dir == str(tmp_path / "b")
    assert with_key("data.dir", "").data.dir == ""
    assert with_key("train.init_from", "runs/x").train.init_from == str(tmp_path / "runs/x")
    assert with_key("train.init_from", "runs/x:20").train.init_from == f"{tmp_path / 'runs/x'}:20"
    # A folder whose name ends as if in a step, which validating again does not take for one.
    again = config_lib.validate(with_key("train.init_from", "runs/x:20/"))
    assert config_lib.named_run(again.train.init_from)[1] is None
    assert pathlib.Path(again.train.init_from) == tmp_path / "runs/x:20"
    assert config_lib.named_run("runs/a:b") == ("runs/a:b", None)


def test_another_spelling_of_the_same_folder_is_no_other_config(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to("runs")
    for key, step in (("backbone", ""), ("init_from", ""), ("init_from", ":7")):
        old = {"train": {key: f"runs/x{step}"}}  # as versions before stored it
        for spelling in (f"runs/x{step}", f"./runs/x{step}", f"{tmp_path}/runs/x{step}", f"link/x{step}"):
            assert config_lib.differences(old, {"train": {key: spelling}}) == []
        told = [f"train.{key} runs/x{step} -> runs/y{step}"]
        assert config_lib.differences(old, {"train": {key: f"runs/y{step}"}}) == told
    assert config_lib.differences({"train": {"init_from": "runs/x:7"}}, {"train": {"init_from": "runs/x"}})


def test_data_in_a_relative_folder_are_found_from_anywhere(tiny_config, tmp_path, monkeypatch):
    from ddx.runtime.pictures import save_png

    (tmp_path / "images").mkdir()
    images = ddx.data.load("digits").read([*range(16)])["image"]
    for i, image in enumerate(images):
        save_png(tmp_path / "images" / f"{i}.png", image)
    monkeypatch.chdir(tmp_path)
    train(tiny_config(data__name="folder", data__dir="images", data__channels=1, train__num_steps=1), "run")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    config = load_config(pathlib.Path("../run"))
    assert open_dataset(config).num_examples == 16 and config.data.dir == str(tmp_path / "images")
    assert "of 3 examples" in evaluate("../run", split="train", max_examples=3, batch_size=3).message


def test_a_head_of_a_relative_run_is_trained_from_anywhere(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "runs" / "a:b").mkdir(parents=True)
    (tmp_path / "runs" / "a:b" / "config.json").write_text(config_lib.to_json(tiny_config()))
    monkeypatch.chdir(tmp_path)
    assert config_lib.head_config("runs/a:b", "npr").train.backbone == str(tmp_path / "runs" / "a:b")
