"""Sampling: one `lax.scan` of a kernel over a table of steps, whatever the process, trajectory or stochasticity.

The table is data, so one compiled program serves every schedule, every eta and every trajectory of the same length, and
the memory of a sampler does not grow with the number of steps.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import check_floats, computing_dtype
from ddx.diffusion.gaussian import host_eta
from ddx.diffusion.kernels import DenoiseAt, Film, Kernel, filmed, make_kernel
from ddx.diffusion.levels import is_host
from ddx.diffusion.noise import batch_keys, fold_in, white_noise
from ddx.diffusion.prediction import Denoised, DenoiseFn, Denoiser, check_process, to_coordinates
from ddx.diffusion.process import Level, Process
from ddx.diffusion.steps import Steps, brief, step_table
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
      x_0 like x_T: the mean of the last step, to which by default no noise is added. It is computed in float32 at
      least, the random draws too.

    Raises:
      ValueError: times, eta, variance or solver are invalid or do not go together, x_T or noise are not floating-point
        numbers, noise has not one draw a step, or the denoiser belongs to another process.
    """
    check_floats(x_T=x_T)
    eta = host_eta(eta)
    if not isinstance(noisy_end, bool | np.bool_):
        raise ValueError(f"noisy_end={noisy_end!r} must be True or False")
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
      x_0 like x_T, and the `Film` of x_t and of the estimate of x_0 from it, (len(frames), B, H, W, C) like x_T in the
      order of `frames`.

    Raises:
      ValueError: a frame is not visited; or as `sample`.
    """
    check_floats(x_T=x_T)
    eta = host_eta(eta)
    times = visited(process, times)
    frames = _listed(process, frames)
    missing = [t for t in frames if t not in times[:-1]]
    if not frames or len(set(frames)) < len(frames):
        raise ValueError(f"frames must be different times, at least one; got {frames}")
    if missing:
        raise ValueError(f"frames {missing} are not among the visited times {times[0]}..{times[-2]}")
    kernel = filmed(make_kernel(solver, eta, variance), frames)
    kernel.check(times)
    draws = _draws(solver, eta, variance, key, noise, x_T, len(times) - 1)
    walking = _run(process, denoise, x_T, times, eta, kernel, draws)
    x_0, *film = (process.basis.synthesis(u).astype(x_T.dtype) for u in (walking.u_t, *walking.memory[1]))
    return x_0, Film(*film)


class Walking(NamedTuple):
    """Where a walk is: the state in basis coordinates, and its kernel's memory."""

    u_t: Any
    memory: Any


def start(kernel: Kernel, u_T: Any) -> Walking:
    """The start of a walk; the state is float32 at least, whatever the images are."""
    u_T = u_T.astype(computing_dtype(u_T))
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
    if noise is not None:
        check_floats(noise=noise)
        if noise.shape != (num_steps, *x_T.shape):
            raise ValueError(f"noise must have the shape {(num_steps, *x_T.shape)}, one draw a step; got {noise.shape}")
    can_do_without = not isinstance(solver, Kernel) or (key is None and noise is None and not solver.needs_noise)
    if eta == 0.0 and variance == "small" and can_do_without:
        return entries, no_noise
    return (entries, noise_from(key, x_T)) if noise is None else (noise, _given)


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
    """The times given, or all of the process.

    Raises:
      ValueError: they are no sequence of numbers, or traced.
    """
    return trajectory(process.num_steps) if times is None else _listed(process, times)


def _listed(process: Process, times: Any) -> tuple[Any, ...]:
    """Times of the process as Python's numbers."""
    times = tuple(times) if isinstance(times, Iterable) and not isinstance(times, str | bytes) else (str(times),)
    if not is_host(*times):
        raise ValueError("times are traced, and this function needs their values: close over them in jax.jit")
    listed = np.asarray(times)
    if listed.ndim != 1 or listed.dtype.kind not in "iuf":
        raise ValueError(f"times must be numbers, such as ddx.trajectory lists; got {brief(times)}")
    if process.continuous:
        return tuple(listed.tolist())
    if not np.all(listed == np.round(listed)):
        raise ValueError(f"times {brief(times)} must be integers; this process has the times 0..{process.num_steps}")
    return tuple(listed.astype(np.int64).tolist())


def initial_noise(keys: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """x_T ~ N(0, 1), (B, *shape), one key an example; independent of what `sample` draws from the same keys."""
    return white_noise(fold_in(keys, _INITIAL), shape, dtype)


_INITIAL = 2**31 - 1  # no walk has that many steps


def noise_from(key: Any, x_T: Any) -> Any:
    """The k-th draw of each example as a function of k: white noise like x_T from fold_in(its key, k).

    It is float32 at least, as the state of a walk is.
    """
    keys, dtype = batch_keys(key, x_T.shape[0]), computing_dtype(x_T)
    return lambda k: white_noise(fold_in(keys, k), x_T.shape[1:], dtype)


def no_noise(k: Any) -> Any:
    """The draws of a deterministic walk."""
    del k
    return 0.0


def denoise_at(process: Process, denoise: Denoiser | DenoiseFn) -> DenoiseAt:
    """`Denoiser.at`, or the same around a function of pixels.

    Raises:
      ValueError: the denoiser belongs to another process.
    """
    check_process(process, denoise)
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
