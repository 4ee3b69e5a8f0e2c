"""DiT with adaLN-Zero on ImageNet at 64 x 64, in patches of 4 x 4 pixels (Peebles & Xie 2023).

The paper's sizes and training (its section 4), but on pixels, not on latents of 256 x 256 images: 256 patches, as many
as its DiT/2 has. No published score belongs to these runs.

| argument | blocks, channels, heads | parameters |
| --- | --- | --- |
| s | 12, 384, 6 | 32,901,984 |
| b | 12, 768, 12 | 130,389,600 |
| l | 24, 1024, 16 | 457,939,040 |
| xl | 28, 1152, 16 | 674,945,376 |

    python -m launch.train  --config=configs/dit_imagenet64.py:b --workdir=runs/dit64 --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample --workdir=runs/dit64 --num_samples=50000 --preset=iddpm --num_steps=250
"""

from ddx.config import default_config
from ddx.runtime.errors import ConfigError

SIZES = {"s": (12, 384, 6), "b": (12, 768, 12), "l": (24, 1024, 16), "xl": (28, 1152, 16)}


def get_config(arg="b"):
    if arg not in SIZES:
        raise ConfigError(
            f"dit_imagenet64 has no run {arg!r}; choose one of: {', '.join(SIZES)}, as --config=dit_imagenet64:xl"
        )
    config = default_config()
    config.data.name = "imagenet2012"
    config.data.image_size = 64
    config.data.flip = True
    config.model.network = "dit"
    config.model.depth, config.model.channels, config.model.num_heads = SIZES[arg]
    config.model.patch_size = 4
    config.model.class_conditional = True
    config.model.label_dropout = 0.1
    config.model.dropout = 0.0
    config.loss.objective = "hybrid"
    config.loss.variance = "range"
    config.train.num_steps = 400_000
    config.train.batch_size = 256
    config.train.learning_rate = 1e-4
    config.train.warmup_steps = 0
    config.train.clip_norm = 0.0
    config.sample.sampler = "ancestral"
    config.sample.trajectory = "iddpm"
    config.sample.num_steps = 250
    config.sample.variance = "range"
    config.sample.num_images = 16
    return config
