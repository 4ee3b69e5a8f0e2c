"""What a config costs on a TPU: reading the compiler's text, and mistakes, without it; all of it behind `tpu`."""

import json
import os
import pathlib
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from ddx.compiling import chips, shipped
from ddx.compiling.chips import CHIPS, Machine, chip_of, machine
from ddx.compiling.hlo import has_float64, operations
from ddx.compiling.job import compile_config, cost, told
from ddx.config import files
from ddx.data.expected import expected
from ddx.runtime.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
CYCLES = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'
PROGRAM = "\n".join(
    [
        "%body.1 (arg: (f32[8], s32[])) -> (f32[8], s32[]) {",
        '  %conv.1 = f32[4,8,8,16]{3,0,2,1:T(8,128)} fusion(%a), kind=kOutput, metadata={op_name="jit(_fun)/shard_map/'
        'while/body/jvp(UNet)/UNet._network/up_0_block_0/conv1/conv_general_dilated"}, ' + CYCLES % 940,
        '  %conv.2 = f32[3,3,16,16]{3,2,1,0} fusion(%b), metadata={op_name="jit(_fun)/shard_map/while/body/'
        'transpose(jvp(UNet))/UNet._network/up_0_block_0/conv1/conv_general_dilated"}, ' + CYCLES % 1880,
        '  %r = (f32[4,16]{1,0}, f32[4,16]{1,0}) fusion(%c), metadata={op_name="jit(_fun)/shard_map/while/body/'
        'jvp(UNet)/UNet._network/down_1_attn_0/norm/reduce_sum"}, ' + CYCLES % 94,
        '  %m = f32[16]{0} fusion(%c), metadata={op_name="jit(_fun)/while/body/optimizer/add"}, ' + CYCLES % 47,
        "  %all-reduce.3 = (f32[16]{0}, /*index=1*/bf16[3,3,16,16]{3,2,1,0}) all-reduce(%d, %e), channel_id=1",
        "  %free = f32[16]{0} bitcast(%m)",
        "}",
        "ENTRY %main.2 (p: f32[8]) -> f32[8] {",
        "  %copy.9 = f32[8]{0} copy(%p), " + CYCLES % 10,
        "  %while.1 = (f32[8]{0}, s32[]) while(%tuple.1), condition=%until.1, body=%body.1",
        "}",
    ]
)
NESTED = "\n".join(
    [
        "%part.1 (arg: f32[8]) -> f32[8] {",
        "  %a = f32[8]{0} add(%arg, %arg), " + CYCLES % 1000,
        "}",
        "%branch.1 (arg: f32[8]) -> f32[8] {",
        "  %b = f32[8]{0} add(%arg, %arg), " + CYCLES % 2000,
        "}",
        "%body.1 (arg: f32[8]) -> f32[8] {",
        "  %while.2 = f32[8]{0} while(%arg), condition=%until.2, body=%part.1",
        "  %c = f32[8]{0} add(%arg, %arg), " + CYCLES % 4000,
        "  %conditional.1 = f32[8]{0} conditional(%p, %c, %c), branch_computations={%branch.1, %branch.2}",
        "}",
        "ENTRY %main.2 (p: f32[8]) -> f32[8] {",
        "  %d = f32[8]{0} copy(%p), " + CYCLES % 8000,
        "  %while.1 = f32[8]{0} while(%tuple.1), condition=%until.1, body=%body.1",
        "}",
    ]
)


def test_operations_are_told_by_what_they_are_of():
    found = operations(PROGRAM)
    assert [each.name for each in found] == ["conv.1", "conv.2", "r", "m", "all-reduce.3", "copy.9"]
    assert [each.kind for each in found] == [
        "convolution",
        "convolution",
        "attention",
        "optimizer",
        "collective",
        "step",
    ]
    assert [each.cycles for each in found] == [940, 1880, 94, 47, 0, 10]
    assert [each.loops for each in found] == [1] * 5 + [0]
    assert found[0].path == "UNet/up_0_block_0/conv1/conv_general_dilated"
    assert found[1].path == "backward/UNet/up_0_block_0/conv1/conv_general_dilated"
    assert found[4].num_bytes == 4 * 16 + 2 * 9 * 16 * 16
    assert not has_float64(PROGRAM) and has_float64("%x = f64[3]{0} add(%y, %z)")


