"""Config values that are fine alone and impossible together."""

from typing import Any

from ddx.config.keys import KEYS
from ddx.config.model_rules import check_model
from ddx.config.sampling_rules import check_sampling, tells_x_0
from ddx.diffusion.catalogue import HEAD_VARIANCES, LEARNED_VARIANCES, X_0_PREDICTIONS, why_not
from ddx.diffusion.forward import betas
from ddx.runtime.errors import ConfigError


def check_together(c: dict[str, Any]) -> None:
    """Refuse values, {"train.batch_size": 128, ...} for all keys, that cannot go together."""
    check_model(c)
    if c["data.name"] in ("folder", "array") and not c["data.dir"]:
        what = {"folder": "folder", "array": ".npy or .npz file"}[c["data.name"]]
        raise ConfigError(f"data.name={c['data.name']!r} needs the {what}: set data.dir")
    {"ddpm": _check_betas, "blurring": _check_blurring, "ihdm": _check_ihdm, "rectified_flow": _check_flow}[
        c["process.kind"]
    ](c)
    _check_weighting(c)
    _check_noise(c)
    if c["process.kind"] != "ihdm" and not c["loss.last_level"]:
        raise ConfigError("loss.last_level=False is IHDM's released code; set process.kind='ihdm', or leave it True")
    if c["process.kind"] != "ddpm" and c["process.zero_terminal_snr"]:
        raise ConfigError(
            f"process.zero_terminal_snr=True rescales betas, and process.kind={c['process.kind']!r} has none; leave it"
            " False"
        )
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
    check_sampling(c)


_OF_NOISE = {"power": ("power",), "band": ("low", "high", "floor")}


def _check_noise(c: dict[str, Any]) -> None:
    """Refuse a colour that the process cannot have, and settings of another."""
    noise = c["process.noise"]
    others = [f"process.noise_{name}" for of, names in _OF_NOISE.items() if of != noise for name in names]
    if changed := [key for key in others if c[key] != KEYS[key].default]:
        raise ConfigError(
            f"{changed[0]}={c[changed[0]]} says nothing of process.noise={noise!r}; leave it out, or set process.noise="
            f"{'power' if changed[0].endswith('power') else 'band'}"
        )
    if noise != "white" and c["process.kind"] == "ihdm":
        raise ConfigError(
            f"process.noise={noise!r}: samples of process.kind='ihdm' start from images, not from noise; use white"
        )
    if noise == "band" and c["process.noise_low"] >= c["process.noise_high"]:
        raise ConfigError(
            f"process.noise_low={c['process.noise_low']} must be below process.noise_high={c['process.noise_high']}"
        )


def _check_weighting(c: dict[str, Any]) -> None:
    """Refuse a weight, or a density of times, that the objective cannot have."""
    weighted, by_noise = c["loss.weight"] != "none", c["loss.times"] == "lognormal"
    key = "loss.weight" if weighted else "loss.times"
    if (weighted or by_noise) and c["loss.objective"] in ("kl", "rescaled_kl"):
        raise ConfigError(
            f"{key}={c[key]!r} would weight loss.objective={c['loss.objective']!r}, which is then no bound; use"
            f" {'none' if weighted else 'low_discrepancy'}, or simple or hybrid"
        )
    if weighted and c["loss.prediction"] not in X_0_PREDICTIONS:
        raise ConfigError(
            f"loss.weight={c['loss.weight']!r} is of the error of x_0, which is none of loss.prediction="
            f"{c['loss.prediction']!r}; use none, or a prediction of {', '.join(X_0_PREDICTIONS)}"
        )
    if by_noise and c["process.kind"] == "ihdm":
        raise ConfigError(
            "loss.times='lognormal' needs noise that grows with t, and the noise of process.kind='ihdm' does not; use"
            " uniform"
        )


def _check_last_level(c: dict[str, Any]) -> None:
    """Refuse what never trains a last level without signal, from which samples start."""
    for key, without in (("loss.weight", ("min_snr", "p2")), ("loss.times", ("lognormal",))):
        if c[key] in without:
            raise ConfigError(
                f"{key}={c[key]!r} leaves out the level T, where nothing is left of the data and samples start; use"
                f" {'edm or constant' if key == 'loss.weight' else 'uniform'}"
            )


def _check_head(c: dict[str, Any]) -> None:
    variance, objective = c["loss.variance"], c["loss.objective"]
    if (objective == "head") != (variance in HEAD_VARIANCES):
        raise ConfigError(
            f"loss.objective={objective!r} with loss.variance={variance!r}: objective head trains what sn, npr, ocm or"
            " ocm_frequency is from, and nothing else does; set both or neither"
        )
    if objective == "head" and c["loss.prediction"] not in X_0_PREDICTIONS:
        raise ConfigError(
            f"loss.objective='head' belongs to a loss.prediction of {', '.join(X_0_PREDICTIONS)}, not"
            f" {c['loss.prediction']!r}; use one of them"
        )
    if c["model.head"] and variance not in (*HEAD_VARIANCES, *LEARNED_VARIANCES):
        raise ConfigError(
            f"model.head={c['model.head']!r} has nothing to output with loss.variance={variance!r}; set it to npr, sn,"
            " ocm, ocm_frequency, learned or range, or model.head=''"
        )
    for key, others in (("process.kind", ("blurring", "ihdm")), ("process.noise", ("power", "band", "equal_snr"))):
        if variance == "ocm_frequency" and c[key] in others:
            raise ConfigError(
                f"loss.variance='ocm_frequency' with {key}={c[key]!r}, which works in frequencies anyway; use ocm"
            )
    if c["train.backbone"] and not c["model.head"]:
        raise ConfigError("train.backbone trains model.head alone; set model.head='simple', 'complex' or 'dense'")
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
        found = betas.betas(c["process.schedule"], c["process.num_steps"], c["process.zero_terminal_snr"])
    except ValueError as error:
        raise ConfigError(f"process: {error}") from None
    forgets = bool(found[-1] == 1)
    key = "process.zero_terminal_snr" if c["process.zero_terminal_snr"] else "process.schedule"
    told = f" with {key}={c[key]!r}, which ends without signal," * forgets
    _check_prediction(c, told, continuous=False, blurs=False, forgets=forgets)
    if forgets:
        _check_last_level(c)


def _check_prediction(c: dict[str, Any], told: str, *, continuous: bool, blurs: bool, forgets: bool) -> None:
    refused = why_not(c["loss.prediction"], continuous=continuous, blurs=blurs, forgets=forgets)
    if refused:
        raise ConfigError(f"loss.prediction={c['loss.prediction']!r}{told} {refused}")


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


def _check_flow(c: dict[str, Any]) -> None:
    told = " with process.kind='rectified_flow', which ends without signal,"
    _check_prediction(c, told, continuous=True, blurs=False, forgets=True)
    if c["loss.objective"] not in ("simple", "head"):  # whose times are real and come as close to T as they may
        _check_last_level(c)


def _check_ihdm(c: dict[str, Any]) -> None:
    if c["process.sigma_blur_min"] > c["process.sigma_blur_max"]:
        raise ConfigError(
            f"process.sigma_blur_min={c['process.sigma_blur_min']} must be at most"
            f" process.sigma_blur_max={c['process.sigma_blur_max']}"
        )
    _check_prediction(c, " with process.kind='ihdm'", continuous=False, blurs=True, forgets=True)
    if c["process.num_steps"] < 2 and not c["loss.last_level"]:
        raise ConfigError("loss.last_level=False leaves no level of process.num_steps=1 to train; use more")
