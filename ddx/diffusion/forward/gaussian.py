"""The diagonal Gaussians of a diffusion process: marginal, transition, posterior and their KL divergences.

Per coordinate u of the process's basis, q(u_t | u_0) = N(alpha_t u_0, sigma_t^2). For a step from t to any s < t let
r = SNR_t / SNR_s = exp(logsnr_t - logsnr_s). The forward transition is

    q(u_t | u_s) = N((alpha_t / alpha_s) u_s, sigma_t^2 (1 - r))                                                (1)

since sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 = sigma_t^2 (1 - r). The joint law of (u_s, u_t) given u_0 leaves
one number free: every Gaussian q(u_s | u_t, u_0) = N(k u_t + gamma u_0, lambda2) with

    k alpha_t + gamma = alpha_s        k^2 sigma_t^2 + lambda2 = sigma_s^2                                      (2)

has the right marginal at s (DDIM, Song et al. 2021, lemma 1). With a stochasticity eta in [0, 1],

    lambda2 = eta^2 sigma_s^2 (1 - r)                                                                           (3)

is DDPM's posterior variance at eta = 1 (Ho et al. 2020, eq. 7) and zero, DDIM's deterministic step, at eta = 0.
Solving (2) with b = sqrt((1 - eta^2) + eta^2 r):

    k     = (sigma_s / sigma_t) b                                                                               (4)
    gamma = alpha_s (1 - b sqrt(r)) = alpha_s (1 - r)(1 + eta^2 r) / (1 + b sqrt(r))                            (5)

The right-hand side of (5) has no cancellation, nothing in a step divides by alpha_t, and 1 - r is -expm1 of a log-SNR
difference. An eta above 1 has the right marginals too, as long as b^2 >= 0. At eta = 0 the step is one of an ordinary
differential equation and runs both ways: (4) and (5) hold for s > t too, where r > 1, which is how images are encoded.

A model replaces u_0 by its expectation, and its uncertainty about u_0 adds to the variance:

    E[u_s | u_t] = k u_t + gamma E[u_0 | u_t]        Cov[u_s | u_t] = lambda2 + gamma^2 Cov[u_0 | u_t]        (6)
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Coefficient, Coordinates, Images, Numbers, Shape, Times, check_floats
from ddx.diffusion.forward.basis import Basis
from ddx.diffusion.forward.process import Change, Level, Process
from ddx.diffusion.forward.schedules import Marginal
from ddx.diffusion.times import is_host


class StepCoefficients(NamedTuple):
    """q(u_s | u_t, u_0) = N(k u_t + gamma u_0, lambda2), per basis coordinate."""

    k: Coefficient
    gamma: Coefficient
    lambda2: Coefficient


def step_coefficients(
    process: Process, s: Times, t: Times, eta: Numbers = 1.0, shape: Shape | None = None
) -> StepCoefficients:
    """k, gamma and lambda2 of q(u_s | u_t, u_0), equations (3) to (5).

    Args:
      process: the process.
      s: times to go to, () or (B,), 0 <= s < t; at eta = 0 also s > t.
      t: times to start from, () or (B,).
      eta: stochasticity, 0 is DDIM, 1 is DDPM; more than 1 only where b^2 >= 0 and s, t and eta are known on the host.
        In the graph it may be (B,), one per example.
      shape: (H, W), for processes whose coefficients differ between coordinates.

    Returns:
      Coefficients that broadcast to (B, H, W, C); float64 NumPy when s, t and eta are known on the host. In the
      graph they are NaN where a time or eta is impossible.

    Raises:
      ValueError: a time, where known on the host, is out of range; eta, where known, is negative, too large for these
        steps, or above 1 while a time is traced; s >= t (s = t at eta = 0); or a step up starts at noise-free data.
    """
    host = is_host(s, t, eta)
    if is_host(eta):
        eta = host_eta(eta)
        if eta > 1.0 and not host:
            raise ValueError(f"eta={eta} is above 1, which needs times known on the host; use 0 (DDIM) to 1 (DDPM)")
    m_s, m_t = process.marginal(s, shape), process.marginal(t, shape)
    if is_host(s, t) and np.any(np.equal(s, t) if is_host(eta) and eta == 0 else np.greater_equal(s, t)):
        raise ValueError(f"a step must go from t to an earlier s < t; got s={s}, t={t}")
    if is_host(t) and np.any(m_t.sigma == 0):
        raise ValueError(f"a step to s={s} cannot start at t={t}, where the data have no noise; start at a later time")
    log_r = process.change(s, t, shape).logsnr
    if is_host(s, t, eta):
        return solve(m_s, m_t, log_r, eta)
    s, t, eta = (_like_images(x) for x in (s, t, eta))
    possible = ((s < t) | (s != t) & (eta == 0)) & (m_t.sigma > 0)
    return StepCoefficients(*(jnp.where(possible, c, jnp.nan) for c in solve(m_s, m_t, log_r, eta)))


def _like_images(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x[:, None, None, None] if x.ndim == 1 else x


def host_eta(eta: Any) -> float:
    """A stochasticity that is known on the host, as a number.

    Raises:
      ValueError: eta is traced, not a single number, negative or not finite.
    """
    if not is_host(eta):
        raise ValueError(
            "eta is traced, and this function needs its value: pass a Python number, named in static_argnames of"
            " jax.jit, or closed over; loop over several, without jax.vmap"
        )
    value = np.asarray(eta)
    if value.shape != () or (value.dtype.kind not in "biuf" and not jnp.issubdtype(value.dtype, jnp.floating)):
        raise ValueError(f"eta={eta} must be one number: 0 is DDIM, 1 is DDPM")
    if not 0.0 <= float(value) < math.inf:
        raise ValueError(f"eta={eta} must be at least 0 (DDIM) and finite; 1 is DDPM")
    return float(value)


def solve(m_s: Marginal | Level, m_t: Marginal | Level, log_r: Coefficient, eta: Numbers) -> StepCoefficients:
    """Equations (3) to (5) for the marginals at both ends of a step and its log(SNR_t / SNR_s).

    This is what runs: on the host for `step_coefficients`, and in the graph for every row of a plan.
    """
    host = not any(isinstance(x, jax.Array) for x in (m_s.alpha, m_s.sigma, m_t.alpha, m_t.sigma, log_r, eta))
    xp: Any = np if host else jnp
    down, up = xp.minimum(log_r, 0.0), xp.maximum(log_r, 0.0)
    r, one_minus_r = xp.exp(down), -xp.expm1(down)
    b2 = (1.0 - eta**2) + eta**2 * r
    if host and np.any(np.greater(eta, 1.0)):
        b2 = _check_eta(float(np.max(eta)), b2, one_minus_r, np.asarray(m_s.sigma))
    elif not host:
        # What the host refuses is NaN in the graph. At the largest eta, b^2 may be rounded to below 0.
        possible = (eta >= 0) & ((b2 > -_ROUNDING) | (m_s.sigma == 0))
        b2 = jnp.where(possible, b2, jnp.nan)
    b = root(xp.maximum(b2, 0.0))
    k = m_s.sigma / m_t.sigma * b
    gamma = m_s.alpha * one_minus_r * (1.0 + eta**2 * r) / (1.0 + b * xp.sqrt(r))
    # Upwards sqrt(r) may be infinite: alpha_s (1 - sqrt(r)) = alpha_s - k alpha_t = -k alpha_t (1 - 1 / sqrt(r)).
    gamma = xp.where(log_r > 0, k * m_t.alpha * xp.expm1(-0.5 * up), gamma)
    return StepCoefficients(k, gamma, eta**2 * m_s.sigma**2 * one_minus_r)


_ROUNDING = 1e-4  # of b^2 in float32


def root(x: Any) -> Any:
    """The square root, with the gradient 0 at 0, where the true gradient is infinite."""
    if isinstance(x, int | float):
        return math.sqrt(x)  # a Python float takes the type of the array it multiplies
    xp: Any = jnp if isinstance(x, jax.Array) else np
    return xp.where(x == 0, 0.0, xp.sqrt(xp.where(x == 0, 1.0, x)))


def _check_eta(eta: float, b2: np.ndarray, one_minus_r: np.ndarray, sigma_s: np.ndarray) -> np.ndarray:
    """Refuse an eta that makes b^2 negative, and set b^2 to 0 on steps to noise-free data, where sigma_s is 0 too."""
    noisy = np.broadcast_to(sigma_s > 0, b2.shape)
    if np.any(b2[noisy] < 0):
        largest = float(np.max(one_minus_r[noisy])) ** -0.5
        raise ValueError(
            f"eta={eta} takes more noise out than there is: sigma_s^2 - lambda2 < 0 on some step; with these times eta"
            f" may be at most {math.floor(largest * 1e4) / 1e4:g}"
        )
    return np.where(noisy, b2, 0.0)


def q_sample(process: Process, x_0: Images, t: Times, noise: Images) -> Images:
    """Draw x_t ~ q(x_t | x_0): alpha_t u_0 + sigma_t eps per coordinate (DDPM eq. 4).

    Args:
      process: the process.
      x_0: (B, H, W, C) images.
      t: times, () or (B,).
      noise: like x_0, standard normal, white in pixels; a process of coloured noise colours it.

    Returns:
      x_t in pixels, like x_0; NaN for a traced time out of range.

    Raises:
      ValueError: x_0 or noise are not floating-point numbers, or a time is not one of the process.
    """
    check_floats(x_0=x_0, noise=noise)
    m = process.marginal(t, x_0.shape[-3:-1])
    return noised(process.basis, m, x_0, noise).astype(x_0.dtype)


def noised(basis: Basis, m: Marginal | Level, x_0: Images, noise: Images) -> Images:
    """Return alpha u_0 + sigma eps in pixels, at a given level."""
    mean = basis.synthesis(m.alpha * basis.analysis(x_0))
    return mean + m.sigma * basis.colour(noise)  # sigma is a scalar: without colour its noise is white in every basis


def q_transition(process: Process, x_s: Images, s: Times, t: Times) -> tuple[Images, Coefficient]:
    """Mean and variance of the forward transition q(x_t | x_s), equation (1) (DDPM eq. 2 for s = t - 1).

    Args:
      process: the process.
      x_s: (B, H, W, C) images at s.
      s: times, () or (B,), below t.
      t: times, () or (B,).

    Returns:
      The mean in pixels, like x_s, and the variance per basis coordinate, which broadcasts to (B, H, W, C). Both are
      NaN for traced times that are out of range or not s < t.

    Raises:
      ValueError: x_s are not floating-point numbers, or times known on the host are out of range or not s < t.
    """
    check_floats(x_s=x_s)
    shape = x_s.shape[-3:-1]
    ratio, variance = transition(process.marginal(t, shape).sigma, process.change(s, t, shape))
    if is_host(s, t) and np.any(np.greater_equal(s, t)):
        raise ValueError(f"a transition goes from s to a later t > s; got s={s}, t={t}")
    if not is_host(s, t):
        ratio = jnp.where(_like_images(jnp.asarray(s) < jnp.asarray(t)), ratio, jnp.nan)
    x_t = process.basis.synthesis(ratio * process.basis.analysis(x_s)).astype(x_s.dtype)
    return x_t, variance + 0.0 * ratio


def transition(sigma_t: Coefficient, change: Change) -> tuple[Coefficient, Coefficient]:
    """alpha_t / alpha_s and the variance of equation (1), for the change from s to t; 1 and 0 where nothing changes."""
    xp: Any = jnp if isinstance(change.logsnr, jax.Array) else np
    return xp.exp(change.log_alpha), sigma_t**2 * -xp.expm1(change.logsnr)


def q_posterior(
    process: Process, x_0: Images, x_t: Images, s: Times, t: Times, eta: Numbers = 1.0
) -> tuple[Images, Coefficient]:
    """Mean k x_t + gamma x_0 and variance lambda2 of q(x_s | x_t, x_0), equations (3) to (5).

    eta = 1 and s = t - 1 give DDPM's posterior (eq. 6 and 7); any s < t and eta in [0, 1] give DDIM's family (eq. 7).

    Args:
      process: the process.
      x_0: (B, H, W, C) images.
      x_t: like x_0.
      s: times to go to, () or (B,), below t; at eta = 0 also above t.
      t: times to start from, () or (B,).
      eta: stochasticity, 0 is DDIM, 1 is DDPM.

    Returns:
      The mean in pixels, like x_t, and the variance per basis coordinate, which broadcasts to (B, H, W, C). Both are
      NaN where a traced time or eta is impossible.

    Raises:
      ValueError: x_0 or x_t are not floating-point numbers, or s, t and eta are known on the host and impossible.
    """
    check_floats(x_0=x_0, x_t=x_t)
    c = step_coefficients(process, s, t, eta, x_0.shape[-3:-1])
    u_s = c.k * process.basis.analysis(x_t) + c.gamma * process.basis.analysis(x_0)
    return process.basis.synthesis(u_s).astype(x_t.dtype), c.lambda2


def gaussian_kl(mean_1: Numbers, variance_1: Numbers, mean_2: Numbers, variance_2: Numbers) -> jax.Array:
    """KL(N(mean_1, variance_1) || N(mean_2, variance_2)) per coordinate, in nats, for arguments that broadcast.

    With r = variance_1 / variance_2 it is (r - 1 - log r + (mean_1 - mean_2)^2 / variance_2) / 2.

    Args:
      mean_1: of the first Gaussian, of any shape.
      variance_1: of the first Gaussian, above 0.
      mean_2: of the second Gaussian.
      variance_2: of the second Gaussian, above 0.

    Returns:
      An array of the common shape; integers are promoted to floating-point numbers.
    """
    mean_1, variance_1, mean_2, variance_2 = (1.0 * jnp.asarray(x) for x in (mean_1, variance_1, mean_2, variance_2))
    log_ratio = jnp.log(variance_1) - jnp.log(variance_2)
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + jnp.square(mean_1 - mean_2) / variance_2)


def prior_kl(process: Process, x_0: Images, t: Times | None = None) -> Coordinates:
    """KL(q(u_t | u_0) || p(u_T)) per basis coordinate, in nats (the L_T of DDPM eq. 5).

    The prior is p(u_T) = N(0, process.prior_sigma^2). A KL of zero up to rounding means that sampling may start from
    it. Bits per dimension are the mean over coordinates, divided by log 2.

    Args:
      process: the process.
      x_0: (B, H, W, C) images.
      t: times, () or (B,); T by default.

    Returns:
      (B, H, W, C), in the process's basis.

    Raises:
      ValueError: x_0 are not floating-point numbers, or a time is not one of the process.
    """
    check_floats(x_0=x_0)
    m = process.marginal(process.num_steps if t is None else t, x_0.shape[-3:-1])
    u_0, alpha, sigma = process.basis.analysis(x_0), m.alpha / process.prior_sigma, m.sigma / process.prior_sigma
    xp: Any = jnp if isinstance(sigma, jax.Array) else np
    # sigma^2 - 1 - log sigma^2 through log1p: both terms are about alpha^2, tiny, and their difference tinier. Where
    # there is little noise, 2 log sigma is the precise form.
    excess = sigma**2 - 1.0
    with np.errstate(divide="ignore"):  # for noise-free data the KL is infinite
        log_sigma2 = xp.where(excess > -0.5, xp.log1p(xp.maximum(excess, -0.5)), 2.0 * xp.log(sigma))
    return 0.5 * (jnp.square(alpha * u_0) + (excess - log_sigma2))
