"""The weights of the originals' networks, under their own names, as the module's parameter tree."""

import re

import jax.numpy as jnp
import numpy as np

_PLACES = {  # Improved DDPM's modules that every network has
    "time_embed.0": "temb_dense0",
    "time_embed.2": "temb_dense1",
    "label_emb": "label",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block_1",
    "middle_block.1": "mid_attn_1",
    "middle_block.2": "mid_block_2",
    "out.0": "norm_out",
    "out.2": "conv_out",
}
_LAYERS = {  # and those inside a residual block or a downsampling
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "temb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "nin_shortcut",
    "op": "conv",
}


def of_tf(data):
    """TensorFlow's variables "model/down_1/block_0/conv1/W" as {"down_1_block_0": {"conv1": {"kernel"}}}."""
    leaf = {"W": "kernel", "b": "bias", "gamma": "scale", "beta": "bias"}
    params = {}
    for key in data:
        if key.startswith("var/"):
            *path, name = key.removeprefix("var/model/").split("/")
            _insert(params, _ddpm_path(path), leaf[name], data[key])
    return params


def of_ddim(data):
    """The PyTorch port's "up.1.block.0.conv1.weight" as the same tree."""
    params = {}
    for key in data:
        if key.startswith("param/"):
            *path, name = key.removeprefix("param/").split(".")
            _insert(params, _ddpm_path(path), *_of_torch(name, data[key]))
    return params


def of_iddpm(weights, model):
    """Improved DDPM's "input_blocks.3.0.in_layers.2.weight" as the tree of `model`."""
    params, places = {}, _PLACES | _iddpm_places(model)
    for key, value in weights.items():
        module, _, name = key.rpartition(".")
        place = max((p for p in places if f"{module}.".startswith(f"{p}.")), key=len)
        layer = module[len(place) + 1 :]
        path = [*places[place].split("/"), *([_LAYERS.get(layer, layer)] if layer else [])]
        if layer == "qkv":  # q, k and v of the first head, then of the second
            value = value.reshape(model.num_heads, 3, -1, *value.shape[1:])
            for i, letter in enumerate("qkv"):
                one = value[:, i].reshape(-1, *value.shape[3:])
                _insert(params, [*path[:-1], letter], *_of_torch(name, one))
        elif place == "label_emb":
            _insert(params, path, "embedding", value)
        else:
            _insert(params, path, *_of_torch(name, value))
    return params


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


def _iddpm_places(model):
    """Improved DDPM's modules on the way down and up, which it numbers through, and ours."""
    places, levels = {}, range(len(model.multipliers))
    number = 1
    for level in levels:
        for i in range(model.num_blocks):
            places[f"input_blocks.{number}.0"] = f"down_{level}_block_{i}"
            places[f"input_blocks.{number}.1"] = f"down_{level}_attn_{i}"
            number += 1
        places[f"input_blocks.{number}.0"] = f"down_{level}_downsample"
        number += 1
    number = 0
    for level in reversed(levels):
        for i in range(model.num_blocks + 1):
            places[f"output_blocks.{number}.0"] = f"up_{level}_block_{i}"
            places[f"output_blocks.{number}.1"] = f"up_{level}_attn_{i}"
            for after in (1, 2):  # the block, and attention if there is any
                places[f"output_blocks.{number}.{after}.conv"] = f"up_{level}_upsample/conv"
            number += 1
    return places


def _of_torch(name, value):
    """PyTorch's leaf as Flax's: OIHW to HWIO, and a 1 x 1 convolution is a dense layer."""
    if name == "bias":
        return name, value
    if value.ndim == 1:
        return "scale", value
    value = np.moveaxis(value, (0, 1), (-1, -2))
    return "kernel", value.reshape(value.shape[-2:]) if set(value.shape[:-2]) <= {1} else value


def _ddpm_path(path):
    """temb.dense.0 -> temb_dense0; down.1.block.0.conv1 -> down_1_block_0 / conv1; conv_in stays."""
    flat = re.sub(r"dense_(\d)", r"dense\1", "_".join(path))
    match = re.fullmatch(r"(\w*(?:block_\d|attn_\d|sample))_(\w+)", flat)
    return match.groups() if match else (flat,)


def _insert(params, path, leaf, value):
    for part in path:
        params = params.setdefault(part, {})
    params[leaf] = jnp.asarray(value)
