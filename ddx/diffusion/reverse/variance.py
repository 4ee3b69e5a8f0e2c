"""Variances of the reverse step p(u_s | u_t): functions of the model's estimate and the step's coefficients.

| name | variance | source |
| --- | --- | --- |
| small | lambda2, the variance of q(u_s given u_t, u_0); exact for a single data point | DDPM section 3.2, beta tilde |
| large | sigma_t^2 (1 - r), the variance of q(u_t given u_s); exact for white data | DDPM section 3.2, beta |
| learned | exp of the network's extra channels | Improved DDPM section 3.1 |
| range | large^f small^(1 - f), f = (v + 1) / 2, v the network's extra channels | Improved DDPM eq. 15 |
| npr | equation (1), V = (sigma / alpha)^2 g, g a head for the squared error of the network's eps | Bao et al. 2022b |
| sn | equation (1), V = (sigma / alpha)^2 (h - eps^2), h a head for E[eps^2 given u_t] | Bao et al. 2022b |
| ocm | equation (1), V = (sigma / alpha)^2 (1 + h), h the slope of eps, of a head or of probes | Ou et al. 2025 |
| heuristic | equation (1), V = (sigma / alpha)^2 (1 - eps^2), eps the estimate's | Extended Analytic-DPM's code |

The optimal variance adds the estimate's uncertainty about u_0 to the variance of q (`forward.gaussian`, equation 6):

    variance = lambda2 + gamma^2 V        V = Var[u_0 | u_t]                                                    (1)

at any eta; `ddx.diffusion.bound.analytic` takes V from statistics. A head is the extra channels of a network, one for
each coordinate. If a network predicts another y = p u_0 + q eps, its head is for that y:
u_0 = (q u_t - sigma y) / D with D = q alpha - p sigma, so

    Var[u_0 | u_t] = (sigma / D)^2 Var[y | u_t]                                                                 (2)

where (sigma / D)^2 is 1 for "x0", at most 1 without blur for "v", and unlimited for "eps"; a slope is that of eps
always (`ddx.diffusion.estimate.slope`). On a step to noise-free data every variance of equation (1) is "small".

"large", "learned" and "range" belong to eta = 1. The two ends of "range" are computed for the step that is taken and
per coordinate, so it works with every trajectory and process. On a step to the data they are the clipped lambda2 and
sigma_t^2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddx.diffusion.arrays import Array, Coefficient, Coordinates, Numbers
from ddx.diffusion.catalogue import DDPM_VARIANCES
from ddx.diffusion.estimate.denoiser import Denoised
from ddx.diffusion.reverse.rows import Step

VarianceFn = Callable[[Denoised, Step], Coefficient]
"""variance(d, step) -> the variance of each basis coordinate, broadcastable to u_t; d and step belong to one row."""

# Log variances are kept within +-36: the bound's gradient has the inverse square of a variance, which must be finite
# in float32. The smallest variances of schedules are about exp(-20).
_LOG_LIMIT = 36.0


def small(d: Denoised, step: Step) -> Coefficient:
    """lambda2 of the step; on a step to noise-free data, lambda2 of the step before (DDPM's clipped beta tilde_1).

    Args:
      d: the estimate, which is not used.
      step: the step.

    Returns:
      The variance per coordinate.
    """
    del d
    return step.small


def large(d: Denoised, step: Step) -> Coefficient:
    """The forward variance of the step; on a step to noise-free data, the clipped beta tilde_1, as in Improved DDPM.

    Args:
      d: the estimate, which is not used.
      step: the step.

    Returns:
      The variance per coordinate.
    """
    del d
    return jnp.where(step.target.sigma == 0, step.small, step.upper)


def learned(d: Denoised, step: Step) -> Coefficient:
    """The exponential of the network's extra channels, which are the log variance.

    Args:
      d: the estimate.
      step: the step, which is not used.

    Returns:
      The variance per coordinate, (B, H, W, C).

    Raises:
      ValueError: the network has no extra channels.
    """
    del step
    return _exp(_extra(d, "learned"))


def learned_range(d: Denoised, step: Step) -> Coefficient:
    """Between small (v = -1) and the forward variance (v = 1), as the network's extra channels v say.

    Args:
      d: the estimate.
      step: the step.

    Returns:
      The variance per coordinate, (B, H, W, C).

    Raises:
      ValueError: the network has no extra channels.
    """
    f = 0.5 * (_extra(d, "range") + 1.0)
    return _exp(f * _log(step.upper) + (1.0 - f) * _log(step.small))


def _check(averaged: bool, limit: Numbers | str | None) -> None:
    if not isinstance(averaged, bool) or (isinstance(limit, str) and limit != "range"):
        raise ValueError(f"averaged={averaged!r} must be True or False, limit={limit!r} 'range', None or a number")


def heuristic(averaged: bool = False, limit: Numbers | str | None = "range") -> VarianceFn:
    """V = (sigma / alpha)^2 (1 - eps^2) of the estimate's own eps, without statistics (Extended Analytic-DPM's code).

    Args:
      averaged: use the mean of V over the coordinates of an image for all of them.
      limit: V is clipped to [0, limit], a number or a `Coefficient`; "range" takes the largest variance that the range
        of the data allows, which a `ddx.denoiser` gives; None does not clip, and V may be negative.

    Returns:
      A `VarianceFn`.

    Raises:
      ValueError: averaged is not a bool, or limit is another string.
    """
    _check(averaged, limit)

    def variance(d: Denoised, step: Step) -> Coefficient:
        return _limited(d, step, _of_eps(step, 1.0 - jnp.square(d.eps)), averaged, limit)

    return variance


def sn(averaged: bool = False, limit: Numbers | str | None = "range") -> VarianceFn:
    """V = (sigma / D)^2 (h - y^2), h a head that predicts y^2, trained by `ddx.head_loss` (Bao et al. 2022b).

    For denoisers of networks that predict eps, x0 or v and have 2 C output channels. V is exact where the network's y
    is exact; where y errs, V may be below 0, and is then clipped.

    Args:
      averaged: use the mean of V over the coordinates of an image for all of them.
      limit: V is clipped to [0, limit], a number or a `Coefficient`; "range" takes the largest variance that the range
        of the data allows; None does not clip, and V may be negative.

    Returns:
      A `VarianceFn`.

    Raises:
      ValueError: averaged is not a bool, or limit is another string.
    """
    _check(averaged, limit)

    def variance(d: Denoised, step: Step) -> Coefficient:
        head, output, gain = _head(d, "sn")
        return _limited(d, step, jnp.square(gain) * (head - jnp.square(output)), averaged, limit)

    return variance


def npr(averaged: bool = False, limit: Numbers | str | None = "range") -> VarianceFn:
    """V = (sigma / D)^2 g, g a head for the squared error of y, trained by `ddx.head_loss` (Bao et al. 2022b).

    For denoisers of networks that predict eps, x0 or v and have 2 C output channels. V is optimal for the network's
    unclipped x_0; a clipped x_0 may have a smaller error.

    Args:
      averaged: use the mean of V over the coordinates of an image for all of them.
      limit: V is clipped to [0, limit], a number or a `Coefficient`; "range" takes the largest variance that the range
        of the data allows; None does not clip.

    Returns:
      A `VarianceFn`.

    Raises:
      ValueError: averaged is not a bool, or limit is another string.
    """
    _check(averaged, limit)

    def variance(d: Denoised, step: Step) -> Coefficient:
        head, _, gain = _head(d, "npr")
        return _limited(d, step, jnp.square(gain) * head, averaged, limit)

    return variance


def ocm(limit: Numbers | str | None = "range") -> VarianceFn:
    """V = (sigma / alpha)^2 (1 + h), h = -sigma diag(d eps / d u_t): optimal covariance matching (Ou et al. 2025).

    For denoisers of `ddx.hutchinson`, which tell h, and of networks with 2 C output channels, the second half a head
    for h, trained by `ddx.head_loss`. V is exact, of each image and coordinate, where the network is exact.

    Args:
      limit: V is clipped to [0, limit], a number or a `Coefficient`; "range" takes the largest variance that the range
        of the data allows; None does not clip, and V may be negative.

    Returns:
      A `VarianceFn`.

    Raises:
      ValueError: limit is another string.
    """
    _check(False, limit)

    def variance(d: Denoised, step: Step) -> Coefficient:
        h = _extra(d, "ocm", "or use ddx.hutchinson, which needs none") if d.slope is None else d.slope
        return _limited(d, step, _of_eps(step, 1.0 + h), False, limit)

    return variance


VARIANCES: dict[str, VarianceFn] = {
    "small": small,
    "large": large,
    "learned": learned,
    "range": learned_range,
    "sn": sn(),
    "npr": npr(),
    **dict.fromkeys(("ocm", "ocm_frequency"), ocm()),  # the latter is of a process in the DCT basis
    "heuristic": heuristic(),
    "heuristic_averaged": heuristic(averaged=True),
}


def variance_fn(variance: str | VarianceFn, eta: float = 1.0) -> VarianceFn:
    """The variance of a name, or the given function itself.

    Args:
      variance: a name of `VARIANCES`, or a function (d, step) -> variance.
      eta: stochasticity of the steps.

    Returns:
      A `VarianceFn`.

    Raises:
      ValueError: the name is unknown, or it belongs to DDPM's steps and eta is not 1.
    """
    if callable(variance):
        return variance
    if variance not in VARIANCES:
        raise ValueError(f"variance {variance!r} is unknown; choose one of: {', '.join(VARIANCES)}")
    if variance in DDPM_VARIANCES and eta != 1.0:
        raise ValueError(f"variance {variance!r} belongs to eta = 1, not {eta}; set eta=1.0 or variance='small'")
    return VARIANCES[variance]


def total(step: Step, v: Numbers) -> Coefficient:
    """The variance of equation (1); "small" on a step to noise-free data.

    Args:
      step: the step.
      v: V, broadcastable to (B, H, W, C).

    Returns:
      The variance per coordinate.
    """
    return jnp.where(step.target.sigma == 0, step.small, step.lambda2 + jnp.square(step.gamma) * v)


def _of_eps(step: Step, v: Coordinates) -> Coefficient:
    """Var[u_0 | u_t] for Var[eps | u_t] = v. Without signal eps does not determine x_0, and it is unlimited."""
    alpha, some = step.level.alpha, step.level.alpha > 0
    return jnp.where(some, jnp.square(step.level.sigma / jnp.where(some, alpha, 1.0)) * v, jnp.inf)


def _limited(d: Denoised, step: Step, v: Coefficient, averaged: bool, limit: Numbers | str | None) -> Coefficient:
    if isinstance(limit, str):
        if d.most is None:
            raise ValueError("this variance needs a ddx.denoiser, which tells the range of the data, or a limit")
        limit = d.most
    if averaged:
        v, limit = v.mean((-3, -2, -1), keepdims=True), None if limit is None else jnp.mean(limit)
    return total(step, v if limit is None else jnp.clip(v, 0.0, jnp.asarray(limit, v.dtype)))


def _head(d: Denoised, name: str) -> tuple[Coordinates, Coordinates, Coefficient]:
    """The head's output, the network's own output, and the gain from an error of the latter to an error of x_0."""
    head = _extra(d, name)
    if d.gain is None or d.output is None:
        raise ValueError(f"variance {name!r} needs a ddx.denoiser of a network")
    return head, d.output if d.own_output is None else d.own_output, d.gain


def _extra(d: Denoised, name: str, instead: str = "use variance='small' or 'large'") -> Array:
    if d.extra is None:
        raise ValueError(f"variance {name!r} needs a network with 2 C output channels, half for it; {instead}")
    return d.extra


def _log(variance: Coefficient) -> jax.Array:
    """The logarithm; for 0 the lower limit, since a frequency that a step does not change has no variance."""
    return jnp.where(variance > 0, jnp.log(jnp.where(variance > 0, variance, 1.0)), -_LOG_LIMIT)


def _exp(log_variance: Array) -> jax.Array:
    return jnp.exp(jnp.clip(log_variance, -_LOG_LIMIT, _LOG_LIMIT))
