"""Whether what is installed fits the TPU of this host, and what a failed start of an accelerator means.

Every jax asks for a certain libtpu, the driver and compiler of TPUs, and libtpu drops old TPUs: from 0.0.42 on it
refuses v2 and v3. A libtpu that is much older than its jax ends the process without an error while it compiles, so
versions are compared before anything starts. This module does not import jax.
"""

import functools
import importlib.metadata
import pathlib
import re
from typing import NamedTuple

V3_PINS = ("jax==0.10.2", "jaxlib==0.10.2", "libtpu==0.0.41")  # the newest that drive TPU v2 and v3
_V3_LIBTPU = "0.0.41"

# TPUs by the PCI identity of their chips; v2 has that of v3. Google's network cards have the same vendor.
_VENDOR = "0x1ae0"
_CHIPS = {
    "0x0027": "v3",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "v7x",
}
_PCI = pathlib.Path("/sys/bus/pci/devices")

_BUSY = r"TPU is already in use|libtpu\.so( is)? already in use|libtpu_lockfile|(accel|vfio|TPU).{0,80} busy"
_UNMATCHED = (
    r"PJRT API|PJRT_\w+ size|StableHLO_?\s?v|StableHLO to plugin version|portable artifact|bytecode interface"
    r"|libtpu version|unsupported plugin"
)


class Host(NamedTuple):
    """What this host has: the TPU ("" for none) and the versions that are installed ("" for unknown or none)."""

    tpu: str
    jax: str
    libtpu: str
    asked: str  # the libtpu that this jax asks for


@functools.cache
def this_host() -> Host:
    """The host that this process runs on."""
    return Host(_tpu(_PCI), _version("jax"), _version("libtpu"), _asked("jax"))


def unfit(host: Host) -> str | None:
    """Why what is installed cannot drive the TPU of a host, with the remedy; None if it can, or nothing is known."""
    if not host.tpu or not host.libtpu:
        return None
    if host.tpu == "v3" and _numbers(host.libtpu) > _numbers(_V3_LIBTPU):
        return _refuses_v3(host)
    is_v3_pair = f"libtpu=={host.libtpu}" in V3_PINS and f"jax=={host.jax}" in V3_PINS
    return _unmatched(host) if _numbers(host.libtpu) < _numbers(host.asked) and not is_v3_pair else None


def on_cpu(host: Host) -> str | None:
    """The same, where JAX has fallen back to the CPU although nobody asked for it."""
    if not host.tpu:
        return None
    why, remedy = "libtpu, its driver, is not installed", _install(host)
    if host.libtpu:
        why, remedy = "JAX fell back to the CPU", "Set JAX_PLATFORMS=tpu to see why"
    return f"this host has a TPU {host.tpu}, but {why}. {remedy}, {_OR_CPU}"


def refusal(text: str, host: Host) -> str | None:
    """What the text of an error of JAX says of an accelerator, with the remedy; None if it is of something else."""
    text = " ".join(text.split())
    if "TPU v2 and v3 are deprecated" in text:
        return _refuses_v3(host)
    if process := re.search(r"already in use by process with pid (\d+)", text):
        return f"the TPU is in use by process {process[1]}. Wait for it or end it (kill {process[1]}), and start again"
    if re.search(_BUSY, text):
        return (
            f"the TPU is in use by another process ({_WHO} shows it). Wait for it or end it, and start again; if there"
            " is none, run sudo rm /tmp/libtpu_lockfile"
        )
    if jaxlib := re.search(r"jaxlib version \S+ is newer than and incompatible with jax version (\S+?)\.? ", text):
        return f"jaxlib does not match jax {jaxlib[1]}. Run pip install jax=={jaxlib[1]} jaxlib=={jaxlib[1]}"
    if (host.tpu or host.libtpu) and re.search(_UNMATCHED, text):
        return _unmatched(host)
    if started := re.search(r"Unable to initialize backend '(\w+)': (.*?)\.?( \(set JAX|\(you may|$)", text):
        return _did_not_start(started[1], started[2], host)
    if unknown := re.search(r"Unknown backend:? '?(\w+)'?", text):
        return _did_not_start(unknown[1], "it is not there", host)
    return None


def _did_not_start(platform: str, reason: str, host: Host) -> str:
    if platform != "tpu":
        remedy = f"Run pip install 'jax[cuda13]=={host.jax}'" if platform in ("cuda", "gpu") else "Unset JAX_PLATFORMS"
        return f"JAX does not start on {platform}: {reason}. {remedy}, {_OR_CPU}"
    if re.search(r"No \w+ device found|No TPU", reason) and not host.tpu:
        return f"JAX was told to use a TPU, and this host has none ({reason}). Unset JAX_PLATFORMS, {_OR_CPU}"
    if "ermi" in reason:  # Permission denied, Operation not permitted
        return f"this user may not open the TPU: {reason}. Start again as root, or in a container with --privileged"
    fits = host.libtpu and unfit(host) is None
    remedy = f"Look for another process on it ({_WHO}), restart the machine" if fits else _install(host)
    return f"the TPU does not start: {reason}. {remedy}, {_OR_CPU}"


def _refuses_v3(host: Host) -> str:
    return f"this libtpu ({host.libtpu or 'of unknown version'}) does not drive TPU v2 and v3. {_V3_INSTALL}"


def _unmatched(host: Host) -> str:
    other = host.asked and host.asked != host.libtpu
    asked = f", which asks for libtpu {host.asked}" if other else ""
    return f"libtpu {host.libtpu or 'of this host'} does not match jax {host.jax}{asked}. {_install(host)}"


def _install(host: Host) -> str:
    return _V3_INSTALL if host.tpu == "v3" else f"Run pip install 'jax[tpu]=={host.jax}'"


_V3_INSTALL = f"Run pip install {' '.join(V3_PINS)}"
_WHO = "sudo lsof -w /dev/accel* /dev/vfio/*"
_OR_CPU = "or set JAX_PLATFORMS=cpu to work on the CPU"


def _tpu(devices: pathlib.Path) -> str:
    for vendor in devices.glob("*/vendor"):
        try:
            if vendor.read_text().strip() == _VENDOR:
                chip = _CHIPS.get(vendor.with_name("device").read_text().strip())
                if chip:
                    return chip
        except OSError:
            continue
    return ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _asked(name: str) -> str:
    """The libtpu that the extra `tpu` of an installed package pins, "0.0.42" for libtpu==0.0.42.*."""
    try:
        needs = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    pins = (re.match(r"libtpu==([\d.]+?)(\.\*)?;", need.replace(" ", "")) for need in needs)
    return next((pin[1] for pin in pins if pin), "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
