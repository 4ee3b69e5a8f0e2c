"""The distance of samples to the data, in the features of a network: a job that may be interrupted at any moment.

fd.json    the protocol and, when it is finished, the scores
fd.npz     "features": (N, D) float32; "logits": (N, K), or (N, 0)
grid.png   the first images that were scored
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ddx.config.evaluation import DRAWING, checked_settings, folder_name
from ddx.config.evaluators import EVALUATORS
from ddx.data import Dataset
from ddx.evaluation import reference_job
from ddx.evaluation.feature_sets import Extraction, FeatureSet, at_once, chosen_network, extractor, open_images
from ddx.evaluation.frechet import fitted, frechet_distance
from ddx.evaluation.reference_job import KEPT, Reference
from ddx.evaluation.scores import are_few, check_metrics, check_numbers, scores, told
from ddx.evaluation.work import Parts, Work, begin, carry_out, open_split
from ddx.features import Extractor
from ddx.runs import trained
from ddx.runs.data import fingerprint_of, training_images
from ddx.runs.job import Job, Result
from ddx.runs.trained import Trained
from ddx.runtime import devices
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import Path
from ddx.runtime.pictures import grid, save_png
from ddx.runtime.progress import Progress
from ddx.runtime.storage import read_arrays, sha256, write_arrays
from ddx.sampling import measured
from ddx.sampling.generator import Generator
from ddx.sampling.sampler import make_sampler
from ddx.sampling.samples import Drawing, prepare
from ddx.sampling.settings import describe, to_tell

_SHOWN = 64
_AT_ONCE = 256  # given images
_ALSO = EVALUATORS["fd"].also


class Subject(NamedTuple):
    """The images that are scored.

    Attributes:
      record: what they are, for the record of a job.
      num_images: N.
      size: of a part.
      name: for people.
      batches: (size, starts that are done) -> the start and the images of each part that is left, (n, H, W, C) uint8.
    """

    record: dict[str, Any]
    num_images: int
    size: int
    name: str
    batches: Callable[[int, frozenset[int]], Iterator[tuple[int, np.ndarray]]]


@devices.job("scoring", devices.FEWER_AT_ONCE)
def score_samples(workdir: str | Path | None = None, **settings: Any) -> Result:
    """Distance of a run's samples, or of given images, to a data set in the features of a network, and further scores.

    Samples are drawn, and their features kept, so that further metrics of the same samples cost no drawing. Samples are
    rounded to bytes, as a file of images has them. An interrupted job resumes after the last batch when it is called
    again; a finished one changes nothing.

    Args:
      workdir: folder of a training run; None where `samples`, `reference` and `out` are given.
      **settings: the settings of "fd" in `ddx.config.evaluation`; and fid, is, kid, pr and fd_infinity, each True for
        what is to be found besides fd.

    Returns:
      What was written. Its values are {"label": name of the distance, "fd": the distance} and, as asked for,
      "kid", "kid_standard_error", "kid_subsets", "kid_subset_size"; "is", "is_10", "is_10_std"; "precision", "recall",
      "density", "coverage"; "fd_infinity", "fd_infinity_standard_error".

    Raises:
      DdxError: as `ddx.evaluation.evaluate` says.
    """
    asked = tuple(name for name in _ALSO if settings.pop(name, False))
    how = checked_settings("fd", settings)
    _check_not_drawn(how)
    how = reference_job.completed(how)
    if workdir is None:
        return _score_given(how, asked)
    work = begin("fd", workdir, {name: value for name, value in how.items() if value is not None})
    shape = work.source.system.image_shape
    if how["samples"] is None:
        network, drawing = _network(how, shape, asked), _prepare(work)
        reference = reference_of(work, network)
        count = how["num_samples"] or min(reference.num_examples or KEPT, KEPT)
        subject, what = drawn(work, drawing, count), describe(drawing.config, drawing.variance)
    else:
        images = open_images(how["samples"], "samples", shape[-1] if shape[-1] in (1, 3) else 0)
        network = _network(how, images.image_shape, asked)
        reference = reference_of(work, network)
        subject = _given(how, images)
        what = f"{how['samples'].stem}_{subject.record['samples'][-8:]}"
    out = how["out"] or work.workdir / "scored" / _folder(work, subject, network, reference, what)
    return _score(out, subject, network, reference, asked, how["seed"])


def _score_given(how: dict[str, Any], asked: tuple[str, ...]) -> Result:
    """Scores of images without a run."""
    needs = [name for name in ("samples", "reference", "out") if how[name] is None]
    if needs:
        raise ConfigError(f"--workdir is missing. Name the folder of a run, or give --{', --'.join(needs)} too")
    images = open_images(how["samples"], "samples")
    network = _network(how, images.image_shape, asked)
    reference = _given_reference(how, network, how["out"])
    return _score(how["out"], _given(how, images), network, reference, asked, how["seed"])


def _network(how: dict[str, Any], shape: tuple[int, int, int], asked: tuple[str, ...]) -> Extractor:
    network = extractor(how, chosen_network(how, shape, asked))
    check_metrics(network.network, asked)
    return network


def _check_not_drawn(how: dict[str, Any]) -> None:
    """Refuse settings of drawing for images that are given, and of the run's data for a reference that is."""
    wrong = [name for name in ("num_samples", *DRAWING) if how[name] is not None]
    if how["samples"] is not None and wrong:
        raise ConfigError(f"{wrong[0]} is of samples that are drawn, and --samples names some. Leave out --{wrong[0]}")
    wrong = [name for name in ("split", "max_examples") if how[name] is not None]
    if how["reference"] is not None and wrong:
        raise ConfigError(f"{wrong[0]} is of the run's data, and --reference names others. Leave out --{wrong[0]}")


