"""DDPM on handwritten digits with a DiT, a transformer of their 2 x 2 patches, on two CPU cores.

It has a fifth of the operations of digits.py's U-Net in a step, and needs more steps: three times as many here.

python -m launch.train --config=configs/digits_dit.py --workdir=runs/digits_dit
"""

from ddx.config import load, set_network


def get_config():
    config = load("digits")
    set_network(config, "dit")
    config.model.channels = 64
    config.model.depth = 3
    config.model.num_heads = 4
    config.train.num_steps = 9000
    return config
