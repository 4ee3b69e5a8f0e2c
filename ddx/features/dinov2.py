"""DINOv2 ViT-L/14 (Oquab et al. 2023), whose token of the class FD-DINOv2 compares (Stein et al. 2023)."""

import flax.linen as nn
import jax
import numpy as np

from ddx.features.plug import Keys, Plug, Source
from ddx.features.resize import matrix, resize_pixels
from ddx.features.vit import ViT, leaf_array, patch_array

_SIDE = 224
# The statistics of ImageNet.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


class Dinov2(nn.Module):
    """The network."""

    vit: ViT

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """(B, H, W, 3), normalised, to features (B, D)."""
        return {"features": self.vit(x)}


def preprocess(images: jax.Array, protocol: str) -> jax.Array:
    """To 224 x 224 pixels by Pillow, whole numbers, as dgm-eval does it; protocol is "pillow"."""
    return (resize_pixels(images, _SIDE, "cubic_antialiased") / 255 - _MEAN) / _DEVIATION


# Our layers of a block in the names of torch.hub's file and of the Hugging Face's.
_HUB = {
    "norm1": "norm1",
    "out": "attn.proj",
    "scale1": "ls1.gamma",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale2": "ls2.gamma",
}
_HUGGING_FACE = {
    "norm1": "norm1",
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "out": "attention.output.dense",
    "scale1": "layer_scale1.lambda1",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale2": "layer_scale2.lambda1",
}
_PARTS = ("query", "key", "value")


def array(path: Keys, source: Source) -> np.ndarray:
    """The array at a path, from tensors named as in torch.hub's dinov2_vitl14 or in facebook/dinov2-large."""
    _, layer, *rest = path
    if layer == "token":
        return source.take("cls_token", "embeddings.cls_token")[0, 0]
    if layer == "position":
        return positions(source.take("pos_embed", "embeddings.position_embeddings"), _SIDE // 14)
    is_hub = source.has("cls_token")
    if layer == "patch":
        return patch_array(rest[-1], "patch_embed.proj" if is_hub else "embeddings.patch_embeddings.projection", source)
    if layer == "norm":
        return leaf_array(rest[-1], "norm" if is_hub else "layernorm", source)
    number = layer.removeprefix("block_")
    inside, block = rest[0], f"blocks.{number}" if is_hub else f"encoder.layer.{number}"
    if inside.startswith("scale"):
        return source.take(f"{block}.{(_HUB if is_hub else _HUGGING_FACE)[inside]}")
    if is_hub and inside in _PARTS:
        whole = leaf_array(rest[-1], f"{block}.attn.qkv", source)
        return np.split(whole, 3, axis=-1)[_PARTS.index(inside)]
    return leaf_array(rest[-1], f"{block}.{(_HUB if is_hub else _HUGGING_FACE)[inside]}", source)


def positions(embedded: np.ndarray, side: int) -> np.ndarray:
    """The embeddings of positions at another number of patches: (1, 1 + M M, D) to (1 + side side, D).

    As in DINOv2's code, which scales by (side + 0.1) / M where the resolution is not the one of its training.
    """
    token, grid = embedded[0, :1], embedded[0, 1:]
    trained = round(np.sqrt(len(grid)))
    if trained == side:
        return embedded[0]
    to = matrix("cubic", trained, side, trained / (side + 0.1))
    grid = np.einsum("yh,xw,hwd->yxd", to, to, grid.reshape(trained, trained, -1), optimize=True)
    return np.concatenate([token, grid.reshape(side * side, -1).astype(np.float32)])


PLUG = Plug(Dinov2(ViT()), preprocess, array, _SIDE, without=r"(embeddings\.)?mask_token")
