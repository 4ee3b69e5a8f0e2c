"""From the output of a network to (x_0, eps), and from (x_0, eps) to the target of a network.

Per basis coordinate u_t = alpha u_0 + sigma eps, so any one of the following determines u_0 and eps once u_t is known:

| prediction | the network outputs | u_0 | source |
| --- | --- | --- | --- |
| eps | the noise | (u_t - sigma eps) / alpha | DDPM eq. 15 |
| x0 | the data | itself | DDPM section 3.2 |
| v | a eps - sigma u_0 | (a u_t - sigma v) / (a alpha + sigma^2) | Salimans & Ho 2022, appendix D |
| mean | the posterior mean of u_{t-1} | (mean - k u_t) / gamma | DDPM eq. 8 |
| residual | alpha_{t-1} u_0 - u_t | (u_t + residual) / alpha_{t-1} | Rissanen et al. 2022 |

a is the part of alpha that no blur makes, so the network of "v" need not know of frequencies, and its divisor is never
small; without blur it is 1. "eps" is divided by alpha, which a blur makes as small as 1e-5: its x_0 is then of use as
part of a step, which multiplies by as small a number, and not to be clipped. "residual" says what the next image is;
x_0 is read from it where there is more signal than noise, and is 0 in the other coordinates.

Clipping limits x_0 to the range of the data in pixels, after which eps is derived anew, so that the two agree with u_t;
or eps stays as the network says it, and a step then takes both as they are (DDIM eq. 12).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import check_floats
from ddx.diffusion.basis import Basis, largest_variance
from ddx.diffusion.gaussian import step_coefficients
from ddx.diffusion.levels import is_host, whole
from ddx.diffusion.process import Level, Process

PREDICTIONS = ("eps", "x0", "v", "mean", "residual")

ModelFn = Callable[[Any, Any], Any]
"""model_fn(x_t, model_time) -> raw output: (B, H, W, C) and (B,) to (B, H, W, C), or 2 C with learned variances."""


class Denoised(NamedTuple):
    """A model's estimate at time t: u_t = alpha x_0 + sigma eps, unless `own_eps`."""

    x_0: Any
    eps: Any
    extra: Any  # the raw channels C.. of the network (learned variances), or None
    mean: Any = None  # of "residual": alpha_{t-1} times x_0, as the network itself says; no clipping changes it
    output: Any = None  # the network's first C channels as they are, of eps, x0 and v
    gain: Any = None  # how much an error of the output is one of x_0; no clipping changes these two
    most: Any = None  # the variance that no x_0 in the range of the data exceeds, of each coordinate
    own_eps: Any = None  # of clip="x0": the eps that the network says, which the clipped x_0 does not agree with


DenoiseFn = Callable[[Any, Any], Denoised]
"""denoise(x_t, t) -> `Denoised` in pixels: a `Denoiser`, or a function around one (guidance, say)."""


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A network read as an estimator of (x_0, eps). Made by `denoiser`."""

    process: Process
    model_fn: ModelFn
    prediction: str
    clip: bool | str

    def __call__(self, x_t: Any, t: Any) -> Denoised:
        """x_0 and eps in pixels, like x_t, for times t, () or (B,), at which there is a network.

        Raises:
          ValueError: x_t are not floating-point numbers, or a time known on the host is none of them; a traced one
            gives NaN.
        """
        check_floats(x_t=x_t)
        basis = self.process.basis
        t = network_times(self.process, t)
        d = self.at(basis.analysis(x_t), self.process.level(t, x_t.shape[-3:-1]))
        d = d._replace(x_0=known(self.process, t, d.x_0), eps=known(self.process, t, d.eps))
        return to_pixels(basis, d)

    def at(self, u_t: Any, level: Level) -> Denoised:
        """The same in basis coordinates, with the level's coefficients given: what samplers and bounds call."""
        process, basis = self.process, self.process.basis
        x_t = basis.synthesis(u_t)
        model_time = jnp.broadcast_to(jnp.asarray(level.model_time), x_t.shape[:1])
        output, extra = split_output(self.model_fn(x_t, model_time), x_t.shape[-1])
        out = basis.analysis(output)
        (alpha, sigma, _), a, mean, gain = level.marginal, level.a, None, None
        if self.prediction == "eps":
            u_0, eps, gain = (u_t - sigma * out) / alpha, out, -sigma / alpha
        elif self.prediction == "x0":
            u_0, eps, gain = out, (u_t - alpha * out) / sigma, jnp.ones_like(sigma)
        elif self.prediction == "v":
            divisor = a * alpha + sigma**2
            u_0, eps = (a * u_t - sigma * out) / divisor, (sigma * u_t + alpha * out) / divisor
            gain = -sigma / divisor
        elif self.prediction == "residual":
            mean, alpha_s = u_t + out, process.marginal(level.t - 1, x_t.shape[-3:-1]).alpha
            known = alpha_s > sigma
            u_0 = jnp.where(known, mean / jnp.where(known, alpha_s, 1.0), 0.0)
            eps = (u_t - alpha * u_0) / sigma
        else:
            c = step_coefficients(process, level.t - 1, level.t, shape=x_t.shape[-3:-1])
            u_0 = (out - c.k * u_t) / c.gamma
            eps = (u_t - alpha * u_0) / sigma
        most = jnp.asarray(largest_variance(basis, x_t.shape[-3:-1], process.low), x_t.dtype)
        d = Denoised(u_0, eps, extra, mean, out, gain, most)
        if not self.clip:
            return d
        limited = clipped(process, u_t, level, d)
        return limited._replace(eps=eps, own_eps=eps) if self.clip == "x0" else limited


