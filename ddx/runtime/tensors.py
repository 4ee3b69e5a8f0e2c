"""The tensors in a file: .safetensors, which needs nothing but NumPy, or a PyTorch file, which needs PyTorch.

No pickle is loaded: PyTorch reads its files with weights_only=True, which makes tensors and plain containers alone.
A .safetensors file is the length of a header (8 bytes), the header, which is JSON, and the tensors' bytes. Tensors are
read one at a time.
"""

import itertools
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ddx.runtime import storage
from ddx.runtime.errors import CheckpointError, ConfigError, shown, telling_line
from ddx.runtime.paths import Path

SAFETENSORS = ".safetensors"
TORCH = (".bin", ".pt", ".pth", ".ckpt")
NUMPY = ".npy"


class Tensor(NamedTuple):
    """A tensor that is read when it is asked for."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]  # as float32


Tensors = Mapping[str, Tensor]
"""By name."""


def read(path: Path, without: str = "") -> Any:
    """What a file holds: `Tensors`, or for a PyTorch file whatever nest of lists and dicts it is, with a `Tensor` each.

    Args:
      path: the file, local or gs://.
      without: pattern of names to leave out, which may then be of any kind, such as counts; by default none.

    Raises:
      ConfigError: it needs PyTorch, which is not installed, or it is of neither kind.
      CheckpointError: it cannot be read, is damaged, or holds more than tensors.
    """
    if not storage.is_file(path):
        raise CheckpointError(f"there is no file {path}. Name the file or folder of the weights with --source")
    if path.suffix == SAFETENSORS:
        return _safetensors(path, without)
    if path.suffix in TORCH:
        found = _torch(path)
        return _left(found, without) if isinstance(found, Mapping) else found
    kinds = ", ".join((SAFETENSORS, *TORCH))
    raise ConfigError(f"{path} has no known kind of weights. Use a file that ends in one of: {kinds}")


def read_array(path: Path) -> np.ndarray:
    """The one array in a file of np.save, or of torch.save, which a torch.Tensor or an array was given to.

    Raises:
      ConfigError: it needs PyTorch, which is not installed, or it is of neither kind.
      CheckpointError: it cannot be read, is damaged, or holds something else.
    """
    if not storage.is_file(path):
        raise CheckpointError(f"there is no file {path}. Name the file")
    if path.suffix == NUMPY:
        try:
            with storage.opened(path) as file:
                found = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, telling_line(error)) from None
    elif path.suffix in TORCH:
        found = _loaded(path, "Save the array alone, with np.save")[0]
        found = found.detach().numpy() if hasattr(found, "detach") else found
    else:
        kinds = ", ".join((NUMPY, *TORCH))
        raise ConfigError(f"{path} has no known kind of array. Use a file that ends in one of: {kinds}")
    if not isinstance(found, np.ndarray):
        raise CheckpointError(f"{path} holds {_kind(found)}, no array. Use another file")
    return found


def _kind(found: Any) -> str:
    return "tensors by name" if isinstance(found, Mapping) else f"a {type(found).__name__}"


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays of float32 or float16 and some text as a .safetensors file.

    Raises:
      StorageError: it cannot be written.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    place = 0
    for name, value in arrays.items():
        kind = f"F{8 * value.itemsize}"
        entries[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [place, place + value.nbytes]}
        place += value.nbytes
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)  # the numbers begin at a multiple of their size
    numbers = (value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes() for value in arrays.values())
    storage.write_parts(path, itertools.chain([struct.pack("<Q", len(header)), header], numbers))


def metadata(path: Path) -> dict[str, str]:
    """The text in a .safetensors file.

    Raises:
      CheckpointError: it cannot be read.
    """
    return _header(path)[1].get("__metadata__") or {}


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the numbers begin, and the header."""
    whole = storage.size(path)
    start = storage.read_bytes(path, 8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else whole
    if not length <= min(whole - 8, _LONGEST_HEADER):
        raise _damaged(path, "its header is not complete")
    try:
        header = json.loads(storage.read_bytes(path, 8 + length)[8:])
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no list of tensors: {telling_line(error)}") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no list of tensors")
    return 8 + length, header


