"""Draw images from a trained network.

python -m launch.sample --workdir=runs/digits --num_samples=64 --sampler=ddim --num_steps=50 --eta=0 --seed=0
[--out=DIR] [--gif]
python -m launch.sample --workdir=runs/digits --interpolate [--images=IMAGES]
python -m launch.sample --workdir=runs/digits --reconstruct=IMAGES
python -m launch.sample --workdir=runs/digits --known=IMAGES --mask=PNG
python -m launch.sample --workdir=runs/digits --start=IMAGES --strength=0.5

Everything else comes from the folder of the run. Sample i depends only on (seed, i). A job that was interrupted
resumes when the same command is run again.
"""

import functools
from typing import Any

from absl import flags

from ddx.cli import command
from ddx.config.sampling import SAMPLING, SAMPLING_PRESETS
from ddx.runtime.errors import ConfigError

NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Samples to draw (64; one for each given image); rows of --interpolate (8)."
)
SETTINGS = command.define_settings(SAMPLING)
PRESET = flags.DEFINE_enum("preset", None, [*SAMPLING_PRESETS], "A paper's setting, changed by what else is given.")
LABELS = flags.DEFINE_list("labels", None, "Classes to draw, such as 3, cat,dog or none, in turn; by default all.")
LOW_RES = flags.DEFINE_string("low_res", None, "Images that a super-resolution network is to enlarge.")
KNOWN = flags.DEFINE_string("known", None, "Images of which a part is kept and the rest drawn: a file or a folder.")
MASK = flags.DEFINE_string("mask", None, "Mask of --known: white where it is kept, black elsewhere.")
JUMP_LENGTH = flags.DEFINE_integer("jump_length", None, "Steps that a jump goes back up, with --known (10).")
NUM_RESAMPLES = flags.DEFINE_integer(
    "num_resamples", None, "Walks of each stretch of so many steps, with --known (10)."
)
START = flags.DEFINE_string("start", None, "Images to start from in place of noise: a file or a folder.")
STRENGTH = flags.DEFINE_float("strength", None, "Part of T to noise --start to, above 0 and at most 1.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of ihdm's training set, if not where the run found it.")
SEED = flags.DEFINE_integer("seed", 0, "Name of the noise.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint to draw from; by default the newest.")
flags.adopt_module_key_flags(command)
GIF = flags.DEFINE_bool("gif", False, "Film of the way from noise to the first samples.")
PNG = flags.DEFINE_bool("png", False, "Files png/000000.png and so on, one for each sample.")
INTERPOLATE = flags.DEFINE_bool("interpolate", False, "Interpolation between latents, or between --images.")
IMAGES = flags.DEFINE_string("images", None, "Images to interpolate between: a folder, a .npy or an .npz file.")
RECONSTRUCT = flags.DEFINE_string("reconstruct", None, "Images to encode and decode: a file or a folder.")
OUT = flags.DEFINE_string("out", None, "Folder to write to; by default one in the workdir.")
EDITS = (KNOWN, MASK, JUMP_LENGTH, NUM_RESAMPLES, START, STRENGTH)


def main() -> int:
    """Sample, say what was written."""
    _check_together()
    workdir = command.workdir()
    command.meet_hosts()
    from ddx.runtime import hosts
    from ddx.sampling.latents import interpolate, reconstruct
    from ddx.sampling.samples import sample

    settings: dict[str, Any] = {
        **{name: flag.value for name, flag in SETTINGS.items()},
        "preset": PRESET.value,
        "step": STEP.value,
        "labels": _labels(),
        "out": OUT.value,
    }
    edits: dict[str, Any] = {flag.name: flag.value for flag in EDITS}
    if RECONSTRUCT.value:
        job = functools.partial(reconstruct, workdir, RECONSTRUCT.value, **settings)
        message = hosts.agreed(lambda: str(job()))
    elif INTERPOLATE.value:
        rows = 8 if NUM_SAMPLES.value is None else NUM_SAMPLES.value
        settings["data_dir"] = DATA_DIR.value
        message = hosts.agreed(
            lambda: str(interpolate(workdir, rows, images=IMAGES.value, seed=SEED.value, **settings))
        )
    else:
        message = sample(
            workdir,
            NUM_SAMPLES.value,
            seed=SEED.value,
            gif=GIF.value,
            png=PNG.value,
            low_res=LOW_RES.value,
            **edits,
            data_dir=DATA_DIR.value,
            **settings,
        )
    print(message)
    return 0


def _labels() -> tuple[str, ...] | None:
    if LABELS.value is not None and not LABELS.value:
        raise ConfigError("--labels is empty. Give numbers or names of classes, such as 3 or cat,dog")
    return None if LABELS.value is None else tuple(LABELS.value)


def _check_together() -> None:
    if INTERPOLATE.value and RECONSTRUCT.value:
        raise ConfigError("--interpolate and --reconstruct are two jobs. Give one of them")
    if IMAGES.value and not INTERPOLATE.value:
        raise ConfigError("--images are those to interpolate between. Add --interpolate, or use --reconstruct=IMAGES")
    if RECONSTRUCT.value and (NUM_SAMPLES.present or SEED.present or DATA_DIR.present):
        raise ConfigError(
            "--reconstruct takes all images and draws no noise. Leave out --num_samples, --seed and --data_dir"
        )
    if IMAGES.value and NUM_SAMPLES.present:
        raise ConfigError("--images decide the rows. Leave out --num_samples")
    if LOW_RES.value and (INTERPOLATE.value or RECONSTRUCT.value):
        raise ConfigError("--low_res are images to enlarge into samples. Leave out --interpolate and --reconstruct")
    given = [f"--{flag.name}" for flag in EDITS if flag.present]
    if given and (INTERPOLATE.value or RECONSTRUCT.value):
        raise ConfigError(f"{given[0]} is of samples. Leave out --interpolate and --reconstruct")
    if (GIF.value or PNG.value) and (INTERPOLATE.value or RECONSTRUCT.value):
        raise ConfigError("--gif and --png are of samples. Leave out --interpolate and --reconstruct")


if __name__ == "__main__":
    command.run(main)
