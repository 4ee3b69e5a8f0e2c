"""Weights of feature networks by rule, and files of them as their users have them."""

import zlib

import jax
import numpy as np

from ddx.features import plug
from ddx.features.extractor import plug_of


def inception():
    """The tensors of the golden file's Inception, which were drawn layer by layer, each seeded by its name."""
    leaves = jax.tree_util.tree_leaves_with_path(plug.shapes(plug_of("inception")))
    kernels = {
        ".".join(key.key for key in keys[:-1]): leaf.shape
        for keys, leaf in leaves
        if keys[-1].key == "kernel" and keys[0].key != "fc"
    }
    found = {}
    for name, (height, width, inputs, outputs) in kernels.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        kernel = rng.standard_normal((outputs, inputs, height, width)) * np.sqrt(2 / (inputs * height * width))
        found[f"{name}.conv.weight"] = kernel
        found[f"{name}.bn.weight"] = rng.uniform(0.8, 1.2, outputs)
        found[f"{name}.bn.bias"] = rng.standard_normal(outputs) * 0.1
        found[f"{name}.bn.running_mean"] = rng.standard_normal(outputs) * 0.1
        found[f"{name}.bn.running_var"] = rng.uniform(0.5, 1.5, outputs)
    found["fc.weight"] = np.random.default_rng(zlib.crc32(b"fc")).standard_normal((1008, 2048)) * 0.02
    found["fc.bias"] = np.zeros(1008)
    return {name: value.astype(np.float32) for name, value in found.items()}


# Small transformers: width, blocks, heads and, of CLIP, features.
WIDTH, DEPTH, HEADS, PROJECTED = 24, 2, 3, 10


def small_plugs():
    """DINOv2 and CLIP as they are, but small."""
    plugs = {name: plug_of(name) for name in ("dinov2", "clip")}
    found = {}
    for name, own in plugs.items():
        vit = own.model.vit.clone(width=WIDTH, depth=DEPTH, heads=HEADS)
        found[name] = own._replace(model=own.model.clone(vit=vit))
    return found | {"clip": found["clip"]._replace(model=found["clip"].model.clone(num_features=PROJECTED))}


def dinov2_hub():
    """Tensors named as in torch.hub's dinov2_vitl14, of a small one, with embeddings of 37 x 37 patches."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + 37 * 37, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    for number in range(DEPTH):
        block = f"blocks.{number}"
        shapes |= {f"{block}.{name}.{leaf}": (WIDTH,) for name in ("norm1", "norm2") for leaf in ("weight", "bias")}
        shapes |= {f"{block}.{name}.gamma": (WIDTH,) for name in ("ls1", "ls2")}
        for name, outputs, inputs in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            shapes |= {f"{block}.{name}.weight": (outputs, inputs), f"{block}.{name}.bias": (outputs,)}
    return by_rule(shapes)


def dinov2_hugging_face():
    """The same numbers as facebook/dinov2-large names them."""
    found = {}
    for name, value in dinov2_hub().items():
        block = name.replace("blocks.", "encoder.layer.").replace("attn.proj", "attention.output.dense")
        block = block.replace("ls1.gamma", "layer_scale1.lambda1").replace("ls2.gamma", "layer_scale2.lambda1")
        if "attn.qkv" in block:
            for part, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                found[block.replace("attn.qkv", f"attention.attention.{part}")] = third
            continue
        whole = {
            "cls_token": "embeddings.cls_token",
            "pos_embed": "embeddings.position_embeddings",
            "mask_token": "embeddings.mask_token",
            "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
            "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
            "norm.weight": "layernorm.weight",
            "norm.bias": "layernorm.bias",
        }
        found[whole.get(name, block)] = value
    return found


def clip():
    """Tensors named as in openai/clip-vit-large-patch14-336, of a small one, with some of the half that reads."""
    v = "vision_model"
    shapes = {
        f"{v}.embeddings.class_embedding": (WIDTH,),
        f"{v}.embeddings.patch_embedding.weight": (WIDTH, 3, 14, 14),
        f"{v}.embeddings.position_embedding.weight": (1 + 24 * 24, WIDTH),
        "visual_projection.weight": (PROJECTED, WIDTH),
        "text_projection.weight": (PROJECTED, WIDTH),
        "text_model.final_layer_norm.weight": (WIDTH,),
        "logit_scale": (),
    }
    layers = [f"{v}.encoder.layers.{number}" for number in range(DEPTH)]
    norms = [f"{v}.pre_layrnorm", f"{v}.post_layernorm"]
    norms += [f"{layer}.layer_norm{i}" for layer in layers for i in (1, 2)]
    shapes |= {f"{name}.{leaf}": (WIDTH,) for name in norms for leaf in ("weight", "bias")}
    for layer in layers:
        square = [(f"self_attn.{name}", WIDTH, WIDTH) for name in ("q_proj", "k_proj", "v_proj", "out_proj")]
        for name, outputs, inputs in (*square, ("mlp.fc1", 4 * WIDTH, WIDTH), ("mlp.fc2", WIDTH, 4 * WIDTH)):
            shapes |= {f"{layer}.{name}.weight": (outputs, inputs), f"{layer}.{name}.bias": (outputs,)}
    return by_rule(shapes) | {f"{v}.embeddings.position_ids": np.arange(577)[None]}


def by_rule(shapes):
    """Tensors by their names and shapes: vectors about 1, such as scales and biases, and others as layers begin."""
    found = {}
    for name, shape in shapes.items():
        drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        value = 1 + 0.3 * drawn if len(shape) < 2 else drawn / np.sqrt(max(1, np.prod(shape[1:]) / 4))
        found[name] = value.astype(np.float32)
    return found


def images():
    return np.random.default_rng(5).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
