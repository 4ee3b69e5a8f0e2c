"""How fast a config is here: measured numbers that agree with each other, and what chips could do."""

import json

import pytest

from ddx.compiling import measure
from ddx.compiling.chips import CHIPS, Peak, peak
from ddx.runtime.errors import ConfigError
from tests.test_cli import run


@pytest.fixture(scope="module")
def measured(tiny_config):
    """As on a device that could do 1 TFLOP/s."""
    config = tiny_config(sample__num_steps=10, sample__batch_size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "peak", lambda *_: Peak(1e12, "TF32"))
        return measure.measure(config, num_calls=3)


def test_the_numbers_of_a_program_agree_with_each_other(measured):
    assert json.loads(json.dumps(measured)) == measured
    assert (measured["devices"], measured["dtype"], measured["image_shape"]) == (1, "float32", [8, 8, 1])
    for name, made in measured["programs"].items():
        ms = made["ms"]
        assert 0 < ms["min"] <= ms["median"] <= ms["max"]
        assert made["steps_per_second"] * ms["median"] == pytest.approx(1000)
        steps = made.get("num_steps", 1)  # of sampling, for an image
        assert made["images_per_second"] * steps * ms["median"] / 1e3 == pytest.approx(made["batch_size"])
        assert made["utilisation"] * made["peak_flops"] * ms["median"] / 1e3 == pytest.approx(made["flops"])
        assert 0 < made["compile_seconds"] < made["first_call_seconds"]
        assert 50 * 2**20 < made["peak_bytes"] < 2**36
        assert made["peak_is_a_bound"] == (name == "sample")
        assert (made["calls"], made["steps_per_call"]) == (3, {"train": 1, "sample": 10}[name])


def test_a_training_step_computes_three_times_what_a_sampling_step_does(measured):
    """One pass forward and two backward, which have no gradient of the images: so a little less."""
    train, sample = (measured["programs"][name]["flops"] for name in ("train", "sample"))
    assert 2.5 < train / sample < 3.2


def test_sampling_is_told_for_its_steps_and_for_all_of_the_process(measured):
    made = measured["programs"]["sample"]
    assert made["num_steps"] == 10 and made["batch_seconds_of_all"] == pytest.approx(2 * made["batch_seconds"])
    assert made["batch_seconds"] == pytest.approx(10 * made["ms"]["median"] / 1e3)


def test_the_page_says_it_all_and_ends_in_one_line(measured):
    page = measure.told(measured).splitlines()
    assert page[0].startswith("1 x cpu (cpu), jax ") and page[0].endswith(", float32, images of 8 x 8 x 1")
    assert page[-1].startswith("measured train ") and "; sample " in page[-1]
    assert sum("of the 1 TFLOP/s in TF32 that the devices could" in line for line in page) == 2
    unknown = {name: made | {"utilisation": None} for name, made in measured["programs"].items()}
    assert "and so no utilisation" in measure.told(measured | {"programs": unknown})


def test_a_chip_is_known_by_what_jax_calls_it():
    tensor_cores = ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA L4")
    for kind in tensor_cores:  # half as many products of TF32 as of bfloat16, which has half its bits
        of_float32, of_bfloat16 = peak(kind, "float32"), peak(kind, "bfloat16")
        assert (of_float32.how, of_bfloat16.how) == ("TF32", "bfloat16")
        assert of_bfloat16.flops == pytest.approx(2 * of_float32.flops, rel=0.01)
    assert peak("NVIDIA H100 PCIe", "bfloat16").flops < peak("NVIDIA H200", "bfloat16").flops
    assert peak("NVIDIA H200 NVL", "bfloat16") == peak("NVIDIA H100 NVL", "bfloat16") != peak("NVIDIA H200", "bfloat16")
    for kind in ("Tesla V100-SXM2-16GB", "Tesla T4"):
        assert peak(kind, "float32").how == "float32" and peak(kind, "bfloat16") is None
    kinds = {
        "v2": "TPU v2",
        "v3": "TPU v3",
        "v4": "TPU v4",
        "v5e": "TPU v5 lite",
        "v5p": "TPU v5",
        "v6e": "TPU v6 lite",
    }
    for name, kind in kinds.items():
        assert peak(kind, "float32") == peak(kind, "bfloat16") == (CHIPS[name].flops, "bfloat16")
    assert {peak(kind, "float32") for kind in ("cpu", "NVIDIA L40S", "TPU v4 lite", "NVIDIA T400")} == {None}
    assert peak("NVIDIA RTX A1000 Laptop GPU", "bfloat16") is None  # no A100


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_calls": 0}, "num_calls=0 must be at least 1"),
        ({"what": ("train", "evaluate")}, "--what=evaluate is unknown. Choose of: train, sample"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny_config, given, message):
    with pytest.raises(ConfigError, match=message):
        measure.measure(tiny_config(), **given)


def test_steps_that_differ_are_not_measured_by_the_first(tiny_config):
    guided = {"model__class_conditional": True, "model__label_dropout": 0.1, "sample__guidance": 2.0}
    with pytest.raises(ConfigError, match=r"guidance_interval=\(5, 9\) makes some steps slower than others"):
        measure.measure(tiny_config(**guided, sample__guidance_interval=(5, 9)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config is missing"),
        (["--config=digits", "--workdir=runs/x"], "--workdir is a folder of a run"),
        (["--config=digits", "--what=trian"], "--what=trian is unknown. Did you mean train"),
        (["--config=digits", "--num_calls=0"], "--num_calls=0 must be at least 1"),
        (["--config=digits", "--num_classes=0"], "--num_classes=0 must be at least 1"),
        (["--config=digits", "--image_shape=8,8"], "--image_shape=8,8 must be H,W,C"),
        (["--config=digits", "--image_shape=7,7,1"], "7 x 7: both must be multiples of 2"),
        (["--config=digits", "--topology=v3:2x2"], "unknown flag --topology"),
    ],
)
def test_mistakes_are_told_at_once(flags, message):
    done = run("bench", *flags)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_command_writes_its_numbers(tmp_path):
    tiny = ("channels=16", "multipliers=1,", "num_blocks=1", "attention_resolutions=()", "groups=8", "dtype=bfloat16")
    settings = ("--config.sample.num_steps=5", "--config.sample.batch_size=4", f"--json={tmp_path / 'x.json'}")
    model = [f"--config.model.{one}" for one in tiny]
    done = run("bench", "--config=digits", "--what=sample", "--num_calls=2", *settings, *model)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "x.json").read_text())
    assert measure.told(result) in done.stdout and done.stdout.endswith(f"wrote {tmp_path / 'x.json'}\n")
    assert result["dtype"] == "bfloat16" and not result["programs"]["sample"]["peak_is_a_bound"]
