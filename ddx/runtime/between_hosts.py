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
from typing import Any

from ddx.runtime import hosts
from ddx.runtime.errors import ConfigError

_EVERY = 1.0  # seconds after which a process asks whether another one has failed
# A process that fails waits until the others know. The first process has the service, and ends last.
_KNOWN, _KNOWN_TO_FIRST = 3.0, 6.0
_FAILURE = "ddx/failure"

_comparisons = itertools.count()  # each has a place of its own; all processes make the same ones
_fails = threading.Event()  # this process tells an error of its own


def check_same(mine: dict[str, Any]) -> None:
    """Refuse settings, by name, that are others than the first host's.

    Raises:
      ConfigError: on the hosts that have others; `fail` tells it to the rest.
    """
    if hosts.count() == 1:
        return
    place = f"ddx/same/{next(_comparisons)}"
    text = json.dumps(mine, sort_keys=True, default=str)
    if hosts.is_first():
        _client().key_value_set(place, text)
        return
    while (told := _read(place)) is None:  # however long the first host reads its data; its failure ends this, too
        time.sleep(0.1)
    first, here = json.loads(told), json.loads(text)
    different = [
        f"{name} is {here.get(name)!r} on host {hosts.index()}, and {first.get(name)!r} on host 0"
        for name in sorted({*first, *here})
        if first.get(name) != here.get(name)
    ]
    if different:
        raise ConfigError(f"{'; '.join(different[:5])}. Start the same command, of the same ddx, on every host")


def listen() -> None:
    """End this process when another one fails, with its error and its exit code."""
    if hosts.count() > 1:
        threading.Thread(target=_listen, name="ddx-hosts", daemon=True).start()


def fail(code: int, error: str) -> None:
    """Tell an error and end this process, as soon as the others know it; nothing where there are no others.

    If another process has failed before, that is why this one does, and its error and its exit code are told instead.
    """
    if hosts.count() == 1:
        return
    _fails.set()
    before = _failure()
    if before is not None:
        time.sleep(_patience())
        _end(before)
    print(f"error: {error}", file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):  # another one was faster, or the service is gone
        _client().key_value_set(_FAILURE, json.dumps({"host": hosts.index(), "code": code, "error": error}))
    time.sleep(_patience())
    _exit(code)


def _listen() -> None:
    while not _fails.wait(_EVERY):
        told = _failure()
        if told is not None and not _fails.wait(_patience() - _EVERY):
            _end(told)


def _end(told: dict[str, Any]) -> None:
    print(f"error: host {told['host']} has failed: {told['error']}", file=sys.stderr)
    _exit(told["code"])


def _exit(code: int) -> None:
    """End without JAX's farewell, in which all processes wait for each other."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _patience() -> float:
    return _KNOWN_TO_FIRST if hosts.is_first() else _KNOWN


def _failure() -> dict[str, Any] | None:
    """The first failure that a process has told, if there is any."""
    told = _read(_FAILURE)
    return None if told is None else json.loads(told)


def _read(place: str) -> str | None:
    try:
        return str(_client().key_value_try_get(place))
    except Exception:  # nothing is there; or the service has ended, as JAX will tell
        return None


def _client() -> Any:
    from jax._src import distributed  # JAX has no public name for it

    return distributed.global_state.client
