"""What a run may say: configs, checked against the table of keys in `ddx.config.keys`.

A config is an `ml_collections.ConfigDict` made by `default_config` and changed by a file in configs/ and by flags.
`validate` refuses anything else before a device is touched: an unknown key, a wrong type, a value out of range, two
values that cannot go together. This module imports neither jax nor a data library, so that mistakes are told at once.
"""

import difflib
import json
import os
import re
from typing import Any

from ml_collections import ConfigDict, FieldReference

from ddx.config.keys import ADJUSTABLE, CHANGEABLE, CHANGEABLE_GROUPS, KEYS, LOCAL, PATHS
from ddx.config.model_rules import OF_ONE
from ddx.config.rules import check_together
from ddx.diffusion.catalogue import LEARNED_VARIANCES
from ddx.runtime import storage
from ddx.runtime.errors import ConfigError, telling_line
from ddx.runtime.paths import Path, absolute, local_path, place, user_path

USER = "user"
"""The group of a config that is the user's own: any keys, any values that JSON has. Nothing of ddx depends on it."""


def default_config() -> ConfigDict:
    """Every key with its default, as a locked ConfigDict: assigning to an unknown key fails, but in `config.user`."""
    return _nested(_filled({}))


def validate(config: Any) -> ConfigDict:
    """A checked copy of a config (a ConfigDict, a nested dict or a JSON object), in which folders are absolute paths.

    Raises:
      ConfigError: a key is unknown or missing, or a value has the wrong type, is out of range or contradicts another.
    """
    values = _all_keys(flatten(config))
    checked = {key: _checked(key, values[key]) for key in KEYS}
    check_together(checked)
    return _nested(checked | {USER: _own(values[USER])})


def check_keys(config: Any) -> ConfigDict:
    """A locked copy of a config, which must have all keys and no other; their values may be anything.

    Raises:
      ConfigError: a key is unknown or missing.
    """
    return _nested(_all_keys(flatten(config)))


def check_key(key: str) -> None:
    """Refuse a key that does not exist, suggesting the nearest that does."""
    if key not in KEYS and key.partition(".")[0] != USER:
        raise ConfigError(f"unknown config key {key}. {_suggestion(key)}")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"train.batch_size": 128, ...} of a nested config.

    Raises:
      ConfigError: it is no config: not nested as the keys are, or its names are no strings.
    """
    if not isinstance(config, ConfigDict | dict):
        by_name = isinstance(config, str)
        start = f"Load it: ddx.config.load({config!r})" if by_name else "Start from ddx.config.default_config()"
        raise ConfigError(f"a config is needed, not a {type(config).__name__}. {start}")
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if not isinstance(name, str) or "." in name:
            raise ConfigError(f"config key {prefix}{name!r} is no name. Nest keys, as config['train']['num_steps']")
        if name == USER and not prefix and not isinstance(value, ConfigDict | dict):
            raise ConfigError(f"{USER} must hold keys of yours, as user.note. Give them names")
        if not isinstance(value, ConfigDict | dict) or (name == USER and not prefix):
            flat[prefix + name] = value
        elif prefix:
            check_key(prefix + name)
            raise ConfigError(f"config key {prefix}{name} holds further keys. Give it a value")
        else:
            flat |= flatten(value, f"{name}.")
    return flat


Changes = dict[str, tuple[Any, Any]]
"""{key: (old, new)} of two configs."""


def differences(old: Any, new: Any) -> list[str]:
    """The keys in which two configs differ and that decide what a run's states mean, as `told`."""
    return told({key: values for key, values in all_changes(old, new).items() if key not in ADJUSTABLE})


def adjustments(old: Any, new: Any) -> Changes:
    """The keys in which two configs differ and that decide only how a run's states are reached."""
    return {key: values for key, values in all_changes(old, new).items() if key in ADJUSTABLE}


def all_changes(old: Any, new: Any) -> Changes:
    """The keys in which two configs differ and that decide the state of a run after N steps."""
    old, new = ({key: tuple(v) if isinstance(v, list) else v for key, v in _filled(c).items()} for c in (old, new))
    return {
        key: (old.get(key), new.get(key))
        for key in KEYS
        if _place(key, old.get(key)) != _place(key, new.get(key))
        and key not in CHANGEABLE
        and not key.startswith(CHANGEABLE_GROUPS)
    }


def told(changes: Changes) -> list[str]:
    """Changes for people, each as "key old -> new"."""
    return [f"{key} {old} -> {new}" for key, (old, new) in changes.items()]


def _place(key: str, value: Any) -> Any:
    """A value as it is compared: two spellings of one folder are the same."""
    if key not in PATHS or not isinstance(value, str) or not value:
        return value
    folder, step = named_run(value) if key == "train.init_from" else (value, None)
    return place(folder), step


def named_run(value: str) -> tuple[str, int | None]:
    """The folder and the step that RUN or RUN:STEP names; None for the newest."""
    match = re.fullmatch(r"(.+):(\d{1,10})", value, re.ASCII | re.DOTALL)
    return (match[1], int(match[2])) if match else (value, None)


