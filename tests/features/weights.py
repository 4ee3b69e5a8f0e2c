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