def clipped(process: Process, u_t: Any, level: Level, d: Denoised) -> Denoised:
    """An estimate in basis coordinates, its x_0 limited to the range of the data in pixels and its eps derived anew."""
    basis, (alpha, sigma, _) = process.basis, level.marginal
    u_0 = basis.analysis(jnp.clip(basis.synthesis(d.x_0), process.low, 1.0))
    return d._replace(x_0=u_0, eps=(u_t - alpha * u_0) / sigma)


def to_pixels(basis: Basis, d: Denoised) -> Denoised:
    """An estimate in basis coordinates as one in pixels; what is of variances stays that of coordinates."""
    return _changed(d, basis.synthesis)


def to_coordinates(basis: Basis, d: Denoised) -> Denoised:
    """The inverse of `to_pixels`."""
    return _changed(d, basis.analysis)


def _changed(d: Denoised, change: Callable[[Any], Any]) -> Denoised:
    changed = {name: change(x) for name in _IMAGES if (x := getattr(d, name)) is not None}
    return d._replace(**changed)


_IMAGES = ("x_0", "eps", "mean", "output", "own_eps")


def denoiser(process: Process, model_fn: ModelFn, prediction: str = "eps", clip: bool | str = True) -> Denoiser:
    """Read a network's raw output as an estimate of (x_0, eps).

    Args:
      process: the process that the network was trained for.
      model_fn: model_fn(x_t, model_time) -> raw output, (B, H, W, C) or (B, H, W, 2 C) when variances are learned.
      prediction: what the first C channels mean: "eps", "x0", "v", "mean" (of x_{t-1}) or "residual" (IHDM).
      clip: limit x_0 to the range of the data and derive eps anew. Off for encoding, for eps under blur, and where the
        reference never clips (DDIM's own code). "x0" limits x_0 and leaves eps as the network says it, so that a step
        of solver "euler" goes to alpha_s x_0 + sqrt(sigma_s^2 - lambda2) eps: DDIM in diffusers and in Analytic-DPM's
        code. Bounds have the step k x_t + gamma x_0 all the same.

    Returns:
      A function denoise(x_t, t) -> `Denoised`, with fields x_0, eps (pixels) and extra.

    Raises:
      ValueError: the prediction is unknown, or it does not tell x_0: "eps" where the process ends without signal
        (alpha_T = 0), "mean" where a coordinate does not change, "mean" and "residual" where times are continuous. Or
        clip is neither True, False nor "x0".
    """
    check_prediction(process, prediction)
    if not (isinstance(clip, bool | np.bool_) or clip == "x0"):
        raise ValueError(f"clip={clip!r} must be True, False or 'x0'")
    return Denoiser(process, model_fn, prediction, clip)


