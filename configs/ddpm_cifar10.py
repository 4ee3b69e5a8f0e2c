"""DDPM on CIFAR-10, the paper's settings (Ho et al. 2020, appendix B; table 1).

Paper: FID 3.17 (50,000 samples against the training set), IS 9.46, NLL <= 3.75 bits/dim, after 800,000 steps at batch
128 on a TPU v3-8 (10.6 hours). 35,746,307 parameters. The samples of the paper use the ancestral sampler with all 1,000
steps and the large variance:

    python -m launch.train  --config=configs/ddpm_cifar10.py --workdir=runs/ddpm_cifar10 --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample --workdir=runs/ddpm_cifar10 --num_samples=50000 --sampler=ancestral --num_steps=1000
    --variance=large
"""

from ddx.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.data.flip = True
    config.sample.variance = "large"
    config.sample.num_images = 16
    config.sample.batch_size = 256
    return config
