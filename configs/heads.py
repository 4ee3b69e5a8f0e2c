"""A head that predicts how wrong a trained network is, on that network: SN-, NPR- or OCM-DPM.

configs/heads.py:KIND,WORKDIR or KIND,FORM,WORKDIR, of which WORKDIR is the folder of the run that trained the network.

| KIND | the head predicts | FORM, by default the first |
| --- | --- | --- |
| npr | the squared error of the network, for likelihoods (Bao et al. 2022b) | simple, complex, dense |
| sn | the square of what the network predicts, for few steps (Bao et al. 2022b) | simple, complex, dense |
| ocm | the slope of the network's eps (Ou et al. 2025) | simple, complex, dense |
| ocm_frequency | the same of each frequency of the DCT | dense, simple, complex |

Bao et al. have npr simple everywhere, sn simple on CIFAR-10 and CelebA and complex on ImageNet 64 and LSUN; Adam at
1e-4, batches of 128 (LSUN 64), 500,000 steps. Digits are trained as their network was.

    python -m launch.train    --config=configs/heads.py:npr,runs/digits --workdir=runs/digits_npr
    python -m launch.sample   --workdir=runs/digits_npr --variance=npr --sampler=ancestral --num_steps=25
    python -m launch.evaluate --workdir=runs/digits_npr --variance=npr --num_steps=25
"""

from ddx.config import head_config
from ddx.runtime.errors import ConfigError

FORMS = ("simple", "complex", "dense")


def get_config(arg=""):
    kind, _, workdir = arg.partition(",")
    form, comma, rest = workdir.partition(",")
    own = "dense" if kind == "ocm_frequency" else "simple"
    form, workdir = (form, rest) if comma and form in FORMS else (own, workdir)
    if kind not in ("npr", "sn", "ocm", "ocm_frequency") or not workdir:
        raise ConfigError(
            f"heads has no run {arg!r}; write npr, sn, ocm or ocm_frequency and the folder of a trained network, as"
            " --config=heads:npr,runs/digits or --config=heads:sn,complex,runs/digits"
        )
    config = head_config(workdir, kind, form)
    if config.data.name != "digits":
        config.train.num_steps = 500_000
        config.train.batch_size = 128
        config.train.learning_rate = 1e-4
        config.train.warmup_steps = 0
        config.train.clip_norm = 0.0
        config.train.ema_decay = 0.9999
        config.train.ema_warmup = False
    return config
