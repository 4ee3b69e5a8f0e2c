"""Products of images with kernels have the derivatives of JAX's own products, whichever form computes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx.models import products

# batch, height, width, strides, padding, and the images at a time where 40 pixels are
CASES = {
    "same": (6, 4, 4, 1, "SAME", 2),
    "rows and columns differ": (4, 3, 5, 1, "SAME", 2),
    "the last part is smaller": (5, 4, 5, 1, "SAME", 2),
    "an image is too large": (3, 7, 6, 1, "SAME", 1),
    "stride, padded below": (6, 6, 6, 2, "SAME", 4),
    "stride, padded around": (11, 6, 4, 2, [(1, 1), (1, 1)], 6),
    "valid": (8, 5, 3, 1, "VALID", 2),
    "a batch of one": (1, 9, 7, 1, "SAME", None),
    "no images": (0, 4, 4, 1, "SAME", None),
    "images without end": (3, 9, 9, 1, "SAME", None),
}


@pytest.fixture
def few(monkeypatch):
    """Parts as small as the images of these tests."""
    monkeypatch.setattr(products, "_AT_ONCE", 40)
    monkeypatch.setattr(products, "_WIDE", 4)


def jax_conv(x, kernel, strides, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=numbers)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("case", CASES)
def test_a_convolution_in_parts_has_the_derivatives_of_one(few, case):
    batch, height, width, strides, padding, images = CASES[case]
    x, kernel = normal(0, batch, height, width, 3), normal(1, 3, 3, 3, 4)

    def ours(x, kernel):
        return products.conv(x, kernel, strides, padding)

    def theirs(x, kernel):
        return jax_conv(x, kernel, strides, padding)

    assert products._images_at_once(x.shape, strides, 4) == images
    out, pullback = jax.vjp(jax.jit(ours), x, kernel)
    expected, expected_pullback = jax.vjp(jax.jit(theirs), x, kernel)
    np.testing.assert_array_equal(out, expected)
    cotangent = normal(2, *out.shape)
    for found, right in zip(pullback(cotangent), expected_pullback(cotangent), strict=True):
        np.testing.assert_allclose(found, right, atol=2e-5)
    tangents = normal(3, *x.shape), normal(4, *kernel.shape)
    forward = jax.jvp(ours, (x, kernel), tangents)[1]
    np.testing.assert_allclose(forward, jax.jvp(theirs, (x, kernel), tangents)[1], atol=2e-5)


@pytest.mark.parametrize("padding", ["SAME", [(1, 1), (1, 1)]])
@pytest.mark.parametrize("size", [(2, 2), (4, 6)])
def test_a_convolution_of_stride_2_by_parity_has_the_derivatives_of_one(padding, size):
    x, kernel = normal(0, 2, *size, 3), normal(1, 3, 3, 3, 4)

    def theirs(x, kernel):
        return jax_conv(x, kernel, 2, padding)

    by_parity = functools.partial(products._by_parity, padding)
    ours = products.bilinear(theirs, by_parity, theirs)
    np.testing.assert_allclose(by_parity(x, kernel), theirs(x, kernel), atol=1e-5)
    out, pullback = jax.vjp(ours, x, kernel)
    cotangent = normal(2, *out.shape)
    expected = jax.vjp(theirs, x, kernel)[1](cotangent)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), pullback(cotangent), expected)
    squares = [jax.hessian(lambda x, f=f: jnp.sum(jnp.square(f(x, kernel))))(x) for f in (ours, theirs)]
    np.testing.assert_allclose(*squares, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "channels", "images"),
    [
        ((8, 32, 32, 128), 128, 3),
        ((8, 16, 16, 256), 256, None),
        ((32, 16, 16, 256), 256, 12),
        ((1000, 32, 32, 128), 128, 16),  # or there would be hundreds of parts to compile
        ((8, 32, 32, 128), 3, None),
        ((4, 128, 128, 128), 128, None),
        ((2, 64, 64, 128), 128, 1),
    ],
)
def test_parts_are_as_large_as_a_cpu_is_fast_with(shape, channels, images):
    assert products._images_at_once(shape, 1, channels) == images


def test_parts_are_no_loop_of_which_floating_point_operations_are_counted_once(few):
    x, kernel = normal(0, 6, 4, 4, 3), normal(1, 3, 3, 3, 4)
    lowered = jax.jit(jax.grad(lambda kernel: jnp.square(products.conv(x, kernel)).sum())).lower(kernel)
    assert lowered.as_text().count("stablehlo.convolution") == 1 + 3
    plain = jax.jit(jax.grad(lambda kernel: jnp.square(jax_conv(x, kernel, 1, "SAME")).sum())).lower(kernel)
    assert lowered.cost_analysis()["flops"] == pytest.approx(plain.cost_analysis()["flops"], rel=0.02)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_parts_of_a_gradient_are_added_in_float32(monkeypatch, dtype):
    monkeypatch.setattr(products, "_AT_ONCE", 4)
    monkeypatch.setattr(products, "_MOST_PARTS", 1024)
    monkeypatch.setattr(products, "_WIDE", 1)
    x = jnp.ones((1024, 2, 2, 1), jnp.bfloat16)
    gradient = jax.grad(lambda kernel: products.conv(x, kernel).astype(jnp.float32).sum())(
        jnp.ones((3, 3, 1, 1), dtype)
    )
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


def test_gradients_of_single_images_are_those_of_a_loop_over_them(few):
    images, kernel = normal(0, 3, 5, 4, 4, 3), normal(1, 3, 3, 3, 4)
    gradient = jax.grad(lambda kernel, x: jnp.square(products.conv(x, kernel)).sum())
    together = jax.vmap(gradient, (None, 0))(kernel, images)
    np.testing.assert_allclose(together, [gradient(kernel, x) for x in images], rtol=1e-5, atol=1e-5)


def test_what_has_no_tangent_is_not_multiplied(few):
    x, kernel = normal(0, 6, 4, 4, 3), normal(1, 3, 3, 3, 4)
    of_image = jax.make_jaxpr(lambda x: jax.jvp(lambda x: products.conv(x, kernel), (x,), (x,)))(x)
    assert str(of_image).count("conv_general_dilated[") == 2


def test_on_a_tpu_the_gradient_of_stride_2_is_four_convolutions_without_zeros_between_pixels():
    kernel = normal(1, 3, 3, 3, 4)

    def convolutions(*shape):
        x = normal(0, *shape)
        gradient = jax.grad(lambda x: jnp.square(products.conv(x, kernel, 2)).sum())
        text = jax.jit(gradient).trace(x).lower(lowering_platforms=("tpu",)).as_text()
        return text.count("stablehlo.convolution"), text.count("lhs_dilate = [2, 2]")

    assert convolutions(16, 8, 8, 3) == (1 + 4, 0)
    assert convolutions(15, 8, 8, 3) == convolutions(16, 9, 8, 3) == (1 + 1, 1)


@pytest.mark.parametrize(
    ("size", "padding", "dilation"),
    [
        (5, "SAME", (1, 1)),
        (2, "SAME", (1, 1)),
        (3, "VALID", (1, 1)),
        (3, [(1, 1), (1, 1)], (2, 2)),
        (3, [(2, 0), (1, 1)], (1, 1)),
    ],
)
def test_other_convolutions_of_stride_2_are_not_taken_apart(size, padding, dilation):
    x, kernel = normal(0, 4, 16, 16, 3), normal(1, size, size, 3, 4)
    gradient = jax.grad(lambda x: jnp.square(products.conv(x, kernel, 2, padding, dilation)).sum())
    text = jax.jit(gradient).trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("stablehlo.convolution") == 1 + 1


def test_on_a_tpu_many_images_of_a_1_x_1_convolution_are_computed_apart():
    def is_apart(batch, platform):
        text = jax.jit(products.apart).trace(normal(0, batch, 2, 2, 3)).lower(lowering_platforms=(platform,)).as_text()
        found = ["optimization_barrier" in text, "LayoutConstraint" in text]
        assert len(set(found)) == 1
        return found[0]

    assert is_apart(8, "tpu") and is_apart(12, "tpu")
    assert not is_apart(7, "tpu") and not is_apart(8, "cpu") and not is_apart(8, "cuda")


def test_what_is_computed_apart_is_itself_in_all_derivatives_and_maps():
    x = normal(0, 8, 2, 2, 3)
    of_it, plain = (lambda x, f=f: jnp.sin(f(x * x)).sum() for f in (products.apart, lambda x: x))
    np.testing.assert_array_equal(jax.hessian(of_it)(x), jax.hessian(plain)(x))
    np.testing.assert_array_equal(jax.vmap(jax.grad(of_it))(x[None])[0], jax.grad(plain)(x))


def test_other_devices_take_the_plain_gradient(few):
    x, kernel = normal(0, 6, 4, 4, 3), normal(1, 3, 3, 3, 4)

    def text(conv):
        traced = jax.jit(jax.grad(lambda kernel: jnp.square(conv(x, kernel)).sum())).trace(kernel)
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    ours, theirs = text(products.conv), text(lambda x, kernel: jax_conv(x, kernel, 1, "SAME"))
    assert "stablehlo.while" not in ours
    assert ours.count("stablehlo.convolution") == theirs.count("stablehlo.convolution") == 2
