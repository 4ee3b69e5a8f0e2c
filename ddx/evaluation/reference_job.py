"""Features of a data set, which the distances of samples are to: a job that may be interrupted at any moment.

reference.json   the data, the network of features, its protocol and weights
reference.npz    "mean", "covariance": of all features, float64; "features": (n, D) float32 of at most 50,000 of them,
                 evenly chosen, which kernel distances and manifolds need; "num_examples"
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ddx.data.npy import SUFFIXES
from ddx.evaluation.feature_sets import Extraction, at_once, chosen_network, extractor, open_images
from ddx.evaluation.frechet import Gaussian, Moments, gaussian, joined, moments
from ddx.evaluation.work import Examples, Parts, begin, carry_out, open_split
from ddx.features import Extractor
from ddx.runs.data import fingerprint_of
from ddx.runs.job import DAMAGE, Job, Result, read_record
from ddx.runs.trained import Trained
from ddx.runtime import devices, storage
from ddx.runtime.errors import ConfigError, DataError
from ddx.runtime.paths import Path
from ddx.runtime.storage import read_arrays, sha256, write_arrays

FOLDER = "references"
KEPT = 50_000  # features at most
_PARTS = 16  # each holds a covariance


class Reference(NamedTuple):
    """What distances are to.

    Attributes:
      gaussian: of all features.
      features: (n, D); None where only mean and covariance are known.
      num_examples: of the data; 0 if unknown.
      told: what the record of a job says of it.
      name: for people.
    """

    gaussian: Gaussian
    features: np.ndarray | None
    num_examples: int
    told: dict[str, Any]
    name: str


@devices.job("extracting features", devices.FEWER_AT_ONCE)
def make_reference(workdir: str | Path, **settings: Any) -> Result:
    """Extract the features of a split of a run's data set, for `fd` and `quality`, which do it themselves if need be.

    An interrupted job resumes when it is called again; a finished one changes nothing.

    Args:
      workdir: folder of a training run, whose config says what the images are.
      **settings: the settings of "reference" in `ddx.config.evaluation.EVALUATION`.

    Returns:
      What was written; its arrays() are the arrays of reference.npz.

    Raises:
      DdxError: as `ddx.evaluation.evaluate` says.
    """
    work = begin("reference", workdir, settings)
    network = chosen_network(work.settings, work.source.system.image_shape)
    found = extractor(work.settings, network)
    how = work.settings
    return of_split(work.source, work.workdir, how, found, how["out"], how["batch_size"])


def of_split(
    source: Trained,
    workdir: Path,
    how: Mapping[str, Any],
    network: Extractor,
    out: Path | None = None,
    batch_size: int | None = None,
) -> Result:
    """`make_reference` with a network of features that is loaded, and into a folder of the run if no other is given."""
    examples = open_split(source, how, default=source.system.config.data.split)
    name = f"{_name(network)}_{examples.split}_n{len(examples.indices)}"
    if len(examples.indices) < examples.data.num_examples:
        name += f"_seed{how['seed']}"
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
    return extract(out or workdir / FOLDER / name, examples, network, batch_size)


def extract(out: Path, examples: Examples, network: Extractor, batch_size: int | None = None) -> Result:
    """Write the features of some examples into a folder, `batch_size` at once."""
    data, count = examples.data, len(examples.indices)
    if count < 2:
        raise ConfigError(f"{count} example of {data.name} {examples.split} has no covariance. Use more --max_examples")
    stride = math.ceil(count / KEPT)
    record = {
        "weights": network.digest,
        "network": network.network.name,
        "protocol": network.protocol,
        "data": data.name,
        "split": examples.split,
        "num_examples": count,
        "images": fingerprint_of(data, examples.indices),
    }

    def parts(size: int, done: frozenset[int]) -> Parts:
        for start, found in Extraction(network, batch_size).of_dataset(data, examples.indices, size, done):
            kept = found.features[-start % stride :: stride]
            yield start, {**moments(found.features)._asdict(), "features": kept}

    return carry_out(
        "reference",
        out,
        record,
        count,
        math.ceil(count / _PARTS / at_once(batch_size)) * at_once(batch_size),
        files=("reference.json", "reference.npz"),
        parts=parts,
        finish=lambda job: _finish(out / "reference.npz", job),
        tell=lambda result: f"features of {count} examples of {data.name} {examples.split}, {_of(network)}",
    )


def _name(network: Extractor) -> str:
    """A network with its protocol and weights in the name of a folder."""
    return f"{network.network.name}_{network.protocol}_{network.digest[:8]}"


def _of(network: Extractor) -> str:
    return f"{network.network.name} ({network.protocol})"


def _finish(path: Path, job: Job) -> dict[str, Any]:
    features: list[np.ndarray] = []

    def each() -> Iterator[Moments]:
        for part in job.parts():
            features.append(part["features"])
            yield Moments(int(part["num_examples"]), part["mean"], part["scatter"])

    total = joined(each())
    kept = np.concatenate(features)
    write_arrays(
        path,
        {
            "features": kept,
            "mean": total.mean,
            "covariance": total.covariance,
            "num_examples": np.array(total.num_examples),
        },
    )
    result = {"sha256": sha256(path)}
    job.finish(result=result)
    return result


def completed(how: dict[str, Any]) -> dict[str, Any]:
    """Settings with the network and the protocol that their reference was made with, where they name no others."""
    path = how["reference"]
    record = read_record(path / "reference.json") if path is not None and storage.is_dir(path) else {}
    made = {"features": record.get("network"), "protocol": record.get("protocol")}
    return how | {name: how[name] or value for name, value in made.items()}


def read(path: Path, network: Extractor) -> Reference:
    """The reference in a folder that `extract` wrote.

    Raises:
      ConfigError: it was made by another network, weights or protocol, or is not finished.
      DataError: it is damaged.
    """
    record = read_record(path / "reference.json")
    finished = record.get("result")
    if not isinstance(finished, dict):
        raise ConfigError(f"{path} has no finished reference. Run --metrics=reference, or name another --reference")
    is_so = {"network": network.network.name, "protocol": network.protocol, "weights": network.digest}
    for name, value in is_so.items():
        if record.get(name) != value:
            flag = {"network": "features", "protocol": "protocol", "weights": "feature_weights"}[name]
            raise ConfigError(
                f"{path} was made with {name} {record.get(name)}, not {value}, and the two do not compare. Use another"
                f" --reference, or --{flag} as it was"
            )
    try:
        checksum = sha256(path / "reference.npz")
        arrays = read_arrays(path / "reference.npz")
        if checksum != finished.get("sha256"):
            raise ValueError("its checksum is not the one in reference.json")
        of_all = gaussian(arrays["mean"], arrays["covariance"])
        features, count = arrays["features"], int(arrays["num_examples"])
    except DAMAGE as error:
        raise DataError(f"{path}/reference.npz cannot be used ({error}). Remove it and make it again") from None
    name = f"{record.get('data')} {record.get('split')}"
    told = {"of": name, "num_examples": count, "images": record.get("images")}
    return Reference(of_all, features, count, told, f"{count} examples of {name}")


def given(path: Path, network: Extractor, folder: Path) -> Reference:
    """What a user names: a folder of `make_reference`, an .npz file of mu and sigma, or images.

    Features of images are written into a folder of their own in `folder`.

    Raises:
      ConfigError: it was made otherwise than the samples' features will be.
      DataError: it cannot be used.
    """
    if storage.is_file(path / "reference.json"):
        return read(path, network)
    if path.suffix == ".npz" and (found := _moments(path)) is not None:
        return _of_moments(path, *found, network)
    if path.suffix not in SUFFIXES and not storage.is_dir(path):
        raise DataError(f"--reference={path} is no folder and no NumPy file. Name a folder of --metrics=reference")
    data = open_images(path, "reference")
    examples = Examples(path.name, data, np.arange(data.num_examples))
    out = folder / f"{path.stem}_{fingerprint_of(data, examples.indices)[-8:]}_{_name(network)}"
    extract(out, examples, network)
    return read(out, network)


def _moments(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """What is called mu and sigma in an .npz file, as most codes write them; None if there are none."""
    try:
        with np.load(storage.on_this_machine(path), allow_pickle=False) as file:
            if not {"mu", "sigma"} <= set(file.files):
                return None
            return file["mu"], file["sigma"]
    except DAMAGE as error:
        raise DataError(f"--reference={path} cannot be used ({error}). Name another file") from None


def _of_moments(path: Path, mean: np.ndarray, covariance: np.ndarray, network: Extractor) -> Reference:
    size = network.network.num_features
    if mean.shape != (size,) or covariance.shape != (size, size):
        raise DataError(
            f"--reference={path}: mu and sigma have the shapes {mean.shape} and {covariance.shape}; the features of"
            f" {network.network.name} are {size}. Use the network that they were made with, by --features"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"--reference={path} has numbers that are not finite. Name another file")
    told = {"of": path.name, "sha256": sha256(path), "protocol": "not told by the file"}
    return Reference(gaussian(mean, covariance), None, 0, told, f"{path.name}, whose protocol is not known")
