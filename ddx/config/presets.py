"""What several config files share."""

from ml_collections import ConfigDict

from ddx.config.values import default_config


def ihdm() -> ConfigDict:
    """A config with what all runs of IHDM's released code have in common (Rissanen et al. 2022)."""
    config = default_config()
    config.data.low = 0
    config.process.kind = "ihdm"
    config.process.num_steps = 200
    config.model.family = "iddpm"
    config.loss.prediction = "residual"
    config.loss.reduction = "sum"
    config.train.num_steps = 1_300_001
    config.train.ema_warmup = True
    config.sample.sampler = "heat"
    config.sample.num_steps = 0
    config.sample.trajectory = "full"
    config.sample.clip = False
    return config
