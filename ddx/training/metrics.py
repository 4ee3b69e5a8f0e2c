"""Metrics of a run: metrics.jsonl, with each logged step once, its scores, and TensorBoard events."""

import json
from typing import Any

import numpy as np

from ddx.runtime.growing import GrowingFile
from ddx.runtime.paths import Path


class MetricsWriter:
    """Appends to metrics.jsonl, evaluations.jsonl and tensorboard/ in a run's folder."""

    def __init__(self, workdir: Path, step: int) -> None:
        """Resume at `step`: lines after it, of steps that will be done again, are dropped."""
        from ddx.training.tensorboard import Events  # tensorboardX imports PyTorch, where it is installed: seconds

        def is_kept(line: str) -> bool:
            try:
                return bool(json.loads(line)["step"] <= step)
            except (ValueError, KeyError, TypeError):
                return False  # cut off by a kill in the middle of the line

        self._metrics = GrowingFile(workdir / "metrics.jsonl", is_kept)
        self._scores = GrowingFile(workdir / "evaluations.jsonl", is_kept)
        self._events = Events(workdir / "tensorboard", step)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self.flush()
        self._events.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Log numbers at a step."""
        self._metrics.add(json.dumps({"step": step, **values}))
        self._events.scalars(step, values)

    def scores(self, step: int, name: str, values: dict[str, float]) -> None:
        """Log what an evaluator found at a step."""
        self._scores.add(json.dumps({"step": step, "evaluator": name, **values}))
        self._events.scalars(step, {f"evaluation/{key}": value for key, value in values.items()})

    def has_scores(self, step: int, name: str) -> bool:
        """Whether an evaluator's numbers of a step are there."""
        entries = map(json.loads, self._scores.lines)
        return any((entry["step"], entry["evaluator"]) == (step, name) for entry in entries)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Log an (H, W, 1 or 3) uint8 picture to TensorBoard."""
        self._events.picture(step, name, picture)

    def flush(self) -> None:
        """Bring all of it to where it belongs, before the checkpoint that it leads to."""
        self._metrics.flush()
        self._scores.flush()
        self._events.flush()


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
