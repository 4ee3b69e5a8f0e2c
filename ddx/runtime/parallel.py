"""Several devices of one host: the only module that knows `jax.pmap`, axis names and shardings.

A step is written for one device. Its helpers, `mean_over_devices` and `gather_over_devices`, are identities unless it
runs inside a wrapper of this module, so the same function is tested under plain `jit`. What differs between devices is
only their rows of a batch; the state goes in and comes out replicated. Average gradients,
not losses: under `pmap` the gradient of an averaged loss is the gradient of the local part.
"""

import concurrent.futures
import contextlib
import contextvars
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddx.runtime import accelerator, faults
from ddx.runtime.errors import AcceleratorError, ConfigError, DdxError

AXIS = "devices"
FEWER_AT_ONCE = "Use a smaller --batch_size, or a device with more memory"
_on_devices = contextvars.ContextVar("on_devices", default=False)


class OnDevices(Protocol):
    """A function that is compiled for all devices when it is called."""

    def __call__(self, *args: Any) -> Any:
        """The result."""

    def lower(self, *args: Any) -> Any:
        """The program for these arguments or their shapes, not compiled yet."""


_target: contextvars.ContextVar[tuple[Any, ...] | None] = contextvars.ContextVar("target", default=None)


@contextlib.contextmanager
def compiling_for(devices: Iterable[Any]) -> Iterator[None]:
    """While the block runs, wrappers are made for other devices than this host's, to be lowered and never called."""
    token = _target.set(tuple(devices))
    try:
        yield
    finally:
        _target.reset(token)


def platform() -> str:
    """What programs are compiled for: "cpu", "gpu" or "tpu"."""
    target = _target.get()
    return str(target[0].platform) if target else jax.default_backend()


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


def num_devices() -> int:
    """The devices that wrappers of this module use: all of this host.

    Raises:
      ConfigError: JAX runs on several hosts, which is not supported.
      AcceleratorError: JAX fell back to the CPU of a host with a TPU.
    """
    if target := _target.get():
        return len(target)
    if jax.default_backend() == "cpu" and not _cpu_is_wanted():
        _refuse(accelerator.on_cpu(accelerator.this_host()))
    if jax.process_count() > 1:
        raise ConfigError(
            f"jax.distributed started {jax.process_count()} processes; ddx runs on the devices of one host."
            " Do not call jax.distributed.initialize()"
        )
    return jax.local_device_count()


def check_divisible(batch_size: int, accumulation: int = 1) -> None:
    """Refuse, with a ConfigError, a batch that the devices cannot share evenly."""
    parts = num_devices() * accumulation
    if batch_size % parts:
        below = batch_size // parts * parts
        nearest = f"{below} or {below + parts}" if below else f"{parts}"
        split = f"{num_devices()} devices" + (f" x train.accumulation={accumulation}" if accumulation > 1 else "")
        raise ConfigError(f"train.batch_size={batch_size} is not divisible by {split}. Use {nearest}")


def is_wrapped() -> bool:
    """Whether the code that is traced runs on devices, inside a wrapper of this module."""
    return _on_devices.get()


def mean_over_devices(tree: Any) -> Any:
    """The mean of every array over devices; the arrays themselves outside a wrapper."""
    return jax.lax.pmean(tree, AXIS) if _on_devices.get() else tree


def gather_over_devices(tree: Any) -> Any:
    """Arrays of examples of all devices, in the order of the batch; the arrays themselves outside a wrapper."""
    return jax.lax.all_gather(tree, AXIS, tiled=True) if _on_devices.get() else tree


def data_parallel(step: Callable[[Any, Any, Any], tuple[Any, Any]], state_axes: Any = None) -> OnDevices:
    """Compile step(state, key, (count, batch)) -> (state, metrics) for all devices.

    The state (donated), the key and the count (any number) are replicated, the batch is `split_batch`'s, and the step
    must return what is equal on all devices: average with `mean_over_devices`. Nothing checks that; call
    `assert_replicated`. Where `state_axes`, a prefix of the state's tree, has 0 instead of None, each device has its
    own part (`ddx.runtime.parts`).
    """
    wrapped = jax.pmap(
        _with_helpers(step),
        axis_name=AXIS,
        in_axes=(state_axes, None, (None, 0)),
        out_axes=(state_axes, None),
        donate_argnums=(0,),
        devices=_target.get(),
    )
    if platform() != "cpu":
        return cast(OnDevices, wrapped)

    @functools.wraps(wrapped)  # its `lower` too
    def blocking(*args: Any) -> Any:
        # On few cores, unblocked loops of collectives between forced CPU devices deadlock in jax 0.10.2.
        return jax.block_until_ready(wrapped(*args))

    return cast(OnDevices, blocking)


