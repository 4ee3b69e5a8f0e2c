"""Pictures of scores."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ddx.runtime.paths import Path
from ddx.runtime.storage import replacing


def rate_distortion_png(
    path: Path, num_steps: int, times: np.ndarray, rate: np.ndarray, distortion: np.ndarray, terms: np.ndarray
) -> None:
    """DDPM's figure 5 (distortion and rate as the receiver goes on, and against each other) and the bound by time.

    Args:
      path: of the PNG file.
      num_steps: T.
      times: (K,) ascending.
      rate: (K,) bits/dim.
      distortion: (K,) root mean squared errors on 0..255.
      terms: (K,) bits/dim.
    """
    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    reverse = num_steps - times + 1
    marker = "." if len(times) < 100 else None
    for axes, (x, y, x_label, y_label) in zip(
        panels,
        [
            (reverse, distortion, "reverse process step T - t + 1", "distortion (RMSE, 0..255)"),
            (reverse, rate, "reverse process step T - t + 1", "rate (bits/dim)"),
            (rate, distortion, "rate (bits/dim)", "distortion (RMSE, 0..255)"),
            (times, terms, "t", "term of the bound (bits/dim)"),
        ],
        strict=True,
    ):
        axes.plot(x, y, marker=marker)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.grid(alpha=0.3)
    panels[3].set(xscale="log", yscale="log")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def comparison_png(path: Path, table: list[dict[str, Any]]) -> None:
    """Bits per dimension by the number of steps, a line for each variance and trajectory.

    Args:
      path: of the PNG file.
      table: rows with "variance", "trajectory", "num_steps" and "bits_per_dim".
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    variances = list(dict.fromkeys(row["variance"] for row in table))
    for style, spacing in zip(("--", "-"), dict.fromkeys(row["trajectory"] for row in table), strict=False):
        for i, variance in enumerate(variances):
            rows = [row for row in table if (row["variance"], row["trajectory"]) == (variance, spacing)]
            steps, bits = [row["num_steps"] for row in rows], [row["bits_per_dim"] for row in rows]
            axes.plot(steps, bits, style, color=f"C{i}", marker=".", label=f"{variance}, {spacing}")
    best = min(row["bits_per_dim"] for row in table)
    axes.set(xscale="log", xlabel="steps", ylabel="bits/dim", ylim=(best - 0.1, best + 3.0))
    axes.set_xticks(sorted({row["num_steps"] for row in table}), minor=False)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def quality_png(path: Path, table: list[dict[str, Any]], label: str) -> None:
    """Distance and bits per dimension against network evaluations, a line for each walk.

    Args:
      path: of the PNG file.
      table: rows with "walk", "evaluations", "fd" and "bits_per_dim", which may be None.
      label: of the distance.
    """
    bounded = any(row["bits_per_dim"] is not None for row in table)
    figure = Figure(figsize=(12 if bounded else 7, 5), layout="constrained")
    panels = figure.subplots(1, 2 if bounded else 1, squeeze=False)[0]
    for axes, column, name in zip(panels, ("fd", "bits_per_dim"), (label, "bits/dim"), strict=False):
        for i, walk in enumerate(dict.fromkeys(row["walk"] for row in table)):
            rows = [row for row in table if row["walk"] == walk and row[column] is not None]
            x, y = [row["evaluations"] for row in rows], [row[column] for row in rows]
            axes.plot(x, y, color=f"C{i}", marker=".", label=walk if rows else None)
        axes.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel=name)
        axes.set_xticks(sorted({row["num_steps"] for row in table}), minor=False)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_formatter("")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
