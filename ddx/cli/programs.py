"""What launch.compile and launch.bench share: a config whose programs they make, for images that need not be there."""

from typing import Any

from absl import flags
from ml_collections import ConfigDict

from ddx.cli import command
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import user_path

CONFIG = command.define_config()
IMAGE_SHAPE = flags.DEFINE_list("image_shape", None, "Shape H,W,C of the images, where TFDS does not tell it.")
NUM_CLASSES = flags.DEFINE_integer("num_classes", None, "Number of classes, where TFDS does not tell it.")
JSON = flags.DEFINE_string("json", None, "File for the numbers.")
flags.declare_key_flag("config")
flags.declare_key_flag("debug")


def refuse_workdir() -> None:
    """Refuse the folder of a run, which these commands do not look at."""
    if command.WORKDIR.present:
        raise ConfigError("--workdir is a folder of a run; this command needs none. Name a config with --config")


def given() -> tuple[ConfigDict, dict[str, Any]]:
    """The config, and what is said of the images, as arguments."""
    config = command.given_config(CONFIG)
    if config is None:
        raise ConfigError("--config is missing. Name one, such as --config=ddpm_cifar10")
    if NUM_CLASSES.value is not None and NUM_CLASSES.value < 1:
        raise ConfigError(f"--num_classes={NUM_CLASSES.value} must be at least 1, which is a set without classes")
    check_json()
    return config, {"image_shape": _shape(), "num_classes": NUM_CLASSES.value}


def check_json() -> None:
    """Refuse a file for the numbers that cannot be written, before there are any."""
    if JSON.value:
        from ddx.runtime.storage import check_writable

        check_writable(user_path(JSON.value, "--json"))


def keep(result: dict[str, Any]) -> None:
    """Write the numbers, if a file is named for them, and say so."""
    if JSON.value:
        from ddx.runtime.storage import write_json

        write_json(user_path(JSON.value, "--json"), result)
        print(f"wrote {JSON.value}")


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
