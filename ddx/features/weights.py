"""Files of weights of the feature networks: where they are, that they are the right ones, and how they get there.

A file keeps the tensors' names and shapes of the code that trained the network, and says as its metadata which network
it is. Those that ship with ddx lie beside this module; those that users bring lie in the cache, never in /tmp, where
others could write them.
"""

import pathlib

from ddx.features.networks import FeatureNetwork
from ddx.runtime import cache, storage
from ddx.runtime.errors import CheckpointError, DataError, telling_line
from ddx.runtime.paths import Path, user_path
from ddx.runtime.tensors import SAFETENSORS, Tensors, metadata
from ddx.runtime.tensors import read as read_tensors

NETWORK = "feature_network"
"""The key of a file's metadata that says whose weights it has."""

SOURCE = "sha256_of_source"
"""And the one that says what they were converted from."""

_SHIPPED = pathlib.Path(__file__).with_name("shipped")


def find(network: FeatureNetwork, given: str | Path | None) -> tuple[Path, str]:
    """The file of a network's weights, and its SHA-256.

    Args:
      network: which one.
      given: the file, or None for the one that ships or the one in the cache.

    Raises:
      DataError: there is none, it cannot be read, or the one that ships is damaged.
    """
    path: Path
    if given is None and network.is_shipped:
        path = _SHIPPED / f"{network.name}{SAFETENSORS}"
        if not storage.is_file(path) or (digest := sha256(path)) != network.sha256:
            raise DataError(f"{path} is not as it was shipped. Install ddx again")
        return path, digest
    path = cached(network) if given is None else user_path(given, "weights")
    if not storage.is_file(path):
        raise DataError(f"there are no weights of {network.name} in {path}. {_how(network, path, given)}")
    return path, sha256(path)


def are_published(path: Path, digest: str, network: FeatureNetwork) -> bool:
    """Whether a file has the weights that ship or were published, so far as their checksum is known."""
    source = metadata(path).get(SOURCE, "") if path.suffix == SAFETENSORS else ""
    return any(checksum.startswith(network.sha256) for checksum in (digest, source))


def _how(network: FeatureNetwork, path: Path, given: str | Path | None) -> str:
    """What to do where there is no file."""
    if network.is_shipped:
        return "Leave it out: ddx has weights of its own"
    if path.suffix != SAFETENSORS:
        return f"Name the {SAFETENSORS} file that python -m launch.convert --from={network.name} writes"
    return remedy(network, given)


def remedy(network: FeatureNetwork, out: str | Path | None = None) -> str:
    """The two commands that bring weights to the place where they are looked for; ddx downloads none itself."""
    file = network.source.rpartition("/")[2]
    where = "" if out is None else f" --out={out}"
    return (
        f"Fetch them with: curl -LO {network.source} and then: python -m launch.convert --from={network.name}"
        f" --source={file}{where}"
    )


def cached(network: FeatureNetwork) -> pathlib.Path:
    """Where the weights that a user brings are kept.

    Raises:
      DataError: this user has no folder for a cache.
    """
    try:
        return cache.home() / "features" / f"{network.name}.safetensors"
    except OSError as error:
        raise DataError(
            f"there is no place for weights of {network.name}: {telling_line(error)}. Set XDG_CACHE_HOME to a folder"
        ) from None


def read(path: Path, network: FeatureNetwork) -> Tensors:
    """The tensors in a file that ddx wrote for a network.

    Raises:
      CheckpointError: it is damaged, of another network, or of another code.
    """
    said = metadata(path).get(NETWORK) if path.suffix == SAFETENSORS else None
    if said is None:
        convert = f"Run python -m launch.convert --from={network.name} --source={path} and use the file that it writes"
        how = "Leave it out, or name another" if network.is_shipped else convert
        raise CheckpointError(f"{path} was not written by ddx for a feature network. {how}")
    if said != network.name:
        raise CheckpointError(f"{path} has the weights of {said}, not of {network.name}. Name another file")
    return read_tensors(path)


def sha256(path: Path) -> str:
    """The checksum of a file of weights.

    Raises:
      DataError: it cannot be read.
    """
    try:
        return storage.sha256(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {telling_line(error)}. Make it readable") from None
