"""Config values that are fine alone and impossible together."""

import math
import warnings
from typing import Any

import numpy as np

from ddx.diffusion.catalogue import HEAD_VARIANCES, LEARNED_VARIANCES, STOCHASTIC_SOLVERS, X_0_PREDICTIONS, why_not
from ddx.diffusion.forward import betas
from ddx.diffusion.reverse.trajectory import trajectory
from ddx.runtime.errors import ConfigError

MOST_WEIGHTS = 10**11  # of a network: 400 GB
MOST_VALUES = 2**33  # of images at once: 32 GiB as floats


def check_together(c: dict[str, Any]) -> None:
    """Refuse values, {"train.batch_size": 128, ...} for all keys, that cannot go together."""
    for multiplier in (1, *c["model.multipliers"]):
        if c["model.channels"] * multiplier % c["model.groups"]:
            raise ConfigError(
                f"model.channels={c['model.channels']}, alone and times model.multipliers={c['model.multipliers']},"
                f" must be a multiple of model.groups={c['model.groups']}"
            )
    if c["model.head_channels"] and c["model.num_heads"] != 1:
        raise ConfigError(
            f"model.head_channels={c['model.head_channels']} and model.num_heads={c['model.num_heads']} both say how"
            " many heads there are; leave one out"
        )
    heads = _heads({"num_heads": c["model.num_heads"], "head_channels": c["model.head_channels"]})
    if c["model.channels"] * c["model.multipliers"][-1] % heads[1]:  # the middle attends
        raise ConfigError(
            f"model.{heads[0]}={heads[1]} must divide the {c['model.channels'] * c['model.multipliers'][-1]}"
            " channels of the last level; use another number"
        )
    weights = sum(18 * c["model.num_blocks"] * (c["model.channels"] * m) ** 2 for m in c["model.multipliers"])
    if weights > MOST_WEIGHTS:
        raise ConfigError(
            f"model.channels={c['model.channels']} with model.multipliers={c['model.multipliers']} and"
            f" model.num_blocks={c['model.num_blocks']} makes more than {weights:.1e} weights; use less of one of them"
        )
    if size := c["data.image_size"]:
        model = {key.removeprefix("model."): value for key, value in c.items() if key.startswith("model.")}
        height, width = size if isinstance(size, tuple) else (size, size)
        check_image_size(height, width, model, "images of data.image_size")
        check_sizes(c, (height, width, c["data.channels"] or 1))
    if c["data.name"] in ("folder", "array") and not c["data.dir"]:
        what = {"folder": "folder", "array": ".npy or .npz file"}[c["data.name"]]
        raise ConfigError(f"data.name={c['data.name']!r} needs the {what}: set data.dir")
    {"ddpm": _check_betas, "blurring": _check_blurring, "ihdm": _check_ihdm}[c["process.kind"]](c)
    if c["process.kind"] != "ihdm" and not c["loss.last_level"]:
        raise ConfigError("loss.last_level=False is IHDM's released code; set process.kind='ihdm', or leave it True")
    if c["process.kind"] != "ddpm" and c["process.first_time"]:
        raise ConfigError(
            f"process.first_time=1 is of process.kind='ddpm', not {c['process.kind']!r}, which has its own; leave it 0"
        )
    if c["loss.reduction"] == "sum" and c["loss.objective"] != "simple":
        raise ConfigError(
            f"loss.reduction='sum' belongs to loss.objective='simple', not {c['loss.objective']!r}. Use mean"
        )
    if c["loss.objective"] == "hybrid" and c["loss.variance"] not in LEARNED_VARIANCES:
        raise ConfigError(
            f"loss.objective='hybrid' trains a learned variance, and loss.variance={c['loss.variance']!r} is fixed; set"
            " loss.variance='range', or use simple"
        )
    if c["loss.objective"] == "simple" and c["loss.variance"] in LEARNED_VARIANCES:
        raise ConfigError(
            f"loss.objective='simple' does not train loss.variance={c['loss.variance']!r}; use hybrid or rescaled_kl"
        )
    _check_head(c)
    if c["train.batch_size"] % c["train.accumulation"]:
        raise ConfigError(
            f"train.batch_size={c['train.batch_size']} must be a multiple of"
            f" train.accumulation={c['train.accumulation']}"
        )
    _check_sampling({key.removeprefix("sample."): value for key, value in c.items() if key.startswith("sample.")}, c)


