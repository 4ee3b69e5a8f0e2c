"""Inverse Heat Dissipation (IHDM) on faces (FFHQ), the settings of its released code (Rissanen et al. 2022).

| argument | images | parameters | paper's FID |
| --- | --- | --- | --- |
| 256 | 256 x 256 | 210,904,835 | 64.91, not verified |
| 128 | 128 x 128 | 159,981,443 | not known here |

At 128 x 128 the largest blur is as wide as the image, which tells the mean colour from everything else. FFHQ_DIR is any
folder of the images, such as images1024x1024. The paper's length of training is not in its code, whose 1,300,001 steps
are a cap; nor is the delta of its samples: 0.0125 is what the code draws with while it trains.

The paper trains all K levels and its prior has noise. The code leaves level K out, from which sampling starts, and
starts without noise but where it computes scores: --config.loss.last_level=False, --config.sample.prior_noise=False.
It trains in float16, mixed by PyTorch; ddx in float32, or with --config.model.dtype=bfloat16. It saves
memory by computing attention twice, ddx by computing every block twice: --config.model.remat=True.

    python -m launch.train  --config=configs/ihdm_ffhq.py:256 --workdir=runs/ihdm_ffhq --config.data.dir=FFHQ_DIR
    python -m launch.sample --workdir=runs/ihdm_ffhq --num_samples=64
"""

from ddx.config.presets import ihdm
from ddx.runtime.errors import ConfigError

RUNS = {"256": (3, (64, 32, 16), 0.3, 2e-5), "128": (2, (32, 16, 8), 0.1, 2e-4)}


def get_config(arg="256"):
    if arg not in RUNS:
        raise ConfigError(f"ihdm_ffhq has no run {arg!r}; choose one of: {', '.join(RUNS)}, as --config=ihdm_ffhq:128")
    config = ihdm()
    config.data.name = "folder"
    config.data.image_size = int(arg)
    config.process.sigma_blur_max = 128.0
    config.model.multipliers = (1, 2, 3, 4, 5)
    model = config.model
    model.num_blocks, model.attention_resolutions, model.dropout, config.train.learning_rate = RUNS[arg]
    config.train.batch_size = 32
    config.sample.num_images = 16
    config.sample.batch_size = 16
    return config
