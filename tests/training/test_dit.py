"""A DiT in the place of the U-Net: trained, sampled, scored, exported, and where another run starts from."""

import json

import jax
import numpy as np
import pytest

import ddx
from ddx import config as config_lib
from ddx.interop import convert, export
from ddx.models import DiT
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.training import train


def dit(make, **changes):
    """The tiny run with a DiT of 5,008 parameters that is told classes and makes variances."""
    config = make(process__num_steps=4, sample__num_steps=4, train__checkpoint_every=3)
    config_lib.set_network(config, "dit")
    config.model.update({"channels": 8, "depth": 2, "num_heads": 2, "class_conditional": True})
    config.loss.objective, config.loss.variance, config.sample.variance = "hybrid", "range", "range"
    for key, value in ({"train__num_steps": 6} | changes).items():
        group, name = key.split("__")
        config[group][name] = value
    return config


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("dit") / "run"
    train(dit(tiny_config), workdir)
    return workdir


def same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_it_is_trained_resumed_sampled_and_scored(trained, tiny_config, tmp_path):
    run = ddx.load(trained)
    assert run.model == DiT(8, 2, 2, 2, out_channels=2, num_classes=10)
    assert (
        float(abs(run.params["block_1"]["attn"]["q"]["kernel"]).max()) > 0 and run.params["patch_out"]["kernel"].any()
    )
    train(dit(tiny_config, train__num_steps=3), tmp_path / "run")
    train(dit(tiny_config), tmp_path / "run")
    same(ddx.load(tmp_path / "run").params, run.params)
    images = run.sample(2, labels=(3, 7))
    assert images.shape == (2, 8, 8, 1) and images.std() > 0
    assert np.isfinite(run.evaluate(max_examples=4, batch_size=4, num_steps=0).values["bits_per_dim"])


def test_it_is_written_for_others_and_read_again(trained, tmp_path):
    run = ddx.load(trained)
    export("safetensors", trained, tmp_path / "out")
    assert "DiT, 2 blocks of 8 channels and 2 heads, patches of 2 x 2" in (tmp_path / "out" / "README.md").read_text()
    convert("safetensors", tmp_path / "out" / "model.safetensors", tmp_path / "again")
    same(ddx.load(tmp_path / "again").params, run.params)
    export("stablehlo", trained, tmp_path / "programs")
    about = json.loads((tmp_path / "programs" / "programs.json").read_text())
    assert about["programs"]["network"]["output"].startswith("float32 (b, 8, 8, 2): eps, then as many channels")
    with pytest.raises(ConfigError, match=r"writes a UNet2DModel, not model\.network='dit'. Use --to=safetensors"):
        export("diffusers", trained, tmp_path / "refused")


def test_another_run_starts_from_its_blocks(trained, tiny_config, tmp_path, no_pictures):
    changes = {"model__class_conditional": False, "loss__objective": "simple", "loss__variance": "small"}
    changes |= {"sample__variance": "small", "train__init_from": str(trained), "train__num_steps": 1}
    assert train(dit(tiny_config, **changes), tmp_path / "run").fresh == ("patch_out",)
    with pytest.raises(CheckpointError, match=r"model\.patch_size: saved 2, needed 4"):
        train(dit(tiny_config, **changes, model__patch_size=4), tmp_path / "other")
    unet = tiny_config(train__init_from=str(trained), train__num_steps=1)
    with pytest.raises(CheckpointError, match=r"model\.network: saved dit, needed unet"):
        train(unet, tmp_path / "unet")
