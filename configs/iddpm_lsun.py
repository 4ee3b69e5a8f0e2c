"""Improved DDPM on LSUN bedrooms at 256 x 256, as its code was run for the networks that were published with it.

| argument | steps, batch | learning rate | parameters |
| --- | --- | --- | --- |
| bs128 | 1,200,000 at 128 | 1e-4 | 113,676,678 |
| bs64 | 2,400,000 at 64 | 2e-5 | 113,676,678 |

    python -m launch.train --config=configs/iddpm_lsun.py:bs128 --workdir=runs/bedroom --config.data.dir=TFDS_DATA_DIR
"""

from ddx.config import default_config
from ddx.runtime.errors import ConfigError

RUNS = {"bs128": (1_200_000, 128, 1e-4), "bs64": (2_400_000, 64, 2e-5)}


def get_config(arg="bs128"):
    if arg not in RUNS:
        raise ConfigError(
            f"iddpm_lsun has no run {arg!r}; choose one of: {', '.join(RUNS)}, as --config=iddpm_lsun:bs64"
        )
    config = default_config()
    config.data.name = "lsun/bedroom"
    config.data.image_size = 256
    config.train.num_steps, config.train.batch_size, config.train.learning_rate = RUNS[arg]
    config.train.warmup_steps = 0
    config.train.clip_norm = 0.0
    config.model.family = "iddpm"
    config.model.multipliers = (1, 1, 2, 2, 4, 4)
    config.model.dropout = 0.0
    config.loss.objective = "hybrid"
    config.loss.variance = "range"
    config.sample.sampler = "ancestral"
    config.sample.trajectory = "iddpm"
    config.sample.num_steps = 250
    config.sample.variance = "range"
    config.sample.num_images = 16
    config.sample.batch_size = 16
    return config
