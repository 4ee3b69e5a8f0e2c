"""Flow matching on handwritten digits, 8 x 8: a whole run on two CPU cores.

The network outputs the velocity eps - x_0 on the straight line from data to noise.

    python -m launch.train    --config=configs/digits_flow.py --workdir=runs/digits_flow
    python -m launch.evaluate --workdir=runs/digits_flow --metrics=bpd
"""

from ddx.config import default_config, load


def get_config():
    config = load("digits")
    config.process = default_config().process
    config.process.kind = "rectified_flow"
    config.loss.prediction = "velocity"
    config.sample.trajectory = "trailing"
    return config