CHAIN = 'f32[4,2]{1,0:T(8,128)} all-gather(%%p), channel_id=%s, frontend_attributes={chain_id="%s"}'
ASYNCHRONOUS = "\n".join(
    [
        "%fused.1 (p: f32[1,2]) -> f32[4,2] {",
        "  %all-gather.1 = " + CHAIN % (1, 7),
        "}",
        "%async_collective_fusion.1 (p: f32[1,2]) -> f32[4,2] {",
        "  %all-gather.2 = " + CHAIN % (1, 7),
        "  %all-gather.3 = " + CHAIN % (1, 8),
        "}",
        "%body.1 (arg: f32[8]) -> f32[8] {",
        "  %start.1 = f32[4,2]{1,0} fusion(%arg), kind=kCustom, calls=%fused.1",
        "  %done.1 = f32[4,2]{1,0} fusion(%start.1), kind=kCustom, calls=%async_collective_fusion.1",
        "  %all-gather-start.1 = (f32[1,2]{1,0}, f32[4,2]{1,0}) all-gather-start(%arg), channel_id=2",
        "  %collective-permute-start.1 = (bf16[8]{0}, bf16[8]{0}, u32[], u32[]) collective-permute-start(%arg)",
        "  %all-reduce-start.1 = f32[8]{0} all-reduce-start(%arg), channel_id=3",
        "  %send.1 = (f32[3,2]{1,0:T(4,128)}, u32[], token[]) send(%arg, %after), channel_id=4",
        "}",
        "ENTRY %main.2 (p: f32[8]) -> f32[8] {",
        "  %while.1 = f32[8]{0} while(%p), condition=%until.1, body=%body.1",
        "}",
    ]
)


def test_a_collective_counts_once_and_by_its_result():
    found = {each.name: (each.opcode, each.num_bytes, each.loops) for each in operations(ASYNCHRONOUS)}
    assert found == {
        "all-gather.1": ("all-gather", 32, 1),
        "all-gather.3": ("all-gather", 32, 1),
        "all-gather-start.1": ("all-gather", 32, 1),
        "collective-permute-start.1": ("collective-permute", 16, 1),
        "all-reduce-start.1": ("all-reduce", 32, 1),
        "send.1": ("send", 24, 1),
    }


def test_a_step_has_a_share_of_what_is_once_a_call_and_all_parts_of_its_batch():
    assert {each.name: each.loops for each in operations(NESTED)} == {"a": 2, "b": 1, "c": 1, "d": 0}
    compiled = SimpleNamespace(
        memory_analysis=lambda: SimpleNamespace(
            argument_size_in_bytes=0,
            output_size_in_bytes=0,
            alias_size_in_bytes=0,
            temp_size_in_bytes=0,
            generated_code_size_in_bytes=0,
        ),
        cost_analysis=lambda: {"flops": 5.0, "optimal_seconds": 1e-5},
        as_text=lambda: NESTED,
    )
    chip = CHIPS["v3"]
    for steps, parts, cycles in ((1, 1, 15000), (1, 4, 36000), (10, 1, 7800), (10, 4, 10800)):
        found = cost(compiled, Machine("v3:2x2", chip, (), ""), steps, parts)
        assert found["estimated_ms"] == pytest.approx(1e3 * cycles / chip.clock, abs=1e-4)
        assert sum(found["ms_by_kind"].values()) == pytest.approx(found["estimated_ms"], abs=4e-4)
        assert found["once_a_call_ms"] == pytest.approx(1e3 * 8000 * (steps > 1) / chip.clock, abs=1e-4)
        assert found["steps_a_call"] == steps
        bound = None if parts > 1 else pytest.approx(1e3 * 1e-5 * cycles / 15000, abs=1e-4)
        assert found["flops"] == 5 * parts and found["optimal_ms"] == bound


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v3", r"is no topology\. Write the chip"),
        ("v3:2", "is no topology"),
        ("v3:2x", "is no topology"),
        ("v9:2x2", "unknown chip.*Chips: v2, v3"),
        ("v5:2x4", r"unknown chip\. Did you mean v5"),
        ("", "is no topology"),
    ],
)
def test_a_topology_that_is_none_is_refused(topology, message):
    with pytest.raises(ConfigError, match=message) as error:
        chip_of(topology)
    assert "\n" not in str(error.value)


def test_the_clock_of_a_chip_is_that_of_its_multipliers():
    """FLOP/s = 2 a multiplier and cycle; of each device."""
    units = {"v2": 128**2, "v3": 2 * 128**2, "v4": 8 * 128**2, "v5e": 4 * 128**2, "v5p": 8 * 128**2, "v6e": 4 * 256**2}
    for name, chip in CHIPS.items():
        assert chip.flops == pytest.approx(2 * units[name] * chip.clock, rel=0.03), name


