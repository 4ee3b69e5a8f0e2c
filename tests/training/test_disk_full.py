"""A disk that is full, at whichever write: one line with the place and the room that is missing, and nothing lost."""

import os
import subprocess

import pytest

from ddx.runtime.errors import StorageError
from ddx.training import train
from tests.training.test_run import assert_same_bits, steps_logged


@pytest.fixture
def disk(tmp_path):
    """Mounts a file system of some KiB, and makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def of(kib):
        is_there = place.is_mount()
        options = ["-o", f"remount,size={kib}k"] if is_there else ["-t", "tmpfs", "-o", f"size={kib}k", "tmpfs"]
        if os.geteuid() or subprocess.run(["mount", *options, place], capture_output=True).returncode:
            pytest.skip("needs to mount a file system")
        return place

    yield of
    subprocess.run(["umount", place], capture_output=True)


# A checkpoint takes some 700 KiB, of which keep_checkpoints are there.
SIZES = [20, 3300, *(pytest.param(kib, marks=pytest.mark.soak) for kib in (1900, *range(40, 4000, 150)))]


@pytest.mark.parametrize("kib", SIZES)
def test_what_does_not_fit_is_told_and_the_run_resumes_when_there_is_room(kib, disk, whole, tiny_config):
    run = disk(kib) / "run"
    for _ in range(2):  # the same command again finds the disk as full
        with pytest.raises(StorageError) as error:
            train(tiny_config(), run)
        message = str(error.value)
        assert "\n" not in message and str(run) in message and "run the same command again" in message, message
        assert "Make room" in message and " MiB are free" in message, message
    if (run / "checkpoints").is_dir():
        left = [path for path in (run / "checkpoints").iterdir() if not (path / "MANIFEST.json").exists()]
        assert not left, left
    disk(20_000)
    assert train(tiny_config(), run).finished
    assert_same_bits(whole, run)
    assert steps_logged(run) == [2, 4, 6, 8, 10, 12]
