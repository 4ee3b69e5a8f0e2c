"""From an image to the latent from which DDIM leads back to it (Song et al. 2021, sections 4.3 and 5.4).

At eta = 0 a step solves an ordinary differential equation, so it may be taken upwards. Where a network outputs eps, a
step from t down to s turns an error of the output into an error of x_s that is

    alpha_s (sigma_t / alpha_t - sigma_s / alpha_s)                                                             (1)

times as large. On the way up the network is evaluated at s and on the way down at t, and the difference of the two
outputs is multiplied by (1). The sum of (1) over all steps is about sigma_T / alpha_T: 157 on DDPM's linear schedule,
and 20,000 on the cosine one, most of it in its last few steps, which no number of steps refines. From there an image
cannot be recovered, and stopping below loses nothing: x_t is as good a latent as x_T.

Where times are integers, networks do not know time 0, and images are taken for x_1, whose noise is about one grey
level. Where times are continuous, images are taken for x_0, if the process has noise at t = 0.
"""

import warnings

import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Images, Shape, Trajectory, check_floats
from ddx.diffusion.estimate.denoiser import Denoiser, check_denoiser
from ddx.diffusion.estimate.prediction import WeightsFn, reading
from ddx.diffusion.forward.process import Process
from ddx.diffusion.reverse.protocol import Solver
from ddx.diffusion.reverse.rows import Plan, check_times, num_rows, upward, visited
from ddx.diffusion.reverse.solvers import make_solver
from ddx.diffusion.reverse.walk import advance, no_noise, start

# sigma / alpha up to which eps determines x_0: DDPM's linear schedule, used in DDIM's table 2, ends at 157.
_MOST = 160.0
_SIGNAL = 0.1  # alpha / sigma above which x_t is not a latent but a noisy image
_NOISY = 0.25  # sigma of x_1 above which an image is no longer seen
_LEAST = 1e-3  # sigma at 0 above which images are taken for x_0; with less, a step amplifies float32 rounding


def encode(
    denoise: Denoiser,
    x_0: Images,
    times: Trajectory | None = None,
    solver: str | Solver = "euler",
) -> Images:
    """The x_T from which DDIM (eta = 0) leads to x_0: the same steps, taken upwards.

    The network is evaluated at the lower end of each step, as in Improved DDPM's code. Use a denoiser that does not
    clip. Times beyond those that `encodable` keeps give a warning.

    Args:
      denoise: a `ddx.denoiser`.
      x_0: (B, H, W, C) images.
      times: of the sampler that will decode: strictly decreasing, ending in 0; None for all T. They are walked upwards,
        from the time that images are taken for.
      solver: "euler" for DDIM, another name of `ddx.diffusion.catalogue.SOLVERS`, or a `ddx.Solver`.

    Returns:
      x at times[0], (B, H, W, C) like x_0.

    Raises:
      ValueError: the times are invalid or begin at 1, which leaves no step; the solver is unknown or adds noise; or x_0
        are not floating-point numbers.
    """
    process = check_denoiser(denoise).process
    check_floats(x_0=x_0)
    times, shape = visited(process, times), x_0.shape[-3:-1]
    chosen = make_solver(solver)
    rows = encoding_plan(process, times, chosen)
    if denoise.prediction is not None:
        _warn(process, denoise.prediction, times, shape)
    entries = jnp.arange(num_rows(rows))
    state = advance(denoise, start(chosen, process.basis.analysis(x_0)), rows, entries, chosen, no_noise)
    return process.basis.synthesis(state.u_t).astype(x_0.dtype)


def _warn(process: Process, prediction: str | WeightsFn, times: Trajectory, shape: Shape) -> None:
    try:
        kept = encodable_times(process, prediction, times, shape)
    except ValueError as error:
        warnings.warn(f"decoding will not lead back to these images: {error}", stacklevel=3)
        return
    if kept != times:
        more = f", {shape}" * (process.blur is not None)
        warnings.warn(
            f"decoding x_{times[0]:g} will not lead back to these images: beyond t = {kept[0]:g} the network does not"
            f" determine x_0; encode and sample with times=ddx.encodable(denoise, times{more})",
            stacklevel=3,
        )


