"""Variances of the reverse step p(u_s | u_t): functions of the model's estimate and the step's row of coefficients.

| name | variance | source |
| --- | --- | --- |
| small | lambda2, the variance of q(u_s given u_t and u_0); exact for a single data point | DDPM section 3.2, beta
tilde |
| large | sigma_t^2 (1 - r), the variance of q(u_t given u_s); exact for white data | DDPM section 3.2, beta |
"""

from collections.abc import Callable
from typing import Any

from ddx.diffusion.gaussian import Step
from ddx.diffusion.prediction import Denoised

VarianceFn = Callable[[Denoised, Step], Any]
"""variance(d, step) -> per basis coordinate, broadcastable to u_t; d and step are those of one row."""


def small(d: Denoised, step: Step) -> Any:
    """lambda2 of the step; its decoder value is that of the step before (DDPM's clipped beta tilde_1)."""
    del d
    return step.small


def large(d: Denoised, step: Step) -> Any:
    """The forward variance of the step; its decoder value is the clipped beta tilde_1, as in Improved DDPM."""
    del d
    return step.large


VARIANCES: dict[str, VarianceFn] = {"small": small, "large": large}


def variance_fn(variance: str | VarianceFn, eta: Any = 1.0) -> VarianceFn:
    """A named variance, or the function itself.

    Raises:
      ValueError: the name is unknown, or it is "large" for a step that is not DDPM's (eta != 1).
    """
    if callable(variance):
        return variance
    if variance not in VARIANCES:
        raise ValueError(f"variance {variance!r} is unknown; choose one of: {', '.join(VARIANCES)}")
    if variance == "large" and eta != 1.0:
        raise ValueError(f"variance 'large' belongs to eta = 1, not {eta}; set eta=1.0 or variance='small'")
    return VARIANCES[variance]
