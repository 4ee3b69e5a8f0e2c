"""The variational bound on -log p(x_0), in bits per dimension, term by term (DDPM eq. 5; Improved DDPM eq. 4 to 7).

    bound = KL(q(u_T | u_0) || N(0, 1)) + sum over steps t -> s of E KL(q(u_s | u_t, u_0) || p(u_s | u_t))       (1)

and the step to the data, s = 0, counts -log p(x_0 | x_t) of the discretised decoder instead. Both Gaussians of a KL
have the mean k u_t + gamma (.), of u_0 and of the network's estimate of it, so u_t cancels exactly:

    KL = 0.5 [v_q / v_p - 1 - log(v_q / v_p) + gamma^2 (u_0 - E u_0)^2 / v_p]                                     (2)

At eta = 1 and v_p = v_q it is 0.5 (SNR_s - SNR_t) (u_0 - E u_0)^2 (Kingma et al. 2021, eq. 14). A basis is orthonormal,
so the sum over coordinates is that over pixels. Any sequence of times has its own bound.

A process that has noise at t = 0 ends there with a KL like the others, and then counts -log p(x_0 | x_0 + noise), the
discretised decoder once more: at t = 0 there is no blur, so this noise is independent in pixels, whatever the basis.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import check_floats, computing_dtype
from ddx.diffusion.basis import PIXEL
from ddx.diffusion.decoder import decoder_log_prob
from ddx.diffusion.gaussian import gaussian_kl, host_eta, prior_kl
from ddx.diffusion.kernels import DenoiseAt
from ddx.diffusion.noise import batch_keys, fold_in, white_noise
from ddx.diffusion.prediction import Denoised, DenoiseFn, Denoiser
from ddx.diffusion.process import Process
from ddx.diffusion.sampling import cast, denoise_at, visited
from ddx.diffusion.steps import Step, Steps, step_table
from ddx.diffusion.variance import VarianceFn, variance_fn

_BIT = float(np.log(2.0))  # in nats


class Terms(NamedTuple):
    """What the bound says of each example at each time, from the data to the noise: (B, K) each."""

    terms: Any  # bits/dim of the step that starts at t
    mse: Any  # mean (x_0 - its estimate)^2, of pixels in [-1, 1]
    eps_mse: Any  # mean (eps - its estimate)^2


class BitsPerDim(NamedTuple):
    """A bound on -log p(x_0) of each example, in bits per dimension, and its parts."""

    total: Any  # (B,): prior, all terms and decoder
    prior: Any  # (B,)
    terms: Any  # (B, K), as in `Terms`, which also tells of mse and eps_mse
    mse: Any  # (B, K)
    eps_mse: Any  # (B, K)
    times: np.ndarray  # (K,): terms[:, j] is the step from times[j]; ascending
    decoder: Any  # (B,): of a process with noise at t = 0; elsewhere 0, the decoder is the first term


class RateDistortion(NamedTuple):
    """Progressive coding: what a receiver who has paid for x_t knows of x_0 (DDPM section 4.3, table 4, figure 5)."""

    times: np.ndarray  # (K,), ascending
    rate: np.ndarray  # (K,): bits per dimension paid to hold x_t
    distortion: np.ndarray  # (K,): root mean squared error of the estimate of x_0, in grey levels 0..255


def bits_per_dim(
    process: Process,
    denoise: Denoiser | DenoiseFn,
    x_0: Any,
    key: Any,
    times: tuple[int, ...] | None = None,
    variance: str | VarianceFn = "small",
    noise: Any = None,
    cdf: str = "exact",
    eta: float = 1.0,
) -> BitsPerDim:
    """A bound on the bits per dimension of images, one noise draw a term (DDPM table 1, Improved DDPM table 2).

    Args:
      process: the process.
      denoise: a `ddx.denoiser`, which should clip, or any function (x_t, t) -> `Denoised` in pixels.
      x_0: (B, H, W, C) images exactly on the grid k / 127.5 - 1: not dequantised, not resampled after rounding.
      key: one key (example i of the batch then uses fold_in(key, i)), or keys of shape (B,), one for each example; the
        noise of a term depends on its time and not on which others are visited. May be None when `noise` is given.
      times: strictly decreasing, ending in 0 (`ddx.trajectory`); None for all T, the bound that papers report. The
        prior is that of the first: a trajectory that leaves T out pays for it.
      variance: of the reverse steps, as `ddx.sample`'s.
      noise: (K, B, H, W, C), in the coordinates of the basis; noise[j] belongs to terms[:, j]; None draws it. For a
        process with noise at t = 0 (K + 1, ...): the decoder's comes first.
      cdf: of the decoder, "exact", "tanh" or "softmax"; see `ddx.diffusion.decoder`. "tanh" is what the papers' numbers
        are.
      eta: of the inference process and of the steps, above 0; other values than 1 are DDIM's family, whose bound grows
        without end as eta goes to 0.

    Returns:
      `BitsPerDim`: totals, prior, and terms by ascending time.

    Raises:
      ValueError: times, variance, eta or cdf are invalid, noise has not one draw a term, or x_0 are no floats.
    """
    check_floats(x_0=x_0, **({} if noise is None else {"noise": noise}))
    x_0, eta = x_0.astype(computing_dtype(x_0)), host_eta(eta)
    if not eta > 0:
        raise ValueError(f"eta={eta} has no bound: a step without noise has an infinite KL; use eta above 0")
    rows = bound_table(process, visited(process, times), x_0.shape[-3:-1], eta)
    num_draws = len(rows.level.t) + process.ends_noisy
    if noise is None:
        draws, draw = rows.level.t, noise_at(key, x_0)
        last = draw(0) if process.ends_noisy else None
    elif noise.shape == (num_draws, *x_0.shape):
        draws, draw = noise[process.ends_noisy :], lambda given: given
        last = noise[0]
    else:
        raise ValueError(f"noise must have the shape {(num_draws, *x_0.shape)}, one draw a term; got {noise.shape}")
    at = denoise_at(process, denoise)
    found = bound_terms(process, at, x_0, rows, draws, variance_fn(variance, eta), draw, cdf)
    prior = prior_bits(process, x_0, rows.level.t[-1])
    decoder = decoder_bits(process, x_0, last, cdf) if process.ends_noisy else jnp.zeros_like(prior)
    total = prior + found.terms.sum(-1) + decoder
    return BitsPerDim(total, prior, *found, times=np.asarray(rows.level.t), decoder=decoder)


def rate_distortion(times: Any, prior: Any, terms: Any, mse: Any, low: float = -1.0) -> RateDistortion:
    """Rate and distortion by time, averaged over examples.

    Args:
      times: (K,) ascending.
      prior: (B,) or () bits/dim.
      terms: (B, K), or (K,) if averaged already.
      mse: like terms.
      low: the lowest value of the data.

    Returns:
      rate[j] is what is paid before the step that starts at times[j]: the prior and all later steps. The distortion is
      the root of the mean of the squared errors of all images.
    """
    terms, mse = (np.asarray(x, np.float64).reshape(-1, len(times)).mean(0) for x in (terms, mse))
    paid = np.cumsum([0.0, *terms[:0:-1]])[::-1]
    return RateDistortion(np.asarray(times), np.mean(prior) + paid, 255.0 / (1.0 - low) * np.sqrt(mse))


def bound_table(process: Process, times: tuple[int, ...], shape: tuple[int, ...], eta: float = 1.0) -> Steps:
    """The rows of `step_table` from the data to the noise."""
    return jax.tree.map(lambda x: x[::-1], step_table(process, times, eta, shape))


def bound_terms(
    process: Process,
    at: DenoiseAt,
    x_0: Any,
    rows: Any,
    draws: Any,
    variance: VarianceFn,
    draw: Callable[[Any], Any],
    cdf: str,
    independent: bool = False,
) -> Terms:
    """The terms of some rows of `bound_table`, each with its own draw(entry) of noise; `draws` has one entry a row.

    `independent` is as in `bound_term`; `mse` is then that of the next image.
    """
    u_0 = process.basis.analysis(x_0)

    def one(_: None, row: tuple[Any, Any]) -> tuple[None, Terms]:
        step, z = row[0].expand(x_0.shape[-3:-1]), draw(row[1])
        u_t = step.level.marginal.alpha * u_0 + step.level.marginal.sigma * z
        d = at(u_t, step.level)
        term = bound_term(process, x_0, u_t, d, step, variance, cdf, independent)
        known, found = (step.target.marginal.alpha * u_0, d.mean) if independent else (u_0, d.x_0)
        return None, Terms(term, _mean(jnp.square(known - found)), _mean(jnp.square(z - d.eps)))

    rows = jax.tree.map(lambda x: cast(x, x_0.dtype), rows)
    return jax.tree.map(lambda x: x.T, jax.lax.scan(one, None, (rows, draws))[1])


def bound_term(
    process: Process,
    x_0: Any,
    u_t: Any,
    d: Denoised,
    step: Step,
    variance: VarianceFn,
    cdf: str = "exact",
    independent: bool = False,
) -> Any:
    """The bits/dim of one step, (B,), for the estimate d of the data from u_t (equations 1 and 2).

    A coordinate that the step does not change, as heat does not change an image's mean, costs nothing. The decoder
    takes pixels to be independent. Variances of other coordinates than pixels are given to it as their mean, which is
    that of the pixels' variances.

    With `independent` inference, k = 0 and gamma = alpha_s (IHDM's), the mean is what the network itself predicts.
    """
    basis, sigma_s = process.basis, step.target.marginal.sigma
    ahead = d.mean if independent else step.gamma * d.x_0
    v = variance(d, step)
    still = (step.small == 0) & (sigma_s > 0)
    v_q, v_p = jnp.where(still, 1.0, step.small), jnp.where(still, 1.0, v)
    kl = gaussian_kl(step.gamma * basis.analysis(x_0), v_q, ahead, v_p)
    if process.ends_noisy and not independent:
        return _mean(kl) / _BIT
    v_pixel = v if basis is PIXEL else jnp.mean(v, axis=(-3, -2, -1), keepdims=True)
    mean = basis.synthesis(step.k * u_t + ahead)
    log_prob = decoder_log_prob(x_0, mean, jnp.log(v_pixel), cdf, process.low)
    return _mean(jnp.where(sigma_s == 0, -log_prob, kl)) / _BIT


def decoder_bits(process: Process, x_0: Any, noise: Any, cdf: str = "exact") -> Any:
    """-log p(x_0 | u_0) of a process with noise at t = 0, (B,) bits/dim; the noise is in the basis, like x_0."""
    at = process.scalars(0)
    ratio = float(at.sigma / at.a)
    mean = x_0 + ratio * process.basis.synthesis(noise)
    return -_mean(decoder_log_prob(x_0, mean, 2.0 * np.log(ratio), cdf, process.low)) / _BIT


def prior_bits(process: Process, x_0: Any, t: Any) -> Any:
    """The bits/dim of a chain that starts with pure noise at t, (B,)."""
    return _mean(prior_kl(process, x_0, t)) / _BIT


def noise_at(key: Any, x_0: Any) -> Callable[[Any], Any]:
    """The noise of each example at a time as a function of it: white, like x_0, from fold_in(its key, t).

    Of a time that is no integer the bits are folded in.
    """
    keys = batch_keys(key, x_0.shape[0])

    def draw(t: Any) -> Any:
        t = jnp.asarray(t)
        if jnp.issubdtype(t.dtype, jnp.floating):
            t = jax.lax.bitcast_convert_type(t.astype(jnp.float32), jnp.uint32)
        return white_noise(fold_in(keys, t), x_0.shape[1:], x_0.dtype)

    return draw


def _mean(x: Any) -> Any:
    return x.mean((1, 2, 3))
