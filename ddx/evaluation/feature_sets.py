"""Features of images: of a data set, of given images, of samples as they are drawn."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

import ddx.data
from ddx import features
from ddx.data import Dataset
from ddx.data.npy import SUFFIXES
from ddx.features import Extractor
from ddx.runtime import devices, parallel, storage
from ddx.runtime.errors import ConfigError, DataError, NonFiniteError
from ddx.runtime.paths import Path
from ddx.runtime.progress import Progress

_AT_ONCE = 32  # images on a device: Inception's first layers take 20 MB each
SMALL = 16  # sides up to which grey images are compared as digits are


def chosen_network(how: Mapping[str, Any], shape: tuple[int, int, int], metrics: tuple[str, ...] = ()) -> str:
    """The network of settings, or the one that suits the metrics and images of a shape.

    Raises:
      ConfigError: a metric belongs to another network, or none takes such images.
    """
    name = how["features"]
    if shape[-1] not in (1, 3):
        raise ConfigError(
            f"images of {shape[-1]} channels: networks of features take 1 or 3, in (N, H, W, C). Give such"
        )
    if "fid" in metrics:
        if name not in (None, "inception"):
            raise ConfigError(f"fid is a distance of Inception's features, not of {name}'s. Use --metrics=fd")
        return "inception"
    small = shape[-1] == 1 and max(shape[:2]) <= SMALL
    return str(name or ("digits" if small else "efficientnet_lite0"))


def extractor(how: Mapping[str, Any], name: str) -> Extractor:
    """A network of features with its weights, and the protocol of settings.

    Raises:
      ConfigError: the network has no such protocol.
      DataError: there are no weights.
    """
    known = features.NETWORKS[name].protocols
    if how["protocol"] not in (None, *known):
        raise ConfigError(f"protocol={how['protocol']} is not of {name}. Choose one of: {', '.join(known)}")
    return features.load(name, how["protocol"], how["feature_weights"])


def open_images(path: Path, setting: str, channels: int = 0) -> Dataset:
    """Images that a user names: a folder of pictures, which are brought to 1 or 3 `channels`, or a NumPy file.

    Raises:
      DataError: there are none, they differ in shape, or they cannot be read.
    """
    kind = "array" if path.suffix in SUFFIXES else "folder"
    if kind == "folder" and not storage.is_dir(path):
        raise DataError(f"--{setting}={path} is no folder, no .npy and no .npz file. Name images")
    try:
        return ddx.data.load(kind, split="all", directory=str(path), channels=channels if kind == "folder" else 0)
    except DataError as error:
        said, advice, _ = str(error).partition(". Set data.")
        if not advice:  # what helps a run does not help here
            raise
        raise DataError(f"{said}. Name a folder of images of one size with --{setting}") from None


class FeatureSet(NamedTuple):
    """What a network says of N images.

    Attributes:
      features: (N, D) float32.
      logits: (N, K) float32, or (N, 0).
    """

    features: np.ndarray
    logits: np.ndarray


def at_once(batch_size: int | None = None) -> int:
    """How many images are on the devices at once: so many or a few more, the same on each; None for as many as fit."""
    here = len(devices.own())
    return -(-(batch_size or _AT_ONCE * here) // here) * here


def program(apply: Callable[..., Any]) -> parallel.OnDevices:
    """What a network of features says of a batch that is split between the devices of this host."""
    return parallel.over_batch(apply, shared=1, split=1)


class Extraction:
    """A network of features on all devices of this host; compiled once for images of one shape."""

    def __init__(self, extractor: Extractor, batch_size: int | None = None) -> None:
        """Bring the weights to the devices, which then take `at_once(batch_size)` images."""
        self._size = at_once(batch_size)
        self._params = parallel.replicate(extractor.params)
        self._call = program(extractor.apply)

    def __call__(self, images: np.ndarray) -> FeatureSet:
        """The features of images, (N, H, W, C) uint8.

        Raises:
          NonFiniteError: one is not finite.
        """
        size, found = self._size, []
        for start in range(0, len(images), size):
            here = images[start : start + size]
            said = self._call(self._params, parallel.split_batch(np.resize(here, (size, *here.shape[1:]))))
            arrays = {name: parallel.join_batch(x)[: len(here)] for name, x in said.items()}
            logits = arrays.get("logits_unbiased", arrays.get("logits", np.zeros((len(here), 0), np.float32)))
            found.append(FeatureSet(arrays["features"], logits))
        joined = FeatureSet(*(np.concatenate(x) for x in zip(*found, strict=True)))
        if not np.isfinite(joined.features).all():
            raise NonFiniteError("the network of features has numbers that are not finite. Convert its weights again")
        return joined

    def of_dataset(
        self, data: Dataset, examples: np.ndarray, size: int, done: frozenset[int]
    ) -> Iterator[tuple[int, FeatureSet]]:
        """The features of examples of a data set in parts of `size`, with their starts; without those in `done`."""
        left = [start for start in range(0, len(examples), size) if start not in done]
        before = len(examples) - sum(len(examples[start : start + size]) for start in left)
        with Progress("features", len(examples), before, unit="image") as progress:
            for start in left:
                part, found = examples[start : start + size], []
                for first in range(0, len(part), self._size):
                    here = part[first : first + self._size]
                    found.append(self(data.read(here)["image"]))
                    progress.advance(len(here))
                    progress.tick()
                yield start, FeatureSet(*(np.concatenate(x) for x in zip(*found, strict=True)))
