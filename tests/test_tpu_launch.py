"""The scripts of launch/tpu: what they would run, and what they do with a stand-in for gcloud (tests/gcloud.py)."""

import configparser
import functools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time

import pytest
import yaml

from ddx.config import files
from ddx.config.evaluation import EVALUATION
from ddx.config.sampling import SAMPLING
from ddx.config.values import to_json, validate
from ddx.runtime import storage
from ddx.runtime.preemption import EXIT_CODE

ROOT = pathlib.Path(__file__).parents[1]
TPU = ROOT / "launch" / "tpu"
PAGE = ROOT / "docs" / "tpu.md"
SNAPSHOTS = pathlib.Path(__file__).parent / "data" / "tpu_launch"
SCRIPTS = ["create.sh", "setup.sh", "run.sh", "watch.sh", "stop.sh", "delete.sh"]
FLAGS = "--name --zone --project --type --version --spot --queued --workdir --retries --delay --dry_run".split()

TOOLS = (
    "awk basename bash cat date dirname env flock grep gzip ln mkdir mktemp mv rm sed setsid sh tail tar tee".split()
)

NAMED = ["--name=ddx", "--zone=us-central1-a"]
V3 = [*NAMED, "--type=v3-8"]
V5E = ["--name=ddx", "--zone=us-west4-a", "--project=my-project", "--type=v5litepod-8", "--queued", "--spot"]
WORKDIR = "--workdir=gs://my-runs/digits"
TRAIN = ["--", "python", "-m", "launch.train", "--config=digits"]
AWKWARD = ["it's", 'a "b"', "$HOME `id` \\", "", "two  spaces", "*", "new\nline", "-- --name=x", "ä;&|<>#!~"]


