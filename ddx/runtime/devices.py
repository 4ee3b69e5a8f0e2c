"""Which devices programs are made for, and what may be wrong with them. It does not know how programs use them.

Training runs on the devices of all hosts, everything else on those of its own host.
"""

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from ddx.runtime import accelerator, cache, faults, hosts
from ddx.runtime.errors import AcceleratorError, ConfigError, DdxError

FEWER_AT_ONCE = "Use a smaller --batch_size, or a device with more memory"
_target: contextvars.ContextVar[tuple[Any, ...] | None] = contextvars.ContextVar("target", default=None)


@contextlib.contextmanager
def compiling_for(devices: Iterable[Any]) -> Iterator[None]:
    """While the block runs, wrappers are made for other devices than this host's, to be lowered and never called."""
    token = _target.set(tuple(devices))
    try:
        yield
    finally:
        _target.reset(token)


def target() -> tuple[Any, ...] | None:
    """The devices that are compiled for instead of this host's."""
    return _target.get()


def platform() -> str:
    """What programs are compiled for: "cpu", "gpu" or "tpu"."""
    others = target()
    return str(others[0].platform) if others else jax.default_backend()


@contextlib.contextmanager
def job(what: str, memory_remedy: str | Callable[[], str]) -> Iterator[None]:
    """A job on the devices, as a decorator or a block; what they fail of becomes an error of ddx.

    Args:
      what: is done, such as "training".
      memory_remedy: what to do if the memory is too small, as a sentence without a full stop.

    Raises:
      AcceleratorError: the TPU or GPU cannot be used with what is installed, or another process uses it.
      OutOfMemoryError: a device or the host has no memory left.
    """
    if not _cpu_is_wanted():  # at once: a driver that does not match may end the process instead of failing
        _refuse(accelerator.unfit(accelerator.this_host()))
    cache.keep_programs()
    try:
        yield
    except DdxError:
        raise
    except Exception as error:
        told = faults.explain(error, what, memory_remedy)
        if isinstance(error, AssertionError) and not _has_devices():
            told = AcceleratorError("JAX_PLATFORMS asks for what this host does not have. Unset it, or set it to cpu")
        if told is None:
            raise
        raise told from error


def every() -> tuple[Any, ...]:
    """The devices that training runs on, host by host.

    Raises:
      AcceleratorError: JAX fell back to the CPU of a host with a TPU.
      ConfigError: they are on several hosts that have not met, or have not equally many.
    """
    if target() is None and jax.default_backend() == "cpu" and not _cpu_is_wanted():
        _refuse(accelerator.on_cpu(accelerator.this_host()))
    if target() is None and jax.process_count() > hosts.count():
        raise ConfigError(
            f"the devices are on {jax.process_count()} hosts. Call jax.distributed.initialize() first, on each of them"
        )
    if target() is None and jax.device_count() != (each := jax.local_device_count()) * hosts.count():
        raise ConfigError(
            f"host {hosts.index()} has {each} of {jax.device_count()} devices, and there are {hosts.count()} hosts."
            " Start on hosts with equally many devices"
        )
    return tuple(sorted(target() or jax.devices(), key=lambda device: (device.process_index, device.id)))


def own() -> tuple[Any, ...]:
    """Those of one host, this one, which everything else runs on."""
    found = every()
    here = found[0].process_index if target() else hosts.index()
    return tuple(device for device in found if device.process_index == here)


def count() -> int:
    """How many devices training runs on."""
    return len(every())


def is_spread() -> bool:
    """Whether training runs on several hosts."""
    return len(own()) < count()


def rows_here(batch_size: int) -> slice:
    """The rows of a global batch that the devices of this host get."""
    size = batch_size // hosts.count()
    return slice(hosts.index() * size, (hosts.index() + 1) * size)


def check_divisible(batch_size: int, accumulation: int = 1) -> None:
    """Refuse, with a ConfigError, a batch that the devices cannot share evenly."""
    parts = count() * accumulation
    if batch_size % parts:
        below = batch_size // parts * parts
        nearest = f"{below} or {below + parts}" if below else f"{parts}"
        split = f"{count()} devices" + (f" x train.accumulation={accumulation}" if accumulation > 1 else "")
        raise ConfigError(f"train.batch_size={batch_size} is not divisible by {split}. Use {nearest}")


def _cpu_is_wanted() -> bool:
    """Whether JAX was told to use the CPU."""
    wanted = jax.config.jax_platforms or os.environ.get("JAX_PLATFORM_NAME", "")  # type: ignore[attr-defined]
    return bool(wanted.startswith("cpu"))


def _has_devices() -> bool:
    try:
        return bool(jax.local_device_count())
    except AssertionError:  # JAX's answer where only GPUs are wanted and there are none
        return False


def _refuse(message: str | None) -> None:
    if message:
        raise AcceleratorError(message)
