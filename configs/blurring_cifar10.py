"""Blurring Diffusion on CIFAR-10 (Hoogeboom & Salimans 2023, tables 1 and 3).

configs/blurring_cifar10.py:SIGMA_BLUR_MAX,SCHEDULE with a blur of at most 0, 1, 10 or 20 pixels, which grows as sin2 or
sin; 20,sin2 by default.

| argument | paper's FID |
| --- | --- |
| 0 (no blur: cosine diffusion) | 3.60 |
| 1 | 3.49, not verified |
| 10 | 3.26, not verified |
| 20 | 3.17 |
| 20,sin | worse than 20,sin2; its number is not known here |

2,000,000 steps, 50,000 samples. 49,505,283 parameters. There is no official code. Not verified against the paper:
channels, multipliers, blocks, attention, dropout, learning rate, batch size, decay of the average, the 1,000 steps of
the sampler. Not known, and as in DDPM: mirrored images, the rest of the network, warm-up, the clipped gradient. The
paper's printed algorithm adds noise in the last step too; ddx takes that step's mean but with
--config.sample.noisy_end=True.

    python -m launch.train  --config=configs/blurring_cifar10.py:20,sin2 --workdir=runs/blurring_cifar10
    --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample --workdir=runs/blurring_cifar10 --num_samples=50000
"""

from ddx.config import default_config
from ddx.runtime.errors import ConfigError

BLURS = ("0", "1", "10", "20")
SCHEDULES = ("sin2", "sin")


def get_config(arg=""):
    given = [part for part in arg.split(",") if part]
    blur, schedule = (given + ["20", "sin2"][len(given) :])[:2]
    if len(given) > 2 or blur not in BLURS or schedule not in SCHEDULES:
        raise ConfigError(
            f"blurring_cifar10 has no run {arg!r}; write one of: {', '.join(BLURS)}, then sin2 or sin, as"
            " --config=blurring_cifar10:20,sin2"
        )
    config = default_config()
    config.data.name = "cifar10"
    config.data.flip = True
    config.process.kind = "blurring"
    config.process.sigma_blur_max = float(blur)
    config.process.blur_schedule = schedule
    config.model.channels = 256
    config.model.multipliers = (1, 1, 1)
    config.model.num_blocks = 3
    config.model.attention_resolutions = (16, 8)
    config.model.dropout = 0.2
    config.train.num_steps = 2_000_000
    config.sample.sampler = "ancestral"
    config.sample.num_steps = 0
    config.sample.clip = False
    config.sample.num_images = 16
    config.sample.batch_size = 256
    return config
