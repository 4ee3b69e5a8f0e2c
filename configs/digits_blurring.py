"""Blurring Diffusion on handwritten digits, 8 x 8: a whole run on two CPU cores.

configs/digits_blurring.py:OBJECTIVE with simple (the default), v (the network outputs v instead of eps) or hybrid (a
learned variance of each frequency besides). The blur of 4 pixels, half an image, leaves little but the mean.

    python -m launch.train --config=configs/digits_blurring.py --workdir=runs/digits_blurring
"""

from ddx.config import default_config, load
from ddx.runtime.errors import ConfigError

OBJECTIVES = ("simple", "v", "hybrid")


def get_config(arg="simple"):
    if arg not in OBJECTIVES:
        raise ConfigError(f"digits_blurring has no run {arg!r}; choose one of: {', '.join(OBJECTIVES)}")
    config = load("digits")
    config.process = default_config().process
    config.process.kind = "blurring"
    config.process.sigma_blur_max = 4.0
    config.model.family = "iddpm"
    config.loss.prediction = "eps" if arg == "simple" else "v"
    if arg == "hybrid":
        config.loss.objective = "hybrid"
        config.loss.variance = "range"
        config.sample.variance = "range"
    config.sample.sampler = "ancestral"
    config.sample.num_steps = 250
    config.sample.clip = False
    return config
