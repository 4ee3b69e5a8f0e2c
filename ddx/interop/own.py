"""Files that ddx itself exported: arrays under its own names, and what a run says of them as their metadata."""

import json
from typing import Any

from ml_collections import ConfigDict

from ddx.interop.found import Found, state_dict
from ddx.runs.meta import checked, config_of
from ddx.runtime.errors import CheckpointError
from ddx.runtime.paths import Path
from ddx.runtime.tensors import metadata, read


def find(source: Path, config: ConfigDict | None) -> Found:
    """The network in a file that `ddx.interop.export` wrote, with its own config or, of the same network, another.

    Raises:
      CheckpointError: the file is missing, damaged, or was not written by ddx.
    """
    tensors = state_dict(read(source), source)
    try:
        said = json.loads(metadata(source)["ddx"])
    except (KeyError, ValueError, TypeError, RecursionError):
        raise CheckpointError(f"{source} was not written by ddx. Name its code base with --from") from None
    said = checked(said, source)
    height, width, channels = said["image_shape"]
    step = said.get("step")
    known: dict[str, Any] = {name: said[name] for name in ("data", "spectrum") if name in said and config is None}
    return Found(
        config or config_of(said, source),
        (height, width, channels),
        said.get("num_classes", 0),
        tensors,
        source,
        None,
        step if type(step) is int and step > 0 else 1,
        known,
    )
