"""Variances of the reverse step p(u_s | u_t): functions of the model's estimate and the step's row of coefficients.

| name | variance | source |
| --- | --- | --- |
| small | lambda2, that of q(u_s given u_t and u_0); exact for a single data point | DDPM section 3.2, beta tilde |
| large | sigma_t^2 (1 - r), that of q(u_t given u_s); exact for white data | DDPM section 3.2, beta |
| learned | exp of the network's further channels | Improved DDPM section 3.1 |
| range | between the two in the logarithm: f = (v + 1) / 2 of large, v the further channels | Improved DDPM eq. 15 |

All but "small" belong to eta = 1. The two ends of "range" are those of the step that is taken, so it holds for every
trajectory, and per coordinate, so it holds for every process; v is per coordinate, too. On a step to the data they are
the clipped lambda2 and sigma_t^2.
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


VARIANCES: dict[str, VarianceFn] = {"small": small, "large": large, "learned": learned, "range": learned_range}


def variance_fn(variance: str | VarianceFn, eta: Any = 1.0) -> VarianceFn:
    """A named variance, or the function itself.

    Raises:
      ValueError: the name is unknown, or it belongs to DDPM's steps and these are others (eta != 1).
    """
    if callable(variance):
        return variance
    if variance not in VARIANCES:
        raise ValueError(f"variance {variance!r} is unknown; choose one of: {', '.join(VARIANCES)}")
    if variance != "small" and eta != 1.0:
        raise ValueError(f"variance {variance!r} belongs to eta = 1, not {eta}; set eta=1.0 or variance='small'")
    return VARIANCES[variance]


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
