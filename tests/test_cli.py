"""The commands as a user types them: one-line errors, exit codes, help."""

import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = "--config=configs/digits.py"


def run(command, *args):
    return subprocess.run(
        [sys.executable, "-m", f"launch.{command}", *args], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_help_is_quick_and_lists_the_flags(command):
    start = time.perf_counter()
    done = run(command, "--help")
    assert time.perf_counter() - start < 3
    assert "--workdir" in done.stdout and f"python -m launch.{command}" in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["train", DIGITS], 2, "--workdir is missing"),
        (["train", DIGITS, "--config.train.batchsize=64"], 2, "Did you mean train.batch_size?"),
        (["train", DIGITS, "--config.train.batch_size=abc"], 2, "train.batch_size='abc' must be an int"),
        (["train", DIGITS, "--config.train.batch_size=64.5"], 2, "train.batch_size='64.5' must be an int"),
        (["train", DIGITS, "--config.train.batch_size=-5"], 2, "train.batch_size=-5 must be at least 1"),
        (["train", DIGITS, "--config.model.multipliers=(1,2,'x')"], 2, "'x' must be an int"),
        (["train", DIGITS, "--config.data.flip=maybe"], 2, "data.flip='maybe' must be True or False"),
        (["train", DIGITS, "--config.sample.num_steps=2000"], 2, "exceeds process.num_steps=1000"),
        (
            ["train", "--config=configs/nope.py"],
            2,
            "config file not found: configs/nope.py. Name a file of yours or one of the shipped configs: blurr",
        ),
        (["train", "--config=configs/ddpm_lsun.py:chruch"], 2, "choose one of: bedroom"),
        (["train", "--config.train.batch_size=3"], 2, "needs a config to change"),
        (["train", DIGITS, "extra"], 2, "unexpected argument 'extra'"),
        (["train", DIGITS, "--confg=3"], 2, "Unknown command line flag 'confg'. Did you mean: config ?"),
        (["train"], 2, "Pass --config"),
        (["train", DIGITS, "--config.data.name=folder", "--config.data.dir=/nowhere"], 4, "/nowhere"),
        (["train", DIGITS, "--config.data.name=mnist", "--config.data.dir=/nowhere"], 4, "array_record"),
        (["train", DIGITS, "--config.data.split=trian"], 4, "train"),
        (["train", DIGITS, "--config.data.image_size=7"], 2, "multiples of 2"),
        (["sample"], 3, "has no trained network"),
        (["sample", "--num_steps=x"], 2, "num_steps"),
        (["sample", "--sampler=dpm"], 2, "sampler"),
        (["sample", "--interpolate", "--gif"], 2, "--gif films samples"),
        (["sample", "--images=x"], 2, "Add --interpolate"),
        (["sample", "--interpolate", "--reconstruct=x"], 2, "two jobs"),
        (["sample", "--interpolate", "--low_res=x"], 2, "--low_res are images to enlarge"),
        (["evaluate"], 3, "has no trained network"),
        (["evaluate", "--metrics=fod"], 2, "Choose of: bpd, rate_distortion"),
        (["evaluate", "--variance=tiny"], 2, "variance"),
        (["evaluate", "--metrics=comparison,bpd"], 2, "--metrics=comparison is a job of its own"),
        (["evaluate", "--metrics=comparison", "--eta=0.5"], 2, "Leave out --eta"),
        (["evaluate", "--metrics=statistics", "--num_steps=5"], 2, "Leave out --num_steps"),
        (["evaluate", "--num_steps=5,10"], 2, "several are for --metrics=comparison"),
        (["evaluate", "--metrics=comparison", "--num_steps=5,x"], 2, "--num_steps=5,x must be numbers"),
        (["evaluate", "--basis=dct"], 2, "--basis is of statistics"),
        (["train", "--config=configs/heads.py:npr,/nowhere"], 2, "Name the folder of a run that is trained"),
        (["train", "--config=configs/heads.py"], 2, "write npr or sn and the folder of a trained network"),
        (["evaluate", "--max_examples=0"], 2, "max_examples=0 must be at least 1"),
        (["train", "--config=configs/iddpm_cifar10.py:l2"], 2, "write simple, hybrid or vlb"),
    ],
)
def test_mistakes_are_one_line_with_an_exit_code(args, code, message, tmp_path):
    workdir = [] if message.startswith("--workdir") else [f"--workdir={tmp_path / 'run'}"]
    done = run(args[0], *args[1:], *workdir)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_debug_shows_the_traceback(tmp_path):
    done = run("sample", f"--workdir={tmp_path}", "--debug")
    assert "Traceback" in done.stderr and "CheckpointError" in done.stderr


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("train", DIGITS, f"--workdir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2 and "Choose another --workdir" in done.stderr
