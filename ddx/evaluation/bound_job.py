"""Evaluation of a trained network on a data set: a job that may be interrupted at any moment.

bpd.json                   the protocol and, when it is finished, the result: bits/dim and its standard error
bpd.npz                    "total", "prior", "decoder": each example's bits/dim; "example": its index; by "times":
                           "terms", "mse"
rate_distortion.csv, .png  if asked for
"""

import csv
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ddx.diffusion.bound.terms import rate_distortion
from ddx.evaluation.bound import Bound
from ddx.evaluation.settings import CDFS, check_counts, default_clip, default_variance, protocol, settings
from ddx.runs import trained
from ddx.runs.data import fingerprint_of, open_examples, training_images
from ddx.runs.job import Job, Result, working
from ddx.runtime import parallel, storage
from ddx.runtime.arguments import names
from ddx.runtime.errors import ConfigError, NonFiniteError
from ddx.runtime.paths import Path, optional_path, user_path
from ddx.runtime.storage import digest, read_arrays, sha256, write_arrays, write_text
from ddx.sampling import measured

METRICS = ("bpd", "rate_distortion")
CURVES = ("rate_distortion.csv", "rate_distortion.png")


@parallel.job("evaluating", parallel.FEWER_AT_ONCE)
def evaluate(
    workdir: str | Path,
    metrics: tuple[str, ...] = ("bpd",),
    *,
    split: str = "test",
    num_steps: int | None = None,
    trajectory: str | None = None,
    variance: str | None = None,
    clip: bool | None = None,
    cdf: str | None = None,
    delta: float | None = None,
    eta: float | None = None,
    max_examples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    step: int | None = None,
    weights: str | None = None,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
) -> Result:
    """Bits per dimension of a data set under a run's averaged weights, and rate and distortion by time.

    Every example's bound is that of `ddx.bits_per_dim`, with noise that depends on (seed, example, time) alone. That of
    an IHDM network is `ddx.heat_bits_per_dim`, whose prior is the run's training set. An interrupted evaluation goes on
    after the last batch when it is called again; a finished one changes nothing.

    Args:
      workdir: folder of a training run.
      metrics: "bpd", "rate_distortion".
      split: of the run's data set.
      num_steps: steps of the bound; 0 or None for all T, which is what papers report.
      trajectory: the times to visit, as `ddx.trajectory` names them; None for "power2", which is denser near the data,
        where the large terms are: even times give a much looser bound in few steps. "optimal" needs statistics.
      variance: of the reverse steps; None for what the network has learned, or the run's sample.variance. Those of
        `ddx.diffusion.catalogue.ANALYTIC_VARIANCES` need the run's statistics.
      clip: clip the estimate of x_0; None for wherever the network tells it at all times.
      cdf: of the decoder: "exact", "tanh" as in the papers' code, or "softmax"; None for "exact".
      delta: noise of the reverse steps of an IHDM network; None for the run's sample.delta.
      eta: stochasticity of the inference process and of the steps, above 0; None for 1, which is DDPM. The bound of
        DDIM's family grows without end as it goes to 0.
      max_examples: a random part of the split of this size, the same for every network; None for all.
      batch_size: examples at once; None for the run's sample.batch_size.
      seed: names the noise and the part.
      step: of the checkpoint; None for the newest, or for that of the evaluation to go on with in `out`.
      weights: "ema", the averaged ones, or "raw"; None for the run's sample.weights.
      data_dir: where the data set lies, if not where the run found it.
      out: folder to write to; None for one in the workdir named after the protocol.

    Returns:
      What was written, with the result as in bpd.json; its arrays() are the arrays of bpd.npz.

    Raises:
      ConfigError: a setting is invalid, the data are not the network's, or `out` holds another job.
      CheckpointError: the folder has no run, or no usable checkpoint.
      DataError: the data set cannot be read.
      NonFiniteError: a bound is not finite.
      AcceleratorError, OutOfMemoryError: as `ddx.runtime.parallel.job` says.
    """
    workdir, out = user_path(workdir, "--workdir"), optional_path(out, "--out")
    data_dir = optional_path(data_dir, "--data_dir")
    metrics = names("metrics", metrics)
    _check(metrics, cdf, max_examples, batch_size)
    num_steps = num_steps or None
    source = trained.load_for_job(workdir, step, out, "bpd", weights)
    config = source.system.config
    clipped = default_clip(config, clip)
    chosen_name = variance or default_variance(config)
    trajectory = measured.trajectory(source, workdir, trajectory, num_steps, chosen_name, clipped)
    curves = "rate_distortion" in metrics or None
    how = settings(config, num_steps, trajectory, variance, clip, cdf, delta, eta, rate_distortion=curves)
    times, spacing = how["times"], how["trajectory"]
    system, chosen = measured.variance(source, workdir, how["variance"], how["clip"])
    data, examples = open_examples(source, split, data_dir, max_examples, seed)
    count = len(examples)
    name = (
        f"step{source.step}_{split}_n{count}_{num_steps or len(times) - 1}{spacing[:40]}_{how['variance']}_seed{seed}"
    )
    name += f"_eta{how['eta']:g}" if "eta" in how else ""
    name += source.tag + "_unclipped" * (not how["clip"]) + f"_{how['cdf']}" * (how["cdf"] != "exact")
    out = out or workdir / "evaluated" / measured.file_name(name)
    record = {
        **trained.identity(source, workdir),
        "images": fingerprint_of(data, examples),
        "times": digest(list(times)),
        "protocol": {
            "data": data.name,
            "split": split,
            "num_examples": count,
            "of_examples": data.num_examples,
            "weights": "averaged" if source.weights == "ema" else source.weights,
            "num_steps": len(times) - 1,
            **{key: value for key, value in how.items() if key != "times"},
            "noise_draws_per_term": 1,
            "seed": seed,
        },
    }
    record |= measured.origin(source, workdir, how["variance"], how["clip"])
    training = training_images(source, data_dir) if "delta" in how else None
    if training is not None:
        record["prior"] = fingerprint_of(training, np.arange(training.num_examples))
    with working(out):
        job = Job(out, "bpd", record, count, min(batch_size or config.sample.batch_size, count))
        result = job.result("bpd.npz")
        finished = result is not None
        if result is None:
            bound = Bound(protocol(system, how, chosen or how["variance"], training))
            for start, part in bound.parts(source.params, data, examples, seed, job.size, job.begin()):
                sums = {"terms": part.terms.sum(0), "mse": part.mse.sum(0)}
                job.write(start, total=part.total, prior=part.prior, decoder=part.decoder, **sums)
            result = _finish(out, job, examples, np.asarray(times[-2::-1]), config.data.low)
        job.remove_parts()
        drawn = "rate_distortion" not in metrics or all(storage.is_file(out / curve) for curve in CURVES)
        if not drawn:
            _draw(out, config.process.num_steps, config.data.low)
    said = "already there:" if finished and drawn else "wrote"
    files = ("bpd.json", "bpd.npz", *(CURVES if "rate_distortion" in metrics else ()))
    error = "" if result["standard_error"] is None else f" +- {result['standard_error']:.4f}"
    score = f"{result['bits_per_dim']:.4f}{error} bits/dim of {count} examples of {split}"
    line = f"{score}, {len(times) - 1} steps, variance {how['variance']}; {said} {out}/{', '.join(files)}"
    return Result(line, out, files, result)


