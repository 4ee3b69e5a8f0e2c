"""The layer that convolutional feature networks consist of, and where PyTorch's files keep it."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np

from ddx.features.plug import Keys, Source

Padding = str | int | Sequence[tuple[int, int]]


class ConvNorm(nn.Module):
    """A convolution without a bias, batch normalisation by fixed statistics, and an activation, in full float32.

    The statistics are in `scale` and `bias`: y = activation(conv(x) scale + bias), see `conv_norm`. The precision is
    asked for, as a TPU or a GPU would round what it multiplies.

    Attributes:
      channels: of the output.
      kernel: height and width.
      strides: of both axes.
      padding: as `nn.Conv` takes it.
      activation: None for none.
    """

    channels: int
    kernel: tuple[int, int]
    strides: int = 1
    padding: Padding = "SAME"
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) to (B, H', W', channels)."""
        shape = (*self.kernel, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        padding = [(self.padding,) * 2] * 2 if isinstance(self.padding, int) else self.padding
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.strides, self.strides),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        x = scaled(self, x)
        return x if self.activation is None else self.activation(x)


def scaled(module: nn.Module, x: jax.Array) -> jax.Array:
    """What batch normalisation by fixed statistics makes of x, with the `scale` and `bias` of the module that calls."""
    scale = module.param("scale", nn.initializers.ones, (x.shape[-1],))
    bias = module.param("bias", nn.initializers.zeros, (x.shape[-1],))
    return x * scale + bias


def dense(module: nn.Module, x: jax.Array, channels: int, name: str, bias: bool = True) -> jax.Array:
    """A dense layer in full float32, of the module that calls: (..., C) to (..., channels)."""
    return nn.Dense(channels, use_bias=bias, precision=jax.lax.Precision.HIGHEST, name=name, parent=module)(x)


def conv_norm(leaf: str, conv: str, norm: str, epsilon: float, source: Source) -> np.ndarray:
    """The kernel, scale or bias of a `ConvNorm` from tensors in PyTorch's order: (outputs, inputs, height, width).

    Of a batch normalisation, scale = weight / sqrt(variance + epsilon) and bias = bias - mean scale, in float64.
    """
    if leaf == "kernel":
        return np.moveaxis(source.take(f"{conv}.weight"), (0, 1), (3, 2))
    weight, bias, mean, variance = (
        source.take(f"{norm}.{name}").astype(np.float64) for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + epsilon)
    return scale if leaf == "scale" else bias - mean * scale


def dense_array(path: Keys, name: str, source: Source) -> np.ndarray:
    """The kernel or the bias of a dense layer, of PyTorch's weight (outputs, inputs) and bias."""
    return source.take(f"{name}.weight").T if path[-1] == "kernel" else source.take(f"{name}.bias")
