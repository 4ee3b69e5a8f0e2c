"""Draw samples from a trained network.

python -m launch.sample --workdir=runs/digits --num_samples=64 --sampler=ddim --num_steps=50 --eta=0 --seed=0
[--out=DIR]

Everything else comes from the folder of the run. Sample i depends only on (seed, i).
"""

from absl import flags

from launch import cli

NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "Samples to draw.")
SAMPLER = flags.DEFINE_enum("sampler", None, ["ddim", "ancestral"], "How to draw; by default as the run's config says.")
NUM_STEPS = flags.DEFINE_integer(
    "num_steps", None, "Network evaluations a sample (a few more unless they divide T); by default the run's."
)
ETA = flags.DEFINE_float("eta", None, "Stochasticity of ddim, 0 to 1; by default the run's.")
VARIANCE = flags.DEFINE_enum(
    "variance", None, ["small", "large"], "Variance of ancestral sampling; by default the run's."
)
SEED = flags.DEFINE_integer("seed", 0, "Names the noise.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Samples drawn at once; by default the run's.")
flags.adopt_module_key_flags(cli)
OUT = flags.DEFINE_string("out", None, "Folder to write to; by default one in the workdir.")


def main() -> int:
    """Sample, say what was written."""
    from ddx.training import sample

    message = sample(
        cli.workdir(),
        NUM_SAMPLES.value,
        sampler=SAMPLER.value,
        num_steps=NUM_STEPS.value,
        eta=ETA.value,
        variance=VARIANCE.value,
        seed=SEED.value,
        batch_size=BATCH_SIZE.value,
        out=OUT.value,
    )
    print(message)
    return 0


if __name__ == "__main__":
    cli.run(main)