def bits_per_dim(
    source: trained.Trained, split: str, max_examples: int, seed: int
) -> Callable[[Any], dict[str, float]]:
    """What `evaluate` says of weights with its own settings, for `ddx.evaluation.evaluators`."""
    config = source.system.config
    how = settings(config, None, None, None, None, None, None)
    data, examples = open_examples(source, split, None, max_examples, seed)
    training = training_images(source) if "delta" in how else None
    bound = Bound(protocol(source.system, how, how["variance"], training))
    size = min(config.sample.batch_size, len(examples))

    def score(params: Any) -> dict[str, float]:
        parts = [part for _, part in bound.parts(params, data, examples, seed, size, frozenset())]
        total = np.concatenate([part.total for part in parts])
        return {"bits_per_dim": float(total.mean())}

    return score


def _check(metrics: tuple[str, ...], cdf: str | None, max_examples: int | None, batch_size: int | None) -> None:
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        raise ConfigError(
            f"metrics: {(unknown or ['none'])[0]!r} is unknown. Choose of: {', '.join(METRICS)};"
            " statistics and comparison are jobs of their own"
        )
    if cdf not in (None, *CDFS):
        raise ConfigError(f"cdf={cdf!r} is unknown. Choose one of: {', '.join(CDFS)}")
    check_counts(max_examples, batch_size)


def _finish(out: Path, job: Job, examples: np.ndarray, times: np.ndarray, low: int) -> dict[str, Any]:
    """Put the batches together."""
    found = job.gathered(each=("total", "prior", "decoder"), summed=("terms", "mse"))
    total, prior, decoder = (found[name] for name in ("total", "prior", "decoder"))
    terms, mse = (found[name] / len(total) for name in ("terms", "mse"))
    if not np.isfinite(total).all():
        bad = examples[~np.isfinite(total)]
        raise NonFiniteError(
            f"the bound of {len(bad)} examples is not finite, the first of them example {bad[0]}."
            " Try --clip, or another checkpoint"
        )
    ends = {"prior": prior, "decoder": decoder}
    arrays: dict[str, Any] = {"example": examples, "total": total, **ends, "times": times, "terms": terms, "mse": mse}
    write_arrays(out / "bpd.npz", arrays)
    coding = rate_distortion(times, prior, terms, mse, low)
    last = float(decoder.mean()) if decoder.any() else float(terms[0])
    result = {
        "bits_per_dim": float(total.mean()),
        # Of the mean over examples: their spread and that of the noise. One example tells nothing of it.
        "standard_error": float(total.std(ddof=1) / math.sqrt(len(total))) if len(total) > 1 else None,
        "prior": float(prior.mean()),
        "rate": float(total.mean()) - last,
        "decoder": last,
        "distortion": float(coding.distortion[0]),
        "sha256": sha256(out / "bpd.npz"),
    }
    job.finish(result=result)
    return result


def _draw(out: Path, num_steps: int, low: int) -> None:
    """Rate and distortion by time, as numbers and as a picture."""
    from ddx.evaluation.plots import rate_distortion_png  # matplotlib takes a second to import

    file = read_arrays(out / "bpd.npz")
    times, prior, terms, mse = (file[name] for name in ("times", "prior", "terms", "mse"))
    coding = rate_distortion(times, prior, terms, mse, low)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["t", "reverse_step", "rate_bits_per_dim", "distortion_rmse_255", "term_bits_per_dim"])
    for t, rate, distortion, term in zip(*coding, terms, strict=True):
        rows.writerow([t, num_steps - t + 1, *(f"{value:.8g}" for value in (rate, distortion, term))])
    write_text(out / CURVES[0], text.getvalue())
    rate_distortion_png(out / CURVES[1], num_steps, *coding, terms)
