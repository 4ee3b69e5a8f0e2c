"""Weights of the squared error, in one table for all predictions: a weight is a function of the SNR.

Every output y of a network says x_0 by `ddx.diffusion.estimate.prediction`, whose gain d u_0 / d y = -sigma / D turns
an error of y into one of x_0. So a weight w of the squared error of x_0 fixes what multiplies the squared error of y,

    w(SNR) (u_0 - E u_0)^2 = w(SNR) (sigma / D)^2 (y - its estimate)^2                                          (1)

and networks with different predictions have the same loss. With SNR = alpha^2 / sigma^2, the gain squared is 1 / SNR
for eps, 1 for x0 and, where alpha^2 + sigma^2 = 1, 1 / (SNR + 1) for v.

| weight | w(SNR), of the error of x_0 | source |
| --- | --- | --- |
| constant | 1 | |
| min_snr | min(SNR, gamma), so that v's error is weighted with min(SNR, gamma) / (SNR + 1) | Hang et al. 2023 |
| p2 | SNR / (1 + SNR)^gamma, the unweighted loss of eps over (1 + SNR)^gamma | Choi et al. 2022, eq. 8 with k = 1 |
| edm | SNR + 1 / sigma_data^2 | Karras et al. 2022, table 1 |

EDM's lambda is (s^2 + sigma_data^2) / (s sigma_data)^2 for data with noise of the standard deviation s and no other
change; here that is u_t / alpha, so s = sigma / alpha, and lambda is 1 / s^2 + 1 / sigma_data^2. At sigma_data = 1 it
is the unweighted loss of v, where alpha^2 + sigma^2 = 1.

Under a blur every frequency has its own SNR, and so its own weight.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from ddx.diffusion.arrays import Coefficient, Shape, Times
from ddx.diffusion.catalogue import X_0_PREDICTIONS
from ddx.diffusion.estimate.prediction import WeightsFn, reading
from ddx.diffusion.forward.process import Process
from ddx.diffusion.times import whole

LossWeight: TypeAlias = Callable[[Coefficient], Coefficient]
"""weight(snr) -> what multiplies the squared error of x_0, like snr: one of the functions here, or one of your own."""


def constant() -> LossWeight:
    """The unweighted error of x_0, whatever the network outputs."""
    return jnp.ones_like


def min_snr(gamma: float = 5.0) -> LossWeight:
    """min(SNR, gamma): at most gamma, so that levels with little noise do not outweigh the others (Hang et al. 2023).

    Args:
      gamma: the limit, above 0; 5 in the paper.
    """
    return lambda snr: jnp.minimum(snr, gamma)


def p2(gamma: float = 1.0) -> LossWeight:
    """SNR / (1 + SNR)^gamma: the loss of eps, less of it where there is little noise (Choi et al. 2022, eq. 8).

    Args:
      gamma: the power, at least 0; 1 or 0.5 in the paper. 0 is the unweighted loss of eps.
    """
    return lambda snr: snr / (1.0 + snr) ** gamma


def edm(sigma_data: float = 0.5) -> LossWeight:
    """SNR + 1 / sigma_data^2 (Karras et al. 2022, lambda of table 1).

    Args:
      sigma_data: standard deviation of the data, above 0; 0.5 in the paper.
    """
    return lambda snr: snr + sigma_data**-2


WEIGHTS: dict[str, Callable[..., LossWeight]] = {"constant": constant, "min_snr": min_snr, "p2": p2, "edm": edm}


def of_output(process: Process, prediction: str | WeightsFn, weight: LossWeight, t: Times, shape: Shape) -> Coefficient:
    """What multiplies the squared error of a network's output at times t, equation (1), per basis coordinate.

    Args:
      process: the process.
      prediction: what the network outputs, a name or a `WeightsFn`.
      weight: of the squared error of x_0.
      t: times, () or (B,).
      shape: (H, W) of the images.

    Returns:
      An array that broadcasts to (B, H, W, C). At t = 0 without noise it is NaN for weights that grow like the SNR.

    Raises:
      ValueError: an error of the output is no error of x_0, as with "mean" and "residual".
    """
    if not callable(prediction) and prediction not in X_0_PREDICTIONS:
        raise ValueError(
            f"a weight is of the error of x_0, which is none of prediction {prediction!r}; use one of"
            f" {', '.join(X_0_PREDICTIONS)}, or no weight"
        )
    level = process.level(whole(t), shape)
    gain = reading(process, prediction, level).gain
    return weight(jnp.exp(jnp.asarray(level.logsnr))) * jnp.square(gain)
