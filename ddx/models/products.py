"""The products of images with kernels, whose gradients take CPUs no longer than the products themselves.

What XLA makes of a kernel's gradient for a CPU takes up to four times as long as the product itself. So on CPUs, how a
product changes with its kernel is written in another form, of whose transpose, the gradient, XLA makes a fast program.
The products themselves are the plain ones everywhere.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero

# Pixels that one gradient of a convolution's kernel sums over: for 8,192 it takes four times as long as four for these.
_AT_ONCE = 2400

_Product = Callable[[jax.Array, jax.Array], jax.Array]


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(..., C) with a kernel of (C, channels) to (..., channels), in the type of x."""
    return _with_tangent_of_kernel(_matmul, _matmul_of_columns)(x, kernel)


def conv(x: jax.Array, kernel: jax.Array, strides: int = 1, padding: Any = "SAME", **dilation: Any) -> jax.Array:
    """The convolution of images, (B, H, W, C), with a kernel of (h, w, C, channels), in the images' type.

    `padding` is a name or the pixels before and after for height and width; `dilation` as `lax.conv_general_dilated`.
    """
    how = {"window_strides": (strides, strides), "padding": padding, **dilation}
    plain = partial(_conv, how, ("NHWC", "HWIO", "NHWC"))
    batch, height, width, _ = x.shape
    if not isinstance(batch, int):  # of a program that `jax.export` makes for any batch
        return plain(x, kernel)
    pixels = height * width // strides**2
    images = max(n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n * pixels <= _AT_ONCE))
    if images == batch:
        return plain(x, kernel)
    return _with_tangent_of_kernel(plain, partial(_conv_in_parts, how, images))(x, kernel)


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

    To compute the gradient, XLA moves the axes of one of its two factors: now those of x. The other is often a sum of
    gradients, which XLA would compute while it moves them, and that takes ten times as long.
    """
    columns = x.reshape(-1, x.shape[-1]).T
    out = jax.lax.dot_general(columns, kernel.astype(x.dtype), (((0,), (0,)), ((), ())))
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


def _conv(how: dict[str, Any], numbers: tuple[str, str, str], x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel.astype(x.dtype), dimension_numbers=numbers, **how)


def _conv_in_parts(how: dict[str, Any], images: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same, so many images at a time.

    Axes are such that the gradient is a convolution of NHWC and HWIO. For one with other axes in a loop, XLA makes a
    program for CPUs that is many times slower.
    """
    batch, *size = x.shape
    parts = x.reshape(batch // images, images, *size).transpose(0, 4, 2, 3, 1)
    kernel = kernel.transpose(2, 0, 1, 3)

    def one(_: None, part: jax.Array) -> tuple[None, jax.Array]:
        return None, _conv(how, ("CHWN", "IHWO", "HWNC"), part, kernel)

    _, out = jax.lax.scan(one, None, parts, unroll=min(4, batch // images))
    out = out.transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, *out.shape[2:])
