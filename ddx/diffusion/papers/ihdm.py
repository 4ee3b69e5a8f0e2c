"""IHDM: Rissanen, Heinonen & Solin, Generative Modelling With Inverse Heat Dissipation, ICLR 2023.

| in the paper | here |
| --- | --- |
| the heat equation and its blurs, q(u_t given u_0) | `ddx.blur`; `ddx.q_sample` of the process `ihdm`, below |
| the loss of one level | `ddx.simple_loss` with prediction "residual" |
| sampling | `ddx.sample(denoise, keys, x_T, solver=ddx.heat_sampler(delta))`, x_T from `ddx.heat_prior` |
| the prior from blurred training images | `ddx.heat_prior` |
| the bound on -log p | `ddx.heat_bits_per_dim` (`ddx.diffusion.papers.ihdm_bound`) |
| interpolation | `ddx.interpolate_heat` |

The images of its inference process are independent given the data, q(u_s | u_t, u_0) = q(u_s | u_0), and not a Markov
chain. Its reverse step adds noise of a size of its own,

    p(u_s | u_t) = N(mu(u_t, t), delta^2)        s = t - 1                                                      (1)

where mu is the network's input plus its output (prediction "residual"). Its prior is not white noise but the blurred
images of the training set, each with noise of variance delta^2,

    p(u_T) = 1/M sum_i N(alpha_T u_0^(i), delta^2)                                                              (2)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import (
    Coordinates,
    Images,
    Key,
    Numbers,
    Times,
    check_floats,
    computing_dtype,
)
from ddx.diffusion.estimate.denoiser import Denoised, Denoiser, check_denoiser
from ddx.diffusion.forward.basis import DCT
from ddx.diffusion.forward.betas import check_num_steps
from ddx.diffusion.forward.blur import BlurTable
from ddx.diffusion.forward.process import Process
from ddx.diffusion.forward.schedules import NoiseTable
from ddx.diffusion.random import batch_keys, fold_in
from ddx.diffusion.reverse.protocol import Memory, Solver, no_memory
from ddx.diffusion.reverse.rows import Step, downward, visited
from ddx.diffusion.reverse.walk import advance, initial_noise, noise_from, start

_IMAGE = 2**31 - 4  # a stream of keys: no walk has so many steps


def ihdm(
    num_steps: int = 200,
    sigma_blur_min: float = 0.5,
    sigma_blur_max: float = 24.0,
    sigma: float = 0.01,
    low: float = 0.0,
) -> Process:
    """Inverse Heat Dissipation (Rissanen et al. 2022): ever more blur, with little and constant noise.

    q(u_t | u_0) = N(exp(-lam tau_t) u_0, sigma^2), tau_t = sigma_B^2 / 2, where sigma_B grows from sigma_blur_min at
    t = 1 to sigma_blur_max at T in equal ratios and is 0 at t = 0.

    Args:
      num_steps: T, the paper's K.
      sigma_blur_min: standard deviation of the least blur, in pixels.
      sigma_blur_max: standard deviation of the blur at T, in pixels; about half the image's size.
      sigma: standard deviation of the noise, for data in [low, 1].
      low: the lowest value of the data.

    Returns:
      A process in the DCT basis with the integer times 0..T.

    Raises:
      ValueError: a number is out of its range.
    """
    num_steps = check_num_steps(num_steps)
    if not (0 < sigma_blur_min <= sigma_blur_max < np.inf and 0 < sigma < np.inf):
        raise ValueError(
            f"sigma_blur_min={sigma_blur_min} must be above 0 and at most sigma_blur_max={sigma_blur_max}, and"
            f" sigma={sigma} above 0, all finite"
        )
    zeros, log_sigma = np.zeros(num_steps + 1), np.full(num_steps + 1, np.log(sigma))
    blur = np.concatenate([[0.0], np.geomspace(sigma_blur_max, sigma_blur_min, num_steps)[::-1]])
    noise = NoiseTable(zeros, log_sigma, -2.0 * log_sigma)
    return Process(DCT, noise, BlurTable(blur), low=low, time_offset=0)


def heat_sampler(delta: float = 0.0125) -> Solver:
    """IHDM's sampler, equation (1), for walks through all times T..0, whatever their eta.

    Args:
      delta: standard deviation of the noise of a step; a little more than the process's sigma, and 1.25 sigma in the
        released code.

    Returns:
      A `Solver`, for denoisers of networks that predict the next image ("residual").

    Raises:
      ValueError: delta is negative or not finite.
    """
    if not 0 <= delta < np.inf:
        raise ValueError(f"delta={delta} must be at least 0 and finite")

    def step(
        denoise: Denoiser, u_t: Coordinates, memory: Memory, row: Step, z: Any
    ) -> tuple[Coordinates, Memory, Denoised]:
        check_residual(denoise, "heat_sampler")
        d = denoise.at(u_t, row.level)
        return next_mean(u_t, d) + row.adds_noise * delta * z, memory, d

    return Solver(no_memory, step, "heat_sampler", needs_noise=delta > 0, all_times=True)


def next_mean(u_t: Coordinates, d: Denoised) -> Coordinates:
    """The mean mu of equation (1), in coordinates, which no clipping changes."""
    assert d.output is not None
    return u_t + d.output


def check_residual(denoise: Denoiser, what: str) -> None:
    """Refuse, with a ValueError, a denoiser of a network that does not predict the next image."""
    if denoise.prediction != "residual":
        raise ValueError(f"{what} needs a network that predicts the next image: prediction='residual'")


def blur(process: Process, x_0: Images, t: Times) -> Images:
    """alpha_t u_0 in pixels: images blurred as at time t, without noise.

    Args:
      process: one that blurs, such as `ddx.ihdm` or `ddx.blurring`.
      x_0: (B, H, W, C) images.
      t: times, () or (B,).

    Returns:
      (B, H, W, C) like x_0.

    Raises:
      ValueError: x_0 are not floating-point numbers, or a time is not one of the process.
    """
    check_floats(x_0=x_0)
    alpha = process.marginal(t, x_0.shape[-3:-1]).alpha
    return process.basis.synthesis(alpha * process.basis.analysis(x_0)).astype(x_0.dtype)


def prior_images(keys: Key, num_images: int) -> jax.Array:
    """The images of a training set that samples start from, by index.

    Args:
      keys: (B,), one per sample.
      num_images: the size of the training set.

    Returns:
      (B,) indices, uniform in 0 .. num_images - 1.
    """
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, num_images))(fold_in(keys, _IMAGE))


def heat_prior(process: Process, keys: Key, images: Images, delta: float, t: Times | None = None) -> Images:
    """x_T, equation (2): images (B, H, W, C) of the training set, blurred, with noise.

    Args:
      process: the process.
      keys: (B,), one per sample; or one key for samples 0 .. B - 1.
      images: images `prior_images(keys, M)` of the training set, in the range of the data.
      delta: standard deviation of the noise; 0 for none, as in the released training and sampling code.
      t: the time to blur to, for a walk that starts at less blur than T, from any images.

    Returns:
      (B, H, W, C) like images.

    Raises:
      ValueError: images are not floating-point numbers, there is not one key per sample, or t is not a time of the
        process.
    """
    keys = batch_keys(keys, images.shape[0])
    return blur(process, images, process.num_steps if t is None else t) + delta * initial_noise(
        process, keys, images.shape[1:], images.dtype
    )


def interpolate_heat(
    denoise: Denoiser,
    keys: tuple[Key, Key] | None,
    x_a: Images,
    x_b: Images,
    weights: Numbers,
    delta: float = 0.0125,
    noise: tuple[Coordinates, Coordinates] | None = None,
) -> Images:
    """Images between two states at T: the states are mixed linearly, the noise of the steps along the sphere.

    Args:
      denoise: of a network that predicts the next image.
      keys: (keys_a, keys_b), (B,) each, with which `ddx.sample` would draw from x_a and x_b.
      x_a: (B, H, W, C), `heat_prior`.
      x_b: like x_a.
      weights: (W,); 0 is x_a, 1 is x_b.
      delta: standard deviation of the sampler's noise.
      noise: the noises of all steps for x_a and for x_b, (T, B, H, W, C) each, in the coordinates of the basis; drawn
        from `keys` if None.

    Returns:
      (W, B, H, W, C) images, like x_a.

    Raises:
      ValueError: x_a or x_b are not floating-point numbers, noise has other shapes, or there is neither noise nor
        keys.
    """
    process = check_denoiser(denoise).process
    check_floats(x_a=x_a, x_b=x_b)
    shape = (process.num_steps, *x_a.shape)
    if noise is not None and any(given.shape != shape for given in noise):
        raise ValueError(f"the noises of x_a and x_b must have the shape {shape}, one draw a step")
    like, x_a, x_b = x_a.dtype, x_a.astype(computing_dtype(x_a)), x_b.astype(computing_dtype(x_a))
    w = jnp.asarray(weights, x_a.dtype)
    mixed = jnp.einsum("w,b...->wb...", 1 - w, x_a) + jnp.einsum("w,b...->wb...", w, x_b)
    rows = downward(process, visited(process, None))
    of_a, of_b = (given.__getitem__ for given in noise) if noise else (noise_from(k, x_a) for k in keys or (None, None))

    def draw(k: Any) -> Any:
        return between(of_a(k), of_b(k), w[:, None, None, None, None]).reshape(-1, *x_a.shape[1:])

    solver = heat_sampler(delta)
    state = start(solver, process.basis.analysis(mixed.reshape(-1, *x_a.shape[1:])))
    state = advance(denoise, state, rows, jnp.arange(process.num_steps), solver, draw)
    return process.basis.synthesis(state.u_t).reshape(mixed.shape).astype(like)


def between(noise_a: Coordinates, noise_b: Coordinates, weights: Numbers) -> Coordinates:
    """cos(pi w / 2) noise_a + sin(pi w / 2) noise_b for weights w that broadcast: as white as either."""
    angle = 0.5 * jnp.pi * weights
    return jnp.cos(angle) * noise_a + jnp.sin(angle) * noise_b
