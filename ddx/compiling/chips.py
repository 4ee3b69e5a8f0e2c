"""What can be compiled for: TPU chips, and what libtpu says of machines made of them without any being there."""

import importlib.metadata
import importlib.util
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ddx.runtime.errors import AcceleratorError, ConfigError, did_you_mean, telling_line


class Chip(NamedTuple):
    """One kind of TPU, by the device, as JAX counts them: a core of v2 and v3, a chip from v4 on."""

    clock: float  # Hz, of the cycles that the compiler estimates
    flops: float  # FLOP/s of the matrix units in bfloat16, in which they also multiply float32 by default
    memory: float  # bytes of HBM
    accelerator: str  # what machines with it are called, before the number of cores or chips


# Google's documentation gives FLOP/s and memory of a chip. The clock follows: a chip of v2 has 2 matrix units of 128 x
# 128 multipliers, v3 4, v4 8, v5e 4, v5p 8, and v6e 2 of 256 x 256.
CHIPS = {
    "v2": Chip(0.70e9, 22.5e12, 8 * 2**30, "v2"),
    "v3": Chip(0.94e9, 61.5e12, 16 * 2**30, "v3"),
    "v4": Chip(1.05e9, 275e12, 32 * 2**30, "v4"),
    "v5e": Chip(1.50e9, 197e12, 16 * 2**30, "v5litepod"),
    "v5p": Chip(1.75e9, 459e12, 95 * 2**30, "v5p"),
    "v6e": Chip(1.75e9, 918e12, 32 * 2**30, "v6e"),
}


WHAT = ("train", "sample", "evaluate", "fid")  # programs
MEASURED = ("train", "sample")  # those that are run where the devices are


class Peak(NamedTuple):
    """The most that a device multiplies."""

    flops: float  # FLOP/s
    how: str  # the numbers that its units multiply


# By what JAX calls a device. Of float32, XLA multiplies the upper part alone where units for that are there: bfloat16
# on a TPU, TF32 on an NVIDIA GPU from A100 on. FLOP/s of dense matrices, by NVIDIA's data sheets; V100 and T4 have no
# bfloat16.
_TPU_KINDS = {
    r"TPU v2": "v2",
    r"TPU v3": "v3",
    r"TPU v4": "v4",
    r"TPU v5( lite|e)": "v5e",
    r"TPU v5p?": "v5p",
    r"TPU v6( lite|e)": "v6e",
}
_GPU_KINDS = {
    r"V100-SXM": (15.7e12, "float32", None),
    r"V100": (14.0e12, "float32", None),
    r"\bT4\b": (8.1e12, "float32", None),
    r"\bL4\b": (60e12, "TF32", 121e12),
    r"\bA100\b": (156e12, "TF32", 312e12),
    r"H[12]00 NVL": (417.5e12, "TF32", 835e12),
    r"H100 PCIe": (378e12, "TF32", 756e12),
    r"H100|H200": (494.5e12, "TF32", 989e12),
}


def peak(device_kind: str, dtype: str) -> Peak | None:
    """The most that a device multiplies in float32 or bfloat16, by what JAX calls it; None where that is not known."""
    for pattern, name in _TPU_KINDS.items():
        if re.fullmatch(pattern, device_kind):
            return Peak(CHIPS[name].flops, "bfloat16")
    for pattern, (of_float32, how, of_bfloat16) in _GPU_KINDS.items():
        if re.search(pattern, device_kind):
            found = {"float32": (of_float32, how), "bfloat16": (of_bfloat16, "bfloat16")}.get(dtype, (None, ""))
            return None if found[0] is None else Peak(found[0], found[1])
    return None


class Machine(NamedTuple):
    """A machine to compile for."""

    topology: str
    chip: Chip
    devices: tuple[Any, ...]
    libtpu: str  # the version of the compiler


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v3:2x2".

    Raises:
      ConfigError: there is none of that name, or it is not written so.
    """
    name = topology.partition(":")[0]
    if not re.fullmatch(r"\w+:\d+(x\d+){1,2}", topology):
        raise ConfigError(
            f"--topology={topology} is no topology. Write the chip and how many there are in each direction, such as"
            " v3:2x2 (a v3-8), v5e:2x4 or v4:2x2x1"
        )
    if name not in CHIPS:
        raise ConfigError(f"--topology={topology}: unknown chip. {did_you_mean(name, CHIPS)}Chips: {', '.join(CHIPS)}")
    return CHIPS[name]


def check_what(what: Sequence[str], known: Sequence[str] = WHAT) -> None:
    """Refuse, with a ConfigError, programs that are none of the known ones."""
    for name in what:
        if name not in known:
            raise ConfigError(f"--what={name} is unknown. {did_you_mean(name, known)}Choose of: {', '.join(known)}")


def machine(topology: str, num_slices: int = 1) -> Machine:
    """What `topology` stands for, by libtpu.

    Raises:
      ConfigError: there is no such topology.
      AcceleratorError: libtpu is not installed, or cannot be used.
    """
    chip = chip_of(topology)
    version = prepare(topology)
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": num_slices} if num_slices > 1 else {}
    if topology.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # as JAX has a v4: its two cores are one device
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as error:  # jax and libtpu each have their own
        if "INVALID_ARGUMENT" in str(error):
            raise ConfigError(
                f"--topology={topology}: libtpu {version} knows no such machine ({telling_line(error)})."
                " Try another arrangement, such as v3:2x2, v4:2x2x1, v5e:2x4, v5p:2x2x1 or v6e:2x4"
            ) from error
        raise AcceleratorError(
            f"libtpu {version} cannot be used ({telling_line(error)}). Install it with pip install 'ddx[tpu-compile]'"
        ) from error
    return Machine(topology, chip, tuple(found.devices), version)


def prepare(topology: str) -> str:
    """Have JAX find libtpu's compiler, which asks for a machine of its own otherwise; libtpu's version.

    Raises:
      AcceleratorError: it is not installed.
    """
    library = os.environ.get("TPU_LIBRARY_PATH")
    if library and not os.path.isfile(library):
        raise AcceleratorError(f"TPU_LIBRARY_PATH={library} is no file. Name libtpu.so, or leave the variable out")
    if importlib.util.find_spec("libtpu") is None and not library:
        raise AcceleratorError(
            "the TPU compiler is not installed. Install it with pip install 'ddx[tpu-compile]' (a 700 MB package for"
            " Linux, under Google's terms of service)"
        )
    chip, _, shape = topology.partition(":")
    cores = math.prod(map(int, shape.split("x"))) * (2 if chip in ("v2", "v3", "v4", "v5p") else 1)
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": f"{CHIPS[chip].accelerator}-{cores}",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(name, value)
    # A package's name for what is in a folder beside it, which is the one that is found unless a file is named.
    beside = [os.path.dirname(os.path.dirname(os.path.abspath(library)))] if library else sys.path
    found = importlib.metadata.distributions(name="libtpu", path=beside)
    return next((package.version for package in found), f"at {library}")
