"""The settings of sampling, one row each, and the papers' own.

The rows make the keys `sample.*` of a config, the flags of `launch.sample`, what `ddx.sampling` accepts, and the names
of its folders. A new setting is a row here and its use in `make_sampler` of
`ddx/sampling/sampler.py`; what does not go together is in `ddx/config/sampling_rules.py`.
"""

from typing import Any

from ddx.config.key import Key, one_of, within
from ddx.diffusion.catalogue import (
    FIXED_VARIANCES,
    LEARNED_VARIANCES,
    MEASURED_SOLVERS,
    OPTIMAL_VARIANCES,
    PROBED_VARIANCES,
    SOLVERS,
)


def _walks(s: Any) -> bool:
    """Whether a sampler may take its steps in more than one way; heat goes through all levels."""
    return bool(s.sampler != "heat")


def keeps_eps(s: Any) -> bool:
    """Whether settings are of a sampler that takes a step with a clipped x_0 and an eps that does not agree with it."""
    return bool(s.sampler == "ddim" and s.solver == "euler" and s.clip)


def _guided(s: Any) -> str:
    """The tag of guidance."""
    return "" if s.guidance == 1 else "_".join([f"_guidance{s.guidance:g}", *map(str, s.guidance_interval)])


MOST_TIMES = 100_000  # noise levels of a process, and steps of a sample
MOST_SAMPLES = 10_000_000  # of a job
WEIGHTS = ("ema", "raw")  # averaged, or as the last training step left them

SAMPLING: dict[str, Key] = {
    "sampler": Key(
        "ddim", "way to draw samples; heat is IHDM's", **one_of("ddim", "ancestral", "heat"), tag=lambda s: s.sampler
    ),
    "num_steps": Key(
        50,
        "steps a sample; 0: all T, or as many as the trajectory says",
        **within(0, MOST_TIMES),
        tag=lambda s: str(s.num_steps or "") if _walks(s) else "",
    ),
    "trajectory": Key(
        "uniform",
        "times to visit: uniform, quad, even, leading, trailing, linspace, karras, logsnr, ddim50, 10,20,30, ...",
        tag=lambda s: "_" + s.trajectory.replace(":", "").replace(",", "-")[:40] if _walks(s) else "",
    ),
    "eta": Key(
        0.0,
        "stochasticity of ddim; 0 is deterministic, 1 is DDPM",
        **within(0, 100),
        tag=lambda s: f"_eta{s.eta:g}" if s.sampler == "ddim" else "",
    ),
    "variance": Key(
        "small",
        "reverse variance of the ancestral sampler",
        **one_of(*FIXED_VARIANCES, *LEARNED_VARIANCES),
        also=OPTIMAL_VARIANCES,
        tag=lambda s: f"_{s.variance}" if s.sampler == "ancestral" or s.variance in OPTIMAL_VARIANCES else "",
    ),
    "probes": Key(
        4,
        "draws of random signs at a step, each a further evaluation, of the variances ocm_probes, ocm_probes_frequency",
        **within(1, 10_000),
        tag=lambda s: f"{s.probes}" if s.variance in PROBED_VARIANCES else "",
    ),
    "solver": Key(
        "euler",
        "way to take a step: euler is DDIM and DDPM, the others have a higher order",
        **one_of(*SOLVERS),
        also=MEASURED_SOLVERS,
        tag=lambda s: f"_{s.solver}" if s.solver != "euler" else "",
    ),
    "clip": Key(
        True,
        "clipping of the estimate of x_0 to the range of the data",
        tag=lambda s: "" if s.clip or not _walks(s) else "_unclipped",
    ),
    "keep_eps": Key(
        False,
        "the network's own eps beside a clipped x_0 in ddim with solver euler, as diffusers has it by default",
        tag=lambda s: "_kept_eps" if s.keep_eps and keeps_eps(s) else "",
    ),
    "clip_percentile": Key(
        0.0,
        "percentile of abs(x_0) at which clip limits each image, then scaled to the range of the data: Imagen's dynamic"
        " thresholding; 0: the range itself",
        **within(0, 100),
        tag=lambda s: f"_threshold{s.clip_percentile:g}" if s.clip_percentile and s.clip else "",
    ),
    "guidance": Key(
        1.0,
        "scale of classifier-free guidance, for a network trained with model.label_dropout; 1 is none, 0 leaves the"
        " class out",
        **within(0, 1000),
        tag=_guided,
    ),
    "guidance_interval": Key(
        (),
        "times between which to guide, such as 100,700, both included; empty: all",
        limit=f"empty or two numbers, the lower first, at least 0 and at most {MOST_TIMES:,}",
        holds=lambda value: not value or (len(value) == 2 and 0 <= value[0] <= value[1] <= MOST_TIMES),
    ),
    "end": Key(
        0,
        "time to end at: 0, the data, or 1, where diffusers ends with set_alpha_to_one=False",
        limit="0 or 1",
        holds=lambda value: value in (0, 1),
        tag=lambda s: "_end1" if s.end and _walks(s) else "",
    ),
    "delta": Key(
        0.0125,
        "noise of the steps and the prior of ihdm",
        **within(0, 100),
        tag=lambda s: "" if _walks(s) else f"_delta{s.delta:g}",
    ),
    "prior_noise": Key(
        True,
        "noise on the blurred images that ihdm starts from; its released code adds none",
        tag=lambda s: "" if _walks(s) or s.prior_noise else "_noiseless_prior",
    ),
    "noisy_end": Key(
        False,
        "noise of the last step, added as in Blurring Diffusion's printed algorithm",
        tag=lambda s: "_noisy_end" if s.noisy_end else "",
    ),
    "weights": Key(
        "ema",
        "weights of the network: ema, averaged, or raw, as the last training step left them",
        **one_of(*WEIGHTS),
        tag=lambda s: "" if s.weights == "ema" else f"_{s.weights}",
    ),
    "num_images": Key(64, "images in a grid during training", **within(1, 10_000), is_flag=False),
    "batch_size": Key(64, "images sampled at once", **within(1, 1_000_000)),
}


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
