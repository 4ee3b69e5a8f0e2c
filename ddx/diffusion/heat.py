"""What Inverse Heat Dissipation (IHDM, Rissanen et al. 2022) has besides its process, `ddx.ihdm`.

Its inference process is not a Markov chain but independent given the data, q(u_s | u_t, u_0) = q(u_s | u_0), and its
reverse step adds noise of its own size,

    p(u_s | u_t) = N(mu(u_t, t), delta^2)        s = t - 1                                                      (1)

where mu is the network's input plus its output ("residual" in `ddx.diffusion.prediction`). Its prior is not white noise
but the blurred images of the training set, each with noise of variance delta^2,

    p(u_T) = 1/M sum_i N(alpha_T u_0^(i), delta^2)                                                              (2)

With (1) in the rows of a table, the bound on -log p is the one of `ddx.diffusion.likelihood`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import check_floats, computing_dtype
from ddx.diffusion.kernels import DenoiseAt, Kernel
from ddx.diffusion.likelihood import BitsPerDim, Terms, bound_terms, noise_at
from ddx.diffusion.noise import batch_keys, fold_in
from ddx.diffusion.prediction import Denoised, DenoiseFn, Denoiser
from ddx.diffusion.process import Level, Process
from ddx.diffusion.sampling import denoise_at, initial_noise, noise_from, start, visited, walk
from ddx.diffusion.steps import SharedStep, Step, step_table

_IMAGE = 2**31 - 4  # a stream of keys: no walk has so many steps
_NEGLIGIBLE = 1e-9  # what a blur leaves of a frequency that no longer tells images apart


def heat_sampler(delta: float = 0.0125) -> Kernel:
    """IHDM's sampler, equation (1), for all times T..0; delta is a little more than sigma, 1.25 sigma in its code."""

    def step(at: DenoiseAt, u_t: Any, memory: Any, row: Step, z: Any) -> tuple[Any, Any, Denoised]:
        d = at(u_t, row.level)
        if d.mean is None:
            raise ValueError("heat_sampler needs a network that predicts the next image: prediction='residual'")
        return d.mean + row.noise * delta * z, memory, d

    return Kernel(lambda u_T: (), step, needs_noise=delta > 0, all_times=True)


def blur(process: Process, x_0: Any, t: Any) -> Any:
    """alpha_t u_0 in pixels: images (B, H, W, C) blurred as at time t, () or (B,), without noise.

    Raises:
      ValueError: x_0 are not floating-point numbers, or a time is none of the process.
    """
    check_floats(x_0=x_0)
    alpha = process.marginal(t, x_0.shape[-3:-1]).alpha
    return process.basis.synthesis(alpha * process.basis.analysis(x_0)).astype(x_0.dtype)


