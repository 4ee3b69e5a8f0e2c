"""Several hosts that work together, each with a process of its own: how they meet, how they agree, and who writes.

All run the same command on the same folder, which all see. Whatever follows from a file is decided by the first
process, which tells the others (`agreed`), and it alone writes, but for the parts of a job, of which each writes its
own. On one host all of this is nothing: there the first process is the only one.
"""

import contextlib
import contextvars
import ctypes
import json
import os
import re
import signal
import sys
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # JAX has no public name for what it has agreed on
from jax.experimental import multihost_utils

from ddx.runtime import accelerator, errors
from ddx.runtime.errors import AcceleratorError, ConfigError, DdxError, telling_line

_PATIENCE = 8.0  # seconds after which somebody should hear what is waited for
_START_TIMEOUT, _END_TIMEOUT = 300.0, 30  # seconds
_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def start() -> None:
    """Meet the processes of the other hosts, if there are any; before JAX has used a device.

    That there are is said by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, by a Slurm step or an MPI
    launcher of several processes, or by a TPU of several hosts. A process that has called
    `jax.distributed.initialize` itself is left alone.

    The process ends, with the exit code of an AcceleratorError, if the others do not come.

    Raises:
      ConfigError: the variables of the environment are incomplete or no numbers.
      AcceleratorError: the others cannot be reached.
    """
    how = None if jax.distributed.is_initialized() else _how()
    if how is None:
        return
    many = f"{how['num_processes']} processes" if "num_processes" in how else "the processes of all hosts"
    each = f", each with another {_INDEX}" if "process_id" in how else ""
    remedy = f"Start the same command on every host within {_START_TIMEOUT:g} s{each}"

    def give_up() -> None:  # JAX would end the process too, and print pages
        _say(f"error: not all of {many} came. {remedy}")
        os._exit(AcceleratorError.exit_code)

    line = f"waiting for {many}. Is the command started on every host, as gcloud does with --worker=all?"
    timers = threading.Timer(_PATIENCE, _say, (line,)), threading.Timer(_START_TIMEOUT, give_up)
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        late = int(2 * _START_TIMEOUT)
        jax.distributed.initialize(**how, initialization_timeout=late, shutdown_timeout_seconds=_END_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise AcceleratorError(f"{many} do not meet: {telling_line(error)}. {remedy}") from error
    finally:
        for timer in timers:
            timer.cancel()
    _tell_when_aborted()


def _tell_when_aborted() -> None:
    """Have the last line be one of ours if JAX ends this process because another one was lost.

    JAX's client does that from a thread of its own, with pages and a stack trace, and then calls abort; what it offers
    for Python to be told instead, missed_heartbeat_callback, throws std::bad_cast in jaxlib 0.10.2. A handler of
    Python's own `signal` would run in the main thread, which is no more. The process ends as it did, by SIGABRT.
    """
    others = f"process {1 - index()}" if count() == 2 else f"one of the other {count() - 1} processes, as it says above"
    line = (
        f"error: JAX has ended process {index()}, as it does when another one is lost: {others}. See the end of that"
        " one's output; then the same command on every host resumes"
    )

    def told(_: int) -> None:
        _say(line)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(told)
    with contextlib.suppress(OSError, AttributeError, TypeError):  # a C library without it
        ctypes.CDLL(None).signal(signal.SIGABRT, handler)
        _handlers.append(handler)


_handlers: list[Any] = []  # which C holds, and Python must not free


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def count() -> int:
    """How many processes work together. No device is touched to know that."""
    return int(distributed.global_state.num_processes) if jax.distributed.is_initialized() else 1


def index() -> int:
    """Which of them this is, from 0."""
    return int(distributed.global_state.process_id) if jax.distributed.is_initialized() else 0


def service() -> Any:
    """JAX's coordination service, through which processes can tell each other texts by name."""
    return distributed.global_state.client


def is_first() -> bool:
    """Whether this process decides and writes."""
    return index() == 0


def wait() -> None:
    """Until all have come here."""
    if is_asked():
        multihost_utils.broadcast_one_to_all(np.zeros(1, np.uint8))


def agreed(decide: Callable[[], Any]) -> Any:
    """What the first process decides, when all have come here: a value that JSON can hold, or a `DdxError` for all."""
    if not is_asked():
        return decide()
    wait()
    told: dict[str, Any] = {}
    if is_first():
        token = _decides.set(True)
        try:
            told = {"value": decide()}
        except DdxError as error:
            told = {"error": type(error).__name__, "text": str(error)}
        finally:
            _decides.reset(token)
    told = json.loads(_told_all(json.dumps(told).encode()))
    if "error" in told:
        raise getattr(errors, told["error"])(told["text"])
    return told["value"]


def share(work: Any) -> Any:
    """What of a list of pieces of work this process does."""
    return work[index() :: count()] if is_asked() else work


_decides = contextvars.ContextVar("decides", default=False)


def is_asked() -> bool:
    """Whether others have a part in what happens here: not while the first process decides for all."""
    return count() > 1 and not _decides.get()


def _told_all(text: bytes) -> bytes:
    """The text of the first process."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(1 << length.bit_length(), np.uint8)  # few lengths: each is a program
    if is_first():
        padded[:length] = np.frombuffer(text, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8)[:length])


def _how() -> dict[str, Any] | None:
    """What `jax.distributed.initialize` takes here; None for a process that is alone."""
    environment = os.environ
    named = {name: environment[name] for name in (_ADDRESS, _COUNT, _INDEX) if environment.get(name)}
    if named:
        return _named(**named)
    for variable, name in (("SLURM_STEP_NUM_TASKS", "slurm"), ("OMPI_COMM_WORLD_SIZE", "ompi")):
        if environment.get(variable, "1") not in ("0", "1"):
            return {"cluster_detection_method": name}
    return {} if environment.get("JAX_PLATFORMS") != "cpu" and _hosts_of_tpu() > 1 else None


def _named(**given: str) -> dict[str, Any]:
    """What the environment names: where the first process is, how many there are, and which this is."""
    said = ", ".join(f"{name}={value}" for name, value in given.items())
    try:
        address, number, this = given[_ADDRESS], int(given[_COUNT]), int(given[_INDEX])
    except (KeyError, ValueError):
        raise ConfigError(
            f"{said}: of {_ADDRESS}, {_COUNT} and {_INDEX} one is missing or no number. Set all three, or none"
        ) from None
    if not re.fullmatch(r"\S+:\d+", address):
        raise ConfigError(f"{_ADDRESS}={address} has no port. Name the first host and a free port, as first-host:8476")
    if not 0 <= this < number:
        raise ConfigError(f"{_INDEX}={this} must be from 0 to {number - 1}, one for each of {_COUNT}={number}")
    return {"coordinator_address": address, "num_processes": number, "process_id": this}


def _hosts_of_tpu() -> int:
    """How many hosts the TPU of this one has; 1 where there is none or nobody tells."""
    slices = os.environ.get("MEGASCALE_NUM_SLICES", "1")
    names = os.environ.get("TPU_WORKER_HOSTNAMES")
    if names is None and accelerator.this_host().tpu and "TPU_SKIP_MDS_QUERY" not in os.environ:
        names = _metadata("worker-network-endpoints")
    return len((names or "").split(",")) * (int(slices) if slices.isdecimal() else 1)


def _metadata(name: str) -> str | None:
    """What Google Cloud says to its machines."""
    url = f"http://metadata.google.internal/computeMetadata/v1/instance/attributes/{name}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310 - the scheme is written above
            return str(answer.read().decode())
    except OSError:
        return None
