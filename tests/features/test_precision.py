"""Feature networks compute in full float32 on every device: each product asks for it, as a TPU's own is bfloat16."""

import jax
import jax.extend.core
import numpy as np
import pytest

from ddx.features import NETWORKS, plug
from ddx.features.extractor import plug_of
from tests.features import weights


def products(jaxpr):
    """The equations that multiply arrays, in a program and in those that it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from products(inner)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_product_asks_for_the_highest_precision(name):
    own = weights.small_plugs().get(name, plug_of(name))

    def run(params, images):
        return own.model.apply({"params": params}, own.preprocess(images, NETWORKS[name].protocols[0]))

    images = jax.ShapeDtypeStruct((2, 20, 30, 3), np.float32)
    found = list(products(jax.make_jaxpr(run)(plug.shapes(own), images).jaxpr))
    assert len(found) > 3
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    assert all(equation.params["precision"] == highest for equation in found)
