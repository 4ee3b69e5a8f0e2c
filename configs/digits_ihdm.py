"""Inverse Heat Dissipation (IHDM) on handwritten digits, 8 x 8: a whole run on two CPU cores.

python -m launch.train    --config=configs/digits_ihdm.py --workdir=runs/digits_ihdm
python -m launch.evaluate --workdir=runs/digits_ihdm
"""

from ddx.config import default_config


def get_config():
    config = default_config()
    config.data.low = 0
    config.process.kind = "ihdm"
    config.process.num_steps = 100
    config.process.sigma_blur_min = 0.2
    config.process.sigma_blur_max = 6.0
    config.model.family = "iddpm"
    config.model.channels = 32
    config.model.multipliers = (1, 2)
    config.model.num_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.groups = 8
    config.model.dropout = 0.0
    config.loss.prediction = "residual"
    config.loss.reduction = "sum"
    config.train.num_steps = 3000
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    config.train.warmup_steps = 100
    config.train.ema_decay = 0.995
    config.train.ema_warmup = True
    config.train.checkpoint_every = 500
    config.train.sample_every = 1000
    config.sample.sampler = "heat"
    config.sample.num_steps = 0
    config.sample.trajectory = "full"
    config.sample.clip = False
    return config
