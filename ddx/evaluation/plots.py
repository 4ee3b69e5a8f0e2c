"""Pictures of scores."""

import pathlib

import numpy as np
from matplotlib.figure import Figure

from ddx.files import replacing


def rate_distortion_png(
    path: pathlib.Path, num_steps: int, times: np.ndarray, rate: np.ndarray, distortion: np.ndarray, terms: np.ndarray
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
