"""Images are resized as the libraries do it whose scores are published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddx.features.resize import METHODS, matrix, resize, resize_pixels

SIZES = [(32, 299), (64, 24), (28, 8), (8, 8), (37, 16), (1, 5), (300, 299)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("size", "to"), SIZES)
def test_a_constant_stays_what_it_is_and_nothing_moves_at_the_same_size(method, size, to):
    found = matrix(method, size, to)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-14)
    if size == to:
        np.testing.assert_allclose(found, np.eye(size), atol=1e-14)


@pytest.mark.parametrize(("method", "theirs"), [("linear_antialiased", "linear"), ("cubic_antialiased", "cubic")])
@pytest.mark.parametrize(("size", "to"), [(32, 299), (37, 16), (300, 299)])
def test_antialiased_methods_are_jax_own(method, theirs, size, to):
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size + 3, 3)).astype(np.float32)
    wanted = jax.image.resize(images, (2, to, to, 3), theirs, precision=jax.lax.Precision.HIGHEST)
    np.testing.assert_allclose(
        resize(jnp.asarray(images), to, method), wanted, atol=2e-2
    )  # its matrices are of float32


def test_linear_is_jax_own_without_antialiasing():
    images = np.random.default_rng(0).uniform(0, 255, (1, 20, 20, 3)).astype(np.float32)
    wanted = jax.image.resize(images, (1, 13, 13, 3), "linear", antialias=False)
    np.testing.assert_allclose(resize(jnp.asarray(images), 13, "linear"), wanted, atol=5e-3)


@pytest.mark.parametrize("size", [(32, 32), (256, 256), (20, 48), (225, 299), (1000, 1000)])
def test_whole_numbers_are_pillows_in_the_same_bits(size):
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC))
    found = resize_pixels(jnp.asarray(pixels[None], jnp.float32), 224, "cubic_antialiased")
    np.testing.assert_array_equal(found[0], wanted)


def test_tensorflow_1_takes_every_other_pixel_of_twice_the_size():
    images = np.random.default_rng(2).uniform(0, 255, (1, 598, 598, 1)).astype(np.float32)
    np.testing.assert_array_equal(resize(jnp.asarray(images), 299, "tf1"), images[:, ::2, ::2])
