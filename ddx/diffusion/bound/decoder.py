"""The discretised decoder p(x_0 | x_1): the probability of a grey level under a Gaussian (DDPM section 3.3, eq. 13).

Images are grey levels k / 127.5 - 1, k = 0 .. 255. The probability of a level is the probability of the interval that
reaches half a level to either side; the intervals of the darkest and the brightest level reach to infinity, so that the
256 probabilities sum to 1:

    P(x) = Phi(z + h) - Phi(z - h)        z = (x - mean) / sigma        h = 1 / (255 sigma)                      (1)

Far from the mean the two numbers that are subtracted are equal in float32. There, with a = |z| - h > 0,
b = |z| + h and the upper tail Q(y) = exp(-y^2 / 2) erfcx(y / sqrt 2) / 2,

    log P = log(Q(a) - Q(b)) = log Q(a) + log(1 - exp(-2 h |z|) erfcx(b / sqrt 2) / erfcx(a / sqrt 2))           (2)

since b^2 - a^2 = 4 h |z|. For a narrow interval, h (1 + |z|) << 1, the two numbers are nearly equal everywhere.
Its probability follows from the density at its middle and the density's curvature:

    log P = log(2 h phi(z)) + log(1 + h^2 (z^2 - 1) / 6)                                                         (3)

In these forms nothing cancels and nothing underflows.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import erf, erfc

from ddx.diffusion.arrays import Array, Numbers, check_floats
from ddx.diffusion.catalogue import CDFS

_EDGE = 0.999  # only the last level is beyond it, on either side
_FURTHEST = 1e15  # in standard deviations: farther than any level at the sharpest, and its square is finite in float32
_SHARPEST = -60.0  # the log variance at which a decoder is certain of its level
_NARROW = 0.03  # the terms that (3) leaves out are below 1e-8
_FURTHEST_MEAN = 1e4  # of a softmax: beyond all levels; times the sharpest precision still finite in float32
_FLOOR = 1e-12  # of probabilities, in DDPM's and Improved DDPM's code


def decoder_log_prob(
    x_0: Numbers, mean: Numbers, log_variance: Numbers, cdf: str = "exact", low: float = -1.0
) -> jax.Array:
    """The log probability, in nats, of grey levels under a Gaussian; finite, with its gradient, for finite arguments.

    Args:
      x_0: grey levels k / 127.5 - 1, of any shape.
      mean: of the Gaussian, broadcastable to x_0.
      log_variance: of the Gaussian, broadcastable to x_0; values below -60 count as -60.
      cdf: "exact", or "tanh" for the approximation of DDPM's and Improved DDPM's code, whose probabilities are never
        below 1e-12 and, in float32, mostly rounding error in the tails. "softmax" gives the 256 levels probabilities in
        proportion to the Gaussian's density at them (Kingma et al. 2021, eq. 35). "density" is the density times the
        width of a level, for dequantised images.
      low: the lowest grey level. The levels are low + (1 - low) k / 255.

    Returns:
      An array like x_0.

    Raises:
      ValueError: the cdf is unknown, or x_0 or the mean are not floating-point numbers.
    """
    check_floats(x_0=jnp.asarray(x_0), mean=jnp.asarray(mean))
    if cdf not in (*CDFS, "density"):
        raise ValueError(f"cdf {cdf!r} is unknown; choose one of: {', '.join(CDFS)}")
    if low != -1.0:
        scale = 2.0 / (1.0 - low)
        x_0, mean = (scale * (x - low) - 1.0 for x in (x_0, mean))
        log_variance = log_variance + 2.0 * math.log(scale)
    log_sigma = 0.5 * jnp.maximum(log_variance, _SHARPEST)
    z = jnp.clip((x_0 - mean) * jnp.exp(-log_sigma), -_FURTHEST, _FURTHEST)
    if cdf == "softmax":
        return _softmax(x_0, mean, log_sigma)
    if cdf == "density":
        return -0.5 * jnp.square(z) - log_sigma - 0.5 * math.log(2 * math.pi) + math.log(2 / 256)
    log_prob = _exact if cdf == "exact" else _tanh
    return log_prob(z, -log_sigma - math.log(255), x_0 < -_EDGE, x_0 > _EDGE)


def _exact(z: jax.Array, log_h: jax.Array, darkest: Array | bool, brightest: Array | bool) -> jax.Array:
    # The intervals at the ends are half-infinite: P = Phi(h + z) for the darkest level, Phi(h - z) for the brightest.
    end = _log_phi(jnp.exp(log_h) + jnp.where(darkest, z, -z))
    return jnp.where(darkest | brightest, end, _log_interval(jnp.abs(z), log_h))


def _log_interval(z: jax.Array, log_h: jax.Array) -> jax.Array:
    """log(Phi(z + h) - Phi(z - h)) for z >= 0, by equation (3), (2), or, around the mean, a sum of two positive parts.

    A branch that is not taken gets harmless numbers, lest its gradient be NaN.
    """
    h = jnp.exp(log_h)
    narrow = h * (1.0 + z) < _NARROW
    z_narrow, h_narrow = jnp.where(narrow, z, 0.0), jnp.where(narrow, h, 0.0)
    curvature = jnp.square(h_narrow) * (jnp.square(z_narrow) - 1.0) / 6.0
    in_narrow = math.log(2) + log_h - 0.5 * (jnp.square(z_narrow) + math.log(2 * math.pi)) + jnp.log1p(curvature)
    a, b = z - h, z + h
    tail = (a > 0) & ~narrow
    a_tail, b_tail = (jnp.where(tail, y, y_0) / math.sqrt(2) for y, y_0 in ((a, 1.0), (b, 2.0)))
    log_ratio = -2 * jnp.where(tail, h * z, 1.0) + _log_erfcx(b_tail) - _log_erfcx(a_tail)
    in_tail = _log_q(a_tail) + jnp.log(-jnp.expm1(log_ratio))
    a_middle, b_middle = (jnp.where(tail | narrow, y_0, y) / math.sqrt(2) for y, y_0 in ((a, -1.0), (b, 1.0)))
    around = jnp.log(0.5 * (erf(b_middle) + erf(-a_middle)))
    return jnp.where(narrow, in_narrow, jnp.where(tail, in_tail, around))


def _log_phi(y: jax.Array) -> jax.Array:
    """The logarithm of Phi(y)."""
    lower = y < 0
    below = jnp.where(lower, -y, 1.0) / math.sqrt(2)
    above = jnp.where(lower, 1.0, y) / math.sqrt(2)
    return jnp.where(lower, _log_q(below), jnp.log1p(-0.5 * erfc(above)))


def _log_q(x: jax.Array) -> jax.Array:
    """The logarithm of Q(sqrt(2) x) for x >= 0."""
    return -jnp.square(x) + _log_erfcx(x) - math.log(2)


@jax.custom_jvp
def _log_erfcx(x: jax.Array) -> jax.Array:
    """log(exp(x^2) erfc(x)) for x >= 0; beyond 4 by the continued fraction of erfc (DLMF 7.9.2).

    `jax.scipy.special.erfcx` is NaN in float32 between 9.2 and 9.4.
    """
    far = x > 4.0
    large, small = jnp.where(far, x, 4.0), jnp.where(far, 0.0, x)
    fraction = large
    for k in range(24, 0, -1):
        fraction = large + 0.5 * k / fraction
    return jnp.where(far, -jnp.log(math.sqrt(math.pi) * fraction), jnp.square(small) + jnp.log(erfc(small)))


@_log_erfcx.defjvp
def _log_erfcx_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    y = _log_erfcx(x)
    return y, (2.0 * x - 2.0 / math.sqrt(math.pi) * jnp.exp(-y)) * dx


def _softmax(x_0: Numbers, mean: Numbers, log_sigma: jax.Array) -> jax.Array:
    """Minus the log of a sum over all levels, one after the other, of a level's density over the density of x_0.

    A difference of two squares is written as a product, in units of levels, so that the density of a level over itself
    is exactly 1.
    """
    j = jnp.rint((x_0 + 1.0) * 127.5)
    middle = 255.0 * (1.0 + jnp.clip(mean, -_FURTHEST_MEAN, _FURTHEST_MEAN))  # twice the mean, in levels
    precision = 0.5 * jnp.exp(-2.0 * log_sigma) / 127.5**2

    def add(total: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        return jnp.logaddexp(total, precision * (j - k) * (j + k - middle)), None

    levels = jnp.arange(256, dtype=middle.dtype)
    shape = jnp.broadcast_shapes(jnp.shape(j), jnp.shape(middle), jnp.shape(log_sigma))
    return -jax.lax.scan(add, jnp.full(shape, -jnp.inf, middle.dtype), levels)[0]


def _tanh(z: jax.Array, log_h: jax.Array, darkest: Array | bool, brightest: Array | bool) -> jax.Array:
    h = jnp.exp(log_h)
    below_upper, below_lower = _tanh_cdf(z + h), _tanh_cdf(z - h)
    prob = jnp.where(darkest, below_upper, jnp.where(brightest, 1.0 - below_lower, below_upper - below_lower))
    return jnp.log(jnp.maximum(prob, _FLOOR))


def _tanh_cdf(y: jax.Array) -> jax.Array:
    y = jnp.clip(y, -100.0, 100.0)  # where the result is 0 or 1, and the cube is finite in float32
    return 0.5 * (1.0 + jnp.tanh(math.sqrt(2.0 / math.pi) * (y + 0.044715 * y**3)))
