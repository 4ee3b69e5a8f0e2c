"""Images of which a part is known: replacement with resampling (RePaint; Lugmayr et al. 2022, algorithm 1).

A walk draws the whole image. Where it arrives at a level s, the known pixels are replaced by a draw of

    q(x_s | x_0) = N(alpha_s x_0, sigma_s^2)                                                                     (1)

so that the network sees them beside the pixels it has to find. But the draw does not know what the walk has made of the
other pixels, so the two parts agree too little. A jump gives them time to agree: the whole image goes back up to an
earlier level t by the forward transition

    q(u_t | u_s) = N((alpha_t / alpha_s) u_s, sigma_t^2 (1 - r))                                                 (2)

and comes down again. One transition over several levels has the law of several transitions over one level each. The
draws of (1), of the steps down and of (2) are all independent, and new at every visit. The paper prints (1) with the
alpha and sigma of the level above s; its code, as here, has the level's own.

More steps alone do not cure replacement's error, which is of the first levels already. With resampling a walk becomes
a Markov chain at each level, and near the data that chain's law is the conditional one, up to an error as small as the
noise that a jump adds there: on Gaussian data short jumps, many times, come closest for the same number of rows.

A plan with jumps is the rows of a plan in the order of the walk: a row whose level is above the target of the row
before is reached by (2). Under a blur, (1) is no law of the known pixels: each pixel of a blurred image depends on its
neighbours, unknown ones among them. Such processes are refused.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Array, Coordinates, Images, Key, Trajectory, check_floats, computing_dtype
from ddx.diffusion.estimate.denoiser import Denoised, Denoiser, check_denoiser
from ddx.diffusion.forward.gaussian import host_eta, noised, root, transition
from ddx.diffusion.forward.process import Change, Process
from ddx.diffusion.random import batch_keys, fold_in, given_noise
from ddx.diffusion.reverse.protocol import Memory, Solver
from ddx.diffusion.reverse.rows import Plan, Step, num_rows
from ddx.diffusion.reverse.solvers import make_solver
from ddx.diffusion.reverse.variance import VarianceFn
from ddx.diffusion.reverse.walk import DrawFn, advance, noise_from, plan, start

_JUMP = "jump"  # in `Row.extra`: the `Change` from the level that the walk is at to the level of the row
_OF_KNOWN, _OF_JUMP = 2**31 - 5, 2**31 - 7  # streams of keys: no walk has so many steps


class Draws(NamedTuple):
    """What a row of a plan with jumps draws, standard normal: (B, H, W, C) each."""

    step: Any  # of the step down, in coordinates
    known: Any  # of equation (1), in pixels
    jump: Any  # of equation (2), in coordinates


def inpaint(
    denoise: Denoiser,
    key: Key | None,
    x_T: Images,
    known: Images,
    mask: Array,
    times: Trajectory | None = None,
    eta: float = 1.0,
    variance: str | VarianceFn = "small",
    jump_length: int = 10,
    num_resamples: int = 10,
    noise: tuple[Array, Array, Array] | None = None,
    solver: str | Solver = "euler",
) -> Images:
    """Draw images of which some pixels are known (RePaint). The defaults of the jumps are the paper's, for 250 steps.

    Args:
      denoise: a `ddx.denoiser` of a process without a blur.
      key: one key (example i of the batch then uses fold_in(key, i)), or keys of shape (B,), one for each example. None
        with `noise`.
      x_T: (B, H, W, C) noise to start from at times[0].
      known: (B, H, W, C) images; what they hold where nothing is known does not matter.
      mask: booleans that broadcast to x_T, such as (H, W, 1): True where the image is known.
      times: strictly decreasing, ending in 0 (`ddx.trajectory`); None visits all T times.
      eta: stochasticity, 0 is DDIM, 1 is DDPM.
      variance: as in `ddx.sample`.
      jump_length: how many rows a jump goes back up.
      num_resamples: how often each stretch of that many rows is walked; 1 for no jumps. The last row, and what is left
        at the top of a trajectory that such stretches do not fill, are walked once.
      noise: in place of `key`, three arrays of every draw in visiting order, (K, B, H, W, C) each: of the steps, in
        coordinates of the basis, of the known pixels, in pixels, and of the jumps, in coordinates; those of jumps are
        used only where there is one. K counts rows as often as they are walked.
      solver: "euler", "heun", or a `ddx.Solver` without a memory: others extrapolate from steps that are not this
        walk's any more.

    Returns:
      x_0 like x_T, the known pixels exactly as given. Where nothing is known, and without jumps, it is what
      `ddx.sample` returns.

    Raises:
      ValueError: the process blurs; the solver remembers earlier steps; the mask is not boolean; an array has the wrong
        shape; the trajectory is too short for a jump; or what `ddx.sample` refuses.
    """
    process = check_denoiser(denoise).process
    check_floats(x_T=x_T, known=known)
    if known.shape != x_T.shape:
        raise ValueError(f"known must be images like x_T, {x_T.shape}; got {known.shape}")
    _check_mask(mask, x_T.shape)
    chosen = make_solver(solver, host_eta(eta), variance)
    check_can_inpaint(process, chosen)
    rows = with_jumps(process, plan(process, times, eta, None, chosen), jump_length, num_resamples)
    shape = (num_rows(rows), *x_T.shape)
    if noise is None:
        keys = batch_keys(key, x_T.shape[0])
        entries: Any = jnp.arange(shape[0])
        draw = draws_from(keys, x_T, noise_from(keys, x_T))
    else:
        if len(noise) != len(Draws._fields) or any(given.shape != shape for given in noise):
            raise ValueError(f"noise must be three arrays of the shape {shape}, one draw a row")
        entries, draw = Draws(*noise), given_noise
    known = known.astype(computing_dtype(x_T))
    keeping = replacing(chosen, known, mask)
    state = advance(denoise, start(keeping, process.basis.analysis(x_T)), rows, entries, keeping, draw)
    return jnp.where(mask, known, process.basis.synthesis(state.u_t)).astype(x_T.dtype)


def check_can_inpaint(process: Process, solver: Solver) -> None:
    """Refuse, with a ValueError, a process or a solver of which a part of an image cannot be known."""
    if process.blur is not None:
        raise ValueError(
            "no part of an image can be known under a blur, which mixes it with what is not known; use a process"
            " without a blur"
        )
    if process.of_frequencies:
        raise ValueError(
            "the pixels of coloured noise depend on each other, so known ones cannot be noised apart from the others;"
            " use a process of white noise"
        )
    if jax.tree.leaves(jax.eval_shape(solver.init, jax.ShapeDtypeStruct((1, 1, 1, 1), np.float32))):
        raise ValueError(
            f"solver {solver.name!r} remembers earlier steps, whose images the known pixels and the jumps change; use"
            " 'euler' or 'heun'"
        )


def _check_mask(mask: Array, shape: tuple[int, ...]) -> None:
    if getattr(mask, "dtype", None) != np.dtype(bool):
        raise ValueError("mask must be an array of booleans, True where the image is known, such as grey > 127")
    fits = (n in (1, size) for n, size in zip(mask.shape[::-1], shape[::-1], strict=False))
    if mask.ndim > len(shape) or not all(fits):
        raise ValueError(f"mask of shape {mask.shape} does not broadcast to the images, {shape}")


def with_jumps(process: Process, rows: Plan, jump_length: int, num_resamples: int) -> Plan:
    """The rows of a plan in the order in which a walk with jumps takes them, for `replacing`.

    All rows but the last are cut into stretches of `jump_length`, from the last one on; each is walked `num_resamples`
    times. What is left at the top is walked once, as in the paper's code. With one stretch a row this is algorithm 1.

    Args:
      process: the plan's process.
      rows: a plan, known on the host.
      jump_length: rows in a stretch.
      num_resamples: how often each is walked.

    Returns:
      A plan of len(rows) + (num_resamples - 1) * jump_length * (number of stretches) rows.

    Raises:
      ValueError: a number is no integer from 1 up, or there is to be a jump and no stretch is so short.
    """
    for name, number in (("jump_length", jump_length), ("num_resamples", num_resamples)):
        if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{name}={number!r} must be an integer, at least 1")
    last = num_rows(rows) - 1
    if num_resamples > 1 and jump_length > last:
        raise ValueError(
            f"jump_length={jump_length} needs a walk of more steps than that, and this one has {last + 1}; use a"
            " shorter jump_length, more steps, or num_resamples=1 for no jumps"
        )
    top = last % jump_length
    stretches = np.arange(top, last).reshape(-1, 1, jump_length)
    order = np.concatenate([np.arange(top), np.repeat(stretches, num_resamples, axis=1).ravel(), [last]])
    rows = jax.tree.map(lambda x: np.asarray(x)[order], rows)
    t = rows.level.t
    s = np.concatenate([t[:1], rows.target.t[:-1]])  # where the walk is
    is_jump, found = s < t, process.change(s[s < t], t[s < t])
    log_alpha, logsnr = np.zeros((2, *rows.last.shape))
    log_alpha[is_jump], logsnr[is_jump] = found.log_alpha, found.logsnr
    return rows._replace(extra=rows.extra | {_JUMP: Change(log_alpha, logsnr, None)})


def replacing(solver: Solver, known: Images, mask: Array) -> Solver:
    """The solver on a plan `with_jumps`: it takes a jump before its step, and the known pixels after it; z are `Draws`.

    Args:
      solver: one without a memory.
      known: (B, H, W, C) images.
      mask: booleans that broadcast to them: where they are known.
    """
    known = jnp.where(mask, known, 0.0)  # in a basis that is not the pixels' the rest would be mixed in

    def step(
        denoise: Denoiser, u_t: Coordinates, memory: Memory, row: Step, z: Draws
    ) -> tuple[Coordinates, Memory, Denoised]:
        ratio, variance = transition(row.level.sigma, row.extra[_JUMP])
        u_t = ratio * u_t + root(variance) * z.jump
        u_s, memory, d = solver.step(denoise, u_t, memory, row, z.step)
        basis = denoise.process.basis
        known_s = noised(basis, row.target, known, z.known)
        # A difference, so that where nothing is known no coordinate is rounded.
        return u_s + basis.analysis(jnp.where(mask, known_s - basis.synthesis(u_s), 0.0)), memory, d

    return solver._replace(step=step)


def draws_from(keys: Key, like: Images, of_step: DrawFn) -> DrawFn:
    """The `Draws` of a row as a function of its number: those of its step are given, the others independent of them."""
    of_known, of_jump = (noise_from(fold_in(keys, stream), like) for stream in (_OF_KNOWN, _OF_JUMP))
    return lambda k: Draws(of_step(k), of_known(k), of_jump(k))
