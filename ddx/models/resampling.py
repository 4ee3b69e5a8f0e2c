"""Images of other sizes: means of 2 x 2 pixels, pixels that become 2 x 2, a convolution of these, any enlargement."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.layout import with_layout_constraint

from ddx.models.layers import Linear
from ddx.models.products import ROWS_MAJOR, bilinear, conv, is_known

# Pixels of a batch, with which four convolutions gain on a TPU what adding their kernels' taps takes.
_MANY_DOUBLED = 2048


def doubled(x: jax.Array) -> jax.Array:
    """(B, H, W, C) to (B, 2 H, 2 W, C): each pixel becomes 2 x 2."""
    batch, height, width, channels = x.shape
    repeated = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return repeated.reshape(batch, 2 * height, 2 * width, channels)


def halved(x: jax.Array) -> jax.Array:
    """(B, H, W, C) to (B, H / 2, W / 2, C): means over 2 x 2 pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def enlarge(x: jax.Array, height: int, width: int) -> jax.Array:
    """(B, h, w, C) to (B, height, width, C), bilinearly between pixel centres."""
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[-1]), "linear", antialias=False)


def written_in_pieces(x: jax.Array) -> bool:
    """Whether a TPU convolves these images, (B, H, W, C), doubled, and writes the result as four interleaved images."""
    return is_known(x.shape) and math.prod(x.shape[:3]) >= _MANY_DOUBLED


class ConvOfDoubled(Linear):
    """A 3 x 3 convolution of the doubled image, where it pays without doubling it: 16 products a pixel, not 36.

    Under the kernel of any output pixel lie only 2 x 2 different input pixels, in one of four patterns by the parity of
    row and column, so four 2 x 2 kernels, sums of the one, do. The bias is apart, as a `Conv3x3`'s.
    """

    window = (3, 3)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) to (B, 2 H, 2 W, C), without the bias."""
        tpu = _in_place if written_in_pieces(x) else _by_doubling
        out: jax.Array = jax.lax.platform_dependent(
            x.astype(self.dtype), self.kernel, cpu=_by_parity, tpu=tpu, default=_by_doubling
        )
        return out

    def first(self, x: jax.Array) -> jax.Array:
        """The first pixel of the output, (B, 1, 1, C), without the bias, from the first of the images, or more."""
        return x[:, :1, :1].astype(self.dtype) @ self.kernel[1:, 1:].sum((0, 1)).astype(self.dtype)


def _by_doubling(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv(doubled(x), kernel)


def _by_parity(x: jax.Array, kernel: jax.Array) -> jax.Array:
    (batch, height, width, _), channels = x.shape, kernel.shape[-1]
    output = _outputs(x, kernel)
    rows = [jnp.stack([output(row, 0), output(row, 1)], axis=3) for row in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, channels)


def _outputs(x: jax.Array, kernel: jax.Array) -> Callable[[int, int], jax.Array]:
    """The output pixels (2 i + row, 2 j + column), (B, H, W, C), as a function of row and column."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def output(row: int, column: int) -> jax.Array:
        window = padded[:, row : row + height + 1, column : column + width + 1]
        return conv(window, _add_taps(_add_taps(kernel, 0, row), 1, column), padding="VALID")

    return output


def _add_taps(kernel: jax.Array, axis: int, parity: int) -> jax.Array:
    """Three taps on a doubled axis as two on the axis itself: an even output sees (0, 1 + 2), an odd one (0 + 1, 2)."""
    first, middle, last = jnp.split(kernel, 3, axis)
    return jnp.concatenate([first, middle + last] if parity == 0 else [first + middle, last], axis)


def _in_place(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The four images, each written by its convolution to its place among the others.

    Derivatives are computed as one convolution, whose gradients are faster than those of four.
    """
    return bilinear(_quarters, _as_one, _as_one_of_kernel)(x, kernel)


def _quarters(x: jax.Array, kernel: jax.Array) -> jax.Array:
    (batch, height, width, _), channels = x.shape, kernel.shape[-1]
    output = _outputs(x, kernel)
    out = jax.lax.empty((batch, height, 2, width, 2, channels), x.dtype)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        found = output(row, column)[:, :, None, :, None]
        out = jax.lax.dynamic_update_slice(with_layout_constraint(out, ROWS_MAJOR), found, (0, 0, row, 0, column, 0))
    out = with_layout_constraint(out, ROWS_MAJOR)
    return out.reshape(batch, 2 * height, 2 * width, channels)


def _as_one(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of the image with zeros between its pixels, by the four kernels interleaved."""
    return conv(x, _interleaved(kernel), padding=[(2, 2), (2, 2)], lhs_dilation=(2, 2))


def _as_one_of_kernel(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same, the kernel in the place of the images, and the images, turned round, in the place of the kernel.

    In the transpose of this, the kernel's gradient, no image is turned round. In the transpose of `_as_one` all are,
    which takes a TPU half as long as the product does.
    """
    taps = _interleaved(jax.lax.rev(kernel, (0, 1))).astype(x.dtype)  # it treats both ends of an axis alike
    around = [(2 * size - 3, 2 * size - 3) for size in x.shape[1:3]]
    return jax.lax.conv_general_dilated(
        taps,
        jax.lax.rev(x, (1, 2)),
        (1, 1),
        around,
        rhs_dilation=(2, 2),
        dimension_numbers=("HWCN", "OHWI", "CHWN"),
    )


def _interleaved(kernel: jax.Array) -> jax.Array:
    """The four 2 x 2 kernels as one of 4 x 4, where the taps of each are two apart: on an axis (0, 0 + 1, 1 + 2, 2)."""
    for axis in (0, 1):
        before, after = ([(int(a == axis) * side, int(a == axis) * (1 - side)) for a in range(4)] for side in (1, 0))
        kernel = jnp.pad(kernel, before) + jnp.pad(kernel, after)
    return kernel
