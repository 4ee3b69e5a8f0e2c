"""What diffusers 0.42.1's DiT with PyTorch 2.13.0 puts out, and where it keeps our arrays.

    pip install -e '.[test,convert]' diffusers==0.42.1 && python -m tests.models.dit_of_diffusers

writes tests/data/dit.npz; `pytest -m convert` compares with it again.
"""

import re

import numpy as np

from tests import golden
from tests.interop.originals import weights

OPTIONS = {
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "in_channels": 3,
    "out_channels": 6,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 5,  # and one for none of them
    "norm_eps": 1e-6,  # the paper's code; a block's first normalisation has it whatever is said here
}
_EMBEDDINGS = "transformer_blocks.0.norm1.emb."
_NAMES = {
    "temb_dense0": _EMBEDDINGS + "timestep_embedder.linear_1",
    "temb_dense1": _EMBEDDINGS + "timestep_embedder.linear_2",
    "label": _EMBEDDINGS + "class_embedder.embedding_table",
    "patch_in": "pos_embed.proj",
    "modulation": "norm1.linear",
    **{f"attn/{ours}": f"attn1.{theirs}" for ours, theirs in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"))},
    "attn/proj_out": "attn1.to_out.0",
    "mlp/dense0": "ff.net.0.proj",
    "mlp/dense1": "ff.net.2",
    "out_modulation": "proj_out_1",
    "patch_out": "proj_out_2",
}


def of_theirs(path, tensors):
    """The array of a DiT at a path such as "block_1/attn/q/kernel", from tensors under diffusers' names."""
    module, leaf = path.rsplit("/", 1)
    match = re.fullmatch(r"block_(\d+)/(.*)", module)
    name = f"transformer_blocks.{match[1]}.{_NAMES[match[2]]}" if match else _NAMES[module]
    tensor = tensors[f"{name}.{'bias' if leaf == 'bias' else 'weight'}"]
    if tensor.ndim == 4:  # a convolution over a patch: rows, columns, channels, as pixels are here
        tensor = tensor.transpose(0, 2, 3, 1).reshape(len(tensor), -1)
    return tensor.T if leaf == "kernel" else tensor


def network():
    """A DiTTransformer2DModel with weights drawn at random, and the lines that they are drawn from."""
    import torch
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(**OPTIONS).eval()
    first = model.transformer_blocks[0].norm1.emb
    first.time_proj.downscale_freq_shift = 0  # the paper's code; diffusers has frequencies of its own here
    for block in model.transformer_blocks:
        block.norm1.emb = first  # the paper's network has one embedding, of which a block here has a copy
    lines = [" ".join([name, *map(str, value.shape)]) for name, value in model.state_dict().items()]
    lines = [line for line in lines if ".norm1.emb." not in line or line.startswith(_EMBEDDINGS)]
    lines = [line for line in lines if not line.startswith("pos_embed.pos_embed")]
    model.load_state_dict({name: torch.tensor(value) for name, value in weights(lines).items()}, strict=False)
    return model, lines


def outputs(model):
    """What a network makes of random images, NHWC: {x, t, label, out}."""
    import torch

    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 8, 8, 3)).astype(np.float32)
    t, label = np.array([0, 431, 999]), np.array([0, 5, 3])
    with torch.no_grad():
        out = model(torch.tensor(np.moveaxis(x, -1, 1)), torch.tensor(t), torch.tensor(label)).sample.numpy()
    return {"x": x, "t": t, "label": label, "out": golden.nhwc(out)}


if __name__ == "__main__":
    model, lines = network()
    np.savez_compressed(golden.DATA / "dit.npz", weights=np.array(lines), **outputs(model))
