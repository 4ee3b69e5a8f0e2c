"""What drawing images is made of, as functions of arrays.

`ddx.sampling.generator` compiles them for the devices of a host, `ddx.interop.stablehlo` exports them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from ddx.diffusion.papers import ihdm
from ddx.diffusion.reverse.inpaint import draws_from, replacing
from ddx.diffusion.reverse.protocol import Solver
from ddx.diffusion.reverse.rows import Plan
from ddx.diffusion.reverse.sdedit import noised_image
from ddx.diffusion.reverse.walk import State, advance, initial_noise, no_noise, noise_from, start
from ddx.sampling.sampler import Sampler
from ddx.system import System


class Between(NamedTuple):
    """Of whom the steps draw: the noise of two examples, mixed by `ddx.diffusion.papers.ihdm.between`; (B,) each."""

    keys: Any
    others: Any
    weights: Any


class Functions(NamedTuple):
    """A way from keys to images. Images are floats in the range of the process's data, keys (B,), arrays (B, ...).

    Attributes:
      noise: noise(keys) -> x_T.
      prior: prior(keys, images) -> x_t at the walk's first time, of uint8 images to start from.
      begin: begin(x_T) -> the state of the walk.
      walk: walk(params, rows, entries, keys, told, known, state) -> the state after these rows of the plan; `keys` may
        be `Between`, and `known` is () or, for a plan with jumps, uint8 images and a mask of what is known of them.
      end: end(known, state) -> x_0.
    """

    noise: Callable[[Any], Any]
    prior: Callable[[Any, Any], Any]
    begin: Callable[[Any], State]
    walk: Callable[..., State]
    end: Callable[[Any, State], Any]


def functions(system: System, sampler: Sampler, solver: Solver) -> Functions:
    """Those of a sampler; `solver` is its own, or another that takes the same steps and remembers more."""
    basis = system.process.basis

    def noise(keys: Any) -> Any:
        return initial_noise(system.process, keys, system.image_shape)

    def prior(keys: Any, images: Any) -> Any:
        x_0, t = system.to_float(images), sampler.times[0]
        if system.starts_from_images:
            return ihdm.heat_prior(system.process, keys, x_0, sampler.prior_noise, t)
        return noised_image(system.process, keys, x_0, t)

    def begin(x_T: Any) -> State:
        return start(solver, basis.analysis(x_T))

    def walk(params: Any, rows: Plan, entries: Any, keys: Any, told: Any, known: Any, state: State) -> State:
        denoise = system.denoiser(params, sampler.clip, told, sampler.guidance, keys)
        draw = no_noise if sampler.deterministic else _draw(keys, state.u_t)
        if not known:
            return advance(denoise, state, rows, entries, solver, draw)
        images, mask = known
        keeping = replacing(solver, system.to_float(images), mask)
        return advance(denoise, state, rows, entries, keeping, draws_from(keys, state.u_t, draw))

    def end(known: Any, state: State) -> Any:
        x_0 = basis.synthesis(state.u_t)
        if not known:
            return x_0
        images, mask = known
        return jnp.where(mask, system.to_float(images), x_0)

    return Functions(noise, prior, begin, walk, end)


def _draw(keys: Any, u_t: Any) -> Callable[[Any], Any]:
    """The k-th draw of each example as a function of k."""
    if not isinstance(keys, Between):
        return noise_from(keys, u_t)
    of_one, of_other = noise_from(keys.keys, u_t), noise_from(keys.others, u_t)
    return lambda k: ihdm.between(of_one(k), of_other(k), keys.weights[:, None, None, None])
