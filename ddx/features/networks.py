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
        sha256="d5f31b05a72ba0e912ff07a0141efe384eba24ac5e6c9b80a1d58a61e7be5ed8",
    ),
    FeatureNetwork(
        "dinov2",
        "FD-DINOv2",
        1024,
        0,
        ("pillow",),
        224,
        303_227_904,
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    ),
    FeatureNetwork(
        "clip",
        "CMMD",
        768,
        0,
        ("bicubic",),
        336,
        304_293_888,
        "https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/main/pytorch_model.bin",
    ),
    FeatureNetwork(
        "digits",
        "FD-digits",
        64,
        10,
        ("grey8",),
        8,
        59_002,
        sha256="46c4733fca2d251cf72117b2b900c92c20316f2873cf811cc22809e38233e0f4",
    ),
)

NETWORKS: Mapping[str, FeatureNetwork] = MappingProxyType({network.name: network for network in _ALL})
"""The feature networks, by name."""
