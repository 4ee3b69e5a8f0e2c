"""Compile a config for a TPU that need not be there: does it fit, and how fast is it.

python -m launch.compile --config=ddpm_cifar10 --topology=v3:2x2 [--what=train,sample,evaluate,fid] [--json=FILE]
python -m launch.compile --shipped --json=FILE [--what=train,sample]     a table of all shipped configs; hours

It runs on any Linux machine with the extra tpu-compile, for some minutes. The numbers are the compiler's estimates.
"""

from absl import flags

from ddx.cli import command
from ddx.compiling.chips import check_what, chip_of, prepare
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import user_path

CONFIG = command.define_config()
flags.declare_key_flag("config")
flags.declare_key_flag("debug")
TOPOLOGY = flags.DEFINE_string(
    "topology", "v3:2x2", "Chip and arrangement of a slice: v3:2x2 is a v3-8, v5e:2x4 a v5e-8."
)
NUM_SLICES = flags.DEFINE_integer("num_slices", 1, "Slices of that topology.")
WHAT = flags.DEFINE_list("what", ["train", "sample"], "Programs to compile: train, sample, evaluate, fid.")
IMAGE_SHAPE = flags.DEFINE_list("image_shape", None, "Shape H,W,C of the images, where TFDS does not tell it.")
NUM_CLASSES = flags.DEFINE_integer("num_classes", None, "Number of classes, where TFDS does not tell it.")
SHIPPED = flags.DEFINE_bool(
    "shipped", False, "All shipped configs, each on the smallest of a v3-8, v3-32 and v3-64 that holds it."
)
JSON = flags.DEFINE_string("json", None, "File for the numbers.")


def main() -> int:
    """Compile, say what each device needs."""
    if command.WORKDIR.present:
        raise ConfigError("--workdir is a folder of a run; this command needs none. Name a config with --config")
    if SHIPPED.value:
        return _shipped()
    config = command.given_config(CONFIG)
    if config is None:
        raise ConfigError("--config is missing. Name one, such as --config=ddpm_cifar10")
    shape = _shape()
    if NUM_SLICES.value < 1:
        raise ConfigError(f"--num_slices={NUM_SLICES.value} must be at least 1")
    chip_of(TOPOLOGY.value)
    check_what(tuple(WHAT.value))
    prepare(TOPOLOGY.value)  # before jax is imported
    from ddx.compiling.job import compile_config, told
    from ddx.runtime.storage import write_json

    result = compile_config(
        config,
        TOPOLOGY.value,
        tuple(WHAT.value),
        num_slices=NUM_SLICES.value,
        image_shape=shape,
        num_classes=NUM_CLASSES.value,
    )
    print(told(result))
    if JSON.value:
        write_json(user_path(JSON.value, "--json"), result)
        print(f"wrote {JSON.value}")
    return 0


def _shipped() -> int:
    given = ("config", "topology", "num_slices", "image_shape", "num_classes")
    for name in (name for name in given if flags.FLAGS[name].present):
        raise ConfigError(f"--shipped chooses --{name} itself. Leave out one of the two")
    if not JSON.value:
        raise ConfigError(
            "--shipped keeps what it has compiled in a file. Name it with --json, such as --json=tpu.json"
        )
    check_what(tuple(WHAT.value))
    prepare("v3:2x2")
    from ddx.compiling.shipped import RUNS, compile_shipped

    print(compile_shipped(user_path(JSON.value, "--json"), RUNS, tuple(WHAT.value)))
    return 0


def _shape() -> tuple[int, int, int] | None:
    if IMAGE_SHAPE.value is None:
        return None
    try:
        height, width, channels = map(int, IMAGE_SHAPE.value)
    except ValueError:
        raise ConfigError(f"--image_shape={','.join(IMAGE_SHAPE.value)} must be H,W,C, such as 32,32,3") from None
    if min(height, width, channels) < 1:
        raise ConfigError(f"--image_shape={','.join(IMAGE_SHAPE.value)} must be at least 1,1,1")
    return height, width, channels


if __name__ == "__main__":
    command.run(main)
