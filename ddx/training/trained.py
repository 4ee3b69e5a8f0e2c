"""From the folder of a run to a trained network, and to the settings that images are drawn from it with."""

import pathlib
import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ddx import build
from ddx.arguments import integers
from ddx.config import completed, validate
from ddx.data import Dataset, batch_indices, given_images
from ddx.diffusion.catalogue import OPTIMAL_VARIANCES
from ddx.diffusion.reverse.trajectory import counts_itself
from ddx.errors import CheckpointError, ConfigError
from ddx.files import digest
from ddx.keys import SAMPLING_PRESETS
from ddx.training.checkpoint import Checkpoints
from ddx.training.job import read_record
from ddx.training.same_data import check_same_classes, check_same_data
from ddx.training.state import joined


class Trained(NamedTuple):
    """A network at a step of its training."""

    step: int
    seal: str  # names the checkpoint
    system: build.System
    params: Any  # averaged weights
    meta: Mapping[str, Any] = MappingProxyType({})  # what the checkpoint says of its config and data


def load(workdir: pathlib.Path, step: int | None = None) -> Trained:
    """The averaged weights of a checkpoint, by default the newest, of a run that may be going on.

    Raises:
      CheckpointError: there is no such checkpoint, or it is damaged.
    """
    checkpoints = Checkpoints(workdir / "checkpoints")
    while True:
        with checkpoints.reading(step) as found:
            if found is None:
                config = "" if (workdir / "config.json").exists() else " --config=digits"
                raise CheckpointError(
                    f"{workdir} has no trained network. Train one with python -m launch.train{config}"
                    f" --workdir={shlex.quote(str(workdir))}"
                )
            try:
                return _restore(checkpoints, found)
            except Exception:  # orbax and TensorStore each have their own kinds
                if found in checkpoints.steps():
                    raise
                # The run removed it meanwhile, for a newer one, on a file system without locks.


def load_for_job(workdir: pathlib.Path, step: int | None, out: pathlib.Path | None, name: str) -> Trained:
    """`load`, where no step is that of the job of this name in the folder `out`, if there is one."""
    begun = None if out is None or step is not None else read_record(out / f"{name}.json").get("step")
    if begun is None:
        return load(workdir, step)
    try:
        return load(workdir, begun)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {out} holds a job of that step; use another --out for a new one") from None


def identity(source: Trained, workdir: pathlib.Path) -> dict[str, Any]:
    """What the record of every job begins with: whose weights."""
    return {"workdir": str(workdir), "step": source.step, "weights": source.seal}


def _restore(checkpoints: Checkpoints, step: int) -> Trained:
    meta = checkpoints.meta(step)
    system = build.system(completed(meta["config"]), tuple(meta["image_shape"]), meta.get("num_classes", 1))
    ema, frozen = system.split(jax.eval_shape(system.init, jax.random.key(0)))
    restored = checkpoints.restore(step, {"ema": ema} | ({"frozen": frozen} if frozen else {}))
    return Trained(step, checkpoints.seal(step), system, joined(restored.get("frozen", ()), restored["ema"]), meta)