def prior_images(keys: Any, num_images: int) -> Any:
    """Which images of a training set the samples of keys (B,) start from: (B,) indices, uniform in 0..num_images-1."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, num_images))(fold_in(keys, _IMAGE))


def heat_prior(process: Process, keys: Any, images: Any, delta: float) -> Any:
    """x_T, equation (2): images (B, H, W, C) of the training set, blurred, with noise.

    Args:
      process: the process.
      keys: (B,), one a sample; or one key, of samples 0 .. B - 1.
      images: `prior_images(keys, M)` of the training set, in its range.
      delta: standard deviation of the noise; 0 for none, as in the released training and sampling code.
    """
    keys = batch_keys(keys, len(images))
    return blur(process, images, process.num_steps) + delta * initial_noise(keys, images.shape[1:], images.dtype)


def kde_centres(process: Process, images: Any) -> Any:
    """The centres of the prior (2) for images (M, H, W, C): (M, F), those frequencies that the blur leaves.

    After a blur of half the images' width these are some dozens, so a whole training set is no burden.
    """
    check_floats(images=images)
    scale = process.marginal(process.num_steps, images.shape[-3:-1]).alpha
    u = process.basis.analysis(images)
    return (jnp.asarray(scale, u.dtype) * u)[:, (scale > _NEGLIGIBLE)[..., 0]].reshape(len(images), -1)


def kde_kl(process: Process, centres: Any, x_0: Any, delta: float) -> Any:
    """An upper bound on KL(q(u_T | u_0) || p(u_T)) for the prior (2), (B,) nats.

    sum_i phi_i (KL_i + log phi_i + log M) with the KL to each of the prior's Gaussians and phi = softmax(-KL), which is
    the least of all phi: -log mean_i exp(-KL_i).
    """
    if not delta > 0:
        raise ValueError(f"delta={delta} must be above 0: a prior of points has no density")
    u = kde_centres(process, x_0)

    def add(total: Any, pair: tuple[Any, Any]) -> tuple[Any, None]:
        return total + jnp.square(pair[0][:, None] - pair[1][None, :]), None

    # Not by the product of the two, which would cancel.
    distance, _ = jax.lax.scan(add, jnp.zeros((len(u), len(centres)), u.dtype), (u.T, centres.T))
    ratio = float(process.scalars(process.num_steps).sigma) / delta
    per_dim = 0.5 * (ratio**2 - 1.0) - np.log(ratio)
    nearest = -jax.nn.logsumexp(-0.5 * distance / delta**2, axis=1) + np.log(len(centres))
    return nearest + per_dim * np.prod(x_0.shape[1:])


class HeatStep(NamedTuple):
    """Rows of IHDM's bound: inference is independent given the data, so k = 0 and the variance is sigma^2.

    Where `decodes` is 1 the step ends in the data themselves and equation (1) is the decoder.
    """

    steps: SharedStep
    decodes: Any

    @property
    def level(self) -> Any:
        """Of t, as in `Step`."""
        return self.steps.level

    @property
    def noise(self) -> Any:
        """As in `Step`."""
        return self.steps.noise

    def expand(self, shape: tuple[int, ...]) -> Step:
        """The coefficients of each frequency of images of shape (H, W)."""
        step = self.steps.expand(shape)
        alpha, sigma, _ = target = step.target.marginal
        ends = step.target._replace(marginal=target._replace(sigma=sigma * (1 - self.decodes)))
        return step._replace(target=ends, k=0.0 * alpha, gamma=alpha, lambda2=sigma**2, small=sigma**2, upper=sigma**2)


def heat_table(process: Process, levels: tuple[int, ...] | None = None) -> HeatStep:
    """The rows of IHDM's bound: the decoder's, from t = 1, and those of the KL terms from `levels`.

    By default the levels are 2..T. The released code takes 1..T-1 instead, so it counts the step from 1 twice and
    leaves out that from T.

    Raises:
      ValueError: a level is none of 1..T.
    """
    levels = tuple(range(2, process.num_steps + 1)) if levels is None else visited(process, levels)
    if not all(1 <= t <= process.num_steps for t in levels):
        raise ValueError(f"levels {levels} must lie in 1..{process.num_steps}")
    rows = process.num_steps - np.asarray((1, *levels))
    steps = jax.tree.map(lambda x: x[rows], step_table(process, visited(process, None)))
    return HeatStep(steps, (np.arange(len(rows)) == 0).astype(float)[:, None, None, None])


def heat_terms(
    process: Process, at: DenoiseAt, x_0: Any, rows: HeatStep, draws: Any, draw: Callable[[Any], Any], delta: float
) -> Terms:
    """The terms of some rows of `heat_table`; the arguments are as those of `ddx.diffusion.likelihood.bound_terms`."""

    def predicting(u_t: Any, level: Level) -> Denoised:
        d = at(u_t, level)
        if d.mean is None:
            raise ValueError("IHDM's bound needs a network that predicts the next image: prediction='residual'")
        return d

    def variance(d: Denoised, step: Step) -> Any:
        return jnp.full((1, 1, 1), delta**2)

    return bound_terms(process, predicting, x_0, rows, draws, variance, draw, "density", independent=True)


def heat_bits_per_dim(
    process: Process,
    denoise: Denoiser | DenoiseFn,
    x_0: Any,
    key: Any,
    centres: Any,
    delta: float = 0.0125,
    levels: tuple[int, ...] | None = None,
) -> BitsPerDim:
    """A bound on IHDM's bits per dimension: L_T to the training set's prior, KL terms, and the decoder's density.

    Args:
      process: `ddx.ihdm`.
      denoise: of a network that predicts the next image.
      x_0: (B, H, W, C) images, dequantised: (k + U) / 256 of their range, U in [0, 1).
      key: one key, or keys of shape (B,), as in `ddx.bits_per_dim`.
      centres: `kde_centres` of the training set.
      delta: of the reverse steps; the bound is tightest where delta^2 is sigma^2 and the network's squared error.
      levels: as in `heat_table`.

    Returns:
      `BitsPerDim`; `terms` are those of `levels`, `mse` is of the network's own predictions.

    Raises:
      ValueError: a level is none of 1..T, delta is not above 0, x_0 are not floating-point numbers, or the network does
        not predict the next image or belongs to another process.
    """
    check_floats(x_0=x_0)
    x_0 = x_0.astype(computing_dtype(x_0))
    rows = heat_table(process, levels)
    at = denoise_at(process, denoise)
    terms, mse, eps_mse = heat_terms(process, at, x_0, rows, rows.level.t, noise_at(key, x_0), delta)
    prior_kl = kde_kl(process, centres, x_0, delta) / (np.prod(x_0.shape[1:]) * np.log(2.0))
    return BitsPerDim(
        prior_kl + terms.sum(1), prior_kl, terms[:, 1:], mse[:, 1:], eps_mse[:, 1:], rows.level.t[1:], terms[:, 0]
    )


def interpolate_heat(
    process: Process,
    denoise: Denoiser | DenoiseFn,
    keys: Any,
    x_a: Any,
    x_b: Any,
    weights: Any,
    delta: float = 0.0125,
    noise: tuple[Any, Any] | None = None,
) -> Any:
    """Images between two states at T: those are mixed linearly, the noise of the steps along the sphere.

    Args:
      process: the process.
      denoise: of a network that predicts the next image.
      keys: (keys_a, keys_b), (B,) each, with which `ddx.sample` would draw from x_a and x_b.
      x_a: (B, H, W, C), `heat_prior`.
      x_b: like x_a.
      weights: (W,); 0 is x_a, 1 is x_b.
      delta: of the sampler.
      noise: the noises of all steps for x_a and for x_b, (T, B, H, W, C) in the basis; drawn from `keys` if None.

    Returns:
      (W, B, H, W, C) images, like x_a.

    Raises:
      ValueError: x_a or x_b are not floating-point numbers, noise has other shapes, or the denoiser belongs to another
        process.
    """
    check_floats(x_a=x_a, x_b=x_b)
    shape = (process.num_steps, *x_a.shape)
    if noise is not None and any(given.shape != shape for given in noise):
        raise ValueError(f"the noises of x_a and x_b must have the shape {shape}, one draw a step")
    like, x_a, x_b = x_a.dtype, x_a.astype(computing_dtype(x_a)), x_b.astype(computing_dtype(x_a))
    w = jnp.asarray(weights, x_a.dtype)
    mixed = jnp.einsum("w,b...->wb...", 1 - w, x_a) + jnp.einsum("w,b...->wb...", w, x_b)
    steps = step_table(process, visited(process, None))
    of_a, of_b = (given.__getitem__ for given in noise) if noise else (noise_from(k, x_a) for k in keys)

    def draw(k: Any) -> Any:
        return between(of_a(k), of_b(k), w[:, None, None, None, None]).reshape(-1, *x_a.shape[1:])

    kernel = heat_sampler(delta)
    walking = start(kernel, process.basis.analysis(mixed.reshape(-1, *x_a.shape[1:])))
    walking = walk(denoise_at(process, denoise), walking, steps, jnp.arange(process.num_steps), kernel, draw)
    return process.basis.synthesis(walking.u_t).reshape(mixed.shape).astype(like)


def between(noise_a: Any, noise_b: Any, weights: Any) -> Any:
    """cos(pi w / 2) noise_a + sin(pi w / 2) noise_b for weights w that broadcast: as white as either."""
    angle = 0.5 * jnp.pi * weights
    return jnp.cos(angle) * noise_a + jnp.sin(angle) * noise_b
