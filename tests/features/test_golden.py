"""Feature networks give the numbers of the originals: Inception block by block, EfficientNet-Lite0 as it ships."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddx import features
from ddx.features import inception
from ddx.features.plug import Source, fill
from ddx.runtime.tensors import Tensor
from tests import golden
from tests.features import weights

BEFORE_POOLING = ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_6e")  # but for the last, the ends of pytorch-fid's blocks


def difference(found, wanted):
    """The largest difference, relative to the largest value."""
    assert found.shape == wanted.shape
    return np.abs(np.asarray(found, np.float64) - wanted).max() / np.abs(wanted).max()


@pytest.fixture(scope="module")
def params():
    tensors = {name: Tensor(value.shape, lambda value=value: value) for name, value in weights.inception().items()}
    return fill(inception.PLUG, Source(tensors, pathlib.PurePath("golden")))


@pytest.fixture(scope="module")
def outputs(params):
    """What the network gives for the golden images under both protocols, and its first three blocks."""
    images = jnp.asarray(golden.load("features_inception")["images"][:2], jnp.float32)

    def layers(module, method):
        return module.name in BEFORE_POOLING

    @jax.jit
    def run(params):
        both = jnp.concatenate([inception.preprocess(images, protocol) for protocol in ("torch", "tf1")])
        found, state = inception.PLUG.model.apply({"params": params}, both, capture_intermediates=layers)
        first, second, third = (state["intermediates"][name]["__call__"][0][:2] for name in BEFORE_POOLING)
        return found, [x.mean((1, 2)) for x in (inception._max_pool(first), inception._max_pool(second), third)]

    return run(params)


def test_inception_agrees_block_by_block(outputs):
    data, (_, blocks) = golden.load("features_inception"), outputs
    for number, block in enumerate(blocks):
        assert difference(block, data[f"b{number}"][:2]) < 1e-6


def test_inception_agrees_under_both_protocols(outputs):
    data, (found, _) = golden.load("features_inception"), outputs
    assert difference(found["features"][:2], data["pool3"][:2]) < 2e-6
    assert difference(found["features"][2:], data["pool3_tf1"][:2]) < 2e-6
    assert difference(found["logits_unbiased"][:2], data["logits_no_bias"][:2]) < 2e-6


def test_images_are_resized_as_in_the_originals():
    data = golden.load("features_inception")
    images = jnp.asarray(data["images"][:1], jnp.float32)
    found = inception.preprocess(images, "tf1")[0, ::13, ::13] * 128 + 128
    np.testing.assert_allclose(found, data["resized_tf1"], atol=1e-4)
    found = (inception.preprocess(images, "torch")[0, ::13, ::13] + 1) / 2
    np.testing.assert_allclose(found, data["resized_torch"], atol=1e-6)


def test_efficientnet_lite0_gives_the_features_that_its_weights_give_elsewhere():
    data, extractor = golden.load("features_efficientnet_lite0"), features.load("efficientnet_lite0")
    found = jax.jit(extractor.apply)(extractor.params, data["images"])
    assert difference(found["features"], data["features"]) < 5e-6
    assert difference(found["logits"], data["logits"]) < 5e-6


def test_efficientnet_lite0_takes_images_resized_as_in_the_original():
    from ddx.features import efficientnet_lite0

    data = golden.load("features_efficientnet_lite0")
    found = efficientnet_lite0.preprocess(jnp.asarray(data["images"][:1], jnp.float32), "bicubic")
    np.testing.assert_allclose(found[:, ::16, ::16], data["resized"], atol=1e-6)
