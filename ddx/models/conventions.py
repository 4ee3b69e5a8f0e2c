"""What the original codes of DDPM, Improved DDPM and DiT each do in their own way, whatever a network's size."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax

Initializer = Callable[..., jax.Array]


class Conventions(NamedTuple):
    """The choices of one code, which always go together.

    Attributes:
      epsilon: added to the variance in a normalisation.
      cosine_first: the order, and with it the frequencies, of the time embedding.
      down_padding: of the convolution of stride 2.
      kernel: initial weights of a layer.
      bias: initial bias of a layer, a function of the layer's fan-in, which a bias's own shape does not tell.
      last_kernel: initial weights of the last layer of a block or of the network; its bias is zero.
    """

    epsilon: float
    cosine_first: bool
    down_padding: str | int
    kernel: Initializer
    bias: Callable[[int], Initializer]
    last_kernel: Initializer

    def initial(self, fan_in: int, last: bool = False) -> dict[str, Any]:
        """The arguments of a Flax layer that say how its parameters start."""
        if last:
            return {"kernel_init": self.last_kernel, "bias_init": nn.initializers.zeros_init()}
        return {"kernel_init": self.kernel, "bias_init": self.bias(fan_in)}


def _zero_bias(fan_in: int) -> Initializer:
    return nn.initializers.zeros_init()


def _uniform_bias(fan_in: int) -> Initializer:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init


DDPM = Conventions(
    epsilon=1e-6,
    cosine_first=False,
    down_padding="SAME",  # below and to the right, as TensorFlow does
    kernel=nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
    bias=_zero_bias,
    # A block starts as the identity: what it adds to its input is nearly, and in DDPM's code not exactly, zero.
    last_kernel=nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform"),
)

# PyTorch's own: weights and biases are uniform within 1 / sqrt(fan_in), and pixels are padded on all sides.
IDDPM = Conventions(
    epsilon=1e-5,
    cosine_first=True,
    down_padding=1,
    kernel=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    bias=_uniform_bias,
    last_kernel=nn.initializers.zeros_init(),
)

# Of a transformer, which pads nothing: DDPM's initial weights, but each block starts as exactly the identity.
DIT = DDPM._replace(cosine_first=True, last_kernel=nn.initializers.zeros_init())

FAMILIES: Mapping[str, Conventions] = MappingProxyType({"ddpm": DDPM, "iddpm": IDDPM})
