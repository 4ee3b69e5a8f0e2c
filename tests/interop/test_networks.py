"""Networks of diffusers: what they put out, what is refused, and the folder of the run that they become."""

import json
import pathlib

import jax
import numpy as np
import pytest

import ddx
from ddx.config import files as config_files
from ddx.interop import convert, export
from ddx.interop.found import tensors_in, weights_in
from ddx.runtime import storage, tensors
from ddx.runtime.errors import CheckpointError, ConfigError, DataError
from ddx.sampling.samples import sample
from tests import golden
from tests.buckets import upload
from tests.interop.files import in_files, pipeline, safetensors
from tests.interop.originals import NETWORKS, weights

SCHEDULER = {"_class_name": "DDPMScheduler", "variance_type": "fixed_large"}
LEARNED = {"_class_name": "DDPMScheduler", "variance_type": "learned_range", "beta_schedule": "squaredcos_cap_v2"}
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def written(folder, name, scheduler=None, **changes):
    """The folder of a network, with changes of its config; one that is changed to None is left out."""
    data = golden.load("diffusers_networks")
    config = json.loads(str(data[f"{name}/config"])) | changes
    scheduler = scheduler or (LEARNED if name == "everything" else SCHEDULER)
    return pipeline(folder, config, scheduler, weights(data[f"{name}/weights"].tolist()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of each network's run."""
    folder = tmp_path_factory.mktemp("runs")
    for name in NETWORKS:
        convert("diffusers", written(folder / f"{name}_source", name), folder / name)
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_the_outputs_are_those_of_diffusers(runs, name):
    data, run = golden.load("diffusers_networks"), ddx.load(runs / name)
    told = {"label": data[f"{name}/label"]} if f"{name}/label" in data else {}
    with jax.default_matmul_precision("highest"):
        out = jax.jit(run.model.apply)({"params": run.params}, data[f"{name}/x"], data[f"{name}/t"], **told)
    np.testing.assert_allclose(out, data[f"{name}/out"], rtol=0, atol=2e-5)


def test_a_run_says_what_it_is(runs):
    copied, everything = (ddx.load(runs / name) for name in ("copied", "everything"))
    assert copied.system.image_shape == (16, 16, 3) and everything.system.image_shape == (8, 16, 1)
    assert (copied.config.model.family, copied.config.model.head_channels) == ("ddpm", 0)
    assert copied.config.sample.variance == "large" and copied.config.sample.num_steps == 0
    model = everything.config.model
    assert (model.family, model.head_channels, model.scale_shift, model.num_blocks) == ("iddpm", 16, True, 2)
    assert everything.model.num_classes == 5 and everything.config.loss.variance == "range"
    assert everything.config.process.schedule == "cosine" and everything.config.model.dropout == 0.1
    assert (runs / "copied" / "config.json").is_file()


def test_a_run_samples_and_names_its_missing_data(runs, tmp_path):
    result = sample(runs / "trained", 2, num_steps=2, out=tmp_path / "out")
    assert result.arrays()["samples"].shape == (2, 16, 16, 3)
    with pytest.raises(
        DataError, match=r"launch.convert again with a config that names them, such as --config=ddpm_ci"
    ):
        ddx.load(runs / "trained").evaluate(num_steps=2)
    with pytest.raises(ConfigError, match=r"has no raw weights. Leave weights out, or use ema"):
        ddx.load(runs / "trained", weights="raw")


def test_a_config_names_the_data_and_gives_way_to_the_network(tmp_path):
    config = config_files.load("ddpm_lsun:cat")
    convert("diffusers", written(tmp_path / "source", "copied"), tmp_path / "run", config=config)
    made = ddx.load(tmp_path / "run").config
    assert (made.data.name, made.data.flip, made.data.image_size) == ("lsun/cat", True, 16)
    assert (made.train.num_steps, made.model.channels) == (1_800_000, 32)
    with pytest.raises(CheckpointError, match="has weights alone, which were converted: there is no state to resume"):
        from ddx.runs.checkpoint import Checkpoints
        from ddx.training import resume

        resume.restore(Checkpoints(tmp_path / "run" / "checkpoints"), 1, None)


def same(run, other):
    for one, two in zip(jax.tree.leaves(ddx.load(run).params), jax.tree.leaves(ddx.load(other).params), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("way", ["old names", "flat", "the network's folder", "several files", "average"])
def test_other_forms_of_a_folder_are_the_same_run(runs, tmp_path, way):
    data = golden.load("diffusers_networks")
    arrays = weights(data["copied/weights"].tolist())
    config = json.loads(str(data["copied/config"]))
    source, other = tmp_path / "source", runs / "copied"
    if way == "old names":
        for new, old in OLD.items():
            arrays = {key.replace(new, old): value for key, value in arrays.items()}
        config["down_block_types"] = [f"UNetRes{kind}" for kind in config["down_block_types"]]
        short = {key: value for key, value in config.items() if key not in ("dropout", "add_attention")}
        pipeline(source, short, SCHEDULER | {"timestep_values": None, "tensor_format": "pt"}, arrays)
    elif way == "flat":
        source.mkdir()
        (source / "config.json").write_text(json.dumps(config))
        (source / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
        safetensors(source / "diffusion_pytorch_model.safetensors", arrays, {"format": "pt"})
    elif way == "several files":
        in_files(pipeline(source, config, SCHEDULER, {}) / "unet", arrays)
        (source / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    elif way == "the network's folder":
        source = pipeline(source, config, SCHEDULER, arrays) / "unet"
    else:  # a checkpoint of diffusers' trainer
        average = config | {"decay": 0.9999, "optimization_step": 10, "use_ema_warmup": True, "power": 0.75}
        pipeline(source / "checkpoint-10", config, SCHEDULER, {key: 2 * value for key, value in arrays.items()})
        pipeline(source / "checkpoint-10", average, SCHEDULER, arrays, unet="unet_ema")
        (source / "checkpoint-10" / "scheduler").rename(source / "scheduler")
        source = source / "checkpoint-10"
        convert("diffusers", source, tmp_path / "raw", weights="raw")
        first = jax.tree.leaves(ddx.load(tmp_path / "raw").params)[0]
        np.testing.assert_array_equal(first, 2 * jax.tree.leaves(ddx.load(other).params)[0])
    convert("diffusers", source, tmp_path / "run")
    same(tmp_path / "run", other)


@pytest.mark.parametrize("kind", ["F16", "BF16", "F64"])
def test_weights_of_another_precision_become_float32(tmp_path, kind):
    value = weights(["conv_in.weight 32 3 3 3"])["conv_in.weight"]
    saved, expected = {
        "F16": lambda: (value.astype(np.float16), value.astype(np.float16).astype(np.float32)),
        "BF16": lambda: ((value.view(np.uint32) >> 16).astype(np.uint16), (value.view(np.uint32) >> 16 << 16)),
        "F64": lambda: (value.astype(np.float64), value),
    }[kind]()
    safetensors(tmp_path / "x.safetensors", {"first": saved[:1], "x": saved})
    tensor = tensors.read(tmp_path / "x.safetensors")["x"]
    assert tensor.shape == (32, 3, 3, 3) and tensor.read().dtype == np.float32
    np.testing.assert_array_equal(tensor.read().view(np.uint32), expected.view(np.uint32))


def test_a_variant_is_taken_where_there_is_nothing_else(tmp_path):
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").write_text("")
    assert weights_in(tmp_path, "diffusion_pytorch_model").name == "diffusion_pytorch_model.fp16.safetensors"
    (tmp_path / "diffusion_pytorch_model.bin.index.json").write_text("")
    assert weights_in(tmp_path, "diffusion_pytorch_model").name == "diffusion_pytorch_model.bin.index.json"
    (tmp_path / "diffusion_pytorch_model.bin").write_text("")
    assert weights_in(tmp_path, "diffusion_pytorch_model").name == "diffusion_pytorch_model.bin"
    (tmp_path / "diffusion_pytorch_model.safetensors").write_text("")
    assert weights_in(tmp_path, "diffusion_pytorch_model").name == "diffusion_pytorch_model.safetensors"


LAST = "diffusion_pytorch_model-00003-of-00003.safetensors"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "file is missing",
            rf"there is no file .*{LAST}, which diffusion.*\.index\.json names\. Fetch",
        ),
        ("tensor is missing", rf"{LAST} has no tensor 'c', unlike .*index\.json\. Fetch both again"),
        ("tensor is left", rf"{LAST} has a tensor 'z', unlike .*index\.json\. Fetch both again"),
        ("cut", r"index\.json is no index of weights \(.*\)\. Fetch it again"),
        ("no map", r"index\.json is no index of weights \(weight_map\)\. Fetch it again"),
        ("empty", r"index\.json names no tensors\. Fetch it again"),
        ("elsewhere", r"index\.json: tensor 'a' is in '\.\./a\.safetensors', which is no file"),
        ("pickle", r"index\.json: tensor 'a' is in 'a\.pkl', which is no file"),
    ],
)
def test_files_that_do_not_agree_with_their_index_are_named(tmp_path, how, message):
    index = in_files(tmp_path, {name: np.ones(2, np.float32) for name in "abc"})
    said = json.loads(index.read_text())
    if how == "file is missing":
        (tmp_path / LAST).unlink()
    elif how.startswith("tensor"):
        names = {"tensor is missing": "y", "tensor is left": "cz"}[how]
        safetensors(tmp_path / LAST, {name: np.ones(2, np.float32) for name in names})
    elif how == "cut":
        index.write_text(index.read_text()[:-9])
    else:
        said["weight_map"] |= {"elsewhere": {"a": "../a.safetensors"}, "pickle": {"a": "a.pkl"}}.get(how, {})
        index.write_text(json.dumps({"no map": {}, "empty": {"weight_map": {}}}.get(how, said)))
    with pytest.raises(CheckpointError, match=message) as error:
        tensors_in(index)
    assert "\n" not in str(error.value)


@pytest.mark.convert
def test_several_files_of_pytorch_are_read_as_one(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {name: np.full((2, 3), i, np.float32) for i, name in enumerate("abc")}
    files = {"a": "x-1.bin", "b": "x-2.bin", "c": "x-1.bin"}
    for file in set(files.values()):
        torch.save({name: torch.tensor(arrays[name]) for name in files if files[name] == file}, tmp_path / file)
    (tmp_path / "x.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    found = tensors_in(weights_in(tmp_path, "x"))
    assert {name: tensor.read().tolist() for name, tensor in found.items()} == {
        name: value.tolist() for name, value in arrays.items()
    }


REFUSED = {
    "center_input_sample": True,
    "time_embedding_type": "fourier",
    "time_embedding_dim": 64,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "mid_block_type": None,
    "mid_block_scale_factor": 2.0,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "act_fn": "relu",
    "attention_head_dim": 5,
    "attn_norm_num_groups": 8,
    "resnet_time_scale_shift": "spatial",
    "add_attention": False,
    "class_embed_type": "timestep",
    "num_class_embeds": 1,
    "out_channels": 4,
    "block_out_channels": [32, 48],
    "down_block_types": ["DownBlock2D", "SkipDownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
    "sample_size": 15,
    "an_option_of_tomorrow": "on",
}


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_cannot_be_represented_is_refused_by_name(tmp_path, option):
    source = written(tmp_path / "source", "trained", **{option: REFUSED[option]})
    with pytest.raises(ConfigError, match=rf"unet/config.json: ddx cannot represent {option}=.*\. \w+") as caught:
        convert("diffusers", source, tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        ("DDPMScheduler", "beta_end", 0.012),
        ("DDPMScheduler", "beta_schedule", "laplace"),
        ("DDPMScheduler", "trained_betas", [0.1, 0.2]),
        ("DDPMScheduler", "variance_type", "learned"),
        ("DDPMScheduler", "variance_type", "learned_range"),
        ("DDPMScheduler", "clip_sample_range", 2.0),
        ("DDPMScheduler", "thresholding", True),
        ("DDPMScheduler", "prediction_type", "flow_prediction"),
        ("DDIMScheduler", "rescale_betas_zero_snr", "yes"),
        ("DDIMScheduler", "timestep_spacing", "quadratic"),
        ("DPMSolverMultistepScheduler", "use_karras_sigmas", True),
        ("DPMSolverMultistepScheduler", "algorithm_type", "dpmsolver"),
        ("DPMSolverMultistepScheduler", "solver_type", "heun"),
        ("DPMSolverMultistepScheduler", "final_sigmas_type", "sigma_min"),
        ("DPMSolverMultistepScheduler", "lambda_min_clipped", -5.1),
        ("PNDMScheduler", "_class_name", "PNDMScheduler"),
    ],
)
def test_an_option_of_a_scheduler_is_refused_by_name(tmp_path, kind, option, value):
    scheduler = {"_class_name": kind} | {option: value}
    source = written(tmp_path / "source", "trained", scheduler)
    named = "beta_schedule='linear'.*beta_end=0.012" if option == "beta_end" else f"{option}="
    with pytest.raises(ConfigError, match=rf"scheduler_config.json: ddx cannot represent {named}") as caught:
        convert("diffusers", source, tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_options_of_another_scheduler_that_one_was_made_from_are_left(tmp_path):
    kept = {"_class_name": "DDIMScheduler", "use_karras_sigmas": True, "solver_order": 2, "skip_prk_steps": True}
    convert("diffusers", written(tmp_path / "source", "trained", kept), tmp_path / "run")
    assert ddx.load(tmp_path / "run").config.sample.sampler == "ddim"
    tomorrow = kept | {"an_option_of_tomorrow": 3}
    with pytest.raises(ConfigError, match=r"ddx cannot represent an_option_of_tomorrow=3: it is not known"):
        convert("diffusers", written(tmp_path / "source2", "trained", tomorrow), tmp_path / "run2")


def test_betas_are_known_by_their_numbers(tmp_path):
    trained = {"_class_name": "DDPMScheduler", "trained_betas": np.linspace(0.0004, 0.08, 250).tolist()}
    convert("diffusers", written(tmp_path / "source", "trained", trained), tmp_path / "run")
    process = ddx.load(tmp_path / "run").config.process
    assert (process.schedule, process.num_steps) == ("linear", 250)


def damaged(tensors, how):
    """The tensors and the header's changes of a file that is damaged in some way."""
    name = "down_blocks.0.resnets.0.conv1.weight"
    if how == "missing":
        return {key: value for key, value in tensors.items() if key != name}, {}
    if how == "shape":
        return tensors | {name: tensors[name][:, :16]}, {}
    if how == "more":
        return tensors | {"down_blocks.9.weight": np.zeros(3, np.float32)}, {}
    if how == "not finite":
        return tensors | {name: np.where(tensors[name] > 0.2, np.float32("nan"), tensors[name])}, {}
    if how == "integers":
        return tensors | {name: tensors[name].astype(np.int64)}, {}
    if how == "size":
        return tensors, {name: {"shape": [1, 2]}}
    if how == "place":
        return tensors, {name: {"data_offsets": [-4, 36860]}}
    return tensors, {name: {"dtype": "F8"}} if how == "type" else {}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "has no tensor down_blocks.0.resnets.0.conv1.weight, which its network needs"),
        (
            "shape",
            r"tensor down_blocks.0.resnets.0.conv1.weight has the shape \(32, 16, 3, 3\), .* needs \(32, 32, 3, 3",
        ),
        ("more", "has a tensor down_blocks.9.weight that no part of its network takes"),
        ("not finite", "down_blocks.0.resnets.0.conv1.weight has a number that is not finite"),
        ("integers", "'down_blocks.0.resnets.0.conv1.weight' is 'I64', not floating-point"),
        ("type", "'down_blocks.0.resnets.0.conv1.weight' is 'F8', not floating-point"),
        ("size", r"'down_blocks.0.resnets.0.conv1.weight' of shape \(1, 2\) has 36864 bytes"),
        ("place", "tensor 'down_blocks.0.resnets.0.conv1.weight' has an impossible shape or place"),
        ("cut", "is damaged: it ends before the end of tensor '"),
        ("cut in the header", "is damaged: its header is not complete"),
        ("empty", "is damaged: its header is not complete"),
        ("text", "is damaged: its header is not complete"),
        ("no header", "is damaged: its header is no list of tensors"),
    ],
)
def test_a_damaged_file_is_one_line_and_leaves_nothing(tmp_path, how, message):
    data = golden.load("diffusers_networks")
    arrays, header = damaged(weights(data["copied/weights"].tolist()), how)
    config = json.loads(str(data["copied/config"]))
    source = pipeline(tmp_path / "source", config, SCHEDULER, {"conv_in.bias": np.zeros(1, np.float32)})
    path = source / "unet" / "diffusion_pytorch_model.safetensors"
    safetensors(path, arrays, header=header)
    content = path.read_bytes()
    cuts = {
        "cut": content[:-100],
        "cut in the header": content[:100],
        "empty": b"",
        "text": b"not tensors at all",
        "no header": (4).to_bytes(8, "little") + b"[{}]" + content,
    }
    path.write_bytes(cuts.get(how, content))
    with pytest.raises(CheckpointError, match=message) as caught:
        convert("diffusers", source, tmp_path / "run")
    assert "\n" not in str(caught.value) and [p.name for p in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda source: (source / "unet" / "config.json").unlink(), "has no config.json, alone or in unet"),
        (lambda source: (source / "unet" / "config.json").write_text("{"), "unet/config.json"),
        (lambda source: (source / "unet" / "config.json").write_text("[]"), "config.json holds no options"),
        (lambda source: (source / "scheduler" / "scheduler_config.json").unlink(), "has no scheduler_config.json"),
        (
            lambda source: (source / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
            "unet has no diffusion_pytorch_model.safetensors",
        ),
        (lambda source: (source / "vae").mkdir(), "vae: the network makes latents, not images"),
    ],
)
def test_a_folder_that_is_not_whole_is_one_line(tmp_path, change, message):
    source = written(tmp_path / "source", "trained")
    change(source)
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        convert("diffusers", source, tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_file_is_no_folder(tmp_path):
    source = written(tmp_path / "source", "trained")
    with pytest.raises(CheckpointError, match=r"config.json is a file, .* Name the folder"):
        convert("diffusers", source / "unet" / "config.json", tmp_path / "run")


def test_a_source_and_a_run_may_be_in_a_bucket(runs, tmp_path, in_bucket):
    upload(written(tmp_path / "source", "copied"), in_bucket / "source")
    convert("diffusers", in_bucket / "source", in_bucket / "run")
    same(in_bucket / "run", runs / "copied")
    with pytest.raises(ConfigError, match="run is not empty"):
        convert("diffusers", in_bucket / "source", in_bucket / "run")
    result = export("safetensors", in_bucket / "run", in_bucket / "out")
    convert("safetensors", in_bucket / "out" / result.files[-1], tmp_path / "again")
    same(tmp_path / "again", runs / "copied")
    upload(written(tmp_path / "bad", "copied", attention_head_dim=5), in_bucket / "bad")
    with pytest.raises(ConfigError, match="attention_head_dim=5"):
        convert("diffusers", in_bucket / "bad", in_bucket / "none")
    assert not storage.exists(in_bucket / "none")


def test_nothing_is_written_over(tmp_path):
    source, out = written(tmp_path / "source", "trained"), tmp_path / "run"
    out.mkdir()
    convert("diffusers", source, out)
    with pytest.raises(ConfigError, match=r"--out=.*run is not empty. Name a new folder"):
        convert("diffusers", source, out)
    assert sorted(p.name for p in pathlib.Path(out).iterdir()) == ["checkpoints", "checkpoints.last", "config.json"]
