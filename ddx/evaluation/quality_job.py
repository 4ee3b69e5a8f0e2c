"""Quality against cost: the distance of samples to the data by network evaluations, for several ways to draw.

quality.json       the protocol and, when it is finished, the table
quality.md, .csv   the table, for people and for programs
quality.png        the same as a picture
quality.npz        "fd", "kid", "kid_standard_error", "bits_per_dim", "bits_standard_error": a number for each row
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ddx.config.evaluation import folder_name
from ddx.diffusion.catalogue import MEASURED_SOLVERS, OPTIMAL_TRAJECTORIES, PROBED_VARIANCES, SOLVERS
from ddx.diffusion.reverse.trajectory import counts_itself
from ddx.evaluation import reference_job
from ddx.evaluation.bound import Bound
from ddx.evaluation.discrepancy import kid
from ddx.evaluation.distance_job import reference_of
from ddx.evaluation.feature_sets import Extraction, at_once, chosen_network, extractor
from ddx.evaluation.model_statistics_job import measure_if_none
from ddx.evaluation.reference_job import Reference
from ddx.evaluation.scores import FEW, FEWER, FEWEST, are_few, check_numbers, distance_to
from ddx.evaluation.settings import bound_protocol, bound_settings
from ddx.evaluation.statistics_job import measured_basis
from ddx.evaluation.work import Examples, Parts, Work, batch_size, begin, carry_out, open_split, write_csv
from ddx.features import Extractor
from ddx.runs import trained
from ddx.runs.data import fingerprint_of
from ddx.runs.job import Job, Result
from ddx.runtime import devices
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import Path
from ddx.runtime.storage import digest, sha256, write_arrays, write_text
from ddx.sampling import measured
from ddx.sampling.samples import Drawing, prepare

NUM_STEPS = (5, 10, 20, 50, 100)
MOST_SAMPLES = 1000  # by default
BOUND_EXAMPLES = 500  # of the test split
_SOLVERS = (*SOLVERS, *MEASURED_SOLVERS)
_WRITTEN = ("quality.json", "quality.npz", "quality.md", "quality.csv", "quality.png")


class Point(NamedTuple):
    """A point of the picture: a way to draw with so many steps."""

    walk: str
    num_steps: int


@devices.job("scoring", devices.FEWER_AT_ONCE)
def quality(workdir: str | Path, **settings: Any) -> Result:
    """The curve of the distance to the data, and of the bound, against network evaluations, for several walks.

    A walk is a solver of DDIM's deterministic process, or a variance of ancestral sampling; variances have a bound too,
    with the same steps, unless samples are guided: the bound is the network's. All draw the same images i from the same
    noise. An interrupted job resumes after the last point when it is called again; a finished one changes nothing.

    Args:
      workdir: folder of a training run.
      **settings: the settings of "quality" in `ddx.config.evaluation.EVALUATION`; num_steps are several.

    Returns:
      What was written: printed, the table and a line; its values are {"table": a dict for each point}.

    Raises:
      DdxError: as `ddx.evaluation.evaluate` says; an IHDM network has one way to draw.
    """
    work = begin("quality", workdir, settings)
    work = work._replace(settings=reference_job.completed(work.settings))
    source, workdir, how, config = work.source, work.workdir, work.settings, work.source.system.config
    if config.loss.prediction == "residual":
        raise ConfigError("quality is of walks with fewer steps, and IHDM's goes through all levels. Use --metrics=fd")
    steps = _numbers(how["num_steps"], config.process.num_steps)
    network = extractor(how, chosen_network(how, source.system.image_shape))
    points = [Point(walk, k) for walk in dict.fromkeys(how["walks"].split(",")) for k in steps]
    clip = bound_settings(config, {"clip": how["clip"], "variance": "small"})["clip"]
    spacing = _trajectory(config, how["trajectory"])
    if spacing in OPTIMAL_TRAJECTORIES or any(point.walk.startswith("analytic") for point in points):
        measured_basis(work, clip)
    if any(point.walk in MEASURED_SOLVERS for point in points):
        measure_if_none(work, clip)
    # What is not possible is refused first.
    drawings = {point: _prepare(work, point, spacing, clip) for point in points}
    reference = reference_of(work, network)
    count = how["num_samples"] or min(reference.num_examples or MOST_SAMPLES, MOST_SAMPLES)
    check_numbers(count, reference, network.network)
    drawn_as = next(iter(drawings.values())).config.sample
    guidance = {name: drawn_as[name] for name in ("guidance", "guidance_interval")}
    bounded = drawn_as.guidance == 1 and any(point.walk not in _SOLVERS for point in points)
    examples = _examples(work) if bounded else None
    statistics = {
        point.walk: measured.origin(source, workdir, clip, point.walk) for point in points if point.walk not in SOLVERS
    }
    # The name alone does not tell the times that follow from statistics, of which there may be better ones later.
    times = {"times": digest([d.sampler.times for d in drawings.values()])} if spacing in OPTIMAL_TRAJECTORIES else {}
    record = {
        **trained.identity(source, workdir),
        "images": fingerprint_of(examples.data, examples.indices) if examples else "",
        "statistics": statistics,
        "protocol": {
            "points": [f"{point.walk} {point.num_steps}" for point in points],  # parts are numbered in this order
            "bound_of": f"{len(examples.indices)} examples of {examples.split}" if examples else "",
            "trajectory": spacing,
            **times,
            **({"probes": config.sample.probes} if any(p.walk in PROBED_VARIANCES for p in points) else {}),
            "num_samples": count,
            "clip": clip,
            "cdf": how["cdf"],
            "network": network.network.name,
            "protocol": network.protocol,
            "feature_weights": network.digest,
            "seed": how["seed"],
        },
        "reference": reference.told,
        "sample": guidance,
    }
    used = {"features": network.network.name, "protocol": network.protocol, "num_samples": count, "clip": clip}
    used |= {
        "split": how["split"] or config.data.split,
        "max_examples": reference.num_examples,
        "weights": source.weights,
        **guidance,
    }
    out = how["out"] or workdir / "quality" / folder_name("quality", source.step, how | {"num_steps": steps} | used)

    def parts(size: int, done: frozenset[int]) -> Parts:
        extraction = Extraction(network, min(how["batch_size"] or config.sample.batch_size, at_once()))
        for i, point in enumerate(points):
            if i not in done:
                print(f"{point.walk}, {point.num_steps} steps ({i + 1} of {len(points)})", flush=True)
                yield i, _point(work, point, drawings[point], extraction, network, reference, count, examples, clip)

    few = are_few(count, reference)

    def tell(result: dict[str, Any]) -> str:
        label = network.label
        said = f"{label} of {count} samples each to {reference.name}{f' ({FEWER})' if few else ''}"
        bits = f", bits/dim of {len(examples.indices)} examples of {examples.split}" if examples else ""
        return f"{markdown(result['table'], label)}\n{said}{bits}"

    return carry_out(
        "quality",
        out,
        record,
        len(points),
        1,
        files=_WRITTEN,
        parts=parts,
        finish=lambda job: _finish(out, job, points, drawings, network.label, few),
        tell=tell,
        fixed=True,
    )


def _numbers(num_steps: tuple[int, ...] | None, T: int) -> tuple[int, ...]:
    wrong = [k for k in num_steps or () if not 1 <= k <= T]
    if wrong:
        raise ConfigError(f"num_steps={wrong[0]} must lie in 1..{T} (T of the process)")
    return tuple(sorted(set(num_steps or [min(k, T) for k in NUM_STEPS])))


def _examples(work: Work) -> Examples:
    """What the bound is of: a part of the split that is asked for, otherwise of the test split."""
    how = work.settings
    given = {"data_dir": how["data_dir"], "max_examples": BOUND_EXAMPLES, "seed": 0, "split": how["split"]}
    return open_split(work.source, given)


def _trajectory(config: Any, asked: str | None) -> str:
    """The spacing of times: as asked for, or the run's own, or "uniform" where the run's has a number of steps.

    Raises:
      ConfigError: what is asked for has a number of steps of its own.
    """
    if asked is not None:
        if asked == "full" or counts_itself(asked):
            raise ConfigError(
                f"trajectory={asked!r} has its own number of steps, and quality is of several numbers. Use a spacing,"
                " such as trailing"
            )
        return asked
    own = str(config.sample.trajectory)
    return "uniform" if own == "full" or counts_itself(own) else own


def _prepare(work: Work, point: Point, spacing: str, clip: bool) -> Drawing:
    """How a point's samples are drawn."""
    how, own = work.settings, work.source.system.config.sample
    walk: dict[str, Any] = {"sampler": "ancestral", "variance": point.walk, "solver": "euler"}
    if point.walk in _SOLVERS:
        walk = {"sampler": "ddim", "solver": point.walk, "eta": 0.0}
    given: dict[str, Any] = {"num_steps": point.num_steps, "clip": clip, "keep_eps": False, "clip_percentile": 0.0}
    given |= {name: how[name] for name in ("guidance", "guidance_interval")}
    given["weights"] = work.source.weights
    given["trajectory"] = spacing
    given["batch_size"] = how["batch_size"] or own.batch_size
    return prepare(work.source, work.workdir, how["seed"], None, None, None, None, given | walk)


