"""The DCT basis: orthonormal, precise, with the Laplacian's eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

import ddx
from ddx.diffusion.forward import basis


@pytest.mark.parametrize("shape", [(2, 6, 10, 3), (4, 1, 5, 1), (64, 64, 2)], ids=str)
def test_it_is_the_orthonormal_dct_over_height_and_width(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    with jax.enable_x64(True):
        u = basis.dct(jnp.asarray(x))
        np.testing.assert_allclose(u, scipy.fft.dctn(x, axes=(-3, -2), norm="ortho"), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(basis.idct(u), x, rtol=1e-10, atol=1e-12)


def test_64_pixels_in_float32_are_exact_to_2e_6():
    x = np.random.default_rng(1).standard_normal((16, 64, 64, 3))
    x32 = jnp.asarray(x, jnp.float32)
    exact = scipy.fft.dctn(np.asarray(x32, np.float64), axes=(1, 2), norm="ortho")
    u = jax.jit(basis.dct)(x32)
    assert u.dtype == jnp.float32
    assert np.abs(u - exact).max() <= 2e-6
    assert np.abs(jax.jit(basis.idct)(u) - x32).max() <= 2e-6


def test_bfloat16_is_transformed_in_float32():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 1)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(basis.dct(x), basis.dct(x.astype(jnp.float32)))


def test_the_matrix_is_orthogonal_and_built_in_float64():
    for n in (1, 2, 7, 256):
        matrix = basis.dct_matrix(n)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(n), atol=1e-13)


def test_the_basis_diagonalises_the_laplacian_up_to_its_grid():
    # The smallest eigenvalues are those of the second difference with mirrored edges, 2 - 2 cos(pi k / n), to its
    # second order.
    n = 64
    second = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    second[0, 0] = second[-1, -1] = 1
    found = np.diag(basis.dct_matrix(n) @ second @ basis.dct_matrix(n).T)
    lam = basis.laplacian((n, 1))[:, 0, 0]
    np.testing.assert_allclose(found[:8], lam[:8], rtol=lam[8] / 10, atol=1e-12)
    two = basis.laplacian((6, 10))[..., 0]
    np.testing.assert_allclose(two, (np.pi * np.arange(6) / 6)[:, None] ** 2 + (np.pi * np.arange(10) / 10) ** 2)


def test_it_blurs_as_a_gaussian_of_that_many_pixels_does():
    sigma, n = 3.0, 64
    x = np.zeros((1, n, n, 1))
    x[0, 30, 36, 0] = 1.0
    with jax.enable_x64(True):
        u = basis.dct(jnp.asarray(x)) * np.exp(-0.5 * sigma**2 * basis.laplacian((n, n)))
        blurred = np.asarray(basis.idct(u))[0, ..., 0]
    d = np.arange(n)
    rows, columns = (np.exp(-0.5 * ((d - c) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi)) for c in (30, 36))
    np.testing.assert_allclose(blurred, rows[:, None] * columns, atol=1e-10)


@pytest.mark.parametrize("make", [ddx.blurring, ddx.ihdm])
def test_every_product_of_a_lowered_sampler_asks_for_full_precision(make):
    # By default a TPU would round the factors to bfloat16, and samples would be ruined.
    process = make(4)
    denoise = ddx.denoiser(process, lambda x, t: 0.5 * x, "x0", clip=False)

    def draw(key, x_T):
        return ddx.sample(denoise, key, x_T, eta=1.0)

    x_T = jnp.zeros((2, 8, 8, 1))
    exported = jax.export.export(jax.jit(draw), platforms=["tpu", "cuda"])(jax.random.key(0), x_T)
    products = [line for line in exported.mlir_module().splitlines() if "stablehlo.dot_general" in line]
    assert products and all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def products_in_the_loop(draw, *args):
    """Matrix products in one turn of a sampler's scan."""
    jaxpr = jax.make_jaxpr(draw)(*args).jaxpr
    (loop,) = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]

    def count(inner):
        below = [value.jaxpr for e in inner.eqns for value in e.params.values() if hasattr(value, "jaxpr")]
        return sum(e.primitive.name == "dot_general" for e in inner.eqns) + sum(map(count, below))

    return count(loop.params["jaxpr"].jaxpr)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_step_transforms_twice_and_the_state_stays_in_the_basis(prediction, eta):
    process = ddx.blurring(4)
    denoise = ddx.denoiser(process, lambda x, t: 0.5 * x, prediction, clip=False)
    draw = lambda key, x_T: ddx.sample(denoise, key, x_T, eta=eta)  # noqa: E731
    assert products_in_the_loop(draw, jax.random.key(0), jnp.zeros((2, 8, 8, 1))) == 4  # two transforms, of two each
