"""The networks for CIFAR-10 that Analytic-DPM's authors trained (Bao et al. 2022, appendix F), with T = 1,000.

| argument | schedule | paper, A-DDIM in 10, 25, 50, 100 steps |
| --- | --- | --- |
| linear | linear (LS) | FID 14.00, 5.81, 4.04, 3.55 |
| cosine | cosine (CS) | FID 26.43, 9.96, 6.02, 4.88 |

Improved DDPM's network with dropout 0.3 and no learned variance, 52,542,979 parameters, which is told the times 1 ..
1000 where others are told 0 .. 999. Published networks become runs with

    python -m launch.convert --from=analytic-dpm --source=FILE --statistics=FILE --config=analytic_cifar10:linear
    --out=runs/ls
    python -m launch.sample  --workdir=runs/ls --sampler=ddim --variance=analytic_paper --trajectory=even --num_steps=10

and with cosine by --variance=analytic_paper1.
"""

from ddx.config import default_config
from ddx.runtime.errors import ConfigError


def get_config(arg="linear"):
    if arg not in ("linear", "cosine"):
        raise ConfigError(
            f"analytic_cifar10 has no run {arg!r}; choose linear or cosine, as --config=analytic_cifar10:cosine"
        )
    config = default_config()
    config.data.name = "cifar10"
    config.process.schedule = arg
    config.process.first_time = 1
    config.model.family = "iddpm"
    config.model.num_blocks = 3
    config.model.attention_resolutions = (16, 8)
    config.model.num_heads = 4
    config.model.scale_shift = True
    config.model.dropout = 0.3
    config.train.num_steps = 500_000
    config.train.learning_rate = 1e-4
    config.train.warmup_steps = 0
    config.train.clip_norm = 0.0
    config.sample.trajectory = "even"
    config.sample.num_images = 16
    config.sample.batch_size = 256
    return config