def _check_head(c: dict[str, Any]) -> None:
    variance, objective = c["loss.variance"], c["loss.objective"]
    if (objective == "head") != (variance in HEAD_VARIANCES):
        raise ConfigError(
            f"loss.objective={objective!r} with loss.variance={variance!r}: objective head trains what sn or npr is"
            " from, and nothing else does; set both or neither"
        )
    if objective == "head" and c["loss.prediction"] not in X_0_PREDICTIONS:
        raise ConfigError(
            f"loss.objective='head' belongs to a loss.prediction of {', '.join(X_0_PREDICTIONS)}, not"
            f" {c['loss.prediction']!r}; use one of them"
        )
    if c["model.head"] and variance not in (*HEAD_VARIANCES, *LEARNED_VARIANCES):
        raise ConfigError(
            f"model.head={c['model.head']!r} has nothing to output with loss.variance={variance!r}; set it to npr, sn,"
            " learned or range, or model.head=''"
        )
    if c["train.backbone"] and not c["model.head"]:
        raise ConfigError("train.backbone trains model.head alone; set model.head='simple' or 'complex'")
    if c["train.backbone"] and c["train.init_from"]:
        raise ConfigError(
            "train.backbone and train.init_from are two ways to take another run's weights; set one of them"
        )
    if c["train.backbone"] and c["model.dropout"]:
        raise ConfigError(
            f"train.backbone with model.dropout={c['model.dropout']} would show the head another network than samplers"
            " use; set model.dropout=0.0"
        )


def _check_betas(c: dict[str, Any]) -> None:
    try:
        found = betas.betas(c["process.schedule"], c["process.num_steps"])
    except ValueError as error:
        raise ConfigError(f"process: {error}") from None
    forgets = bool(found[-1] == 1)
    told = f" with process.schedule={c['process.schedule']!r}, which ends without signal," * forgets
    _check_prediction(c, told, continuous=False, blurs=False, forgets=forgets)


def _check_prediction(c: dict[str, Any], told: str, *, continuous: bool, blurs: bool, forgets: bool) -> None:
    refused = why_not(c["loss.prediction"], continuous=continuous, blurs=blurs, forgets=forgets)
    if refused:
        raise ConfigError(f"loss.prediction={c['loss.prediction']!r}{told} {refused}")


def tells_x_0(c: dict[str, Any]) -> bool:
    """Whether a network tells x_0 at all times: under a blur eps does not."""
    blurs = c["process.kind"] == "blurring" and c["process.sigma_blur_max"] > 0
    return not (blurs and c["loss.prediction"] == "eps")


def _check_blurring(c: dict[str, Any]) -> None:
    if c["process.logsnr_min"] >= c["process.logsnr_max"]:
        raise ConfigError(
            f"process.logsnr_min={c['process.logsnr_min']} must be below process.logsnr_max={c['process.logsnr_max']}"
        )
    blurs = c["process.sigma_blur_max"] > 0
    forgets = blurs and c["process.d_min"] < 1e-12
    told = f" with process.d_min={c['process.d_min']}" * forgets
    _check_prediction(c, told, continuous=True, blurs=blurs, forgets=forgets)
    if c["sample.clip"] and not tells_x_0(c):
        raise ConfigError(
            "sample.clip=True would clip an x_0 that loss.prediction='eps' does not tell under a blur; set"
            " sample.clip=False, or use 'v'"
        )


def _check_ihdm(c: dict[str, Any]) -> None:
    if c["process.sigma_blur_min"] > c["process.sigma_blur_max"]:
        raise ConfigError(
            f"process.sigma_blur_min={c['process.sigma_blur_min']} must be at most"
            f" process.sigma_blur_max={c['process.sigma_blur_max']}"
        )
    _check_prediction(c, " with process.kind='ihdm'", continuous=False, blurs=True, forgets=True)
    if c["process.num_steps"] < 2 and not c["loss.last_level"]:
        raise ConfigError("loss.last_level=False leaves no level of process.num_steps=1 to train; use more")


