"""Inverse Heat Dissipation (IHDM) on MNIST, the settings of its released code (Rissanen et al. 2022).

| argument | channels | steps K | parameters |
| --- | --- | --- | --- |
| mnist | 128, 256, 256 | 100 | 42,082,049 |
| small | 64, 64, 64 | 50 | 3,704,129 |

The paper's length of training is not in its code, whose 1,300,001 steps are a cap. No score of these runs is known
here, nor the delta of the paper's samples; 0.0125 is what the code draws with while it trains.

The paper trains all K levels and its prior has noise. The code leaves level K out, from which sampling starts, and
starts without noise but where it computes scores: --config.loss.last_level=False, --config.sample.prior_noise=False.

    python -m launch.train    --config=configs/ihdm_mnist.py:mnist --workdir=runs/ihdm_mnist
    --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample   --workdir=runs/ihdm_mnist --num_samples=64
    python -m launch.evaluate --workdir=runs/ihdm_mnist
"""

from ddx.config.presets import ihdm
from ddx.runtime.errors import ConfigError

RUNS = {"mnist": (128, (1, 2, 2), 100), "small": (64, (1, 1, 1), 50)}


def get_config(arg="mnist"):
    if arg not in RUNS:
        raise ConfigError(
            f"ihdm_mnist has no run {arg!r}; choose one of: {', '.join(RUNS)}, as --config=ihdm_mnist:small"
        )
    config = ihdm()
    config.data.name = "mnist"
    config.process.sigma_blur_max = 20.0
    config.model.channels, config.model.multipliers, config.process.num_steps = RUNS[arg]
    config.model.num_blocks = 4
    config.model.attention_resolutions = (7,)
    config.train.ema_decay = 0.999
    config.sample.batch_size = 256
    return config
