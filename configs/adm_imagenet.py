"""ADM on ImageNet (ILSVRC 2012), without its classifiers (Dhariwal & Nichol 2021, tables 4 and 11).

| argument | images | steps, batch | learning rate | parameters | paper, without guidance |
| --- | --- | --- | --- | --- | --- |
| 64 | 64 x 64, cosine | 540,000 at 2048 | 3e-4 | 295,904,454 | FID 2.07 |
| 128 | 128 x 128, linear | 4,360,000 at 256 | 1e-4 | 421,529,606 | FID 5.91 |
| 256 | 256 x 256, linear | 1,980,000 at 256 | 1e-4 | 553,838,086 | FID 10.94 |
| 256_uncond | 256 x 256, without classes, linear | 1,980,000 at 256 | 1e-4 | 552,814,086 | |
| upsampler | 64 -> 256, linear | 500,000 at 256 (not verified) | 1e-4 | 311,795,910 | |

Improved DDPM's network with more heads, attention at 32, 16 and 8, and residual blocks that halve and double. For
LSUN the paper takes the network of 256_uncond with dropout 0.1.

    python -m launch.train  --config=configs/adm_imagenet.py:64 --workdir=runs/adm64 --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample --workdir=runs/adm64 --num_samples=50000 --preset=iddpm --num_steps=250
"""

from ddx.config import default_config
from ddx.runtime.errors import ConfigError

RUNS = ("64", "128", "256", "256_uncond", "upsampler")


def get_config(arg="64"):
    if arg not in RUNS:
        raise ConfigError(
            f"adm_imagenet has no run {arg!r}; choose one of: {', '.join(RUNS)}, as --config=adm_imagenet:256"
        )
    config = default_config()
    config.data.name = "imagenet2012"
    config.data.image_size = 256
    config.model.family = "iddpm"
    config.model.channels = 256
    config.model.multipliers = (1, 1, 2, 2, 4, 4)
    config.model.attention_resolutions = (32, 16, 8)
    config.model.head_channels = 64
    config.model.scale_shift = True
    config.model.resample_blocks = True
    config.model.class_conditional = arg != "256_uncond"
    config.model.dropout = 0.0
    config.loss.objective = "hybrid"
    config.loss.variance = "range"
    config.train.num_steps = 1_980_000
    config.train.batch_size = 256
    config.train.learning_rate = 1e-4
    config.train.warmup_steps = 0
    config.train.clip_norm = 0.0
    config.sample.sampler = "ancestral"
    config.sample.trajectory = "iddpm"
    config.sample.num_steps = 250
    config.sample.variance = "range"
    config.sample.num_images = 16
    config.sample.batch_size = 16
    if arg == "64":
        config.data.image_size = 64
        config.process.schedule = "cosine"
        config.model.channels = 192
        config.model.multipliers = (1, 2, 3, 4)
        config.model.num_blocks = 3
        config.model.dropout = 0.1
        config.train.num_steps = 540_000
        config.train.batch_size = 2048
        config.train.learning_rate = 3e-4
        config.sample.batch_size = 64
    if arg in ("128", "upsampler"):
        config.model.head_channels = 0
        config.model.num_heads = 4
    if arg == "128":
        config.data.image_size = 128
        config.model.multipliers = (1, 1, 2, 3, 4)
        config.train.num_steps = 4_360_000
    if arg == "upsampler":
        config.model.channels = 192
        config.model.low_res = 64
        config.train.num_steps = 500_000
    return config