def _check_sampling(s: dict[str, Any], c: dict[str, Any]) -> None:
    if s["num_steps"] > c["process.num_steps"]:
        raise ConfigError(
            f"sample.num_steps={s['num_steps']} exceeds process.num_steps={c['process.num_steps']};"
            " there are no more times: use at most so many"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sampler itself tells of dropped times
        try:
            times = trajectory(c["process.num_steps"], s["num_steps"] or None, s["trajectory"])
        except ValueError as error:
            raise ConfigError(f"sample.trajectory={s['trajectory']!r} with {s['num_steps']} steps: {error}") from None
    if s["sampler"] == "heat":
        _check_heat(s, c)
    elif s["sampler"] == "ddim" and s["eta"] > 1 and c["process.kind"] == "ddpm":
        _check_eta(s["eta"], betas.betas(c["process.schedule"], c["process.num_steps"]), times)
    noisy = s["sampler"] == "ancestral" or s["eta"] > 0
    if s["solver"] not in STOCHASTIC_SOLVERS and noisy:
        raise ConfigError(
            f"sample.solver={s['solver']!r} solves an equation without noise; set sample.sampler='ddim' and"
            " sample.eta=0, or use dpmpp_2m"
        )
    if s["variance"] in LEARNED_VARIANCES and s["variance"] != c["loss.variance"]:
        raise ConfigError(
            f"sample.variance={s['variance']!r} needs a network trained with loss.variance={s['variance']!r},"
            f" not {c['loss.variance']!r}"
        )
    if s["solver"] != "euler" and s["sampler"] == "ancestral" and s["variance"] != "small":
        raise ConfigError(f"sample.solver={s['solver']!r} needs sample.variance='small', not {s['variance']!r}")


def _check_eta(eta: float, found: np.ndarray, times: tuple[int, ...]) -> None:
    """Refuse an eta whose steps would add more noise than there is, as `ddx.step_coefficients` does."""
    alpha_bar = np.cumprod(1.0 - found)[np.asarray(times[:-1], int) - 1]  # at the times that are visited, but for 0
    snr = alpha_bar / (1.0 - alpha_bar)
    lost = float(np.max(1.0 - snr[:-1] / snr[1:], initial=0.0))
    if eta**2 * lost > 1 + 1e-9:
        raise ConfigError(
            f"sample.eta={eta:g} adds more noise than there is; use at most"
            f" {math.floor(lost**-0.5 * 1e4) / 1e4:g} for these steps"
        )


def _check_heat(s: dict[str, Any], c: dict[str, Any]) -> None:
    if c["process.kind"] != "ihdm" or c["loss.prediction"] != "residual":
        raise ConfigError(
            "sample.sampler='heat' needs process.kind='ihdm' and loss.prediction='residual', not"
            f" {c['process.kind']!r} and {c['loss.prediction']!r}; use ddim or ancestral"
        )
    if s["num_steps"] not in (0, c["process.num_steps"]) or s["trajectory"] not in ("full", "uniform"):
        raise ConfigError("sample.sampler='heat' goes through all levels; set sample.num_steps=0, trajectory='full'")
    if s["end"]:
        raise ConfigError("sample.sampler='heat' goes down to the data; set sample.end=0")
    if s["solver"] != "euler" or s["clip"]:
        raise ConfigError(
            "sample.sampler='heat' has no solver and clips nothing; set sample.solver='euler', clip=False"
        )


def check_sizes(c: dict[str, Any], image_shape: tuple[int, int, int]) -> None:
    """Refuse more images (H, W, C) at once than any host has memory for."""
    height, width, channels = image_shape
    each = height * width * channels
    for key, count in {
        "train.batch_size": c["train.batch_size"],
        "sample.batch_size": c["sample.batch_size"],
        "sample.num_images": c["sample.num_images"],
        "train.steps_per_call": c["train.steps_per_call"] * c["train.batch_size"],
    }.items():
        if count * each > MOST_VALUES:
            batches = " batches" * (key == "train.steps_per_call")
            raise ConfigError(
                f"{key}={c[key]:,}{batches} of images of {height} x {width} x {channels} do not fit into any memory;"
                f" use at most {MOST_VALUES // each // (c['train.batch_size'] if batches else 1):,}"
            )


def check_image_size(height: int, width: int, model: dict[str, Any], where: str) -> None:
    """Refuse images that a U-Net cannot halve, shrink to its low resolution, or attend to as its settings say."""
    levels, low_res = len(model["multipliers"]), model["low_res"]
    factor = 2 ** (levels - 1)
    if height % factor or width % factor:
        raise ConfigError(
            f"{where} {height} x {width}: both must be multiples of {factor}, to be halved {levels - 1} times"
            " (model.multipliers); set data.image_size"
        )
    if low_res and (height % low_res or width * low_res % height or low_res == height):
        raise ConfigError(
            f"model.low_res={low_res} is no whole fraction of {where} {height} x {width}; use {height // 2}, say"
        )
    reached = [height >> level for level in range(levels)]
    for resolution in model["attention_resolutions"]:
        if resolution not in reached:
            raise ConfigError(
                f"model.attention_resolutions has {resolution}, which {where} {height} x {width} never reach;"
                f" set it to some of {reached}"
            )
    for resolution in (*model["attention_resolutions"], reached[-1]):  # the middle attends too
        channels = model["channels"] * model["multipliers"][reached.index(resolution)]
        key, number = _heads(model)
        if channels % number:
            raise ConfigError(
                f"model.{key}={number} does not divide the {channels} channels at the attention"
                f" resolution {resolution}; use another number"
            )


def _heads(model: dict[str, Any]) -> tuple[str, int]:
    """The key that says how channels are shared among heads, and its value: both must divide the channels."""
    key = "head_channels" if model["head_channels"] else "num_heads"
    return key, model[key]
