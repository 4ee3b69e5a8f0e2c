"""DDIM's network for CelebA at 64 x 64 (Song et al. 2021, appendix D.1 and table 1).

DDPM's training with a larger network: 78,700,803 parameters, dropout 0.1, batch 128. The paper's FID with eta = 0 is
17.33 in 10 steps, 13.73 in 20, 9.17 in 50, 6.53 in 100, 3.51 in 1,000; it does not say how long it trained. Its
code cuts the face out of each image before shrinking it, by a bilinear filter where ddx halves by a box.

    python -m launch.train  --config=configs/ddim_celeba64.py --workdir=runs/celeba64 --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample --workdir=runs/celeba64 --num_samples=50000 --preset=ddim_celeba64 --num_steps=50
"""

from ddx.config import default_config


def get_config():
    config = default_config()
    config.data.name = "celeb_a"
    config.data.crop = (57, 25, 128, 128)
    config.data.image_size = 64
    config.data.flip = True
    config.model.multipliers = (1, 2, 2, 2, 4)
    config.sample.trajectory = "ddim_celeba64"
    config.sample.clip = False
    config.sample.num_images = 16
    config.sample.batch_size = 128
    return config
