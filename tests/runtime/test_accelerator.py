"""What is installed fits the TPU of the host, or the user is told in one line what to install."""

import configparser
import os
import pathlib
import re
import subprocess
import sys

import pytest

from ddx.runtime import accelerator, devices
from ddx.runtime.accelerator import Host, refusal, unfit
from ddx.runtime.errors import AcceleratorError

ROOT = pathlib.Path(__file__).parents[2]
V3 = "Run pip install jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.41"
V5E = "Run pip install 'jax[tpu]==0.10.2'"
REFUSES_V3, GOOD_V3 = Host("v3", "0.10.2", "0.0.42", "0.0.42"), Host("v3", "0.10.2", "0.0.41", "0.0.42")
GOOD_V5E = Host("v5e", "0.10.2", "0.0.42.1", "0.0.42")
NO_TPU, COMPILER = Host("", "0.10.2", "", "0.0.42"), Host("", "0.10.2", "0.0.41", "0.0.42")


def starts(text):
    """What JAX makes of an error of libtpu."""
    hint = "(set JAX_PLATFORMS='' to automatically choose an available backend)"
    return f"Unable to initialize backend 'tpu': {text} {hint}"


def extras():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return {name: value.split() for name, value in setup["options.extras_require"].items()}


def test_the_extra_for_v3_is_what_the_messages_say():
    assert extras()["tpu-v3"] == [*accelerator.V3_PINS] == ["jax==0.10.2", "jaxlib==0.10.2", "libtpu==0.0.41"]
    assert "libtpu==0.0.41" in extras()["tpu-compile"] and extras()["tpu"] == ["jax[tpu]"]


@pytest.mark.parametrize("host", [GOOD_V3, GOOD_V5E, NO_TPU, COMPILER, Host("v6e", "0.12.0", "0.0.52", "0.0.52")])
def test_versions_that_match_are_used(host):
    assert unfit(host) is None


@pytest.mark.parametrize("host", [Host("v5e", "0.10.2", "", "0.0.42"), Host("v5e", "0.12.0", "0.0.60", "")])
def test_nothing_is_refused_where_versions_are_unknown(host):
    assert unfit(host) is None


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (REFUSES_V3, f"this libtpu (0.0.42) does not drive TPU v2 and v3. {V3}"),
        (Host("v3", "0.12.0", "0.0.52", "0.0.52"), f"this libtpu (0.0.52) does not drive TPU v2 and v3. {V3}"),
        (
            Host("v3", "0.12.0", "0.0.41", "0.0.52"),
            f"libtpu 0.0.41 does not match jax 0.12.0, which asks for libtpu 0.0.52. {V3}",
        ),
        (
            Host("v5e", "0.10.2", "0.0.21", "0.0.42"),
            f"libtpu 0.0.21 does not match jax 0.10.2, which asks for libtpu 0.0.42. {V5E}",
        ),
        (
            Host("v6e", "0.10.2", "0.0.9", "0.0.42"),
            f"libtpu 0.0.9 does not match jax 0.10.2, which asks for libtpu 0.0.42. {V5E}",
        ),
    ],
)
def test_versions_that_do_not_match_are_told_before_anything_starts(host, message):
    assert unfit(host) == message


