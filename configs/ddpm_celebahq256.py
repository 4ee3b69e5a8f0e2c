"""DDPM on CelebA-HQ at 256 x 256, the paper's settings (Ho et al. 2020, appendix B).

500,000 steps at batch 64 on a TPU v3-8 (2.2 steps a second, 63 hours). 113,673,219 parameters. The paper samples with
all 1,000 steps and the small variance:

    python -m launch.train  --config=configs/ddpm_celebahq256.py --workdir=runs/celebahq --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample --workdir=runs/celebahq --num_samples=64 --sampler=ancestral --num_steps=1000
"""

from ddx.config import default_config


def get_config():
    config = default_config()
    config.data.name = "celeb_a_hq/256"
    config.data.image_size = 256
    config.data.flip = True
    config.model.multipliers = (1, 1, 2, 2, 4, 4)
    config.model.dropout = 0.0
    config.train.num_steps = 500_000
    config.train.batch_size = 64
    config.train.learning_rate = 2e-5
    config.sample.num_images = 16
    config.sample.batch_size = 16
    return config
