"""The slope of a network's eps, from which the variance of each coordinate of the data given u_t follows.

For eps = E[eps | u_t], -eps / sigma is the gradient of log q(u_t), and its derivative tells the covariance of the data
(optimal covariance matching, Ou et al. 2025). On the diagonal, with J = d eps / d u_t,

    h = -sigma diag(J)                                                                                          (1)
    Var[u_0 | u_t] = (sigma / alpha)^2 (1 + h)                                                                  (2)

for each image and coordinate, without statistics. For random signs v, 1 or -1 as likely,

    h = E_v[v * (-sigma J v)]                                                                                   (3)

(Hutchinson 1990; Bekas et al. 2007). One draw errs in coordinate i by the variance sigma^2 sum_{j != i} J_ij^2: it is
exact where J is diagonal. The paper has v * d(v . eps) / d u_t = v * J^T v, which has the same mean. J v costs as much,
a further evaluation of the network, keeps no activations, and on CPU is 30 times faster inside a walk.
"""

import dataclasses

import jax

from ddx.diffusion.arrays import Array, Coordinates, Key
from ddx.diffusion.estimate.denoiser import Denoised, Denoiser, check_denoiser
from ddx.diffusion.estimate.prediction import reading
from ddx.diffusion.forward.process import Level
from ddx.diffusion.random import batch_keys, fold_in, fold_in_time, signs

_SIGNS = 2**31 - 6  # a stream of keys: no walk has so many steps, and no process such a time


def hutchinson(denoise: Denoiser, key: Key, draws: int = 4) -> Denoiser:
    """A denoiser that also tells the slope of eps, equation (3), which `ddx.ocm` and the variance "ocm" are from.

    The estimates of x_0 and eps are those of the denoiser, which may clip; the slope is of its network's own eps.

    Args:
      denoise: a `ddx.denoiser` of one network, which can be differentiated.
      key: one key (example i of the batch then uses fold_in(key, i)), or keys of shape (B,), one for each example. The
        signs of an example depend on its key and the time alone, and are independent of the noise that samplers and
        bounds draw from the same key.
      draws: of the signs, a further evaluation of the network each.

    Returns:
      A `Denoiser` whose estimates have a `slope`, (B, H, W, C) in coordinates of the basis.

    Raises:
      ValueError: the denoiser is not made of one network, there are no draws, or, when it is called, the key does not
        fit.
    """
    if check_denoiser(denoise).prediction is None:
        raise ValueError("the slope is of one network's eps; pass a ddx.denoiser of one network")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws={draws!r} must be a whole number of at least 1")

    def at(u_t: Coordinates, level: Level) -> Denoised:
        keys = fold_in_time(fold_in(batch_keys(key, u_t.shape[0]), _SIGNS), level.t)
        v = signs(keys, (draws, *u_t.shape[1:]), u_t.dtype).swapaxes(0, 1)
        return with_slope(denoise, u_t, level, v)

    return dataclasses.replace(denoise, at=at)


def with_slope(denoise: Denoiser, u_t: Coordinates, level: Level, v: Array) -> Denoised:
    """The estimate of one network from u_t at a level, with the mean of equation (3) over signs v, (n, B, H, W, C)."""
    prediction = denoise.prediction
    assert prediction is not None

    def own_eps(u_t: Coordinates) -> tuple[Coordinates, Denoised]:
        d = denoise.at(u_t, level)
        assert d.output is not None
        return reading(denoise.process, prediction, level).eps(u_t, d.output), d

    _, times_v, d = jax.linearize(own_eps, u_t, has_aux=True)
    # One draw after the other: memory does not grow with their number.
    slopes = jax.lax.map(lambda one: -level.sigma * one * times_v(one), v)
    return d._replace(slope=slopes.mean(0))
