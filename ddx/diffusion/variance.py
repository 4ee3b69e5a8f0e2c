"""Variances of the reverse step p(u_s | u_t): functions of the model's estimate and the step's row of coefficients.

| name | variance | source |
| --- | --- | --- |
| small | lambda2, that of q(u_s given u_t and u_0); exact for a single data point | DDPM section 3.2, beta tilde |
| large | sigma_t^2 (1 - r), that of q(u_t given u_s); exact for white data | DDPM section 3.2, beta |
| learned | exp of the network's further channels | Improved DDPM section 3.1 |
| range | between the two in the logarithm: f = (v + 1) / 2 of large, v the further channels | Improved DDPM eq. 15 |
| npr | equation (1), V = (sigma / alpha)^2 g, g a head's E[(eps - the network's)^2 given u_t] | Bao et al. 2022b |
| sn | equation (1), V = (sigma / alpha)^2 (h - eps^2), h a head's E[eps^2 given u_t] | Bao et al. 2022b |
| heuristic | equation (1), V = (sigma / alpha)^2 (1 - eps^2), of the estimate's eps | Extended Analytic-DPM's code |

The optimum is what q leaves open, and what the estimate of x_0 does not know (equation 6 of `ddx.diffusion.gaussian`):

    variance = lambda2 + gamma^2 V        V = Var[u_0 | u_t]                                                    (1)

at any eta; `ddx.diffusion.analytic` has it from statistics. A head is a network's further channels, each of its own
coordinate. A network that predicts another y = p u_0 + q eps has a head for that: u_0 = (q u_t - sigma y) / D with
D = q alpha - p sigma, so

    Var[u_0 | u_t] = (sigma / D)^2 Var[y | u_t]                                                                 (2)

where (sigma / D)^2 is 1 for "x0", at most 1 without blur for "v", and without limit for "eps". On a step to noise-free
data all of them are "small", as in the bounds of those papers.

"large", "learned" and "range" belong to eta = 1. The two ends of "range" are those of the step that is taken, so it
holds for every trajectory, and per coordinate, so it holds for every process; v is per coordinate, too. On a step to
the data they are the clipped lambda2 and sigma_t^2.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ddx.diffusion.prediction import Denoised
from ddx.diffusion.steps import Step

VarianceFn = Callable[[Denoised, Step], Any]
"""variance(d, step) -> per basis coordinate, broadcastable to u_t; d and step are those of one row."""

# Of log variances: within it a variance's inverse square, which the bound's gradient has, is a float32. A schedule's
# smallest variances are about exp(-20).
_LOG_LIMIT = 36.0


def small(d: Denoised, step: Step) -> Any:
    """lambda2 of the step; its decoder value is that of the step before (DDPM's clipped beta tilde_1)."""
    del d
    return step.small


def large(d: Denoised, step: Step) -> Any:
    """The forward variance of the step; its decoder value is the clipped beta tilde_1, as in Improved DDPM."""
    del d
    return jnp.where(step.target.marginal.sigma == 0, step.small, step.upper)


def learned(d: Denoised, step: Step) -> Any:
    """The network's further channels are the log variance."""
    del step
    return _exp(_extra(d, "learned"))


def learned_range(d: Denoised, step: Step) -> Any:
    """The network's further channels v choose between small (v = -1) and the forward variance (v = 1)."""
    f = 0.5 * (_extra(d, "range") + 1.0)
    return _exp(f * _log(step.upper) + (1.0 - f) * _log(step.small))


def _check(averaged: Any, limit: Any) -> None:
    if not isinstance(averaged, bool) or (isinstance(limit, str) and limit != "range"):
        raise ValueError(f"averaged={averaged!r} must be True or False, limit={limit!r} 'range', None or a number")


def heuristic(averaged: bool = False, limit: Any = "range") -> VarianceFn:
    """V from the size of the estimate's own eps, without any statistics.

    Args:
      averaged: over the coordinates of an image.
      limit: of V, from 0 to it, for each coordinate or for all; "range" for what the range of the data allows, of a
        `ddx.denoiser`; None for none, which may be negative.
    """
    _check(averaged, limit)

    def variance(d: Denoised, step: Step) -> Any:
        m = step.level.marginal
        some = m.alpha > 0
        v = jnp.square(m.sigma / jnp.where(some, m.alpha, 1.0)) * (1.0 - jnp.square(d.eps))
        # Without signal eps says nothing of x_0: V is then as large as the limit allows.
        return _limited(d, step, jnp.where(some, v, jnp.inf), averaged, limit)

    return variance


def sn(averaged: bool = False, limit: Any = "range") -> VarianceFn:
    """V from a head that predicts y^2; exact where the network's y is, and below 0, so clipped, where that errs.

    For denoisers of networks that predict eps, x0 or v and have 2 C output channels; the arguments are those of
    `heuristic`. Trained by `ddx.head_loss`.
    """
    _check(averaged, limit)

    def variance(d: Denoised, step: Step) -> Any:
        head, gain = _head(d, "sn")
        return _limited(d, step, jnp.square(gain) * (head - jnp.square(d.output)), averaged, limit)

    return variance


def npr(averaged: bool = False, limit: Any = "range") -> VarianceFn:
    """V from a head that predicts the squared error of y, otherwise as `sn`; the best there is for the network's x_0.

    It is that of the x_0 that the network says; clipped, that may be better.
    """
    _check(averaged, limit)

    def variance(d: Denoised, step: Step) -> Any:
        head, gain = _head(d, "npr")
        return _limited(d, step, jnp.square(gain) * head, averaged, limit)

    return variance


VARIANCES: dict[str, VarianceFn] = {
    "small": small,
    "large": large,
    "learned": learned,
    "range": learned_range,
    "sn": sn(),
    "npr": npr(),
}
_OF_DDPM = ("large", "learned", "range")


def variance_fn(variance: str | VarianceFn, eta: Any = 1.0) -> VarianceFn:
    """A named variance, or the function itself.

    Raises:
      ValueError: the name is unknown, or it belongs to DDPM's steps and these are others (eta != 1).
    """
    if callable(variance):
        return variance
    if variance not in VARIANCES:
        raise ValueError(f"variance {variance!r} is unknown; choose one of: {', '.join(VARIANCES)}")
    if variance in _OF_DDPM and eta != 1.0:
        raise ValueError(f"variance {variance!r} belongs to eta = 1, not {eta}; set eta=1.0 or variance='small'")
    return VARIANCES[variance]


def total(step: Step, v: Any) -> Any:
    """Equation (1)."""
    return jnp.where(step.target.marginal.sigma == 0, step.small, step.lambda2 + jnp.square(step.gamma) * v)


def _limited(d: Denoised, step: Step, v: Any, averaged: bool, limit: Any) -> Any:
    if isinstance(limit, str):
        if d.most is None:
            raise ValueError("this variance needs a ddx.denoiser, which tells the range of the data, or a limit")
        limit = d.most
    if averaged:
        v, limit = v.mean((-3, -2, -1), keepdims=True), None if limit is None else jnp.mean(limit)
    return total(step, v if limit is None else jnp.clip(v, 0.0, jnp.asarray(limit, v.dtype)))


def _head(d: Denoised, name: str) -> tuple[Any, Any]:
    """What the head says, and the gain from the network's output to x_0."""
    if d.extra is None:
        raise ValueError(f"variance {name!r} needs a network with 2 C output channels, the second half its head")
    if d.gain is None:
        raise ValueError(f"variance {name!r} needs a ddx.denoiser of a network that predicts eps, x0 or v")
    return d.extra, d.gain


def _extra(d: Denoised, name: str) -> Any:
    if d.extra is None:
        raise ValueError(
            f"variance {name!r} needs a network with 2 C output channels, the second half for variances;"
            " use variance='small' or 'large'"
        )
    return d.extra


def _log(variance: Any) -> Any:
    """The logarithm, and the limit for 0: a frequency that a step does not change has no variance."""
    return jnp.where(variance > 0, jnp.log(jnp.where(variance > 0, variance, 1.0)), -_LOG_LIMIT)


def _exp(log_variance: Any) -> Any:
    return jnp.exp(jnp.clip(log_variance, -_LOG_LIMIT, _LOG_LIMIT))
