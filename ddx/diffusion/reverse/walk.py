"""Plan, then walk: the steps of a sampler are data, and one `lax.scan` of a solver runs over them.

A plan is built on the host. It is an argument of the walk like any array, so one compiled program serves every
schedule, every eta and every trajectory of the same length:

    plan = ddx.plan(process, ddx.trajectory(process.num_steps, 50), eta=0.0)
    x_0 = jax.jit(lambda plan, x_T: ddx.walk(denoise, plan, x_T))(plan, x_T)

The memory of a walk does not grow with the number of steps. `sample` plans and walks in one call.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Coordinates, Images, Key, Shape, Trajectory, cast, check_floats, computing_dtype
from ddx.diffusion.estimate.denoiser import Denoiser, check_denoiser
from ddx.diffusion.forward.gaussian import host_eta
from ddx.diffusion.forward.process import Process
from ddx.diffusion.random import batch_keys, fold_in, given_noise, white_noise
from ddx.diffusion.reverse.protocol import Memory, Solver
from ddx.diffusion.reverse.rows import Plan, Row, downward, num_rows, visited
from ddx.diffusion.reverse.solvers import make_solver
from ddx.diffusion.reverse.variance import VarianceFn
from ddx.diffusion.times import is_host

DrawFn = Callable[[Any], Any]
"""draw(entry) -> the noise of a row, standard normal coordinates, from its entry of `entries`."""


def plan(
    process: Process,
    times: Trajectory | None = None,
    eta: float = 0.0,
    shape: Shape | None = None,
    solver: str | Solver = "euler",
    noisy_end: bool = False,
    end: float = 0,
) -> Plan:
    """The steps of a sampler as data: a pytree of float64 NumPy arrays, one row a step, for `walk`.

    Args:
      process: the process.
      times: strictly decreasing, ending in 0 (`ddx.trajectory`); None visits all T times.
      eta: stochasticity, 0 is DDIM, 1 is DDPM; above 1 where the variances allow it. Known on the host.
      shape: (H, W) of the images; only an eta above 1 under a blur needs it here.
      solver: the solver that will walk: some compute weights beforehand.
      noisy_end: add the noise of the last step too, as Blurring Diffusion's printed algorithm does.
      end: the time that the last step leads to, in place of 0: a walk then ends with what noise is left there, and its
        last step, unless it ends in the data, adds noise as the others do. At most the last time above 0.

    Returns:
      A `ddx.Plan` of len(times) - 1 rows. It may be walked in pieces; but the weights of "deis",
      "unipc_2" and "unipc_3" refer to earlier rows, so a walk with these solvers starts at the first row.

    Raises:
      ValueError: times, eta, solver or end are invalid or do not go together.
    """
    if not isinstance(noisy_end, bool | np.bool_):
        raise ValueError(f"noisy_end={noisy_end!r} must be True or False")
    times = visited(process, times)
    eta = host_eta(eta)
    chosen = make_solver(solver, eta)
    chosen.check(times)
    return chosen.prepared(process, downward(process, times, eta, shape, bool(noisy_end), end))


def walk(
    denoise: Denoiser,
    plan: Plan,
    x_T: Images,
    key: Key | None = None,
    solver: str | Solver = "euler",
    variance: str | VarianceFn = "small",
    noise: Coordinates | None = None,
) -> Images:
    """Walk down a plan from x_T: `sample` for a plan that was made before, or is an argument of `jax.jit`.

    Args:
      denoise: a `ddx.denoiser` of the plan's process.
      plan: what `ddx.plan` returned for this solver; its arrays may be traced.
      x_T: (B, H, W, C) to start from at the plan's first time.
      key: one key (example i of the batch then uses fold_in(key, i)), or keys of shape (B,), one for each example. None
        for a plan of eta = 0, or with `noise`; a traced plan of another eta then gives NaN.
      solver: the solver that the plan was made for, a name or a `ddx.Solver`.
      variance: for solver "euler", a name or a function (d, step) -> variance. Whether it goes with the plan's eta
        is checked where eta is known on the host.
      noise: (K, B, H, W, C), every random draw in visiting order, in the coordinates of the basis.

    Returns:
      x_0, (B, H, W, C) of x_T's type.

    Raises:
      ValueError: the solver or variance are invalid, x_T or noise are not floating-point numbers, noise does not have
        one draw per row, or the plan was made for another solver. Where the plan is known on the host: it was made for
        another process, or it adds noise and there is neither key nor noise.
    """
    check_denoiser(denoise)
    check_floats(x_T=x_T)
    known = is_host(*jax.tree.leaves(plan))
    eta = float(np.max(plan.eta)) if known else None
    chosen = make_solver(solver, eta, variance)
    chosen.check_plan(plan)
    if known:
        _check_plan(denoise.process, plan)
        chosen.check((*np.asarray(plan.level.t).tolist(), np.asarray(plan.target.t)[-1].item()))
    if not known and key is None and noise is None and variance == "small" and not chosen.needs_noise:
        # Where the host would ask for a key, the noise of the graph is NaN.
        draws: tuple[Any, DrawFn] = (jnp.where(plan.adds_noise * plan.eta > 0, jnp.nan, 0.0), given_noise)
    else:
        silent = known and _is_silent(eta, solver, variance, key, noise)
        draws = _draws(silent, key, noise, x_T, num_rows(plan))
    entries, draw = draws
    basis = denoise.process.basis
    state = advance(denoise, start(chosen, basis.analysis(x_T)), plan, entries, chosen, draw)
    return basis.synthesis(state.u_t).astype(x_T.dtype)


def sample(
    denoise: Denoiser,
    key: Key | None,
    x_T: Images,
    times: Trajectory | None = None,
    eta: float = 0.0,
    variance: str | VarianceFn = "small",
    noise: Coordinates | None = None,
    solver: str | Solver = "euler",
    noisy_end: bool = False,
) -> Images:
    """Draw x_0 by walking back from x_T: DDPM (eta = 1, algorithm 2), DDIM (eta = 0, eq. 12) and everything between.

    A step is equation (6) of `ddx.diffusion.forward.gaussian`, whose `solve` computes k, gamma and lambda2.

    Args:
      denoise: a `ddx.denoiser`, which carries its process.
      key: one key (example i of the batch then uses fold_in(key, i)), or keys of shape (B,), one for each example. May
        be None when `noise` is given, or when eta is 0 and no noise is added.
      x_T: (B, H, W, C) noise to start from at times[0], `initial_noise` for example.
      times: strictly decreasing, ending in 0 (`ddx.trajectory`); None visits all T times.
      eta: stochasticity, 0 is DDIM, 1 is DDPM; above 1 where the variances allow it. Known on the host.
      variance: "small"; "large" (DDIM's sigma-hat), "learned" or "range", which need eta = 1; "npr" or "sn", which need
        a head; or a function (d, step) -> variance per basis coordinate, such as `ddx.analytic` returns.
      noise: (K, B, H, W, C), every random draw in visiting order, in the coordinates of the basis; drawn from `key` if
        None.
      solver: "euler" (DDPM and DDIM); another name of `ddx.diffusion.catalogue.SOLVERS`, such as "dpmpp_2m" (at eta = 1
        SDE-DPM-Solver++) or "unipc_3", most of which need eta = 0; or a `ddx.Solver`.
      noisy_end: add the noise of the last step too, as Blurring Diffusion's printed algorithm does.

    Returns:
      x_0 like x_T: the mean of the last step, to which by default no noise is added. It is computed in float32 at
      least, the random draws too.

    Raises:
      ValueError: times, eta, variance or solver are invalid or do not go together, x_T or noise are not floating-point
        numbers, or noise does not have one draw per step.
    """
    rows, chosen, entries, draw = opening(denoise, key, x_T, times, eta, variance, noise, solver, noisy_end)
    basis = denoise.process.basis
    state = advance(denoise, start(chosen, basis.analysis(x_T)), rows, entries, chosen, draw)
    return basis.synthesis(state.u_t).astype(x_T.dtype)


class State(NamedTuple):
    """Where a walk is: u_t in coordinates of the basis, and the solver's memory."""

    u_t: Coordinates
    memory: Memory


def start(solver: Solver, u_T: Coordinates) -> State:
    """The start of a walk; the state is float32 at least, whatever the images are."""
    u_T = u_T.astype(computing_dtype(u_T))
    return State(u_T, solver.init(u_T))


def advance(denoise: Denoiser, state: State, rows: Plan, entries: Any, solver: Solver, draw: DrawFn) -> State:
    """Take the steps of some rows of a plan, in coordinates: the scan under every sampler.

    A long walk may be cut into several calls, each with its rows and entries, without changing a bit of the result.

    Args:
      denoise: the denoiser.
      state: where the walk is: `start(solver, u_T)`, or what the previous call returned.
      rows: some rows of a plan.
      entries: one per row, given to `draw`.
      solver: what to do at a row.
      draw: draw(entry) -> standard normal noise like u_t.
    """

    def step(state: State, row: tuple[Row, Any]) -> tuple[State, None]:
        coefficients = row[0].expand(state.u_t.shape[-3:-1])
        u_s, memory, _ = solver.step(denoise, state.u_t, state.memory, coefficients, draw(row[1]))
        return State(u_s.astype(state.u_t.dtype), memory), None

    return jax.lax.scan(step, state, (cast(rows, state.u_t.dtype), entries))[0]


def opening(
    denoise: Denoiser,
    key: Key | None,
    x_T: Images,
    times: Trajectory | None,
    eta: float,
    variance: str | VarianceFn,
    noise: Coordinates | None,
    solver: str | Solver,
    noisy_end: bool = False,
) -> tuple[Plan, Solver, Any, DrawFn]:
    """The rows, the solver, the entries and the draws of a sampler, all checked."""
    check_denoiser(denoise)
    check_floats(x_T=x_T)
    eta = host_eta(eta)
    chosen = make_solver(solver, eta, variance)
    rows = plan(denoise.process, times, eta, x_T.shape[-3:-1], chosen, noisy_end)
    silent = _is_silent(eta, solver, variance, key, noise)
    return rows, chosen, *_draws(silent, key, noise, x_T, num_rows(rows))


def _check_plan(process: Process, plan: Plan) -> None:
    """Refuse, with a ValueError, a plan whose levels differ from the levels of the process at the same times."""
    told = "the plan belongs to another process; make it with ddx.plan(denoise.process, ...)"
    t, named = np.asarray(plan.level.t), (plan.level.tau is None) == (process.blur is None)
    if not named or np.max(t) > process.num_steps:
        raise ValueError(told)
    own = process.level(t)
    pairs: list[tuple[Any, Any]] = [
        (own.a, plan.level.a),
        (own.sigma, plan.level.sigma),
        (own.model_time, plan.level.model_time),
    ]
    pairs += [] if own.tau is None else [(own.tau, plan.level.tau), (process.d_min, plan.d_min)]
    if not all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in pairs):
        raise ValueError(told)