def over_batch(fn: Callable[..., Any], shared: int, split: int) -> OnDevices:
    """Compile fn for all devices: `shared` replicated arguments first, then `split` ones split, as is the result."""
    axes = (None,) * shared + (0,) * split
    mapped = jax.pmap(_with_helpers(fn), axis_name=AXIS, in_axes=axes, devices=_target.get())

    @functools.wraps(mapped)
    def blocking(*args: Any) -> Any:
        return jax.block_until_ready(mapped(*args))

    return cast(OnDevices, blocking)


def run_once(fn: Callable[..., Any], *args: Any) -> Any:
    """fn(*args), compiled for one device, and on CPU with less optimisation: that takes longer than one call gains."""
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.block_until_ready(jax.jit(fn, compiler_options=options)(*args))


def split_batch(tree: Any, axis: int = 0) -> Any:
    """Host arrays with the batch on `axis`, reshaped to (devices, ..., batch / devices, ...)."""

    def split(x: Any) -> Any:
        devices = num_devices()
        x = x.reshape(*x.shape[:axis], devices, x.shape[axis] // devices, *x.shape[axis + 1 :])
        return np.moveaxis(x, axis, 0) if isinstance(x, np.ndarray) else jnp.moveaxis(x, axis, 0)

    return jax.tree.map(split, tree)


def join_batch(x: Any) -> np.ndarray:
    """The inverse of `split_batch` on axis 0, on the host."""
    x = np.asarray(x)
    return x.reshape(-1, *x.shape[2:])


def replicate(tree: Any) -> Any:
    """Copy a tree to every device."""
    return put(tree)


def put(tree: Any, *axes: str) -> Any:
    """Bring a tree to the devices: a copy to each, or, with AXIS, to each its row."""
    mesh = Mesh(np.asarray(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))


def copied_to_host(tree: Any) -> Any:
    """A tree as NumPy arrays that stay as they are when its own arrays are donated."""
    on_host = jax.device_get(tree)
    if jax.default_backend() != "cpu":
        return on_host
    leaves, structure = jax.tree.flatten(on_host)  # views of the arrays, there
    with concurrent.futures.ThreadPoolExecutor() as pool:  # most of the time is new memory's
        return jax.tree.unflatten(structure, pool.map(np.array, leaves))


def assert_replicated(tree: Any, what: str) -> None:
    """Check, bit by bit, that all devices hold the same tree; a step that forgot `mean_over_devices` is found here.

    Only a checksum a leaf travels to the host.

    Raises:
      RuntimeError: some leaf differs between devices.
    """
    if num_devices() == 1:
        return
    sums = jax.block_until_ready(_checksums()(tree, np.zeros(num_devices())))
    for path, leaf in jax.tree_util.tree_leaves_with_path(sums):
        if len(np.unique(np.asarray(leaf))) > 1:
            raise RuntimeError(
                f"{what} differs between devices at {jax.tree_util.keystr(path)}; average it in the step"
            )


def _checksum(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        x = jax.lax.bitcast_convert_type(x, {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[x.dtype.itemsize])
    x = x.astype(jnp.uint32).reshape(-1)
    # An odd weight a position: swapped values show too.
    return jnp.sum(x * (2 * jnp.arange(x.size, dtype=jnp.uint32) + 1))


@functools.cache  # compiled once, not at every checkpoint
def _checksums() -> Callable[[Any, Any], Any]:
    return jax.pmap(lambda tree, _: jax.tree.map(_checksum, tree), axis_name=AXIS, in_axes=(None, 0))


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


@contextlib.contextmanager
def _helpers() -> Iterator[None]:
    token = _on_devices.set(True)
    try:
        yield
    finally:
        _on_devices.reset(token)


def _with_helpers(fn: Callable[..., Any]) -> Callable[..., Any]:
    def traced(*args: Any) -> Any:
        with _helpers():
            return fn(*args)

    return traced
