"""Several hosts: whether there are others, how they meet, and that one host alone is asked nothing."""

import signal
import subprocess
import sys

import jax
import pytest

from ddx.runtime import accelerator, hosts
from ddx.runtime.accelerator import Host
from ddx.runtime.errors import ConfigError
from tests import processes

VARIABLES = (
    *("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"),
    *("TPU_WORKER_HOSTNAMES", "MEGASCALE_NUM_SLICES", "TPU_SKIP_MDS_QUERY", "JAX_PLATFORMS"),
)


@pytest.fixture
def started(monkeypatch):
    """Whether `start` would meet others, with what `jax.distributed.initialize` is given."""

    def start(**environment):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        given = []
        monkeypatch.setattr(jax.distributed, "initialize", lambda **how: given.append(how))
        hosts.start()
        timeouts = ("initialization_timeout", "shutdown_timeout_seconds")
        return [{key: value for key, value in how.items() if key not in timeouts} for how in given]

    return start


def on_a_tpu(monkeypatch, answer):
    """This host has a TPU, and Google's machines are told of its hosts."""
    asked = []
    monkeypatch.setattr(accelerator, "this_host", lambda: Host("v4", "", "", ""))
    monkeypatch.setattr(hosts, "_metadata", lambda name: asked.append(name) or answer)
    return asked


def test_a_process_that_is_alone_meets_nobody(started):
    assert started() == []
    assert started(SLURM_STEP_NUM_TASKS="1", OMPI_COMM_WORLD_SIZE="1", TPU_WORKER_HOSTNAMES="localhost") == []


def test_others_are_those_that_the_environment_names(started):
    named = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
    assert started(**named) == [{"coordinator_address": "a:1", "num_processes": 4, "process_id": 3}]
    assert started(SLURM_STEP_NUM_TASKS="2") == [{"cluster_detection_method": "slurm"}]
    assert started(OMPI_COMM_WORLD_SIZE="2") == [{"cluster_detection_method": "ompi"}]


def test_a_tpu_of_several_hosts_is_found(started, monkeypatch):
    assert started(TPU_WORKER_HOSTNAMES="a,b") == [{}]
    assert started(TPU_WORKER_HOSTNAMES="a", MEGASCALE_NUM_SLICES="2") == [{}]
    assert started(TPU_WORKER_HOSTNAMES="a,b", JAX_PLATFORMS="cpu") == []
    for answer, wanted in (("a:b:c,d:e:f", [{}]), ("a:b:c", []), (None, [])):
        asked = on_a_tpu(monkeypatch, answer)
        assert started() == wanted and asked == ["worker-network-endpoints"]
    asked = on_a_tpu(monkeypatch, "a,b")
    assert started(TPU_SKIP_MDS_QUERY="1") == [] and not asked


@pytest.mark.parametrize(
    ("address", "number", "this", "message"),
    [
        ("a:1", "", "", "Set all three, or none"),
        ("a:1", "2", "", "Set all three, or none"),
        ("a:1", "2", "a", "Set all three, or none"),
        ("", "2", "0", "Set all three, or none"),
        ("a", "2", "0", "JAX_COORDINATOR_ADDRESS=a has no port"),
        ("a:", "2", "0", "has no port"),
        ("a:1", "2", "2", "JAX_PROCESS_ID=2 must be from 0 to 1"),
        ("a:1", "2", "-1", "JAX_PROCESS_ID=-1 must be from 0 to 1"),
    ],
)
def test_an_environment_that_names_others_amiss_is_refused(started, address, number, this, message):
    with pytest.raises(ConfigError, match=message):
        started(JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=number, JAX_PROCESS_ID=this)


def test_one_host_alone_decides_and_does_everything():
    assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
    value = object()
    assert hosts.agreed(lambda: value) is value and hosts.share([1, 2, 3]) == [1, 2, 3]
    hosts.wait()


WAITS = """
from ddx.runtime import hosts
hosts._PATIENCE, hosts._START_TIMEOUT = 0.5, 2.0
hosts.start()
"""
STAYS = """
import threading
from ddx.runtime import hosts
hosts.start()
print("met", flush=True)
threading.Event().wait()
"""
TOGETHER = """
import sys
from ddx.runtime import hosts
from ddx.runtime.errors import CheckpointError
hosts.start()
def refuse(): raise CheckpointError("no. Do it otherwise")
def nested(): return [hosts.share([1, 2, 3]), hosts.agreed(lambda: "inner")]
told = [hosts.agreed(lambda: {"who": hosts.index(), "what": "x" * 1000}), hosts.agreed(nested), hosts.share([1, 2, 3])]
try:
    hosts.agreed(refuse)
except CheckpointError as error:
    told.append(str(error))
hosts.wait()
print(told)
"""


def run(program, environments):
    command = [sys.executable, "-c", program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env=environment, **pipes) for environment in environments]
    return [(*process.communicate(timeout=120), process.returncode) for process in running]


def test_a_host_that_waits_says_so_and_gives_up():
    ((_, err, code),) = run(WAITS, processes.hosts(2, 1)[:1])
    waits, gives_up = err.splitlines()
    assert waits == "waiting for 2 processes. Is the command started on every host, as gcloud does with --worker=all?"
    remedy = "Start the same command on every host within 2 s, each with another JAX_PROCESS_ID"
    assert gives_up == f"error: not all of 2 processes came. {remedy}"
    assert code == 2


