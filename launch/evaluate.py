"""Score a trained network on a data set.

python -m launch.evaluate --workdir=runs/digits --metrics=bpd,rate_distortion [--split=test] [--num_steps=...]

Everything else comes from the folder of the run. An evaluation that was interrupted goes on when the same command is
run again.
"""

import pathlib

from absl import flags

from ddx.errors import ConfigError
from ddx.keys import VARIANCES
from launch import cli

METRICS = flags.DEFINE_list("metrics", ["bpd"], "Of: bpd (bits per dimension), rate_distortion; or statistics.")
SPLIT = flags.DEFINE_string("split", None, "Split of the run's data set: test, and for statistics what it trained on.")
BASIS = flags.DEFINE_enum("basis", None, ["dct", "pixel"], "Of statistics: whose coordinates to tell apart (dct).")
NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps of the bound; by default all T.")
TRAJECTORY = flags.DEFINE_string("trajectory", None, "Times to visit, as launch.sample names them; power2 by default.")
VARIANCE = flags.DEFINE_enum("variance", None, VARIANCES, "Of the reverse steps; by default what was learned.")
CLIP = flags.DEFINE_bool("clip", None, "Clip the estimate of x_0; by default where the network tells it.")
CDF = flags.DEFINE_string("cdf", None, "Of the decoder: exact, tanh as in the papers' code, or softmax.")
DELTA = flags.DEFINE_float("delta", None, "Noise of the reverse steps of an IHDM network; by default the run's.")
MAX_EXAMPLES = flags.DEFINE_integer("max_examples", None, "A random part of the split; by default all of it.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Examples at once; by default the run's sample.batch_size.")
SEED = flags.DEFINE_integer("seed", 0, "Names the noise, and the part of the split.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint to score; by default the newest.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data set lies, if not where the run found it.")
OUT = flags.DEFINE_string("out", None, "Folder to write to; by default one in the workdir.")
flags.adopt_module_key_flags(cli)


def main() -> int:
    """Evaluate, say the result and what was written."""
    workdir = cli.workdir()
    if "statistics" in METRICS.value:
        return _measure(workdir)
    if BASIS.value:
        raise ConfigError("--basis is of statistics. Leave it out, or use --metrics=statistics")
    from ddx.evaluation import evaluate

    print(
        evaluate(
            workdir,
            tuple(METRICS.value),
            split=SPLIT.value or "test",
            num_steps=NUM_STEPS.value,
            trajectory=TRAJECTORY.value,
            variance=VARIANCE.value,
            clip=CLIP.value,
            cdf=CDF.value,
            delta=DELTA.value,
            max_examples=MAX_EXAMPLES.value,
            batch_size=BATCH_SIZE.value,
            seed=SEED.value,
            step=STEP.value,
            data_dir=DATA_DIR.value,
            out=OUT.value,
        )
    )
    return 0


def _measure(workdir: pathlib.Path) -> int:
    others = {"num_steps": NUM_STEPS, "trajectory": TRAJECTORY, "variance": VARIANCE, "cdf": CDF, "delta": DELTA}
    wrong = [name for name, flag in others.items() if flag.value is not None]
    if len(METRICS.value) > 1 or wrong:
        what = f"--{wrong[0]}" if wrong else "the other metrics"
        raise ConfigError(f"--metrics=statistics measures all times, and nothing else. Leave out {what}")
    from ddx.evaluation import measure

    print(
        measure(
            workdir,
            split=SPLIT.value,
            basis=BASIS.value or "dct",
            clip=CLIP.value,
            max_examples=MAX_EXAMPLES.value,
            batch_size=BATCH_SIZE.value,
            seed=SEED.value,
            step=STEP.value,
            data_dir=DATA_DIR.value,
            out=OUT.value,
        )
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
