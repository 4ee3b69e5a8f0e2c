"""Inverse Heat Dissipation (IHDM) on CIFAR-10, the settings of its released code (Rissanen et al. 2022).

Paper: FID 18.96 (not verified), clean-fid's of 50,000 samples against the training set. 61,060,867 parameters. The
paper's length of training is not in its code, whose 1,300,001 steps are a cap. Its commands for FID and for the bound
have delta = 0.013; with sigma = 0.01 that bound cannot be below 16.7 bits/dim, whatever the network, for each of 199
levels costs 0.5 (sigma^2 / delta^2 - 1) + log(delta / sigma) nats a dimension and its squared error besides.

The paper trains all K levels and its prior has noise. The code leaves level K out, from which sampling starts, and
starts without noise but where it computes scores: --config.loss.last_level=False, --config.sample.prior_noise=False.
It trains in float16, mixed by PyTorch; ddx in float32, or with --config.model.dtype=bfloat16.

    python -m launch.train    --config=configs/ihdm_cifar10.py --workdir=runs/ihdm_cifar10
    --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample   --workdir=runs/ihdm_cifar10 --num_samples=50000
    python -m launch.evaluate --workdir=runs/ihdm_cifar10
"""

from ddx.config.presets import ihdm


def get_config():
    config = ihdm()
    config.data.name = "cifar10"
    config.process.sigma_blur_max = 24.0
    config.model.num_blocks = 4
    config.model.attention_resolutions = (8, 4)
    config.train.ema_decay = 0.999
    config.sample.delta = 0.013
    config.sample.num_images = 16
    config.sample.batch_size = 256
    return config
