"""Feature networks: what images are compared by where pixels say little, each with its preprocessing and its weights.

The table of them, `NETWORKS`, needs nothing; the other names load on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ddx.features.networks import NETWORKS, FeatureNetwork

if TYPE_CHECKING:
    from ddx.features.conversion import convert as convert
    from ddx.features.extractor import Extractor as Extractor
    from ddx.features.extractor import described as described
    from ddx.features.extractor import load as load

_HOME = {
    "load": "ddx.features.extractor",
    "Extractor": "ddx.features.extractor",
    "convert": "ddx.features.conversion",
    "described": "ddx.features.extractor",
}

__all__ = ["NETWORKS", "Extractor", "FeatureNetwork", "convert", "described", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ddx.features' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