def reference_of(work: Work, network: Extractor) -> Reference:
    """The reference that a job's settings name, or of a split of the run's data set, extracted if it is not there."""
    if work.settings["reference"] is not None:
        return _given_reference(work.settings, network, work.settings["out"] or work.workdir)
    found = reference_job.of_split(work.source, work.workdir, work.settings, network)
    if "already there" not in found.message:
        print(found, flush=True)
    return reference_job.read(found.out, network)


def _given_reference(how: dict[str, Any], network: Extractor, beside: Path) -> Reference:
    return reference_job.given(how["reference"], network, beside / reference_job.FOLDER)


def _prepare(work: Work) -> Drawing:
    """How samples are drawn, with all settings checked."""
    names = (*DRAWING, "batch_size", "weights")
    settings = {name: work.settings[name] for name in names if work.settings.get(name) is not None}
    data_dir = work.settings["data_dir"] if work.source.system.starts_from_images else None
    return prepare(work.source, work.workdir, work.settings["seed"], None, None, None, data_dir, settings)


def drawn(work: Work, drawing: Drawing, count: int) -> Subject:
    """Samples of a run's network; image i depends only on (seed, i)."""
    source, seed, sample = work.source, work.settings["seed"], drawing.config.sample
    record = {
        **trained.identity(source, work.workdir),
        "num_samples": count,
        "sample": sample.to_dict() | {"variance": drawing.variance},
        **measured.origin(source, work.workdir, sample.clip, drawing.variance, sample.solver),
    }
    if drawing.images is not None:
        record["starts_from"] = fingerprint_of(drawing.images, np.arange(drawing.images.num_examples))
    generator = drawing.generator()
    size = generator.batch_size(count)

    def batches(size: int, done: frozenset[int]) -> Iterator[tuple[int, np.ndarray]]:
        for batch in generator.batches(source.params, seed, count, done):
            yield batch.start, batch.images

    steps = f"{len(drawing.sampler.times) - 1} steps each"
    return Subject(record, count, size, f"samples of step {source.step}, {steps}", batches)


def _given(how: dict[str, Any], data: Dataset) -> Subject:
    """Images that somebody else made."""
    name, size = how["samples"].name, how["batch_size"] or _AT_ONCE
    count = data.num_examples
    if count < 2:
        raise ConfigError(f"--samples={name} holds {count} image, which has no covariance. Give more")
    record = {"weights": "", "samples": fingerprint_of(data, np.arange(count)), "num_samples": count}

    def batches(size: int, done: frozenset[int]) -> Iterator[tuple[int, np.ndarray]]:
        left = [start for start in range(0, count, size) if start not in done]
        sizes = [min(size, count - start) for start in left]
        with Progress("scoring", count, count - sum(sizes), unit="image") as progress:
            for start, number in zip(left, sizes, strict=True):
                yield start, data.read(np.arange(start, start + number))["image"]
                progress.advance(number)
                progress.tick()

    return Subject(record, count, min(size, count), f"images of {name}", batches)


