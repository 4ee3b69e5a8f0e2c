"""Networks: Flax modules called as model.apply({"params": params}, x_t, model_time, ...)."""

from ddx.models.presets import PRESETS, Preset, create, num_params
from ddx.models.unet import UNet, of_head

__all__ = ["PRESETS", "Preset", "UNet", "create", "num_params", "of_head"]
