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
    """What the network gives for the golden images under both protocols, and what some of its layers give."""
    images = jnp.asarray(golden.load("features_inception")["images"], jnp.float32)

    def layers(module, method):
        return module.name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_6e")

    @jax.jit
    def run(params):
        both = jnp.concatenate([inception.preprocess(images, protocol) for protocol in ("torch", "tf1")])
        return inception.PLUG.model.apply({"params": params}, both, capture_intermediates=layers)

    found, state = run(params)
    seen = {name: value["__call__"][0] for name, value in state["intermediates"].items()}
    return found, seen


def test_inception_has_the_published_number_of_parameters(params):
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 23_850_960


def test_inception_agrees_block_by_block(outputs):
    data, (_, seen) = golden.load("features_inception"), outputs
    pooled = {name: inception._max_pool(seen[name][:4]) for name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3")}
    assert difference(pooled["Conv2d_2b_3x3"].mean((1, 2)), data["b0"]) < 1e-6
    assert difference(pooled["Conv2d_4a_3x3"].mean((1, 2)), data["b1"]) < 1e-6
    assert difference(seen["Mixed_6e"][:4].mean((1, 2)), data["b2"]) < 1e-6


def test_inception_agrees_under_both_protocols(outputs):
    data, (found, _) = golden.load("features_inception"), outputs
    assert difference(found["features"][:4], data["pool3"]) < 2e-6
    assert difference(found["features"][4:], data["pool3_tf1"]) < 2e-6
    assert difference(found["logits_unbiased"][:4], data["logits_no_bias"]) < 2e-6


def test_a_bias_is_added_to_logits_alone(params):
    x = jnp.zeros((1, 299, 299, 3))
    told = params | {"fc_bias": np.arange(1008, dtype=np.float32)}
    model = jax.eval_shape(lambda p: inception.PLUG.model.apply({"params": p}, x), told)
    assert {name: leaf.shape for name, leaf in model.items()} == {
        "features": (1, 2048),
        "logits": (1, 1008),
        "logits_unbiased": (1, 1008),
    }


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
