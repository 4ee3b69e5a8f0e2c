"""What diffusers 0.42.1 with PyTorch 2.13.0 says: outputs of its networks and walks of its schedulers.

    pip install -e '.[test,convert]' diffusers==0.42.1 && python -m tests.interop.originals

writes tests/data/diffusers_networks.npz and diffusers_walks.npz; `pytest -m convert` compares with them again.
"""

import contextlib
import fractions
import json
import pathlib
from unittest import mock

import numpy as np

from tests import golden

COPIED = {  # google/ddpm-*: copies of DDPM's networks
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
SMALL = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
NETWORKS = {
    "copied": SMALL | COPIED,
    "trained": SMALL,  # diffusers' own training script: the defaults
    "everything": SMALL
    | {
        "sample_size": (8, 16),
        "in_channels": 1,
        "out_channels": 2,
        "layers_per_block": 2,
        "norm_num_groups": 16,
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "attention_head_dim": 16,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 16,
        "num_class_embeds": 5,
        "dropout": 0.1,
    },
}


def weights(lines, seed=0):
    """Weights {name: array} drawn at random from lines such as "conv_in.weight 32 3 3 3"."""
    rng, drawn = np.random.default_rng(seed), {}
    for line in lines:
        name, *shape = line.split()
        centre = 1 if name.endswith("weight") and len(shape) == 1 else 0
        drawn[name] = (centre + 0.08 * rng.standard_normal(tuple(map(int, shape)))).astype(np.float32)
    return drawn


def network(options):
    """A UNet2DModel with weights drawn at random, and the lines that they are drawn from."""
    import torch
    from diffusers import UNet2DModel

    model = UNet2DModel(**options).eval()
    lines = [" ".join([name, *map(str, value.shape)]) for name, value in model.state_dict().items()]
    model.load_state_dict({name: torch.tensor(value) for name, value in weights(lines).items()})
    return model, lines


def outputs(model, options):
    """What a network makes of random images, NHWC: {x, t, out}, and the labels it was told."""
    import torch

    rng = np.random.default_rng(1)
    size = options["sample_size"]
    shape = (size, size) if isinstance(size, int) else size
    x = rng.standard_normal((2, *shape, options.get("in_channels", 3))).astype(np.float32)
    t = np.array([3, 977])
    label = {"label": np.array([1, 4])} if options.get("num_class_embeds") else {}
    with torch.no_grad():
        labels = torch.tensor(label["label"]) if label else None
        out = model(torch.tensor(np.moveaxis(x, -1, 1)), torch.tensor(t), labels).sample
    return {"x": x, "t": t, "out": np.moveaxis(out.numpy(), 1, -1), **label}


# Walks: the scheduler, its options, the number of steps, and what its steps are given.
DDPM, DDIM, DPM = "DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
WALKS = {
    **{
        f"ddpm {variance} {spacing} {steps}": (
            DDPM,
            {"variance_type": variance, "timestep_spacing": spacing},
            steps,
            {},
        )
        for variance in ("fixed_small", "fixed_large")
        for spacing, steps in (("leading", 10), ("trailing", 7), ("linspace", 7))
    },
    "ddpm all": (DDPM, {"num_train_timesteps": 50, "beta_start": 0.002, "beta_end": 0.4}, 50, {}),
    "ddpm offset": (DDPM, {"steps_offset": 1, "clip_sample": False}, 10, {}),
    "ddpm cosine range": (DDPM, {"variance_type": "learned_range"} | COSINE, 10, {}),
    "ddpm v": (DDPM, {"prediction_type": "v_prediction"} | COSINE, 10, {}),
    "ddpm x0": (DDPM, {"prediction_type": "sample"}, 10, {}),
    **{
        f"ddim eta {eta} clip {clip} again {again}": (
            DDIM,
            {"clip_sample": clip},
            10,
            {"eta": eta, "use_clipped_model_output": again},
        )
        for eta in (0.0, 0.4)
        for clip, again in ((True, False), (True, True), (False, False))
    },
    **{
        f"ddim {spacing} {steps}": (DDIM, {"timestep_spacing": spacing} | COSINE, steps, {"eta": 0.4})
        for spacing, steps in (("trailing", 10), ("trailing", 7), ("linspace", 10), ("leading", 7))
    },
    "ddim offset": (DDIM, {"steps_offset": 1}, 10, {"eta": 0.4}),
    **{
        f"ddim alpha {spacing}+{offset} {steps}": (
            DDIM,
            {"set_alpha_to_one": False, "timestep_spacing": spacing, "steps_offset": offset},
            steps,
            {"eta": 0.4},
        )
        for spacing, offset, steps in (("leading", 0, 10), ("leading", 1, 10), ("trailing", 0, 7))
    },
    **{
        f"dpm {name} {spacing}": (DPM, {"timestep_spacing": spacing} | options, 10, {})
        for name, options in (("2m", {}), ("sde", SDE))
        for spacing in ("leading", "trailing", "linspace")
    },
    "dpm offset": (DPM, {"timestep_spacing": "leading", "steps_offset": 1}, 10, {}),
    "dpm cosine v 20": (DPM, {"prediction_type": "v_prediction"} | COSINE, 20, {}),
    "dpm first order": (DPM, {"solver_order": 1} | SDE, 10, {}),
}


def model_output(x, t, channels):
    """Stands in for a network, with JAX's or PyTorch's numbers: nearly all is noise. Output 2 tells a variance."""
    out = x - 0.01 * abs(x) + 0.00001 * t
    return [out, 0.5 * abs(x) - 0.2][:channels]


def start(name):
    """x_T and the noise of every step, (K + 1, 2, 4, 4, 1)."""
    return np.random.default_rng(2).standard_normal((WALKS[name][2] + 1, 2, 4, 4, 1))


def scheduler(name):
    """The scheduler of a walk."""
    import diffusers

    kind, options, _, _ = WALKS[name]
    return getattr(diffusers, kind)(**options)


def walk(name, as_it_is=False):
    """Where diffusers' loop ends, (2, 4, 4, 1), in float64.

    Its two mistakes are mended, unless it is to be left as it is: DDIM's previous time is that of the next step, and no
    noise is added to the last step of DDPM.
    """
    import torch

    kind, options, steps, given = WALKS[name]
    own = scheduler(name)
    own.set_timesteps(steps)
    times = own.timesteps.tolist()
    x, *noise = map(torch.tensor, start(name))
    doubled = options.get("variance_type") == "learned_range"
    draws = iter(noise)
    ddpm = mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **kwargs: next(draws))
    with ddpm if kind == DDPM else contextlib.nullcontext():
        for i, t in enumerate(times):
            if i == len(times) - 1 and kind == DDPM and not as_it_is:
                draws = iter([torch.zeros_like(x)])
            if kind == DDIM and not as_it_is and i < len(times) - 1:
                own.num_inference_steps = fractions.Fraction(own.config.num_train_timesteps, t - times[i + 1])
            y = model_output(x, t, 2 if doubled else 1)
            further = {} if kind == DDPM else {"variance_noise": noise[i]}
            output = torch.cat(y, 1)  # the scheduler takes channels to be the second axis
            if doubled:
                x = own.step(output, t, x).prev_sample
            else:
                x = own.step(output, t, x, **given, **further).prev_sample
    return x.numpy()


def main():
    """Write the golden files."""
    found = {}
    for name, options in NETWORKS.items():
        model, lines = network(options)
        found |= {f"{name}/{key}": value for key, value in outputs(model, options).items()}
        found[f"{name}/weights"] = np.array(lines)
        found[f"{name}/config"] = np.array(json.dumps(dict(model.config)))
    np.savez_compressed(golden.DATA / "diffusers_networks.npz", **found)
    walks = {}
    for name in WALKS:
        walks[f"{name}/x_0"] = walk(name)
        config = {"_class_name": WALKS[name][0]} | dict(scheduler(name).config)
        walks[f"{name}/config"] = np.array(json.dumps(config))
    np.savez_compressed(golden.DATA / "diffusers_walks.npz", **walks)
    for file in ("diffusers_networks", "diffusers_walks"):
        print(file, pathlib.Path(golden.DATA / f"{file}.npz").stat().st_size)


if __name__ == "__main__":
    main()
