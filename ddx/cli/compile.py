"""Compile a config for a TPU that need not be there: does it fit, and how fast is it.

python -m launch.compile --config=ddpm_cifar10 --topology=v3:2x2 [--what=train,sample,evaluate,fid] [--json=FILE]
python -m launch.compile --shipped --json=FILE [--what=train,sample]     a table of all shipped configs; hours

It runs on any Linux machine with the extra tpu-compile, for some minutes. The numbers are the compiler's estimates.
"""

from absl import flags

from ddx.cli import command, programs
from ddx.compiling.chips import check_what, chip_of, prepare
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import user_path

TOPOLOGY = flags.DEFINE_string(
    "topology", "v3:2x2", "Chip and arrangement of a slice: v3:2x2 is a v3-8, v5e:2x4 a v5e-8."
)
NUM_SLICES = flags.DEFINE_integer("num_slices", 1, "Slices of that topology.")
WHAT = flags.DEFINE_list("what", ["train", "sample"], "Programs to compile: train, sample, evaluate, fid.")
SHIPPED = flags.DEFINE_bool(
    "shipped", False, "All shipped configs, each on the smallest of a v3-8, v3-32, v3-64 and v3-128 that holds it."
)
flags.adopt_module_key_flags(programs)


def main() -> int:
    """Compile, say what each device needs."""
    programs.refuse_workdir()
    if SHIPPED.value:
        return _shipped()
    config, images = programs.given()
    if NUM_SLICES.value < 1:
        raise ConfigError(f"--num_slices={NUM_SLICES.value} must be at least 1")
    chip_of(TOPOLOGY.value)
    check_what(tuple(WHAT.value))
    prepare(TOPOLOGY.value)  # before jax is imported
    from ddx.compiling.job import compile_config, told

    result = compile_config(config, TOPOLOGY.value, tuple(WHAT.value), num_slices=NUM_SLICES.value, **images)
    print(told(result))
    programs.keep(result)
    return 0


def _shipped() -> int:
    given = ("config", "topology", "num_slices", "image_shape", "num_classes")
    for name in (name for name in given if flags.FLAGS[name].present):
        raise ConfigError(f"--shipped chooses --{name} itself. Leave out one of the two")
    if not programs.JSON.value:
        raise ConfigError(
            "--shipped keeps what it has compiled in a file. Name it with --json, such as --json=tpu.json"
        )
    check_what(tuple(WHAT.value))
    programs.check_json()
    prepare("v3:2x2")
    from ddx.compiling.shipped import RUNS, compile_shipped

    print(compile_shipped(user_path(programs.JSON.value, "--json"), RUNS, tuple(WHAT.value)))
    return 0


if __name__ == "__main__":
    command.run(main)
