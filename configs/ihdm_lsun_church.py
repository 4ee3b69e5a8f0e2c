"""Inverse Heat Dissipation (IHDM) on LSUN churches at 128 x 128, its released settings (Rissanen et al. 2022).

Paper: FID 45.06, not verified. 261,828,227 parameters. The paper's length of training is not in its code, whose
1,300,001 steps are a cap; nor is the delta of its samples: 0.0125 is what the code draws with while it trains. The
released config of this set does not run and gives no sigma; 0.01 is that of all others.

The paper trains all K levels and its prior has noise. The code leaves level K out, from which sampling starts, and
starts without noise but where it computes scores: --config.loss.last_level=False, --config.sample.prior_noise=False.
It trains in float16, mixed by PyTorch; ddx in float32, or with --config.model.dtype=bfloat16. It saves
memory by computing attention twice, ddx by computing every block twice: --config.model.remat=True.

    python -m launch.train    --config=configs/ihdm_lsun_church.py --workdir=runs/ihdm_church
    --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample   --workdir=runs/ihdm_church --num_samples=50000
    python -m launch.evaluate --workdir=runs/ihdm_church --split=validation
"""

from ddx.config.presets import ihdm


def get_config():
    config = ihdm()
    config.data.name = "lsun/church_outdoor"
    config.data.image_size = 128
    config.process.num_steps = 400
    config.process.sigma_blur_max = 64.0
    config.model.multipliers = (1, 2, 3, 4, 5)
    config.model.num_blocks = 4
    config.model.attention_resolutions = (32, 16, 8)
    config.train.batch_size = 32
    config.train.learning_rate = 2e-5
    config.train.ema_decay = 0.999
    config.sample.num_images = 16
    config.sample.batch_size = 16
    return config
