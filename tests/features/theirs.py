"""The transformers of DINOv2 and CLIP in PyTorch, written from their papers, to compare with.

python -m tests.features.theirs writes tests/data/features_vit.npz.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from tests.features import weights
from tests.golden import DATA


def norm(x, tensors, name, epsilon):
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], epsilon)


def linear(x, tensors, name):
    return F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def attention(query, key, value):
    query, key, value = (x.unflatten(-1, (weights.HEADS, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def normalised(images, mean, deviation):
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)


def dinov2(tensors, images):
    pixels = [Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC) for image in images]
    x = torch.tensor(np.stack([np.asarray(one) for one in pixels])).permute(0, 3, 1, 2) / 255
    x = normalised(x, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    x = F.conv2d(x, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], 14).flatten(2).mT
    token, grid = tensors["pos_embed"][:, :1], tensors["pos_embed"][:, 1:]
    grid = grid.reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    scale = (16 + 0.1) / 37
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic").flatten(2).mT
    x = torch.cat([tensors["cls_token"].expand(len(x), -1, -1), x], 1) + torch.cat([token, grid], 1)
    for number in range(weights.DEPTH):
        block = f"blocks.{number}"
        h = linear(norm(x, tensors, f"{block}.norm1", 1e-6), tensors, f"{block}.attn.qkv")
        h = linear(attention(*h.chunk(3, -1)), tensors, f"{block}.attn.proj")
        x = x + h * tensors[f"{block}.ls1.gamma"]
        h = F.gelu(linear(norm(x, tensors, f"{block}.norm2", 1e-6), tensors, f"{block}.mlp.fc1"))
        x = x + linear(h, tensors, f"{block}.mlp.fc2") * tensors[f"{block}.ls2.gamma"]
    return norm(x, tensors, "norm", 1e-6)[:, 0]


def clip(tensors, images):
    x = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
    x = F.interpolate(x, (336, 336), mode="bicubic", antialias=True)
    x = normalised(x, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    v = "vision_model"
    x = F.conv2d(x, tensors[f"{v}.embeddings.patch_embedding.weight"], None, 14).flatten(2).mT
    token = tensors[f"{v}.embeddings.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([token, x], 1) + tensors[f"{v}.embeddings.position_embedding.weight"]
    x = norm(x, tensors, f"{v}.pre_layrnorm", 1e-5)
    for number in range(weights.DEPTH):
        layer = f"{v}.encoder.layers.{number}"
        h = norm(x, tensors, f"{layer}.layer_norm1", 1e-5)
        query, key, value = (linear(h, tensors, f"{layer}.self_attn.{name}_proj") for name in "qkv")
        x = x + linear(attention(query, key, value), tensors, f"{layer}.self_attn.out_proj")
        h = linear(norm(x, tensors, f"{layer}.layer_norm2", 1e-5), tensors, f"{layer}.mlp.fc1")
        x = x + linear(h * torch.sigmoid(1.702 * h), tensors, f"{layer}.mlp.fc2")
    x = linear(norm(x[:, 0], tensors, f"{v}.post_layernorm", 1e-5), tensors, "visual_projection")
    return F.normalize(x, dim=-1)


def features(network):
    """What a network in PyTorch gives for the images of `weights`, by its tensors there."""
    run, tensors = {"dinov2": (dinov2, weights.dinov2_hub()), "clip": (clip, weights.clip())}[network]
    with torch.inference_mode():
        return run({name: torch.tensor(value) for name, value in tensors.items()}, weights.images()).numpy()


if __name__ == "__main__":
    np.savez_compressed(DATA / "features_vit.npz", dinov2=features("dinov2"), clip=features("clip"))
