"""The transformers of DINOv2 and CLIP agree with others, written in PyTorch, from tensors under their users' names."""

import jax
import numpy as np
import pytest

from ddx.features import NETWORKS, plug
from ddx.runtime.tensors import read
from tests import golden
from tests.features import weights
from tests.interop.files import safetensors

SMALL = weights.small_plugs()
RUN = {name: jax.jit(small.model.apply) for name, small in SMALL.items()}
TENSORS = {
    "hub": ("dinov2", weights.dinov2_hub),
    "hugging face": ("dinov2", weights.dinov2_hugging_face),
    "clip": ("clip", weights.clip),
}


def features(of, tmp_path):
    """(the network's name, its features)"""
    name, tensors = TENSORS[of]
    small = SMALL[name]
    path = tmp_path / "x.safetensors"
    safetensors(path, tensors())
    params = plug.fill(small, plug.Source(read(path, small.without), path))
    taken = small.preprocess(weights.images().astype(np.float32), NETWORKS[name].protocols[0])
    return name, RUN[name]({"params": params}, taken)["features"]


@pytest.mark.parametrize("of", TENSORS)
def test_features_are_those_of_pytorch(of, tmp_path):
    name, found = features(of, tmp_path)
    np.testing.assert_allclose(found, golden.load("features_vit")[name], atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_tells_what_the_network_is(name):
    from ddx.features.extractor import plug_of

    network, own = NETWORKS[name], plug_of(name)
    images = jax.ShapeDtypeStruct((2, own.side, own.side, own.channels), np.float32)
    found, state = jax.eval_shape(own.model.init_with_output, jax.random.key(0), images)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state)) == network.num_params
    assert found["features"].shape == (2, network.num_features) and own.side == network.side
    assert (found["logits"].shape == (2, network.num_logits)) if network.num_logits else "logits" not in found
