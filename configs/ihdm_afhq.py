"""Inverse Heat Dissipation (IHDM) on animal faces (AFHQ), the settings of its released code (Rissanen et al. 2022).

| argument | images | batch | parameters | paper's FID |
| --- | --- | --- | --- | --- |
| 256 | 256 x 256 | 32 | 210,904,835 | 43.49, not verified |
| 64 | 64 x 64 | 128 | 88,217,219 | not known here |

AFHQ_DIR holds AFHQ's folder train; its other folder must be named test to be scored. The paper's length of training is
not in its code, whose 1,300,001 steps are a cap; nor is the delta of its samples: 0.0125 is what the code draws with
while it trains. At 64 x 64 the code sets the blur of the last level to 0, so that samples start from images as they
are; here it is the 32 pixels that the same config has first.

The paper trains all K levels and its prior has noise. The code leaves level K out, from which sampling starts, and
starts without noise but where it computes scores: --config.loss.last_level=False, --config.sample.prior_noise=False.
It saves memory by computing attention twice, ddx by computing every block twice: --config.model.remat=True.

    python -m launch.train  --config=configs/ihdm_afhq.py:256 --workdir=runs/ihdm_afhq --config.data.dir=AFHQ_DIR
    python -m launch.sample --workdir=runs/ihdm_afhq --num_samples=64
"""

from ddx.config.presets import ihdm
from ddx.runtime.errors import ConfigError

RUNS = ("256", "64")


def get_config(arg="256"):
    if arg not in RUNS:
        raise ConfigError(f"ihdm_afhq has no run {arg!r}; choose one of: {', '.join(RUNS)}, as --config=ihdm_afhq:64")
    config = ihdm()
    config.data.name = "folder"
    config.data.image_size = int(arg)
    config.train.learning_rate = 1e-4
    config.sample.num_images = 16
    if arg == "64":
        config.process.sigma_blur_max = 32.0
        config.model.multipliers = (1, 2, 3, 4)
        config.model.attention_resolutions = (16, 8)
        config.train.ema_decay = 0.999
        return config
    config.process.sigma_blur_max = 128.0
    config.model.multipliers = (1, 2, 3, 4, 5)
    config.model.num_blocks = 3
    config.model.attention_resolutions = (64, 32, 16)
    config.model.dropout = 0.3
    config.train.batch_size = 32
    config.sample.batch_size = 16
    return config