def _point(
    work: Work,
    point: Point,
    drawing: Drawing,
    extraction: Extraction,
    network: Extractor,
    reference: Reference,
    count: int,
    examples: Examples | None,
    clip: bool,
) -> dict[str, Any]:
    """The numbers of a point."""
    seed = work.settings["seed"]
    batches = drawing.generator().batches(work.source.params, seed, count)
    features = np.concatenate([extraction(batch.images).features for batch in batches])
    found: dict[str, Any] = {"fd": distance_to(features, reference, network.network)}
    if reference.features is not None and min(count, len(reference.features)) >= FEWEST["kid"]:
        kernel = kid(features, reference.features, seed)
        found |= {"kid": kernel.distance, "kid_standard_error": kernel.standard_error}
    if examples is not None and point.walk not in _SOLVERS:
        found |= _bits(work, point, drawing, examples, clip)
    return {name: np.float64(found.get(name, np.nan)) for name in _COLUMNS}


_COLUMNS = ("fd", "kid", "kid_standard_error", "bits_per_dim", "bits_standard_error")


def _bits(work: Work, point: Point, drawing: Drawing, examples: Examples, clip: bool) -> dict[str, float]:
    """The bound with the steps of a point."""
    source = work.source
    trajectory = drawing.config.sample.trajectory
    asked = {"num_steps": point.num_steps, "variance": point.walk, "clip": clip, "cdf": work.settings["cdf"]}
    how = bound_settings(source.system.config, asked | {"trajectory": trajectory})
    system, chosen = measured.variance(source, work.workdir, point.walk, clip, how.get("probes"))
    bound = Bound(bound_protocol(system, how, chosen or point.walk, None))
    size = batch_size(work, examples)
    parts = bound.parts(source.params, examples.data, examples.indices, work.settings["seed"], size, frozenset())
    total = np.concatenate([part.total for _, part in parts])
    error = float(total.std(ddof=1) / math.sqrt(len(total))) if len(total) > 1 else math.nan
    return {"bits_per_dim": float(total.mean()), "bits_standard_error": error}


