"""The memory of this process and of a device: how much was in use at most, how the C library and Python free it."""

import contextlib
import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from typing import Any

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # M_... of glibc's malloc.h


def peak(device: Any) -> int:
    """The most bytes that were in use at once on a device of JAX; of a CPU, which does not count them, by the process.

    It is since the process began, and nothing sets it back.
    """
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_little() -> None:
    """Have glibc's malloc keep little of what is freed, for a process that needs little memory more than speed.

    Otherwise each of the some thirty threads that write a checkpoint has an arena of its own, which keeps the buffers
    that it has used: 40 to 65 MiB for a network of 136, another number each time. With one arena for all, and with
    large buffers returned at once, it is 20 to 35. With another C library nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, 2**20)


def give_back() -> None:
    """Have glibc's malloc return freed memory to the system. With another C library nothing is done."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Have Python's garbage collector wait while a program is made.

    A network that is traced is so many objects that the collector takes a fifth of the time, and finds nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
