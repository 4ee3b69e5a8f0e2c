"""What the shipped configs take on TPUs: each on the smallest of some machines that holds it, as a table."""

import json
from collections.abc import Sequence
from typing import Any

import jax

from ddx.compiling.job import compile_config
from ddx.config import files
from ddx.config.values import to_json, validate
from ddx.runtime import memory, storage
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import Path
from ddx.runtime.storage import digest, write_json

RUNS = (
    *("digits", "digits_dit", "digits_iddpm", "digits_blurring", "digits_ihdm", "digits_flow"),
    *("ddpm_cifar10", "iddpm_cifar10:hybrid", "analytic_cifar10:linear", "dit_imagenet64:b"),
    *("blurring_cifar10", "ihdm_cifar10", "ihdm_mnist:small", "ihdm_mnist:mnist", "ddim_celeba64", "ihdm_afhq:64"),
    *("iddpm_imagenet64:uncond", "iddpm_imagenet64:class", "ihdm_lsun_church", "ihdm_ffhq:128"),
    *("blurring_lsun_church128", "ddpm_celebahq256", "ddpm_lsun:bedroom", "iddpm_lsun:bs128"),
    *("ddpm_lsun:bedroom_large", "ihdm_afhq:256", "ihdm_ffhq:256", "iddpm_imagenet64:upsampler"),
    *("adm_imagenet:64", "adm_imagenet:128", "adm_imagenet:256", "adm_imagenet:upsampler"),
)
"""The shipped configs, from the quickest to compile on. A head is trained on the network of another run."""

MACHINES = ("v3:2x2", "v3:4x4", "v3:4x8", "v3:8x8")
"""From the TPU of DDPM's paper on: v3-8, v3-32, v3-64 and v3-128."""

_IMAGES = {"downsampled_imagenet/64x64": ((64, 64, 3), 1)}  # TFDS does not tell


def compile_shipped(path: Path, names: Sequence[str] = RUNS, what: tuple[str, ...] = ("train",)) -> str:
    """Compile configs, keep their numbers in a JSON file, and tell all that it holds as a table in Markdown.

    What the file has already is not compiled again, unless its config is another one by now.

    Raises:
      DdxError: as `compile_config` says; what was compiled before is in the file.
    """
    known: dict[str, Any] = json.loads(storage.read_text(path)) if storage.is_file(path) else {}
    for name in names:
        config = files.load(name)
        if config.data.name == "folder":
            config.data.dir = "images"  # which are not read
        config = validate(config)
        shape, num_classes = _IMAGES.get(config.data.name, (None, None))
        seal = digest(to_json(config))
        if known.get(name, {}).get("config") != seal:
            known[name] = {"config": seal, "programs": {}}
        found = known[name]
        for program in what:
            for topology in _machines_left(found["programs"].get(program)):
                print(f"{name}: {program} for {topology}", flush=True)
                try:
                    made = compile_config(config, topology, (program,), image_shape=shape, num_classes=num_classes)
                except ConfigError as error:  # the batch has fewer images than the machine devices
                    print(f"{name}: {error}", flush=True)
                    break
                finally:
                    jax.clear_caches()  # or the programs of all configs together take tens of GB
                    memory.give_back()
                found["programs"][program] = made["programs"][program] | {
                    key: made[key] for key in ("topology", "devices", "libtpu")
                }
                write_json(path, known)
                if made["programs"][program]["fits"]:
                    break
    return table(known)


def _machines_left(made: dict[str, Any] | None) -> tuple[str, ...]:
    """The machines that are still to be tried for a program, by what was found for it; none where one holds it."""
    if made is None:
        return MACHINES
    return () if made["fits"] else MACHINES[MACHINES.index(made["topology"]) + 1 :]


def table(known: dict[str, Any]) -> str:
    """The numbers of `compile_shipped` as Markdown, in the order of `RUNS`."""
    lines = [
        "| config | TPU | training: memory of a device | step | sampling: memory | step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in (name for name in RUNS if name in known):
        programs = known[name]["programs"]
        machine = programs.get("train", programs.get("sample", {})).get("topology", "")
        cells = [cell for program in ("train", "sample") for cell in _cells(programs.get(program), machine)]
        lines.append(f"| `{name}` | {machine} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(program: dict[str, Any] | None, machine: str) -> tuple[str, str]:
    """A program's share of the memory, and the time of its step."""
    if program is None:
        return "", ""
    if "memory" not in program:
        return f"does not fit on {program['topology']}", ""
    where = "" if program["topology"] == machine else f" on {program['topology']}"
    fits = "" if program["fits"] else ", too much"
    best = "" if program["optimal_ms"] is None else f" ({program['optimal_ms']:,.3g} at best)"
    ms = f"{program['estimated_ms']:,.3g} ms{best}"
    return f"{program['memory']['share']:.0%}{where}{fits}", ms
