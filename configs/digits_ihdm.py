"""Inverse Heat Dissipation (IHDM) on handwritten digits, 8 x 8: a whole run on two CPU cores.

python -m launch.train    --config=configs/digits_ihdm.py --workdir=runs/digits_ihdm
python -m launch.evaluate --workdir=runs/digits_ihdm
"""

from ddx.config import default_config, load


def get_config():
    config = load("digits")
    config.process = default_config().process
    config.data.low = 0
    config.process.kind = "ihdm"
    config.process.num_steps = 100
    config.process.sigma_blur_min = 0.2
    config.process.sigma_blur_max = 6.0
    config.model.family = "iddpm"
    config.loss.prediction = "residual"
    config.loss.reduction = "sum"
    config.sample.sampler = "heat"
    config.sample.num_steps = 0
    config.sample.trajectory = "full"
    config.sample.clip = False
    return config
