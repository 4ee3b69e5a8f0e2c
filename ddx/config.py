"""What a run may say: every config key with its default, its type and its limits.

A config is an `ml_collections.ConfigDict` made by `default_config` and changed by a file in configs/ and by flags.
`validate` refuses anything else before a device is touched: an unknown key, a wrong type, a value out of range, two
values that cannot go together. This module imports neither jax nor a data library, so that mistakes are told at once.
"""

import difflib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from ddx.diffusion import schedules
from ddx.errors import ConfigError

PREDICTIONS = ("eps", "x0", "v", "mean")
VARIANCES = ("small", "large")


@dataclass(frozen=True)
class Key:
    """One config key: its default (which fixes its type), what it means, and the limit of its values."""

    default: Any
    meaning: str
    limit: str = ""
    holds: Callable[[Any], bool] = lambda value: True


def _at_least(low: float) -> dict[str, Any]:
    return {"limit": f"at least {low:g}", "holds": lambda value: value >= low}


def _between(low: float, high: float) -> dict[str, Any]:
    return {"limit": f"at least {low:,} and below {high:,}", "holds": lambda value: low <= value < high}


def _one_of(*choices: str) -> dict[str, Any]:
    return {"limit": f"one of: {', '.join(choices)}", "holds": lambda value: value in choices}


def _all_at_least(low: int) -> dict[str, Any]:
    return {"limit": f"numbers of at least {low}", "holds": lambda value: all(v >= low for v in value)}


KEYS: dict[str, Key] = {
    "seed": Key(0, "decides initial weights, data order, times, noise and samples", **_between(0, 2**32)),
    "data.name": Key("digits", "digits, folder, or the name of a TFDS data set such as cifar10"),
    "data.split": Key("train", "the split to train on"),
    "data.dir": Key("", "where the data set lies; empty: $TFDS_DATA_DIR or TFDS's default"),
    "data.image_size": Key(0, "shrink and centre-crop images to this size; 0: keep their own", **_at_least(0)),
    "data.channels": Key(
        0, "1 grey, 3 colour, 0 the data set's own", limit="0, 1 or 3", holds=lambda c: c in (0, 1, 3)
    ),
    "data.flip": Key(False, "mirror each image left-right with probability 1/2"),
    "process.schedule": Key("linear", "noise schedule", **_one_of(*schedules.SCHEDULES)),
    "process.num_steps": Key(1000, "T, the number of noise levels", **_at_least(1)),
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
    "model.dtype": Key("float32", "type of the computation; parameters stay float32", **_one_of("float32", "bfloat16")),
    "model.remat": Key(False, "recompute activations in the backward pass: less memory, a third more time"),
    "loss.prediction": Key("eps", "what the network outputs", **_one_of(*PREDICTIONS)),
    "train.num_steps": Key(800_000, "training steps", **_at_least(1)),
    "train.batch_size": Key(128, "images a step, over all devices", **_at_least(1)),
    "train.accumulation": Key(
        1, "parts that a device's batch is split into; their gradients are averaged", **_at_least(1)
    ),
    "train.learning_rate": Key(2e-4, "of Adam", limit="above 0 and finite", holds=lambda value: 0 < value < math.inf),
    "train.warmup_steps": Key(5000, "steps over which the learning rate rises from 0", **_at_least(0)),
    "train.clip_norm": Key(1.0, "limit of the gradient's global norm", limit="above 0", holds=lambda value: value > 0),
    "train.ema_decay": Key(0.9999, "decay of the averaged weights", **_between(0, 1)),
    "train.ema_warmup": Key(False, "use the smaller decay (1 + step) / (10 + step) while it is smaller"),
    "train.steps_per_call": Key(0, "steps in one compiled call; 0: 1 on CPU, 50 elsewhere", **_at_least(0)),
    "train.log_every": Key(100, "steps between lines of metrics", **_at_least(1)),
    "train.checkpoint_every": Key(5000, "steps between checkpoints", **_at_least(1)),
    "train.keep_checkpoints": Key(3, "newest checkpoints to keep", **_at_least(1)),
    "train.sample_every": Key(25_000, "steps between grids of samples", **_at_least(1)),
    "sample.sampler": Key("ddim", "how samples are drawn", **_one_of("ddim", "ancestral")),
    "sample.num_steps": Key(50, "network evaluations a sample (a few more unless they divide T)", **_at_least(1)),
    "sample.eta": Key(0.0, "stochasticity of ddim, 0 to 1", limit="between 0 and 1", holds=lambda eta: 0 <= eta <= 1),
    "sample.variance": Key("small", "reverse variance of the ancestral sampler", **_one_of(*VARIANCES)),
    "sample.clip": Key(True, "clip the estimate of x_0 to [-1, 1]"),
    "sample.num_images": Key(64, "images in a grid during training", **_at_least(1)),
    "sample.batch_size": Key(64, "images sampled at once", **_at_least(1)),
}

# A finished or interrupted run may go on with other values of these: they do not decide the state after N steps.
CHANGEABLE = (
    "train.num_steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
)
CHANGEABLE_GROUPS = ("sample.", "data.dir")


def default_config() -> ConfigDict:
    """Every key with its default, as a locked ConfigDict: assigning to an unknown key fails."""
    return _nested({key: spec.default for key, spec in KEYS.items()})


def validate(config: Any) -> ConfigDict:
    """A checked copy of a config (a ConfigDict, a nested dict or a JSON object).

    Raises:
      ConfigError: a key is unknown or missing, or a value has the wrong type, is out of range or contradicts another.
    """
    values = flatten(config)
    for key in values:
        check_key(key)
    missing = [key for key in KEYS if key not in values]
    if missing:
        raise ConfigError(f"config key {missing[0]} is missing. Start from ddx.config.default_config()")
    checked = {key: _checked(key, values[key]) for key in KEYS}
    _check_together(checked)
    return _nested(checked)


