"""Handwritten digits, 8 x 8, from the set that ships with ddx: a whole run on two CPU cores.

Reads as digits after some 3,000 steps; a run takes about two minutes on 2 CPU cores.

    python -m launch.train --config=configs/digits.py --workdir=runs/digits
"""

from ddx.config import default_config


def get_config():
    config = default_config()
    config.process.schedule = "cosine"
    config.model.channels = 32
    config.model.multipliers = (1, 2)
    config.model.num_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.groups = 8
    config.model.dropout = 0.0
    config.train.num_steps = 3000
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    config.train.warmup_steps = 100
    config.train.ema_decay = 0.995
    config.train.ema_warmup = True
    config.train.checkpoint_every = 500
    config.train.sample_every = 1000
    return config
