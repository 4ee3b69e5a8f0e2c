"""The products of images with kernels, whose gradients take CPUs about as long as the products themselves.

What XLA makes of a kernel's gradient for a CPU often takes four times as long as the product itself. So on CPUs, how a
product changes with its kernel is written in another form, of whose transpose, the gradient, XLA makes a fast program.
The products themselves are the plain ones everywhere.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

# Pixels over which a gradient of a convolution's kernel sums at once, about. A sum over 8,192 takes four times as long
# as four sums over 2,048. Images of more than twice as many pixels do not gain.
_AT_ONCE = 3072
_MOST_PARTS = 64  # each is compiled
_WIDE = 32  # channels of the output; with fewer, the plain gradient is faster

_Product = Callable[[jax.Array, jax.Array], jax.Array]


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(..., C) with a kernel of (C, channels) to (..., channels), in the type of x."""
    if x.dtype != jnp.float32:  # in other types the plain gradient is faster
        return _matmul(x, kernel)
    return _with_tangent_of_kernel(_matmul, _matmul_of_columns)(x, kernel)


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
    plain = partial(_conv, strides, padding, lhs_dilation)
    images = _images_at_once(x.shape, strides, kernel.shape[-1])
    if images is None:
        return plain(x, kernel)
    return _with_tangent_of_kernel(plain, partial(_in_parts, plain, images))(x, kernel)


def _images_at_once(shape: tuple[Any, ...], strides: int, channels: int) -> int | None:
    """How many images the gradient of a kernel sums over at once on a CPU; None for all."""
    batch, height, width, _ = shape
    if not all(isinstance(size, int) for size in shape):  # of a program that `jax.export` makes for any batch
        return None
    pixels = max(1, height * width // strides**2)
    images = max(1, _AT_ONCE // pixels, -(-batch // _MOST_PARTS))
    return None if images >= batch or pixels > 2 * _AT_ONCE or channels < _WIDE else images


def _with_tangent_of_kernel(plain: _Product, on_cpu: _Product) -> _Product:
    """A product, linear in images and in a kernel, which on CPUs is `on_cpu` for a tangent of the kernel."""

    @jax.custom_jvp
    def made(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return plain(x, kernel)

    def jvp(primals: Any, tangents: Any) -> Any:
        (x, kernel), (of_x, of_kernel) = primals, tangents
        terms = []
        if not isinstance(of_x, SymbolicZero):
            terms.append(plain(of_x, kernel))
        if not isinstance(of_kernel, SymbolicZero):
            terms.append(jax.lax.platform_dependent(x, of_kernel, cpu=on_cpu, default=plain))
        return plain(x, kernel), sum(terms[1:], terms[0])

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


def _in_parts(plain: _Product, images: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same, so many images at a time: the gradient is a sum over the parts, in float32 at least.

    It is not a loop: in loops, XLA for CPUs does not arrange the axes of convolutions, and makes slow programs of them.
    """
    kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    parts = [plain(x[start : start + images], kernel) for start in range(0, x.shape[0], images)]
    return jnp.concatenate(parts)
