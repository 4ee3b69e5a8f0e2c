"""Train a network, or resume training one.

python -m launch.train --config=configs/digits.py --workdir=runs/digits [--config.train.num_steps=...]

The same command resumes where the last run in the folder stopped; then --config may be left out.
"""

import sys

from absl import flags

from ddx.cli import command

CONFIG = command.define_config()
flags.adopt_module_key_flags(command)
flags.declare_key_flag("config")


def main() -> int:
    """Validate, train, say what was written."""
    config, workdir = command.given_config(CONFIG), command.workdir()
    command.meet_hosts()
    from ddx.runtime.preemption import EXIT_CODE
    from ddx.training.loop import train

    outcome = train(config, workdir)
    print(outcome.message, file=sys.stdout if outcome.finished else sys.stderr)
    return 0 if outcome.finished else EXIT_CODE


if __name__ == "__main__":
    command.run(main)
