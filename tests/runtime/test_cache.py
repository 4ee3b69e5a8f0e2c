"""What is compiled once is kept on this machine, where it belongs to the user and to this kind of CPU."""

import os
import pathlib
import subprocess
import sys

import pytest

from ddx.runtime import cache

COMPILES = """
import jax, time
from ddx.runtime import devices, parallel
with devices.job("compiling", "Use less"):
    jax.jit(lambda x: jax.lax.fori_loop(0, 9, lambda i, x: jax.numpy.sin(x @ x), x))(jax.numpy.eye(64))
"""


def files(folder):
    return {path: path.stat().st_mtime_ns for path in pathlib.Path(folder).rglob("*-cache")}


def run(folder, **changes):
    removed = {"JAX_COMPILATION_CACHE_DIR"}
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {"XDG_CACHE_HOME": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | changes
    done = subprocess.run([sys.executable, "-c", COMPILES], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_programs_are_kept_for_this_kind_of_cpu_and_found_again(tmp_path):
    run(tmp_path)
    kept = files(tmp_path)
    (folder,) = {path.parent for path in kept}
    assert folder.parent == tmp_path / "ddx" / "compiled" and folder.stat().st_mode & 0o777 == 0o700
    run(tmp_path)
    assert files(tmp_path) == kept


@pytest.mark.parametrize("changes", [{"JAX_COMPILATION_CACHE_DIR": "elsewhere"}, {"JAX_ENABLE_COMPILATION_CACHE": "0"}])
def test_who_has_told_jax_is_not_overruled(changes, tmp_path):
    changes = {name: str(tmp_path / value) if value == "elsewhere" else value for name, value in changes.items()}
    run(tmp_path, **changes)
    assert not (tmp_path / "ddx").exists() and (tmp_path / "elsewhere").exists() == ("elsewhere" in str(changes))


def test_a_home_that_cannot_be_written_to_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    run(tmp_path / "file")


def test_another_cpu_has_a_folder_of_its_own(monkeypatch):
    here = cache._kind_of_cpu()
    assert here == cache._kind_of_cpu()
    monkeypatch.setattr(pathlib.Path, "read_text", lambda _: "processor : 0\nmodel name : other\nflags : fpu")
    assert cache._kind_of_cpu() != here