def _is_silent(
    eta: float | None,
    solver: str | Solver,
    variance: str | VarianceFn,
    key: Key | None,
    noise: Coordinates | None,
) -> bool:
    """Whether a walk draws no noise. A user's own solver draws none at eta = 0 if it needs none and none is given."""
    nothing_given = key is None and noise is None
    can_do_without = nothing_given and not solver.needs_noise if isinstance(solver, Solver) else True
    return eta == 0.0 and variance == "small" and can_do_without


def _draws(silent: bool, key: Key | None, noise: Coordinates | None, x_T: Images, num_steps: int) -> tuple[Any, DrawFn]:
    """The entries and draws of a walk."""
    if noise is not None:
        check_floats(noise=noise)
        if noise.shape != (num_steps, *x_T.shape):
            raise ValueError(f"noise must have the shape {(num_steps, *x_T.shape)}, one draw a step; got {noise.shape}")
    # k and not t: an example's k-th draw is the same for every trajectory.
    entries = jnp.arange(num_steps)
    if silent:
        return entries, no_noise
    return (entries, noise_from(key, x_T)) if noise is None else (noise, given_noise)


def initial_noise(process: Process, keys: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Images:
    """x_T from the prior N(0, process.prior_sigma^2), per coordinate, one key per example.

    Args:
      process: the process whose prior it is.
      keys: (B,).
      shape: (H, W, C).
      dtype: of the result.

    Returns:
      (B, H, W, C), independent of what `sample` draws from the same keys.
    """
    white = white_noise(fold_in(keys, INITIAL), shape, dtype)
    return (process.prior_sigma * process.basis.colour(white)).astype(dtype)


INITIAL = 2**31 - 1  # a stream of a key: no walk has that many steps


def noise_from(key: Key | None, x_T: Images) -> DrawFn:
    """The k-th draw of each example as a function of k: white noise like x_T from fold_in(its key, k).

    It is float32 at least, as the state of a walk is.

    Raises:
      ValueError: there is no key.
    """
    keys, dtype = batch_keys(key, x_T.shape[0]), computing_dtype(x_T)
    return lambda k: white_noise(fold_in(keys, k), x_T.shape[1:], dtype)


def no_noise(entry: Any) -> float:
    """The draws of a deterministic walk."""
    del entry
    return 0.0
