"""Against diffusers itself, and PyTorch's own files: pytest -m convert, with both installed."""

import inspect
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

import ddx
from ddx.config import files as config_files
from ddx.interop import checkpoints, convert, schedulers
from ddx.interop import diffusers as ours
from ddx.runtime.errors import CheckpointError
from tests import golden
from tests.interop import originals
from tests.interop.originals import COPIED, NETWORKS, WALKS
from tests.models import weights

pytestmark = pytest.mark.convert
pytest.importorskip("torch")
pytest.importorskip("diffusers")

ROOT = pathlib.Path(__file__).parents[2]
FULL = COPIED | {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}


def test_the_options_and_their_defaults_are_diffusers():
    import diffusers as theirs

    known = {"UNet2DModel": ours._DEFAULTS, **schedulers._DEFAULTS}
    for kind, defaults in known.items():
        arguments = inspect.signature(getattr(theirs, kind).__init__).parameters
        found = {name: one.default for name, one in arguments.items() if name not in ("self", "num_train_timesteps")}
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
        assert found == {name: value for name, value in defaults.items() if name != "num_train_timesteps"}
    for kind in theirs.DDPMScheduler._compatibles:
        arguments = inspect.signature(getattr(theirs, kind).__init__).parameters
        assert arguments.keys() - {"self", "args", "kwargs"} <= set(schedulers._IGNORED)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_golden_networks_are_diffusers(name):
    data = golden.load("diffusers_networks")
    model, lines = originals.network(NETWORKS[name])
    assert lines == data[f"{name}/weights"].tolist()
    np.testing.assert_allclose(originals.outputs(model, NETWORKS[name])["out"], data[f"{name}/out"], atol=1e-5)


@pytest.mark.parametrize("name", WALKS)
def test_the_golden_walks_are_diffusers(name):
    np.testing.assert_allclose(originals.walk(name), golden.load("diffusers_walks")[f"{name}/x_0"], atol=1e-6)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("name", [*NETWORKS, "cifar10-32"])
def test_a_saved_pipeline_is_converted(tmp_path, name, safe):
    from diffusers import DDPMPipeline, DDPMScheduler

    options = NETWORKS.get(name, FULL)
    model, _ = originals.network(options)
    variance = "learned_range" if options.get("out_channels") == 2 else "fixed_large"
    pipeline = DDPMPipeline(model, DDPMScheduler(variance_type=variance))
    pipeline.save_pretrained(tmp_path / "source", safe_serialization=safe)
    assert len(list((tmp_path / "source" / "unet").glob("*.safetensors"))) == safe
    convert("diffusers", tmp_path / "source", tmp_path / "run")
    expected, run = originals.outputs(model, options), ddx.load(tmp_path / "run")
    told = {"label": expected["label"]} if "label" in expected else {}
    out = jax.jit(run.model.apply)({"params": run.params}, expected["x"], expected["t"], **told)
    np.testing.assert_allclose(out, expected["out"], rtol=0, atol=1e-4)


def test_converting_a_network_takes_less_than_three_times_its_file(tmp_path):
    """Of 143 MB, 200 MiB of memory for jax and orbax alone included."""
    from diffusers import DDPMPipeline, DDPMScheduler

    pipeline = DDPMPipeline(originals.network(FULL)[0], DDPMScheduler(variance_type="fixed_large"))
    pipeline.save_pretrained(tmp_path / "source")
    command = [sys.executable, "-m", "launch.convert", "--from=diffusers", f"--source={tmp_path / 'source'}"]
    # Between them a small process: what this one takes, with torch, would count as its child's.
    told = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True)"
    told += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    line = [sys.executable, "-c", told, *command, f"--out={tmp_path / 'run'}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    (file,) = (tmp_path / "source" / "unet").glob("*.safetensors")
    assert 1024 * int(done.stdout.split()[-1]) < 3 * file.stat().st_size


@pytest.mark.parametrize("legacy", [False, True])
def test_ddims_own_file_is_read(tmp_path, legacy):
    import torch

    data = golden.load("ddim_unet")
    average = {k.removeprefix("param/"): torch.tensor(v) for k, v in data.items() if k.startswith("param/")}
    raw = {f"module.{name}": 2 * tensor for name, tensor in average.items()}
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
    states = [raw, optimizer.state_dict(), 3, 790_000, average]
    torch.save(states, tmp_path / "ckpt.pth", _use_new_zipfile_serialization=not legacy)
    config = config_files.load("ddpm_cifar10")
    config.data.image_size = 8
    convert("ddim", tmp_path / "ckpt.pth", tmp_path / "run", config=config)
    run = ddx.load(tmp_path / "run")
    out = jax.jit(run.model.apply)({"params": run.params}, golden.nhwc(data["x"]), data["t"])
    np.testing.assert_allclose(out, golden.nhwc(data["out"]), rtol=0, atol=1e-5)
    convert("ddim", tmp_path / "ckpt.pth", tmp_path / "raw", weights="raw", config=config)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(2 * a, b), run.params, ddx.load(tmp_path / "raw").params)


def test_improved_ddpms_file_is_read(tmp_path):
    import torch

    data = {key.removeprefix("ssn_h4/"): value for key, value in golden.load("id_unet").items()}
    drawn = weights.drawn(data["weights"], int(data["seed"])) | {"out.2.bias": data["param/out.2.bias"]}
    torch.save({name: torch.tensor(value) for name, value in drawn.items()}, tmp_path / "model.pt")
    config = config_files.load("iddpm_cifar10")
    config.data.image_size = 8
    convert("improved-diffusion", tmp_path / "model.pt", tmp_path / "run", config=config)
    run = ddx.load(tmp_path / "run")
    out = jax.jit(run.model.apply)({"params": run.params}, golden.nhwc(data["x"]), data["t"])
    np.testing.assert_allclose(out, golden.nhwc(data["out"]), rtol=0, atol=1e-5)


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, nest):
        self.nest = nest

    def __reduce__(self):
        return pathlib.Path.touch, (self.nest,)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_a_pickle_runs_no_code(tmp_path, how):
    import torch

    nest, path = tmp_path / "sang", tmp_path / "model.ckpt"
    content = {"conv_in.weight": Canary(nest)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError, match="holds more than tensors") as caught:
        checkpoints.find(path, checkpoints.Hints(), checkpoints.DDIM_CODE)
    assert "\n" not in str(caught.value) and not nest.exists()


@pytest.mark.parametrize("cut", [0, 10, 1000, -100])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_file_is_one_line(tmp_path, legacy, cut):
    import torch

    path = tmp_path / "model.pt"
    torch.save({"conv_in.weight": torch.zeros(64, 64)}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"model.pt") as caught:
        checkpoints.find(path, checkpoints.Hints(), checkpoints.DDIM_CODE)
    assert "\n" not in str(caught.value)