class Cloud:
    """A folder with a stand-in for gcloud, which scripts find on their PATH instead of the real one."""

    def __init__(self, folder):
        self.folder, self.machine = folder / "cloud", folder / "cloud" / "machine"
        self.bin = folder / "bin"
        self.folder.mkdir()
        self.bin.mkdir()
        # All that the scripts may call, so that no other gcloud is found.
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.executable("gcloud", f'exec {sys.executable} -S {ROOT / "tests" / "gcloud.py"} "$@"')
        self.executable("sleep", 'echo "$1" >> "$CLOUD/slept"')
        self.write("token", "a token")
        self.write("project", "a-project")
        self.environment = {**os.environ, "PATH": str(self.bin), "CLOUD": str(self.folder), "TMPDIR": str(folder)}

    def executable(self, name, line, folder=None):
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{line}\n")
        path.chmod(0o755)

    def write(self, name, text):
        (self.folder / name).write_text(text)

    def plan(self, **kinds):
        self.write("plan.json", json.dumps(kinds))

    def has_a_tpu(self):
        """The TPU exists, with this checkout on it and a Python."""
        self.machine.mkdir()
        self.write("state", "READY")
        self.has_a_python()
        assert self.run("setup.sh", *V3).returncode == 0
        self.forget()

    def has_a_python(self):
        """The machine has a stand-in for uv, which makes a Python that knows the packages of these tests and a TPU."""
        path = os.pathsep.join(sys.path)
        python = (
            f'if [[ $JAX_PLATFORMS == tpu ]]; then echo "a TPU"; else PYTHONPATH={path} exec {sys.executable} "$@"; fi'
        )
        self.executable("python", python, self.folder)
        makes = 'mkdir -p ~/ddx-python/bin && ln -sf "$CLOUD/python" ~/ddx-python/bin/python'
        self.executable("uv", f'echo "$@" >> "$CLOUD/uv"; [[ $1 != venv ]] || {{ {makes}; }}')

    def start(self, script, *args):
        command = [str(TPU / script), *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        interruptible = functools.partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        )  # if tests are in the background
        where = {"env": self.environment, "cwd": self.folder}
        return subprocess.Popen(command, **pipes, text=True, preexec_fn=interruptible, **where)

    def run(self, script, *args):
        process = self.start(script, *args)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def forget(self):
        (self.folder / "calls.jsonl").unlink()

    def calls(self):
        """What gcloud was asked to do with the TPU, but for looking: create, delete, scp, install, job."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if call[0] == "compute" and call[3] != "describe"]

    def verbs(self):
        return [kind(call) for call in self.calls()]

    def slept(self):
        path = self.folder / "slept"
        return list(map(int, path.read_text().split())) if path.exists() else []


def kind(call):
    command = remote(call)
    return "job" if "job.sh run" in command else "install" if "install.sh" in command else call[3]


def remote(call):
    return next((arg.removeprefix("--command=") for arg in call if arg.startswith("--command=")), "")


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def error(done, code):
    """The only line of stderr that is an error."""
    assert done.returncode == code, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


# What they would run.

DRY_RUNS = {
    "create_v3-8": ["create.sh", *V3],
    "create_v3-8_spot": ["create.sh", *V3, "--spot"],
    "create_v5e_queued_spot": ["create.sh", *V5E],
    "create_v6e_of_another_version": ["create.sh", *NAMED, "--type=v6e-8", "--version=mine"],
    "setup_v3-8": ["setup.sh", *V3],
    "setup_v5e": ["setup.sh", *V5E],
    "run_awkward": ["run.sh", *NAMED, "--", "python", *AWKWARD],
    "run_sample": ["run.sh", *V3, WORKDIR, "--", "python", "-m", "launch.sample", "--num_samples=64"],
    "watch_v3-8": ["watch.sh", *V3, WORKDIR, *TRAIN],
    "watch_v5e_queued_spot": ["watch.sh", *V5E, "--retries=3", WORKDIR, *TRAIN],
    "stop": ["stop.sh", *NAMED],
    "delete_v3-8": ["delete.sh", *V3],
    "delete_v5e_queued_spot": ["delete.sh", *V5E],
}


@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_dry_run_prints_the_commands_and_runs_none(cloud, name):
    script, *args = DRY_RUNS[name]
    done = cloud.run(script, "--dry_run", *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.replace(str(ROOT), "CHECKOUT") == (SNAPSHOTS / f"{name}.txt").read_text()
    assert not (cloud.folder / "calls.jsonl").exists()


def test_every_snapshot_has_its_dry_run():
    assert {path.stem for path in SNAPSHOTS.iterdir()} == set(DRY_RUNS)


def test_a_printed_command_is_what_is_run(cloud):
    cloud.write("state", "READY")
    cloud.plan(job=[0])
    args = [*NAMED, "--project=p", "--", "python", *AWKWARD]
    (printed,) = [shlex.split(cloud.run("run.sh", "--dry_run", *args).stdout)]
    assert cloud.run("run.sh", *args).returncode == 0
    assert [printed[1:]] == cloud.calls()


@pytest.mark.parametrize(
    ("type_", "image", "extras"),
    [
        ("v2-8", "tpu-ubuntu2204-base", "tpu-v3,gcs"),
        ("v3-8", "tpu-ubuntu2204-base", "tpu-v3,gcs"),
        ("v4-8", "tpu-ubuntu2204-base", "tpu,gcs"),
        ("v5litepod-1", "v2-alpha-tpuv5-lite", "tpu,gcs"),
        ("v5p-8", "v2-alpha-tpuv5", "tpu,gcs"),
        ("v6e-4", "v2-alpha-tpuv6e", "tpu,gcs"),
    ],
)
def test_image_and_packages_are_chosen_by_chip(cloud, type_, image, extras):
    assert f" --version={image} " in cloud.run("create.sh", "--dry_run", *NAMED, f"--type={type_}").stdout
    queued = cloud.run("create.sh", "--dry_run", "--queued", *NAMED, f"--type={type_}").stdout
    assert f" --runtime-version={image} " in queued
    assert f"install.sh {extras}'" in cloud.run("setup.sh", "--dry_run", *NAMED, f"--type={type_}").stdout


# Mistakes.


TWICE = "--workdir is given twice. Leave it out after --"
NO_COMMAND = "there is no command. Write it after --, such as -- python -m launch.train --config=digits"
BAD_NAME = "is no name of a TPU. Take at most 63 small letters, digits and hyphens, such as --name=ddx"
NOTHING_RUN = "stop.sh runs no command. Leave out -- and what follows; run.sh takes it"
BAD_ZONE = "is no zone, which has a letter at its end. Write it as --zone=us-central1-a"
ON_DISK = "goes with the machine. Name a folder in a bucket, such as --workdir=gs://BUCKET/digits"
NO_FOLDER = "--workdir is missing. Name the run's folder in a bucket, such as --workdir=gs://BUCKET/digits"
CHIPS = "Choose one of v2-8, v3-8, v4-8, v5litepod-8, v5p-8 and v6e-8, or another size"
NO_FLAG = "Flags are written --name=value, and the command for the TPU comes after --"
MISTAKES = {
    "create.sh": "--name is missing. Name the TPU, such as --name=ddx",
    "create.sh --name=ddx": "--zone is missing. Name a zone that has such TPUs, such as --zone=us-central1-a",
    "create.sh --name=ddx --zone=us-west4-a": "--type is missing. Name the TPU's type, such as --type=v3-8",
    "setup.sh --name=ddx --zone=us-west4-a": "--type is missing. Name the TPU's type, such as --type=v3-8",
    "delete.sh --zone=us-west4-a": "--name is missing. Name the TPU, such as --name=ddx",
    "watch.sh --name=ddx --zone=us-west4-a --type=v3-8 -- python": NO_FOLDER,
    "watch.sh --name=ddx --zone=us-west4-a --type=v3-8 --workdir=gs://b/r": NO_COMMAND,
    "run.sh --name=ddx --zone=us-west4-a --": NO_COMMAND,
    "run.sh --name=ddx --zone=us-west4-a --workdir=gs://b/r -- python --workdir=c": TWICE,
    "run.sh --name=ddx --zone=us-west4-a --workdir=gs://b/r -- python --workdir c": TWICE,
    "stop.sh --name=ddx --zone=us-west4-a -- ls": NOTHING_RUN,
    "run.sh python": f"unexpected argument python. {NO_FLAG}",
    "run.sh --nam=ddx": "unknown flag --nam. Did you mean --name? See --help",
    "run.sh --names=ddx": "unknown flag --names. Did you mean --name? See --help",
    "run.sh --wrkdir=gs://b/r": "unknown flag --wrkdir. Did you mean --workdir? See --help",
    "run.sh --que": "unknown flag --que. Did you mean --queued? See --help",
    "run.sh --accelerator-type=v3-8": "unknown flag --accelerator-type. Did you mean --type? See --help",
    "run.sh --runtime-version=x": "unknown flag --runtime-version. Did you mean --version? See --help",
    "run.sh --dry-run": "unknown flag --dry-run. Did you mean --dry_run? See --help",
    "run.sh --tpu=v3": "unknown flag --tpu. See --help",
    "run.sh -n": "unknown flag -n. Did you mean --name? See --help",
    "run.sh --name ddx": "--name has no value. Write --name=VALUE; see --help",
    "run.sh --zone=": "--zone has no value. Write --zone=VALUE; see --help",
    "run.sh --spot=1": "--spot takes no value. Write --spot, or leave it out",
    "run.sh --name=My_TPU": f"--name=My_TPU {BAD_NAME}",
    "run.sh --name=ddx-": f"--name=ddx- {BAD_NAME}",
    f"run.sh --name={'d' * 64}": f"--name={'d' * 64} {BAD_NAME}",
    "run.sh --zone=us-central1": f"--zone=us-central1 {BAD_ZONE}",
    "run.sh --workdir=runs/digits": f"--workdir=runs/digits {ON_DISK}",
    "run.sh --workdir=gs://bucket": f"--workdir=gs://bucket {ON_DISK}",
    "watch.sh --retries=many": "--retries=many must be a whole number, such as --retries=10",
    "watch.sh --delay=0.5": "--delay=0.5 must be whole seconds, such as --delay=30",
    "create.sh --type=v5e-8": "--type=v5e-8 is unknown. Google's name for it is --type=v5litepod-8",
    "create.sh --type=h100": f"--type=h100 is unknown. {CHIPS}",
    "create.sh --type=v3": "--type=v3 has no size. Write it with one, such as --type=v3-8",
    "create.sh --type=v4-8-16": "--type=v4-8-16 has no size. Write it with one, such as --type=v4-8",
    "create.sh --type=v3-x8": "--type=v3-x8 has no size. Write it with one, such as --type=v3-8",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_that_says_how_to_fix_it(cloud, line):
    done = cloud.run(*line.split())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {MISTAKES[line]}\n")
    assert not (cloud.folder / "calls.jsonl").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_a_script_does_and_lists_the_flags(cloud, script):
    done = cloud.run(script, "--help")
    assert done.returncode == 0 and f"  launch/tpu/{script} --name=ddx" in done.stdout
    assert re.findall(r"^  (--\w+)", done.stdout, re.M) == [*FLAGS]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_gcloud_that_cannot_be_used_is_told_before_anything_happens(cloud, script):
    args = [*V3, *([WORKDIR, *TRAIN] if script in ("run.sh", "watch.sh") else [])]
    (cloud.folder / "project").unlink()
    missing = "error: --project is missing, and gcloud is set to none. Write --project=PROJECT"
    assert error(cloud.run(script, *args), 2) == missing
    (cloud.folder / "token").unlink()
    assert error(cloud.run(script, *args), 2) == "error: gcloud is not logged in. Run gcloud auth login"
    (cloud.bin / "gcloud").unlink()
    assert error(cloud.run(script, *args), 2).startswith(
        "error: gcloud is not installed. See https://cloud.google.com/"
    )
    assert not cloud.calls()


@pytest.mark.parametrize("script", ["setup.sh", "run.sh", "stop.sh"])
def test_a_tpu_that_is_not_there_is_told(cloud, script):
    args = [*V3, *(TRAIN if script == "run.sh" else [])]
    wanted = "error: ddx in us-central1-a is {}. Create it with create.sh, or wait if it is on its way"
    assert error(cloud.run(script, *args), 1) == wanted.format("MISSING")
    cloud.write("state", "PREEMPTED")
    assert error(cloud.run(script, *args), 1) == wanted.format("PREEMPTED")
    cloud.plan(describe=[{"code": 1, "says": "ERROR: PERMISSION_DENIED"}])
    done = cloud.run(script, *args)
    assert "gcloud does not tell how ddx in us-central1-a is doing" in error(done, 1)
    assert "PERMISSION_DENIED" in done.stderr
    assert not cloud.calls()


# One thing at a time.


def test_create_waits_until_a_queued_resource_is_there(cloud):
    waits = ["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING"]
    cloud.plan(describe=[{"code": 0, "prints": state} for state in waits])
    done = cloud.run("create.sh", *V5E, "--delay=7")
    assert done.returncode == 0 and cloud.verbs() == ["create"] and cloud.slept() == [7, 7, 7]
    assert done.stderr.splitlines() == [
        "ddx is WAITING_FOR_RESOURCES; Ctrl-C stops waiting, not the request",
        "ddx is PROVISIONING; Ctrl-C stops waiting, not the request",
        "ddx is ready, and costs money until delete.sh. Next: launch/tpu/setup.sh with the same flags",
    ]


def test_create_tells_a_request_that_failed(cloud):
    cloud.plan(create=[1])
    assert error(cloud.run("create.sh", *V3), 1).startswith(
        "error: ddx was not created in us-central1-a: gcloud says why"
    )
    cloud.plan(describe=[{"code": 0, "prints": "FAILED"}])
    wanted = "error: ddx is FAILED. Run delete.sh, and create.sh again or in another zone"
    assert error(cloud.run("create.sh", *V5E), 1) == wanted


def test_delete_says_what_to_try_when_it_fails(cloud):
    cloud.plan(delete=[1])
    assert "If it is a queued resource, add --queued" in error(cloud.run("delete.sh", *V3), 1)
    assert cloud.run("delete.sh", *V3).returncode == 0


@pytest.mark.parametrize("flags", [V3, V5E], ids=["v3-8", "v5e"])
def test_setup_brings_this_checkout_and_what_its_chip_needs(cloud, flags):
    cloud.machine.mkdir()
    cloud.write("state", "READY")
    cloud.write("request", "ACTIVE")
    cloud.has_a_python()
    for path in ("ddx/ddx/removed_since.py", "ddx/runs/digits/config.json"):
        (cloud.machine / path).parent.mkdir(parents=True, exist_ok=True)
        (cloud.machine / path).write_text("")
    done = cloud.run("setup.sh", *flags)
    assert done.returncode == 0 and "a TPU" in done.stdout
    extras = "tpu-v3,gcs" if flags is V3 else "tpu,gcs"
    python = f"{cloud.machine}/ddx-python"
    assert (cloud.folder / "uv").read_text().splitlines() == [
        f"venv --quiet --allow-existing --seed --python 3.12 {python}",
        f"pip install --quiet --python {python}/bin/python --editable .[{extras}]",
    ]
    assert (cloud.machine / "ddx/runs/digits/config.json").exists()
    for folder in ("ddx", "launch", "configs"):
        here = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        there = {path.relative_to(cloud.machine / "ddx") for path in (cloud.machine / "ddx" / folder).rglob("*.*")}
        assert {path for path in here if "__pycache__" not in path.parts and path.suffix} == {
            path for path in there if (cloud.machine / "ddx" / path).is_file()
        }
    assert not list(cloud.folder.parent.glob("tmp.*"))


def test_awkward_arguments_arrive_as_they_are(cloud):
    cloud.has_a_tpu()
    show = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['MINE'], os.getcwd()]))"
    done = cloud.run("run.sh", *NAMED, WORKDIR, "--", "env", "MINE=it's mine", "python", "-c", show, *AWKWARD)
    assert json.loads(done.stdout) == [[*AWKWARD, WORKDIR], "it's mine", str(cloud.machine / "ddx")]


# A command on the machine.


def wait_for(path):
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.05)


def python(cloud, program):
    """A command that leaves a line in began each time it starts."""
    begin = f"open({str(cloud.folder / 'began')!r}, 'a').write('x'); "
    return ["--", "python", "-c", begin + program]


@pytest.mark.parametrize("code", [0, 2, 3, 143])
def test_run_shows_what_a_command_prints_and_returns_its_exit_code(cloud, code):
    cloud.has_a_tpu()
    done = cloud.run("run.sh", *NAMED, *python(cloud, f"print('hello'); raise SystemExit({code})"))
    assert (done.returncode, done.stdout) == (code, "hello\n")


def test_a_lost_connection_leaves_the_command_alone_and_the_same_command_attaches(cloud):
    cloud.has_a_tpu()
    end = cloud.folder / "end"
    wait = (
        f"import os, time; print('one', flush=True)\nwhile not os.path.exists({str(end)!r}): time.sleep(0.05)\nexit(7)"
    )
    first = cloud.start("run.sh", *NAMED, *python(cloud, wait))
    assert first.stdout.readline() == "one\n"
    os.killpg(int((cloud.folder / "login").read_text()), signal.SIGKILL)
    first.communicate(timeout=60)
    assert first.returncode != 7

    other = cloud.run("run.sh", *NAMED, "--", "python", "other.py")
    assert "runs here already. Wait for it, or end it with stop.sh" in error(other, 2)
    refused = "error: a job runs on ddx, so nothing was installed. Wait for it, or end it with stop.sh"
    assert error(cloud.run("setup.sh", *V3), 1) == refused

    again = cloud.start("run.sh", *NAMED, *python(cloud, wait))
    assert again.stdout.readline() == "one\n"
    end.write_text("")
    again.communicate(timeout=60)
    assert again.returncode == 7 and (cloud.folder / "began").read_text() == "x"


def test_stop_lets_a_command_save(cloud):
    cloud.has_a_tpu()
    assert "no command runs here" in cloud.run("stop.sh", *NAMED).stdout
    saves = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(143))); "
        "print('one', flush=True); time.sleep(60)"
    )
    running = cloud.start("run.sh", *NAMED, *python(cloud, saves))
    assert running.stdout.readline() == "one\n"
    done = cloud.run("stop.sh", *NAMED)
    assert done.returncode == 0 and done.stdout.endswith("ended with exit code 143\n")
    assert running.communicate(timeout=60)[0] == "saved\n" and running.returncode == 143


def test_a_command_that_was_killed_with_its_machine_starts_again(cloud):
    cloud.has_a_tpu()
    running = cloud.start("run.sh", *NAMED, *python(cloud, "import time; print('one', flush=True); time.sleep(60)"))
    assert running.stdout.readline() == "one\n"
    os.killpg(int((cloud.machine / "ddx-job/pid").read_text()), signal.SIGKILL)
    running.communicate(timeout=60)
    assert running.returncode == 137
    assert cloud.run("run.sh", *NAMED, *python(cloud, "print('two')")).stdout == "two\n"


def test_ctrl_c_says_that_the_command_runs_on(cloud):
    cloud.has_a_tpu()
    running = cloud.start("run.sh", *NAMED, *python(cloud, "import time; print('one', flush=True); time.sleep(60)"))
    assert running.stdout.readline() == "one\n"
    os.killpg(int((cloud.folder / "login").read_text()), signal.SIGINT)
    running.send_signal(signal.SIGINT)
    assert "A command that has begun runs on" in running.communicate(timeout=60)[1]
    assert running.returncode == 130
    assert "ended with exit code 143" in cloud.run("stop.sh", *NAMED).stdout


# Watching.


def watch(cloud, *flags):
    return cloud.run("watch.sh", *(flags or V3), WORKDIR, *TRAIN)


def test_watch_creates_sets_up_runs_and_says_what_still_costs(cloud):
    cloud.plan(install=[0], job=[0])
    done = watch(cloud)
    assert done.returncode == 0 and cloud.verbs() == ["create", "scp", "install", "job"]
    assert done.stderr.splitlines()[-1] == "done. ddx still costs money: delete it with launch/tpu/delete.sh"


@pytest.mark.parametrize("gone", ["PREEMPTED", "TERMINATED"])
def test_watch_recreates_a_preempted_tpu_and_runs_the_same_command(cloud, gone):
    cloud.plan(install=[0, 0], job=[{"code": 255, "state": gone}, 0])
    done = watch(cloud, *V3, "--spot")
    assert done.returncode == 0 and f"ddx in us-central1-a is {gone}" in done.stderr
    once = ["create", "scp", "install", "job"]
    assert cloud.verbs() == [*once, "delete", *once]
    calls = cloud.calls()
    assert calls[0] == calls[5] and "--spot" in calls[0]
    assert remote(calls[3]) == remote(calls[-1])
    assert remote(calls[3]).endswith(f"job.sh run python -m launch.train --config=digits {WORKDIR}")


def test_watch_recreates_a_queued_resource(cloud):
    cloud.plan(install=[0, 0, 0], job=[{"code": 143, "request": "SUSPENDED"}, {"code": 255, "state": "PREEMPTED"}, 0])
    assert watch(cloud, *V5E).returncode == 0
    once = ["create", "scp", "install", "job"]
    assert cloud.verbs() == [*once, "delete", *once, "delete", *once]
    created, deleted = cloud.calls()[0], cloud.calls()[4]
    assert created[2:5] == ["queued-resources", "create", "ddx"] and {"--node-id=ddx", "--spot"} <= {*created}
    assert deleted[2:5] == ["queued-resources", "delete", "ddx"] and "--force" in deleted


def test_watch_recreates_a_queued_resource_whose_machine_was_deleted(cloud):
    cloud.write("request", "ACTIVE")
    cloud.plan(install=[0], job=[0])
    assert watch(cloud, *V5E).returncode == 0
    assert cloud.verbs() == ["delete", "create", "scp", "install", "job"]


def test_watch_waits_for_a_queued_resource(cloud):
    states = ["ACCEPTED", "WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "SUSPENDING"]
    cloud.plan(describe=[{"code": 0, "prints": state} for state in states], install=[0], job=[0])
    done = watch(cloud, *V5E)
    assert done.returncode == 0 and cloud.slept() == [30] * 5
    assert done.stderr.count("WAITING_FOR_RESOURCES") == 1  # once, however long it takes


@pytest.mark.parametrize("code", [2, 4, 5, 130])
def test_watch_stops_where_another_try_would_not_help(cloud, code):
    cloud.plan(install=[0], job=[code])
    line = error(watch(cloud), code)
    assert f"exit code {code}" in line and "Not tried again; ddx still costs money, see delete.sh" in line
    assert cloud.verbs().count("job") == 1 and cloud.slept() == []


def test_watch_runs_the_command_again_after_a_clean_stop_without_another_setup(cloud):
    cloud.plan(install=[0], job=[143, 0])
    done = watch(cloud)
    assert done.returncode == 0 and cloud.verbs() == ["create", "scp", "install", "job", "job"]
    assert "the command was stopped and has saved (exit code 143). Trying again in 30 s (1 of 10)" in done.stderr


def test_watch_tries_a_few_times_whether_a_bucket_comes_back(cloud):
    cloud.plan(install=[0], job=[3, 3, 0])
    assert watch(cloud).returncode == 0
    assert cloud.slept() == [30, 60]
    cloud.forget()
    cloud.plan(install=[0], job=[3] * 4)
    line = error(watch(cloud), 3)
    assert "see docs/runs.md. Giving up after 4 failures in a row; ddx may still cost money, see delete.sh" in line
    assert cloud.verbs().count("job") == 4


def test_watch_waits_longer_after_every_failure_and_gives_up(cloud):
    cloud.plan(install=[0], job=[255] * 9)
    line = error(watch(cloud, *V3, "--retries=7"), 255)
    assert "exit code 255. Giving up after 8 failures in a row" in line
    assert cloud.slept() == [30, 60, 120, 240, 480, 600, 600]
    cloud.forget()
    cloud.plan(install=[0], job=[1] * 3)
    error(watch(cloud, *V3, "--retries=2", "--delay=0"), 1)
    assert cloud.verbs().count("job") == 3 and cloud.slept()[-2:] == [0, 0]


def test_failures_half_an_hour_apart_are_not_in_a_row(cloud):
    cloud.executable("date", 'n=$(cat "$CLOUD/now" 2> /dev/null || echo 0); echo $((n + 2000)) | tee "$CLOUD/now"')
    cloud.plan(install=[0], job=[255] * 8 + [0])
    assert watch(cloud, *V3, "--retries=1").returncode == 0
    assert cloud.slept() == [30] * 8


def test_watch_gives_up_on_a_tpu_that_is_never_created(cloud):
    cloud.plan(create=[1] * 4)
    assert "ddx was not created in us-central1-a: gcloud says why above" in error(watch(cloud, *V3, "--retries=3"), 1)
    assert cloud.verbs() == ["create"] * 4
    cloud.forget()
    cloud.plan(create=[{"code": 0, "request": "FAILED", "state": "READY"}] * 5)
    assert "Google gave up the request for ddx" in error(watch(cloud, *V5E, "--retries=2"), 1)
    assert cloud.verbs() == ["create", "delete", "create", "delete", "create"]


def test_watch_sets_up_again_what_was_not_set_up(cloud):
    cloud.plan(install=[1, 0], job=[0])
    done = watch(cloud)
    assert done.returncode == 0 and "ddx was not set up (exit code 1). Trying again in 30 s" in done.stderr
    assert cloud.verbs() == ["create", "scp", "install", "scp", "install", "job"]


def test_watch_attaches_to_a_job_that_runs(cloud):
    cloud.write("state", "READY")
    cloud.machine.mkdir()
    cloud.plan(install=[75], job=[0])
    assert watch(cloud).returncode == 0 and cloud.verbs() == ["scp", "install", "job"]


def test_watch_touches_no_tpu_that_somebody_has_stopped(cloud):
    cloud.write("state", "STOPPED")
    assert "somebody has stopped ddx (state STOPPED)" in error(watch(cloud), 1)
    assert cloud.verbs() == []


def test_watch_survives_a_network_that_goes(cloud):
    broken = {"code": 1, "says": "ERROR: gcloud crashed (ConnectionError)"}
    cloud.plan(describe=[broken, broken], install=[0], job=[0])
    assert watch(cloud).returncode == 0 and cloud.slept() == [30, 60]
    cloud.plan(describe=[broken] * 3)
    line = error(watch(cloud, *V3, "--retries=2"), 1)
    assert "gcloud does not tell how ddx is doing. Giving up after 3 failures in a row" in line


def test_preemptions_are_no_failures_however_many_they_are(cloud):
    times = 4
    cloud.plan(install=[0] * (times + 1), job=[{"code": 143, "state": "PREEMPTED"}] * times + [0])
    done = watch(cloud, *V3, "--spot", "--retries=1")
    assert done.returncode == 0 and cloud.slept() == []
    assert cloud.verbs().count("create") == times + 1 and cloud.verbs().count("delete") == times


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("create", "ERROR: (gcloud...) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied"),
        ("create", "ERROR: (gcloud...) INVALID_ARGUMENT: no such accelerator type"),
        ("install", "ERROR: (gcloud...) SSH Key is not present in the SSH agent. Please run ssh-add"),
    ],
)
def test_what_another_try_does_not_change_is_not_tried_again(cloud, what, says):
    cloud.plan(**{"install": [0], "job": [0], what: [{"code": 1, "says": says}]})
    done = watch(cloud)
    assert says in done.stderr and cloud.slept() == []
    assert done.returncode == 1 and "Not tried again" in done.stderr.splitlines()[-1]


def test_what_is_said_by_a_setup_that_succeeds_counts_for_nothing(cloud):
    cloud.plan(install=[{"code": 0, "says": "PERMISSION_DENIED, and tried in another way"}], job=[1, 0])
    assert watch(cloud).returncode == 0 and cloud.slept() == [30]


def test_a_number_may_begin_with_zero(cloud):
    cloud.plan(install=[0], job=[1] * 3)
    assert "after 2 failures in a row" in error(watch(cloud, *V3, "--retries=01", "--delay=08"), 1)
    assert cloud.slept() == [8]


@pytest.mark.soak
def test_a_run_goes_on_after_its_machine_was_preempted(cloud, server, tiny_config, tmp_path):
    """The whole way: a run in a bucket, whose machine gets SIGTERM, is gone, and is replaced by an empty one."""
    cloud.environment |= {**server.environment, "JAX_PLATFORMS": "cpu"}
    cloud.has_a_python()
    run = server.new("tpu-launch")
    config = tiny_config(train__num_steps=250, train__log_every=1, train__checkpoint_every=50)
    (tmp_path / "tiny.json").write_text(to_json(config))
    command = ["--", "python", "-m", "launch.train", f"--config={tmp_path}/tiny.json"]
    watching = cloud.start("watch.sh", *V3, "--spot", f"--workdir={run}", *command)
    until = time.monotonic() + 120
    while not storage.is_file(run / "checkpoints.last") and time.monotonic() < until:
        time.sleep(0.05)
    cloud.write("state", "PREEMPTED")
    os.killpg(int((cloud.machine / "ddx-job/pid").read_text()), signal.SIGTERM)
    out, err = watching.communicate(timeout=240)
    assert watching.returncode == 0, out + err
    once = ["create", "scp", "install", "job"]
    assert cloud.verbs() == [*once, "delete", *once]
    assert "the command ended with exit code 143, and ddx in us-central1-a is PREEMPTED" in err
    (step,) = map(int, re.findall(r"resuming at step (\d+)", out))
    assert 50 <= step < 250 and storage.read_text(run / "checkpoints.last").strip() == "250"
    lines = map(json.loads, storage.read_text(run / "metrics.jsonl").splitlines())
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 251))


# The other ways, and the words about them.


def test_shellcheck_finds_nothing():
    shellcheck = pathlib.Path(sysconfig.get_path("scripts")) / "shellcheck"
    scripts = sorted(map(str, TPU.glob("*.sh")))
    done = subprocess.run([shellcheck, "--external-sources", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_scripts_can_be_run():
    for path in TPU.glob("*.sh"):
        assert os.access(path, os.X_OK) == (path.name != "common.sh"), path


def commands(text):
    """The commands of ddx in a text, as lists of their words."""
    return [shlex.split(line) for line in re.findall(r"\bpython -m (launch\.\w+[^;&\n]*)", text)]


def known_flags(name):
    """The flags that a command defines, alone or with others."""
    files = [f"{name}.py", "command.py", *["programs.py"] * (name in ("bench", "compile"))]
    text = "".join((ROOT / "ddx" / "cli" / file).read_text() for file in files)
    return {*re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text), *SAMPLING, *EVALUATION, "config"}


def check_command(module, *flags):
    """A command that a file names is there and knows its flags."""
    name = module.removeprefix("launch.")
    assert (ROOT / "launch" / f"{name}.py").exists(), module
    for flag in flags:
        key, _, value = flag.removeprefix("--").partition("=")
        assert key.partition(".")[0] in known_flags(name), flag
        if key == "config":
            validate(files.load(value))


def test_the_manifest_for_gke_is_a_job_that_is_tried_again_where_that_helps():
    job = yaml.safe_load((TPU / "gke.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    python, m, *command = container["command"]
    assert (python, m) == ("python", "-m")
    check_command(*command)
    assert any(word.startswith("--workdir=gs://") for word in command)
    # A slice of one host: as many chips as it has.
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert chips == container["resources"]["requests"]["google.com/tpu"] == rows * columns == 8
    assert pod["terminationGracePeriodSeconds"] >= 120 and pod["restartPolicy"] == "Never"
    stops, ignored = job["spec"]["podFailurePolicy"]["rules"]
    assert stops["action"] == "FailJob" and stops["onExitCodes"]["containerName"] == container["name"]
    assert stops["onExitCodes"]["values"] == [2, 4, 5]
    assert ignored["action"] == "Ignore" and ignored["onPodConditions"][0]["type"] == "DisruptionTarget"


def test_the_task_for_skypilot_installs_and_trains():
    task = yaml.safe_load((TPU / "skypilot.yaml").read_text())
    resources = task["resources"]
    assert resources["accelerators"] == "tpu-v5litepod-8" and resources["use_spot"]
    assert resources["accelerator_args"]["runtime_version"] == "v2-alpha-tpuv5-lite"
    assert resources["job_recovery"]["recover_on_exit_codes"] == [EXIT_CODE]
    assert task["envs"] == {"WORKDIR": None, "EXTRAS": "tpu,gcs"}
    assert shlex.split(task["setup"]) == ["bash", "launch/tpu/install.sh", "$EXTRAS"]
    (command,) = commands(task["run"])
    check_command(*command)
    assert "--workdir=$WORKDIR" in command


def test_the_image_for_gke_holds_what_setup_copies():
    text = (TPU / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for name in line.split()}
    setup = re.search(r"-C \S+ (.*)", (SNAPSHOTS / "setup_v3-8.txt").read_text())
    assert copied == set(setup[1].split()) and all((ROOT / name).exists() for name in copied)


def test_every_extra_that_is_installed_is_one():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    text = "".join(path.read_text() for path in [*TPU.iterdir(), PAGE])
    named = {extra for extras in re.findall(r"\b((?:tpu|tpu-v3),gcs)\b", text) for extra in extras.split(",")}
    assert named == {"tpu", "tpu-v3", "gcs"} and named <= parser["options.extras_require"].keys()


def blocks(page):
    """The indented blocks of a page."""
    return [block for block in re.findall(r"(?:^    .*\n(?:^\n(?=    ))?)+", page.read_text(), re.M)]


def test_what_the_page_says_to_type_can_be_typed(cloud):
    (flags,) = {line for block in blocks(PAGE) for line in re.findall(r"^    (flags=.*v3-8.*)", block, re.M)}
    found = 0
    for block in blocks(PAGE):
        lines = [line.strip() for line in block.splitlines() if "launch/tpu/" in line and ".sh" in line]
        for line in lines:
            found += 1
            line = line.partition(" #")[0].replace("launch/tpu/", f"{TPU}/").replace(".sh ", ".sh --dry_run ")
            done = subprocess.run(
                ["bash", "-euc", f"{flags}\n{line}"], env=cloud.environment, capture_output=True, text=True
            )
            assert done.returncode == 0 and done.stdout, (line, done.stderr)
        for command in commands(block):
            check_command(*[word for word in command if word.startswith(("launch.", "--"))])
    assert found >= 8
    assert not (cloud.folder / "calls.jsonl").exists()


def test_the_page_lists_every_script_and_the_exit_codes_that_watch_knows():
    text = PAGE.read_text()
    for script in SCRIPTS:
        assert f"`{script}`" in text, script
    assert "not on real TPUs" in text and "stand-in for gcloud" in text
