"""Improved DDPM on handwritten digits, 8 x 8: a learned variance, on two CPU cores.

configs/digits_iddpm.py:OBJECTIVE with simple, hybrid (the default) or vlb.

    python -m launch.train    --config=configs/digits_iddpm.py --workdir=runs/digits_iddpm
    python -m launch.evaluate --workdir=runs/digits_iddpm --metrics=bpd,rate_distortion
"""

from ddx.config import default_config
from ddx.runtime.errors import ConfigError

OBJECTIVES = {"simple": "simple", "hybrid": "hybrid", "vlb": "rescaled_kl"}


def get_config(arg="hybrid"):
    if arg not in OBJECTIVES:
        raise ConfigError(f"digits_iddpm has no run {arg!r}; choose one of: {', '.join(OBJECTIVES)}")
    config = default_config()
    config.process.schedule = "cosine"
    config.model.family = "iddpm"
    config.model.channels = 32
    config.model.multipliers = (1, 2)
    config.model.num_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.num_heads = 4
    config.model.scale_shift = True
    config.model.groups = 8
    config.model.dropout = 0.0
    config.loss.objective = OBJECTIVES[arg]
    if arg != "simple":
        config.loss.variance = "range"
    if arg == "vlb":
        config.loss.times = "loss_second_moment"
    config.train.num_steps = 3000
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    config.train.warmup_steps = 100
    config.train.ema_decay = 0.995
    config.train.ema_warmup = True
    config.train.checkpoint_every = 500
    config.train.sample_every = 1000
    config.sample.variance = "small" if arg == "simple" else "range"
    return config
