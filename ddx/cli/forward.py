"""Draw how DDPM, Blurring Diffusion and heat take an image apart: a row for each, time goes from left to right.

python -m launch.forward [--images=IMAGES] [--out=forward.png] [--num_columns=9] [--sigma_blur_max=PIXELS] [--seed=0]

It needs no network. Without --images it shows one of the digits that ship with ddx.
"""

from absl import flags

from ddx.cli import command
from ddx.runtime.errors import ConfigError

IMAGES = flags.DEFINE_string("images", None, "A picture, or a folder of them, of which the first few are shown.")
OUT = flags.DEFINE_string("out", "forward.png", "The PNG file to write.")
NUM_COLUMNS = flags.DEFINE_integer("num_columns", 9, "Times to show, evenly from 0 to T.")
SIGMA_BLUR_MAX = flags.DEFINE_float("sigma_blur_max", None, "Blur at T, in pixels; by default half the image's height.")
SEED = flags.DEFINE_integer("seed", 0, "Name of the noise.")
flags.declare_key_flag("debug")


def main() -> int:
    """Draw the picture, say where it is."""
    if command.WORKDIR.present:
        raise ConfigError("--workdir is a folder of a run; this command needs none. Name the file to write with --out")
    from ddx.sampling.forward import forward

    print(
        forward(
            IMAGES.value,
            num_columns=NUM_COLUMNS.value,
            sigma_blur_max=SIGMA_BLUR_MAX.value,
            seed=SEED.value,
            out=OUT.value,
        )
    )
    return 0


if __name__ == "__main__":
    command.run(main)
