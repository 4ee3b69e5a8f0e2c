"""DDPM on LSUN at 256 x 256, the paper's settings (Ho et al. 2020, appendix B; table 3).

| argument | images | steps | parameters | paper's FID |
| --- | --- | --- | --- | --- |
| bedroom | bedrooms, not mirrored | 2,400,000 | 113,673,219 | 6.36 |
| bedroom_large | bedrooms, not mirrored | 1,150,000 | 255,677,955 | 4.90 |
| church | church_outdoor | 1,200,000 | 113,673,219 | 7.89 |
| cat | cats | 1,800,000 | 113,673,219 | 19.75 |

Batch 64 on a TPU v3-8, 2.2 steps a second. The paper samples with all 1,000 steps and the small variance.

    python -m launch.train --config=configs/ddpm_lsun.py:church --workdir=runs/church --config.data.dir=TFDS_DATA_DIR
"""

from ddx.config import default_config
from ddx.runtime.errors import ConfigError

RUNS = {
    "bedroom": ("lsun/bedroom", 2_400_000, 128, False),
    "bedroom_large": ("lsun/bedroom", 1_150_000, 192, False),
    "church": ("lsun/church_outdoor", 1_200_000, 128, True),
    "cat": ("lsun/cat", 1_800_000, 128, True),
}


def get_config(arg="bedroom"):
    if arg not in RUNS:
        raise ConfigError(
            f"ddpm_lsun has no run {arg!r}; choose one of: {', '.join(RUNS)}, as --config=ddpm_lsun:church"
        )
    config = default_config()
    config.data.name, config.train.num_steps, config.model.channels, config.data.flip = RUNS[arg]
    config.data.image_size = 256
    config.model.multipliers = (1, 1, 2, 2, 4, 4)
    config.model.dropout = 0.0
    config.train.batch_size = 64
    config.train.learning_rate = 2e-5
    config.sample.num_images = 16
    config.sample.batch_size = 16
    return config
