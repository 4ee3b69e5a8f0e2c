"""Score a trained network on a data set.

python -m launch.evaluate --workdir=runs/digits --metrics=bpd,rate_distortion [--split=test] [--num_steps=...]

Everything else comes from the folder of the run. An evaluation that was interrupted resumes when the same command is
run again.

python -m launch.evaluate --workdir=runs/digits --metrics=statistics     what analytic variances need
python -m launch.evaluate --workdir=runs/digits --metrics=model_statistics   what solver dpm_v3 needs
python -m launch.evaluate --workdir=runs/digits --metrics=comparison     a table of all variances
python -m launch.evaluate --workdir=runs/digits --metrics=fd,kid,pr      distances of samples to the data
python -m launch.evaluate --workdir=runs/digits --metrics=quality        distances by network evaluations, a picture
"""

from absl import flags

from ddx.cli import command
from ddx.config.evaluation import FLAGS, checked_settings
from ddx.config.evaluators import EVALUATORS, job_of

_JOBS = [f"{', '.join((name, *e.also))} ({e.meaning})" for name, e in EVALUATORS.items() if e.job]
METRICS = flags.DEFINE_list("metrics", ["bpd"], f"Metrics of one of the jobs {'; or '.join(_JOBS)}.")
SETTINGS = command.define_settings(FLAGS)
flags.adopt_module_key_flags(command)


def main() -> int:
    """Evaluate, say the result and what was written."""
    given = {name: flag.value for name, flag in SETTINGS.items()}
    # Images that are given, and what they are compared with, need no run.
    alone = all(given[name] for name in ("samples", "reference", "out"))
    workdir = None if alone and not command.WORKDIR.value else command.workdir()
    checked_settings(job_of(METRICS.value)[0], given)  # mistakes are told at once: the next line takes seconds
    command.meet_hosts()
    from ddx.evaluation import evaluate

    print(evaluate(workdir, tuple(METRICS.value), **given))
    return 0


if __name__ == "__main__":
    command.run(main)
