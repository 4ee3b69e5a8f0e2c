"""Sampling: one `lax.scan` of a kernel over a table of steps, whatever the process, trajectory or stochasticity.

The table is data, so one compiled program serves every schedule, every eta and every trajectory of the same length, and
the memory of a sampler does not grow with the number of steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.kernels import DenoiseAt, Film, Kernel, filmed, make_kernel
from ddx.diffusion.noise import batch_keys, fold_in, white_noise
from ddx.diffusion.prediction import Denoised, DenoiseFn, Denoiser, to_coordinates
from ddx.diffusion.process import Level, Process
from ddx.diffusion.steps import Steps, encoding_table, step_table
from ddx.diffusion.trajectory import trajectory
from ddx.diffusion.variance import VarianceFn


def sample(
    process: Process,
    denoise: Denoiser | DenoiseFn,
    key: Any,
    x_T: Any,
    times: tuple[int, ...] | None = None,
    eta: float = 0.0,
    variance: str | VarianceFn = "small",
    noise: Any = None,
    solver: str | Kernel = "euler",
    noisy_end: bool = False,
) -> Any:
    """Draw x_0 by walking back from x_T: DDPM (eta = 1, algorithm 2), DDIM (eta = 0, eq. 12) and all between.

    Args:
      process: the process.
      denoise: a `ddx.denoiser`, or any function (x_t, t) -> `Denoised` in pixels.
      key: one key (example i of the batch then uses fold_in(key, i)), or keys of shape (B,), one for each example. May
        be None when `noise` is given, or when eta is 0 and no noise is added.
      x_T: (B, H, W, C) noise to start from at times[0], `initial_noise` for example.
      times: strictly decreasing, ending in 0 (`ddx.trajectory`); None visits all T times.
      eta: stochasticity, 0 is DDIM, 1 is DDPM; more where the variances allow it. Known on the host.
      variance: "small"; "large" (DDIM's sigma-hat), "learned" or "range", which need eta = 1; "npr" or "sn", which need
        a head; or a function (d, step) -> variance per basis coordinate, such as `ddx.analytic` returns.
      noise: (K, B, H, W, C), every random draw in visiting order, in the coordinates of the basis; drawn from `key` if
        None.
      solver: "euler" (DDPM and DDIM); "heun", "dpmpp_3m" (eta = 0); "dpmpp_2m" (at eta = 1 SDE-DPM-Solver++); or a
        `ddx.Kernel`.
      noisy_end: add the noise of the last step too, as Blurring Diffusion's printed algorithm does.

    Returns:
      x_0 like x_T: the mean of the last step, to which by default no noise is added.

    Raises:
      ValueError: times, eta, variance or solver are invalid or do not go together, or noise has not one draw a step.
    """
    times, kernel = visited(process, times), make_kernel(solver, eta, variance)
    kernel.check(times)
    draws = _draws(solver, eta, variance, key, noise, x_T, len(times) - 1)
    walking = _run(process, denoise, x_T, times, eta, kernel, draws, noisy_end)
    return process.basis.synthesis(walking.u_t).astype(x_T.dtype)


def progressive(
    process: Process,
    denoise: Denoiser | DenoiseFn,
    key: Any,
    x_T: Any,
    frames: tuple[int, ...],
    times: tuple[int, ...] | None = None,
    eta: float = 0.0,
    variance: str | VarianceFn = "small",
    noise: Any = None,
    solver: str | Kernel = "euler",
) -> tuple[Any, Film]:
    """`sample` that also keeps what it sees at some times, and nothing of the others (DDPM section 4.3, figure 6).

    Args:
      process: here and below, all but `frames` are as `sample`'s.
      denoise: the estimator.
      key: one key, or one for each example.
      x_T: (B, H, W, C) noise to start from.
      frames: visited times t > 0 to keep.
      times: the times to visit.
      eta: stochasticity.
      variance: reverse variance.
      noise: every random draw.
      solver: a name or a `ddx.Kernel`.

    Returns:
      x_0, and the `Film` of x_t and of the estimate of x_0 from it, (len(frames), B, H, W, C) in the order of `frames`.

    Raises:
      ValueError: a frame is not visited; or as `sample`.
    """
    times = visited(process, times)
    frames = tuple(frames) if process.continuous else tuple(int(t) for t in frames)
    missing = [t for t in frames if t not in times[:-1]]
    if not frames or len(set(frames)) < len(frames):
        raise ValueError(f"frames must be different times, at least one; got {frames}")
    if missing:
        raise ValueError(f"frames {missing} are not among the visited times {times[0]}..{times[-2]}")
    kernel = filmed(make_kernel(solver, eta, variance), frames)
    kernel.check(times)
    draws = _draws(solver, eta, variance, key, noise, x_T, len(times) - 1)
    walking = _run(process, denoise, x_T, times, eta, kernel, draws)
    film = walking.memory[1]
    return process.basis.synthesis(walking.u_t), Film(*map(process.basis.synthesis, film))


def encode(
    process: Process,
    denoise: Denoiser | DenoiseFn,
    x_0: Any,
    times: tuple[int, ...] | None = None,
    solver: str | Kernel = "euler",
) -> Any:
    """The x_T from which DDIM (eta = 0) leads to x_0: the same steps, taken upwards (DDIM section 4.3 and 5.4).

    The network is asked at the lower end of each step, and images are taken for x_1, whose noise is below their grey
    levels; both as in Improved DDPM's code. Where times are continuous they are taken for x_0, which has such noise
    itself. Use a denoiser that does not clip.

    Args:
      process: the process.
      denoise: a `ddx.denoiser`, or any function (x_t, t) -> `Denoised` in pixels.
      x_0: (B, H, W, C) images.
      times: as `sample`'s; walked from the last to the first, from 1 on.
      solver: as `sample`'s.

    Returns:
      x at times[0], like x_0.

    Raises:
      ValueError: the times are invalid, or the first is 1: then there is no step.
    """
    steps = encoding_table(process, visited(process, times), x_0.shape[-3:-1])
    kernel, basis = make_kernel(solver), process.basis
    walking = start(kernel, basis.analysis(x_0))
    walking = walk(denoise_at(process, denoise), walking, steps, jnp.arange(len(steps.noise)), kernel, no_noise)
    return basis.synthesis(walking.u_t).astype(x_0.dtype)


class Walking(NamedTuple):
    """Where a walk is: the state in basis coordinates, and its kernel's memory."""

    u_t: Any
    memory: Any


def start(kernel: Kernel, u_T: Any) -> Walking:
    """The start of a walk; the state is float32 at least, whatever the images are."""
    u_T = u_T.astype(jnp.promote_types(u_T.dtype, jnp.float32))
    return Walking(u_T, kernel.init(u_T))


def walk(
    at: DenoiseAt, walking: Walking, steps: Steps, draws: Any, kernel: Kernel, draw: Callable[[Any], Any]
) -> Walking:
    """Take the steps of a table, in basis coordinates: the scan under every sampler.

    A long walk may be cut into several calls, each with its rows of `steps` and `draws`, without changing a bit of the
    result.

    Args:
      at: at(u_t, level) -> `Denoised`, such as `Denoiser.at`.
      walking: where it is: `start(kernel, u_T)`, or what the call before returned.
      steps: rows of `step_table`.
      draws: one entry a row, given to `draw`.
      kernel: what to do at a row.
      draw: draw(entry) -> standard normal noise like u_t.
    """
    steps = jax.tree.map(lambda x: cast(x, walking.u_t.dtype), steps)

    def step(walking: Walking, row: tuple[Steps, Any]) -> tuple[Walking, None]:
        coefficients = row[0].expand(walking.u_t.shape[-3:-1])
        u_s, memory, _ = kernel.step(at, walking.u_t, walking.memory, coefficients, draw(row[1]))
        return Walking(u_s.astype(walking.u_t.dtype), memory), None

    return jax.lax.scan(step, walking, (steps, draws))[0]


Draws = tuple[Any, Callable[[Any], Any]]
"""One entry a step, and the noise of an entry: the last arguments of `walk`."""


def _draws(
    solver: str | Kernel, eta: float, variance: str | VarianceFn, key: Any, noise: Any, x_T: Any, num_steps: int
) -> Draws:
    """The draws of a sampler, none where no noise is added. A kernel of the user's own at eta = 0 may do without."""
    # k and not t: an example's k-th draw is the same for every trajectory.
    entries = jnp.arange(num_steps)
    can_do_without = not isinstance(solver, Kernel) or (key is None and noise is None and not solver.needs_noise)
    if eta == 0.0 and variance == "small" and can_do_without:
        return entries, no_noise
    if noise is None:
        return entries, noise_from(key, x_T)
    if noise.shape != (num_steps, *x_T.shape):
        raise ValueError(f"noise must have the shape {(num_steps, *x_T.shape)}, one draw a step; got {noise.shape}")
    return noise, _given


def _run(
    process: Process,
    denoise: Denoiser | DenoiseFn,
    x_T: Any,
    times: tuple[int, ...],
    eta: float,
    kernel: Kernel,
    draws: Draws,
    noisy_end: bool = False,
) -> Walking:
    steps = step_table(process, times, eta, x_T.shape[-3:-1])
    if noisy_end:
        steps = steps._replace(noise=np.ones_like(steps.noise))
    entries, draw = draws
    walking = start(kernel, process.basis.analysis(x_T))
    return walk(denoise_at(process, denoise), walking, steps, entries, kernel, draw)


def visited(process: Process, times: tuple[int, ...] | None) -> tuple[int, ...]:
    """The times given, or all of the process."""
    return trajectory(process.num_steps) if times is None else tuple(times)


def initial_noise(keys: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """x_T ~ N(0, 1), (B, *shape), one key an example; independent of what `sample` draws from the same keys."""
    return white_noise(fold_in(keys, _INITIAL), shape, dtype)


_INITIAL = 2**31 - 1  # no walk has that many steps


def noise_from(key: Any, x_T: Any) -> Any:
    """The k-th draw of each example as a function of k: white noise like x_T from fold_in(its key, k)."""
    keys = batch_keys(key, x_T.shape[0])
    return lambda k: white_noise(fold_in(keys, k), x_T.shape[1:], x_T.dtype)


def no_noise(k: Any) -> Any:
    """The draws of a deterministic walk."""
    del k
    return 0.0


def denoise_at(process: Process, denoise: Denoiser | DenoiseFn) -> DenoiseAt:
    """`Denoiser.at`, or the same around a function of pixels."""
    if isinstance(denoise, Denoiser):
        return denoise.at
    basis = process.basis

    def at(u_t: Any, level: Level) -> Denoised:
        return to_coordinates(basis, denoise(basis.synthesis(u_t), level.t))

    return at


def _given(noise: Any) -> Any:
    return noise


def cast(x: Any, dtype: Any) -> jax.Array:
    """Floats as dtype, integers as they are."""
    return jnp.asarray(x, dtype) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating) else jnp.asarray(x)
