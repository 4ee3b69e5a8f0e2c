"""Files as other code bases write them, without these code bases."""

import json
import struct

import numpy as np

KINDS = {"float32": "F32", "float64": "F64", "float16": "F16", "uint16": "BF16", "int64": "I64"}


def safetensors(path, tensors, metadata=None, header=None):
    """A .safetensors file; `header` changes the entries of tensors, to what may be wrong."""
    entries, place = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, value in tensors.items():
        kind, end = KINDS[str(value.dtype)], place + value.nbytes
        entries[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [place, end]} | (header or {}).get(
            name, {}
        )
        place = end
    text = json.dumps(entries).encode()
    content = b"".join(np.ascontiguousarray(value).tobytes() for value in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


def pipeline(folder, config, scheduler, tensors, unet="unet", name="diffusion_pytorch_model.safetensors"):
    """A folder as save_pretrained of diffusers' pipelines writes it."""
    for part in ("scheduler", unet):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / unet / "config.json").write_text(json.dumps(config))
    safetensors(folder / unet / name, tensors)
    return folder


def in_files(folder, tensors, num_files=3, stem="diffusion_pytorch_model"):
    """Weights in several .safetensors files, with the index that says which tensor is where."""
    names, listed = sorted(tensors), {}
    for i in range(num_files):
        file = f"{stem}-{i + 1:05d}-of-{num_files:05d}.safetensors"
        inside = {name: tensors[name] for name in names[i::num_files]}
        safetensors(folder / file, inside, {"format": "pt"})
        listed |= dict.fromkeys(inside, file)
    size = sum(value.nbytes for value in tensors.values())
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": listed}))
    return index
