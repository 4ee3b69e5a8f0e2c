"""Guidance: estimates that lean towards what a condition says, as denoisers made of denoisers.

Per coordinate the score of u_t is -eps / sigma, and u_t = alpha x_0 + sigma eps ties x_0 and a network's output y to
it. So a score to which g is added means

    eps' = eps - sigma g        x_0' = x_0 + (sigma^2 / alpha) g        y' = y + (x_0' - x_0) / (d x_0 / d y)       (1)

Classifier guidance (Dhariwal & Nichol 2021, algorithms 1 and 2) adds a classifier's gradient:

    g = s grad log p(y | u_t)                                                                                        (2)

Classifier-free guidance (Ho & Salimans 2022) takes the implicit classifier of two estimates, p(u_t | y) / p(u_t), so
with a scale w the guided estimate lies on the line through the two:

    z' = z_u + w (z_c - z_u),    z any of x_0, eps and the network's output                                          (3)

Reading an output is linear in it and the factors w and 1 - w add up to 1, so all three give the same. w = 1 is the
conditional estimate, that is no guidance, w = 0 the unconditional one. This is the scale of Imagen, diffusers and
Kynkäänniemi et al. 2024; Ho & Salimans' own w is ours minus 1.

Guidance leaves the range of the data, so clipping comes after it:

    guided = ddx.clipping(ddx.classifier_free_guidance(conditional, unconditional, 3.0))
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Array, Coordinates, Images, PerExample
from ddx.diffusion.estimate.denoiser import Denoised, Denoiser, check_denoiser, check_unclipped
from ddx.diffusion.forward.process import Level, Process
from ddx.diffusion.times import is_host

Interval = tuple[float, float]
"""Times (low, high) between which something is guided, both ends included."""

LogProbFn = Callable[[Images, Any], PerExample]
"""log_prob(x_t, model_time) -> log p(y | x_t) up to a constant: (B, H, W, C) and (B,) to (B,)."""


class Guidance(NamedTuple):
    """How much to guide, and when: the arguments of `classifier_free_guidance`."""

    scale: float = 1.0
    interval: Interval | None = None

    def evaluations(self, t: float) -> int:
        """How many networks are evaluated at a time."""
        if self.scale == 1 or (self.scale == 0 and self.interval is None):
            return 1
        return 2 if self.interval is None or self.interval[0] <= t <= self.interval[1] else 1


UNGUIDED = Guidance()


def classifier_free_guidance(
    conditional: Denoiser, unconditional: Denoiser, scale: float, interval: Interval | None = None
) -> Denoiser:
    """Classifier-free guidance, equation (3): z_u + w (z_c - z_u).

    The two are mostly one network that is told the class, or that there is none; a weaker network in place of the
    second is autoguidance (Karras et al. 2024).

    Args:
      conditional: the estimate to lean to, made with clip=False.
      unconditional: the one to lean away from, of the same process, made with clip=False.
      scale: w, () and perhaps traced. 1 is `conditional` bit for bit; where that is known on the host, it costs one
        evaluation, as 0 does, which is `unconditional`.
      interval: times t, (low, high), outside of which `conditional` is not guided (Kynkäänniemi et al. 2024); both ends
        are guided. None for all times. Where all images of a batch have one time, as in every walk, the second
        evaluation is not made outside, also where the time is traced; with times of their own, (B,), both are made.

    Returns:
      A `Denoiser` of the same process, for every solver, eta and variance. Further outputs (learned variances, heads)
      are the conditional network's.

    Raises:
      ValueError: one is no denoiser, clips, or is of another process; the scale is no number, or the interval none of
        times of the process.
    """
    for denoise in (conditional, unconditional):
        check_denoiser(denoise)
        check_unclipped(denoise)
    process = conditional.process
    if not _same(process, unconditional.process):
        raise ValueError("the two denoisers are of different processes; make both for the same one")
    _check_scale(scale, 1)
    if interval is not None and not _is_interval(interval, process.num_steps):
        raise ValueError(f"interval={interval!r} must be two times, the lower one first, of 0..{process.num_steps}")
    if is_host(scale) and scale == 1:
        return conditional
    if is_host(scale) and scale == 0 and interval is None:
        return unconditional
    alike = conditional.prediction == unconditional.prediction

    def at(u_t: Coordinates, level: Level) -> Denoised:
        d = conditional.at(u_t, level)
        d = _with_own_output(d) if alike else d._replace(output=None, gain=None)

        def guided(d: Denoised) -> Denoised:
            other = unconditional.at(u_t, level)

            def away(of: Any, of_other: Any) -> Any:
                # Not z_u + w (z_c - z_u): so w = 1 gives z_c without rounding.
                if of is None or of_other is None:
                    return None
                return of + jnp.asarray(scale - 1.0, of.dtype) * (of - of_other)

            moved = {name: away(getattr(d, name), getattr(other, name)) for name in ("x_0", "eps", "output")}
            return d._replace(**moved)

        if interval is None:
            return guided(d)
        inside = (level.t >= interval[0]) & (level.t <= interval[1])
        if inside.ndim == 0:
            if is_host(inside):
                return guided(d) if inside else d
            return jax.lax.cond(inside, guided, lambda d: d, d)
        each = jnp.asarray(inside)[:, None, None, None]
        return jax.tree.map(lambda new, old: new if new is old else jnp.where(each, new, old), guided(d), d)

    prediction = conditional.prediction if alike else None
    return dataclasses.replace(conditional, at=at, prediction=prediction)


def classifier_guidance(denoise: Denoiser, log_prob: LogProbFn, scale: float = 1.0) -> Denoiser:
    """Classifier guidance, equations (1) and (2).

    Args:
      denoise: the unconditional estimate, or a conditional one, made with clip=False.
      log_prob: log_prob(x_t, model_time) -> log p(y | x_t), (B,), each of its own image alone: a classifier that was
        trained on noisy images, with the y that is wanted filled in. It is told the times that the network is told.
      scale: s; 1 samples p(x_0 | y) if both estimates are exact, more leans further.

    Returns:
      A `Denoiser` of the same process. Where nothing is left of a coordinate of x_0 (alpha = 0), it is not guided.

    Raises:
      ValueError: `denoise` is no denoiser, or clips; the scale is no number; or, when it is called, log_prob returns
        anything but one number an image.
    """
    check_denoiser(denoise)
    check_unclipped(denoise)
    _check_scale(scale, 0)
    basis = denoise.process.basis

    def at(u_t: Coordinates, level: Level) -> Denoised:
        d = _with_own_output(denoise.at(u_t, level))
        x_t = basis.synthesis(u_t)
        model_time = jnp.broadcast_to(jnp.asarray(level.model_time), x_t.shape[:1])

        def of_all(x: Images) -> Any:
            found = log_prob(x, model_time)
            if jnp.shape(found) != x.shape[:1]:
                raise ValueError(
                    f"log_prob must return one number an image, {x.shape[:1]}; got {jnp.shape(found)}. Take the class"
                    " that is wanted, such as [:, 3]"
                )
            return jnp.sum(found)

        gradient = basis.gradient(jax.grad(of_all)(x_t))
        g = scale * jnp.where(level.alpha > 0, gradient, 0.0)
        change = g * level.sigma**2 / jnp.where(level.alpha > 0, level.alpha, 1.0)
        output = d.output
        if output is not None and d.gain is not None:
            output = output + jnp.where(d.gain != 0, change / jnp.where(d.gain != 0, d.gain, 1.0), 0.0)
        return d._replace(x_0=d.x_0 + change, eps=d.eps - level.sigma * g, output=output)

    return dataclasses.replace(denoise, at=at)


def _with_own_output(d: Denoised) -> Denoised:
    """An estimate, before its output is guided, that keeps the output which its further outputs belong to."""
    return d if d.extra is None or d.own_output is not None else d._replace(own_output=d.output)


def _check_scale(scale: Any, none: int) -> None:
    if not is_host(scale):
        return
    value = np.asarray(scale)
    is_number = value.shape == () and (value.dtype.kind in "biu" or jnp.issubdtype(value.dtype, jnp.floating))
    if not (is_number and np.isfinite(value)):
        raise ValueError(f"scale={scale!r} must be a finite number; {none} is no guidance")


def _is_interval(interval: Any, num_steps: int) -> bool:
    try:
        return bool(len(interval) == 2 and 0 <= interval[0] <= interval[1] <= num_steps)
    except TypeError:  # no numbers
        return False


def _same(one: Process, other: Process) -> bool:
    """Whether two processes are the same at all integer times."""

    def told(process: Process) -> list[Array]:
        level = process.level(np.arange(process.num_steps + 1))
        numbers = (process.num_steps, process.low, process.d_min, process.blur is None)
        return [np.asarray(x) for x in (numbers, *level) if x is not None]

    if one is other:
        return True
    return one.basis is other.basis and all(map(np.array_equal, told(one), told(other)))
