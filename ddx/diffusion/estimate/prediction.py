"""Predictions: how x_0 and eps follow from a network's output, in one table for all.

Per basis coordinate u_t = alpha u_0 + sigma eps. A network outputs y = p u_0 + q eps with two numbers p and q per
level, so u_t and y determine u_0 and eps. With D = q alpha - p sigma:

    u_0 = (q u_t - sigma y) / D        eps = (alpha y - p u_t) / D        d u_0 / d y = -sigma / D               (1)

| prediction | the network outputs | p | q | D | source |
| --- | --- | --- | --- | --- | --- |
| eps | the noise | 0 | 1 | alpha | DDPM eq. 15 |
| x0 | the data | 1 | 0 | -sigma | DDPM section 3.2 |
| v | a eps - sigma u_0 | -sigma | a | a alpha + sigma^2 | Salimans & Ho 2022, appendix D |
| mean | the posterior mean of u_{t-1} | alpha_{t-1} | k sigma | -sigma gamma | DDPM eq. 8 |
| residual | alpha_{t-1} u_0 - u_t | alpha_{t-1} - alpha | -sigma | -sigma alpha_{t-1} | Rissanen et al. 2022 |
| velocity | eps - u_0 | -1 | 1 | alpha + sigma | Lipman et al. 2023 |

a is the schedule's factor of alpha, without the blur's, so "v" has the same p and q at every frequency, and its D is
never small. The D of "eps" is alpha, which a blur makes as small as 1e-5. Its x_0 is then useful only inside a step,
which multiplies it by an equally small number, and must not be clipped. "residual" predicts the next image; x_0 is
computed from it only where there is more signal than noise.

Where D = 0 the output does not determine u_0, which is then taken to be 0; where sigma = 0 too, u_t alone determines
u_0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Coefficient, Coordinates, Images, Numbers, Times, check_floats
from ddx.diffusion.catalogue import why_not
from ddx.diffusion.forward.gaussian import step_coefficients
from ddx.diffusion.forward.process import Level, Process
from ddx.diffusion.times import whole


class Weights(NamedTuple):
    """A prediction at a level: y = p u_0 + q eps."""

    p: Numbers
    q: Numbers
    D: Numbers | None = None  # q alpha - p sigma, where it is known without subtracting


WeightsFn = Callable[[Process, Level], Weights | tuple[Any, Any]]
"""weights(process, level) -> `Weights` or (p, q), which broadcast to coordinates; the level is one after `spread`."""


def _eps(process: Process, level: Level) -> Weights:
    return Weights(0.0, 1.0, level.alpha)


def _x0(process: Process, level: Level) -> Weights:
    return Weights(1.0, 0.0, -level.sigma)


def _v(process: Process, level: Level) -> Weights:
    return Weights(-level.sigma, level.a, level.a * level.alpha + level.sigma**2)


def _mean(process: Process, level: Level) -> Weights:
    c = step_coefficients(process, level.t - 1, level.t, shape=_shape(level))
    alpha_s = process.level(level.t - 1, _shape(level)).alpha
    return Weights(alpha_s, c.k * level.sigma, -level.sigma * c.gamma)


def _residual(process: Process, level: Level) -> Weights:
    alpha_s = process.level(level.t - 1, _shape(level)).alpha
    return Weights(alpha_s - level.alpha, -level.sigma, -level.sigma * alpha_s * (alpha_s > level.sigma))


def _velocity(process: Process, level: Level) -> Weights:
    return Weights(-1.0, 1.0, level.alpha + level.sigma)


PREDICTIONS: dict[str, WeightsFn] = {
    "eps": _eps,
    "x0": _x0,
    "v": _v,
    "mean": _mean,
    "residual": _residual,
    "velocity": _velocity,
}


def _shape(level: Level) -> tuple[int, ...] | None:
    return None if level.tau is None else level.alpha.shape[-3:-1]


class Reading(NamedTuple):
    """Equation (1) as numbers: u_0 = (q u_t + g y) / D and eps = (p u_t + a y) / E."""

    q: Coefficient
    g: Coefficient
    D: Coefficient
    p: Coefficient
    a: Coefficient
    E: Coefficient

    @property
    def gain(self) -> Coefficient:
        """What an error of y does to u_0: d u_0 / d y."""
        return self.g / self.D

    def x_0(self, u_t: Coordinates, y: Coordinates) -> Coordinates:
        """The estimate of the data from the output y, in coordinates."""
        return (self.q * u_t + self.g * y) / self.D

    def eps(self, u_t: Coordinates, y: Coordinates) -> Coordinates:
        """The estimate of the noise from the output y, in coordinates."""
        return (self.p * u_t + self.a * y) / self.E


def reading(process: Process, prediction: str | WeightsFn, level: Level) -> Reading:
    """How u_0 and eps follow from u_t and a network's output, per coordinate.

    Args:
      process: the process.
      prediction: a name of `PREDICTIONS`, or a `WeightsFn`.
      level: the level of u_t, after `Level.spread`.
    """
    weights = Weights(*weights_fn(prediction)(process, level))
    alpha, sigma = level.alpha, level.sigma
    xp: Any = jnp if any(isinstance(x, jax.Array) for x in (alpha, sigma, *weights)) else np
    p, q = weights.p, weights.q
    D = q * alpha - p * sigma if weights.D is None else weights.D
    told, noisy = D != 0, sigma > 0
    return Reading(
        q=xp.where(told, q, xp.where(noisy, 0.0, 1.0)),
        g=xp.where(told, -sigma, 0.0),
        D=xp.where(told, D, xp.where(noisy | (alpha == 0), 1.0, alpha)),
        p=xp.where(told, -p, xp.where(noisy, 1.0, 0.0)),
        a=xp.where(told, alpha, 0.0),
        E=xp.where(told, D, xp.where(noisy, sigma, 1.0)),
    )


def target(process: Process, prediction: str | WeightsFn, x_0: Images, t: Times, noise: Images) -> Images:
    """What a network should output at x_t = `q_sample(process, x_0, t, noise)`: p u_0 + q eps, in pixels.

    Args:
      process: the process.
      prediction: a name of `PREDICTIONS`, or a `WeightsFn`.
      x_0: (B, H, W, C) data.
      t: times, () or (B,).
      noise: what x_t was made with, like x_0, white in pixels; coloured as there.

    Returns:
      (B, H, W, C).

    Raises:
      ValueError: the prediction does not determine x_0 for this process, x_0 or noise are not floating-point numbers,
        or a time is not one of the process.
    """
    check_prediction(process, prediction)
    check_floats(x_0=x_0, noise=noise)
    level, basis = process.level(whole(t), x_0.shape[-3:-1]), process.basis
    noise = basis.colour(noise)
    p, q = weights_fn(prediction)(process, level)[:2]
    if max(jnp.ndim(p), jnp.ndim(q)) < 3 or jnp.shape(p)[-3:-1] == jnp.shape(q)[-3:-1] == (1, 1):
        return p * x_0 + q * noise  # p and q are the same for all coordinates
    return basis.synthesis(p * basis.analysis(x_0) + q * basis.analysis(noise))


def weights_fn(prediction: str | WeightsFn) -> WeightsFn:
    """The `WeightsFn` of a name, or the given function itself.

    Raises:
      ValueError: there is no such name.
    """
    if callable(prediction):
        return prediction
    if not isinstance(prediction, str) or prediction not in PREDICTIONS:
        raise ValueError(f"prediction {prediction!r} is unknown; choose one of: {', '.join(PREDICTIONS)}")
    return PREDICTIONS[prediction]


def check_prediction(process: Process, prediction: str | WeightsFn) -> None:
    """Refuse, with a ValueError, a prediction that is unknown or from which x_0 cannot be recovered at time T."""
    weights_fn(prediction)
    if not callable(prediction):
        traits = {"continuous": process.continuous, "blurs": process.blur is not None, "forgets": process.forgets}
        refused = why_not(prediction, **traits)
        if refused:
            raise ValueError(f"prediction {prediction!r} {refused}")
    elif process.blur is None:
        told = np.asarray(reading(process, prediction, process.level(process.num_steps)).gain)
        if not np.all(np.isfinite(told) & (told != 0)):
            raise ValueError("this prediction says nothing of x_0 at t = T, where q alpha - p sigma is 0 or no number")


def split_output(output: Images, channels: int) -> tuple[Images, Images | None]:
    """Split raw output channels into (prediction, extra); extra is None when there are only `channels`.

    Args:
      output: (B, H, W, C) or (B, H, W, 2 C).
      channels: C.

    Raises:
      ValueError: the network has neither C nor 2 C output channels.
    """
    if output.shape[-1] not in (channels, 2 * channels):
        raise ValueError(
            f"the network outputs {output.shape[-1]} channels for images of {channels}; expected {channels}, or"
            f" {2 * channels} with learned variances"
        )
    return output[..., :channels], output[..., channels:] if output.shape[-1] > channels else None
