"""The settings that images are drawn with: the run's own, changed by a preset and by what is given."""

import difflib
import numbers
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddx.config.sampling import MOST_SAMPLES, SAMPLING, SAMPLING_PRESETS, keeps_eps
from ddx.config.values import validate
from ddx.data import given_images
from ddx.diffusion.catalogue import MEASURED_SOLVERS, OPTIMAL_TRAJECTORIES, OPTIMAL_VARIANCES, PROBED_VARIANCES
from ddx.diffusion.reverse.trajectory import counts_itself
from ddx.runs.trained import Trained
from ddx.runtime.arguments import names_or_integers
from ddx.runtime.errors import ConfigError, did_you_mean, shown
from ddx.runtime.paths import Path
from ddx.system import System


def sampling_config(config: ConfigDict, seed: int, preset: str | None, **given: Any) -> ConfigDict:
    """The config with another seed and other sampling settings: those of a preset, then what is given and not None.

    Raises:
      ConfigError: a setting is invalid, or belongs to another sampler.
    """
    if preset is not None and preset not in SAMPLING_PRESETS:
        raise ConfigError(f"preset {preset!r} is unknown. Choose one of: {', '.join(SAMPLING_PRESETS)}")
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        check_setting(name)
    changed = config.to_dict() | {"seed": seed}
    pinned = SAMPLING_PRESETS[preset] if preset else {}
    sample = changed["sample"] | pinned
    if preset and not ("num_steps" in pinned or sample["num_steps"] or given.get("num_steps")):
        raise ConfigError(f"preset {preset!r} is a table over numbers of steps. Add --num_steps, such as 50")
    if "trajectory" in given and counts_itself(given["trajectory"]):
        sample["num_steps"] = 0
    changed["sample"] = sample = sample | given
    # What a run's own setting belongs to may be left out; what is given may not contradict.
    if not sample["clip"] and "clip_percentile" not in given:
        sample["clip_percentile"] = 0.0
    if sample["guidance"] == 1 and "guidance_interval" not in given:
        sample["guidance_interval"] = ()
    if "eta" in given and sample["sampler"] != "ddim":
        raise ConfigError(
            f"eta={given['eta']} belongs to the ddim sampler, not {sample['sampler']}."
            " Leave it out or set --sampler=ddim"
        )
    if given.get("keep_eps") and not keeps_eps(ConfigDict(sample)):
        raise ConfigError(
            "keep_eps=True belongs to the ddim sampler with solver euler and clip. Leave it out, or set these"
        )
    for name in ("delta", "prior_noise"):
        if name in given and config.process.kind != "ihdm":
            raise ConfigError(
                f"{name}={given[name]} belongs to the process ihdm, not {config.process.kind}. Leave it out"
            )
    if given.get("variance") in OPTIMAL_VARIANCES:
        raise ConfigError(
            f"variance={given['variance']} is for samples and bounds, not for encoding and interpolation. Leave it out"
        )
    if "probes" in given:
        of = " and ".join(PROBED_VARIANCES)
        raise ConfigError(f"probes={given['probes']} belongs to samples with the variances {of}. Leave it out")
    if given.get("trajectory") in OPTIMAL_TRAJECTORIES:
        raise ConfigError(
            f"trajectory={given['trajectory']} is for samples and bounds, not for encoding and interpolation."
            " Use another"
        )
    if given.get("solver") in MEASURED_SOLVERS:
        raise ConfigError(
            f"solver={given['solver']} is for samples, not for encoding and interpolation. Use another, such as unipc_3"
        )
    if "variance" in given and sample["sampler"] != "ancestral":
        raise ConfigError(
            f"variance={given['variance']} belongs to the ancestral sampler, not {sample['sampler']}."
            " Leave it out or set --sampler=ancestral"
        )
    return validate(changed)


def check_count(num_samples: int, most: int = MOST_SAMPLES) -> None:
    """Refuse, with a ConfigError, to draw none, or more than a job can hold."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, numbers.Integral):
        raise ConfigError(f"num_samples={num_samples!r} is no whole number. Pass one, such as 64")
    if not 1 <= num_samples <= most:
        raise ConfigError(f"num_samples={num_samples} must be at least 1 and at most {most:,}")


def check_settings(config: ConfigDict, seed: int, preset: str | None, settings: dict[str, Any]) -> ConfigDict:
    """Refuse, as `settled_config` does, settings of which some are not in a config: optimal variances and times too.

    The others are in the config that is returned.
    """
    own: dict[str, Any] = {"variance": OPTIMAL_VARIANCES, "trajectory": OPTIMAL_TRAJECTORIES}
    if settings.get("variance") in PROBED_VARIANCES:
        own["probes"] = (settings.get("probes"),)
    settings = {name: value for name, value in settings.items() if value not in own.get(name, ())}
    return settled_config(config, seed, preset, settings)


def settled_config(config: ConfigDict, seed: int, preset: str | None, settings: dict[str, Any]) -> ConfigDict:
    """`sampling_config`, whose solver may also be one of `MEASURED_SOLVERS`, which no valid config has.

    Raises:
      ConfigError: as `sampling_config` says; or the solver does not go with the sampler, its eta or keep_eps.
    """
    solver = settings.get("solver")
    if solver not in MEASURED_SOLVERS:
        return sampling_config(config, seed, preset, **settings)
    config = sampling_config(config, seed, preset, **settings | {"solver": "euler"})
    if config.sample.sampler != "ddim" or config.sample.eta:
        raise ConfigError(f"solver={solver} solves an equation without noise. Set --sampler=ddim --eta=0")
    if settings.get("keep_eps"):
        raise ConfigError(f"keep_eps=True belongs to solver euler, not {solver}. Leave it out")
    config.sample.solver = solver
    return config


def check_numbers(settings: dict[str, Any]) -> None:
    """Refuse, with a ConfigError, numbers that no run's setting can be, before there need be a run."""
    for name, value in settings.items():
        if isinstance(value, int | float) and name in SAMPLING:
            SAMPLING[name].checked(name, value)


