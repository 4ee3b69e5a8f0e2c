"""Score a trained network on a data set.

python -m launch.evaluate --workdir=runs/digits --metrics=bpd,rate_distortion [--split=test] [--num_steps=...]

Everything else comes from the folder of the run. An evaluation that was interrupted resumes when the same command is
run again.

python -m launch.evaluate --workdir=runs/digits --metrics=statistics     what analytic variances need
python -m launch.evaluate --workdir=runs/digits --metrics=comparison     a table of all variances
"""

from absl import flags

from ddx.cli import command
from ddx.config.evaluation import EVALUATION, EVALUATORS, checked_settings, job_of

_JOBS = [f"{', '.join((name, *e.also))} ({e.meaning})" for name, e in EVALUATORS.items() if e.job]
METRICS = flags.DEFINE_list("metrics", ["bpd"], f"Metrics of one of the jobs {'; or '.join(_JOBS)}.")
SETTINGS = command.define_settings(EVALUATION)
flags.adopt_module_key_flags(command)


def main() -> int:
    """Evaluate, say the result and what was written."""
    workdir = command.workdir()
    given = {name: flag.value for name, flag in SETTINGS.items()}
    checked_settings(job_of(METRICS.value)[0], given)  # mistakes are told at once: the next line takes seconds
    command.meet_hosts()
    from ddx.evaluation import evaluate

    print(evaluate(workdir, tuple(METRICS.value), **given))
    return 0


if __name__ == "__main__":
    command.run(main)
