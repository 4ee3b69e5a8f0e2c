"""A denoiser: an estimator of (x_0, eps) at every level of one process, which it carries.

Most denoisers read a network's output by its prediction (`denoiser`). Clipping limits x_0 to the range of the data in
pixels (`clipping`). Then eps is either computed again from x_0 and u_t, so that the two agree, or left as the network
gives it, and a step uses both (DDIM eq. 12).

Whatever changes an estimate, such as guidance (`ddx.diffusion.estimate.guidance`), is a denoiser that wraps others.
Written for `at`, in coordinates, it needs no further change of basis.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Array, Coefficient, Coordinates, Images, Times, check_floats
from ddx.diffusion.estimate.clipping import Clip, check_clip, limited
from ddx.diffusion.estimate.prediction import WeightsFn, check_prediction, reading, split_output
from ddx.diffusion.forward.basis import Basis, largest_variance
from ddx.diffusion.forward.process import Level, Process
from ddx.diffusion.times import is_host, whole

ModelFn = Callable[[Any, Any], Any]
"""model_fn(x_t, model_time) -> raw output: (B, H, W, C) and (B,) to (B, H, W, C), or 2 C with learned variances."""


class Denoised(NamedTuple):
    """An estimate at time t: u_t = alpha x_0 + sigma eps, unless there is `own_eps`."""

    x_0: Images | Coordinates
    eps: Images | Coordinates
    extra: Array | None = None  # the network's raw channels from C on (learned variances)
    output: Images | Coordinates | None = None  # the network's first C channels; no clipping changes it
    gain: Coefficient | None = None  # d x_0 / d output, -sigma / D: what an error of the output does to x_0
    most: Coefficient | None = None  # per coordinate, the largest variance of data in its range
    own_eps: Images | Coordinates | None = None  # only for clip="x0": the network's eps, with which x_0 does not agree
    slope: Coordinates | None = None  # only of `ddx.hutchinson`: -sigma times the diagonal of d eps / d u_t
    own_output: Images | Coordinates | None = None  # only of what is guided: the output that `extra` was trained beside


@dataclass(frozen=True, eq=False)
class Denoiser:
    """An estimator of (x_0, eps): `denoiser` makes one from a network, `from_pixels` from any function.

    Attributes:
      process: the process at whose levels it estimates.
      at: at(u_t, level) -> `Denoised` in coordinates of the basis, for a level after `Level.spread`; walks and bounds
        call it.
      prediction: what the network outputs; None if the denoiser is not made from one network.
      clip: how x_0 is limited.
    """

    process: Process
    at: Callable[[Coordinates, Level], Denoised]
    prediction: str | WeightsFn | None = None
    clip: Clip = False

    def __call__(self, x_t: Images, t: Times) -> Denoised:
        """x_0 and eps in pixels.

        Args:
          x_t: (B, H, W, C).
          t: times that the network knows, () or (B,): 1..T, or [0, T] where times are continuous.

        Returns:
          `Denoised`, x_0 and eps like x_t; NaN for traced times that the network does not know.

        Raises:
          ValueError: x_t are not floating-point numbers, or a time known on the host is not one that the network knows.
        """
        check_floats(x_t=x_t)
        basis, t = self.process.basis, network_times(self.process, t)
        d = self.at(basis.analysis(x_t), self.process.level(t, x_t.shape[-3:-1]))
        d = d._replace(x_0=known(self.process, t, d.x_0), eps=known(self.process, t, d.eps))
        return to_pixels(basis, d)


def denoiser(process: Process, model_fn: ModelFn, prediction: str | WeightsFn = "eps", clip: Clip = True) -> Denoiser:
    """Read a network's raw output as an estimate of (x_0, eps).

    Args:
      process: the process that the network was trained for.
      model_fn: model_fn(x_t, model_time) -> raw output, (B, H, W, C) or (B, H, W, 2 C) when variances are learned.
      prediction: what the first C channels mean: "eps", "x0", "v", "velocity", "mean" (of x_{t-1}), "residual" (IHDM),
        or a function (process, level) -> (p, q) for y = p x_0 + q eps (`ddx.diffusion.estimate.prediction`).
      clip: True limits x_0 to the range of the data and computes eps again from it. False is for encoding, for eps
        under a blur, to follow code that never clips (DDIM's own), and for estimates that are to be guided. "x0" limits
        x_0 and keeps the network's eps, so a step of solver "euler" goes to
        alpha_s x_0 + sqrt(sigma_s^2 - lambda2) eps: DDIM in diffusers and in Analytic-DPM's code. Bounds use the mean
        k x_t + gamma x_0 even then. A `ddx.DynamicThreshold` is Imagen's way to limit x_0; eps is computed again.

    Returns:
      A `Denoiser`: denoise(x_t, t) -> `Denoised`, with fields x_0, eps (pixels) and extra.

    Raises:
      ValueError: the prediction is unknown, or it does not determine x_0: "eps" where the process ends without signal
        (alpha_T = 0), "mean" where a coordinate does not change, "residual" where nothing blurs, "mean" and "residual"
        where times are continuous. Or clip is none of these.
    """
    check_prediction(process, prediction)

    def at(u_t: Coordinates, level: Level) -> Denoised:
        x_t = process.basis.synthesis(u_t)
        model_time = jnp.broadcast_to(jnp.asarray(level.model_time), x_t.shape[:1])
        output = model_fn(x_t, model_time)
        return read(process, prediction, output, u_t, level)

    return clipping(Denoiser(process, at, prediction), clip)


def clipping(denoise: Denoiser, clip: Clip = True) -> Denoiser:
    """Limit the x_0 of a denoiser to the range of the data; for one that is guided, since clipping comes after that.

    Args:
      denoise: a denoiser that does not clip.
      clip: as in `denoiser`.

    Returns:
      A `Denoiser`.

    Raises:
      ValueError: the denoiser clips already, or there is no such way to clip.
    """
    check_denoiser(denoise)
    check_clip(clip)
    if not clip:
        return denoise
    check_unclipped(denoise)

    def at(u_t: Coordinates, level: Level) -> Denoised:
        d = denoise.at(u_t, level)
        u_0 = limited(denoise.process, d.x_0, clip)
        if clip == "x0":
            return d._replace(x_0=u_0, own_eps=d.eps)
        noisy = level.sigma > 0
        eps = jnp.where(noisy, (u_t - level.alpha * u_0) / jnp.where(noisy, level.sigma, 1.0), d.eps)
        return d._replace(x_0=u_0, eps=eps)

    return dataclasses.replace(denoise, at=at, clip=clip)


def check_unclipped(denoise: Denoiser) -> None:
    """Refuse, with a ValueError, a denoiser that clips, where that must come after something else, or but once."""
    if denoise.clip:
        raise ValueError(
            f"this denoiser clips x_0 already (clip={denoise.clip!r}), which comes last and once; make it with"
            " clip=False and clip what is made of it, ddx.clipping(..., clip)"
        )


def from_pixels(process: Process, function: Callable[[Images, Times], Denoised]) -> Denoiser:
    """A denoiser made from any function of pixels, at the cost of a change of basis for each field of `Denoised`.

    Args:
      process: the process whose x_t the function takes.
      function: function(x_t, t) -> `Denoised` in pixels, for x_t (B, H, W, C) and times t, () or (B,).

    Returns:
      A `Denoiser` without a prediction.
    """

    def at(u_t: Coordinates, level: Level) -> Denoised:
        return to_coordinates(process.basis, function(process.basis.synthesis(u_t), level.t))

    return Denoiser(process, at)


def read(process: Process, prediction: str | WeightsFn, output: Images, u_t: Coordinates, level: Level) -> Denoised:
    """A network's output as an estimate in coordinates, equation (1) of `ddx.diffusion.estimate.prediction`.

    Args:
      process: the process.
      prediction: what the first C channels are.
      output: (B, H, W, C) or (B, H, W, 2 C), raw.
      u_t: what the network saw, in coordinates.
      level: the level of u_t, after `Level.spread`.

    Raises:
      ValueError: the network has neither C nor 2 C output channels.
    """
    basis = process.basis
    y, extra = split_output(output, u_t.shape[-1])
    y, of = basis.analysis(y), reading(process, prediction, level)
    u_0, eps = of.x_0(u_t, y), of.eps(u_t, y)
    most = jnp.asarray(largest_variance(basis, u_t.shape[-3:-1], process.low), u_t.dtype)
    return Denoised(u_0, eps, extra, y, of.gain, most)


def to_pixels(basis: Basis, d: Denoised) -> Denoised:
    """Turn an estimate in coordinates into one in pixels; the fields for variances stay in coordinates."""
    return _changed(d, basis.synthesis)


def to_coordinates(basis: Basis, d: Denoised) -> Denoised:
    """The inverse of `to_pixels`."""
    return _changed(d, basis.analysis)


def in_coordinates_of(other: Process, process: Process, d: Denoised) -> Denoised:
    """An estimate in coordinates of a process as one in those of another, which differs in its basis alone."""
    if other.basis is process.basis:
        return d
    shape = d.x_0.shape[-3:-1]
    most = None if d.most is None else jnp.asarray(largest_variance(other.basis, shape, other.low), d.x_0.dtype)
    return to_coordinates(other.basis, to_pixels(process.basis, d))._replace(most=most)


def _changed(d: Denoised, change: Callable[[Any], Any]) -> Denoised:
    changed = {name: change(x) for name in _IMAGES if (x := getattr(d, name)) is not None}
    return d._replace(**changed)


_IMAGES = ("x_0", "eps", "output", "own_eps", "own_output")


def check_denoiser(denoise: Any) -> Denoiser:
    """Return the argument, which must be a `Denoiser`.

    Raises:
      ValueError: it is another object, such as a process or a function.
    """
    if not isinstance(denoise, Denoiser):
        given = "a process" if isinstance(denoise, Process) else f"{type(denoise).__name__}"
        raise ValueError(
            f"the first argument must be a denoiser, which carries its process; got {given}. Make one with"
            " ddx.denoiser(process, model_fn), or ddx.from_pixels(process, function)"
        )
    return denoise


def network_times(process: Process, t: Times) -> Array:
    """Return times t, which must be times that networks know: 1..T, or [0, T] where times are continuous.

    A traced time that networks do not know becomes T + 1, at which everything is NaN.

    Raises:
      ValueError: a time known on the host is not one that networks know.
    """
    time = whole(t)
    if process.continuous:
        return time
    if not is_host(time):
        return jnp.where(time >= 1, time, process.num_steps + 1)
    if not np.all(np.equal(time, np.round(time)) & np.greater_equal(time, 1)):
        raise ValueError(f"time {t} is out of range; networks know the noise levels 1..{process.num_steps}")
    return np.asarray(time, int)


def known(process: Process, t: Times, x: Any) -> Any:
    """Return x, images or one number per example, with NaN where a traced time is not one of the process."""
    if is_host(t):
        return x
    sigma = process.level(t).sigma
    return jnp.where(jnp.isnan(sigma.reshape(sigma.shape[: max(x.ndim, 1)])), jnp.nan, x)
