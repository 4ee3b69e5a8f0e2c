"""The programs that training, sampling and evaluation run, lowered for devices that need not be there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ddx import features
from ddx.evaluation.bound import Bound, variational
from ddx.evaluation.feature_sets import at_once, program
from ddx.evaluation.settings import bound_settings, default_variance
from ddx.runtime import parallel
from ddx.runtime.errors import ConfigError
from ddx.sampling.generator import Generator
from ddx.sampling.sampler import make_sampler
from ddx.system import System, make_system
from ddx.training.program import make_program


class Lowered(NamedTuple):
    """A call, lowered, and how many steps it takes at most."""

    program: Any
    steps: int


def train(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> Lowered:
    """A call of the training loop."""
    program = make_program(config, image_shape, num_classes)
    return Lowered(program.lower(), program.per_call)


def generator(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> tuple[System, Generator]:
    """What `launch.sample` draws with by the config's sampler; a network that enlarges images has black ones."""
    system = make_system(config, image_shape, num_classes)
    shape = system.low_res_shape
    told = {"low_res": np.zeros((1, *shape), np.float32)} if shape else None
    return system, Generator(system, make_sampler(config, system), told=told)


def sample(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> Lowered:
    """A piece of the walk of `launch.sample`."""
    system, found = generator(config, image_shape, num_classes)
    return Lowered(found.lower(system.shapes()), found.steps_a_piece)


def evaluate(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> Lowered:
    """A piece of the bound of `launch.evaluate`, whose batches have the size of sampling's."""
    system = make_system(config, image_shape, num_classes)
    if system.starts_from_images:
        raise ConfigError("IHDM's bound needs its training set, which is not read here. Leave evaluate out of --what")
    how = bound_settings(config, {"variance": default_variance(config)})
    found = Bound(variational(system, how["variance"], how))
    return Lowered(found.lower(system.shapes(), image_shape, config.sample.batch_size), found.steps_a_piece)


def fid(config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int) -> Lowered:
    """A batch of Inception's features, as `launch.evaluate --metrics=fid` extracts them from samples."""
    if image_shape[-1] not in (1, 3):
        raise ConfigError(f"Inception takes 1 or 3 channels, not {image_shape[-1]}. Leave fid out of --what")
    apply, params = features.described("inception")
    batch = np.zeros((at_once(), *image_shape), np.uint8)
    return Lowered(program(apply).lower(params, parallel.split_batch(batch)), 1)


PROGRAMS: dict[str, Callable[[ConfigDict, tuple[int, int, int], int], Lowered]] = {
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "fid": fid,
}
