"""Networks: Flax modules called as model.apply({"params": params}, x_t, model_time, ...)."""

from ddx.models.dit import DiT
from ddx.models.networks import NETWORKS, Network, make
from ddx.models.presets import PRESETS, Preset, create, num_params
from ddx.models.unet import UNet, of_head

__all__ = ["NETWORKS", "PRESETS", "DiT", "Network", "Preset", "UNet", "create", "make", "num_params", "of_head"]