def to_json(config: ConfigDict) -> str:
    """The config as JSON text; `from_json` reads it back."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def completed(config: Any) -> ConfigDict:
    """A validated config from a saved one, in which keys that are newer than it have their defaults.

    A new key's default therefore means what was done before there was the key.
    """
    for key in flatten(config):
        check_key(key)
    return validate(_nested(_filled(config)))


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
        return completed(config)
    except ConfigError as error:
        raise ConfigError(f"in {where}: {error}") from None


def from_file(path: Path, remedy: str) -> ConfigDict:
    """A validated config from the file config.json of a run; `remedy` is what to do if it cannot be read.

    Raises:
      ConfigError: it cannot be read, or is no valid config.
    """
    try:
        return from_json(storage.read_text(path), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error}). {remedy}") from None


def head_config(workdir: str | os.PathLike[str], variance: str, head: str = "simple") -> ConfigDict:
    """The config of a run that trains a head on the network of the run in `workdir`, whose weights stay as they are.

    All else is as in that run.

    Args:
      workdir: its folder.
      variance: what the head is for: "sn", "npr", "ocm" or "ocm_frequency".
      head: "simple", "complex" or "dense"; see `ddx.models.UNet`.

    Raises:
      ConfigError: the folder has no run, or one whose network cannot have such a head.
    """
    folder = user_path(workdir, "workdir")
    config = from_file(folder / "config.json", "Name the folder of a run that is trained")
    if config.model.network != "unet":
        raise ConfigError(
            f"{folder} has a network of model.network={config.model.network!r}, which takes no further layers. Train it"
            f" anew with its own config and --config.loss.objective=head --config.loss.variance={variance}"
        )
    set_head(config, variance)
    config.model.head, config.model.dropout = head, 0.0
    config.train.backbone, config.train.init_from = str(folder), ""
    return validate(config)


def set_head(config: ConfigDict, variance: str) -> None:
    """Have what a config's network outputs besides its prediction be what a variance is from, such as "npr"."""
    config.loss.objective, config.loss.variance, config.loss.times = "head", variance, "uniform"
    config.loss.reduction = "mean"
    if config.sample.variance in LEARNED_VARIANCES:
        config.sample.variance = "small"  # it was the further channels' that the head has now


def set_network(config: ConfigDict, network: str) -> None:
    """Have a config's network be of one kind, "unet" or "dit", and what other kinds alone have be the default."""
    config.model.network = network
    for other, names in OF_ONE.items():
        for name in names if other != network else ():
            config.model[name] = KEYS[f"model.{name}"].default


def _all_keys(values: dict[str, Any]) -> dict[str, Any]:
    for key in values:
        check_key(key)
    values.setdefault(USER, {})
    missing = [key for key in KEYS if key not in values]
    if missing:
        raise ConfigError(f"config key {missing[0]} is missing. Start from ddx.config.default_config()")
    return values


def _filled(config: Any) -> dict[str, Any]:
    return {key: spec.default for key, spec in KEYS.items()} | {USER: {}} | flatten(config)


def _nested(values: dict[str, Any]) -> ConfigDict:
    config = ConfigDict()
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        if group and group not in config:
            config[group] = ConfigDict()
        if key == USER:
            value = ConfigDict(value)
        elif KEYS[key].is_size:  # a ConfigDict would hold it to the type of its first value
            value = FieldReference(value, field_type=object)
        (config[group] if group else config)[name] = value
    config.lock()[USER].unlock()
    return config


def _own(value: Any) -> dict[str, Any]:
    """What a user's own keys hold, as JSON will give it back."""
    try:
        own: dict[str, Any] = json.loads(json.dumps(ConfigDict(value).to_dict(), allow_nan=False))
        return own
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{USER}: {telling_line(error)}. Use what JSON has: numbers, strings, lists") from None


def _suggestion(key: str) -> str:
    close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.6)
    if not close:  # the right name in the wrong group, or in none
        full = {known.rpartition(".")[2]: known for known in KEYS}
        near = difflib.get_close_matches(key.rpartition(".")[2], full, n=1, cutoff=1.0 if "." in key else 0.6)
        close = [full[name] for name in near]
    if close:
        return f"Did you mean {close[0]}?"
    group = key.partition(".")[0]
    names = [known for known in KEYS if known.startswith(group + ".")]
    return (
        f"Use a key of {group}: {', '.join(names)}"
        if names
        else f"Use a group: {', '.join(sorted({k.partition('.')[0] for k in KEYS}))}"
    )


def _checked(key: str, value: Any) -> Any:
    spec = KEYS[key]
    value = spec.checked(key, value)
    if spec.is_size and isinstance(value, tuple) and value[0] == value[1]:
        return value[0]  # a square has one spelling, so that configs compare
    return _absolute(key, value) if key in PATHS and value else value


def _absolute(key: str, value: str) -> str:
    """A folder as other commands find it too, from wherever they are run."""
    if key != "train.init_from":
        return str(absolute(local_path(value, key) if key in LOCAL else user_path(value, key)))
    folder, step = named_run(value)
    path = str(absolute(user_path(folder, key)))
    if step is not None:
        return f"{path}:{step}"
    return path if named_run(path)[1] is None else f"{path}/"  # a folder whose name ends as if in a step
