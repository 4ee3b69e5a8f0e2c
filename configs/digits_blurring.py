"""Blurring Diffusion on handwritten digits, 8 x 8: a whole run on two CPU cores.

configs/digits_blurring.py:OBJECTIVE with simple (the default), v (the network outputs v instead of eps) or hybrid (a
learned variance of each frequency besides). The blur of 4 pixels, half an image, leaves little but the mean.

    python -m launch.train --config=configs/digits_blurring.py --workdir=runs/digits_blurring
"""

from ddx.config import default_config
from ddx.runtime.errors import ConfigError

OBJECTIVES = ("simple", "v", "hybrid")


def get_config(arg="simple"):
    if arg not in OBJECTIVES:
        raise ConfigError(f"digits_blurring has no run {arg!r}; choose one of: {', '.join(OBJECTIVES)}")
    config = default_config()
    config.process.kind = "blurring"
    config.process.sigma_blur_max = 4.0
    config.model.family = "iddpm"
    config.model.channels = 32
    config.model.multipliers = (1, 2)
    config.model.num_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.groups = 8
    config.model.dropout = 0.0
    config.loss.prediction = "eps" if arg == "simple" else "v"
    if arg == "hybrid":
        config.loss.objective = "hybrid"
        config.loss.variance = "range"
        config.sample.variance = "range"
    config.train.num_steps = 3000
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    config.train.warmup_steps = 100
    config.train.ema_decay = 0.995
    config.train.ema_warmup = True
    config.train.checkpoint_every = 500
    config.train.sample_every = 1000
    config.sample.sampler = "ancestral"
    config.sample.num_steps = 250
    config.sample.clip = False
    return config
