"""Many devices: the only module that knows `jax.pmap`, `jax.shard_map`, axis names and shardings.

A step is written for one device. Its helpers, `mean_over_devices` and `gather_over_devices`, are identities unless it
runs inside a wrapper of this module, so the same function is tested under plain `jit`. Devices have their own rows of a
batch and their own parts of a state (`ddx.runtime.parts`); all else goes in and comes out replicated. Average
gradients, not losses: under `pmap` the gradient of an averaged loss is the gradient of the local part.

Training runs on the devices of all hosts (`data_parallel`), everything else on those of its own host (`over_batch`).
"""

import concurrent.futures
import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddx.runtime import devices, memory

AXIS = "devices"
_on_devices = contextvars.ContextVar("on_devices", default=False)


class OnDevices(Protocol):
    """A function that is compiled for all devices when it is called."""

    def __call__(self, *args: Any) -> Any:
        """The result."""

    def lower(self, *args: Any) -> Any:
        """The program for these arguments or their shapes, not compiled yet."""


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
    """Compile step(state, key, (count, batch)) -> (state, metrics) for the devices of all hosts.

    The state (donated), the key and the count (any number) are replicated, the batch is `split_batch`'s of the rows of
    this host, and the step must return what is equal on all devices: average with `mean_over_devices`. Nothing checks
    that; call `assert_replicated`. Where `state_axes`, a prefix of the state's tree, has 0 instead of None, each device
    has its own part (`ddx.runtime.parts`).
    """
    if devices.is_spread():
        wrapped: Any = _over_hosts(_with_helpers(step), state_axes)
    else:
        wrapped = jax.pmap(
            _with_helpers(step),
            axis_name=AXIS,
            in_axes=(state_axes, None, (None, 0)),
            out_axes=(state_axes, None),
            donate_argnums=(0,),
            devices=devices.target(),
        )
    # On few cores, unblocked loops of collectives between forced CPU devices deadlock in jax 0.10.2.
    return _uncollected(wrapped, is_awaited=devices.platform() == "cpu")


def _over_hosts(step: Callable[[Any, Any, Any], tuple[Any, Any]], state_axes: Any) -> Any:
    """`data_parallel` by `shard_map`: `pmap` of replicated arguments breaks where hosts are several."""
    mesh = _mesh()

    def placed(axis: int | None) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec() if axis is None else PartitionSpec(AXIS))

    def for_axes(fn: Callable[[int | None, Any], Any], tree: Any) -> Any:
        return jax.tree.map(fn, state_axes, tree, is_leaf=lambda axis: axis is None)

    def of_device(state: Any, key: Any, work: Any) -> tuple[Any, Any]:
        # A device's part has an axis of 1 here, of the devices, which it has not under pmap.
        count, batch = work
        state = for_axes(lambda axis, part: part if axis is None else jax.tree.map(lambda x: x[0], part), state)
        state, metrics = step(state, key, (count, jax.tree.map(lambda x: x[0], batch)))
        return for_axes(
            lambda axis, part: part if axis is None else jax.tree.map(lambda x: x[None], part), state
        ), metrics

    states = jax.tree.map(placed, state_axes, is_leaf=lambda axis: axis is None)
    ins, outs = (states, placed(None), (placed(None), placed(0))), (states, placed(None))
    specs = [jax.tree.map(lambda sharding: sharding.spec, tree) for tree in (ins, outs)]
    mapped = jax.shard_map(of_device, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)
    compiled = jax.jit(mapped, in_shardings=ins, out_shardings=outs, donate_argnums=0)

    def call(state: Any, key: Any, work: Any) -> tuple[Any, Any]:
        count, batch = work
        batch = jax.tree.map(lambda x: jax.make_array_from_process_local_data(placed(0), np.asarray(x)), batch)
        return compiled(state, key, (count, batch))

    def lower(state: Any, key: Any, work: Any) -> Any:
        return compiled.lower(state, key, (work[0], jax.eval_shape(lambda: work[1])))

    call.lower = lower  # type: ignore[attr-defined]
    return call


def over_batch(fn: Callable[..., Any], shared: int, split: int) -> OnDevices:
    """Compile fn for the devices of this host: `shared` replicated arguments, then `split` ones, which are split."""
    axes = (None,) * shared + (0,) * split
    target = devices.own() if devices.target() else None
    mapped = jax.pmap(_with_helpers(fn), axis_name=AXIS, in_axes=axes, devices=target)
    return _uncollected(mapped, is_awaited=True)


def run_once(fn: Callable[..., Any], *args: Any) -> Any:
    """fn(*args), compiled for one device, and on CPU with less optimisation: that takes longer than one call gains."""
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return _uncollected(jax.jit(fn, compiler_options=options), is_awaited=True)(*args)


def _uncollected(compiled: Any, is_awaited: bool) -> OnDevices:
    """The same function and its `lower`, with which the garbage collector waits."""

    def call(*args: Any) -> Any:
        with memory.without_collector():
            result = compiled(*args)
        return jax.block_until_ready(result) if is_awaited else result

    def lower(*args: Any) -> Any:
        with memory.without_collector():
            return compiled.lower(*args)

    call.lower = lower  # type: ignore[attr-defined]
    return cast(OnDevices, call)


