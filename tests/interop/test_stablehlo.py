"""Programs for a service: without ddx, by the lines of the model card, they draw the images that ddx draws."""

import itertools
import json
import pathlib
import re
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import ddx
from ddx.diffusion.papers.ihdm import prior_images
from ddx.diffusion.random import example_keys, seed_key
from ddx.interop import export, stablehlo
from ddx.runs.checkpoint import Checkpoints
from ddx.runs.data import training_images
from ddx.runtime.errors import ConfigError
from ddx.system import make_system
from tests.conftest import BLURRING, HEAT, IMPROVED
from tests.test_cli import run

pytest.importorskip("flatbuffers")

FILES = ("programs.json", "model.safetensors", "sampler.stablehlo")


@pytest.fixture(scope="module")
def exported(whole, tmp_path_factory):
    """The network of `whole`, with DDIM in its own five steps."""
    out = tmp_path_factory.mktemp("exported") / "out"
    export("stablehlo", whole, out)
    return out


def lines(folder):
    """The code in a model card, for the folder where it lies."""
    card = (folder / "README.md").read_text()
    code = "\n".join(line for line in card.splitlines() if line.startswith("    ") or not line)
    return textwrap.dedent(code).replace('"FOLDER"', repr(str(folder)))


def executed(folder, code=None):
    """What these lines make, in this process."""
    found = {}
    exec(lines(folder) if code is None else code, found)
    return found


def alike(images, expected):
    """The same images, but for what is rounded to the grey level beside it."""
    assert images.dtype == np.uint8 and images.shape == expected.shape
    apart = np.abs(images.astype(int) - expected)
    assert apart.max() <= 1 and np.mean(apart > 0) < 0.01


def test_a_service_without_ddx_draws_the_same_images(exported, whole, tmp_path):
    blocked = "import sys\nfor name in ('ddx', 'flax', 'optax', 'orbax', 'ml_collections'): sys.modules[name] = None\n"
    code = blocked + lines(exported) + f"\nnp.save({str(tmp_path / 'images.npy')!r}, images)\n"
    path = [str(pathlib.Path(__file__).parents[2]), *map(str, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path += {path!r}\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    alike(np.load(tmp_path / "images.npy"), ddx.load(whole).sample(4))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_is_refused_by_its_checksum(exported, name, damage):
    whole = (exported / name).read_bytes()
    place = len(whole) // 2
    changed = whole[:place] if damage == "cut" else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    (exported / name).write_bytes(changed)
    try:
        with pytest.raises(ValueError, match=rf"{name} is not the file that was written\. Fetch it again"):
            executed(exported)
    finally:
        (exported / name).write_bytes(whole)


def test_an_image_depends_on_its_seed_and_its_number_alone(exported, whole):
    found = executed(exported, lines(exported).rpartition("images =")[0])
    own = ddx.load(whole)
    seed, index = np.array([7, 2**32 - 1, 7, 7, 0], np.uint32), np.array([2, 0, 0, 1, 3], np.uint32)
    of_seed = {n: own.sample(4, seed=n) for n in (0, 7, 2**32 - 1)}
    expected = np.stack([of_seed[int(s)][i] for s, i in zip(seed, index, strict=True)])
    alike(np.asarray(found["sampler"](found["weights"], seed, index)), expected)
    alike(np.asarray(found["sampler"](found["weights"], seed[:1], index[:1])), expected[:1])


def test_the_network_and_its_levels_are_enough_for_a_sampler_of_ones_own(exported, whole):
    """DDIM's equation 12 in NumPy, from what programs.json says alone."""
    found = executed(exported, lines(exported).rpartition("images =")[0])
    about = json.loads((exported / "programs.json").read_text())
    level = {name: np.array([np.nan, *values]) for name, values in about["levels"].items()}
    network = jax.jit(found["export"].deserialize(bytearray((exported / "network.stablehlo").read_bytes())).call)
    keys = [jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), 2**31 - 1) for i in range(4)]
    x = np.stack([jax.random.normal(key, (8, 8, 1)) for key in keys])
    for t, s in itertools.pairwise(ddx.trajectory(20, 5)):
        eps = network(found["weights"], x.astype(np.float32), np.full(4, level["model_time"][t], np.float32))
        x_0 = np.clip((x - level["sigma"][t] * np.asarray(eps)) / level["alpha"][t], -1, 1)
        eps = (x - level["alpha"][t] * x_0) / level["sigma"][t]
        x = level["alpha"][s] * x_0 + level["sigma"][s] * eps if s else x_0
    alike(np.rint((x + 1) * 127.5).astype(np.uint8), ddx.load(whole).sample(4))


