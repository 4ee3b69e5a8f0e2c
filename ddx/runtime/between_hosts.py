"""What the processes of several hosts tell each other beside their collectives, through JAX's coordination service.

Settings that have to be the same on all hosts, of which a collective would make nonsense; and the error that ends one
process, for which the others would wait in vain.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ddx.runtime import hosts
from ddx.runtime.errors import ConfigError

_EVERY = 1.0  # seconds after which a process asks whether another one has ended
# A process that ends waits until the others know. The first process has the service, and ends last.
_KNOWN, _KNOWN_TO_FIRST = 3.0, 6.0
_END = "ddx/end"

to_finish: list[Callable[[], object]] = []
"""What is done, the last one first, before another process's error ends this one."""

_comparisons = itertools.count()  # each has a place of its own
_ends = threading.Event()  # this process tells of its own end


def check_same(mine: dict[str, Any]) -> None:
    """Refuse settings, by name, that are not the same on all hosts; which all come here, as to a collective.

    Raises:
      ConfigError: on all hosts.
    """
    if not hosts.is_asked():
        return
    place = f"ddx/same/{next(_comparisons)}"
    hosts.service().key_value_set(f"{place}/{hosts.index()}", json.dumps(mine, default=str))
    if hosts.is_first():
        each = [json.loads(_awaited(f"{place}/{i}")) for i in range(hosts.count())]
        hosts.service().key_value_set(f"{place}/verdict", "; ".join(_differences(each)[:5]))
    if found := _awaited(f"{place}/verdict"):
        raise ConfigError(f"{found}. Start the same command, of the same ddx, on every host")


def _differences(each: list[dict[str, Any]]) -> list[str]:
    first, found = each[0], []
    for name in sorted({name for one in each for name in one}):
        other = next((i for i, one in enumerate(each) if one.get(name) != first.get(name)), None)
        if other is not None:
            found.append(f"{name} is {each[other].get(name)!r} on host {other}, and {first.get(name)!r} on host 0")
    return found


def listen() -> None:
    """End this process when another one ends with an error, and with the same."""
    if hosts.count() > 1:
        threading.Thread(target=_listen, name="ddx-hosts", daemon=True).start()


def end(code: int, why: str, line: str) -> None:
    """Print a line, and end this process as soon as the others know why; nothing where there are no others.

    If another process has ended before, that is why this one does, and the other one's reason and exit code are told.
    """
    if hosts.count() == 1:
        return
    _ends.set()
    before = _end_of_another()
    if before is None:
        if line:
            print(line, file=sys.stderr, flush=True)
        told = {"host": hosts.index(), "code": code, "why": why}
        with contextlib.suppress(Exception):  # another one was faster, or the service is gone
            hosts.service().key_value_set(_END, json.dumps(told))
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(_patience())
    _exit(code) if before is None else _follow(before)


def _listen() -> None:
    while not _ends.wait(_EVERY):
        told = _end_of_another()
        # Meanwhile the main thread may come to the same error, or one that explains it, and tell that.
        if told is not None and not _ends.wait(_patience() - _EVERY):
            _follow(told)


def _follow(told: dict[str, Any]) -> None:
    """End as another process did."""
    for finish in to_finish[::-1]:  # JAX ends this process a minute or two after it has lost another one
        with contextlib.suppress(Exception):
            finish()
    print(f"error: on host {told['host']}: {told['why']}", file=sys.stderr)
    _exit(told["code"])


def _exit(code: int) -> None:
    """End without JAX's farewell, in which all processes wait for each other."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _patience() -> float:
    return _KNOWN_TO_FIRST if hosts.is_first() else _KNOWN


def _end_of_another() -> dict[str, Any] | None:
    """The first end that a process has told of, if any has."""
    told = _read(_END)
    return None if told is None else json.loads(told)


def _awaited(place: str) -> str:
    """What a process writes there, however long that takes, for instance to read its data."""
    while (told := _read(place)) is None:
        time.sleep(0.1)
    return told


def _read(place: str) -> str | None:
    try:
        return str(hosts.service().key_value_try_get(place))
    except Exception:  # nothing is there; or the service has ended, as JAX will tell
        return None
