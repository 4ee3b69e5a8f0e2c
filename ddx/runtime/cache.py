"""What this machine keeps between runs: ~/.cache/ddx, or $XDG_CACHE_HOME/ddx; above all programs that were compiled.

Most of a first step's time is the compiler's. A program that was compiled once is found again by what it was made
from: its text, the compiler and its flags, the devices. Of a CPU these say too little, so each kind has a folder of its
own: a home folder may be shared by machines. What has not been used for longest goes first.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import platform

_MOST = 2 * 2**30  # bytes of compiled programs


def home() -> pathlib.Path:
    """The folder.

    Raises:
      OSError: this user has no home folder.
    """
    top = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if top.startswith("~"):
        raise OSError(errno.ENOENT, "this user has no home folder")
    return pathlib.Path(top, "ddx").absolute()


def keep_programs() -> None:
    """Have JAX keep what it compiles, unless it was told where to, or not to; without a folder it keeps nothing."""
    import jax  # where data are read this module is imported without it

    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return
    with contextlib.suppress(OSError):
        folder = home() / "compiled" / _kind_of_cpu()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # programs are run: nobody else may write them
        jax.config.update("jax_compilation_cache_max_size", _MOST)
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _kind_of_cpu() -> str:
    """A name for what the code of this machine's CPU may use."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    known = "\n".join(sorted(told)) or f"{platform.machine()} {platform.processor()} {platform.node()}"
    return hashlib.sha256(known.encode()).hexdigest()[:16]
