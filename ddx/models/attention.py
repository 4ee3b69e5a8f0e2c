"""Attention: of queries to keys with any number of heads, and the block of the U-Nets."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddx.models.conventions import DDPM, Conventions
from ddx.models.layers import Linear
from ddx.models.norm import GroupNorm, Measured, measure
from ddx.models.products import WITH_ONES, product


def attend(q: jax.Array, k: jax.Array, v: jax.Array, num_heads: int) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v for each head, which has d = C / num_heads of the channels; softmax in float32.

    Args:
      q: (B, ..., C), with pixels or patches on the axes between: (B, H, W, C) or (B, N, C).
      k: the same shape.
      v: the same shape.
      num_heads: a divisor of C.

    Returns:
      The shape and type of q.
    """
    batch, *places, _ = q.shape
    number = math.prod(places)

    # Heads join the batch instead of being an axis of their own: with one, nothing is left of them, not a bit.
    def split(h: jax.Array) -> jax.Array:
        """(B, ..., C) to (B * heads, N, C / heads)."""
        return h.reshape(batch, number, num_heads, -1).swapaxes(1, 2).reshape(batch * num_heads, number, -1)

    q, v, k = split(q), split(v), split(k)
    logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weights = _softmax(logits).astype(v.dtype)
    h = jnp.einsum("bqk,bkc->bqc", weights, v)
    return h.reshape(batch, num_heads, number, -1).swapaxes(1, 2).reshape(batch, *places, -1)


@jax.custom_jvp
def _softmax(logits: jax.Array) -> jax.Array:
    """Softmax over the last axis."""
    out: jax.Array = jax.lax.platform_dependent(logits, tpu=_by_product, default=nn.softmax)
    return out


@_softmax.defjvp
def _slope(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (logits,), (tangent,) = primals, tangents
    weights = _softmax(logits)
    return weights, weights * (tangent - (weights * tangent).sum(-1, keepdims=True))


def _by_product(logits: jax.Array) -> jax.Array:
    """The same with its sums as a product with ones, for which a TPU takes three quarters of the time.

    The compiler makes a sum of a product with one column, so there are eight.
    """
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    ones = jnp.ones((logits.shape[-1], 8), logits.dtype)
    return weights / jnp.matmul(weights, ones, precision=WITH_ONES)[..., :1]


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, added to the input.

    With h the normalised pixels as rows, queries h Q + b_q, keys h K and values h V, one head and the output's O are

        softmax((h Q + b_q) (h K)^T / sqrt(C)) h V O = softmax((h Q K^T + b_q K^T) h^T / sqrt(C)) h (V O)

    which is two products of C x C with the pixels instead of four. The values' bias adds the same to all pixels, for
    the weights of a query sum to 1. The keys' bias adds the same to all logits of a query, which softmax ignores: it is
    kept for the originals' weights, and not added. Its gradient is zero, and would be rounding noise, which Adam
    scales up to full steps and which differs with the number of devices.

    Attributes:
      groups: of the normalisation.
      dtype: type of what is computed with pixels; products of weights and biases, and softmax, are float32.
      num_heads: each attends with its own share of the channels.
      conventions: of an original code.
    """

    groups: int
    dtype: Any
    num_heads: int = 1
    conventions: Conventions = DDPM

    @nn.compact
    def __call__(self, x: Measured) -> Measured:
        """(B, H, W, C) to the same shape."""
        like, channels = self.conventions, x.x.shape[-1]
        h = GroupNorm(self.groups, epsilon=like.epsilon, name="norm")(x).astype(self.dtype)
        q, k, v = (Linear(channels, channels, like, self.dtype, name=name) for name in "qkv")
        proj_out = Linear(channels, channels, like, self.dtype, last=True, name="proj_out")
        if self.num_heads == 1:
            to_logits = q.kernel @ k.kernel.T
            seen = attend(product(h, to_logits) + (k.kernel @ q.bias).astype(self.dtype), h, h, 1)
            to_output = v.kernel @ proj_out.kernel
        else:
            seen = attend(q(h) + q.bias.astype(self.dtype), k(h), v(h), self.num_heads)
            to_output = proj_out.kernel
        return measure(
            x.x + product(seen, to_output),
            x.shift + v.bias @ proj_out.kernel + proj_out.bias,
            lambda: x.corner[:, :1, :1] + product(seen[:, :1, :1], to_output),
        )