def settings(config: ConfigDict, seed: int, preset: str | None, **given: Any) -> ConfigDict:
    """The config with another seed and other sampling settings: those of a preset, then what is given and not None.

    Raises:
      ConfigError: a setting is invalid, or belongs to another sampler.
    """
    if preset is not None and preset not in SAMPLING_PRESETS:
        raise ConfigError(f"preset {preset!r} is unknown. Choose one of: {', '.join(SAMPLING_PRESETS)}")
    given = {name: value for name, value in given.items() if value is not None}
    changed = config.to_dict() | {"seed": seed}
    pinned = SAMPLING_PRESETS[preset] if preset else {}
    sample = changed["sample"] | pinned
    if preset and not ("num_steps" in pinned or sample["num_steps"] or given.get("num_steps")):
        raise ConfigError(f"preset {preset!r} is a table over numbers of steps. Add --num_steps, such as 50")
    if "trajectory" in given and counts_itself(given["trajectory"]):
        sample["num_steps"] = 0
    changed["sample"] = sample = sample | given
    if "eta" in given and sample["sampler"] != "ddim":
        raise ConfigError(
            f"eta={given['eta']} belongs to the ddim sampler, not {sample['sampler']}."
            " Leave it out or set --sampler=ddim"
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
    if given.get("trajectory") == "optimal":
        raise ConfigError(
            "trajectory=optimal is for samples and bounds, not for encoding and interpolation. Use another"
        )
    if "variance" in given and sample["sampler"] != "ancestral":
        raise ConfigError(
            f"variance={given['variance']} belongs to the ancestral sampler, not {sample['sampler']}."
            " Leave it out or set --sampler=ancestral"
        )
    return validate(changed)


def dataset(source: Trained, config: ConfigDict) -> Dataset:
    """The data set of a config, which must be one for the network.

    Raises:
      ConfigError: it has other images or classes.
      DataError: it cannot be read, or is no longer what the network was trained on.
    """
    split, system = config.data.split, source.system
    network = f"the network of step {source.step}"

    def check(data: Dataset) -> None:
        if system.model.num_classes not in (0, data.num_classes):
            raise ConfigError(
                f"{data.name} {split} has {data.num_classes} classes, and the network knows"
                f" {system.model.num_classes}. Use the run's own data set"
            )
        if data.image_shape != system.image_shape:
            raise ConfigError(
                f"images of {data.name} {split} have the shape {data.image_shape}, the network's are"
                f" {system.image_shape}. Use the run's own data set"
            )
        if split == system.config.data.split:
            check_same_data(network, source.meta, data, "--data_dir")
        elif system.model.num_classes:
            check_same_classes(network, source.meta, data, "Name the folder of the run's own data set with --data_dir")

    return build.dataset(config, check=check)


def examples(
    source: Trained, split: str | None, data_dir: str | pathlib.Path | None, max_examples: int | None, seed: int
) -> tuple[Dataset, np.ndarray]:
    """A split of the run's data set, and the indices of all of it, or of a random part that the seed chooses.

    `split` None is the one it was trained on, `data_dir` None where the run found it, `max_examples` None all.

    Raises:
      ConfigError: the data are not the network's.
      DataError: they cannot be read.
    """
    changed = source.system.config.to_dict() | {"seed": seed}
    given = {"split": split, "dir": None if data_dir is None else str(data_dir)}
    changed["data"] |= {name: value for name, value in given.items() if value is not None}
    data = dataset(source, validate(changed))
    count = min(max_examples or data.num_examples, data.num_examples)
    everything = count == data.num_examples
    return data, np.arange(count) if everything else batch_indices(seed, 0, data.num_examples, count)


def training_images(source: Trained, data_dir: str | pathlib.Path | None = None) -> Dataset | None:
    """The training set, for a system whose samples start from its images; None for others.

    `data_dir` is where the set lies, if not where the run found it.

    Raises:
      ConfigError: these are other images than the network's.
      DataError: the set cannot be read.
    """
    if not source.system.starts_from_images:
        return None
    return examples(source, None, data_dir, None, source.system.config.seed)[0]


def fingerprint(data: Dataset, examples: np.ndarray) -> str:
    """What a job's record says of some examples of a data set: with others it is another job."""
    which = digest([data.fingerprint().checksum, examples.tolist()])
    return f"{len(examples)} of {data.num_examples} examples, {which}"


def told(
    system: build.System, labels: tuple[int, ...] | None, low_res: pathlib.Path | None = None
) -> dict[str, np.ndarray]:
    """What to tell the network of the images to draw, each for one image after the other: classes, small images.

    Raises:
      ConfigError: the network knows no classes, or not these; or it does not enlarge images, or does and has none.
      DataError: the small images cannot be read.
    """
    given: dict[str, np.ndarray] = {}
    labels = () if labels is None else integers("labels", labels)
    if labels:
        num_classes = system.model.num_classes
        if not num_classes:
            raise ConfigError("labels: the network was trained without classes. Leave out --labels")
        wrong = [label for label in labels if not 0 <= label < num_classes]
        if wrong:
            raise ConfigError(f"labels: {wrong[0]} is not one of the classes 0..{num_classes - 1}")
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
    s = config.sample
    end = "_noisy_end" * s.noisy_end
    if s.sampler == "heat":
        return f"heat_delta{s.delta:g}" + "_noiseless_prior" * (not s.prior_noise) + end
    parts = [f"{s.sampler}{s.num_steps or ''}", s.trajectory.replace(":", "").replace(",", "-")[:40]]
    parts += [f"eta{s.eta:g}"] * (s.sampler == "ddim")
    parts += [variance or s.variance] * (s.sampler != "ddim" or variance is not None)
    parts += [s.solver] * (s.solver != "euler") + ["unclipped"] * (not s.clip)
    return "_".join(parts) + end
