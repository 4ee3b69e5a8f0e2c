"""The weights of the originals' networks, under their own names, as the module's parameter tree."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from ddx.interop.fill import fill
from ddx.interop.names import DDIM, IDDPM
from ddx.runtime.tensors import Tensor


def of_tf(data):
    """TensorFlow's variables "model/down_1/block_0/conv1/W" as {"down_1_block_0": {"conv1": {"kernel"}}}."""
    leaf = {"W": "kernel", "b": "bias", "gamma": "scale", "beta": "bias"}
    params = {}
    for key in data:
        if key.startswith("var/"):
            *path, name = key.removeprefix("var/model/").split("/")
            _insert(params, _ddpm_path(path), leaf[name], data[key])
    return params


def of_ddim(data, model):
    """The PyTorch port's "up.1.block.0.conv1.weight" as the tree of `model`."""
    weights = {key.removeprefix("param/"): value for key, value in data.items() if key.startswith("param/")}
    return _of_torch(weights, DDIM, model)


def of_iddpm(weights, model):
    """Improved DDPM's "input_blocks.3.0.in_layers.2.weight" as the tree of `model`."""
    return _of_torch(weights, IDDPM, model)


def drawn(lines, seed):
    """Improved DDPM's weights {name: array}, drawn at random, from lines such as "out.2.weight 6 32 3 3".

    They are PyTorch's normal numbers times 0.08, around 1 for a normalisation's weight: what torch.manual_seed(seed)
    and one torch.randn a line return on a CPU, to the last bit but one. For each number, a multiple of 16 in all,
    PyTorch takes 24 bits from MT19937; of each 16, Box and Muller's formula pairs the first 8 with the last 8.
    """
    generator = np.random.RandomState(seed)  # seeds MT19937 as PyTorch does
    weights = {}
    for line in lines:
        name, *shape = line.split()
        shape = tuple(map(int, shape))
        bits = generator.randint(0, 2**32, size=(np.prod(shape) // 16, 2, 8), dtype=np.uint32)
        uniform = (bits % 2**24) / 2**24
        radius, angle = np.sqrt(-2 * np.log(1 - uniform[:, 0])), 2 * np.pi * uniform[:, 1]
        normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(shape)
        centre = 1 if name.endswith("weight") and len(shape) == 1 else 0
        weights[name] = (centre + 0.08 * normal).astype(np.float32)
    return weights


def _of_torch(weights, names, model):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *model.inputs((8, 8, 3))))["params"]
    tensors = {name: Tensor(value.shape, lambda value=value: value) for name, value in weights.items()}
    return fill(shapes, tensors, names, model, "the golden file")


def _ddpm_path(path):
    """temb.dense.0 -> temb_dense0; down.1.block.0.conv1 -> down_1_block_0 / conv1; conv_in stays."""
    flat = re.sub(r"dense_(\d)", r"dense\1", "_".join(path))
    match = re.fullmatch(r"(\w*(?:block_\d|attn_\d|sample))_(\w+)", flat)
    return match.groups() if match else (flat,)


def _insert(params, path, leaf, value):
    for part in path:
        params = params.setdefault(part, {})
    params[leaf] = jnp.asarray(value)


def random_like(tree, seed=2):
    """The tree with other numbers, and nothing at its initial value."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, drawn)
