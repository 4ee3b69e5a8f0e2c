"""Training objectives, one value per example; nothing is reduced over the batch.

Times are the noise levels 1..T that a network knows: any other, a 0-based index say, is refused where it is known on
the host, and makes its example's loss NaN in the graph.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import check_floats
from ddx.diffusion.gaussian import q_sample
from ddx.diffusion.levels import is_host
from ddx.diffusion.likelihood import bound_term
from ddx.diffusion.prediction import ModelFn, denoiser, known, network_times, split_output, target
from ddx.diffusion.process import Process
from ddx.diffusion.steps import chain_rows
from ddx.diffusion.variance import VarianceFn, variance_fn


class HybridLoss(NamedTuple):
    """L_hybrid of each example and its two parts, (B,) each."""

    loss: Any
    mse: Any  # L_simple
    vb: Any  # the term of the bound, bits/dim


class HeadLoss(NamedTuple):
    """Of a network and the head that predicts its second moment, (B,) each."""

    mse: Any  # L_simple, as of `simple_loss`
    head: Any  # the head's mean squared error


def simple_loss(process: Process, model_fn: ModelFn, x_0: Any, t: Any, noise: Any, prediction: str = "eps") -> Any:
    """L_simple, the unweighted squared error of the network's output (DDPM eq. 14 for "eps").

    Args:
      process: the process.
      model_fn: model_fn(x_t, model_time) -> raw output; channels past C are ignored.
      x_0: (B, H, W, C) data in the process's range, [-1, 1] for most.
      t: (B,) times in 1..T, or real ones in [0, T] where they are continuous.
      noise: like x_0, standard normal.
      prediction: what the network outputs: "eps", "x0", "v", "mean" or "residual" (IHDM's loss).

    Returns:
      (B,) mean squared errors. DDIM's and IHDM's code sum over pixels instead: multiply by H * W * C.

    Raises:
      ValueError: x_0 or noise are not floating-point numbers or differ in shape, or a time is no noise level.
    """
    t, x_t = _diffused(process, x_0, t, noise)
    output, _ = split_output(model_fn(x_t, process.model_time(t)), x_0.shape[-1])
    return known(process, t, _squared_error(process, output, x_0, x_t, t, noise, prediction))


def head_loss(
    process: Process, model_fn: ModelFn, x_0: Any, t: Any, noise: Any, head: str, prediction: str = "eps"
) -> HeadLoss:
    """The losses of SN- and NPR-DPM's heads (Bao et al. 2022b), and the network's own beside them.

    With y what the network predicts, in coordinates of the basis, "sn" fits E[y^2 given x_t] and "npr" the squared
    error of its own prediction, which has no gradient.

    Args:
      process: here and below, all but `head` are as `simple_loss`'s.
      model_fn: the network, of 2 C output channels, the second half its head.
      x_0: the data.
      t: the times.
      noise: the noise.
      head: "sn" or "npr".
      prediction: what the first C channels are.

    Returns:
      Both losses; their code sums over pixels instead: multiply by H * W * C. Its joint training of "npr" is "sn" for a
      network whose second half is g + eps^2, g and eps its own: the gradient of the head's loss then moves eps too.

    Raises:
      ValueError: the head is unknown, or the network has none; or as `simple_loss`.
    """
    if head not in ("sn", "npr"):
        raise ValueError(f"head {head!r} is unknown; choose sn or npr")
    t, x_t = _diffused(process, x_0, t, noise)
    output, extra = split_output(model_fn(x_t, process.model_time(t)), x_0.shape[-1])
    if extra is None:
        raise ValueError(f"head {head!r} needs a network with 2 C output channels, the second half its head")
    y = process.basis.analysis(target(process, prediction, x_0, x_t, t, noise))
    error = jnp.square(y - process.basis.analysis(output))
    goal = jnp.square(y) if head == "sn" else jax.lax.stop_gradient(error)
    losses = error.mean((1, 2, 3)), jnp.square(goal - extra).mean((1, 2, 3))
    return HeadLoss(*(known(process, t, loss) for loss in losses))


def kl_loss(
    process: Process,
    model_fn: ModelFn,
    x_0: Any,
    t: Any,
    noise: Any,
    prediction: str = "eps",
    variance: str | VarianceFn = "range",
    rescaled: bool = True,
    cdf: str = "exact",
) -> Any:
    """L_vlb: the bound's term at t (Improved DDPM eq. 4), with gradients for the mean and for the variance.

    Args:
      process: the process.
      model_fn: model_fn(x_t, model_time) -> raw output, 2 C channels if the variance is learned; nothing is clipped.
      x_0: (B, H, W, C) grey levels k / 127.5 - 1.
      t: (B,) times in 1..T.
      noise: like x_0, standard normal.
      prediction: what the first C channels are.
      variance: "small", "large", "learned", "range", or a function (d, step) -> variance.
      rescaled: times T, which makes its mean over uniform t the bound in bits/dim, but for the prior and, with noise at
        t = 0, the decoder, which have no network.
      cdf: of the decoder, "exact" or "tanh"; see `ddx.diffusion.decoder`.

    Returns:
      (B,) bits/dim.

    Raises:
      ValueError: x_0 or noise are not floating-point numbers or differ in shape, or a time is no noise level.
    """
    t, x_t = _diffused(process, x_0, t, noise)
    output = model_fn(x_t, process.model_time(t))
    vb = known(process, t, _bound(process, output, x_0, x_t, t, prediction, variance, cdf))
    return process.num_steps * vb if rescaled else vb


def hybrid_loss(
    process: Process,
    model_fn: ModelFn,
    x_0: Any,
    t: Any,
    noise: Any,
    prediction: str = "eps",
    variance: str | VarianceFn = "range",
    vlb_weight: float = 1e-3,
    cdf: str = "exact",
) -> HybridLoss:
    """L_hybrid = L_simple + vlb_weight L_vlb, the second for the variance alone (Improved DDPM eq. 16).

    The bound's gradient for the network's first C channels is stopped. Its code's RESCALED_MSE is this with a weight of
    1e-3, its MSE with a weight of 1 / T.

    Args:
      process: here and below, all but `vlb_weight` are as `kl_loss`'s.
      model_fn: the network.
      x_0: the data.
      t: the times.
      noise: the noise.
      prediction: what the first C channels are.
      variance: of the reverse steps.
      vlb_weight: of L_vlb in bits/dim, that is of T times the term at t.
      cdf: of the decoder.

    Returns:
      The loss and its parts, (B,) each.

    Raises:
      ValueError: x_0 or noise are not floating-point numbers or differ in shape, or a time is no noise level.
    """
    t, x_t = _diffused(process, x_0, t, noise)
    output = model_fn(x_t, process.model_time(t))
    mean, extra = split_output(output, x_0.shape[-1])
    mse = known(process, t, _squared_error(process, mean, x_0, x_t, t, noise, prediction))
    mean = jax.lax.stop_gradient(mean)
    frozen = mean if extra is None else jnp.concatenate([mean, extra], axis=-1)
    vb = known(process, t, _bound(process, frozen, x_0, x_t, t, prediction, variance, cdf))
    return HybridLoss(mse + vlb_weight * process.num_steps * vb, mse, vb)


def _diffused(process: Process, x_0: Any, t: Any, noise: Any) -> tuple[Any, Any]:
    """The times of a loss, checked, and x_t."""
    check_floats(x_0=x_0, noise=noise)
    if jnp.shape(noise) != x_0.shape:
        raise ValueError(f"noise must be like x_0, {x_0.shape}, a draw for each image; got {jnp.shape(noise)}")
    t = network_times(process, t)
    return t, q_sample(process, x_0, t, noise)


def _squared_error(process: Process, output: Any, x_0: Any, x_t: Any, t: Any, noise: Any, prediction: str) -> Any:
    return jnp.mean(jnp.square(output - target(process, prediction, x_0, x_t, t, noise)), axis=(1, 2, 3))


def _bound(
    process: Process, output: Any, x_0: Any, x_t: Any, t: Any, prediction: str, variance: str | VarianceFn, cdf: str
) -> Any:
    if process.continuous and is_host(t) and np.any(np.less(t, 1)):
        raise ValueError(
            f"time {t} is out of range; the bound's steps go from t to t - 1, for t in [1, {process.num_steps}]"
        )
    rows = chain_rows(process, t, x_0.shape[-3:-1])
    u_t = process.basis.analysis(x_t)
    d = denoiser(process, lambda *_: output, prediction, clip=False).at(u_t, rows.level)
    return bound_term(process, x_0, u_t, d, rows, variance_fn(variance), cdf)
