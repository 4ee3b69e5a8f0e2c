"""Images between two images, on the sphere of latents (DDIM) or diffused (DDPM), and many images from one latent."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Array, Coordinates, Images, Key, Numbers, Trajectory, check_floats, computing_dtype
from ddx.diffusion.estimate.denoiser import Denoiser, check_denoiser
from ddx.diffusion.forward.gaussian import host_eta, q_sample
from ddx.diffusion.random import batch_keys, fold_in, white_noise
from ddx.diffusion.reverse.protocol import Solver
from ddx.diffusion.reverse.rows import downward, visited
from ddx.diffusion.reverse.sdedit import times_from
from ddx.diffusion.reverse.solvers import euler
from ddx.diffusion.reverse.variance import VarianceFn, variance_fn
from ddx.diffusion.reverse.walk import advance, noise_from, sample, start


def slerp(x_a: Images, x_b: Images, weights: Numbers) -> Images:
    """Spherical interpolation, sin((1 - w) theta) / sin(theta) x_a + sin(w theta) / sin(theta) x_b (DDIM eq. 67).

    Args:
      x_a: (..., H, W, C) images or latents.
      x_b: like x_a; theta is the angle between two images, over their last three axes.
      weights: (W,); 0 is x_a, 1 is x_b.

    Returns:
      (W, ..., H, W, C), of the common type of x_a and x_b. Parallel images, and pairs with a zero image, are
      interpolated linearly.

    Raises:
      ValueError: x_a or x_b are not floating-point numbers.
    """
    x_a, x_b = (x if hasattr(x, "dtype") else np.asarray(x) for x in (x_a, x_b))
    check_floats(x_a=x_a, x_b=x_b)
    axes = (-3, -2, -1)

    def norm(x: Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True))

    like = jnp.result_type(x_a, x_b)
    precise = jnp.promote_types(like, jnp.float32)
    x_a, x_b = jnp.asarray(x_a, precise), jnp.asarray(x_b, precise)
    norms = norm(x_a) * norm(x_b)
    cosine = jnp.sum(x_a * x_b, axes, keepdims=True) / jnp.where(norms == 0, 1.0, norms)
    parallel = (jnp.abs(cosine) > 1 - 1e-6) | (norms == 0)
    theta = jnp.arccos(jnp.where(parallel, 0.0, cosine))
    w = jnp.asarray(weights, precise).reshape(-1, *(1,) * x_a.ndim)
    part_a = jnp.where(parallel, 1 - w, jnp.sin((1 - w) * theta) / jnp.sin(theta))
    part_b = jnp.where(parallel, w, jnp.sin(w * theta) / jnp.sin(theta))
    return (part_a * x_a + part_b * x_b).astype(like)


def interpolate(
    denoise: Denoiser,
    x_a: Images,
    x_b: Images,
    weights: Numbers,
    times: Trajectory | None = None,
    solver: str | Solver = "euler",
) -> Images:
    """Images between two latents: DDIM maps each point on the `slerp` of x_a and x_b to an image (DDIM fig. 6).

    The sphere is that of white noise: coloured latents are whitened before, and coloured after.

    To interpolate between images, `encode` them first.

    Args:
      denoise: a `ddx.denoiser`.
      x_a: (B, H, W, C) latents at times[0].
      x_b: like x_a.
      weights: (W,); 0 gives the image of x_a, 1 the image of x_b.
      times: strictly decreasing, ending in 0 (`ddx.trajectory`); None for all T.
      solver: the name of a solver at eta = 0, "euler" for DDIM, or a `ddx.Solver`.

    Returns:
      (W, B, H, W, C) images, like x_a.

    Raises:
      ValueError: times or solver are invalid or do not go together, or x_a or x_b are not floating-point numbers.
    """
    basis = check_denoiser(denoise).process.basis
    latents = basis.colour(slerp(basis.whiten(x_a), basis.whiten(x_b), weights))
    x_0 = sample(denoise, None, latents.reshape(-1, *x_a.shape[-3:]), times, solver=solver)
    return x_0.reshape(latents.shape)


def interpolate_diffused(
    denoise: Denoiser,
    key: Key,
    x_a: Images,
    x_b: Images,
    weights: Numbers,
    t: float,
    times: Trajectory | None = None,
    eta: float = 1.0,
    variance: str | VarianceFn = "small",
    shared_noise: bool = False,
    noise: tuple[Images, Images, Coordinates] | None = None,
) -> Images:
    """Images between two images: both are diffused to time t, mixed linearly and denoised (DDPM section 4.4).

    The larger t, the coarser the features that are interpolated: at T the result no longer depends on the images (DDPM
    fig. 9). As in the paper, all weights share the noise of diffusing and of denoising, so that only the mix differs.

    Args:
      denoise: a `ddx.denoiser`.
      key: one key, or keys of shape (B,), one for each example; not used when `noise` is given.
      x_a: (B, H, W, C) images.
      x_b: like x_a.
      weights: (W,); 0 is the end of x_a, 1 the end of x_b.
      t: the time at which to mix, 0..T; at 0 the images themselves are mixed. The paper's figure 8 uses 500.
      times: strictly decreasing, ending in 0 (`ddx.trajectory`); None for all T. The walk starts at t and then visits
        the times below t.
      eta: stochasticity, 0 is DDIM, 1 is DDPM.
      variance: of the steps, such as "small", "large" or "range"; or a function (d, step) -> variance.
      shared_noise: diffuse both images with the same noise, so that the mix is as noisy as q(x_t). DDPM's code draws
        noise for each, which is the default.
      noise: in place of `key`, three arrays: for x_a and for x_b, like x_a, in pixels; and for the K steps, shared by
        all weights, (K, B, H, W, C) in the coordinates of the basis.

    Returns:
      (W, B, H, W, C) images, like x_a.

    Raises:
      ValueError: t is not a time of the process, noise has other shapes, times, eta or variance are invalid or do not
        go together, x_a or x_b are not floating-point numbers, or there is neither a key nor noise.
    """
    process = check_denoiser(denoise).process
    check_floats(x_a=x_a, x_b=x_b)
    (t,) = visited(process, (t,))
    if not 0 <= t <= process.num_steps:
        raise ValueError(f"t={t} must lie in 0..{process.num_steps}, the times of the process")
    like, x_a, x_b = x_a.dtype, x_a.astype(computing_dtype(x_a)), x_b.astype(computing_dtype(x_a))
    w = jnp.asarray(weights, x_a.dtype)
    keys = None if noise is not None else batch_keys(key, x_a.shape[0])
    if t > 0:
        noise_a, noise_b = noise[:2] if noise is not None else noises_of_ends(keys, x_a, shared_noise)
        if noise_a.shape != x_a.shape or noise_b.shape != x_b.shape:
            raise ValueError(f"the noises of x_a and x_b must be like them; got {noise_a.shape} and {noise_b.shape}")
        x_a, x_b = q_sample(process, x_a, t, noise_a), q_sample(process, x_b, t, noise_b)
    mixed = jnp.einsum("w,b...->wb...", 1 - w, x_a) + jnp.einsum("w,b...->wb...", w, x_b)
    if t == 0:
        return mixed.astype(like)
    times = times_from(visited(process, times), t)
    x_t = mixed.reshape(-1, *x_a.shape[1:])
    copies = (len(w), 1, 1, 1)
    walk_noise = None if noise is None else jnp.stack([jnp.tile(z, copies) for z in noise[2]])
    keys = None if keys is None else jnp.tile(keys, len(w))
    x_0 = sample(denoise, keys, x_t, times, eta, variance, walk_noise)
    return x_0.reshape(mixed.shape).astype(like)


def coarse_to_fine(
    denoise: Denoiser,
    key: Key,
    x_a: Images,
    x_b: Images,
    weights: Numbers,
    levels: tuple[int, ...],
    **settings: Any,
) -> Images:
    """Interpolate by `interpolate_diffused` at several times t: the rows of DDPM's figure 9 (0, 125, ..., 1000).

    Args:
      denoise: a `ddx.denoiser`.
      key: one key, or keys of shape (B,), one for each example.
      x_a: (B, H, W, C) images.
      x_b: like x_a.
      weights: (W,); 0 is the end of x_a, 1 the end of x_b.
      levels: (L,), the times t at which to mix.
      **settings: any of times, eta, variance, shared_noise and noise, passed on to `interpolate_diffused`.

    Returns:
      (L, W, B, H, W, C) images, like x_a.

    Raises:
      ValueError: a level is not a time of the process, settings are invalid or do not go together, x_a or x_b are not
        floating-point numbers, or there is neither a key nor noise.
    """
    rows = [interpolate_diffused(denoise, key, x_a, x_b, weights, t, **settings) for t in levels]
    return jnp.stack(rows)


def share_latent(
    denoise: Denoiser,
    key: Key,
    x_T: Images,
    num_images: int,
    t: float,
    times: Trajectory | None = None,
    eta: float = 1.0,
    variance: str | VarianceFn = "small",
) -> tuple[Images, Images]:
    """Images that share their x_t: one walk from x_T to t, then a walk from there for each image (DDPM fig. 7).

    Args:
      denoise: a `ddx.denoiser`.
      key: one key.
      x_T: (1, H, W, C) noise to start from.
      num_images: the number of images to draw; image 0 is the image that `sample` draws from x_T and key.
      t: a visited time; at T the images share only x_T, near 0 they share all but the finest details.
      times: strictly decreasing, ending in 0 (`ddx.trajectory`); None for all T.
      eta: stochasticity, 0 is DDIM, 1 is DDPM.
      variance: of the steps, such as "small", "large" or "range"; or a function (d, step) -> variance.

    Returns:
      (num_images, H, W, C) images and their x_t, (1, H, W, C), both of the type of x_T.

    Raises:
      ValueError: t is not visited, x_T is not one image of floating-point numbers, num_images is below 1, or times, eta
        or variance are invalid or do not go together.
    """
    process = check_denoiser(denoise).process
    check_floats(x_T=x_T)
    times, eta, (t,) = visited(process, times), host_eta(eta), visited(process, (t,))
    if not num_images >= 1:
        raise ValueError(f"num_images={num_images} must be at least 1")
    if t not in times[:-1]:
        raise ValueError(f"t={t} is not among the visited times {times[0]}..{times[-2]}")
    if x_T.shape[0] != 1:
        raise ValueError(f"x_T must be one image, (1, H, W, C); got {x_T.shape}")
    steps = downward(process, times, eta, x_T.shape[-3:-1])
    solver, basis = euler(variance_fn(variance, eta)), process.basis
    keys = batch_keys(key, num_images)

    def part(u: Coordinates, keys: Key, rows: slice) -> Coordinates:
        here = jax.tree.map(lambda x: x[rows], steps)
        k = jnp.arange(len(times) - 1)[rows]
        return advance(denoise, start(solver, u), here, k, solver, noise_from(keys, u)).u_t

    branch = times.index(t)
    u_t = part(basis.analysis(x_T), keys[:1], slice(0, branch))
    u_0 = part(jnp.repeat(u_t, num_images, axis=0), keys, slice(branch, None))
    return basis.synthesis(u_0).astype(x_T.dtype), basis.synthesis(u_t).astype(x_T.dtype)


def noises_of_ends(keys: Key, x: Images, shared: bool = False) -> tuple[Images, Images]:
    """The noise with which `interpolate_diffused` diffuses each of its two images.

    Args:
      keys: (B,).
      x: (B, H, W, C), for the shape and the type.
      shared: use the same noise for both.

    Returns:
      Two arrays like x.
    """
    a, b = (white_noise(fold_in(keys, stream), x.shape[1:], x.dtype) for stream in (_NOISE_A, _NOISE_B))
    return a, a if shared else b


# Streams of a key that `sample` does not draw from: no walk has so many steps.
_NOISE_A, _NOISE_B = 2**31 - 2, 2**31 - 3
