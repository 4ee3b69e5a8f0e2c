"""The table of config keys, and the settings of the papers' samplers. `ddx.config` checks values against it.

A row is all there is to say of a key: its default, which fixes its type, its meaning and the limit of its values. The
rows of `SAMPLING` also make the flags of `launch.sample`, what `ddx.sampling` accepts, and the names of its folders.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ddx.diffusion.catalogue import (
    FIXED_VARIANCES,
    HEAD_VARIANCES,
    LEARNED_VARIANCES,
    OPTIMAL_VARIANCES,
    PREDICTIONS,
    SOLVERS,
)
from ddx.diffusion.forward import betas

GIVEN = "given"  # the data.name of a run whose data were passed to `ddx.training.train`
PROCESSES = ("ddpm", "blurring", "ihdm")
FAMILIES = ("ddpm", "iddpm")
OBJECTIVES = ("simple", "kl", "rescaled_kl", "hybrid", "head")
HEADS = ("", "simple", "complex")
TIME_SAMPLERS = ("uniform", "antithetic", "low_discrepancy", "loss_second_moment")


def _ancestral(trajectory: str, variance: str) -> dict[str, Any]:
    return {"sampler": "ancestral", "solver": "euler", "trajectory": trajectory, "variance": variance, "clip": True}


def _ddim(trajectory: str) -> dict[str, Any]:
    # DDIM's code clips in its sigma-hat rows only.
    return {"sampler": "ddim", "solver": "euler", "trajectory": trajectory, "eta": 0.0, "clip": False}


# Changes of sample.* that make a paper's setting; DDIM's tables vary the number of steps.
SAMPLING_PRESETS: dict[str, dict[str, Any]] = {
    "ddpm_cifar10": _ancestral("ddpm", "large") | {"num_steps": 0},
    "ddpm_256": _ancestral("ddpm", "small") | {"num_steps": 0},
    "ddim_cifar10": _ddim("ddim_cifar10"),
    "ddim_cifar10_sigma_hat": _ancestral("ddim_cifar10", "large"),
    "ddim_celeba64": _ddim("ddim_celeba64"),
    "ddim_celeba64_sigma_hat": _ancestral("ddim_celeba64", "large"),
    "ddim_lsun": _ddim("ddim_lsun"),
    "iddpm": _ancestral("iddpm", "range"),
}


@dataclass(frozen=True)
class Key:
    """One config key: its default (which fixes its type), what it means, and the limit of its values."""

    default: Any
    meaning: str
    limit: str = ""
    holds: Callable[[Any], bool] = lambda value: True
    choices: tuple[str, ...] = ()  # all values, where they are few names
    also: tuple[str, ...] = ()  # choices that only a job on a trained network has
    tag: Callable[[Any], str] | None = None  # tag(sample) -> the setting's part of a job's folder name
    is_flag: bool = True  # of `SAMPLING`: whether a job may be given it
    is_size: bool = False  # an int may be two as well, (height, width)


def _at_least(low: float) -> dict[str, Any]:
    return {"limit": f"at least {low:g}", "holds": lambda value: value >= low}


def _between(low: float, high: float) -> dict[str, Any]:
    return {"limit": f"at least {low:,} and below {high:,}", "holds": lambda value: low <= value < high}


def _within(low: float, high: float) -> dict[str, Any]:
    return {"limit": f"at least {low:g} and at most {high:,.10g}", "holds": lambda value: low <= value <= high}


def _number(low: float, above: bool = False) -> dict[str, Any]:
    kind = f"{'above' if above else 'at least'} {low:g} and finite"
    return {"limit": kind, "holds": lambda value: math.isfinite(value) and (value > low if above else value >= low)}


def _one_of(*choices: str) -> dict[str, Any]:
    return {"limit": f"one of: {', '.join(choices)}", "holds": lambda value: value in choices, "choices": choices}


def _all_at_least(low: int) -> dict[str, Any]:
    return {"limit": f"numbers of at least {low}", "holds": lambda value: all(v >= low for v in value)}


def _walks(s: Any) -> bool:
    """Whether a sampler may take its steps in more than one way; heat goes through all levels."""
    return bool(s.sampler != "heat")


SAMPLING: dict[str, Key] = {
    "sampler": Key(
        "ddim", "how samples are drawn; heat is IHDM's", **_one_of("ddim", "ancestral", "heat"), tag=lambda s: s.sampler
    ),
    "num_steps": Key(
        50,
        "steps a sample; 0: all T, or as many as the trajectory says",
        **_at_least(0),
        tag=lambda s: str(s.num_steps or "") if _walks(s) else "",
    ),
    "trajectory": Key(
        "uniform",
        "the times to visit: uniform, quad, even, leading, trailing, linspace, ddim50, 10,20,30, ...",
        tag=lambda s: "_" + s.trajectory.replace(":", "").replace(",", "-")[:40] if _walks(s) else "",
    ),
    "eta": Key(
        0.0,
        "stochasticity of ddim; 0 is deterministic, 1 is DDPM",
        **_number(0),
        tag=lambda s: f"_eta{s.eta:g}" if s.sampler == "ddim" else "",
    ),
    "variance": Key(
        "small",
        "reverse variance of the ancestral sampler",
        **_one_of(*FIXED_VARIANCES, *LEARNED_VARIANCES),
        also=OPTIMAL_VARIANCES,
        tag=lambda s: f"_{s.variance}" if s.sampler == "ancestral" or s.variance in OPTIMAL_VARIANCES else "",
    ),
    "solver": Key(
        "euler",
        "how a step is taken: euler is DDIM and DDPM, the others have a higher order",
        **_one_of(*SOLVERS),
        tag=lambda s: f"_{s.solver}" if s.solver != "euler" else "",
    ),
    "clip": Key(
        True,
        "clip the estimate of x_0 to the range of the data",
        tag=lambda s: "" if s.clip or not _walks(s) else "_unclipped",
    ),
    "delta": Key(
        0.0125,
        "noise of the steps and the prior of ihdm",
        **_number(0),
        tag=lambda s: "" if _walks(s) else f"_delta{s.delta:g}",
    ),
    "prior_noise": Key(
        True,
        "start ihdm from blurred images with noise; its released code adds none",
        tag=lambda s: "" if _walks(s) or s.prior_noise else "_noiseless_prior",
    ),
    "noisy_end": Key(
        False,
        "add the noise of the last step, as in Blurring Diffusion's printed algorithm",
        tag=lambda s: "_noisy_end" if s.noisy_end else "",
    ),
    "weights": Key(
        "ema",
        "of the network: ema, averaged, or raw, as the last training step left them",
        **_one_of("ema", "raw"),
        tag=lambda s: "" if s.weights == "ema" else f"_{s.weights}",
    ),
    "num_images": Key(64, "images in a grid during training", **_at_least(1), is_flag=False),
    "batch_size": Key(64, "images sampled at once", **_at_least(1)),
}

KEYS: dict[str, Key] = {
    "seed": Key(0, "decides initial weights, data order, times, noise and samples", **_between(0, 2**32)),
    "data.name": Key("digits", "digits, folder, array, or the name of a TFDS data set such as cifar10"),
    "data.split": Key("train", "the split to train on"),
    "data.dir": Key("", "folder or file of the data set; empty: $TFDS_DATA_DIR or TFDS's default"),
    "data.memory_mib": Key(1024, "decoded sets of at most so many MiB are kept in memory", **_within(0, 1e9)),
    "data.disk_mib": Key(
        16_384, "larger ones, of at most so many MiB, are decoded once into a copy on disk; 0: none", **_within(0, 1e9)
    ),
    "data.cache_dir": Key("", "folder of these copies; empty: $XDG_CACHE_HOME/ddx or ~/.cache/ddx"),
    "data.image_size": Key(
        0,
        "shrink and centre-crop images to this size, one number or height,width; 0: keep their own",
        limit="at least 0, or two numbers of at least 1",
        holds=lambda size: size >= 0 if isinstance(size, int) else len(size) == 2 and min(size) >= 1,
        is_size=True,
    ),
    "data.channels": Key(
        0, "1 grey, 3 colour, 0 the data set's own", limit="0, 1 or 3", holds=lambda c: c in (0, 1, 3)
    ),
    "data.crop": Key(
        (),
        "(top, left, height, width) to cut out first, in pixels; empty: all of the image",
        limit="empty or four numbers, the last two at least 1",
        holds=lambda crop: not crop or (len(crop) == 4 and min(crop[:2]) >= 0 and min(crop[2:]) >= 1),
    ),
    "data.low": Key(
        -1, "the lowest grey level, the highest is 1; 0 is IHDM's", limit="-1 or 0", holds=lambda low: low in (-1, 0)
    ),
    "data.flip": Key(False, "mirror each image left-right with probability 1/2"),
    "process.kind": Key("ddpm", "noise alone, or with a blur: Blurring Diffusion or IHDM", **_one_of(*PROCESSES)),
    "process.schedule": Key("linear", "noise schedule of ddpm", **_one_of(*betas.SCHEDULES)),
    "process.num_steps": Key(1000, "T, the number of noise levels", **_at_least(1)),
    "process.rescale_time": Key(False, "tell the network times as if T were 1000, in ddpm; blurring always does"),
    "process.sigma_blur_max": Key(20.0, "standard deviation of the blur at T, in pixels", **_within(0, 1e6)),
    "process.sigma_blur_min": Key(0.5, "of the least blur of ihdm", **_number(0, above=True)),
    "process.blur_schedule": Key("sin2", "how the blur of blurring grows", **_one_of(*betas.BLUR_POWERS)),
    "process.d_min": Key(0.001, "what the blur of blurring leaves of every frequency", **_between(0, 1)),
    "process.logsnr_min": Key(-10.0, "log-SNR of the noise of blurring at T", **_within(-80, 80)),
    "process.logsnr_max": Key(10.0, "log-SNR of the noise of blurring at 0", **_within(-80, 80)),
    "process.sigma": Key(0.01, "standard deviation of the noise of ihdm", **_number(0, above=True)),
    "model.family": Key(
        "ddpm", "whose conventions (embedding, padding, epsilon, initial weights) to follow", **_one_of(*FAMILIES)
    ),
    "model.channels": Key(128, "channels of the first level", **_at_least(4)),
    "model.multipliers": Key(
        (1, 2, 2, 2),
        "channels of each level, as multiples",
        limit="numbers of at least 1, at least one level",
        holds=lambda value: bool(value) and all(v >= 1 for v in value),
    ),
    "model.num_blocks": Key(2, "residual blocks a level", **_at_least(1)),
    "model.attention_resolutions": Key((16,), "image heights at which to attend", **_all_at_least(1)),
    "model.groups": Key(32, "groups of the normalisations", **_at_least(1)),
    "model.dropout": Key(0.1, "dropout rate in residual blocks", **_between(0, 1)),
    "model.num_heads": Key(1, "heads of each attention block", **_at_least(1)),
    "model.scale_shift": Key(False, "the time scales and shifts in residual blocks, instead of being added"),
    "model.low_res": Key(
        0, "height of low-resolution images to enlarge, for a super-resolution network; 0: none", **_at_least(0)
    ),
    "model.class_conditional": Key(False, "tell the network the class of each image"),
    "model.head": Key(
        "",
        "layers of their own for what a network outputs besides its prediction; empty: none",
        limit="empty, simple or complex",
        holds=lambda value: value in HEADS,
    ),
    "model.dtype": Key("float32", "type of the computation; parameters stay float32", **_one_of("float32", "bfloat16")),
    "model.remat": Key(False, "recompute activations in the backward pass: less memory, a third more time"),
    "loss.prediction": Key("eps", "what the network outputs", **_one_of(*PREDICTIONS)),
    "loss.objective": Key(
        "simple",
        "simple (DDPM), hybrid (Improved DDPM), head (SN- and NPR-DPM) or a term of the bound",
        **_one_of(*OBJECTIVES),
    ),
    "loss.variance": Key(
        "small",
        "reverse variance of the bound, or what a head predicts; all but small and large double the network's outputs",
        **_one_of(*FIXED_VARIANCES, *LEARNED_VARIANCES, *HEAD_VARIANCES),
    ),
    "loss.vlb_weight": Key(
        0.001, "weight of the bound, in bits/dim, in hybrid", limit="at least 0", holds=lambda w: 0 <= w < math.inf
    ),
    "loss.times": Key("uniform", "how times are drawn", **_one_of(*TIME_SAMPLERS)),
    "loss.reduction": Key("mean", "of an image's squared errors in simple; IHDM sums", **_one_of("mean", "sum")),
    "loss.last_level": Key(True, "train at T too, where sampling starts; IHDM's released code does not"),
    "train.backbone": Key(
        "", "folder of a run whose averaged weights are used and stay as they are; only model.head is trained"
    ),
    "train.init_from": Key(
        "", "run whose averaged weights this one starts from, as FOLDER or FOLDER:STEP; empty: random weights"
    ),
    "train.num_steps": Key(800_000, "training steps", **_at_least(1)),
    "train.batch_size": Key(128, "images a step, over all devices", **_at_least(1)),
    "train.accumulation": Key(
        1, "parts that a device's batch is split into; their gradients are averaged", **_at_least(1)
    ),
    "train.learning_rate": Key(2e-4, "of Adam", limit="above 0 and finite", holds=lambda value: 0 < value < math.inf),
    "train.warmup_steps": Key(5000, "steps over which the learning rate rises from 0", **_at_least(0)),
    "train.clip_norm": Key(1.0, "limit of the gradient's global norm; 0: none", **_at_least(0)),
    "train.ema_decay": Key(0.9999, "decay of the averaged weights", **_between(0, 1)),
    "train.ema_warmup": Key(False, "use the smaller decay (1 + n) / (10 + n) at the n-th step while it is smaller"),
    "train.steps_per_call": Key(0, "most steps in one compiled call; 0: 1 on CPU, up to 50 elsewhere", **_at_least(0)),
    "train.log_every": Key(100, "steps between lines of metrics", **_at_least(1)),
    "train.checkpoint_every": Key(5000, "steps between checkpoints", **_at_least(1)),
    "train.keep_checkpoints": Key(3, "newest checkpoints to keep", **_at_least(1)),
    "train.sample_every": Key(25_000, "steps between grids of samples", **_at_least(1)),
    **{f"sample.{name}": key for name, key in SAMPLING.items()},
}

# Keys that name a folder.
PATHS = ("data.dir", "data.cache_dir", "train.backbone", "train.init_from")

# A run that has checkpoints may resume with other values of these: they do not decide the state after N steps.
CHANGEABLE = (
    "data.memory_mib",
    "data.disk_mib",
    "data.cache_dir",
    "train.num_steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
)
CHANGEABLE_GROUPS = ("sample.", "data.dir")
# And of these: they decide how a state is reached, not what it is. Such a change is recorded.
ADJUSTABLE = (
    "model.dropout",
    "model.dtype",
    "model.remat",
    "train.batch_size",
    "train.accumulation",
    "train.learning_rate",
    "train.warmup_steps",
    "train.clip_norm",
    "train.ema_decay",
    "train.ema_warmup",
    "train.steps_per_call",
)
