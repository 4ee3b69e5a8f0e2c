"""From the weights that a user fetched to the file that `load` reads: checked, and without what is not needed."""

from collections.abc import Mapping

import jax

from ddx.features.extractor import named, plug_of
from ddx.features.plug import Source, fill
from ddx.features.weights import NETWORK, SOURCE, cached, remedy, sha256
from ddx.runs.job import Result
from ddx.runtime import folders
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.runtime.paths import Path, user_path
from ddx.runtime.tensors import SAFETENSORS, read, write


def convert(name: str, source: str | Path, out: str | Path | None = None, *, unverified: bool = False) -> Result:
    """Write the weights of a feature network as a file that `ddx.features.load` reads.

    The same source makes the same file, whose SHA-256 stands with every score.

    Args:
      name: of a network whose weights do not ship with ddx.
      source: the file of weights, local or gs://: a state dict of PyTorch's, which needs PyTorch, or .safetensors.
      out: the file to write; None for the place where `load` looks.
      unverified: whether to take a source that is not the published one, where its checksum is known.

    Returns:
      What was written; its values are num_params and sha256.

    Raises:
      ConfigError: the network is unknown or ships with its weights, or `out` is no .safetensors file.
      CheckpointError: the source is missing, damaged, not the published one, or of another network.
      StorageError: `out` cannot be written.
    """
    network = named(name)
    if network.is_shipped:
        raise ConfigError(f"{name} ships with its weights. Use it as it is, or convert another network")
    path = user_path(source, "--source")
    to = cached(network) if out is None else user_path(out, "--out")
    if to.suffix != SAFETENSORS:
        raise ConfigError(f"--out={to} must end in {SAFETENSORS}. Name the file to write")
    plug = plug_of(name)
    tensors = read(path, plug.without)
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"{path} holds no state dict, tensors by name. Use another file")
    digest = sha256(path)
    if not digest.startswith(network.sha256) and not unverified:
        raise CheckpointError(
            f"{path} is not the published file: its SHA-256 begins with {digest[:8]}, and not with {network.sha256}."
            f" {remedy(network, out)}. Or pass --unverified for weights of your own"
        )
    found = Source(tensors, path)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(fill(plug, found)))
    folders.make_directory(to.parent, "--out")
    arrays = {key: tensors[key].read() for key in sorted(found.taken)}
    write(to, arrays, {"format": "pt", NETWORK: name, SOURCE: digest})
    values = {"num_params": num_params, "sha256": sha256(to)}
    message = (
        f"wrote {to}: the weights of {name} ({network.label}), {num_params:,} parameters, SHA-256 {values['sha256']}"
    )
    return Result(message, to.parent, (to.name,), values)