def encodable(denoise: Denoiser, times: Trajectory | None = None, shape: Shape | None = None) -> Trajectory:
    """The times of a sampler from which an encoded image can be recovered.

    If the network outputs x_0 or v, these are all times. If it outputs eps or the mean, times with a sigma / alpha
    above 160 are left out, where equation (1) makes errors too large.

    Args:
      denoise: a `ddx.denoiser` of a network.
      times: strictly decreasing, ending in 0; None for all T.
      shape: (H, W) of the images, for processes that blur.

    Returns:
      The times that are kept, from the highest to 0.

    Raises:
      ValueError: the times are invalid, no time beyond 1 is left, or no image can be recovered: the blur of the process
        leaves nothing of some frequencies, the network predicts eps under a blur, or the first noise level is very
        noisy.
    """
    if not isinstance(denoise, Denoiser) or denoise.prediction is None:
        raise ValueError("which times can be encoded depends on what the network outputs; pass a ddx.denoiser")
    return encodable_times(denoise.process, denoise.prediction, visited(denoise.process, times), shape)


def encodable_times(
    process: Process, prediction: str | WeightsFn, times: Trajectory, shape: Shape | None
) -> Trajectory:
    """The times that `encodable` keeps, for a process and the prediction of its network."""
    check_times(times)
    process.level(np.asarray(times))  # refuses times out of range
    if process.blur is not None and process.forgets:
        raise ValueError(
            "the blur of this process leaves nothing of some frequencies, so no image is found again from its latent;"
            " use a process without such a blur"
        )
    first = _first(process, times)
    noise = float(process.level(first).sigma)
    if noise > _NOISY:
        raise ValueError(
            f"images are taken for x_{first:g}, and its noise of {noise:.2g} hides them; use a process with more steps,"
            " or times that begin lower"
        )
    kept = _kept(process, prediction, times, shape)
    dropped = times[: len(times) - len(kept)]
    if dropped:
        lowest = process.level(dropped[-1])
        if lowest.a > _SIGNAL * lowest.sigma:
            raise ValueError(
                f"under this blur {prediction} tells no x_0 from t = {dropped[-1]:g} on, where images are not yet"
                " noise, so none can be encoded; use a network that predicts v"
            )
    if kept[0] <= (0 if process.continuous else 1):
        where = f" at which sigma is at most {_MOST:g} alpha, for a network that predicts {prediction}"
        raise ValueError(f"encoding needs a time beyond 1{where * bool(dropped)}; visit more times")
    return kept


def _kept(process: Process, prediction: str | WeightsFn, times: Trajectory, shape: Shape | None) -> Trajectory:
    t = np.asarray(times[:-1])
    # A network of the mean errs as a network of eps does, however small its step.
    level = process.level(t).spread(process.d_min, shape)
    found = np.abs(reading(process, "eps" if prediction == "mean" else prediction, level).gain)
    told = np.where(found > 0, found, np.inf)
    most = np.broadcast_to(told, (len(t), *np.shape(told)[1:])).max((1, 2, 3))
    return times[int(np.sum(most > _MOST)) :]  # times decrease, and with them the effect of an error


def _first(process: Process, times: Trajectory) -> float:
    """The time that images are taken for."""
    if not process.continuous:
        return 1
    return 0.0 if process.level(0).sigma > _LEAST else min(1.0, times[-2])


def encoding_plan(process: Process, times: Trajectory, solver: Solver) -> Plan:
    """The steps of `encode`.

    Args:
      process: the process.
      times: of the sampler that will decode, which go down and end in 0; known on the host.
      solver: the solver that will walk.

    Raises:
      ValueError: no time is beyond 1, which leaves no step, or the solver adds noise.
    """
    check_times(times)
    if solver.needs_noise or solver.all_times:
        raise ValueError(f"{solver.name} does not solve an equation that could be taken upwards; encode with 'euler'")
    upwards = tuple(sorted({_first(process, times), *times[:-1]}))
    if len(upwards) < 2:
        raise ValueError(f"encoding needs increasing times from 1 up, such as (1, 500, 1000); got {upwards}")
    return solver.prepared(process, upward(process, upwards))