def check_setting(name: str) -> None:
    """Refuse, with a ConfigError, a name that is no setting of a sampling job."""
    known = [setting for setting, key in SAMPLING.items() if key.is_flag]
    if name not in known:
        raise ConfigError(f"unknown setting {name}. {did_you_mean(name, known)}Settings: preset, {', '.join(known)}")


Labels = tuple[int | str, ...]
"""Classes as numbers or by name."""


def class_numbers(source: Trained, labels: Labels | None) -> tuple[int, ...] | None:
    """The numbers of classes that are given by name or number; None for None.

    Where all are names of classes, that is what they are. Otherwise text that is a number is that number, so that
    names such as "3" are of use where they leave no doubt. "none" is the class that says nothing of an image, of a
    network that was trained with label dropout.

    Raises:
      ConfigError: the network is told no classes, or one is no class of its.
    """
    given = () if labels is None else names_or_integers("labels", labels)
    if not given:
        return None
    if not source.system.model.num_classes:
        raise ConfigError("labels: the network was trained without classes. Leave out --labels")
    said = source.meta.get("data")
    classes = [str(name) for name in said.get("classes", ())] if isinstance(said, dict) else []
    null_class = source.system.model.num_classes if source.system.model.null_class else None
    if all(isinstance(label, str) and label in classes for label in given):
        return tuple(classes.index(str(label)) for label in given)
    return tuple(label if isinstance(label, int) else _class_number(label, classes, null_class) for label in given)


NONE = "none"
"""The name of the class that says nothing of an image, unless a class of the data has that name."""


def _class_number(label: str, classes: list[str], null_class: int | None) -> int:
    try:
        return int(label)
    except ValueError:
        if label in classes:
            return classes.index(label)
    if label == NONE and null_class is not None:
        return null_class
    if label == NONE:
        raise ConfigError(
            f"labels: {NONE!r} is known to a network trained with model.label_dropout, and this one is not. Use a class"
        )
    if not classes:
        raise ConfigError(f"labels: {shown(label)} is no number, and the checkpoint names no classes. Use 0, 1, ...")
    close = difflib.get_close_matches(label, classes, n=3) or difflib.get_close_matches(label, classes, n=3, cutoff=0)
    raise ConfigError(
        f"labels: {shown(label)} is none of the {len(classes)} classes. Choose one, such as {', '.join(close)}"
    )


def to_tell(system: System, labels: tuple[int, ...] | None, low_res: Path | None = None) -> dict[str, np.ndarray]:
    """What to tell the network of the images to draw, each for one image after the other: classes, small images.

    Raises:
      ConfigError: the network does not know these classes; or it does not enlarge images, or does and has none.
      DataError: the small images cannot be read.
    """
    given: dict[str, np.ndarray] = {}
    if labels:
        num_classes = system.model.num_classes
        wrong = [label for label in labels if not 0 <= label < num_classes + system.model.null_class]
        if wrong:
            none = f", or {num_classes} for none" if system.model.null_class else ""
            raise ConfigError(f"labels: {wrong[0]} must be one of the classes 0..{num_classes - 1}{none}")
        given["label"] = np.asarray(labels, np.int32)
    if system.low_res_shape is None and low_res is not None:
        raise ConfigError("low_res: the network does not enlarge images. Leave out --low_res")
    if system.low_res_shape is not None:
        if low_res is None:
            shape = " x ".join(map(str, system.low_res_shape))
            raise ConfigError(
                f"the network enlarges images of {shape}: it can only be sampled. Use launch.sample --low_res=IMAGES"
            )
        images = given_images(low_res, system.to_low_res, system.low_res_shape)
        given["low_res"] = np.asarray(system.to_float(images))
    return given


def describe(config: ConfigDict, variance: str | None = None) -> str:
    """The settings as part of a folder's name; `variance` is one that replaces the config's, with any sampler."""
    sample = ConfigDict(config.sample.to_dict() | ({} if variance is None else {"variance": variance}))
    return "".join(key.tag(sample) for key in SAMPLING.values() if key.tag is not None)
