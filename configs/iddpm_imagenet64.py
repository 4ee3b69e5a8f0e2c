"""Improved DDPM on ImageNet, the paper's settings (Nichol & Dhariwal 2021, tables 1, 4 and 5).

| argument | images | steps, batch | parameters | paper |
| --- | --- | --- | --- | --- |
| uncond | 64 x 64, van den Oord et al.'s | 1,500,000 at 128 | 121,063,942 | NLL 3.57, FID 19.2 |
| uncond_vlb | the same, trained on the bound | 1,500,000 at 128 | 121,063,942 | NLL 3.53, FID 40.1 |
| class | 64 x 64, of ILSVRC 2012 | 250,000 at 2048 | 273,049,350 | FID 2.92 in 250 steps |
| upsampler | 64 -> 256, of ILSVRC 2012, linear | 500,000 at 256 | 279,792,390 | FID 12.3 with "class" |

    python -m launch.train  --config=configs/iddpm_imagenet64.py:class --workdir=runs/class64
    --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample --workdir=runs/class64 --num_samples=50000 --preset=iddpm --num_steps=250 --out=runs/small
    python -m launch.train  --config=configs/iddpm_imagenet64.py:upsampler --workdir=runs/upsampler
    --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample --workdir=runs/upsampler --num_samples=50000 --preset=iddpm --num_steps=250
    --low_res=runs/small/samples.npz
    python -m launch.evaluate --workdir=runs/class64 --split=validation
"""

from ddx.config import default_config
from ddx.runtime.errors import ConfigError

RUNS = ("uncond", "uncond_vlb", "class", "upsampler")


def get_config(arg="uncond"):
    if arg not in RUNS:
        raise ConfigError(
            f"iddpm_imagenet64 has no run {arg!r}; choose one of: {', '.join(RUNS)}, as --config=iddpm_imagenet64:class"
        )
    config = default_config()
    config.process.schedule = "cosine"
    config.process.num_steps = 4000
    config.model.family = "iddpm"
    config.model.multipliers = (1, 2, 3, 4)
    config.model.num_blocks = 3
    config.model.attention_resolutions = (16, 8)
    config.model.num_heads = 4
    config.model.scale_shift = True
    config.model.dropout = 0.0
    config.loss.objective = "hybrid"
    config.loss.variance = "range"
    config.train.warmup_steps = 0
    config.train.clip_norm = 0.0
    config.sample.sampler = "ancestral"
    config.sample.trajectory = "iddpm"
    config.sample.num_steps = 250
    config.sample.variance = "range"
    config.sample.num_images = 16
    if arg.startswith("uncond"):
        config.data.name = "downsampled_imagenet/64x64"
        config.process.rescale_time = True
        config.train.num_steps = 1_500_000
        config.train.learning_rate = 1e-4
        if arg == "uncond_vlb":
            config.loss.objective = "rescaled_kl"
            config.loss.times = "loss_second_moment"
        return config
    config.data.name = "imagenet2012"
    config.data.image_size = 64
    config.model.channels = 192
    config.model.class_conditional = True
    config.loss.vlb_weight = 1 / 4000  # its code without rescale_learned_sigmas
    config.train.num_steps = 250_000
    config.train.batch_size = 2048
    config.train.learning_rate = 3e-4
    if arg == "upsampler":
        config.data.image_size = 256
        config.process.schedule = "linear"
        config.model.low_res = 64
        config.model.multipliers = (1, 1, 2, 2, 4, 4)
        config.model.num_blocks = 2
        config.train.num_steps = 500_000
        config.train.batch_size = 256
        config.sample.batch_size = 16
    return config
