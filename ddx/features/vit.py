"""The vision transformer (Dosovitskiy et al. 2021) as DINOv2 and CLIP have it, in full float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddx.features.layers import dense, dense_array
from ddx.features.plug import Source

_HIGHEST = jax.lax.Precision.HIGHEST


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's approximation of GELU."""
    return x * nn.sigmoid(1.702 * x)


def _norm(x: jax.Array, epsilon: float, name: str) -> jax.Array:
    # The fast variance is a difference of nearly equal numbers where a mean is large.
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name)(x)


class Block(nn.Module):
    """Attention and a perceptron, each normalised before and added to its input.

    Attributes:
      heads: of the attention.
      epsilon: of the normalisations.
      is_clip: whether it is CLIP's: with its GELU, and without layer scale.
    """

    heads: int
    epsilon: float
    is_clip: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, N, D) to the same shape."""
        width = x.shape[-1]
        h = _norm(x, self.epsilon, "norm1")
        query, key, value = (
            dense(self, h, width, name).reshape(*x.shape[:2], self.heads, -1) for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, precision=_HIGHEST) / np.sqrt(query.shape[-1])
        h = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), value, precision=_HIGHEST).reshape(x.shape)
        x = x + self._scaled(dense(self, h, width, "out"), "scale1")
        h = dense(self, _norm(x, self.epsilon, "norm2"), 4 * width, "fc1")
        h = quick_gelu(h) if self.is_clip else nn.gelu(h, approximate=False)
        return x + self._scaled(dense(self, h, width, "fc2"), "scale2")

    def _scaled(self, x: jax.Array, name: str) -> jax.Array:
        """DINOv2's layer scale: a factor for each channel of what is added."""
        return x if self.is_clip else x * self.param(name, nn.initializers.ones, (x.shape[-1],))


class ViT(nn.Module):
    """The network.

    Attributes:
      width: channels, D.
      depth: blocks.
      heads: of their attention.
      patch: height and width of a patch, in pixels.
      epsilon: of the normalisations.
      is_clip: whether it is CLIP's, which also normalises before the first block, and whose patches have no bias.
    """

    width: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 14
    epsilon: float = 1e-6
    is_clip: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, 3) to the token of the class after the last normalisation, (B, D)."""
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, size, "VALID", use_bias=not self.is_clip, precision=_HIGHEST, name="patch")(x)
        x = x.reshape(len(x), -1, self.width)
        token = self.param("token", nn.initializers.zeros, (self.width,))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        x = x + self.param("position", nn.initializers.normal(0.02), x.shape[1:])
        if self.is_clip:
            x = _norm(x, self.epsilon, "norm_before")
        for number in range(self.depth):
            x = Block(self.heads, self.epsilon, self.is_clip, name=f"block_{number}")(x)
        return _norm(x[:, 0], self.epsilon, "norm")


def leaf_array(leaf: str, name: str, source: Source) -> np.ndarray:
    """A scale, a kernel or a bias of a layer that PyTorch calls `name`."""
    if leaf == "scale":
        return source.take(f"{name}.weight")
    return dense_array((leaf,), name, source)


def patch_array(leaf: str, name: str, source: Source) -> np.ndarray:
    """The kernel or the bias of the convolution that makes tokens of patches, which PyTorch calls `name`."""
    if leaf == "bias":
        return source.take(f"{name}.bias")
    return np.moveaxis(source.take(f"{name}.weight"), (0, 1), (3, 2))