def check_key(key: str) -> None:
    """Refuse a key that does not exist, suggesting the nearest that does."""
    if key not in KEYS:
        raise ConfigError(f"unknown config key {key}. {_suggestion(key)}")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"train.batch_size": 128, ...} of a nested config."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(old: Any, new: Any) -> list[str]:
    """The keys in which two configs differ and that decide the state of a run, as "key old -> new"."""
    old, new = ({key: tuple(v) if isinstance(v, list) else v for key, v in flatten(c).items()} for c in (old, new))
    return [
        f"{key} {old.get(key)} -> {new.get(key)}"
        for key in KEYS
        if old.get(key) != new.get(key) and key not in CHANGEABLE and not key.startswith(CHANGEABLE_GROUPS)
    ]


def to_json(config: ConfigDict) -> str:
    """The config as JSON text; `from_json` reads it back."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def from_json(text: str, where: str) -> ConfigDict:
    """A validated config from JSON text; `where` names the file in errors.

    Raises:
      ConfigError: the text is no JSON object, or no valid config.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON ({error}). Restore it, or start in a new workdir") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{where} holds no config. Restore it, or start in a new workdir")
    try:
        return validate(config)
    except ConfigError as error:
        raise ConfigError(f"in {where}: {error}") from None


def _nested(values: dict[str, Any]) -> ConfigDict:
    config = ConfigDict()
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        if group and group not in config:
            config[group] = ConfigDict()
        (config[group] if group else config)[name] = value
    return config.lock()


def _suggestion(key: str) -> str:
    close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.6)
    if not close:  # the right name in the wrong group
        close = [known for known in KEYS if known.rpartition(".")[2] == key.rpartition(".")[2]]
    if close:
        return f"Did you mean {close[0]}?"
    group = key.partition(".")[0]
    names = [known for known in KEYS if known.startswith(group + ".")]
    return (
        f"Keys of {group}: {', '.join(names)}"
        if names
        else f"Groups: {', '.join(sorted({k.partition('.')[0] for k in KEYS}))}"
    )


def _checked(key: str, value: Any) -> Any:
    spec = KEYS[key]
    kind = type(spec.default)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list | tuple):
        value = tuple(value)
        bad = [v for v in value if type(v) is not int]
        if bad:
            raise ConfigError(f"{key}={value!r}: {bad[0]!r} must be an int")
    if type(value) is not kind:
        raise wrong_type(key, value)
    if (kind is float and value != value) or not spec.holds(value):
        raise ConfigError(f"{key}={value!r} must be {spec.limit or 'a number'}")
    return value


def wrong_type(key: str, value: Any) -> ConfigError:
    """The error for a value whose type is not that of its key."""
    default = KEYS[key].default
    return ConfigError(f"{key}={value!r} must be {_KINDS[type(default)]}, such as {default!r}")


_KINDS = {int: "an int", float: "a number", str: "a string", bool: "True or False", tuple: "a tuple of ints"}


def _check_together(c: dict[str, Any]) -> None:
    """Values that are fine alone and impossible together."""
    levels = len(c["model.multipliers"])
    for multiplier in (1, *c["model.multipliers"]):
        if c["model.channels"] * multiplier % c["model.groups"]:
            raise ConfigError(
                f"model.channels={c['model.channels']}, alone and times model.multipliers={c['model.multipliers']},"
                f" must be a multiple of model.groups={c['model.groups']}"
            )
    if c["data.image_size"]:
        size = c["data.image_size"]
        check_image_size(size, size, levels, c["model.attention_resolutions"], "images of data.image_size")
    if c["data.name"] == "folder" and not c["data.dir"]:
        raise ConfigError("data.name='folder' needs the folder: set data.dir")
    try:
        betas = schedules.betas(c["process.schedule"], c["process.num_steps"])
    except ValueError as error:
        raise ConfigError(f"process: {error}") from None
    if betas[-1] == 1 and c["loss.prediction"] == "eps":
        raise ConfigError(
            f"process.schedule={c['process.schedule']!r} with {c['process.num_steps']} steps ends without signal, where"
            " loss.prediction='eps' says nothing of x_0; use 'v' or 'x0'"
        )
    if c["train.batch_size"] % c["train.accumulation"]:
        raise ConfigError(
            f"train.batch_size={c['train.batch_size']} must be a multiple of"
            f" train.accumulation={c['train.accumulation']}"
        )
    if c["sample.num_steps"] > c["process.num_steps"]:
        raise ConfigError(
            f"sample.num_steps={c['sample.num_steps']} exceeds process.num_steps={c['process.num_steps']};"
            " there are no more times"
        )


def check_image_size(height: int, width: int, levels: int, attention_resolutions: tuple[int, ...], where: str) -> None:
    """Refuse images that the U-Net cannot halve or whose height never reaches an attention resolution."""
    factor = 2 ** (levels - 1)
    if height % factor or width % factor:
        raise ConfigError(
            f"{where} {height} x {width}: both must be multiples of {factor}, to be halved {levels - 1} times"
            " (model.multipliers); set data.image_size"
        )
    reached = [height >> level for level in range(levels)]
    for resolution in attention_resolutions:
        if resolution not in reached:
            raise ConfigError(
                f"model.attention_resolutions has {resolution}, which {where} {height} x {width} never reach;"
                f" choose from {reached}"
            )
