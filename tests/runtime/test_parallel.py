"""Several devices give the result of one."""

import subprocess
import sys

from tests import processes


def test_parallel_checks_on_eight_devices():
    env = processes.environment(devices=8)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "tests/runtime/parallel_checks.py"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "9 passed" in done.stdout
