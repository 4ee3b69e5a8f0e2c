"""The variational bound on -log p(x_0), in bits per dimension, term by term (DDPM eq. 5; Improved DDPM eq. 4 to 7).

    bound = KL(q(u_T | u_0) || N(0, 1)) + sum over steps t -> s of E KL(q(u_s | u_t, u_0) || p(u_s | u_t))       (1)

where the step to the data, s = 0, contributes -log p(x_0 | x_t) of the discretised decoder instead of a KL. The two
Gaussians of a KL have the means k u_t + gamma u_0 and k u_t + gamma E u_0, where E u_0 is the network's estimate, so
u_t cancels exactly:

    KL = 0.5 [v_q / v_p - 1 - log(v_q / v_p) + gamma^2 (u_0 - E u_0)^2 / v_p]                                     (2)

At eta = 1 and v_p = v_q it is 0.5 (SNR_s - SNR_t) (u_0 - E u_0)^2 (Kingma et al. 2021, eq. 14). An invertible change
of coordinates changes no KL. Any sequence of times has its own bound.

For a process with noise at t = 0 the step to t = 0 contributes a KL like the others, and -log p(x_0 | x_0 + noise) of
the discretised decoder is added. At t = 0 there is no blur, so this noise is independent in pixels unless it is
coloured. Where pixels depend on each other, as in a step to the data in frequencies, the decoder takes them as
independent, each with its own variance: any p(x_0 | u) gives a bound.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import (
    Array,
    Coordinates,
    Images,
    Key,
    Numbers,
    PerExample,
    Shape,
    Times,
    Trajectory,
    cast,
    check_floats,
    computing_dtype,
    mean_over_image,
)
from ddx.diffusion.bound.decoder import decoder_log_prob
from ddx.diffusion.estimate.denoiser import Denoised, Denoiser, check_denoiser
from ddx.diffusion.forward.gaussian import gaussian_kl, host_eta, prior_kl
from ddx.diffusion.forward.process import Process
from ddx.diffusion.random import batch_keys, fold_in_time, given_noise, white_noise
from ddx.diffusion.reverse.rows import Plan, Row, Step, downward, visited
from ddx.diffusion.reverse.variance import VarianceFn, variance_fn

_BIT = float(np.log(2.0))  # in nats


class Terms(NamedTuple):
    """The bound's terms of each example, and the errors of the estimates, by ascending time: (B, K) each."""

    terms: jax.Array  # bits/dim of the step from t
    mse: jax.Array  # mean (x_0 - its estimate)^2
    eps_mse: jax.Array  # mean (eps - its estimate)^2


class BitsPerDim(NamedTuple):
    """A bound on -log p(x_0) of each example, in bits per dimension, and its parts."""

    total: PerExample  # (B,): prior, all terms and decoder
    prior: PerExample  # (B,)
    terms: jax.Array  # (B, K): bits/dim of each step
    mse: jax.Array  # (B, K): mean (x_0 - its estimate)^2
    eps_mse: jax.Array  # (B, K): mean (eps - its estimate)^2
    times: np.ndarray  # (K,): terms[:, j] is the step from times[j]; ascending
    decoder: PerExample  # (B,): if there is noise at t = 0; else 0, since the decoder is the first term


class RateDistortion(NamedTuple):
    """Progressive coding: what a receiver who holds x_t knows of x_0 (DDPM section 4.3, table 4, figure 5)."""

    times: np.ndarray  # (K,), ascending
    rate: np.ndarray  # (K,): bits per dimension sent for x_t
    distortion: np.ndarray  # (K,): root mean squared error of the estimate of x_0, in grey levels 0..255


