"""The data of a run: the set of its config, and the examples that a job reads of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import ddx.data
from ddx.config.keys import GIVEN, UNKNOWN
from ddx.config.model_rules import check_image_size
from ddx.config.values import validate
from ddx.data import Dataset, batch_indices
from ddx.runs.same_data import check_same_classes, check_same_data
from ddx.runs.trained import Trained
from ddx.runtime import devices
from ddx.runtime.errors import ConfigError, DataError
from ddx.runtime.paths import Path
from ddx.runtime.storage import digest


@devices.job("reading the data set", "Free memory, or use a machine with more")
def open_dataset(
    config: ConfigDict,
    *,
    write_copy: bool = False,
    check: Callable[[ddx.data.Dataset], None] | None = None,
    given: Any = None,
) -> ddx.data.Dataset:
    """The data set of a config, or the one that is `given`: a `Dataset`, or what `ddx.data.from_object` takes.

    One that is too large for memory is read from a decoded copy on disk, which is written first if `write_copy` says
    so: that pays for training, which reads all of it again and again. `check` is as in `ddx.data.load`.

    Raises:
      DataError: it cannot be read.
      ConfigError: the network cannot take its images, or it is given and the config wants other ones.
    """
    d = config.data
    if d.name == GIVEN and given is None:
        raise DataError(needs_given())
    if d.name == UNKNOWN and given is None:
        raise DataError(
            "the run's data are needed, and nothing says what they were: its weights were converted. Run"
            " launch.convert again with a config that names them, such as --config=ddpm_cifar10"
        )

    def fits(data: ddx.data.Dataset) -> None:
        if check is not None:  # first: of other data it would say that the config is wrong
            check(data)
        check_image_size(*data.image_shape[:2], config.model.to_dict(), f"images of {data.name},")

    if given is not None:
        data = given if isinstance(given, ddx.data.Dataset) else ddx.data.from_object(given)
        _check_as_wanted(data, config)
        fits(data)
        return data
    return ddx.data.load(
        d.name,
        split=d.split,
        directory=d.dir,
        image_size=d.image_size,
        channels=d.channels,
        crop=d.crop,
        storage=ddx.data.Storage(d.memory_mib, d.disk_mib, d.cache_dir, write_copy),
        check=fits,
    )


def needs_given() -> str:
    """The error of a run that cannot resume without its data."""
    return "this run's data were given from Python. Give them again, with ddx.training.train(config, workdir, data=...)"


def given_config(config: ConfigDict) -> ConfigDict:
    """The config of a run on data that are given, which says so."""
    changed = config.to_dict()
    changed["data"] |= {"name": GIVEN, "dir": ""}
    return validate(changed)


def _check_as_wanted(data: Dataset, config: ConfigDict) -> None:
    """Refuse given data that would have to be converted first."""
    d, (height, width, channels) = config.data, data.image_shape
    wanted = {
        "image_size": d.image_size in (0, (height, width)) or (d.image_size, d.image_size) == (height, width),
        "channels": d.channels in (0, channels),
        "crop": not d.crop,
    }
    for name, is_so in wanted.items():
        if not is_so:
            raise ConfigError(
                f"data.{name}={d[name]} does not fit the given images of {height} x {width} x {channels}, which stay as"
                " they are. Leave it out, or convert them beforehand"
            )


def dataset_of(source: Trained, config: ConfigDict) -> Dataset:
    """The data set of a config, which must be one for the network.

    Raises:
      ConfigError: it has other images or classes.
      DataError: it cannot be read, or is no longer what the network was trained on.
    """
    split, system = config.data.split, source.system
    if config.data.name == GIVEN:
        raise DataError(
            "this job reads the run's data, which were passed from Python. Train on a set that data.name knows,"
            " such as the same images in an .npz file (data.name=array)"
        )
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
            remedy = "Put the data back, or name the folder where they are with --data_dir"
            check_same_data(network, source.meta, data, remedy)
        elif system.model.num_classes:
            check_same_classes(network, source.meta, data, "Name the folder of the run's own data set with --data_dir")

    return open_dataset(config, check=check)


def open_examples(
    source: Trained, split: str | None, data_dir: str | Path | None, max_examples: int | None, seed: int
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
    data = dataset_of(source, validate(changed))
    count = min(max_examples or data.num_examples, data.num_examples)
    everything = count == data.num_examples
    return data, np.arange(count) if everything else batch_indices(seed, 0, data.num_examples, count)


def training_images(source: Trained, data_dir: str | Path | None = None) -> Dataset | None:
    """The training set, for a system whose samples start from its images; None for others.

    `data_dir` is where the set lies, if not where the run found it.

    Raises:
      ConfigError: these are other images than the network's, or they are named and not needed.
      DataError: the set cannot be read.
    """
    check_data_dir(source, data_dir)
    if not source.system.starts_from_images:
        return None
    return open_examples(source, None, data_dir, None, source.system.config.seed)[0]


def check_data_dir(source: Trained, data_dir: str | Path | None) -> None:
    """Refuse, with a ConfigError, to be told where a training set lies that is not needed."""
    if data_dir is not None and not source.system.starts_from_images:
        raise ConfigError("data_dir: only ihdm starts from the images of its training set. Leave out --data_dir")


def fingerprint_of(data: Dataset, examples: np.ndarray) -> str:
    """What a job's record says of some examples of a data set: with others it is another job."""
    which = digest([data.fingerprint().checksum, examples.tolist()])
    return f"{len(examples)} of {data.num_examples} examples, {which}"
