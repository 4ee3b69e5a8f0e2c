"""Sampling: one `lax.scan` over a table of steps, whatever the process, trajectory, stochasticity or variance.

    u_s = k u_t + gamma E[u_0 | u_t] + sqrt(variance) z                    (equation 6 of `ddx.diffusion.gaussian`)

The table is data, so one compiled program serves every schedule, every eta and every trajectory of the same length, and
the memory of a sampler does not grow with the number of steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddx.diffusion.gaussian import Step, step_table
from ddx.diffusion.noise import example_keys, fold_in, typed, white_noise
from ddx.diffusion.prediction import Denoised, DenoiseFn, Denoiser
from ddx.diffusion.process import Level, Process
from ddx.diffusion.trajectory import trajectory
from ddx.diffusion.variance import VarianceFn, variance_fn

DenoiseAt = Callable[[Any, Level], Denoised]
"""at(u_t, level) -> the estimate at that level, all in basis coordinates."""


def sample(
    process: Process,
    denoise: Denoiser | DenoiseFn,
    key: Any,
    x_T: Any,
    times: tuple[int, ...] | None = None,
    eta: float = 0.0,
    variance: str | VarianceFn = "small",
    noise: Any = None,
) -> Any:
    """Draw x_0 by walking back from x_T: DDPM (eta = 1, algorithm 2), DDIM (eta = 0, eq. 12) and all between.

    Args:
      process: the process.
      denoise: a `ddx.denoiser`, or any function (x_t, t) -> `Denoised` in pixels.
      key: one key (example i of the batch then uses fold_in(key, i)), or keys of shape (B,), one for each example. May
        be None when
        `noise` is given.
      x_T: (B, H, W, C) noise to start from, `initial_noise` for example.
      times: strictly decreasing, ending in 0 (`ddx.trajectory`); None visits all T times.
      eta: stochasticity in [0, 1], known on the host.
      variance: "small", "large" (needs eta = 1), or a function (d, step) -> variance per basis coordinate.
      noise: (K, B, H, W, C), every random draw in visiting order, in the coordinates of the basis; drawn from `key` if
        None.

    Returns:
      x_0 like x_T: the mean of the last step, to which no noise is added.

    Raises:
      ValueError: times, eta or variance are invalid, or noise has not one draw a step.
    """
    times = trajectory(process.num_steps) if times is None else tuple(times)
    steps = step_table(process, times, eta, x_T.shape[-3:-1])
    variance = variance_fn(variance, eta)
    if noise is not None and noise.shape != (len(times) - 1, *x_T.shape):
        raise ValueError(
            f"noise must have the shape {(len(times) - 1, *x_T.shape)}, one draw a step; got {noise.shape}"
        )
    if noise is None:
        # k and not t: an example's k-th draw is the same for every trajectory.
        noise, draw = jnp.arange(len(times) - 1), noise_from(key, x_T)
    else:
        draw = _given
    basis = process.basis
    at = denoise.at if isinstance(denoise, Denoiser) else _in_basis(process, denoise)
    return basis.synthesis(walk(at, basis.analysis(x_T), steps, noise, variance, draw))


def walk(at: DenoiseAt, u_t: Any, steps: Step, draws: Any, variance: VarianceFn, draw: Any) -> Any:
    """Take the steps of a table, in basis coordinates: the scan under every sampler.

    A long walk may be cut into several calls, each with its rows of `steps` and `draws`, without changing a bit of the
    result.

    Args:
      at: at(u_t, level) -> `Denoised`, such as `Denoiser.at`.
      u_t: (B, H, W, C) state at the first row's time.
      steps: rows of `step_table`.
      draws: one entry a row, given to `draw`.
      variance: (d, step) -> variance per coordinate.
      draw: draw(entry) -> standard normal noise like u_t.
    """
    steps = jax.tree.map(lambda x: _cast(x, u_t.dtype), steps)

    def step(u_t: Any, row: tuple[Step, Any]) -> tuple[Any, None]:
        return reverse_step(at, u_t, row[0], variance, draw(row[1]))[0].astype(u_t.dtype), None

    return jax.lax.scan(step, u_t, (steps, draws))[0]


def reverse_step(at: DenoiseAt, u_t: Any, step: Step, variance: VarianceFn, z: Any) -> tuple[Any, Denoised]:
    """One step from t to s with noise z: (u_s, the estimate at t), both in basis coordinates."""
    d = at(u_t, step.level)
    mean = step.k * u_t + step.gamma * d.x_0
    return mean + step.noise * jnp.sqrt(variance(d, step)) * z, d


def initial_noise(keys: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """x_T ~ N(0, 1), (B, *shape), one key an example; independent of what `sample` draws from the same keys."""
    return white_noise(fold_in(keys, _INITIAL), shape, dtype)


_INITIAL = 2**31 - 1  # no walk has that many steps


def noise_from(key: Any, x_T: Any) -> Any:
    """The k-th draw of each example as a function of k: white noise like x_T from fold_in(its key, k)."""
    if key is None:
        raise ValueError("sampling needs a key, or all its noise as noise=")
    key = typed(key)
    keys = key if key.ndim else example_keys(key, jnp.arange(x_T.shape[0]))
    return lambda k: white_noise(fold_in(keys, k), x_T.shape[1:], x_T.dtype)


def _in_basis(process: Process, denoise: DenoiseFn) -> DenoiseAt:
    basis = process.basis

    def at(u_t: Any, level: Level) -> Denoised:
        d = denoise(basis.synthesis(u_t), level.t)
        return Denoised(basis.analysis(d.x_0), basis.analysis(d.eps), d.extra)

    return at


def _given(noise: Any) -> Any:
    return noise


def _cast(x: Any, dtype: Any) -> jax.Array:
    return jnp.asarray(x, dtype) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating) else jnp.asarray(x)
