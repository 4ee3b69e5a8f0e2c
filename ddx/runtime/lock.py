"""One writer to a folder: a lock that other processes see, and that ends with the process that holds it.

On this machine it is a lock of the operating system on the file LOCK. In a bucket LOCK is an object that its holder
writes again every HEARTBEAT seconds, each time on the condition that it still is the one that the holder wrote last. A
process that finds one waits until it changes, and is refused, or until it has not for LEASE seconds, and takes it over.
Whether a holder on the same machine is alive is known at once.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from ddx.runtime import between_hosts, bucket, hosts
from ddx.runtime.errors import ConfigError, StorageError
from ddx.runtime.folders import make_directory
from ddx.runtime.paths import Path, is_local

HEARTBEAT, LEASE = 15.0, 90.0
_SEEN_WITHIN = (
    20.0  # seconds after which a file of one host is there for the others: a network file system keeps copies
)
_ours: set[bucket.Address] = set()  # what this process holds now


class Lock:
    """A lock that is held."""

    def check(self) -> None:
        """Refuse to write, where another process may have the lock by now."""


@contextlib.contextmanager
def lock(folder: Path, option: str = "--workdir") -> Iterator[Lock]:
    """Keep other processes from writing to the folder that `option` names.

    Raises:
      ConfigError: another process holds the lock, or it cannot be had.
    """
    with contextlib.ExitStack() as stack:
        held = Lock()  # of the hosts that work together, the first one's counts

        def take() -> str:
            nonlocal held
            held = stack.enter_context(
                _on_this_machine(folder, option) if is_local(folder) else _in_bucket(folder, option)
            )
            return (folder / "LOCK").read_text() if is_local(folder) else ""

        said = hosts.agreed(take)
        if is_local(folder) and not hosts.is_first():
            _check_seen(folder, option, said)
        yield held
        hosts.wait()  # the others may still write


def _check_seen(folder: pathlib.Path, option: str, said: str) -> None:
    """Refuse a folder in which another host than the first does not see what the first one's lock says."""
    until = time.monotonic() + _SEEN_WITHIN
    while True:
        with contextlib.suppress(OSError):
            if (folder / "LOCK").read_text() == said:
                return
        if time.monotonic() > until:
            raise ConfigError(
                f"{option}={folder} is another folder on host {hosts.index()} than on host 0. Name one that all hosts"
                " share, such as one in a bucket: gs://my-runs/digits"
            )
        time.sleep(0.2)


@contextlib.contextmanager
def _on_this_machine(folder: pathlib.Path, option: str) -> Iterator[Lock]:
    make_directory(folder, option)
    path = folder / "LOCK"
    with _lock_file(path, option) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder} is in use by {_holder(file)}. Wait for it, or use another {option}") from None
        except OSError as error:
            raise ConfigError(
                f"cannot lock {path} ({error.strerror or error}), as on some network file systems."
                f" Use another {option}, on a local disk"
            ) from None
        with contextlib.suppress(OSError):  # the file names its holder, where it can be written
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}".encode())
        try:
            yield Lock()
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)  # the file stays: a process that waits for it must not lock one that is gone


def _lock_file(path: pathlib.Path, option: str) -> BinaryIO:
    try:
        return open(path, "ab+", buffering=0)  # unbuffered: nothing is left to fail when it is closed
    except OSError as error:
        raise ConfigError(f"cannot open {path} ({error.strerror or error}). Use another {option}") from None


def _holder(file: BinaryIO) -> str:
    """What a lock file says of the process that holds it; it may be read before that is written."""
    file.seek(0)
    match = re.match(r"process \d+ on \S+", file.read(300).decode(errors="replace"))
    return match[0] if match else "another process"


@contextlib.contextmanager
def _in_bucket(folder: Path, option: str) -> Iterator[Lock]:
    held = _Lease(folder, option)
    try:
        yield held
    finally:
        held.release()


