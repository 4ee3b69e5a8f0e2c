"""Between images: along the sphere of latents (DDIM), through the noise (DDPM), and many images of one latent."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import check_floats, computing_dtype
from ddx.diffusion.gaussian import host_eta, q_sample
from ddx.diffusion.kernels import Kernel, euler
from ddx.diffusion.noise import batch_keys, fold_in, white_noise
from ddx.diffusion.prediction import DenoiseFn, Denoiser
from ddx.diffusion.process import Process
from ddx.diffusion.sampling import denoise_at, noise_from, sample, start, visited, walk
from ddx.diffusion.steps import step_table
from ddx.diffusion.variance import VarianceFn, variance_fn


def slerp(x_a: Any, x_b: Any, weights: Any) -> Any:
    """Spherical interpolation, sin((1 - w) theta) / sin(theta) x_a + sin(w theta) / sin(theta) x_b (DDIM eq. 67).

    Args:
      x_a: (..., H, W, C).
      x_b: like x_a; theta is the angle between two images, over their last three axes.
      weights: (W,); 0 is x_a, 1 is x_b.

    Returns:
      (W, ..., H, W, C), of the type of x_a and x_b. Parallel images, and one that is zero, are interpolated linearly.

    Raises:
      ValueError: x_a or x_b are not floating-point numbers.
    """
    x_a, x_b = (x if hasattr(x, "dtype") else np.asarray(x) for x in (x_a, x_b))
    check_floats(x_a=x_a, x_b=x_b)
    axes = (-3, -2, -1)

    def norm(x: Any) -> Any:
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
    process: Process,
    denoise: Denoiser | DenoiseFn,
    x_a: Any,
    x_b: Any,
    weights: Any,
    times: tuple[int, ...] | None = None,
    solver: str | Kernel = "euler",
) -> Any:
    """Images between two latents: `slerp` of x_a and x_b, each point of which DDIM leads to an image (DDIM fig. 6).

    To interpolate between images, `encode` them first.

    Args:
      process: the process.
      denoise: as `sample`'s.
      x_a: (B, H, W, C) latents at times[0].
      x_b: like x_a.
      weights: (W,); 0 gives the image of x_a, 1 that of x_b.
      times: as `sample`'s.
      solver: as `sample`'s, at eta = 0.

    Returns:
      (W, B, H, W, C) images, like x_a.

    Raises:
      ValueError: as `slerp` or `sample`.
    """
    latents = slerp(x_a, x_b, weights)
    x_0 = sample(process, denoise, None, latents.reshape(-1, *x_a.shape[-3:]), times, solver=solver)
    return x_0.reshape(latents.shape)


def interpolate_diffused(
    process: Process,
    denoise: Denoiser | DenoiseFn,
    key: Any,
    x_a: Any,
    x_b: Any,
    weights: Any,
    t: int,
    times: tuple[int, ...] | None = None,
    eta: float = 1.0,
    variance: str | VarianceFn = "small",
    shared_noise: bool = False,
    noise: tuple[Any, Any, Any] | None = None,
) -> Any:
    """Images between two images: both are diffused to time t, mixed linearly there and led back (DDPM section 4.4).

    The larger t, the coarser what is interpolated: at T the result no longer depends on the images (DDPM fig. 9). As
    in the paper all weights share the noise, that of the way up and that of the way down, so that only the mix differs.

    Args:
      process: the process.
      denoise: as `sample`'s.
      key: one key, or one for each example.
      x_a: (B, H, W, C) images.
      x_b: like x_a.
      weights: (W,); 0 is x_a's end, 1 x_b's.
      t: where to mix, 0..T; at 0 the images themselves are mixed. The paper's figure 8 has 500.
      times: as `sample`'s; those of at most t are walked, after t itself.
      eta: as `sample`'s.
      variance: as `sample`'s.
      shared_noise: diffuse both images with the same noise, which keeps the mix as noisy as q(x_t), instead of each
        with its own, which is what DDPM's code does.
      noise: (noise of x_a, noise of x_b, that of each step for all weights (K, B, H, W, C)) in place of `key`.

    Returns:
      (W, B, H, W, C) images, like x_a.

    Raises:
      ValueError: t is no time of the process, noise has other shapes, or as `sample`.
    """
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
    times = (t, *(s for s in visited(process, times) if s < t))
    x_t = mixed.reshape(-1, *x_a.shape[1:])
    copies = (len(w), 1, 1, 1)
    walk_noise = None if noise is None else jnp.stack([jnp.tile(z, copies) for z in noise[2]])
    keys = None if keys is None else jnp.tile(keys, len(w))
    x_0 = sample(process, denoise, keys, x_t, times, eta, variance, walk_noise)
    return x_0.reshape(mixed.shape).astype(like)


def coarse_to_fine(
    process: Process,
    denoise: Denoiser | DenoiseFn,
    key: Any,
    x_a: Any,
    x_b: Any,
    weights: Any,
    levels: tuple[int, ...],
    **settings: Any,
) -> Any:
    """`interpolate_diffused` at several t: (levels, W, B, H, W, C), the rows of DDPM's figure 9 (0, 125, ..., 1000)."""
    rows = [interpolate_diffused(process, denoise, key, x_a, x_b, weights, t, **settings) for t in levels]
    return jnp.stack(rows)