SYSTEMS = {
    "of classes, from small images, with a learned variance": IMPROVED | {"model__low_res": 4},
    "from images": HEAT,
    "frequencies, in two levels with attention": BLURRING
    | {"model__multipliers": (1, 2), "model__attention_resolutions": (4,)},
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_drawn_as_ddx_draws_it(tiny_config, tmp_path, name):
    folder = untrained(tiny_config(**SYSTEMS[name]), tmp_path / "run")
    result = export("stablehlo", folder, tmp_path / "out", num_steps=0)
    assert all((tmp_path / "out" / file).is_file() for file in result.files)
    found, own = executed(tmp_path / "out", lines(tmp_path / "out").rpartition("images =")[0]), ddx.load(folder)
    given, told = [np.zeros(4, np.uint32), np.arange(4, dtype=np.uint32)], {}
    if own.model.num_classes:
        told["labels"] = (3, 1, 4, 1)
        given.append(np.array(told["labels"], np.int32))
    if own.model.low_res:
        given.append(np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1), np.uint8))
        np.save(tmp_path / "small.npy", given[-1])
        told["low_res"] = tmp_path / "small.npy"
    if own.system.starts_from_images:
        data, keys = training_images(own._source), example_keys(seed_key(0), np.arange(4))
        given.append(data.read(np.asarray(prior_images(keys, data.num_examples)))["image"])
    alike(np.asarray(found["sampler"](found["weights"], *given)), own.sample(4, num_steps=0, **told))


def untrained(config, folder):
    """The folder of a run with weights that are noise."""
    system, rng = make_system(config, (8, 8, 1), 10), np.random.default_rng(0)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)
    meta = {"config": config.to_dict(), "image_shape": [8, 8, 1], "num_classes": 10}
    Checkpoints(folder / "checkpoints").save(1, {"ema": params}, meta)
    return folder


def test_the_files_say_what_they_are_and_not_where_they_were_made(exported):
    about = json.loads((exported / "programs.json").read_text())
    assert about["written_by"] == {"ddx": ddx.__version__, "jax": jax.__version__, "jaxlib": jax.lib.__version__}
    assert about["sample"]["num_steps"] == 5 and about["config"]["process"]["num_steps"] == 20
    sampler = about["programs"]["sampler"]
    assert sampler["platforms"] == ["cpu", "cuda", "tpu"] and sampler["calling_convention_version"] >= 9
    assert list(sampler["inputs"]) == ["weights", "seed", "index"] and sampler["output"] == "uint8 (b, 8, 8, 1): images"
    for name in ("network", "sampler"):
        content = (exported / f"{name}.stablehlo").read_bytes()
        assert not re.search(rb"[\w/]+\.py\b", content)
        made = jax.export.deserialize(bytearray(content))
        assert made.platforms == ("cpu", "cuda", "tpu") and len(made.module_kept_var_idx) == len(made.in_avals)


@pytest.mark.tpu
def test_the_compiler_of_tpus_takes_the_programs(exported):
    from ddx.compiling.chips import machine

    place = jax.sharding.SingleDeviceSharding(machine("v3:2x2").devices[0])
    made = jax.export.deserialize(bytearray((exported / "sampler.stablehlo").read_bytes()))
    weights, seed, index = jax.tree.unflatten(made.in_tree, made.in_avals)[0]
    shapes = {name: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=place) for name, one in weights.items()}
    batch = [jax.ShapeDtypeStruct((4,), one.dtype, sharding=place) for one in (seed, index)]
    assert jax.jit(made.call).lower(shapes, *batch).compile().memory_analysis().output_size_in_bytes >= 4 * 64


def test_the_command_takes_the_flags_of_a_sampler_and_names_mistakes(whole, tmp_path):
    done = run("convert", "--to=stablehlo", f"--workdir={whole}", f"--out={tmp_path}/out", "--eta=-1")
    assert done.returncode == 2 and "eta=-1.0 must be " in done.stderr
    done = run("convert", "--from=ddim", "--eta=1", f"--out={tmp_path}/out")
    assert done.returncode == 2 and "--eta belongs to --to=stablehlo. Leave it out\n" in done.stderr
    assert not (tmp_path / "out").exists()


def test_mistakes_are_told_before_anything_is_written(whole, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"num_steps=5 belongs to the sampler that --to=stablehlo writes"):
        export("safetensors", whole, tmp_path / "out", num_steps=5)
    with pytest.raises(ConfigError, match=r"unknown setting num_step\. Did you mean num_steps"):
        export("stablehlo", whole, tmp_path / "out", num_step=5)
    monkeypatch.setattr(stablehlo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs flatbuffers\. Install it with pip install 'ddx\[export\]'"):
        export("stablehlo", whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()
