"""Make the folder of a run from a network that another code base trained.

python -m launch.convert --from=diffusers --source=FOLDER --out=WORKDIR
python -m launch.convert --from=ddim|improved-diffusion --source=FILE --out=WORKDIR [--weights=raw]

Then launch.sample and launch.evaluate take it as their --workdir. The weights do not say which images they were trained
on: --config=ddpm_cifar10, say, tells, as evaluation needs; its network gives way to the source's.
"""

from absl import flags

from ddx.cli import command
from ddx.runtime.errors import ConfigError

CONFIG = command.define_config()
FROM = flags.DEFINE_enum("from", None, ["diffusers", "improved-diffusion", "ddim"], "Code base that wrote the weights.")
SOURCE = flags.DEFINE_string("source", None, "File or folder of the weights.")
OUT = flags.DEFINE_string("out", None, "Folder of the run to make.")
WEIGHTS = flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "Averaged weights, or raw ones, of a source with both.")
flags.declare_key_flag("debug")


def main() -> int:
    """Convert, say what was written."""
    if command.WORKDIR.present:
        raise ConfigError("--workdir is a folder of a run; this command makes one. Name it with --out")
    given = [_needed(flag, example) for flag, example in ((FROM, "diffusers"), (SOURCE, "FOLDER"), (OUT, "runs/mine"))]
    from ddx.interop import convert

    print(convert(*given, weights=str(WEIGHTS.value), config=CONFIG.value))
    return 0


def _needed(flag: flags.FlagHolder, example: str) -> str:
    if not flag.value:
        raise ConfigError(f"--{flag.name} is missing. Pass it, as --{flag.name}={example}")
    return str(flag.value)


if __name__ == "__main__":
    command.run(main)
