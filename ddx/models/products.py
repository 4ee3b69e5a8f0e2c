"""The products of images with kernels, whose gradients take about as long as the products themselves.

What XLA makes of a kernel's gradient for a CPU often takes four times as long as the product itself. On a TPU, the
images' gradient of a convolution of stride 2 multiplies zeros: four products for each that counts. So there, how a
product changes with its kernel or its images is written in another form, of whose transpose, the gradient, XLA makes a
fast program. The products themselves are the plain ones everywhere.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental.layout import Layout, with_layout_constraint

# Pixels over which a gradient of a convolution's kernel sums at once, about. A sum over 8,192 takes four times as long
# as four sums over 2,048. Images of more than twice as many pixels do not gain.
_AT_ONCE = 3072
_MOST_PARTS = 64  # each is compiled
_WIDE = 32  # channels of the output; with fewer, the plain gradient is faster

_MANY_HALVED = 1024  # pixels of a batch, with which their gradient by parity pays on a TPU

_TILE = 8  # with at least so many images, a TPU's compiler has the batch next to the channels

ROWS_MAJOR = Layout(major_to_minor=(1, 2, 3, 4, 0, 5))
"""Of (B, H, 2, W, 2, C): a TPU's compiler writes and reads a quarter of the pixels in its place only with this."""

_ROWS_OF_BATCH = Layout(major_to_minor=(1, 2, 0, 3))  # of (B, H, W, C)

WITH_ONES = (jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT)
"""The precision of a product with ones, which are exact in any: float32 in three passes of a TPU instead of six."""

Product = Callable[[jax.Array, jax.Array], jax.Array]


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(..., C) with a kernel of (C, channels) to (..., channels), in the type of x."""
    if x.dtype != jnp.float32:  # in other types the plain gradient is faster
        return _matmul(x, kernel)
    return bilinear(_matmul, _matmul, _on("cpu", _matmul_of_columns, _matmul))(x, kernel)


def conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: int = 1,
    padding: Any = "SAME",
    lhs_dilation: tuple[int, int] = (1, 1),
) -> jax.Array:
    """The convolution of images, (B, H, W, C), with a kernel of (h, w, C, channels), in the images' type.

    `padding` is a name or the pixels before and after for height and width; `lhs_dilation` is one more than the zeros
    between the images' pixels, for height and width.
    """
    plain: Product = partial(_conv, strides, padding, lhs_dilation)
    for_images = for_kernel = plain
    is_halving = kernel.shape[:2] == (3, 3) and strides == 2 and lhs_dilation == (1, 1)
    if is_halving and padding in ("SAME", [(1, 1), (1, 1)]) and _pays_by_parity(x.shape):
        for_images = _on("tpu", partial(_by_parity, padding), plain)
    images = _images_at_once(x.shape, strides, kernel.shape[-1])
    if images is not None:
        for_kernel = _on("cpu", partial(_in_parts, plain, images), plain)
    return bilinear(plain, for_images, for_kernel)(x, kernel)


def apart(x: jax.Array) -> jax.Array:
    """Images that a 1 x 1 convolution made, (B, H, W, C), before they are added to those that a 3 x 3 convolution made.

    A TPU's compiler has the smaller convolution add, for which it has to wait for memory. What is computed apart is
    added by the other, in the shadow of its products.
    """
    if not is_known(x.shape) or x.shape[0] < _TILE:
        return x

    def tpu(x: jax.Array) -> jax.Array:
        return jax.lax.optimization_barrier(with_layout_constraint(x, _ROWS_OF_BATCH))

    out: jax.Array = jax.lax.platform_dependent(x, tpu=tpu, default=lambda x: x)
    return out


def is_known(shape: tuple[Any, ...]) -> bool:
    """Whether all sides are numbers, which they are not in a program that `jax.export` makes for any batch."""
    return all(isinstance(size, int) for size in shape)


def _pays_by_parity(shape: tuple[Any, ...]) -> bool:
    """Whether images are of even height and width, and have many pixels together."""
    batch, height, width, _ = shape
    if not is_known(shape):
        return False
    return height % 2 == width % 2 == 0 and math.prod((batch, height, width)) >= _MANY_HALVED


def _images_at_once(shape: tuple[Any, ...], strides: int, channels: int) -> int | None:
    """How many images the gradient of a kernel sums over at once on a CPU; None for all."""
    batch, height, width, _ = shape
    if not is_known(shape):
        return None
    pixels = max(1, height * width // strides**2)
    images = max(1, _AT_ONCE // pixels, -(-batch // _MOST_PARTS))
    return None if images >= batch or pixels > 2 * _AT_ONCE or channels < _WIDE else images


def _on(platform: str, form: Product, default: Product) -> Product:
    """A product that has another form on a platform."""

    def made(x: jax.Array, kernel: jax.Array) -> jax.Array:
        out: jax.Array = jax.lax.platform_dependent(x, kernel, **{platform: form}, default=default)
        return out

    return made


def bilinear(plain: Product, for_images: Product, for_kernel: Product) -> Product:
    """A product, linear in images and in a kernel, with forms for a tangent of the images and for one of the kernel."""
    if for_images is for_kernel is plain:
        return plain

    @jax.custom_jvp
    def made(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return plain(x, kernel)

    def jvp(primals: Any, tangents: Any) -> Any:
        (x, kernel), (tangent_of_x, tangent_of_kernel) = primals, tangents
        terms = []
        if not isinstance(tangent_of_x, SymbolicZero):
            terms.append(for_images(tangent_of_x, kernel))
        if not isinstance(tangent_of_kernel, SymbolicZero):
            terms.append(for_kernel(x, tangent_of_kernel))
        return made(x, kernel), sum(terms[1:], terms[0])

    made.defjvp(jvp, symbolic_zeros=True)
    return made


def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel.astype(x.dtype)


def _matmul_of_columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same with pixels as columns.

    To compute the gradient, XLA moves the axes of one of its two factors, which in this form is x. The other is often a
    sum of gradients, which XLA would compute while it moves them, and that takes ten times as long.
    """
    columns = x.reshape(-1, x.shape[-1]).T
    out = jax.lax.dot_general(columns, kernel.astype(x.dtype), (((0,), (0,)), ((), ())))
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


