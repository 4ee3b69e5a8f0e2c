"""Training objectives, one value per example; nothing is reduced over the batch.

Times are the noise levels 1..T that networks know. Any other time, such as a 0-based index, is refused where it is
known on the host; in the graph it makes the loss of its example NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Images, PerExample, Times, check_floats, mean_over_image
from ddx.diffusion.bound.terms import bound_term
from ddx.diffusion.estimate.denoiser import ModelFn, denoiser, known, network_times, read
from ddx.diffusion.estimate.prediction import WeightsFn, check_prediction, split_output, target
from ddx.diffusion.estimate.slope import with_slope
from ddx.diffusion.forward.gaussian import q_sample
from ddx.diffusion.forward.process import Process
from ddx.diffusion.objective.weights import LossWeight, of_output
from ddx.diffusion.reverse.rows import to_previous
from ddx.diffusion.reverse.variance import VarianceFn, variance_fn
from ddx.diffusion.times import is_host


class HybridLoss(NamedTuple):
    """L_hybrid and its two parts, (B,) each."""

    loss: PerExample
    mse: PerExample  # L_simple
    vb: PerExample  # the bound's term at t, bits/dim


class HeadLoss(NamedTuple):
    """The losses of a network and of the head that predicts a second moment, (B,) each."""

    mse: PerExample  # L_simple
    head: PerExample  # the head's mean squared error


def simple_loss(
    process: Process,
    model_fn: ModelFn,
    x_0: Images,
    t: Times,
    noise: Images,
    prediction: str | WeightsFn = "eps",
    weight: LossWeight | None = None,
) -> PerExample:
    """L_simple, the squared error of the network's output, unweighted by default (DDPM eq. 14 for "eps").

    Args:
      process: the process.
      model_fn: model_fn(x_t, model_time) -> raw output; channels past C are ignored.
      x_0: (B, H, W, C) data in the process's range, [-1, 1] for most.
      t: (B,) times in 1..T, or real times in [0, T] where they are continuous.
      noise: like x_0, standard normal.
      prediction: what the first C channels are: "eps", "x0", "v", "mean", "residual" (IHDM's loss), "velocity", or a
        `WeightsFn`.
      weight: of the squared error of x_0 as a function of the SNR, such as `ddx.diffusion.objective.weights.min_snr()`;
        None leaves the squared error of the output as it is.

    Returns:
      (B,) mean squared errors. DDIM's and IHDM's code sum over pixels instead: multiply by H * W * C.

    Raises:
      ValueError: x_0 or noise are not floating-point numbers or differ in shape, a time is not a noise level, or the
        prediction is unknown or impossible for this process, or has errors that are none of x_0 and a weight.
    """
    t, x_t = _diffused(process, x_0, t, noise)
    output, _ = split_output(model_fn(x_t, process.model_time(t)), x_0.shape[-1])
    return known(process, t, _squared_error(process, output, x_0, t, noise, prediction, weight))


def head_loss(
    process: Process,
    model_fn: ModelFn,
    x_0: Images,
    t: Times,
    noise: Images,
    head: str,
    prediction: str | WeightsFn = "eps",
    weight: LossWeight | None = None,
    v: Images | None = None,
) -> HeadLoss:
    """The losses of SN-, NPR- and OCM-DPM's heads (Bao et al. 2022b; Ou et al. 2025), and L_simple of their network.

    With y the target of the network, in coordinates of the basis, an "sn" head fits E[y^2 given x_t]. An "npr" head
    fits the squared error of the network's own output, an "ocm" head v * (-sigma J v), J = d eps / d u_t of the
    network's own eps: on average over random signs v the slope h of `ddx.diffusion.estimate.slope`. No gradient flows
    through what "npr" and "ocm" heads fit.

    Args:
      process: the process.
      model_fn: model_fn(x_t, model_time) -> raw output, 2 C channels, of which the second half is the head.
      x_0: (B, H, W, C) data in the process's range, [-1, 1] for most.
      t: (B,) times in 1..T, or real times in [0, T] where they are continuous.
      noise: like x_0, standard normal.
      head: "sn", "npr" or "ocm".
      prediction: what the first C channels are: a name such as "eps", or a `WeightsFn`.
      weight: of the network's squared error, as in `simple_loss`; the head's own loss has none.
      v: for "ocm", like x_0: 1 or -1, as likely, in coordinates of the basis.

    Returns:
      Both losses, means over coordinates; the paper's code sums over pixels instead: multiply by H * W * C. To train
      "npr" jointly, as that code can, use "sn" with a network whose second half is g + eps^2, where g and eps are its
      own outputs: the gradient of the head's loss then reaches eps too.

    Raises:
      ValueError: the head is unknown or the network has none, x_0 or noise are not floating-point numbers or differ in
        shape, a time is not a noise level, v is missing, or the prediction is unknown or impossible for this process.
    """
    if head not in ("sn", "npr", "ocm"):
        raise ValueError(f"head {head!r} is unknown; choose sn, npr or ocm")
    if (head == "ocm") != (getattr(v, "shape", None) == x_0.shape):
        raise ValueError(f"v must be signs like x_0, {x_0.shape}, for head 'ocm', and None for others")
    t, x_t = _diffused(process, x_0, t, noise)
    y = process.basis.analysis(target(process, prediction, x_0, t, noise))
    if head == "ocm":
        denoise, level = denoiser(process, model_fn, prediction, clip=False), process.level(t, x_0.shape[-3:-1])
        d = with_slope(denoise, process.basis.analysis(x_t), level, jnp.asarray(v)[None])
        y_hat, extra, goal = d.output, d.extra, d.slope
    else:
        output, extra = split_output(model_fn(x_t, process.model_time(t)), x_0.shape[-1])
        y_hat, goal = process.basis.analysis(output), jnp.square(y) if head == "sn" else None
    if extra is None or y_hat is None:
        raise ValueError(f"head {head!r} needs a network with 2 C output channels, the second half its head")
    error = jnp.square(y - y_hat)
    goal = jax.lax.stop_gradient(error if goal is None else goal)
    in_pixels = process.basis.square(y - y_hat)
    if weight is not None:
        in_pixels = in_pixels * of_output(process, prediction, weight, t, x_0.shape[-3:-1])
    losses = mean_over_image(in_pixels), mean_over_image(jnp.square(goal - extra))
    return HeadLoss(*(known(process, t, loss) for loss in losses))


def kl_loss(
    process: Process,
    model_fn: ModelFn,
    x_0: Images,
    t: Times,
    noise: Images,
    prediction: str | WeightsFn = "eps",
    variance: str | VarianceFn = "range",
    rescaled: bool = True,
    cdf: str = "exact",
) -> PerExample:
    """L_vlb: the bound's term at t (Improved DDPM eq. 4), with gradients for the mean and for the variance.

    Args:
      process: the process.
      model_fn: model_fn(x_t, model_time) -> raw output, 2 C channels if the variance is learned; nothing is clipped.
      x_0: (B, H, W, C) grey levels k / 127.5 - 1.
      t: (B,) times in 1..T, or real times in [1, T] where they are continuous.
      noise: like x_0, standard normal.
      prediction: what the first C channels are: a name such as "eps", or a `WeightsFn`.
      variance: of the reverse step: "small", "large", "learned", "range", "sn", "npr", or a function (d, step) ->
        variance.
      rescaled: multiply by T. The mean over uniform t is then the bound in bits/dim, without the prior and, for a
        process with noise at t = 0, without the decoder: neither depends on the network.
      cdf: of the decoder, "exact", "tanh" or "softmax"; see `ddx.diffusion.bound.decoder`.

    Returns:
      (B,) bits/dim.

    Raises:
      ValueError: x_0 or noise are not floating-point numbers or differ in shape, a time is not a noise level, or
        prediction, variance or cdf are unknown or impossible for this process or network.
    """
    t, x_t = _diffused(process, x_0, t, noise)
    output = model_fn(x_t, process.model_time(t))
    vb = known(process, t, _bound(process, output, x_0, x_t, t, prediction, variance, cdf))
    return process.num_steps * vb if rescaled else vb


def hybrid_loss(
    process: Process,
    model_fn: ModelFn,
    x_0: Images,
    t: Times,
    noise: Images,
    prediction: str | WeightsFn = "eps",
    variance: str | VarianceFn = "range",
    vlb_weight: float = 1e-3,
    cdf: str = "exact",
    weight: LossWeight | None = None,
) -> HybridLoss:
    """L_hybrid = L_simple + vlb_weight L_vlb, where L_vlb trains the variance alone (Improved DDPM eq. 16).

    The bound's gradient with respect to the network's first C channels is stopped. In Improved DDPM's code RESCALED_MSE
    is this loss with vlb_weight = 1e-3, and MSE is this loss with vlb_weight = 1 / T.

    Args:
      process: the process.
      model_fn: model_fn(x_t, model_time) -> raw output, 2 C channels, of which the second half is for the variance.
      x_0: (B, H, W, C) grey levels k / 127.5 - 1.
      t: (B,) times in 1..T, or real times in [1, T] where they are continuous.
      noise: like x_0, standard normal.
      prediction: what the first C channels are: a name such as "eps", or a `WeightsFn`.
      variance: of the reverse step: "small", "large", "learned", "range", "sn", "npr", or a function (d, step) ->
        variance.
      vlb_weight: of L_vlb in bits/dim, which is T times the bound's term at t.
      cdf: of the decoder, "exact", "tanh" or "softmax"; see `ddx.diffusion.bound.decoder`.
      weight: of L_simple, as in `simple_loss`.

    Returns:
      The loss and its parts, (B,) each.

    Raises:
      ValueError: x_0 or noise are not floating-point numbers or differ in shape, a time is not a noise level, or
        prediction, variance or cdf are unknown or impossible for this process or network.
    """
    t, x_t = _diffused(process, x_0, t, noise)
    output = model_fn(x_t, process.model_time(t))
    y, _ = split_output(output, x_0.shape[-1])
    mse = known(process, t, _squared_error(process, y, x_0, t, noise, prediction, weight))
    frozen = output.at[..., : x_0.shape[-1]].set(jax.lax.stop_gradient(y))
    vb = known(process, t, _bound(process, frozen, x_0, x_t, t, prediction, variance, cdf))
    return HybridLoss(mse + vlb_weight * process.num_steps * vb, mse, vb)


def _diffused(process: Process, x_0: Images, t: Times, noise: Images) -> tuple[Times, Images]:
    """The checked times of a loss, and x_t."""
    check_floats(x_0=x_0, noise=noise)
    if jnp.shape(noise) != x_0.shape:
        raise ValueError(f"noise must be like x_0, {x_0.shape}, a draw for each image; got {jnp.shape(noise)}")
    t = network_times(process, t)
    return t, q_sample(process, x_0, t, noise)


def _squared_error(
    process: Process,
    output: Images,
    x_0: Images,
    t: Times,
    noise: Images,
    prediction: str | WeightsFn,
    weight: LossWeight | None,
) -> PerExample:
    error = output - target(process, prediction, x_0, t, noise)
    if weight is None:
        return mean_over_image(jnp.square(error))
    of_error = of_output(process, prediction, weight, t, x_0.shape[-3:-1])
    return mean_over_image(of_error * process.basis.square(process.basis.analysis(error)))


def _bound(
    process: Process,
    output: Images,
    x_0: Images,
    x_t: Images,
    t: Times,
    prediction: str | WeightsFn,
    variance: str | VarianceFn,
    cdf: str,
) -> PerExample:
    check_prediction(process, prediction)
    if process.continuous and is_host(t) and np.any(np.less(t, 1)):
        raise ValueError(
            f"time {t} is out of range; the bound's steps go from t to t - 1, for t in [1, {process.num_steps}]"
        )
    step, u_t = to_previous(process, t).expand(x_0.shape[-3:-1]), process.basis.analysis(x_t)
    d = read(process, prediction, output, u_t, step.level)
    return bound_term(process, x_0, u_t, d, step, variance_fn(variance), cdf)
