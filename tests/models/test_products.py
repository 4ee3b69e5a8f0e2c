"""Products of images with kernels: their derivatives are those of JAX's own products, in whatever form they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx.models import products

# batch, height, width, strides, padding; with 20 pixels at once these take from one image to half the batch
CASES = {
    "same": (6, 4, 4, 1, "SAME"),
    "rows and columns differ": (4, 3, 5, 1, "SAME"),
    "no divisor but 1": (5, 4, 5, 1, "SAME"),
    "an image is too large": (3, 7, 6, 1, "SAME"),
    "stride, padded below": (6, 6, 6, 2, "SAME"),
    "stride, padded around": (6, 6, 4, 2, [(1, 1), (1, 1)]),
    "valid": (8, 5, 3, 1, "VALID"),
}


def jax_conv(x, kernel, strides, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=numbers)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("case", CASES)
def test_a_convolution_in_parts_has_the_derivatives_of_one(monkeypatch, case):
    monkeypatch.setattr(products, "_AT_ONCE", 20)
    batch, height, width, strides, padding = CASES[case]
    x, kernel = normal(0, batch, height, width, 3), normal(1, 3, 3, 3, 4)

    def ours(x, kernel):
        return products.conv(x, kernel, strides, padding)

    def theirs(x, kernel):
        return jax_conv(x, kernel, strides, padding)

    out, pullback = jax.vjp(jax.jit(ours), x, kernel)
    expected, expected_pullback = jax.vjp(jax.jit(theirs), x, kernel)
    np.testing.assert_array_equal(out, expected)
    cotangent = normal(2, *out.shape)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), pullback(cotangent), expected_pullback(cotangent)
    )
    tangents = normal(3, *x.shape), normal(4, *kernel.shape)
    forward = jax.jvp(ours, (x, kernel), tangents)[1]
    np.testing.assert_allclose(forward, jax.jvp(theirs, (x, kernel), tangents)[1], atol=2e-5)
    assert "scan" in str(jax.make_jaxpr(jax.grad(lambda k: ours(x, k).sum()))(kernel))  # it was in parts


def test_the_parts_of_a_gradient_are_added_in_float32(monkeypatch):
    monkeypatch.setattr(products, "_AT_ONCE", 4)
    x = jnp.ones((1024, 2, 2, 1), jnp.bfloat16)
    gradient = jax.grad(lambda kernel: products.conv(x, kernel).astype(jnp.float32).sum())(jnp.ones((3, 3, 1, 1)))
    under = np.array([1.0, 2.0, 1.0])  # positions of the kernel's rows in an image of two: sums in bfloat16 end at 256
    np.testing.assert_array_equal(gradient[..., 0, 0], 1024 * np.outer(under, under))


@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (6, 5), (5,)])
def test_a_product_has_the_derivatives_of_a_matrix_product(shape):
    x, kernel = normal(0, *shape), normal(1, 5, 2)
    out, pullback = jax.vjp(products.product, x, kernel)
    expected, expected_pullback = jax.vjp(jnp.matmul, x, kernel)
    np.testing.assert_array_equal(out, expected)
    cotangent = normal(2, *out.shape)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), pullback(cotangent), expected_pullback(cotangent)
    )


def test_gradients_of_single_images_are_those_of_a_loop_over_them(monkeypatch):
    monkeypatch.setattr(products, "_AT_ONCE", 20)
    images, kernel = normal(0, 3, 2, 4, 4, 3), normal(1, 3, 3, 3, 4)
    gradient = jax.grad(lambda kernel, x: jnp.square(products.conv(x, kernel)).sum())
    together = jax.vmap(gradient, (None, 0))(kernel, images)
    np.testing.assert_allclose(together, [gradient(kernel, x) for x in images], rtol=1e-5, atol=1e-5)


def test_what_has_no_tangent_is_not_multiplied(monkeypatch):
    monkeypatch.setattr(products, "_AT_ONCE", 20)
    x, kernel = normal(0, 6, 4, 4, 3), normal(1, 3, 3, 3, 4)
    of_image = jax.make_jaxpr(lambda x: jax.jvp(lambda x: products.conv(x, kernel), (x,), (x,)))(x)
    assert str(of_image).count("conv_general_dilated[") == 2


def test_other_devices_take_the_plain_gradient(monkeypatch):
    monkeypatch.setattr(products, "_AT_ONCE", 20)
    x, kernel = normal(0, 6, 4, 4, 3), normal(1, 3, 3, 3, 4)

    def text(conv):
        traced = jax.jit(jax.grad(lambda kernel: jnp.square(conv(x, kernel)).sum())).trace(kernel)
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    ours, theirs = text(products.conv), text(lambda x, kernel: jax_conv(x, kernel, 1, "SAME"))
    assert "stablehlo.while" not in ours
    assert ours.count("stablehlo.convolution") == theirs.count("stablehlo.convolution") == 2
