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

from ddx.config.evaluation import checked_settings
from ddx.data import Dataset
from ddx.diffusion.bound.terms import rate_distortion as rate_and_distortion
from ddx.evaluation.bound import Bound
from ddx.evaluation.settings import bound_protocol, bound_settings, default_clip, default_variance
from ddx.evaluation.work import Parts, batch_size, begin, carry_out, open_split, output_folder, record_of
from ddx.runs.data import fingerprint_of, training_images
from ddx.runs.job import Job, Result
from ddx.runs.trained import Trained
from ddx.runtime import devices
from ddx.runtime.errors import NonFiniteError
from ddx.runtime.paths import Path
from ddx.runtime.storage import digest, read_arrays, sha256, write_arrays, write_text
from ddx.sampling import measured

CURVES = ("rate_distortion.csv", "rate_distortion.png")


@devices.job("evaluating", devices.FEWER_AT_ONCE)
def evaluate_bound(workdir: str | Path, rate_distortion: bool = False, **settings: Any) -> Result:
    """Bits per dimension of a data set under a run's averaged weights, and rate and distortion by time.

    Every example's bound is `ddx.bits_per_dim`'s, with noise that depends on (seed, example, time) alone. For an IHDM
    network it is `ddx.heat_bits_per_dim`'s, whose prior is the run's training set. An interrupted evaluation resumes
    after the last batch when it is called again; a finished one changes nothing.

    Args:
      workdir: folder of a training run.
      rate_distortion: also draw what a receiver knows after so many bits.
      **settings: the settings of "bpd" in `ddx.config.evaluation.EVALUATION`.

    Returns:
      What was written, with the result as in bpd.json; its arrays() are the arrays of bpd.npz.

    Raises:
      DdxError: as `ddx.evaluation.evaluate` says.
    """
    work = begin("bpd", workdir, settings)
    source, workdir, given, config = work.source, work.workdir, work.settings, work.source.system.config
    num_steps, variance = given["num_steps"] or None, given["variance"] or default_variance(config)
    clip = default_clip(config, given["clip"])
    trajectory = measured.trajectory(source, workdir, given["trajectory"], num_steps, variance, clip)
    how = bound_settings(config, given | {"trajectory": trajectory}, rate_distortion)
    times = how["times"]
    system, chosen = measured.variance(source, workdir, how["variance"], how["clip"], how.get("probes"))
    examples = open_split(source, given)
    protocol = {
        "of_examples": examples.data.num_examples,
        "weights": "averaged" if source.weights == "ema" else source.weights,
        "num_steps": len(times) - 1,
        **{key: value for key, value in how.items() if key != "times"},
        "noise_draws_per_term": 1,
    }
    record = record_of(work, examples, protocol, times=digest(list(times)))
    record |= measured.origin(source, workdir, how["clip"], how["variance"])
    training = _training(source, how, given["data_dir"])
    if training is not None:
        record["prior"] = fingerprint_of(training, np.arange(training.num_examples))
    out = output_folder(work, "evaluated", examples, **how | {"num_steps": num_steps or len(times) - 1})

    def parts(size: int, done: frozenset[int]) -> Parts:
        bound = Bound(bound_protocol(system, how, chosen or how["variance"], training))
        for start, part in bound.parts(source.params, examples.data, examples.indices, given["seed"], size, done):
            sums = {"terms": part.terms.sum(0), "mse": part.mse.sum(0)}
            yield start, {"total": part.total, "prior": part.prior, "decoder": part.decoder, **sums}

    def tell(result: dict[str, Any]) -> str:
        error = "" if result["standard_error"] is None else f" +- {result['standard_error']:.4f}"
        score = f"{result['bits_per_dim']:.4f}{error} bits/dim of {len(examples.indices)} examples of {examples.split}"
        return f"{score}, {len(times) - 1} steps, variance {how['variance']}"

    return carry_out(
        "bpd",
        out,
        record,
        len(examples.indices),
        batch_size(work, examples),
        files=("bpd.json", "bpd.npz"),
        parts=parts,
        finish=lambda job: _finish(out, job, examples.indices, np.asarray(times[-2::-1]), config.data.low),
        tell=tell,
        pictures=CURVES if rate_distortion else (),
        draw=lambda: _draw(out, config.process.num_steps, config.data.low),
    )


def bits_per_dim(source: Trained, split: str, examples: int, seed: int) -> Callable[[Any], dict[str, float]]:
    """The quick score of `evaluate_bound`: its bits per dimension with the settings that it has by itself."""
    given = checked_settings("bpd", {"split": split, "max_examples": examples, "seed": seed})
    how = bound_settings(source.system.config, given)
    part = open_split(source, given)
    bound = Bound(bound_protocol(source.system, how, how["variance"], _training(source, how, None)))
    size = min(source.system.config.sample.batch_size, len(part.indices))

    def score(params: Any) -> dict[str, float]:
        found = [x for _, x in bound.parts(params, part.data, part.indices, seed, size, frozenset())]
        return {"bits_per_dim": float(np.concatenate([x.total for x in found]).mean())}

    return score


def _training(source: Trained, how: dict[str, Any], data_dir: Path | None) -> Dataset | None:
    """The images of IHDM's prior; None for other bounds."""
    return training_images(source, data_dir) if "delta" in how else None


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
    coding = rate_and_distortion(times, prior, terms, mse, low)
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
    coding = rate_and_distortion(times, prior, terms, mse, low)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["t", "reverse_step", "rate_bits_per_dim", "distortion_rmse_255", "term_bits_per_dim"])
    for t, rate, distortion, term in zip(*coding, terms, strict=True):
        rows.writerow([t, num_steps - t + 1, *(f"{value:.8g}" for value in (rate, distortion, term))])
    write_text(out / CURVES[0], text.getvalue())
    rate_distortion_png(out / CURVES[1], num_steps, *coding, terms)
