"""Measure how fast a config is on the devices of this machine, and what memory it takes; no data set is needed.

python -m launch.bench --config=ddpm_cifar10 [--what=train,sample] [--num_calls=10] [--json=FILE]

It runs the very programs of training and sampling, on random images. Change what is measured as for a run:
--config.train.batch_size=64 --config.sample.batch_size=256 --config.sample.num_steps=50 --config.model.dtype=bfloat16
"""

from absl import flags

from ddx.cli import command, programs
from ddx.compiling.chips import MEASURED, check_what
from ddx.runtime.errors import ConfigError

WHAT = flags.DEFINE_list("what", [*MEASURED], f"Programs to measure: {', '.join(MEASURED)}.")
NUM_CALLS = flags.DEFINE_integer("num_calls", 10, "Calls to measure of each program, after two that are not.")
flags.adopt_module_key_flags(programs)


def main() -> int:
    """Measure, say how fast it is."""
    programs.refuse_workdir()
    config, images = programs.given()
    check_what(tuple(WHAT.value), MEASURED)
    if NUM_CALLS.value < 1:
        raise ConfigError(f"--num_calls={NUM_CALLS.value} must be at least 1")
    from ddx.compiling.measure import measure, told

    result = measure(config, tuple(WHAT.value), num_calls=NUM_CALLS.value, **images)
    print(told(result))
    programs.keep(result)
    return 0


if __name__ == "__main__":
    command.run(main)
