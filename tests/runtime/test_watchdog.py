"""A hang is told of, with the phase and the stacks of all threads."""

import subprocess
import sys

import pytest

from ddx.runtime.watchdog import Watchdog

HANGS = """
import ctypes, time
from ddx.runtime.watchdog import Watchdog

def deep():
    {hang}

with Watchdog(2) as watchdog:
    watchdog.phase("starting")
    time.sleep(0.2)
    watchdog.phase("taking steps 3 to 5")
    deep()
    watchdog.phase("saving step 5")
print("went on")
"""


@pytest.mark.parametrize(
    "hang",
    [
        "time.sleep(4)",
        "ctypes.PyDLL(None).usleep(4_000_000)",  # holds the interpreter, so no Python thread can say anything
    ],
)
def test_a_phase_that_takes_too_long_is_told_of_and_goes_on(hang):
    done = subprocess.run(
        [sys.executable, "-c", HANGS.format(hang=hang)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "went on\n"
    if "ctypes" not in hang:
        assert done.stderr.startswith("no progress for 2 s while taking steps 3 to 5; the stacks of all threads follow")
    assert "Timeout" in done.stderr and "in deep" in done.stderr and done.stderr.count("Timeout") == 1


def test_none_is_told_of_where_there_is_progress_or_none_is_asked_for(capfd):
    import time

    for seconds in (1.5, 0):
        with Watchdog(seconds) as watchdog:
            for _ in range(8):
                watchdog.phase("a")
                time.sleep(0.2)
    time.sleep(1.6)
    assert capfd.readouterr().err == ""