@pytest.mark.parametrize(
    ("name", "size", "channels", "found"),
    [
        ("digits", 0, 0, ((8, 8, 1), 10)),
        ("digits", (16, 8), 3, ((16, 8, 3), 10)),
        ("cifar10", 0, 0, ((32, 32, 3), 10)),
        ("mnist", 32, 0, ((32, 32, 1), 10)),
        ("lsun/church_outdoor", 256, 0, ((256, 256, 3), 1)),
        ("imagenet2012", 64, 0, ((64, 64, 3), 1000)),
        ("folder", 64, 0, ((64, 64, 3), 1)),
    ],
)
def test_images_are_known_before_they_are_there(name, size, channels, found):
    assert expected(name, size, channels) == found


@pytest.mark.parametrize(("name", "message"), [("folder", "size of the images"), ("nosuchset", "TFDS does not tell")])
def test_images_of_which_nothing_is_known_are_asked_for(name, message):
    with pytest.raises(ConfigError, match=f"{message}.*--image_shape"):
        expected(name, 0, 0)


def launch(*flags, **env):
    command = [sys.executable, "-m", "launch.compile", *flags]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 2, "--config is missing"),
        (["--config=digits", "--topology=v3"], 2, "--topology=v3 is no topology"),
        (["--config=digits", "--what=trian"], 2, "--what=trian is unknown. Did you mean train"),
        (["--config=digits", "--image_shape=32,32"], 2, "--image_shape=32,32 must be H,W,C"),
        (["--config=digits", "--num_slices=0"], 2, "--num_slices=0 must be at least 1"),
        (["--shipped", "--config=digits", "--json=x"], 2, "--shipped chooses --config itself"),
        (["--shipped"], 2, "Name it with --json"),
        (["--config=digits", "--workdir=runs/x"], 2, "--workdir is a folder of a run"),
        (["--config=digits", "--json=/nowhere/x.json"], 3, "cannot write /nowhere/x.json (No such file or directory)"),
        (["--shipped", "--json=/nowhere/x.json"], 3, "cannot write /nowhere/x.json (No such file or directory)"),
        (["--config=digits", "--json=/"], 3, "cannot write / (Is a directory). Name a file"),
        (["--config=digits", "--json=s3://b/x"], 2, "--json=s3://b/x"),
    ],
)
def test_mistakes_are_told_at_once(flags, code, message):
    done = launch(*flags)
    assert done.returncode == code and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.tpu
