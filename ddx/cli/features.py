"""Train the feature network of digits, by which scores compare small grey images; its weights ship with ddx.

python -m launch.features --config=features_digits --out=digits.safetensors [--config.data.name=mnist]

Any set of ten classes will do; ddx.features.load("digits", weights="digits.safetensors") takes what is written.
"""

from absl import flags

from ddx.cli import command
from ddx.runtime.errors import ConfigError

CONFIG = command.define_config()
OUT = flags.DEFINE_string("out", "digits.safetensors", "File to write.")
flags.declare_key_flag("config")
flags.declare_key_flag("debug")


def main() -> int:
    """Train, say what was written."""
    if command.WORKDIR.present:
        raise ConfigError("--workdir is a folder of a run; this command makes one file. Name it with --out")
    config = command.given_config(CONFIG)
    if config is None:
        raise ConfigError("--config is missing. Pass it, as --config=features_digits")
    from ddx.features.training import train

    print(train(config, OUT.value))
    return 0


if __name__ == "__main__":
    command.run(main)