def test_what_the_first_host_decides_all_know():
    found = [eval(out.splitlines()[-1]) for out, _, _ in run(TOGETHER, processes.hosts(2, 2))]
    common = {"who": 0, "what": "x" * 1000}, [[1, 2, 3], "inner"]
    assert found == [[*common, share, "no. Do it otherwise"] for share in ([1, 3], [2])]


FAILS = """
import os
from ddx.cli import command
def main():
    from ddx.runtime import between_hosts
    between_hosts._EVERY, between_hosts._KNOWN, between_hosts._KNOWN_TO_FIRST = 0.3, 1.0, 2.5
    command.meet_hosts()
    from ddx.runtime import hosts
    from ddx.runtime.errors import DataError
    if str(hosts.index()) == os.environ["FAILS"]:
        raise DataError("no images here. Put them there")
    if os.environ["FAILS"] == "signal" and hosts.index() == 1:
        from ddx.runtime.preemption import one_line
        with one_line("stopped by a signal; the same command resumes: here"):
            os.kill(os.getpid(), 15)
    if os.environ["FAILS"] == "interrupt" and hosts.index() == 0:
        raise KeyboardInterrupt
    if os.environ["FAILS"] == "late" and hosts.index() == 0:
        return 0
    if os.environ["FAILS"] in ("late", "saving") and hosts.index() == 1:
        import time
        time.sleep(1.0)
        raise DataError("no images here. Put them there")
    if os.environ["FAILS"] == "saving":
        import time
        from ddx.runtime.background import Background
        with Background("save") as saving:
            saving.start(lambda: (time.sleep(5.0), print("saved", flush=True)))
            hosts.wait()
    if os.environ["FAILS"] == "both":
        raise DataError(f"no images on {hosts.index()}. Put them there")
    hosts.wait()
command.run(main)
"""
APART = """
import os
from ddx.cli import command
def main():
    from ddx.runtime import between_hosts
    between_hosts._EVERY, between_hosts._KNOWN, between_hosts._KNOWN_TO_FIRST = 0.3, 1.0, 2.5
    command.meet_hosts()
    from ddx.runtime import hosts, lock
    from ddx.runtime.paths import user_path
    lock._SEEN_WITHIN = 0.1
    with lock.lock(user_path(os.environ["FOLDER"] + str(hosts.index()), "--workdir")):
        hosts.wait()
command.run(main)
"""


@pytest.mark.parametrize("fails", [0, 1])
def test_an_error_of_one_host_ends_both_and_both_say_it(fails):
    found = run(FAILS, [environment | {"FAILS": str(fails)} for environment in processes.hosts(2, 1)])
    assert [code for _, _, code in found] == [4, 4]
    own, other = (found[i][1].splitlines()[-1] for i in (fails, 1 - fails))
    assert own == "error: no images here. Put them there"
    assert other == f"error: on host {fails}: no images here. Put them there"


@pytest.mark.parametrize(
    ("how", "code", "first", "second"),
    [
        ("signal", 143, "error: on host 1: stopped by a signal; the same command resumes", "stopped by a signal; the"),
        ("interrupt", 130, "interrupted", "error: on host 0: interrupted"),
    ],
)
def test_a_signal_to_one_host_ends_both_with_its_exit_code(how, code, first, second):
    found = run(FAILS, [environment | {"FAILS": how} for environment in processes.hosts(2, 1)])
    assert [found_code for _, _, found_code in found] == [code, code]
    for (_, err, _), line in zip(found, (first, second), strict=True):
        assert err.splitlines()[-1].startswith(line)


def test_a_host_that_has_ended_hears_of_the_error_of_a_slower_one():
    found = run(FAILS, [environment | {"FAILS": "late"} for environment in processes.hosts(2, 1)])
    assert [code for _, _, code in found] == [4, 4] and "Traceback" not in found[0][1]


def test_what_one_host_saves_is_saved_before_the_error_of_another_ends_it():
    found = run(FAILS, [environment | {"FAILS": "saving"} for environment in processes.hosts(2, 1)])
    assert [code for _, _, code in found] == [4, 4] and found[0][0].endswith("saved\n")


def test_errors_of_both_at_once_end_both_with_the_one_that_was_told_first():
    found = run(FAILS, [environment | {"FAILS": "both"} for environment in processes.hosts(2, 1)])
    assert [code for _, _, code in found] == [4, 4]
    assert all("no images on" in err.splitlines()[-1] for _, err, _ in found)


def test_folders_that_hosts_do_not_share_are_refused(tmp_path):
    found = run(APART, [environment | {"FOLDER": f"{tmp_path}/"} for environment in processes.hosts(2, 1)])
    assert [code for _, _, code in found] == [2, 2]
    for _, err, _ in found:
        assert "/1 is another folder on host 1 than on host 0. Name one that all hosts share" in err.splitlines()[-1]


def test_of_a_lost_process_the_last_line_of_the_other_tells():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first, second = (
        subprocess.Popen([sys.executable, "-c", STAYS], env=environment, **pipes)
        for environment in processes.hosts(2, 1)
    )
    with first, second:
        assert first.stdout.readline() == second.stdout.readline() == "met\n"
        first.kill()  # the one that the other's client notices at once
        err = second.communicate(timeout=120)[1].splitlines()
    assert err[-1].startswith("error: JAX has ended process 1, as it does when another one is lost: process 0. See the")
    assert second.returncode == -signal.SIGABRT
