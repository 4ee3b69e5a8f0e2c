"""A small classifier of the digits that ship with ddx, for grey and tiny images, which networks of ImageNet know badly.

`ddx.features.training` trains it; its weights ship too. Features are the layer before the logits.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddx.features.layers import dense
from ddx.features.plug import Keys, Plug, Source
from ddx.features.resize import resize

_SIDE = 8
CLASSES = 10
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of ITU-R BT.601, as Pillow makes grey


class Classifier(nn.Module):
    """The network: three convolutions at 8 x 8, 4 x 4 and 4 x 4 pixels, and a layer of 64 features."""

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        """(B, 8, 8, 1) in [-1, 1] to features (B, 64) and logits (B, 10)."""
        for number, (channels, strides) in enumerate(((32, 1), (48, 2), (64, 1))):
            x = nn.Conv(channels, (3, 3), strides, precision=jax.lax.Precision.HIGHEST, name=f"conv_{number}")(x)
            x = nn.swish(x)
        x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        features = nn.swish(dense(self, x, 64, "hidden"))
        return {"features": features, "logits": dense(self, features, CLASSES, "classes")}


def preprocess(images: jax.Array, protocol: str) -> jax.Array:
    """To grey images of 8 x 8 pixels, antialiased; protocol is "grey8"."""
    grey = jnp.einsum("bhwc,c->bhw", images, _LUMA, precision=jax.lax.Precision.HIGHEST)[..., None]
    return resize(grey, _SIDE, "linear_antialiased") / 127.5 - 1


def name_of(path: Keys) -> str:
    """The name of the tensor that has the array at a path, in the same shape."""
    return "/".join(path)


def array(path: Keys, source: Source) -> np.ndarray:
    """The array at a path, from a file that `ddx.features.training` wrote."""
    return source.take(name_of(path))


PLUG = Plug(Classifier(), preprocess, array, _SIDE, channels=1)