def share_latent(
    process: Process,
    denoise: Denoiser | DenoiseFn,
    key: Any,
    x_T: Any,
    num_images: int,
    t: int,
    times: tuple[int, ...] | None = None,
    eta: float = 1.0,
    variance: str | VarianceFn = "small",
) -> tuple[Any, Any]:
    """Images that share their x_t: one walk from x_T to t, then num_images walks of their own (DDPM fig. 7).

    Args:
      process: the process.
      denoise: as `sample`'s.
      key: one key.
      x_T: (1, H, W, C).
      num_images: images to draw; image 0 is the one that `sample` draws from x_T and key.
      t: a visited time; at T they share x_T alone, near 0 all but the last details.
      times: as `sample`'s.
      eta: as `sample`'s.
      variance: as `sample`'s.

    Returns:
      (num_images, H, W, C) images, and their x_t, (1, H, W, C), like x_T.

    Raises:
      ValueError: t is not visited, x_T is not one image; or as `sample`.
    """
    check_floats(x_T=x_T)
    times, eta, (t,) = visited(process, times), host_eta(eta), visited(process, (t,))
    if not num_images >= 1:
        raise ValueError(f"num_images={num_images} must be at least 1")
    if t not in times[:-1]:
        raise ValueError(f"t={t} is not among the visited times {times[0]}..{times[-2]}")
    if x_T.shape[0] != 1:
        raise ValueError(f"x_T must be one image, (1, H, W, C); got {x_T.shape}")
    steps = step_table(process, times, eta, x_T.shape[-3:-1])
    kernel, at, basis = euler(variance_fn(variance, eta)), denoise_at(process, denoise), process.basis
    keys = batch_keys(key, num_images)

    def part(u: Any, keys: Any, rows: slice) -> Any:
        here = jax.tree.map(lambda x: x[rows], steps)
        k = jnp.arange(len(times) - 1)[rows]
        return walk(at, start(kernel, u), here, k, kernel, noise_from(keys, u)).u_t

    branch = times.index(t)
    u_t = part(basis.analysis(x_T), keys[:1], slice(0, branch))
    u_0 = part(jnp.repeat(u_t, num_images, axis=0), keys, slice(branch, None))
    return basis.synthesis(u_0).astype(x_T.dtype), basis.synthesis(u_t).astype(x_T.dtype)


def noises_of_ends(keys: Any, x: Any, shared: bool = False) -> tuple[Any, Any]:
    """The noises with which `interpolate_diffused` diffuses its two images, like x (B, H, W, C), from keys (B,)."""
    a, b = (white_noise(fold_in(keys, stream), x.shape[1:], x.dtype) for stream in (_NOISE_A, _NOISE_B))
    return a, a if shared else b


# Streams of a key beyond those that `sample` draws from: no walk has so many steps.
_NOISE_A, _NOISE_B = 2**31 - 2, 2**31 - 3
