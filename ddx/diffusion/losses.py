"""Training objectives, one value per example; nothing is reduced over the batch."""

from typing import Any

import jax.numpy as jnp

from ddx.diffusion.gaussian import q_sample
from ddx.diffusion.prediction import ModelFn, split_output, target
from ddx.diffusion.process import Process


def simple_loss(process: Process, model_fn: ModelFn, x_0: Any, t: Any, noise: Any, prediction: str = "eps") -> Any:
    """L_simple, the unweighted squared error of the network's output (DDPM eq. 14 for "eps").

    Args:
      process: the process.
      model_fn: model_fn(x_t, model_time) -> raw output; channels past C are ignored.
      x_0: (B, H, W, C) data in [-1, 1].
      t: (B,) times in 1..T.
      noise: like x_0, standard normal.
      prediction: what the network outputs: "eps", "x0", "v" or "mean".

    Returns:
      (B,) mean squared errors. DDIM's code sums over pixels instead: multiply by H * W * C.
    """
    x_t = q_sample(process, x_0, t, noise)
    output, _ = split_output(model_fn(x_t, process.model_time(t)), x_0.shape[-1])
    return jnp.mean(jnp.square(output - target(process, prediction, x_0, x_t, t, noise)), axis=(1, 2, 3))