def bits_per_dim(
    denoise: Denoiser,
    x_0: Images,
    key: Key | None,
    times: Trajectory | None = None,
    variance: str | VarianceFn = "small",
    noise: Coordinates | None = None,
    cdf: str = "exact",
    eta: float = 1.0,
) -> BitsPerDim:
    """A bound on bits per dimension, equation (1), one draw of noise per term (DDPM table 1, Improved DDPM table 2).

    Args:
      denoise: a `ddx.denoiser`, which should clip.
      x_0: (B, H, W, C) images exactly on the grid k / 127.5 - 1: not dequantised, not resampled after rounding.
      key: one key (example i of the batch then uses fold_in(key, i)), or keys of shape (B,), one for each example; the
        noise of a term depends on its time, not on the other visited times. May be None when `noise` is given.
      times: strictly decreasing, ending in 0 (`ddx.trajectory`); None for all T, the bound that papers report. The
        prior is taken at the first time, so it is larger for a trajectory that leaves out T.
      variance: of the reverse steps: "small", "large", "learned", "range", "sn", "npr", or a function (d, step) ->
        variance.
      noise: (K, B, H, W, C), in the coordinates of the basis; noise[j] belongs to terms[:, j]; None draws it from
        `key`. For a process with noise at t = 0 (K + 1, ...): the decoder's noise comes first.
      cdf: of the decoder, "exact", "tanh" or "softmax"; see `ddx.diffusion.bound.decoder`. The papers' numbers use
        "tanh".
      eta: stochasticity of the inference process and of the steps, above 0; values other than 1 are DDIM's family,
        whose bound grows without limit as eta goes to 0.

    Returns:
      `BitsPerDim`: totals, prior, and terms by ascending time.

    Raises:
      ValueError: times, variance, eta or cdf are invalid, noise does not have one draw per term, or x_0 or noise are
        not floating-point numbers.
    """
    process = check_denoiser(denoise).process
    check_floats(x_0=x_0, **({} if noise is None else {"noise": noise}))
    x_0, eta = x_0.astype(computing_dtype(x_0)), host_eta(eta)
    if not eta > 0:
        raise ValueError(f"eta={eta} has no bound: a step without noise has an infinite KL; use eta above 0")
    rows = bound_rows(process, visited(process, times), x_0.shape[-3:-1], eta)
    t = np.asarray(rows.level.t)
    num_draws = len(t) + process.ends_noisy
    if noise is None:
        draw = noise_at(key, x_0)
        entries, last = rows.level.t, draw(0) if process.ends_noisy else None
    elif noise.shape == (num_draws, *x_0.shape):
        draw = given_noise
        entries, last = noise[process.ends_noisy :], noise[0]
    else:
        raise ValueError(f"noise must have the shape {(num_draws, *x_0.shape)}, one draw a term; got {noise.shape}")
    found = bound_terms(denoise, x_0, rows, entries, variance_fn(variance, eta), draw, cdf)
    prior = prior_bits(process, x_0, t[-1])
    decoder = jnp.zeros_like(prior) if last is None or not process.ends_noisy else decoder_bits(process, x_0, last, cdf)
    total = prior + found.terms.sum(-1) + decoder
    return BitsPerDim(total, prior, *found, times=t, decoder=decoder)


def rate_distortion(times: Array, prior: Numbers, terms: Array, mse: Array, low: float = -1.0) -> RateDistortion:
    """Rate and distortion by time, averaged over examples.

    Args:
      times: (K,) ascending.
      prior: (B,) or () bits/dim.
      terms: (B, K), or (K,) if averaged already.
      mse: like terms.
      low: the lowest value of the data.

    Returns:
      rate[j] is what is sent before the step from times[j]: the prior and the terms of all later times. The distortion
      is the root of the mean squared error over all images.
    """
    terms, mse = (np.asarray(x, np.float64).reshape(-1, len(times)).mean(0) for x in (terms, mse))
    paid = np.cumsum([0.0, *terms[:0:-1]])[::-1]
    return RateDistortion(np.asarray(times), np.mean(prior) + paid, 255.0 / (1.0 - low) * np.sqrt(mse))


def bound_rows(process: Process, times: Trajectory, shape: Shape, eta: float = 1.0) -> Plan:
    """The len(times) - 1 rows of a trajectory's steps by ascending time, for images of shape (H, W).

    Raises:
      ValueError: times or eta are impossible, or the process blurs and ends without noise: it then has no decoder.
    """
    if process.blur is not None and not process.ends_noisy:
        raise ValueError("a process that blurs and has no noise at t = 0 has no decoder; give it noise there")
    return jax.tree.map(lambda x: x[::-1], downward(process, times, eta, shape))


class Seen(NamedTuple):
    """What can be measured at a step: the noise z in u_t, and the estimate d from u_t."""

    step: Step
    u_t: Coordinates
    z: Coordinates
    d: Denoised


def look(denoise: Denoiser, u_0: Coordinates, row: Row, z: Coordinates) -> Seen:
    """Diffuse data u_0, (B, H, W, C), to the level of one row with noise z like u_0, and evaluate the network."""
    step = row.expand(u_0.shape[-3:-1])
    u_t = step.level.alpha * u_0 + step.level.sigma * z
    return Seen(step, u_t, z, denoise.at(u_t, step.level))


def at_every_row(
    denoise: Denoiser,
    u_0: Coordinates,
    rows: Plan,
    entries: Any,
    draw: Callable[[Any], Coordinates],
    measure: Callable[[Seen], Any],
) -> Any:
    """Measure data at each row of a plan, each row with its own noise.

    Args:
      denoise: the denoiser.
      u_0: (B, H, W, C) data, in coordinates.
      rows: K rows.
      entries: a pytree of arrays with a leading axis of K: one entry for each row, given to `draw`.
      draw: draw(entry) -> noise like u_0, white.
      measure: measure(seen) -> a pytree of arrays.

    Returns:
      What `measure` returns, its arrays with a leading axis of K.
    """

    def one(_: None, row: tuple[Row, Any]) -> tuple[None, Any]:
        return None, measure(look(denoise, u_0, row[0], draw(row[1])))

    return jax.lax.scan(one, None, (cast(rows, u_0.dtype), entries))[1]


