"""diffusers' DDIMPipeline on DDPM's CIFAR-10 network, driven line by line from standard input.

    python diffusers_ddim.py weights.npz steps

The weights are those of ddx under this network's names. Writes the first run's latents and images beside them, then
answers every line with the seconds of one more run.
"""

import pathlib
import sys
import time

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel


def main(weights, num_steps):
    model = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        attention_head_dim=None,
    ).eval()
    with np.load(weights) as file:
        model.load_state_dict({name: torch.from_numpy(file[name]) for name in file.files})
    pipeline = DDIMPipeline(model, DDIMScheduler(1000, beta_start=1e-4, beta_end=0.02, clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)

    def run():
        generator = torch.Generator().manual_seed(0)
        return pipeline(
            batch_size=64, generator=generator, eta=0.0, num_inference_steps=num_steps, output_type="np"
        ).images

    latents = torch.randn((64, 3, 32, 32), generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(pathlib.Path(weights).with_name("diffusers.npz"), latents=latents, images=run())
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
