"""The commands as a user types them: one-line errors, exit codes, help."""

import json
import pathlib
import shutil
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
        (["train", "--config=configs/nope.py"], 2, "config file not found: configs/nope.py. Name a file or a shipped"),
        (["train", "--config=configs/ddpm_lsun.py:chruch"], 2, "choose one of: bedroom"),
        (["train", "--config.train.batch_size=3"], 2, "needs a config to change"),
        (["train", DIGITS, "extra"], 2, "unexpected argument 'extra'"),
        (["train", DIGITS, "--confg=3"], 2, "unknown flag --confg. Did you mean --config? See --help"),
        (["train"], 2, "Pass --config"),
        (["train", DIGITS, "--config.data.name=folder", "--config.data.dir=/nowhere"], 4, "/nowhere"),
        (["train", DIGITS, "--config.data.name=mnist", "--config.data.dir=/nowhere"], 4, "array_record"),
        (
            ["train", DIGITS, "--config.data.name=array", "--config.data.dir=/nowhere.npy"],
            4,
            "cannot read /nowhere.npy",
        ),
        (["train", DIGITS, "--config.data.name=array"], 2, "needs the .npy or .npz file: set data.dir"),
        (["train", DIGITS, "--config.data.split=trian"], 4, "train"),
        (["train", DIGITS, "--config.data.image_size=7"], 2, "multiples of 2"),
        (["train", DIGITS, "--config.data.image_size=8,15"], 2, "8 x 15: both must be multiples of 2"),
        (["train", DIGITS, "--config.data.image_size=(15, 8)"], 2, "15 x 8: both must be multiples of 2"),
        (["train", DIGITS, "--config.data.image_size=8x16"], 2, "'8x16' must be an int or two, such as 64 or 64,96"),
        (["sample"], 3, "has no trained network"),
        (["sample", "--num_steps=x"], 2, "num_steps"),
        (["sample", "--sampler=dpm"], 2, "sampler"),
        (["sample", "--guidance=2", "--guidance_interval="], 3, "has no trained network"),  # guided at all times
        (["sample", "--guidance_interval=1,x"], 2, "--guidance_interval=1,x must be numbers"),
        (["sample", "--interpolate", "--gif"], 2, "--gif and --png are of samples"),
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
        (["evaluate", "--metrics=comparison", "--num_steps=5,x"], 2, "--num_steps=5,x must be numbers, such as 25"),
        (["evaluate", "--metrics=bpd,comparison"], 2, "--metrics=bpd is a job of its own"),
        (["evaluate", "--metrics=comparisons"], 2, "Did you mean comparison?"),
        (["evaluate", "--eta=0"], 2, "eta=0.0 must be above 0 and at most 100"),
        (["evaluate", "--basis=dct"], 2, "basis is of statistics and model_statistics, not bpd. Leave out --basis"),
        (["train", "--config=configs/heads.py:npr,/nowhere"], 2, "Name the folder of a run that is trained"),
        (["train", "--config=configs/heads.py"], 2, "write npr, sn, ocm or ocm_frequency and the folder"),
        (["evaluate", "--max_examples=0"], 2, "max_examples=0 must be at least 1"),
        (["train", "--config=configs/iddpm_cifar10.py:l2"], 2, "write simple, hybrid or vlb"),
        (["train", "--config="], 2, "--config is empty"),
        (["train", "--config=digit"], 2, "Did you mean digits?"),
        (
            ["train", "--config=digits", "--config.process.schedule=jsd"],
            2,
            "where nothing of it is left; use 'v' or 'x0'\n",
        ),
        (["train", "--config=digits", "--config.seed=1:2"], 2, "seed='1:2' must be an int"),
        (["train", "--config=digits", "--noconfig.data.flip=1"], 2, "--noconfig.data.flip=1 does not take an argument"),
        (["train", "--flagfile=/nowhere"], 2, "Unable to open flagfile"),
        (["sample", "--gif=maybe"], 2, "--gif=maybe must be true or false"),
        (["sample", "--labels="], 2, "--labels is empty"),
        (["sample", "--nogif=1"], 2, "--nogif=1 does not take an argument"),
        (["sample", "--nodebug=1"], 2, "--nodebug=1 does not take an argument"),
        (["sample", "--debug=maybe"], 2, "--debug=maybe must be true or false"),
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


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["--debug=true"], True),
        (["--debug=1"], True),
        (["-debug"], True),
        (["--debug=false"], False),
        (["--debug=0"], False),
        (["--debug", "--nodebug"], False),
        (["--nodebug", "--debug=True"], True),
    ],
)
def test_debug_is_read_as_all_flags_are(flags, shown):
    for mistake in ([], ["--no_such_flag"], ["--config=nope"]):
        done = run("train", *flags, *mistake)
        assert ("Traceback" in done.stderr) == shown, done.stderr


def test_a_line_break_in_a_path_hides_nothing_of_the_message(tmp_path):
    done = run("sample", f"--workdir={tmp_path}/a\nb")
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {tmp_path}/a\\nb has no trained network. Train one with")


def test_a_config_file_that_exits_does_not_end_as_if_all_were_well(tmp_path):
    (tmp_path / "mine.py").write_text("import sys\ndef get_config():\n    sys.exit(0)\n")
    done = run("train", f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}/run")
    assert done.returncode == 2 and done.stderr.startswith(f"error: config file {tmp_path}/mine.py exits (0) in line 3")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            MemoryError("Unable to allocate 7 TiB"),
            2,
            "out of memory on the host: Unable to allocate 7 TiB. Ask for less",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n=====\n"),
            2,
            "out of memory: Out of mem",
        ),
        (
            RuntimeError("Unable to initialize backend 'tpu': X. (set JAX_PLATFORMS='' to y)"),
            2,
            "the TPU does not star",
        ),
        (FileNotFoundError(2, "No such file", "a\nb"), 1, "a\\nb: No such file\n"),
        (ValueError("=====\nthe main thing\n====="), 1, "ValueError: the main thing. Run with --debug to see where\n"),
    ],
)
def test_whatever_a_command_fails_of_is_one_line(error, code, line):
    from ddx.cli import command

    text, found = command._said(error)
    assert found == code and f"{text}\n".startswith(line) and "\n" not in text


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("train", DIGITS, f"--workdir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 2 and "Choose another --workdir" in done.stderr


def test_a_change_without_a_config_is_of_the_run_s_own(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    done = run("train", f"--workdir={tmp_path / 'run'}", "--config.train.num_steps=13", "--config.train.batch_size=8")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["train"]["num_steps"], config["train"]["batch_size"]) == (13, 8)
    assert config["model"] == json.loads((whole / "config.json").read_text())["model"]
    done = run("train", f"--config={tmp_path / 'run' / 'config.json'}", f"--workdir={tmp_path / 'run'}")
    assert "already complete at step 13" in done.stdout
    done = run("train", "--workdir", str(tmp_path / "none"), "--config.train.num_steps=13")
    assert done.returncode == 2 and f"there is no {tmp_path / 'none'}/config.json. Pass --config" in done.stderr
