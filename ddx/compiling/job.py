"""Does a config fit on a TPU, and how fast is it there: what the TPU's compiler says of the programs that ddx runs."""

import collections
import time
from typing import Any

from ml_collections import ConfigDict

from ddx.compiling.chips import Machine, check_what, machine
from ddx.compiling.hlo import KINDS, SEND, Operation, has_float64, operations
from ddx.config.model_rules import check_image_size
from ddx.config.values import validate
from ddx.data.expected import expected
from ddx.runtime import devices
from ddx.runtime.errors import ConfigError, DdxError, telling_line
from ddx.runtime.progress import Progress

_FULL = 0.9  # of a device's memory: the rest is the runtime's
_MOST_EXPENSIVE = 10

Shape = tuple[int, int, int]


def compile_config(
    config: ConfigDict,
    topology: str = "v3:2x2",
    what: tuple[str, ...] = ("train", "sample"),
    *,
    num_slices: int = 1,
    image_shape: Shape | None = None,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """What the programs of a config take on each device of a TPU, without one.

    They are the functions that `ddx.train`, `ddx.sampling.sample` and `ddx.evaluation.evaluate` compile, on all devices
    of the topology.

    Args:
      config: of a run.
      topology: chip and arrangement, such as "v3:2x2", which is a v3-8.
      what: of `ddx.compiling.chips.WHAT`.
      num_slices: slices of that topology, which a data-centre network joins.
      image_shape: (H, W, C), if TFDS does not tell it of the config's data set.
      num_classes: of the data set, as image_shape.

    Returns:
      A dict that is JSON: the machine, and under "programs" for each of `what` the numbers of `cost`.

    Raises:
      ConfigError: the config, the topology or the batch cannot be used.
      AcceleratorError: the TPU compiler is not installed.
    """
    config = without_data(validate(config))
    check_what(what)
    image_shape, num_classes = images_of(config, image_shape, num_classes)
    for_machine = machine(topology, num_slices)
    from ddx.compiling.programs import PROGRAMS
    from ddx.training.step import parts_in_loop

    programs = {}
    with devices.compiling_for(for_machine.devices), Progress("compiling", len(what), unit="program") as progress:
        for name in what:
            check_batch(name, config)
            begun = time.monotonic()
            lowered, steps = PROGRAMS[name](config, image_shape, num_classes)
            parts = parts_in_loop(config.train.accumulation) if name == "train" else 1
            programs[name] = _compiled(lowered, name, for_machine, steps, parts)
            programs[name] |= {"seconds": round(time.monotonic() - begun, 1)}
            progress.advance(1)
            progress.tick()
    return {
        "topology": topology,
        "num_slices": num_slices,
        "devices": len(for_machine.devices),
        "device_kind": str(for_machine.devices[0].device_kind),
        "libtpu": for_machine.libtpu,
        "image_shape": list(image_shape),
        "programs": programs,
    }


def without_data(config: ConfigDict) -> ConfigDict:
    """The config of programs that cost the same and need no data: weights of noise are constants, whatever they are."""
    if config.process.noise == "equal_snr":
        config.process.noise = "power"
    return config


def images_of(config: ConfigDict, image_shape: Shape | None, num_classes: int | None) -> tuple[Shape, int]:
    """The shape of the images of a config's data set and its number of classes, as given or as TFDS tells them.

    Raises:
      ConfigError: nothing tells the shape, or the network cannot take it.
    """
    if image_shape is not None:
        check_image_size(*image_shape[:2], config.model.to_dict(), "images of")
    else:
        image_shape, found = expected(config.data.name, config.data.image_size, config.data.channels)
        num_classes = found if num_classes is None else num_classes
    return image_shape, num_classes or 1


def check_batch(name: str, config: ConfigDict) -> None:
    """Refuse, with a ConfigError, a batch of a program that the devices cannot share evenly."""
    here = len(devices.own())
    if name == "train":
        devices.check_divisible(config.train.batch_size, config.train.accumulation)
    elif config.sample.batch_size % here:
        raise ConfigError(
            f"sample.batch_size={config.sample.batch_size} is not divisible by {here} devices."
            f" Use {-(-config.sample.batch_size // here) * here}"
        )


def _compiled(lowered: Any, name: str, on: Machine, steps: int, parts: int) -> dict[str, Any]:
    try:
        compiled = lowered.compile()
    except Exception as error:
        line = telling_line(error)
        if "RESOURCE_EXHAUSTED" in str(error) or "Ran out of memory" in str(error):
            return {"fits": False, "why": line}
        raise DdxError(f"{name} does not compile for {on.topology}: {line}. Run with --debug to see where") from error
    return cost(compiled, on, steps, parts)


def cost(compiled: Any, on: Machine, steps: int, parts: int) -> dict[str, Any]:
    """What a compiled program takes on one device, as JSON.

    estimated_ms is the sum of the cycles that the compiler estimates over the clock, of one of the `steps` of a call:
    their loop counts once, and what is outside it, once_a_call_ms (0 for a call of one step), is shared by all of them.
    The times by kind and of operations are parts of it. optimal_ms is to it as the compiler's lower bound is to its
    estimate, both of the loop once and all that is outside; None where the bound is below zero, as of several slices.
    Collectives are in neither. A loop within a step takes the `parts` of a batch (train.accumulation) and counts as
    often. The compiler's own counts do not, so there is no bound then, nor bytes_accessed, and all FLOPs are taken so
    many times, the optimizer's too. FLOPs and bytes_accessed are the compiler's counts after its rewriting, of the loop
    once and all that is outside; share_of_peak is of estimated_ms.
    """
    memory, counted, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    written = operations(text)
    if not any(each.loops for each in written):
        steps = 1  # a call is a step
    once = sum(each.cycles for each in written if not each.loops) * (steps > 1)
    found = [each._replace(cycles=each.cycles * _often(each, steps, parts)) for each in written]
    cycles = sum(each.cycles for each in found)
    flops = parts * counted.get("flops", 0.0)
    seconds, optimal = cycles / on.chip.clock, counted.get("optimal_seconds", 0.0) * (parts == 1)
    optimal *= cycles / max(1, sum(each.cycles for each in written))
    taken = {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    total = sum(taken.values())
    sends = [each for each in found if each.opcode == SEND]
    collectives = [each for each in found if each.kind == "collective" and each.opcode != SEND]
    return {
        "fits": total <= _FULL * on.chip.memory,
        "memory": {**taken, "total": total, "of": int(on.chip.memory), "share": round(total / on.chip.memory, 4)},
        "flops": flops,
        "bytes_accessed": counted.get("bytes accessed") if parts == 1 else None,
        "estimated_ms": round(1e3 * seconds, 4),
        "steps_a_call": steps,
        "once_a_call_ms": round(1e3 * once / on.chip.clock, 4),
        "optimal_ms": round(1e3 * optimal, 4) if optimal > 0 else None,
        "share_of_peak": round(flops / seconds / on.chip.flops, 4) if cycles else None,
        "operations": sum(each.cycles > 0 for each in found),
        "ms_by_kind": _by_kind(found, on),
        "most_expensive": _most_expensive(found, on),
        "collectives": {"count": len(collectives), "bytes": sum(each.num_bytes for each in collectives)},
        "between_slices": {"count": len(sends), "bytes": sum(each.num_bytes for each in sends)},
        "float64": has_float64(text),
    }


def _often(operation: Operation, steps: int, parts: int) -> float:
    """How often an operation runs in a step."""
    within = operation.loops > (steps > 1)  # a loop in a step, or the step's own
    return 1 / steps if operation.loops == 0 else parts if within else 1


def _by_kind(found: list[Operation], on: Machine) -> dict[str, float]:
    sums: dict[str, float] = collections.defaultdict(float)
    for each in found:
        sums[each.kind] += each.cycles
    return {kind: round(1e3 * sums[kind] / on.chip.clock, 4) for kind in KINDS if sums[kind]}


def _most_expensive(found: list[Operation], on: Machine) -> list[dict[str, Any]]:
    """The operations that take longest, and where in the model they are from."""
    longest = sorted(found, key=lambda each: -each.cycles)[:_MOST_EXPENSIVE]
    return [
        {"ms": round(1e3 * each.cycles / on.chip.clock, 4), "name": each.name, "path": each.path} for each in longest
    ]


def told(result: dict[str, Any]) -> str:
    """The numbers of `compile_config` as a page for people."""
    lines = [
        f"{result['topology']}: {result['devices']} x {result['device_kind']}, by the compiler of libtpu"
        f" {result['libtpu']}. These are its estimates; nothing was run"
    ]
    for name, program in result["programs"].items():
        lines += ["", *_told(name, program)]
    return "\n".join(lines)


def _at_best(program: dict[str, Any]) -> str:
    return "no bound" if program["optimal_ms"] is None else f"{program['optimal_ms']:,.3g} ms at best"


def _once(program: dict[str, Any]) -> str:
    steps, once = program["steps_a_call"], program["once_a_call_ms"]
    return f", with 1/{steps} of {once:,.3f} ms that a call takes outside its loop of steps" if steps > 1 else ""


def _traffic(counted: dict[str, int]) -> str:
    return f"{counted['count']}, {counted['bytes'] / 2**20:,.1f} MiB"


def _told(name: str, program: dict[str, Any]) -> list[str]:
    if "memory" not in program:
        return [f"{name}: does not fit into the memory of a device: {program['why']}"]
    memory, ms = program["memory"], program["estimated_ms"]
    parts = ", ".join(
        f"{part} {memory[part] / 2**20:,.0f}" for part in ("arguments", "results", "temporaries", "program")
    )
    fits = "" if program["fits"] else f", MORE THAN {_FULL:.0%}: use more devices, a smaller batch or model.remat=True"
    lines = [
        f"{name}, a step on each device",
        f"  memory       {memory['total'] / 2**20:,.0f} of {memory['of'] / 2**20:,.0f} MiB, {memory['share']:.0%}"
        f" ({parts}){fits}",
        f"  time         {ms:,.3f} ms estimated{_once(program)}; {_at_best(program)};"
        f" {program['operations']:,} operations",
        f"  arithmetic   {program['flops'] / 1e9:,.1f} GFLOP, {program['share_of_peak']:.1%} of the matrix units' peak",
        f"  collectives  {_traffic(program['collectives'])} (not in the time)",
    ]
    if program["between_slices"]["count"]:
        lines.append(f"  sent         {_traffic(program['between_slices'])}, from slice to slice (not in the time)")
    if program["float64"]:
        lines.append("  float64      used, which a TPU computes in software")
    lines.append(
        "  by kind      " + ", ".join(f"{kind} {each:,.2f}" for kind, each in program["ms_by_kind"].items()) + " ms"
    )
    lines += [f"  {each['ms']:>9.3f} ms  {each['path'] or each['name']}" for each in program["most_expensive"]]
    return lines
