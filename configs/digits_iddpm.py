"""Improved DDPM on handwritten digits, 8 x 8: a learned variance, on two CPU cores.

configs/digits_iddpm.py:OBJECTIVE with simple, hybrid (the default) or vlb.

    python -m launch.train    --config=configs/digits_iddpm.py --workdir=runs/digits_iddpm
    python -m launch.evaluate --workdir=runs/digits_iddpm --metrics=bpd,rate_distortion
"""

from ddx.config import load
from ddx.runtime.errors import ConfigError

OBJECTIVES = {"simple": "simple", "hybrid": "hybrid", "vlb": "rescaled_kl"}


def get_config(arg="hybrid"):
    if arg not in OBJECTIVES:
        raise ConfigError(f"digits_iddpm has no run {arg!r}; choose one of: {', '.join(OBJECTIVES)}")
    config = load("digits")
    config.model.family = "iddpm"
    config.model.num_heads = 4
    config.model.scale_shift = True
    config.loss.objective = OBJECTIVES[arg]
    if arg != "simple":
        config.loss.variance = "range"
    if arg == "vlb":
        config.loss.times = "loss_second_moment"
    config.sample.variance = "small" if arg == "simple" else "range"
    return config