def _finish(
    out: Path, job: Job, points: list[Point], drawings: Mapping[Point, Drawing], label: str, few: bool
) -> dict[str, Any]:
    """Put the points together."""
    from ddx.evaluation.plots import quality_png  # matplotlib takes a second to import

    columns = {name: np.array([part[name] for part in job.parts()]) for name in _COLUMNS}
    table = []
    for i, point in enumerate(points):
        evaluations = drawings[point].evaluations
        numbers = {name: float(x[i]) if np.isfinite(x[i]) else None for name, x in columns.items()}
        marks = {"distance": label, "few_samples": few}
        table.append(point._asdict() | {"evaluations": evaluations} | numbers | marks)
    write_arrays(out / "quality.npz", columns)
    write_csv(out / "quality.csv", table)
    write_text(out / "quality.md", markdown(table, label) + "\n")
    quality_png(out / "quality.png", table, f"{label} of fewer than {FEW:,} images" if few else label)
    result = {"label": label, "few_samples": few, "table": table, "sha256": sha256(out / "quality.npz")}
    job.finish(result=result)
    return result


def markdown(table: list[dict[str, Any]], label: str) -> str:
    """The table as Markdown: distances by steps, and bits/dim in brackets."""
    steps = sorted({row["num_steps"] for row in table})
    cell = {(row["walk"], row["num_steps"]): row for row in table}
    lines = [f"| {label} (bits/dim) | {' | '.join(f'{k} steps' for k in steps)} |", "| --- " * (len(steps) + 1) + "|"]
    for walk in dict.fromkeys(row["walk"] for row in table):
        cells = []
        for k in steps:
            row = cell[walk, k]
            bits = "" if row["bits_per_dim"] is None else f" ({row['bits_per_dim']:.2f})"
            cells.append(f"{row['fd']:.4g}{bits}")
        lines.append(f"| {walk} | {' | '.join(cells)} |")
    return "\n".join(lines)