def network_times(process: Process, t: Any) -> Any:
    """Times t at which there is a network: 1..T, or [0, T] where they are continuous.

    Those in the graph that are none become T + 1, of which everything is NaN.

    Raises:
      ValueError: a time known on the host is none of them.
    """
    t = whole(t)
    if process.continuous:
        return t
    if not is_host(t):
        return jnp.where(t >= 1, t, process.num_steps + 1)
    if not np.all(np.equal(t, np.round(t)) & np.greater_equal(t, 1)):
        raise ValueError(f"time {t} is out of range; networks know the noise levels 1..{process.num_steps}")
    return t.astype(int)


def known(process: Process, t: Any, x: Any) -> Any:
    """Images or numbers of examples, NaN where a time in the graph is none of the process."""
    if is_host(t):
        return x
    sigma = process.scalars(t).sigma
    return jnp.where(jnp.isnan(sigma.reshape(sigma.shape[: max(x.ndim, 1)])), jnp.nan, x)


def check_process(process: Process, denoise: Any) -> None:
    """Refuse, with a ValueError, a `Denoiser` whose process is another one than that to sample or to score."""
    if isinstance(denoise, Denoiser) and denoise.process is not process and not _same(process, denoise.process):
        raise ValueError(
            "the denoiser belongs to another process (in basis, schedule, blur, range or times) than the one that was"
            " passed; pass its own, denoise.process, or make one for this process with ddx.denoiser"
        )


def _same(one: Process, other: Process) -> bool:
    """Whether a network cannot tell one process from the other."""
    told = [
        (p.basis.name, p.num_steps, p.continuous, p.blur is None, p.d_min, p.low, p.time_offset, p.rescale_time)
        for p in (one, other)
    ]
    if told[0] != told[1]:
        return False
    times = np.linspace(0, one.num_steps, min(one.num_steps, 100) + 1)
    levels = (p.scalars(times if p.continuous else times.round()) for p in (one, other))
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*levels, strict=True))


def check_prediction(process: Process, prediction: str) -> None:
    """Refuse, with a ValueError, a prediction that is unknown or from which x_0 cannot be recovered at time T."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction {prediction!r} is unknown; choose one of: {', '.join(PREDICTIONS)}")
    if prediction == "eps" and process.forgets:
        raise ValueError(
            "prediction 'eps' says nothing of x_0 at t = T where alpha_T = 0; use 'v' or 'x0', or another schedule"
        )
    if prediction in ("mean", "residual") and process.continuous:
        raise ValueError(f"prediction {prediction!r} is that of the step to t - 1, and times are continuous; use 'v'")
    if prediction == "mean" and process.blur is not None:
        raise ValueError("prediction 'mean' says nothing of x_0 where a frequency does not change; use 'residual'")


def target(process: Process, prediction: str, x_0: Any, x_t: Any, t: Any, noise: Any) -> Any:
    """What the network should output at x_t, in pixels, like x_0.

    Args:
      process: the process.
      prediction: one of `PREDICTIONS`.
      x_0: (B, H, W, C) data.
      x_t: `q_sample` of x_0 with the same noise.
      t: times, () or (B,).
      noise: the noise in x_t, like x_0.
    """
    check_prediction(process, prediction)
    check_floats(x_0=x_0, x_t=x_t, noise=noise)
    t = whole(t)
    process.scalars(t)  # refuses a time that is none
    basis, shape = process.basis, x_0.shape[-3:-1]
    if prediction == "eps":
        return noise
    if prediction == "x0":
        return x_0
    if prediction == "v":
        at = process.scalars(t)
        return at.a * noise - at.sigma * x_0
    if prediction == "residual":
        m = process.marginal(t - 1, shape)
        return basis.synthesis(m.alpha * basis.analysis(x_0)) - x_t
    c = step_coefficients(process, t - 1, t, shape=shape)
    return basis.synthesis(c.k * basis.analysis(x_t) + c.gamma * basis.analysis(x_0))


def split_output(output: Any, channels: int) -> tuple[Any, Any]:
    """Split raw output channels into (prediction, extra); extra is None when there are only `channels`.

    Raises:
      ValueError: the network has neither C nor 2 C output channels.
    """
    if output.shape[-1] not in (channels, 2 * channels):
        raise ValueError(
            f"the network outputs {output.shape[-1]} channels for images of {channels}; expected {channels}, or"
            f" {2 * channels} with learned variances"
        )
    return output[..., :channels], output[..., channels:] if output.shape[-1] > channels else None
