"""Ways to keep an estimate of x_0 in the range of the data."""

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from ddx.diffusion.arrays import Coordinates, Images
from ddx.diffusion.forward.process import Process


class DynamicThreshold(NamedTuple):
    """Dynamic thresholding (Saharia et al. 2022, section 2.3): x_0 is clipped to [-s, s] and divided by s.

    For each image s = max(1, the percentile of |x_0| over its pixels and channels). An estimate that leaves the range
    of the data, as guidance makes it, so keeps its contrasts, which plain clipping saturates. Data of the range [0, 1]
    are seen as 2 x_0 - 1.

    Attributes:
      percentile: above 0 and at most 100; at 100 nothing is clipped, only scaled.
    """

    percentile: float = 99.5


Clip: TypeAlias = bool | str | DynamicThreshold
"""How to limit x_0: False, not at all; True, clip it and compute eps again; "x0", clip it and keep the network's eps; a
`DynamicThreshold`, threshold it and compute eps again."""


def check_clip(clip: Clip) -> None:
    """Refuse, with a ValueError, what is no `Clip`."""
    if isinstance(clip, DynamicThreshold):
        number = isinstance(clip.percentile, int | float | np.number)
        if not number or not 0 < clip.percentile <= 100:
            raise ValueError(
                f"the percentile {clip.percentile!r} of a DynamicThreshold must be above 0 and at most 100"
            )
    elif not (isinstance(clip, bool | np.bool_) or clip == "x0"):
        raise ValueError(f"clip={clip!r} must be True, False, 'x0' or a ddx.DynamicThreshold")


def limited(process: Process, u_0: Coordinates, clip: Clip) -> Coordinates:
    """An estimate of x_0 in coordinates, limited in pixels."""
    basis, low = process.basis, process.low
    x_0 = basis.synthesis(u_0)
    if isinstance(clip, DynamicThreshold):
        return basis.analysis(_thresholded(x_0, clip.percentile, low))
    return basis.analysis(jnp.clip(x_0, low, 1.0))


def _thresholded(x_0: Images, percentile: float, low: float) -> Images:
    middle, half = (1.0 + low) / 2.0, (1.0 - low) / 2.0
    x = (x_0 - middle) / half
    s = jnp.maximum(1.0, jnp.percentile(jnp.abs(x), percentile, (-3, -2, -1), keepdims=True))
    return jnp.clip(x, -s, s) / s * half + middle