def test_digits_compile_for_a_v3_8(tmp_path):
    done = launch("--config=digits", "--what=train,sample,evaluate", f"--json={tmp_path / 'x.json'}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["devices"] == 8 and result["device_kind"] == "TPU v3" and told(result) in done.stdout
    for name, program in result["programs"].items():
        assert program["fits"] and not program["float64"], name
        assert program["estimated_ms"] > program["optimal_ms"] > 0
        assert sum(program["ms_by_kind"].values()) == pytest.approx(program["estimated_ms"], rel=1e-3)
    assert result["programs"]["train"]["collectives"]["bytes"] >= 4 * 701_345


def test_every_shipped_config_is_in_the_table_and_known():
    names = re.findall(r"^\| `configs/(\w+)\.py(:[\w]+)?", (ROOT / "docs" / "configs.md").read_text(), re.M)
    assert sorted(name + form for name, form in names if name != "heads") == sorted(shipped.RUNS)
    for name in shipped.RUNS:
        files.load(name)


def test_images_that_tfds_does_not_tell_have_the_size_that_their_configs_say():
    for config in map(files.load, shipped.RUNS):
        (height, width, _), _ = shipped._IMAGES.get(config.data.name, ((0, 0, 0), 0))
        assert height == width and (not height or config.data.image_size in (0, height)), config.data.name


def test_the_table_says_what_fits_where():
    program = {"memory": {"share": 0.256}, "estimated_ms": 24.04, "optimal_ms": 17.19, "fits": True}
    known = {
        "ddpm_cifar10": {
            "programs": {"train": program | {"topology": "v3:2x2"}, "sample": program | {"topology": "v3:4x4"}}
        },
        "digits": {"programs": {"train": {"topology": "v3:4x8", "fits": False, "why": "RESOURCE_EXHAUSTED"}}},
    }
    assert shipped.table(known).splitlines()[2:] == [
        "| `digits` | v3:4x8 | does not fit on v3:4x8 |  |  |  |",
        "| `ddpm_cifar10` | v3:2x2 | 26% | 24 ms (17.2 at best) | 26% on v3:4x4 | 24 ms (17.2 at best) |",
    ]


def test_a_table_that_was_interrupted_goes_on_with_the_next_machine(tmp_path, monkeypatch):
    compiled = []

    def compile_config(config, topology, what, **images):
        compiled.append(topology)
        if topology == "v3:4x4" and len(compiled) == 2:
            raise KeyboardInterrupt
        program = {"memory": {"share": 1.2}, "estimated_ms": 2.0, "optimal_ms": 1.0, "fits": topology == "v3:4x4"}
        return {"topology": topology, "devices": 8, "libtpu": "", "programs": dict.fromkeys(what, program)}

    monkeypatch.setattr(shipped, "compile_config", compile_config)
    monkeypatch.setattr(shipped.jax, "clear_caches", lambda: None)  # nothing was compiled, and later tests want theirs
    with pytest.raises(KeyboardInterrupt):
        shipped.compile_shipped(tmp_path / "v3.json", ("digits",))
    for _ in range(2):
        assert "| `digits` | v3:4x4 | 120% | 2 ms" in shipped.compile_shipped(tmp_path / "v3.json", ("digits",))
    assert compiled == ["v3:2x2", "v3:4x4", "v3:4x4"]


@pytest.mark.tpu
def test_what_is_in_the_file_is_not_compiled_again(tmp_path, monkeypatch):
    chips.prepare("v3:2x2")
    found = shipped.compile_shipped(tmp_path / "v3.json", ("digits",))
    assert "| `digits` | v3:2x2 | 0% |" in found
    monkeypatch.setattr(shipped, "compile_config", lambda *_, **__: pytest.fail("compiled again"))
    assert shipped.compile_shipped(tmp_path / "v3.json", ("digits",)) == found


@pytest.mark.tpu
@pytest.mark.parametrize(
    ("topology", "slices", "devices"),
    [
        ("v2:2x2", 1, 8),
        ("v3:4x4", 1, 32),
        ("v4:2x2x1", 1, 4),
        ("v5e:2x4", 1, 8),
        ("v5e:2x2", 2, 8),
        ("v5p:2x2x1", 1, 4),
        ("v6e:2x4", 1, 8),
    ],
)
def test_digits_compile_for_other_machines(topology, slices, devices):
    flags = [f"--topology={topology}", f"--num_slices={slices}", "--config.train.batch_size=64", "--what=train,sample"]
    done = launch("--config=digits", *flags)
    assert done.returncode == 0, done.stderr
    assert f"{topology}: {devices} x TPU" in done.stdout
    assert " -" not in done.stdout and ("no bound" in done.stdout) == (slices > 1)


@pytest.mark.tpu
def test_weights_are_gathered_as_often_on_every_chip():
    """Whether the compiler does so beside other work, as on a v5e, whose sums come divided, or not, as on a v3."""
    for_chip = {
        topology: compile_config(files.load("digits"), topology, ("train",))["programs"]["train"]["collectives"]
        for topology in ("v3:2x2", "v5e:2x4")
    }
    assert 0.5 < for_chip["v5e:2x4"]["bytes"] / for_chip["v3:2x2"]["bytes"] < 1
    assert for_chip["v5e:2x4"]["count"] < 2 * for_chip["v3:2x2"]["count"]


@pytest.mark.tpu
def test_a_v4_is_told_by_chip():
    """Two cores as one, so that a product takes what the matrix units of both take together, and 32 GiB are there."""
    found = machine("v4:2x2x1")
    shape = jax.ShapeDtypeStruct((8192, 8192), jnp.bfloat16, sharding=SingleDeviceSharding(found.devices[0]))
    told = cost(jax.jit(jnp.matmul).lower(shape, shape).compile(), found, 1, 1)
    assert 0.6 < told["share_of_peak"] < 1
    large = jax.ShapeDtypeStruct((5 * 2**30,), jnp.float32, sharding=SingleDeviceSharding(found.devices[0]))
    assert cost(jax.jit(lambda x: x[:8]).lower(large).compile(), found, 1, 1)["memory"]["share"] > 0.6


@pytest.mark.tpu
def test_a_batch_that_no_device_holds_is_told():
    done = launch("--config=digits", "--what=train", "--config.train.batch_size=524288")
    assert done.returncode == 0 and "does not fit" in done.stdout
