"""CLIP ViT-L/14 at 336 pixels (Radford et al. 2021), whose embeddings CMMD compares (Jayasumana et al. 2024)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddx.features.layers import dense
from ddx.features.plug import Keys, Plug, Source
from ddx.features.resize import resize
from ddx.features.vit import ViT, leaf_array, patch_array

_SIDE = 336
# The statistics of CLIP's own images.
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


class Clip(nn.Module):
    """The half of CLIP that sees."""

    vit: ViT
    num_features: int = 768

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """(B, H, W, 3), normalised, to features (B, num_features) of length 1."""
        x = dense(self, self.vit(x), self.num_features, "projection", bias=False)
        return {"features": x / jnp.linalg.norm(x, axis=-1, keepdims=True)}


def preprocess(images: jax.Array, protocol: str) -> jax.Array:
    """To 336 x 336 pixels, antialiased and not rounded, as CMMD's own code does it; protocol is "bicubic"."""
    return (resize(images, _SIDE, "cubic_antialiased") / 255 - _MEAN) / _DEVIATION


_LAYERS = {
    "norm1": "layer_norm1",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


def array(path: Keys, source: Source) -> np.ndarray:
    """The array at a path, from tensors named as in openai/clip-vit-large-patch14-336."""
    if path[0] == "projection":
        return leaf_array("kernel", "visual_projection", source)
    _, layer, *rest = path
    model = "vision_model"
    if layer == "token":
        return source.take(f"{model}.embeddings.class_embedding")
    if layer == "position":
        return source.take(f"{model}.embeddings.position_embedding.weight")
    if layer == "patch":
        return patch_array(rest[-1], f"{model}.embeddings.patch_embedding", source)
    if layer in ("norm", "norm_before"):
        name = "post_layernorm" if layer == "norm" else "pre_layrnorm"
        return leaf_array(rest[-1], f"{model}.{name}", source)
    block = f"{model}.encoder.layers.{layer.removeprefix('block_')}"
    return leaf_array(rest[-1], f"{block}.{_LAYERS[rest[0]]}", source)


PLUG = Plug(
    Clip(ViT(epsilon=1e-5, is_clip=True)),
    preprocess,
    array,
    _SIDE,
    without=r"text_model\..*|text_projection\.weight|logit_scale|vision_model\.embeddings\.position_ids",
)
