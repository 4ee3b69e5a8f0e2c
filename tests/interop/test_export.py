"""Networks for others: what is written comes back as the same run, and diffusers puts out the same."""

import jax
import numpy as np
import pytest

import ddx
from ddx.interop import convert, export
from ddx.interop.diffusers import describe
from ddx.runtime.errors import CheckpointError, ConfigError
from ddx.system import make_system
from tests.interop.originals import NETWORKS
from tests.interop.test_networks import runs, same  # noqa: F401 - a fixture
from tests.test_cli import run


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("copied", "diffusers", marks=pytest.mark.soak),
        ("trained", "diffusers"),
        ("everything", "diffusers"),
        ("everything", "safetensors"),
    ],
)
def test_what_is_written_comes_back_as_the_same_run(runs, tmp_path, name, kind):  # noqa: F811
    result = export(kind, runs / name, tmp_path / "out")
    source = tmp_path / "out" / "model.safetensors" if kind == "safetensors" else tmp_path / "out"
    if kind == "diffusers":
        convert(kind, source, tmp_path / "again")
        source = tmp_path / "again"
    same(source, runs / name)
    again, before = ddx.load(source), ddx.load(runs / name)
    assert again.config == before.config and again.model == before.model
    assert again.system.image_shape == before.system.image_shape
    card = (tmp_path / "out" / "README.md").read_text()
    assert "SHA-256" in card and "licence" in card and all((tmp_path / "out" / file).is_file() for file in result.files)


def test_the_command_writes_a_folder_and_names_mistakes(runs, tmp_path):  # noqa: F811
    workdir = f"--workdir={runs / 'copied'}"
    done = run("convert", "--to=diffusers", workdir, f"--out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"wrote {tmp_path}/out: the ema weights of step 1, 702,499 parameters, for diffusers;"
        " README.md there says how to use them\n"
    )
    for args, message in (
        (["--to=diffusers", "--from=ddim"], "--from and --to are two ways. Give one of them"),
        (["--to=diffusers", workdir, "--source=x"], "--source belongs to --from. Leave it out"),
        (["--from=diffusers", "--source=x", "--out=y", "--step=3"], "--step belongs to --to. Leave it out"),
    ):
        done = run("convert", *args)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"process.kind": "blurring", "loss.prediction": "v"},
            "nothing for process.kind='blurring'. Use --to=safetens",
        ),
        ({"process.rescale_time": True}, "nothing for process.rescale_time=True"),
        ({"process.first_time": 1}, "nothing for process.first_time=1"),
        ({"model.resample_blocks": True}, "no network with model.resample_blocks=True"),
        ({"loss.prediction": "mean"}, "nothing for loss.prediction='mean'"),
        ({"data.low": 0}, "nothing for data.low=0"),
        ({"model.low_res": 16}, "no network with model.low_res=16"),
        (
            {"model.num_heads": 4, "model.attention_resolutions": (32, 16)},
            r"model.num_heads=4 makes some of \[32, 64\]",
        ),
    ],
)
def test_what_diffusers_does_not_have_is_refused_by_name(changes, message):
    config = ddx.config.default_config()
    for key, value in changes.items():
        group, name = key.split(".")
        config[group][name] = value
    with pytest.raises(ConfigError, match=message):
        describe(make_system(config, (32, 32, 3)))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "quad", "sigmoid"])
def test_a_schedule_is_written_so_that_it_is_known_again(tmp_path, schedule, zero):
    from ddx.interop import schedulers
    from ddx.runtime.storage import write_json

    config = ddx.config.default_config()
    config.process.schedule, config.process.num_steps, config.process.zero_terminal_snr = schedule, 250, zero
    config.sample.sampler, config.sample.trajectory, config.sample.end = "ddim", "trailing", 1
    write_json(tmp_path / "scheduler_config.json", schedulers.describe(config))
    again = ddx.config.default_config()
    schedulers.apply(tmp_path / "scheduler_config.json", again, doubled=False)
    assert again.process == config.process and again.sample.trajectory == "trailing" and again.sample.end == 1


def test_a_file_of_others_is_not_taken_for_ddxs(runs, tmp_path):  # noqa: F811
    path = runs / "copied_source" / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(CheckpointError, match=r"was not written by ddx. Name its code base with --from"):
        convert("safetensors", path, tmp_path / "run")


@pytest.mark.convert
@pytest.mark.parametrize("name", NETWORKS)
def test_diffusers_puts_out_the_same(runs, tmp_path, name):  # noqa: F811
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    export("diffusers", runs / name, tmp_path / "out")
    model = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out").unet.eval()
    own = ddx.load(runs / name)
    x, t = np.random.default_rng(0).standard_normal((2, *own.system.image_shape)).astype(np.float32), np.array([0, 500])
    label = np.array([0, 3]) if own.model.num_classes else None
    with torch.no_grad():
        labels = None if label is None else torch.tensor(label)
        theirs = model(torch.tensor(np.moveaxis(x, -1, 1)), torch.tensor(t), labels).sample.numpy()
    ours = jax.jit(own.model.apply)({"params": own.params}, x, t, label)
    np.testing.assert_allclose(np.moveaxis(theirs, 1, -1), ours, rtol=0, atol=1e-4)
