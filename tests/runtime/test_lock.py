"""The lock of a folder: one writer, seen by others, and gone with the process."""

import json
import pathlib
import subprocess
import sys
import time

import pytest

from ddx.runtime import bucket, folders, storage
from ddx.runtime import lock as lock_lib
from ddx.runtime.errors import ConfigError, StorageError
from ddx.runtime.lock import lock

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(params=["on this machine", "in a bucket"])
def folder(request, tmp_path):
    return tmp_path if request.param == "on this machine" else request.getfixturevalue("in_bucket")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock_lib, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lock_lib, "LEASE", 2.0)


def test_a_second_process_is_refused_and_told_who_has_it(folder):
    code = (
        "import sys; from ddx.runtime.lock import lock; from ddx.runtime.paths import user_path\n"
        "with lock(user_path(sys.argv[1], 'x')): print('has it', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "has it\n"
        with pytest.raises(ConfigError, match=rf"is in use by process {holder.pid} on ") as error, lock(folder):
            pass
        assert "use another --workdir" in str(error.value)
        holder.kill()  # which releases nothing
    with lock(folder):
        pass


def test_it_is_free_after_the_block(folder):
    for _ in range(2):
        with lock(folder) as held:
            held.check()
    with pytest.raises(KeyError), lock(folder):
        raise KeyError
    with lock(folder):
        pass


def held_by(folder, **said):
    """The object of a holder on another machine."""
    said = {"pid": 7, "host": "far", "machine": "other", "started": "1", **said}
    storage.write_text(folder / "LOCK", json.dumps(said))
    return bucket.address(folder / "LOCK")


def test_a_holder_on_another_machine_that_renews_it_is_alive(in_bucket, quick, capsys):
    at = held_by(in_bucket)

    def beat(seconds):
        held_by(in_bucket, beat=seconds)
        real(seconds)

    real, lock_lib.time.sleep = time.sleep, beat
    try:
        with pytest.raises(ConfigError, match=r"is in use by process 7 on far\. Wait for it"), lock(in_bucket):
            pass
    finally:
        lock_lib.time.sleep = real
    assert "waiting up to 2 s for the lock" in capsys.readouterr().out
    assert bucket.generation(at)


def test_a_holder_that_renews_it_no_more_loses_it(in_bucket, quick):
    held_by(in_bucket)
    begun = time.monotonic()
    with lock(in_bucket) as held:
        assert time.monotonic() - begun >= 2.0
        held.check()
        assert json.loads(storage.read_text(in_bucket / "LOCK"))["host"] != "far"
    assert folders.names(in_bucket) == []


def test_one_that_is_released_meanwhile_is_taken(in_bucket, quick, monkeypatch):
    at = held_by(in_bucket)
    monkeypatch.setattr(lock_lib.time, "sleep", lambda seconds: bucket.remove(at))
    with lock(in_bucket) as held:
        held.check()


@pytest.mark.parametrize("said", ["[]", "no json", '{"pid": 3}'])
def test_a_lock_that_says_nothing_is_waited_for(in_bucket, quick, said):
    storage.write_text(in_bucket / "LOCK", said)
    with lock(in_bucket) as held:
        held.check()


def test_the_lock_file_of_a_run_that_was_copied_to_the_bucket_is_free(in_bucket):
    storage.write_text(in_bucket / "LOCK", "")
    with lock(in_bucket) as held:
        held.check()


def test_one_that_could_not_be_released_is_free_for_the_same_process(in_bucket, server, quick, monkeypatch):
    monkeypatch.setattr(bucket, "PATIENCE", 0.2)
    with lock(in_bucket):
        with pytest.raises(ConfigError, match="is in use by process"), lock(in_bucket):
            pass
        server.go()
    server.come_back()
    assert folders.names(in_bucket) == ["LOCK"]
    with lock(in_bucket) as held:
        held.check()


def test_it_is_renewed_and_still_ours(in_bucket, quick):
    with lock(in_bucket) as held:
        first = bucket.generation(bucket.address(in_bucket / "LOCK"))
        time.sleep(2.5)  # longer than the lease
        held.check()
        assert bucket.generation(bucket.address(in_bucket / "LOCK")) != first


def test_a_lock_that_was_taken_over_stops_the_one_who_had_it(in_bucket, quick):
    with lock(in_bucket) as held:
        held_by(in_bucket)
        time.sleep(0.5)
        with pytest.raises(StorageError, match=r"the lock of gs://.* was lost, and another process may write there"):
            held.check()
    assert json.loads(storage.read_text(in_bucket / "LOCK"))["host"] == "far"  # and is not removed by it


def test_a_lock_that_cannot_be_renewed_for_long_is_lost(in_bucket, server, quick, monkeypatch):
    monkeypatch.setattr(bucket, "PATIENCE", 0.2)
    with lock(in_bucket) as held:
        held.check()
        server.go()
        time.sleep(2.5)
        try:
            with pytest.raises(StorageError, match="was lost"):
                held.check()
        finally:
            server.come_back()
