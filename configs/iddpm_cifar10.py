"""Improved DDPM on CIFAR-10, the paper's settings (Nichol & Dhariwal 2021, table 2).

configs/iddpm_cifar10.py:OBJECTIVE,T,SCHEDULE, each with a default: hybrid,4000,cosine.

| argument | NLL (bits/dim) | FID, after 500,000 steps at batch 128 |
| --- | --- | --- |
| simple,1000,linear | 3.73 | 3.29 |
| simple,4000,linear | 3.37 | 2.90 |
| hybrid,4000,linear | 3.26 | 3.07 |
| simple,4000,cosine | 3.26 | 3.05 |
| hybrid,4000,cosine | 3.17 | 3.19 |
| vlb,4000,cosine | 2.94 | 11.47 |

52,546,438 parameters with a learned variance. Dropout is 0.1 for the linear schedule and 0.3 for the cosine. vlb draws
its times by the second moment of their losses.

    python -m launch.train    --config=configs/iddpm_cifar10.py:hybrid --workdir=runs/iddpm_cifar10
    --config.data.dir=TFDS_DATA_DIR
    python -m launch.sample   --workdir=runs/iddpm_cifar10 --num_samples=50000 --preset=iddpm --num_steps=4000
    python -m launch.evaluate --workdir=runs/iddpm_cifar10 --metrics=bpd,rate_distortion
"""

from ddx.config import default_config
from ddx.runtime.errors import ConfigError

OBJECTIVES = {"simple": "simple", "hybrid": "hybrid", "vlb": "rescaled_kl"}


def get_config(arg=""):
    given = [part for part in arg.split(",") if part]
    objective, num_steps, schedule = (given + ["hybrid", "4000", "cosine"][len(given) :])[:3]
    if len(given) > 3 or objective not in OBJECTIVES or not num_steps.isdigit() or schedule not in ("linear", "cosine"):
        raise ConfigError(
            f"iddpm_cifar10 has no run {arg!r}; write simple, hybrid or vlb, then T, then linear or cosine,"
            " as --config=iddpm_cifar10:hybrid,4000,cosine"
        )
    config = default_config()
    config.data.name = "cifar10"
    config.process.schedule = schedule
    config.process.num_steps = int(num_steps)
    config.process.rescale_time = True
    config.model.family = "iddpm"
    config.model.num_blocks = 3
    config.model.attention_resolutions = (16, 8)
    config.model.num_heads = 4
    config.model.scale_shift = True
    config.model.dropout = 0.3 if schedule == "cosine" else 0.1
    config.loss.objective = OBJECTIVES[objective]
    if objective != "simple":
        config.loss.variance = "range"
    if objective == "vlb":
        config.loss.times = "loss_second_moment"
    config.train.num_steps = 500_000
    config.train.learning_rate = 1e-4
    config.train.warmup_steps = 0
    config.train.clip_norm = 0.0
    config.sample.variance = "large" if objective == "simple" else "range"
    config.sample.num_images = 16
    config.sample.batch_size = 256
    return config