def bound_terms(
    denoise: Denoiser, x_0: Images, rows: Plan, entries: Any, variance: VarianceFn, draw: Callable[[Any], Any], cdf: str
) -> Terms:
    """The `Terms` of x_0, (B, H, W, C), at K rows, in their order.

    There is one entry for each row, and draw(entry) is the white noise of the row, like x_0, in coordinates.
    """
    process = denoise.process
    u_0 = process.basis.analysis(x_0)

    def measure(seen: Seen) -> Terms:
        term = bound_term(process, x_0, seen.u_t, seen.d, seen.step, variance, cdf)
        return Terms(term, *squared_errors(process, u_0, seen))

    return jax.tree.map(lambda x: x.T, at_every_row(denoise, u_0, rows, entries, draw, measure))


def squared_errors(process: Process, u_0: Coordinates, seen: Seen) -> tuple[jax.Array, jax.Array]:
    """The mean squared errors of x_0, in pixels, and of the white eps, (B,) each."""
    mse = mean_over_image(process.basis.square(u_0 - seen.d.x_0))
    return mse, mean_over_image(jnp.square(seen.z - seen.d.eps))


def bound_term(
    process: Process, x_0: Images, u_t: Coordinates, d: Denoised, step: Step, variance: VarianceFn, cdf: str = "exact"
) -> jax.Array:
    """The bits/dim of one step for the estimate d of the data from u_t (equations 1 and 2).

    A coordinate that the step does not change costs nothing, such as an image's mean under heat. The decoder
    treats pixels as independent. Where the coordinates are not pixels, it gets `Basis.pixel_variance`.

    Args:
      process: the process.
      x_0: (B, H, W, C) images.
      u_t: like x_0, in coordinates.
      d: the estimate, in coordinates.
      step: the step.
      variance: of the reverse step.
      cdf: of the decoder.

    Returns:
      (B,).
    """
    basis, v = process.basis, variance(d, step)
    kl = step_kl(step, step.gamma * basis.analysis(x_0), step.gamma * d.x_0, v)
    if process.ends_noisy:
        return mean_over_image(kl) / _BIT
    v_pixel = basis.pixel_variance(v, x_0.shape[-3:-1])
    mean = basis.synthesis(step.k * u_t + step.gamma * d.x_0)
    log_prob = decoder_log_prob(x_0, mean, jnp.log(v_pixel), cdf, process.low)
    return mean_over_image(jnp.where(step.target.sigma == 0, -log_prob, kl)) / _BIT


def step_kl(step: Step, known: Coordinates, found: Coordinates, v_p: Numbers) -> Coordinates:
    """Equation (2) in nats, (B, H, W, C), between N(k u_t + known, step.small) and N(k u_t + found, v_p)."""
    still = (step.small == 0) & (step.target.sigma > 0)
    return gaussian_kl(known, jnp.where(still, 1.0, step.small), found, jnp.where(still, 1.0, v_p))


def decoder_bits(process: Process, x_0: Images, noise: Coordinates, cdf: str = "exact") -> PerExample:
    """-log p(x_0 | u_0) of a process with noise at t = 0, (B,) bits/dim; the noise is like x_0, in coordinates."""
    level = process.level(0)
    ratio = float(level.sigma / level.a)
    mean, log_variance = x_0 + ratio * process.basis.synthesis(noise), 2.0 * np.log(ratio)
    if process.basis.weights is not None:
        log_variance += jnp.log(process.basis.pixel_variance(jnp.ones((), x_0.dtype), x_0.shape[-3:-1]))
    return -mean_over_image(decoder_log_prob(x_0, mean, log_variance, cdf, process.low)) / _BIT


def prior_bits(process: Process, x_0: Images, t: Times) -> PerExample:
    """The bits/dim of the prior, (B,), for a chain that starts at time t."""
    return mean_over_image(prior_kl(process, x_0, t)) / _BIT


def noise_at(key: Key | None, x_0: Images) -> Callable[[Any], Coordinates]:
    """draw(t) -> white noise like x_0 at one time; each example's noise is drawn from its key with t folded in.

    `key` is one key, or keys of shape (B,).

    Raises:
      ValueError: there is no key, or not one for each example.
    """
    keys = batch_keys(key, x_0.shape[0])
    return lambda t: white_noise(fold_in_time(keys, t), x_0.shape[1:], x_0.dtype)