def _folder(work: Work, subject: Subject, network: Extractor, reference: Reference, what: str) -> str:
    """The name of the folder in a run, of the settings and of what is scored."""
    source, how = work.source, work.settings
    used = {
        "features": network.network.name,
        "protocol": network.protocol,
        "num_samples": subject.num_images,
        "weights": source.weights,
        "split": how["split"] or source.system.config.data.split,
        "max_examples": reference.num_examples,
    }
    if how["reference"] is not None:
        used["split"] = f"to-{how['reference'].stem}"
    return f"{folder_name('fd', source.step, how | used)}_{what}"


def _score(
    out: Path, subject: Subject, network: Extractor, reference: Reference, asked: tuple[str, ...], seed: int
) -> Result:
    check_numbers(subject.num_images, reference, network.network, asked)
    record = {
        **subject.record,
        "network": network.network.name,
        "protocol": network.protocol,
        "feature_weights": network.digest,
        "reference": reference.told,
        "seed": seed,
    }

    def parts(size: int, done: frozenset[int]) -> Parts:
        extraction = Extraction(network, min(size, at_once()))
        for start, images in subject.batches(size, done):
            yield start, {**extraction(images)._asdict(), "shown": images[: max(_SHOWN - start, 0)]}

    def finish(job: Job) -> dict[str, Any]:
        found = job.gathered(each=("features", "logits", "shown"))
        save_png(out / "grid.png", grid(found.pop("shown")))
        write_arrays(out / "fd.npz", found)
        result = {"sha256": sha256(out / "fd.npz")}
        job.finish(result=result)
        return result

    def more(job: Job, result: dict[str, Any]) -> dict[str, Any]:
        missing = [name for name in ("fd", *asked) if name not in result.get("metrics", ())]
        if not missing:
            return result
        arrays = read_arrays(out / "fd.npz")
        found = FeatureSet(arrays["features"], arrays["logits"])
        values = scores(found, reference, network.network, tuple(missing), seed)
        metrics = [*result.get("metrics", ()), *missing]
        whole = result | {"label": network.label, "few_samples": are_few(subject.num_images, reference)} | values
        whole["metrics"] = metrics
        job.finish(result=whole)
        return whole

    return carry_out(
        "fd",
        out,
        record,
        subject.num_images,
        subject.size,
        files=("fd.json", "fd.npz", "grid.png"),
        parts=parts,
        finish=finish,
        more=more,
        tell=lambda result: told(result, f"{subject.num_images} {subject.name}", reference, network),
        fixed="samples" not in subject.record,
    )


def distance(source: Trained, split: str, examples: int, seed: int) -> Callable[[Any], dict[str, float]]:
    """The quick score of `score_samples`: the distance of so many samples to so many examples of a split.

    Samples are drawn as the run's config says, and the network of features is the one that ships and suits the images.
    """
    how = checked_settings("fd", {"split": split, "max_examples": examples, "seed": seed})
    part = open_split(source, how)
    if min(examples, len(part.indices)) < 2:
        raise ConfigError(f"fd of {min(examples, len(part.indices))} example: set train.evaluate_examples to 2 or more")
    network = extractor(how, chosen_network(how, source.system.image_shape))
    extraction = Extraction(network)
    ((_, found),) = extraction.of_dataset(part.data, part.indices, len(part.indices), frozenset())
    reference = fitted(found.features)
    system, images = source.system, training_images(source)
    generator = Generator(system, make_sampler(system.config, system), told=to_tell(system, None), images=images)
    name = network.network.label.lower().replace("-", "_")

    def score(params: Any) -> dict[str, float]:
        samples = extraction(generator(params, seed, examples)).features
        return {name: frechet_distance(fitted(samples), reference)}

    return score
