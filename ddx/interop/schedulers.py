"""Schedulers of diffusers: the noise schedule, and the way it samples, as settings of ddx."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddx.config.sampling import MOST_TIMES
from ddx.diffusion.forward import betas
from ddx.interop.options import Options
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import Path

_SHARED: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
_CLIPS = {"clip_sample": True, "clip_sample_range": 1.0}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": _SHARED | _CLIPS | {"variance_type": "fixed_small"},
    "DDIMScheduler": _SHARED | _CLIPS | {"set_alpha_to_one": True},
    "DPMSolverMultistepScheduler": _SHARED
    | {
        "timestep_spacing": "linspace",
        "solver_order": 2,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "flow_shift": 1.0,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": float("-inf"),
        "variance_type": None,
        "use_dynamic_shifting": False,
        "time_shift_type": "exponential",
    },
}
# Of old files, and of the other schedulers: a scheduler that was made from another's file keeps that one's options.
_IGNORED = (
    *("timestep_values", "tensor_format", "disable_corrector", "interpolation_type", "predict_x0", "rho"),
    *("shift_terminal", "sigma_data", "sigma_max", "sigma_min", "sigma_schedule", "skip_prk_steps", "solver_p"),
    *("timestep_type", *(option for options in _DEFAULTS.values() for option in options)),
)

_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "range",
}
_SPACINGS = ("leading", "trailing", "linspace")
_STEPS = 50


def apply(path: Path, config: ConfigDict, doubled: bool) -> None:
    """Write the process, the prediction and the sampler of a scheduler's file into a config.

    Args:
      path: its scheduler_config.json.
      config: the config, which is changed.
      doubled: whether the network has further channels, which tell the variance.

    Raises:
      ConfigError: ddx has no such scheduler, or not with these options.
      CheckpointError: the file cannot be read.
    """
    o = Options(path, _SHARED | {"_class_name": "DDPMScheduler"}, _IGNORED)
    name = o["_class_name"]
    if name not in _DEFAULTS:
        raise o.refused("_class_name", f"it must be {' or '.join(_DEFAULTS)}", "Write one of them there")
    o = Options(path, _DEFAULTS[name], _IGNORED)
    o.refuse_unknown()
    o.need("thresholding", False)
    o.need("prediction_type", *_PREDICTIONS)
    o.need("timestep_spacing", *_SPACINGS)
    process, sample, loss = config.process, config.sample, config.loss
    process.kind, process.rescale_time, process.first_time = "ddpm", False, 0
    process.num_steps, process.schedule, process.zero_terminal_snr = _schedule(o)
    loss.prediction = _PREDICTIONS[o["prediction_type"]]
    loss.objective, loss.variance = ("hybrid", "range") if doubled else ("simple", "small")
    loss.times, loss.last_level, loss.reduction = "uniform", True, "mean"
    offset = o.typed("steps_offset", int, 0) if o["timestep_spacing"] == "leading" else 0
    sample.num_steps = min(_STEPS, max(1, process.num_steps - 1))
    sample.trajectory = o["timestep_spacing"] + (f"+{offset}" if offset else "")
    sample.solver, sample.eta, sample.variance = "euler", 0.0, "small"
    sample.keep_eps, sample.end, sample.noisy_end = False, 0, False
    {
        "DDPMScheduler": _ddpm,
        "DDIMScheduler": _ddim,
        "DPMSolverMultistepScheduler": _dpm,
    }[name](o, config, doubled)


def _ddpm(o: Options, config: ConfigDict, doubled: bool) -> None:
    o.need("variance_type", *_VARIANCES)  # its "learned" is a variance, where ddx has a logarithm
    variance = _VARIANCES[o["variance_type"]]
    if (variance == "range") != doubled:
        channels = "twice the channels of an image" if doubled else "no channels for it"
        raise o.refused("variance_type", f"the network has {channels}")
    config.sample.sampler, config.sample.variance, config.sample.clip = "ancestral", variance, _clip(o)
    config.loss.variance = variance
    if not o["steps_offset"]:
        config.sample.num_steps = 0  # all times


def _ddim(o: Options, config: ConfigDict, doubled: bool) -> None:
    if doubled:
        raise o.refused("_class_name", "the network's further channels are a variance, which only DDPMScheduler takes")
    o.need("set_alpha_to_one", True, False)
    config.sample.sampler, config.sample.clip = "ddim", _clip(o)
    config.sample.keep_eps = config.sample.clip
    config.sample.end = 0 if o["set_alpha_to_one"] else 1


def _dpm(o: Options, config: ConfigDict, doubled: bool) -> None:
    if doubled:
        o.need("variance_type", "learned_range")
    else:
        o.need("variance_type", None)
    o.need("algorithm_type", "dpmsolver++", "sde-dpmsolver++")
    o.need("solver_type", "midpoint")
    o.need("final_sigmas_type", "zero")
    for name in (*(f"use_{kind}_sigmas" for kind in ("karras", "exponential", "beta", "flow")), "use_lu_lambdas"):
        o.need(name, False)
    o.need("use_dynamic_shifting", False)
    if o["lambda_min_clipped"] not in (float("-inf"), "-Infinity", None):
        raise o.refused("lambda_min_clipped", "no time is left out")
    stochastic = o["algorithm_type"].startswith("sde")
    o.need("solver_order", *((1, 2) if stochastic else (1, 2, 3)))
    config.sample.solver = {1: "euler", 2: "dpmpp_2m", 3: "dpmpp_3m"}[o["solver_order"]]
    config.sample.sampler, config.sample.eta, config.sample.clip = "ddim", float(stochastic), False
    if o["timestep_spacing"] != "trailing":
        config.sample.trajectory = f"dpm_{config.sample.trajectory}"


def _clip(o: Options) -> bool:
    o.need("clip_sample", True, False)
    if o["clip_sample"]:
        o.need("clip_sample_range", 1)
    return bool(o["clip_sample"])


def _schedule(o: Options) -> tuple[int, str, bool]:
    """The schedule of `ddx.diffusion.forward.betas` that has these betas.

    Returns:
      The number of noise levels, the name of the schedule, and whether its betas are rescaled to zero terminal SNR.
    """
    if o["trained_betas"] is None:
        num_steps = o.typed("num_train_timesteps", int)
        if num_steps > MOST_TIMES:
            raise o.refused("num_train_timesteps", f"it must be at most {MOST_TIMES:,}")
        named, saved = "beta_schedule", _betas(o, num_steps)
    else:
        try:
            named, saved = "trained_betas", np.asarray(o["trained_betas"], np.float64).reshape(-1)
        except (TypeError, ValueError):
            raise o.refused("trained_betas", "it must be a list of numbers") from None
    o.need("rescale_betas_zero_snr", True, False)
    for name in betas.SCHEDULES:
        try:
            ours = betas.betas(name, len(saved))
        except ValueError:  # not with so few steps
            continue
        if np.allclose(ours, saved, rtol=1e-5, atol=0):
            return len(saved), name, o["rescale_betas_zero_snr"]
    ends = "" if named == "trained_betas" else f" with beta_start={o['beta_start']}, beta_end={o['beta_end']}"
    raise o.refused(named, f"no process.schedule has {len(saved)} such betas{ends}")


def _betas(o: Options, num_steps: int) -> np.ndarray:
    kind, first, last = o["beta_schedule"], o["beta_start"], o["beta_end"]
    if kind == "squaredcos_cap_v2":
        return betas.betas("cosine", num_steps)
    if not all(isinstance(beta, int | float) and 0 < beta < 1 for beta in (first, last)):
        raise ConfigError(f"{o.path}: beta_start={first!r}, beta_end={last!r} are no betas. Write numbers there")
    if kind == "linear":
        return np.linspace(first, last, num_steps)
    if kind == "scaled_linear":
        return np.linspace(first**0.5, last**0.5, num_steps) ** 2
    if kind == "sigmoid":
        return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, num_steps)))
    raise o.refused("beta_schedule", "only linear, scaled_linear, squaredcos_cap_v2 and sigmoid are")


def describe(config: ConfigDict) -> dict[str, Any]:
    """The options of a scheduler of diffusers that has a config's process, and samples as the config does if it can.

    Raises:
      ConfigError: diffusers has no such process or prediction.
    """
    p, s, predictions = config.process, config.sample, {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    for key, value, wanted in (
        ("process.kind", p.kind, ("ddpm",)),
        ("process.noise", p.noise, ("white",)),
        ("process.rescale_time", p.rescale_time, (False,)),
        ("process.first_time", p.first_time, (0,)),
        ("loss.prediction", config.loss.prediction, tuple(predictions)),
        ("loss.variance", config.loss.variance, ("small", "large", "range")),
        ("data.low", config.data.low, (-1,)),
    ):
        if value not in wanted:
            raise ConfigError(f"diffusers has nothing for {key}={value!r}. Use --to=safetensors")
    values = betas.betas(p.schedule, p.num_steps)
    # Where nothing is left of the data at T, "leading" would start later than samples have to.
    spacing = s.trajectory if s.trajectory in _SPACINGS else "trailing" if p.zero_terminal_snr else "leading"
    shared = (
        _SHARED
        | _CLIPS
        | {
            "num_train_timesteps": p.num_steps,
            "prediction_type": predictions[config.loss.prediction],
            "timestep_spacing": spacing,
            "rescale_betas_zero_snr": bool(p.zero_terminal_snr),
            "clip_sample": bool(s.clip),
        }
    )
    if p.schedule == "cosine":
        shared["beta_schedule"] = "squaredcos_cap_v2"
    elif p.schedule == "linear":
        shared |= {"beta_start": float(values[0]), "beta_end": float(values[-1])}
    else:
        shared["trained_betas"] = values.tolist()
    if s.sampler == "ddim" and config.loss.variance != "range":
        return shared | {"_class_name": "DDIMScheduler", "set_alpha_to_one": not s.end}
    variance = {"small": "fixed_small", "large": "fixed_large", "range": "learned_range"}
    named = config.loss.variance
    if s.sampler == "ancestral" and s.variance in variance and named != "range":  # whose outputs only it can read
        named = s.variance
    return shared | {"_class_name": "DDPMScheduler", "variance_type": variance[named]}
