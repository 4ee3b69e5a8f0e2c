"""How fast the programs of training and sampling are on the devices of this machine, and what memory they take."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddx.compiling.chips import MEASURED, check_what, peak
from ddx.compiling.job import Shape, check_batch, images_of, without_data
from ddx.compiling.programs import generator
from ddx.config.values import validate
from ddx.runtime import devices, memory, parallel
from ddx.runtime.errors import ConfigError
from ddx.runtime.progress import Progress
from ddx.training.program import make_program
from ddx.training.step import parts_in_loop
from ddx.training.summary import describe_devices, flops_per_step

_SMALLER = "Use a smaller train.batch_size or sample.batch_size"


@devices.job("measuring", _SMALLER)
def measure(
    config: ConfigDict,
    what: tuple[str, ...] = MEASURED,
    *,
    num_calls: int = 10,
    image_shape: Shape | None = None,
    num_classes: int | None = None,
) -> dict[str, Any]:
    """Run the programs that `ddx.train` and `ddx.sampling.sample` run, on random images, and measure them.

    Args:
      config: of a run; random weights of its network are made.
      what: of `ddx.compiling.chips.MEASURED`.
      num_calls: how many calls to measure, after the first, which is compiled, and one more. Each is waited for, and
        takes its images from the host, which training does while another call runs.
      image_shape: (H, W, C), if TFDS does not tell it of the config's data set.
      num_classes: of the data set, as image_shape.

    Returns:
      A dict that is JSON: the devices, and under "programs" for each of `what` the numbers of `_measured`; of sampling
      also num_steps of the sampler, batch_seconds, which they take by that, and batch_seconds_of_all, which all steps
      of the process would.

    Raises:
      ConfigError: the config or the batch cannot be used, or nothing tells the images.
      AcceleratorError, OutOfMemoryError: as `ddx.runtime.devices.job` says.
    """
    config = without_data(validate(config))
    check_what(what, MEASURED)
    if num_calls < 1:
        raise ConfigError(f"num_calls={num_calls} must be at least 1")
    image_shape, num_classes = images_of(config, image_shape, num_classes)
    for name in what:
        check_batch(name, config)
    if "sample" in what and config.sample.guidance_interval:
        raise ConfigError(
            f"sample.guidance_interval={config.sample.guidance_interval} makes some steps slower than others, and the"
            " first are measured for all; leave it empty, and then sample.guidance=1, to measure both kinds"
        )
    return {
        "devices": devices.count(),
        "device_kind": str(devices.every()[0].device_kind),
        "machine": describe_devices(),
        "jax": jax.__version__,
        "dtype": config.model.dtype,
        "image_shape": list(image_shape),
        "programs": {
            name: _PROGRAMS[name](config, image_shape, num_classes, num_calls) | {"peak_is_a_bound": i > 0}
            for i, name in enumerate(dict.fromkeys(what))
        },
    }


def _train(config: ConfigDict, image_shape: Shape, num_classes: int, num_calls: int) -> dict[str, Any]:
    program, size = make_program(config, image_shape, num_classes), config.train.batch_size
    rng, key = np.random.default_rng(config.seed), jax.random.key(config.seed)
    here = program.rows.stop - program.rows.start
    batch = {
        "image": rng.integers(0, 256, (here, *image_shape), np.uint8),
        "label": rng.integers(0, num_classes, here, np.int32),
    }
    work = program.work([batch] * program.per_call)
    state = program.place(parallel.run_once(program.initial, key))

    def call() -> Any:
        nonlocal state  # which is donated
        state, metrics = program.call(state, key, work)
        return state, metrics

    parts = parts_in_loop(config.train.accumulation)
    return _measured("train", lambda: program.lower(state), call, program.per_call, size, config, num_calls, parts)


def _sample(config: ConfigDict, image_shape: Shape, num_classes: int, num_calls: int) -> dict[str, Any]:
    system, found = generator(config, image_shape, num_classes)
    params = parallel.run_once(system.init, jax.random.key(config.seed))
    call, steps = found.first_piece(params), found.steps_a_piece
    size, total = config.sample.batch_size, found.num_steps
    made = _measured("sample", lambda: found.lower(params), call, steps, size, config, num_calls)
    seconds = made["ms"]["median"] / 1e3
    return made | {
        "images_per_second": size / (seconds * total),  # of whole images, not of steps
        "num_steps": total,
        "batch_seconds": seconds * total,
        "batch_seconds_of_all": seconds * config.process.num_steps,
    }


_PROGRAMS = {"train": _train, "sample": _sample}


def _measured(
    name: str,
    lower: Callable[[], Any],
    call: Callable[[], Any],
    steps: int,
    batch_size: int,
    config: ConfigDict,
    num_calls: int,
    parts: int = 1,
) -> dict[str, Any]:
    """What calls of so many steps take, as JSON.

    ms are of a step, and flops of a step on all devices, counted as a run's first screen does, before optimisation.
    utilisation is their share of what the devices could multiply in the median time, peak_flops; None where that is not
    known. peak_bytes is the most that was in use on a device, on CPU by the process, compiler included, since the
    process began: of the programs after the first it is a bound.
    """
    device = devices.own()[0]
    begun = time.perf_counter()
    with _compiler() as spent:
        lowered = lower()  # traced here, and not again when it is called
        jax.block_until_ready(call())
    first = time.perf_counter() - begun
    jax.block_until_ready(call())
    seconds = []
    with Progress(f"measuring {name}", num_calls, unit="call") as progress:
        for _ in range(num_calls):
            begun = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append((time.perf_counter() - begun) / steps)
            progress.advance()
            progress.tick()
    median = statistics.median(seconds)
    flops, most = flops_per_step(lowered, parts), peak(str(device.device_kind), config.model.dtype)
    return {
        "batch_size": batch_size,
        "steps_per_call": steps,
        "calls": num_calls,
        "first_call_seconds": first,
        "compile_seconds": spent["seconds"],
        "compiled_before": bool(spent["hits"]),
        "ms": {"min": 1e3 * min(seconds), "median": 1e3 * median, "max": 1e3 * max(seconds)},
        "steps_per_second": 1 / median,
        "images_per_second": batch_size / median,
        "flops": flops * devices.count() if flops else None,
        "peak_flops": most.flops * devices.count() if most else None,
        "peak_of": most.how if most else None,
        "utilisation": flops / median / most.flops if flops and most else None,
        "peak_bytes": memory.peak(device),
    }


@contextlib.contextmanager
def _compiler() -> Iterator[dict[str, float]]:
    """The seconds that XLA takes in the block, and how many programs it finds among those of an earlier process."""
    spent = {"seconds": 0.0, "hits": 0.0}

    def took(event: str, duration_secs: float, **_: str | int) -> None:
        spent["seconds"] += duration_secs * (event == "/jax/core/compile/backend_compile_duration")

    def happened(event: str, **_: str | int) -> None:
        spent["hits"] += event == "/jax/compilation_cache/cache_hits"

    jax.monitoring.register_event_duration_secs_listener(took)
    jax.monitoring.register_event_listener(happened)
    try:
        yield spent
    finally:
        jax.monitoring.unregister_event_duration_listener(took)
        jax.monitoring.unregister_event_listener(happened)


def told(result: dict[str, Any]) -> str:
    """The numbers of `measure` as a page for people; its last line is the sum of it."""
    shape = " x ".join(map(str, result["image_shape"]))
    lines = [f"{result['machine']}, jax {result['jax']}, {result['dtype']}, images of {shape}"]
    for name, made in result["programs"].items():
        lines += ["", *_told(name, made)]
    rates = [
        f"{name} {made['steps_per_second']:,.3g} steps/s, {made['images_per_second']:,.3g} images/s"
        for name, made in result["programs"].items()
    ]
    return "\n".join([*lines, "", f"measured {'; '.join(rates)}"])


def _told(name: str, made: dict[str, Any]) -> list[str]:
    ms, earlier = made["ms"], ", with programs of an earlier process" if made["compiled_before"] else ""
    lines = [
        f"{name}, {made['batch_size']} images a step",
        f"  time         {ms['median']:,.4g} ms a step, from {ms['min']:,.4g} to {ms['max']:,.4g} in {made['calls']}"
        f" calls of {made['steps_per_call']}; {made['steps_per_second']:,.3g} steps/s",
        f"  images       {made['images_per_second']:,.4g} a second",
        f"  first call   {made['first_call_seconds']:,.1f} s, of which the compiler took"
        f" {made['compile_seconds']:,.1f}{earlier}",
        f"  arithmetic   {_arithmetic(made)}",
        f"  memory       {'at most ' * made['peak_is_a_bound']}{made['peak_bytes'] / 2**20:,.0f} MiB at the peak",
    ]
    if "num_steps" in made:
        lines[2] += f", whole ones: {made['batch_seconds']:,.3g} s for a batch in {made['num_steps']:,} steps"
        lines[2] += f", {made['batch_seconds_of_all']:,.3g} s in all steps of the process"
    return lines


def _arithmetic(made: dict[str, Any]) -> str:
    if made["flops"] is None:
        return "not counted on these devices"
    counted = f"{made['flops'] / 1e9:,.1f} GFLOP a step"
    if made["utilisation"] is None:
        return f"{counted}; the peak of these devices in this dtype is not known, and so no utilisation"
    of = f"{made['peak_flops'] / 1e12:,.4g} TFLOP/s in {made['peak_of']}"
    return f"{counted}, {made['utilisation']:.1%} of the {of} that the devices could"
