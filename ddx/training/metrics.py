"""Metrics of a run: metrics.jsonl, with each logged step once, its scores, and TensorBoard events."""

import json
import pathlib
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from ddx.runtime.files import write_text


class MetricsWriter:
    """Appends to metrics.jsonl, evaluations.jsonl and tensorboard/ in a run's folder."""

    def __init__(self, workdir: pathlib.Path, step: int) -> None:
        """Go on from `step`: lines after it, of steps that will be done again, are dropped."""
        self._path, self._scores = workdir / "metrics.jsonl", workdir / "evaluations.jsonl"
        for path in (self._path, self._scores):
            if path.exists():
                text = path.read_text(errors="replace")
                write_text(path, "".join(line + "\n" for line in _lines_until(text, step)))
        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self._tensorboard.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Log numbers at a step."""
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)
        self._tensorboard.flush()

    def scores(self, step: int, name: str, values: dict[str, float]) -> None:
        """Log what an evaluator found at a step."""
        with open(self._scores, "a") as file:
            file.write(json.dumps({"step": step, "evaluator": name, **values}) + "\n")
        for key, value in values.items():
            self._tensorboard.add_scalar(f"evaluation/{key}", value, step)
        self._tensorboard.flush()

    def has_scores(self, step: int, name: str) -> bool:
        """Whether an evaluator's numbers of a step are there."""
        lines = self._scores.read_text().splitlines() if self._scores.exists() else []
        return any((entry["step"], entry["evaluator"]) == (step, name) for entry in map(json.loads, lines))

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Log an (H, W, 1 or 3) uint8 picture to TensorBoard."""
        self._tensorboard.add_image(name, picture, step, dataformats="HWC")
        self._tensorboard.flush()


def join(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Many calls' metrics, each with a leading axis of steps, as one on the host; {} for none."""
    if not metrics:
        return {}
    return {name: np.concatenate([np.asarray(m[name], np.float64) for m in metrics]) for name in metrics[0]}


def summarise(joined: dict[str, Any]) -> dict[str, float]:
    """Means over the steps of `join`ed metrics: loss and its parts, grad_norm and loss_q0 .. loss_q3.

    loss_q0 is over the lowest quarter of times; a quarter that no example fell into is left out. Steps that were not
    finite changed nothing and do not count; "skipped" says how many, if there were any.
    """
    good = joined["finite"].astype(bool)
    if not good.all():
        joined = {name: each[good] for name, each in joined.items()}
        if not good.any():
            return {"skipped": len(good)}
    values = {name: float(each.mean()) for name, each in joined.items() if each.ndim == 1 and name != "finite"}
    sums, counts = joined["quartile_sum"].sum(0), joined["quartile_count"].sum(0)
    values |= {f"loss_q{i}": float(sums[i] / counts[i]) for i in range(4) if counts[i]}
    return values | ({} if good.all() else {"skipped": int((~good).sum())})


def _lines_until(text: str, step: int) -> list[str]:
    kept = []
    for line in text.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # cut off by a kill in the middle of the line
    return kept
