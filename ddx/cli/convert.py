"""Make the folder of a run from a network that another code base trained, or write a run's network for others.

Or make the file of a feature network, by which scores compare images, from the weights that you fetched.

python -m launch.convert --from=diffusers --source=FOLDER --out=WORKDIR
python -m launch.convert --from=ddim|improved-diffusion|guided-diffusion --source=FILE --out=WORKDIR [--weights=raw]
python -m launch.convert --from=analytic-dpm --source=FILE --out=WORKDIR [--statistics=FILE] [--head=npr|sn]
python -m launch.convert --to=diffusers|safetensors --workdir=WORKDIR --out=FOLDER [--weights=raw] [--step=STEP]
python -m launch.convert --to=stablehlo --workdir=WORKDIR --out=FOLDER [--sampler=ddim] [--num_steps=50] [...]
python -m launch.convert --from=inception|dinov2|clip --source=FILE [--out=FILE]

Then launch.sample and launch.evaluate take it as their --workdir. The weights do not say which images they were trained
on: --config=ddpm_cifar10, say, tells, as evaluation needs; its network gives way to the source's.

With --to=stablehlo a service draws the images of launch.sample without ddx; the flags of launch.sample say how.
"""

from absl import flags

from ddx.cli import command
from ddx.config.interop import ATTENTION_ORDERS, SOURCES, TARGETS
from ddx.config.sampling import SAMPLING, SAMPLING_PRESETS, WEIGHTS
from ddx.features import NETWORKS
from ddx.runtime.errors import ConfigError
from ddx.runtime.memory import keep_little

CONFIG = command.define_config()
_FEATURES = [name for name, network in NETWORKS.items() if not network.is_shipped]
FROM = flags.DEFINE_enum(
    "from", None, [*SOURCES, *_FEATURES], "Code base that wrote the weights, or feature network whose weights they are."
)
TO = flags.DEFINE_enum("to", None, [*TARGETS], "Whose files to write, of the run in --workdir.")
SOURCE = flags.DEFINE_string("source", None, "File or folder of the weights.")
OUT = flags.DEFINE_string(
    "out", None, "Folder to make, of a run or for others; of a feature network the file, by default where scores look."
)
WHICH = flags.DEFINE_enum("weights", None, [*WEIGHTS], "Averaged weights, or raw ones, where there are both.")
STATISTICS = flags.DEFINE_string("statistics", None, "File of Analytic-DPM's statistics (ms_eps) of the network.")
HEAD = flags.DEFINE_enum("head", None, ["npr", "sn"], "What the head of an analytic-dpm network predicts.")
ATTENTION_ORDER = flags.DEFINE_enum(
    "attention_order",
    None,
    [*ATTENTION_ORDERS],
    "Order of queries, keys and values of an unpublished ADM; by default old.",
)
STEP = flags.DEFINE_integer("step", None, "Checkpoint to write with --to; by default the newest.")
UNVERIFIED = flags.DEFINE_bool(
    "unverified", False, "Whether a feature network's weights may be others than the published ones."
)
# The weights have a flag already, and a service decides how many images it draws at once.
_OTHERS = ("weights", "batch_size")
SETTINGS = command.define_settings({name: key for name, key in SAMPLING.items() if name not in _OTHERS})
PRESET = flags.DEFINE_enum("preset", None, [*SAMPLING_PRESETS], "A paper's setting, changed by what else is given.")
flags.adopt_module_key_flags(command)


def main() -> int:
    """Convert, say what was written."""
    if FROM.value and TO.value:
        raise ConfigError("--from and --to are two ways. Give one of them")
    keep_little()
    drawing = {"preset": PRESET, **SETTINGS}
    if TO.value != "stablehlo":
        _refuse([*drawing.values()], "--to=stablehlo")
    if TO.value:
        _refuse(
            [SOURCE, CONFIG, UNVERIFIED, STATISTICS, HEAD, ATTENTION_ORDER],
            "--from",
            ", and name the run with --workdir",
        )
        workdir, out = command.workdir(), _needed(OUT, "FOLDER")
        from ddx.interop import export

        settings = {name: flag.value for name, flag in drawing.items()}
        print(export(TO.value, workdir, out, weights=WHICH.value, step=STEP.value, **settings))
        return 0
    _refuse([command.WORKDIR, STEP], "--to", ", and name the folder to make with --out")
    if FROM.value in _FEATURES:
        return _features(FROM.value)
    _refuse([UNVERIFIED], f"--from={'|'.join(_FEATURES)}")
    given = [_needed(flag, example) for flag, example in ((FROM, "diffusers"), (SOURCE, "FOLDER"), (OUT, "runs/mine"))]
    from ddx.interop import convert

    print(
        convert(
            *given,
            weights=WHICH.value or "ema",
            config=CONFIG.value,
            statistics=STATISTICS.value,
            head=HEAD.value,
            attention_order=ATTENTION_ORDER.value,
        )
    )
    return 0


def _features(name: str) -> int:
    for flag in (CONFIG, WHICH, STATISTICS, HEAD, ATTENTION_ORDER):
        if flag.value is not None:
            raise ConfigError(f"--{flag.name} is of networks that draw images, not of {name}. Leave it out")
    source = _needed(SOURCE, "FILE")
    from ddx.features import convert

    print(convert(name, source, OUT.value, unverified=UNVERIFIED.value))
    return 0


def _refuse(given: list[flags.FlagHolder], owner: str, then: str = "") -> None:
    """Refuse flags that belong to another way."""
    for flag in given:
        if flag.present:
            raise ConfigError(f"--{flag.name} belongs to {owner}. Leave it out{then}")


def _needed(flag: flags.FlagHolder, example: str) -> str:
    if not flag.value:
        raise ConfigError(f"--{flag.name} is missing. Pass it, as --{flag.name}={example}")
    return str(flag.value)


if __name__ == "__main__":
    command.run(main)
