"""The Inception of FID: Inception-v3 as in TensorFlow's graph of 2015-12-05 (Szegedy et al. 2016; Heusel et al. 2017).

It is not torchvision's Inception-v3: it has 1,008 classes; averages leave out what is padded; the last block takes the
maximum where the block before it takes an average; and the 7 x 7 blocks have 128, 160, 160 and 192 channels. Features
are the mean over space of the last block, pool_3.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddx.features.layers import ConvNorm, conv_norm, dense, dense_array
from ddx.features.plug import Keys, Plug, Source
from ddx.features.resize import resize

_SIDE = 299
_EPSILON = 1e-3


def _conv(
    name: str, channels: int, kernel: int | tuple[int, int] = 1, strides: int = 1, padding: str = "SAME"
) -> ConvNorm:
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    return ConvNorm(channels, kernel, strides, padding, name=name)


def _max_pool(x: jax.Array, strides: int = 2, padding: str = "VALID") -> jax.Array:
    return nn.max_pool(x, (3, 3), (strides, strides), padding)


def _mean_pool(x: jax.Array) -> jax.Array:
    """The mean of the 3 x 3 pixels around each, as far as there are any."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _joined(*parts: jax.Array) -> jax.Array:
    return jnp.concatenate(parts, axis=-1)


class _BlockA(nn.Module):
    """35 x 35 pixels: 1 x 1, 5 x 5 and two 3 x 3."""

    pooled: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b1 = _conv("branch1x1", 64)(x)
        b5 = _conv("branch5x5_2", 64, 5)(_conv("branch5x5_1", 48)(x))
        b3 = _conv("branch3x3dbl_2", 96, 3)(_conv("branch3x3dbl_1", 64)(x))
        b3 = _conv("branch3x3dbl_3", 96, 3)(b3)
        return _joined(b1, b5, b3, _conv("branch_pool", self.pooled)(_mean_pool(x)))


class _BlockB(nn.Module):
    """35 x 35 to 17 x 17 pixels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b3 = _conv("branch3x3", 384, 3, 2, "VALID")(x)
        bd = _conv("branch3x3dbl_2", 96, 3)(_conv("branch3x3dbl_1", 64)(x))
        bd = _conv("branch3x3dbl_3", 96, 3, 2, "VALID")(bd)
        return _joined(b3, bd, _max_pool(x))


class _BlockC(nn.Module):
    """17 x 17 pixels: 7 x 7 as rows and columns."""

    inner: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, row, column = self.inner, (1, 7), (7, 1)
        b1 = _conv("branch1x1", 192)(x)
        b7 = _conv("branch7x7_2", c, row)(_conv("branch7x7_1", c)(x))
        b7 = _conv("branch7x7_3", 192, column)(b7)
        bd = _conv("branch7x7dbl_2", c, column)(_conv("branch7x7dbl_1", c)(x))
        bd = _conv("branch7x7dbl_4", c, column)(_conv("branch7x7dbl_3", c, row)(bd))
        bd = _conv("branch7x7dbl_5", 192, row)(bd)
        return _joined(b1, b7, bd, _conv("branch_pool", 192)(_mean_pool(x)))


class _BlockD(nn.Module):
    """17 x 17 to 8 x 8 pixels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b3 = _conv("branch3x3_2", 320, 3, 2, "VALID")(_conv("branch3x3_1", 192)(x))
        b7 = _conv("branch7x7x3_2", 192, (1, 7))(_conv("branch7x7x3_1", 192)(x))
        b7 = _conv("branch7x7x3_3", 192, (7, 1))(b7)
        b7 = _conv("branch7x7x3_4", 192, 3, 2, "VALID")(b7)
        return _joined(b3, b7, _max_pool(x))


class _BlockE(nn.Module):
    """8 x 8 pixels: 3 x 3 as rows beside columns; the last one takes the maximum of its neighbours, not the mean."""

    is_last: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row, column = (1, 3), (3, 1)
        b1 = _conv("branch1x1", 320)(x)
        b3 = _conv("branch3x3_1", 384)(x)
        b3 = _joined(_conv("branch3x3_2a", 384, row)(b3), _conv("branch3x3_2b", 384, column)(b3))
        bd = _conv("branch3x3dbl_2", 384, 3)(_conv("branch3x3dbl_1", 448)(x))
        bd = _joined(_conv("branch3x3dbl_3a", 384, row)(bd), _conv("branch3x3dbl_3b", 384, column)(bd))
        pooled = _max_pool(x, 1, "SAME") if self.is_last else _mean_pool(x)
        return _joined(b1, b3, bd, _conv("branch_pool", 192)(pooled))


class Inception(nn.Module):
    """The network."""

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """(B, 299, 299, 3) about in [-1, 1] to features (B, 2048) and logits (B, 1008).

        "logits_unbiased" are those without their bias: the Inception Score of ADM's evaluator and of torch-fidelity is
        made of them.
        """
        x = _conv("Conv2d_1a_3x3", 32, 3, 2, "VALID")(x)
        x = _conv("Conv2d_2a_3x3", 32, 3, padding="VALID")(x)
        x = _max_pool(_conv("Conv2d_2b_3x3", 64, 3)(x))
        x = _conv("Conv2d_3b_1x1", 80)(x)
        x = _max_pool(_conv("Conv2d_4a_3x3", 192, 3, padding="VALID")(x))
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = _BlockA(pooled, name=name)(x)
        x = _BlockB(name="Mixed_6a")(x)
        for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = _BlockC(inner, name=name)(x)
        x = _BlockD(name="Mixed_7a")(x)
        x = _BlockE(False, name="Mixed_7b")(x)
        x = _BlockE(True, name="Mixed_7c")(x)
        features = x.mean((1, 2))
        unbiased = dense(self, features, 1008, "fc", bias=False)
        bias = self.param("fc_bias", nn.initializers.zeros, (1008,))
        return {"features": features, "logits": unbiased + bias, "logits_unbiased": unbiased}


def preprocess(images: jax.Array, protocol: str) -> jax.Array:
    """To 299 x 299 pixels.

    "tf1" as the graph itself resizes and scales, of which most published scores are: (x - 128) / 128.
    "torch" as pytorch-fid does: pixels at their centres, and 2 x / 255 - 1.
    """
    if protocol == "tf1":
        return (resize(images, _SIDE, "tf1") - 128) / 128
    return 2 * (resize(images, _SIDE, "linear") / 255) - 1


def array(path: Keys, source: Source) -> np.ndarray:
    """The array at a path, from tensors named as in pytorch-fid's file."""
    if path[0] in ("fc", "fc_bias"):
        return dense_array(path, "fc", source)
    name = ".".join(path[:-1])
    return conv_norm(path[-1], f"{name}.conv", f"{name}.bn", _EPSILON, source)


PLUG = Plug(Inception(), preprocess, array, _SIDE, without=r".*\.num_batches_tracked")
