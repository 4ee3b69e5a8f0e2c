"""Score a trained network on a data set.

python -m launch.evaluate --workdir=runs/digits --metrics=bpd,rate_distortion [--split=test] [--num_steps=...]

Everything else comes from the folder of the run. An evaluation that was interrupted goes on when the same command is
run again.

python -m launch.evaluate --workdir=runs/digits --metrics=statistics     what analytic variances need
python -m launch.evaluate --workdir=runs/digits --metrics=comparison     a table of all variances
"""

from typing import Any

from absl import flags

from ddx.cli import command
from ddx.config.sampling import SAMPLING
from ddx.diffusion.catalogue import VARIANCES
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import Path

METRICS = flags.DEFINE_list(
    "metrics", ["bpd"], "Of: bpd (bits per dimension), rate_distortion; or statistics; or comparison (of variances)."
)
SPLIT = flags.DEFINE_string("split", None, "Split of the run's data set: test, and for statistics what it trained on.")
BASIS = flags.DEFINE_enum("basis", None, ["dct", "pixel"], "Of statistics: whose coordinates to tell apart (dct).")
NUM_STEPS = flags.DEFINE_list(
    "num_steps",
    None,
    "Steps of the bound; 0, the default: all T. Of a comparison several; by default 10,25,50,100,T.",
)
TRAJECTORY = flags.DEFINE_string("trajectory", None, "Times to visit, as launch.sample names them; power2 by default.")
VARIANCE = flags.DEFINE_enum("variance", None, VARIANCES, "Of the reverse steps; by default what was learned.")
CLIP = flags.DEFINE_bool("clip", None, "Clip the estimate of x_0; by default where the network tells it.")
CDF = flags.DEFINE_string("cdf", None, "Of the decoder: exact, tanh as in the papers' code, or softmax.")
DELTA = flags.DEFINE_float("delta", None, "Noise of the reverse steps of an IHDM network; by default the run's.")
ETA = flags.DEFINE_float("eta", None, "Stochasticity of inference and steps, above 0; by default 1, DDPM's.")
MAX_EXAMPLES = flags.DEFINE_integer("max_examples", None, "A random part of the split; by default all of it.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Examples at once; by default the run's sample.batch_size.")
SEED = flags.DEFINE_integer("seed", 0, "Names the noise, and the part of the split.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint to score; by default the newest.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data set lies, if not where the run found it.")
OUT = flags.DEFINE_string("out", None, "Folder to write to; by default one in the workdir.")
WEIGHTS = command.define_settings({"weights": SAMPLING["weights"]})["weights"]
flags.adopt_module_key_flags(command)


def main() -> int:
    """Evaluate, say the result and what was written."""
    workdir = command.workdir()
    alone = {"statistics": _measure, "comparison": _compare}
    for metric, job in alone.items():
        if metric in METRICS.value:
            if len(METRICS.value) > 1:
                raise ConfigError(f"--metrics={metric} is a job of its own. Leave out the other metrics")
            return job(workdir)
    if BASIS.value:
        raise ConfigError("--basis is of statistics. Leave it out, or use --metrics=statistics")
    if len(NUM_STEPS.value or ()) > 1:
        raise ConfigError("--num_steps: several are for --metrics=comparison. Give one")
    num_steps = _num_steps()
    from ddx.evaluation import evaluate

    print(
        evaluate(
            workdir,
            tuple(METRICS.value),
            split=SPLIT.value or "test",
            num_steps=num_steps[0] if num_steps else None,
            trajectory=TRAJECTORY.value,
            variance=VARIANCE.value,
            cdf=CDF.value,
            delta=DELTA.value,
            eta=ETA.value,
            **_shared(),
        )
    )
    return 0


def _measure(workdir: Path) -> int:
    why = "--metrics=statistics measures all times, and nothing else"
    _refuse(why, num_steps=NUM_STEPS, trajectory=TRAJECTORY, variance=VARIANCE, cdf=CDF, delta=DELTA, eta=ETA)
    from ddx.evaluation import measure

    print(measure(workdir, split=SPLIT.value, basis=BASIS.value or "dct", **_shared()))
    return 0


def _compare(workdir: Path) -> int:
    why = "--metrics=comparison compares all there are"
    _refuse(why, trajectory=TRAJECTORY, variance=VARIANCE, delta=DELTA, eta=ETA, basis=BASIS)
    num_steps = _num_steps()
    from ddx.evaluation import compare

    print(compare(workdir, num_steps=num_steps, split=SPLIT.value or "test", cdf=CDF.value, **_shared()))
    return 0


def _shared() -> dict[str, Any]:
    """What all three jobs take."""
    return {
        "clip": CLIP.value,
        "max_examples": MAX_EXAMPLES.value,
        "batch_size": BATCH_SIZE.value,
        "seed": SEED.value,
        "step": STEP.value,
        "weights": WEIGHTS.value,
        "data_dir": DATA_DIR.value,
        "out": OUT.value,
    }


def _refuse(why: str, **others: flags.FlagHolder) -> None:
    """Refuse flags that were given and that a job does not take."""
    wrong = [name for name, flag in others.items() if flag.value is not None]
    if wrong:
        raise ConfigError(f"{why}. Leave out --{wrong[0]}")


def _num_steps() -> tuple[int, ...] | None:
    if NUM_STEPS.value is None:
        return None
    try:
        return tuple(map(int, NUM_STEPS.value or ["none"]))
    except ValueError:
        raise ConfigError(f"--num_steps={','.join(NUM_STEPS.value)} must be numbers, such as 25 or 10,25,50") from None


if __name__ == "__main__":
    command.run(main)
