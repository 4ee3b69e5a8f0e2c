"""The classifier whose features compare small grey images (ddx.features.NETWORKS["digits"]): seconds on two CPU cores.

    python -m launch.features --config=features_digits --out=digits.safetensors

Of the config, the images of data, seed and, of train, num_steps, batch_size, learning_rate and warmup_steps count; the
weights that ship with ddx are made by it as it stands.
"""

from ddx.config import default_config


def get_config():
    config = default_config()
    config.data.name = "digits"
    config.train.num_steps = 2000
    config.train.batch_size = 100
    config.train.learning_rate = 3e-3
    config.train.warmup_steps = 100
    return config