def split_batch(tree: Any, axis: int = 0, parts: int = 0) -> Any:
    """Host arrays with the batch on `axis`, reshaped to (parts, ..., batch / parts, ...); the devices of this host."""
    parts = parts or len(devices.own())

    def split(x: Any) -> Any:
        x = x.reshape(*x.shape[:axis], parts, x.shape[axis] // parts, *x.shape[axis + 1 :])
        return np.moveaxis(x, axis, 0) if isinstance(x, np.ndarray) else jnp.moveaxis(x, axis, 0)

    return jax.tree.map(split, tree)


def join_batch(x: Any) -> np.ndarray:
    """The inverse of `split_batch` on axis 0, on the host."""
    x = np.asarray(x)
    return x.reshape(-1, *x.shape[2:])


def replicate(tree: Any) -> Any:
    """Copy a tree to every device of this host."""
    return jax.device_put(tree, NamedSharding(Mesh(np.asarray(jax.local_devices()), (AXIS,)), PartitionSpec()))


def put(tree: Any, *axes: str) -> Any:
    """Bring a tree to the devices of all hosts: a copy to each, or, with AXIS, to each its row."""
    sharding = NamedSharding(_mesh(), PartitionSpec(*axes))
    if not devices.is_spread():
        return jax.device_put(tree, sharding)

    def here(x: Any) -> Any:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda at: x[at])

    return jax.tree.map(here, tree)


def everywhere(tree: Any) -> Any:
    """A tree on the devices of all hosts with all of it on each; all hosts have to ask for it at the same point."""
    if not devices.is_spread():
        return tree
    return jax.block_until_ready(_to_all(_same)(tree))


def _same(tree: Any) -> Any:
    return tree


@functools.cache  # compiled once, not at every use
def _to_all(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of arrays on the devices of all hosts, whose result each has."""
    return jax.jit(fn, out_shardings=NamedSharding(_mesh(), PartitionSpec()))


def _mesh() -> Mesh:
    return Mesh(np.asarray(devices.every()), (AXIS,))


def copied_to_host(tree: Any) -> Any:
    """A tree as NumPy arrays that stay as they are when its own arrays are donated."""
    on_host = jax.device_get(tree)
    if jax.default_backend() != "cpu":
        return on_host
    leaves, structure = jax.tree.flatten(on_host)  # views of the arrays, there
    with concurrent.futures.ThreadPoolExecutor() as pool:  # most of the time is new memory's
        return jax.tree.unflatten(structure, pool.map(np.array, leaves))


def assert_replicated(tree: Any, what: str, copies: Any = ()) -> None:
    """Check, bit by bit, that all devices hold the same tree; a step that forgot `mean_over_devices` is found here.

    `copies` are arrays as `put` makes them with AXIS, and the rows of all devices must be the same. Only a checksum a
    leaf travels to the host.

    Raises:
      RuntimeError: some leaf differs between devices.
    """
    if devices.count() == 1:
        return
    sums = everywhere(jax.block_until_ready(_checksums()(tree, copies)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(sums):
        if len(np.unique(np.asarray(leaf))) > 1:
            at = jax.tree_util.keystr(path[1:])
            raise RuntimeError(f"{what} differs between devices at {at}; average it in the step")


def _checksum(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.floating):
        x = jax.lax.bitcast_convert_type(x, {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[x.dtype.itemsize])
    x = x.astype(jnp.uint32).reshape(-1)
    # An odd weight a position: swapped values show too.
    return jnp.sum(x * (2 * jnp.arange(x.size, dtype=jnp.uint32) + 1))


@functools.cache  # compiled once, not at every checkpoint
def _checksums() -> Callable[[Any, Any], Any]:
    """The checksums by device of a replicated tree, and of a tree of which each has a row."""
    of_rows = jax.jit(lambda copies: jax.tree.map(jax.vmap(_checksum), copies))
    if devices.is_spread():
        each = jax.shard_map(
            lambda tree: jax.tree.map(lambda x: _checksum(x)[None], tree),
            mesh=_mesh(),
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        )
        of_tree: Callable[[Any], Any] = jax.jit(each)
    else:
        mapped = jax.pmap(lambda tree, _: jax.tree.map(_checksum, tree), axis_name=AXIS, in_axes=(None, 0))
        of_tree = lambda tree: mapped(tree, np.zeros(devices.count()))  # noqa: E731
    return lambda tree, copies: (of_tree(tree), of_rows(copies))


class Votes:
    """Whether any host wants something, asked again and again at the same points of all; told a vote later."""

    def __init__(self) -> None:
        self._last: Any = None

    def __call__(self, wanted: bool) -> bool:
        """What was found at the vote before; on one host, what is wanted now."""
        if not devices.is_spread():
            return wanted
        found = self._last is not None and bool(np.asarray(self._last))
        votes = np.full(len(devices.own()), wanted)
        votes = jax.make_array_from_process_local_data(NamedSharding(_mesh(), PartitionSpec(AXIS)), votes)
        self._last = _to_all(jnp.any)(votes)
        if devices.platform() == "cpu":
            jax.block_until_ready(self._last)
        return found


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
