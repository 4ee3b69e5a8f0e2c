"""The feature networks by name: what their distances are called, what they take and give, and where weights are from.

A new one is a row here and a module of its name in this folder with its `PLUG`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class FeatureNetwork(NamedTuple):
    """A network whose features scores compare, as a table knows it; nothing of it is loaded yet.

    Attributes:
      name: its key in `NETWORKS`, and its module in `ddx.features`.
      label: of the distance between two sets of its features. Of two networks, two names: only the distance of
        `inception` is an FID.
      num_features: D.
      num_logits: K, of which the Inception Score is made; 0 if it has none.
      protocols: how images may be brought to what it takes; the first one is the default. Scores of two do not compare.
      side: height and width that it takes; images of any size are resized to it.
      num_params: of the network.
      source: where a user finds the weights; empty for weights that ship with ddx.
      sha256: of the weights: of the file that ships, or how the checksum of the source begins; empty: not known.
    """

    name: str
    label: str
    num_features: int
    num_logits: int
    protocols: tuple[str, ...]
    side: int
    num_params: int
    source: str = ""
    sha256: str = ""

    @property
    def is_shipped(self) -> bool:
        """Whether its weights ship with ddx; otherwise a user brings them, by `launch.convert`."""
        return not self.source


_ALL = (
    FeatureNetwork(
        "inception",
        "FID",
        2048,
        1008,
        ("tf1", "torch"),
        299,
        23_850_960,
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
    FeatureNetwork(
        "efficientnet_lite0",
        "FD-EffLite0",
        1280,
        1000,
        ("bicubic",),
        224,
        4_652_008,
        sha256="a59ba6c923a646ce67a5c024893e2fc06f0b9aed8b4888ee0ee87b7e2006e4bd",
    ),
)

NETWORKS: Mapping[str, FeatureNetwork] = MappingProxyType({network.name: network for network in _ALL})
"""The feature networks, by name."""