# As libtpu 0.0.42 and jax 0.10.2 wrote them on a machine without a TPU, or as their sources have them.
DEPRECATED = (
    "TPU v2 and v3 are deprecated as of libtpu 1.0.0 and are no longer being supported. Please consider using a newer"
    " generation of TPU. If that is not possible, you can downgrade to a version of libtpu <1.0.0."
)
OLD_COMPILER = (
    "UNKNOWN: -:0:0: error: dialect 'sdy' does not implement the bytecode interface\n-:0:0: note: in bytecode version 6"
    " produced by: StableHLO_v1.13.7\n<unknown>:0: error: Failed to parse using StableHLO v1.9.8, this could indicate"
    " forward incompatibility, >12w old unsupported plugin, or a portable artifact that needs to be further"
    " downgraded.\n"
)
PJRT = "INTERNAL: Mismatched PJRT plugin PJRT API version (0.40) and framework PJRT API version 0.113)."
BY_PID = (
    "ABORTED: The TPU is already in use by process with pid 4711. Not attempting to load libtpu.so in this process."
)
LOCKED = 'ABORTED: Internal error when accessing libtpu multi-process lockfile. Run "$ sudo rm /tmp/libtpu_lockfile".'
OF_ANOTHER = (
    "ABORTED: The TPU is already in use by another process probably owned by another user. Run"
    ' "$ sudo lsof -w /dev/accel0" to figure out which process is using the TPU. If you still get this message, run'
    ' "$ sudo rm /tmp/libtpu_lockfile".'
)
BUSY = (
    "UNKNOWN: TPU initialization failed: open(/dev/vfio/0): Device or resource busy: Device or resource busy; Couldn't"
    " open iommu group /dev/vfio/0"
)
FORBIDDEN = "UNKNOWN: TPU initialization failed: open(/dev/accel0): Operation not permitted: Operation not permitted"
NONE_THERE = "NOT_FOUND: TPU initialization failed: No jellyfish device found."
NO_LIBRARY = "INTERNAL: Failed to open libtpu.so: libtpu.so: cannot open shared object file: No such file or directory"
NO_TOPOLOGY = "INTERNAL: Failed to get global TPU topology."
IN_USE = "the TPU is in use by another process (sudo lsof -w /dev/accel* /dev/vfio/* shows it). Wait for it or end it"


@pytest.mark.parametrize(
    ("text", "host", "message"),
    [
        (starts(f"INTERNAL: {DEPRECATED}"), REFUSES_V3, f"this libtpu (0.0.42) does not drive TPU v2 and v3. {V3}"),
        (DEPRECATED, NO_TPU, f"this libtpu (of unknown version) does not drive TPU v2 and v3. {V3}"),
        (OLD_COMPILER, GOOD_V5E._replace(libtpu="0.0.11"), f"which asks for libtpu 0.0.42. {V5E}"),
        (OLD_COMPILER, GOOD_V3._replace(libtpu="0.0.11"), f"which asks for libtpu 0.0.42. {V3}"),
        (starts(PJRT), GOOD_V5E._replace(libtpu="0.0.11"), "libtpu 0.0.11 does not match jax 0.10.2, which asks for"),
        (starts(BY_PID), GOOD_V3, "the TPU is in use by process 4711. Wait for it or end it (kill 4711), and start"),
        (starts(OF_ANOTHER), GOOD_V3, IN_USE),
        (starts(LOCKED), GOOD_V3, IN_USE),
        (starts(BUSY), GOOD_V5E, IN_USE),
        (starts(FORBIDDEN), GOOD_V3, "this user may not open the TPU: UNKNOWN: TPU initialization failed: open("),
        (starts(NONE_THERE), COMPILER, "JAX was told to use a TPU, and this host has none (NOT_FOUND: TPU"),
        (starts(NO_LIBRARY), Host("v3", "0.10.2", "", "0.0.42"), f"No such file or directory. {V3}, or set JAX_PLAT"),
        (starts(NO_LIBRARY), Host("v5e", "0.10.2", "", "0.0.42"), f"No such file or directory. {V5E}, or set JAX_PLA"),
        (starts(NO_TOPOLOGY), GOOD_V3, "TPU topology. Look for another process on it (sudo lsof -w /dev/accel*"),
        (
            "Unable to initialize backend 'cuda': Backend 'cuda' is not in the list of known backends: ['cpu', 'tpu']."
            " (set JAX_PLATFORMS='' to automatically choose an available backend)",
            NO_TPU,
            "known backends: ['cpu', 'tpu']. Run pip install 'jax[cuda13]==0.10.2', or set JAX_PLATFORMS=cpu",
        ),
        (
            "Unknown backend: 'gpu' requested, but no platforms that are instances of gpu are present. Platforms"
            " present are: cpu",
            NO_TPU,
            "JAX does not start on gpu: it is not there. Run pip install 'jax[cuda13]==0.10.2', or set JAX",
        ),
        (
            "jaxlib version 0.12.0 is newer than and incompatible with jax version 0.10.2. Please update your jax"
            " and/or jaxlib packages.",
            NO_TPU,
            "jaxlib does not match jax 0.10.2. Run pip install jax==0.10.2 jaxlib==0.10.2",
        ),
    ],
)
def test_what_an_accelerator_fails_of_is_one_line_with_what_to_do(text, host, message):
    found = refusal(text, host)
    assert message in found and "\n" not in found


