"""Against PyTorch itself, and its own files: pytest -m convert tests/features."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddx import features
from ddx.features import NETWORKS
from ddx.features.resize import resize
from ddx.runtime.errors import CheckpointError
from ddx.runtime.storage import sha256
from tests import golden
from tests.features import weights

pytestmark = pytest.mark.convert
torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_the_golden_file_is_pytorchs(name):
    from tests.features import theirs

    np.testing.assert_allclose(golden.load("features_vit")[name], theirs.features(name), atol=1e-6)


@pytest.mark.parametrize(("size", "to"), [(32, 299), (512, 299), (64, 24), (300, 299)])
@pytest.mark.parametrize(
    ("method", "mode", "antialias"),
    [
        ("linear", "bilinear", False),
        ("cubic", "bicubic", False),
        ("linear_antialiased", "bilinear", True),
        ("cubic_antialiased", "bicubic", True),
    ],
)
def test_images_are_resized_as_in_pytorch(size, to, method, mode, antialias):
    images = np.random.default_rng(0).uniform(0, 255, (1, size, size + 5, 3))
    theirs = torch.nn.functional.interpolate(
        torch.tensor(images).permute(0, 3, 1, 2), (to, to), mode=mode, antialias=antialias
    )
    found = resize(jnp.asarray(images, jnp.float32), to, method)
    np.testing.assert_allclose(found, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-4)  # of 255


def saved(path, tensors):
    """A state dict as PyTorch saves it, with the counts that its batch normalisations have."""
    state = {name: torch.tensor(value) for name, value in tensors.items()}
    state |= {
        f"{name.removesuffix('weight')}num_batches_tracked": torch.tensor(7) for name in tensors if ".bn.w" in name
    }
    torch.save(state, path)
    return path


def test_inceptions_own_file_is_converted_where_its_checksum_is_the_published_one(tmp_path, monkeypatch):
    path = saved(tmp_path / "pt_inception.pth", weights.inception())
    with pytest.raises(CheckpointError, match="is not the published file"):
        features.convert("inception", path)
    known = NETWORKS["inception"]._replace(sha256=sha256(path)[:8])
    monkeypatch.setattr("ddx.features.extractor.NETWORKS", {"inception": known})
    assert features.convert("inception", path).values["num_params"] == 23_850_960
    loaded = features.load("inception", "torch")
    data = golden.load("features_inception")
    found = loaded.apply(loaded.params, data["images"])
    assert np.abs(found["features"] - data["pool3"]).max() / data["pool3"].max() < 2e-6
    assert set(found) == {"features", "logits", "logits_unbiased"}


def test_files_of_pytorch_are_converted(tmp_path, monkeypatch):
    from ddx.features import conversion, extractor

    for module in (extractor, conversion):
        monkeypatch.setattr(module, "plug_of", weights.small_plugs().__getitem__)
    for name, tensors in (("dinov2", weights.dinov2_hub()), ("clip", weights.clip())):
        features.convert(name, saved(tmp_path / f"{name}.bin", tensors))
        assert features.load(name).network.name == name


def test_a_file_that_holds_more_than_tensors_is_refused(tmp_path):
    torch.save({"model": object}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        features.convert("inception", tmp_path / "x.pth")
    torch.save(torch.zeros(3), tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        features.convert("inception", tmp_path / "y.pth")