def _left(named: Mapping[Any, Any], without: str) -> dict[Any, Any]:
    """What is left of a mapping from names without those of a pattern."""
    return {name: value for name, value in named.items() if not re.fullmatch(without, str(name))}


def _safetensors(path: Path, without: str) -> Tensors:
    whole = storage.size(path)
    begin, header = _header(path)
    header.pop("__metadata__", None)
    header = _left(header, without)
    try:
        listed = {name: (one["dtype"], tuple(one["shape"]), *one["data_offsets"]) for name, one in header.items()}
        if any(len(one) != 4 for one in listed.values()):
            raise ValueError("places")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"its header is no list of tensors: {telling_line(error)}") from None
    for name, (kind, shape, first, end) in listed.items():
        if kind not in _KINDS:
            raise CheckpointError(
                f"{path}: tensor {shown(name)} is {shown(kind)}, not floating-point. Use other weights"
            )
        if not all(type(n) is int and n >= 0 for n in (*shape, first, end)):
            raise _damaged(path, f"tensor {shown(name)} has an impossible shape or place")
        if end - first != np.prod(shape, dtype=object) * _KINDS[kind].itemsize:
            raise _damaged(path, f"tensor {shown(name)} of shape {shape} has {end - first} bytes")
        if begin + end > whole:
            raise _damaged(path, f"it ends before the end of tensor {shown(name)}")
    local = storage.on_this_machine(path)

    def tensor(kind: str, shape: tuple[int, ...], first: int, end: int) -> Tensor:
        def read() -> np.ndarray:
            count = (end - first) // _KINDS[kind].itemsize
            return _as_float(np.fromfile(local, _KINDS[kind], count, offset=begin + first), kind).reshape(shape)

        return Tensor(shape, read)

    return {name: tensor(*one) for name, one in listed.items()}


_LONGEST_HEADER = 100_000_000
_KINDS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # the upper half of a float32
}


def _as_float(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def _torch(path: Path) -> Any:
    found, torch = _loaded(path, "Save its state dict alone, with torch.save(model.state_dict(), FILE)")
    return _lazy(found, torch, path, "")


def _loaded(path: Path, remedy: str) -> tuple[Any, Any]:
    """What a file of PyTorch's holds, tensors, arrays of numbers and plain containers, and PyTorch itself."""
    try:
        import torch
    except ImportError:
        raise ConfigError(
            f"reading {path} needs PyTorch. Install it with pip install 'ddx[convert]', or use a file of another kind:"
            f" {SAFETENSORS} for weights, {NUMPY} for an array"
        ) from None
    local = storage.on_this_machine(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_arrays()):
            warnings.simplefilter("ignore")  # what it says of strange files is told below
            found = torch.load(local, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(local))
    except Exception as error:  # pickle, zipfile and PyTorch each have their own kinds
        line = telling_line(error)
        if "weights_only" in str(error) or "WeightsUnpickler" in str(error) or "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} holds more than tensors, or is no PyTorch file; it is not read, since a pickle may run any"
                f" code. {remedy}"
            ) from None
        raise _damaged(path, line) from None
    return found, torch


def _arrays() -> list[Any]:
    """What PyTorch may make besides tensors: NumPy's arrays and scalars of numbers, under NumPy 1's names as well."""
    array: Any = np.zeros(()).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    numpy1 = [(one, f"numpy.core.multiarray.{one.__name__}") for one in (array, scalar)]
    return [array, scalar, *numpy1, np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in "fdil")]


def _lazy(value: Any, torch: Any, path: Path, where: str) -> Any:
    """The same nest with a `Tensor` for each floating-point tensor of PyTorch's; others, such as counts, stay."""
    if isinstance(value, Mapping):
        return {key: _lazy(one, torch, path, f"{where}{key}.") for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_lazy(one, torch, path, f"{where}{i}.") for i, one in enumerate(value)]
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return Tensor(tuple(value.shape), lambda: np.asarray(value.detach().float().contiguous().numpy()))
    return value


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {why}. Fetch it again")