class _Lease(Lock):
    """The object LOCK in a bucket."""

    def __init__(self, folder: Path, option: str) -> None:
        """Take it.

        Raises:
          ConfigError: another process holds it.
        """
        self._folder, self._option = folder, option
        self._at = bucket.address(folder / "LOCK")
        self._ended = threading.Event()
        self._lost = False
        before = bucket.generation(self._at)
        if before:
            before = self._outlasted(before)
        taken = bucket.put_if(self._at, self._text(), before)
        if taken is None:
            raise self._in_use()
        self._generation, self._since = taken, time.monotonic()
        _ours.add(self._at)
        self._thread = threading.Thread(target=self._renew, name="ddx-lock", daemon=True)
        self._thread.start()
        between_hosts.to_finish.append(self.release)

    def check(self) -> None:
        """Refuse to write, where another process may have the lock by now."""
        if self._lost or time.monotonic() - self._since > LEASE:
            raise StorageError(
                f"the lock of {self._folder} was lost, and another process may write there. Make sure that only one"
                " writes, and run the same command again; it resumes"
            )

    def _renew(self) -> None:
        """Write it again and again, until it is released or lost."""
        while not self._ended.wait(HEARTBEAT):
            with contextlib.suppress(StorageError, FileNotFoundError):  # `check` tells when that has lasted too long
                begun = time.monotonic()
                new = bucket.put_if(self._at, self._text(), self._generation)
                if new is None:
                    self._lost = not self._ended.is_set()
                    return
                self._generation, self._since = new, begun

    def release(self) -> None:
        """Remove it, if it is still ours."""
        between_hosts.to_finish.remove(self.release)
        self._ended.set()
        self._thread.join(HEARTBEAT)  # it may just be writing
        _ours.discard(self._at)
        with contextlib.suppress(StorageError):
            if not self._lost:
                bucket.remove(self._at, if_generation=self._generation)

    def _outlasted(self, generation: int) -> int:
        """The generation of a lock that has ended, as its holder has not renewed it for so long; 0 if it is released.

        Raises:
          ConfigError: its holder is alive.
        """
        holder = self._said()
        alive = self._is_alive(holder)
        if alive:
            raise self._in_use()
        if alive is None:  # it may be
            print(f"waiting up to {LEASE:.0f} s for the lock of {self._folder}, held by {_named(holder)}", flush=True)
            until = time.monotonic() + LEASE
            while time.monotonic() < until:
                time.sleep(min(1.0, HEARTBEAT / 4))
                now = bucket.generation(self._at)
                if now == 0:
                    return 0
                if now != generation:
                    raise self._in_use()
        return generation

    def _said(self) -> dict[str, Any] | None:
        """What the object says of the process that holds it, {} for what cannot be understood, None if it is empty."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            content = bucket.get_bytes(self._at)
            said = json.loads(content) if content else None
            return said if isinstance(said, dict | None) else {}
        return {}

    def _is_alive(self, holder: dict[str, Any] | None) -> bool | None:
        """Whether the process that holds a lock is alive; None if it is not on this machine."""
        if holder is None:  # LOCK of a folder on this machine, where nobody was when it was copied to the bucket
            return False
        if holder.get("machine") != _machine():
            return None
        if holder.get("pid") == os.getpid():  # the bucket could not be reached when it was released
            return self._at in _ours
        return bool(holder.get("started")) and _started(holder.get("pid")) == holder["started"]

    def _text(self) -> str:
        return json.dumps(_myself() | {"beat": os.urandom(8).hex()})

    def _in_use(self) -> ConfigError:
        holder = _named(self._said())
        return ConfigError(f"{self._folder} is in use by {holder}. Wait for it, or use another {self._option}")


def _named(holder: dict[str, Any] | None) -> str:
    if not holder or not {"pid", "host"} <= holder.keys():
        return "another process"
    return f"process {holder['pid']} on {holder['host']}"


def _myself() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": os.uname().nodename, "machine": _machine(), "started": _started(os.getpid())}


def _machine() -> str:
    """What no other machine, start of one or container has: process numbers mean the same within it."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return f"unknown {os.urandom(8).hex()}"


def _started(pid: Any) -> str:
    """When a process began, in the ticks of the machine; empty if there is none."""
    with contextlib.suppress(OSError, IndexError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
