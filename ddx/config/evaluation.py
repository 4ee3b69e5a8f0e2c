"""The settings of evaluators, one row each.

The rows make the flags of `launch.evaluate`, what `ddx.evaluation` accepts, the names of its folders, and the table of
docs/evaluation.md. A new setting is a row here and its use in the evaluator's file in `ddx/evaluation`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from ddx.config.evaluators import EVALUATORS
from ddx.config.key import MOST_STEPS, Key, above, between, one_of, within
from ddx.config.sampling import MOST_SAMPLES, MOST_TIMES, SAMPLING
from ddx.diffusion.catalogue import CDFS, MEASURED_SOLVERS, SOLVERS, VARIANCES
from ddx.features.networks import NETWORKS
from ddx.runtime.arguments import integers
from ddx.runtime.errors import ConfigError, did_you_mean
from ddx.runtime.paths import Path, user_path


@dataclass(frozen=True)
class Setting(Key):
    """One setting of evaluations. Its default is mostly None: what the job then uses, `unset` tells."""

    kind: type = str  # of its values
    unset: str = ""
    jobs: tuple[str, ...] = ()  # the evaluators that take it; empty: all
    several: tuple[str, ...] = ()  # of these, the ones that take a tuple of values

    @property
    def help(self) -> str:
        """What its flag says of it."""
        of = f" ({', '.join(self.jobs)})" if self.jobs else ""
        limit = f" ({self.limit})" if self.limit and not self.choices else ""
        return f"{self.meaning[0].upper()}{self.meaning[1:]}{limit}{of}; by default {self.unset or self.default}."


MOST_EXAMPLES = 1_000_000_000
_SOLVERS = (*SOLVERS, *MEASURED_SOLVERS)


def _of_sampling(name: str, *jobs: str, meaning: str = "", is_named: bool = False) -> Setting:
    """A setting of `launch.sample` for some jobs, in the names of whose folders it is or not; unset, the run's."""
    key = SAMPLING[name]
    return Setting(
        None,
        meaning or key.meaning,
        limit=key.limit,
        holds=lambda value: key.holds(value) or value in key.also,
        choices=key.choices,
        also=key.also,
        kind=key.kind,
        unset="the run's",
        jobs=jobs,
        tag=key.tag if is_named else None,
    )


EVALUATION: dict[str, Setting] = {
    "split": Setting(
        None,
        "split of the run's data set",
        unset="test; of statistics and of distances the one it was trained on",
        tag=lambda s: f"_{s.split}",
    ),
    "max_examples": Setting(
        None,
        "size of a random part of the split, the same for every network; statistics need a few hundred",
        **within(1, MOST_EXAMPLES),
        kind=int,
        unset="all of it",
        tag=lambda s: f"_n{s.max_examples}",
    ),
    "num_steps": Setting(
        None,
        "steps of the bound, 0 for all T, which is what papers report; of a comparison or quality several, such as"
        " 10,25",
        **within(0, MOST_TIMES),
        kind=int,
        unset="all T; of a comparison 10, 25, 50, 100 and all T; of quality 5, 10, 20, 50 and 100",
        jobs=("bpd", "comparison", "quality"),
        several=("comparison", "quality"),
        tag=lambda s: "_" + "-".join(map(str, s.num_steps if isinstance(s.num_steps, tuple) else [s.num_steps])),
    ),
    "trajectory": Setting(
        None,
        "times to visit, as launch.sample names them; statistics are needed for optimal and optimal_pictures",
        unset="full, or power2 for fewer than T steps: dense near the data, where the large terms are; of quality the"
        " run's",
        jobs=("bpd", "quality"),
        tag=lambda s: (s.trajectory or "")[:40],
    ),
    "variance": Setting(
        None,
        "variance of the reverse steps: small, large, a learned or an optimal one; most of these need statistics",
        **one_of(*VARIANCES),
        unset="what the network has learned, or the run's",
        jobs=("bpd",),
        tag=lambda s: f"_{s.variance}",
    ),
    "probes": _of_sampling("probes", "bpd", is_named=True),
    "basis": Setting(
        "dct",
        "coordinates to tell apart: dct, frequencies, or pixel",
        **one_of("dct", "pixel"),
        jobs=("statistics", "model_statistics"),
        tag=lambda s: f"_{s.basis}",
    ),
    "seed": Setting(
        0,
        "name of the noise and of the part of the split",
        **between(0, 2**32),
        kind=int,
        tag=lambda s: f"_seed{s.seed}",
    ),
    "eta": Setting(
        1.0,
        "stochasticity of the inference process and the steps, 1 for DDPM; towards 0 the bound grows without end",
        **above(0, 100),
        kind=float,
        jobs=("bpd",),
        tag=lambda s: "" if s.eta == 1 else f"_eta{s.eta:g}",
    ),
    "weights": _of_sampling("weights", is_named=True),
    "clip": Setting(
        None,
        "clipping of the estimate of x_0; --noclip: none",
        kind=bool,
        unset="where the network tells it at all times",
        jobs=("bpd", "statistics", "model_statistics", "comparison", "quality"),
        tag=lambda s: "" if s.clip else "_unclipped",
    ),
    "cdf": Setting(
        "exact",
        "decoder: exact, tanh, the approximation that the papers' numbers were made with, or softmax, VDM's",
        **one_of(*CDFS),
        jobs=("bpd", "comparison", "quality"),
        tag=lambda s: "" if s.cdf == "exact" else f"_{s.cdf}",
    ),
    "delta": Setting(
        None,
        "noise of the reverse steps of IHDM, whose bound takes no other setting of its own",
        **above(0, 100),
        kind=float,
        unset="the run's",
        jobs=("bpd",),
    ),
    "features": Setting(
        None,
        "network whose features are compared",
        **one_of(*NETWORKS),
        unset="inception for fid; digits for grey images of at most 16 x 16; efficientnet_lite0 for others",
        jobs=("reference", "fd", "quality"),
        tag=lambda s: f"_{s.features}",
    ),
    "protocol": Setting(
        None,
        "way to bring images to what the network of features takes",
        **one_of(*dict.fromkeys(name for network in NETWORKS.values() for name in network.protocols)),
        unset="the network's first",
        jobs=("reference", "fd", "quality"),
        tag=lambda s: f"_{s.protocol}",
    ),
    "feature_weights": Setting(
        None,
        "file of the weights of the network of features, as launch.convert writes it",
        kind=Path,
        unset="where launch.convert puts it",
        jobs=("reference", "fd", "quality"),
    ),
    "num_samples": Setting(
        None,
        "samples to draw; published numbers are of 50,000",
        **within(2, MOST_SAMPLES),
        kind=int,
        unset="as many as the data that they are compared with, at most 50,000; of quality at most 1,000",
        jobs=("fd", "quality"),
        tag=lambda s: f"_of{s.num_samples}",
    ),
    "samples": Setting(
        None,
        "images to score instead of drawing some: a folder of pictures, a .npy or an .npz file",
        kind=Path,
        unset="samples of the run's network",
        jobs=("fd",),
    ),
    "reference": Setting(
        None,
        "what to compare with: a folder of --metrics=reference, a folder or a file of images, or an .npz file of mu and"
        " sigma",
        kind=Path,
        unset="the split of the run's data set",
        jobs=("fd", "quality"),
    ),
    "walks": Setting(
        "euler,dpmpp_2m,small,large,analytic",
        "ways to draw: solvers, which are deterministic, and variances of ancestral sampling",
        limit=f"names of solvers ({', '.join(_SOLVERS)}) and variances ({', '.join(VARIANCES)}), such as euler,small",
        holds=lambda value: bool(value) and set(value.split(",")) <= {*_SOLVERS, *VARIANCES},
        jobs=("quality",),
        tag=lambda s: "_" + s.walks.replace(",", "-")[:60],
    ),
    "guidance": _of_sampling(
        "guidance",
        "quality",
        meaning="scale of classifier-free guidance; a guided curve has no bits/dim, which are the network's",
        is_named=True,
    ),
    "guidance_interval": _of_sampling("guidance_interval", "quality"),
    "batch_size": Setting(
        None,
        "examples at once",
        **within(1, MOST_EXAMPLES),
        kind=int,
        unset="the run's sample.batch_size; of a reference 32 a device, of given images 256",
    ),
    "step": Setting(
        None,
        "step of the checkpoint",
        **within(0, MOST_STEPS),
        kind=int,
        unset="the newest, or the step of the job to resume in --out",
    ),
    "data_dir": Setting(None, "place of the data set", kind=Path, unset="where the run found it"),
    "out": Setting(None, "folder to write to", kind=Path, unset="one in the workdir, named after the settings"),
}