def _conv(strides: int, padding: Any, lhs_dilation: tuple[int, int], x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (strides, strides),
        padding,
        lhs_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _by_parity(padding: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of stride 2 as a sum over the images' even and odd rows and columns.

    The images' gradient is then four convolutions, with nine products for every four pixels. As one convolution, of
    images with zeros between their pixels, it has 36.
    """
    batch, height, width, channels = x.shape
    before = (0, 0) if padding == "SAME" else tuple(first for first, _ in padding)
    quarters = with_layout_constraint(x.reshape(batch, height // 2, 2, width // 2, 2, channels), ROWS_MAJOR)

    def taps(axis: int, parity: int) -> tuple[slice, tuple[int, int]]:
        """Which taps see the rows, or columns, of a parity, and the padding of these."""
        outside = before[axis]
        return (slice(0, 3, 2), (outside, 1 - outside)) if parity == outside else (slice(1, 2), (0, 0))

    terms = []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        (rows, around_rows), (columns, around_columns) = taps(0, row), taps(1, column)
        around = [around_rows, around_columns]
        terms.append(_conv(1, around, (1, 1), quarters[:, :, row, :, column], kernel[rows, columns]))
    return sum(terms[1:], terms[0])


def _in_parts(plain: Product, images: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same, so many images at a time: the gradient is a sum over the parts, in float32 at least.

    It is not a loop: in loops, XLA for CPUs does not arrange the axes of convolutions, and makes slow programs of them.
    """
    kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    parts = [plain(x[start : start + images], kernel) for start in range(0, x.shape[0], images)]
    return jnp.concatenate(parts)