@pytest.mark.parametrize(
    "text",
    ["", "INTERNAL: something", "bind: Address already in use", "the loss differs between devices", OLD_COMPILER],
)
def test_other_errors_are_not_taken_for_those_of_an_accelerator(text):
    assert refusal(text, NO_TPU) is None


def pci(folder, **chips):
    for name, (vendor, device) in chips.items():
        (folder / name).mkdir()
        (folder / name / "vendor").write_text(f"{vendor}\n")
        (folder / name / "device").write_text(f"{device}\n")
    return folder


def test_a_tpu_is_told_from_googles_network_cards(tmp_path):
    assert accelerator._tpu(pci(tmp_path, card=("0x1ae0", "0x0042"), gpu=("0x10de", "0x0027"))) == ""
    assert accelerator._tpu(pci(tmp_path, chip=("0x1ae0", "0x0027"))) == "v3"
    assert accelerator._tpu(tmp_path / "nothing") == ""


def test_the_libtpu_that_the_installed_jax_asks_for_is_known():
    host = accelerator.this_host()
    assert re.fullmatch(r"0\.0\.\d+", host.asked) and re.match(r"\d+\.\d+", host.jax)


@pytest.fixture
def on_host(monkeypatch):
    """Make this host look like another, where nobody asked for the CPU, on which JAX runs nonetheless."""

    def make(host):
        monkeypatch.setattr(accelerator, "this_host", lambda: host)
        monkeypatch.setattr(devices, "_cpu_is_wanted", lambda: False)

    return make


def test_nobody_trains_on_the_cpu_of_a_tpu_host_without_a_word(on_host, tiny_config, tmp_path):
    from ddx.training import train

    on_host(Host("v3", "0.10.2", "", "0.0.42"))
    message = f"this host has a TPU v3, but libtpu, its driver, is not installed. {V3}, or set JAX_PLATFORMS=cpu"
    with pytest.raises(AcceleratorError, match=re.escape(message)):
        train(tiny_config(), tmp_path / "run")
    assert AcceleratorError.exit_code == 2
    on_host(GOOD_V5E)
    with pytest.raises(AcceleratorError, match=r"TPU v5e, but JAX fell back to the CPU\. Set JAX_PLATFORMS=tpu to see"):
        devices.count()
    on_host(NO_TPU)
    assert devices.count() >= 1


@pytest.mark.parametrize("job", ["train", "sample", "interpolate", "reconstruct", "evaluate", "measure", "compare"])
def test_every_job_compares_versions_before_it_starts(on_host, tiny_config, tmp_path, job):
    from ddx import evaluation, sampling, training

    on_host(REFUSES_V3)
    arguments = {"train": (tiny_config(), tmp_path), "reconstruct": (tmp_path, tmp_path)}.get(job, (tmp_path,))
    with pytest.raises(AcceleratorError, match="does not drive TPU v2 and v3"):
        getattr(next(room for room in (training, sampling, evaluation) if hasattr(room, job)), job)(*arguments)


@pytest.mark.parametrize(
    ("platforms", "message"),
    [
        ("cuda", "error: JAX_PLATFORMS asks for what this host does not have. Unset it, or set it to cpu"),
        ("no_such", "error: JAX does not start on no_such: Backend 'no_such' is not in the list of known backends"),
    ],
)
def test_platforms_that_this_host_does_not_have_are_one_line(tmp_path, platforms, message):
    if pathlib.Path("/dev/nvidia0").exists():
        pytest.skip("this host has a GPU")
    command = [sys.executable, "-m", "launch.forward", f"--out={tmp_path}/out"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": platforms}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stderr.startswith(message) and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("wanted", "is_wanted"), [("cpu", True), ("cpu,tpu", True), ("tpu,cpu", False), ("", False)])
def test_who_asks_for_the_cpu_gets_it(monkeypatch, wanted, is_wanted):
    import jax

    monkeypatch.delenv("JAX_PLATFORM_NAME", raising=False)
    monkeypatch.setattr(type(jax.config), "jax_platforms", wanted, raising=False)
    assert devices._cpu_is_wanted() is is_wanted
    monkeypatch.setattr(type(jax.config), "jax_platforms", None, raising=False)
    monkeypatch.setenv("JAX_PLATFORM_NAME", wanted)
    assert devices._cpu_is_wanted() is is_wanted