# What `launch.sample` says of a setting holds for samples that are scored, too.
DRAWING = {
    name: _of_sampling(name, *(job for job, evaluator in EVALUATORS.items() if evaluator.draws))
    for name, key in SAMPLING.items()
    if key.is_flag and not (name in EVALUATION and not EVALUATION[name].jobs)
}
FLAGS: dict[str, Setting] = DRAWING | {
    name: replace(row, meaning=f"{row.meaning}; of fd as in launch.sample") if name in DRAWING else row
    for name, row in EVALUATION.items()
}
"""The settings of all evaluators; where a name is in both tables, a job has the row that is for it."""


def rows_of(job: str) -> dict[str, Setting]:
    """The settings that an evaluator's job takes."""
    own = {name: row for name, row in EVALUATION.items() if job in row.jobs or not row.jobs}
    return ({name: row for name, row in DRAWING.items() if job in row.jobs}) | own


def checked_settings(job: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of an evaluator's job: what is given, or the default of what is not, or None.

    Raises:
      ConfigError: a setting is unknown, belongs to another job, has another type or is out of range.
    """
    rows = rows_of(job)
    for name, value in given.items():
        if name not in FLAGS:
            raise ConfigError(f"unknown setting {name}. {did_you_mean(name, rows)}Settings: {', '.join(rows)}")
        if value is not None and name not in rows:
            jobs = dict.fromkeys([*FLAGS[name].jobs, *(DRAWING[name].jobs if name in DRAWING else ())])
            raise ConfigError(f"{name} is of {' and '.join(jobs)}, not {job}. Leave out --{name}")
    values = {name: given.get(name) for name in rows}
    return {
        name: row.default if values[name] is None else _checked(job, name, row, values[name])
        for name, row in rows.items()
    }


def folder_name(job: str, step: int, values: Mapping[str, Any]) -> str:
    """The name of the folder of an evaluator's job on the checkpoint of a step; no value is left out as default."""
    s = SimpleNamespace(**values)
    name = f"step{step}" + "".join(row.tag(s) for row in rows_of(job).values() if row.tag is not None)
    # A split may be an expression such as test[:100].
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def _checked(job: str, name: str, row: Setting, value: Any) -> Any:
    if row.kind is Path:
        return user_path(value, f"--{name}")
    if job in row.several:
        return tuple(row.checked(name, one) for one in integers(name, value))
    if (several := FLAGS[name].several) and isinstance(value, list | tuple):
        if len(value) != 1:
            raise ConfigError(f"{name}: several are for --metrics={' or '.join(several)}. Give one")
        (value,) = value
    return row.checked(name, value)
