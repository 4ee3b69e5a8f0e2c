"""The networks that there are, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ddx.models.dit import DiT
from ddx.models.unet import UNet

Network = UNet | DiT
"""A network: called with (x, t, label, ..., dropout_keys=...), and `inputs` makes what its `init` takes."""

NETWORKS: Mapping[str, type[UNet] | type[DiT]] = MappingProxyType({"unet": UNet, "dit": DiT})


def make(name: str, settings: Mapping[str, Any]) -> Network:
    """A network whose attributes are the settings of their names; other networks' settings are left out.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in NETWORKS:
        raise ValueError(f"network {name!r} is unknown; choose one of: {', '.join(NETWORKS)}")
    network = NETWORKS[name]
    return network(**{key: value for key, value in settings.items() if key in network.__dataclass_fields__})
