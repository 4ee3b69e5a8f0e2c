"""A network and its sampler as programs that a service runs without ddx: StableHLO, by `jax.export`.

network.stablehlo    what the network puts out for noisy images
sampler.stablehlo    images, as `launch.sample` draws them
programs.json        what goes in and comes out, which versions wrote them, and the SHA-256 of all files
model.safetensors    the weights, which both programs take as their first input

The weights are no part of the programs. A program of any batch is compiled anew for each size, and each compiled one
would hold its own copy of them on the device; and one file serves both programs, and `ddx.load`.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from flax.traverse_util import unflatten_dict
from jax import export

from ddx import __version__
from ddx.diffusion.random import seed_key
from ddx.diffusion.reverse.rows import num_rows
from ddx.runtime import storage
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import Path
from ddx.runtime.pictures import to_uint8
from ddx.sampling.functions import functions
from ddx.sampling.sampler import Sampler
from ddx.system import System

PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS, ABOUT = "model.safetensors", "programs.json"


class Input(NamedTuple):
    """An array that a program takes for each image of a batch."""

    shape: tuple[int, ...]  # for one image
    dtype: Any
    meaning: str


class Program(NamedTuple):
    """A function of the weights, {"conv_in/kernel": array, ...}, and of some inputs by name."""

    name: str
    function: Callable[..., Any]
    inputs: dict[str, Input]
    output: str


def check_installed() -> None:
    """Refuse, with a ConfigError, to begin without what `jax.export` writes with."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise ConfigError("--to=stablehlo needs flatbuffers. Install it with pip install 'ddx[export]'")


def network(system: System) -> Program:
    """The network: its raw output for noisy images at network times."""

    def raw(weights: dict[str, Any], x_t: Any, time: Any, *told: Any) -> Any:
        return system.model.apply({"params": _nested(weights)}, x_t, time, **dict(zip(names, told, strict=True)))

    height, width, channels = system.image_shape
    about = _told(system)
    if system.low_res_shape is not None:
        about["low_res"] = Input(system.low_res_shape, np.float32, f"images to enlarge, in [{system.process.low:g}, 1]")
    names = tuple(about)
    inputs = {
        "x_t": Input(system.image_shape, np.float32, "noisy images"),
        "time": Input((), np.float32, "their time, as the process tells it to the network"),
    }
    more = system.model.out_channels * (2 if system.config.model.head else 1) // channels - 1
    second = f", then as many channels for the variance {system.config.loss.variance}" if more else ""
    output = f"float32 (b, {height}, {width}, {channels * (1 + more)}): {system.config.loss.prediction}{second}"
    return Program("network", raw, inputs | about, output)


def sampler(system: System, how: Sampler) -> Program:
    """The sampler: image `index` of `seed`, for each of a batch, as uint8."""
    made, entries = functions(system, how, how.solver), np.arange(num_rows(how.plan))

    def draw(weights: dict[str, Any], seed: Any, index: Any, *given: Any) -> Any:
        keys = jax.vmap(lambda seed, index: jax.random.fold_in(seed_key(seed), index))(seed, index)
        told = dict(zip(names, given, strict=True))
        x_T = made.prior(keys, told.pop("image")) if "image" in told else made.noise(keys)
        if "low_res" in told:
            told["low_res"] = system.to_float(told["low_res"])
        state = made.walk(_nested(weights), how.plan, entries, keys, told, (), made.begin(x_T))
        return to_uint8(made.end((), state), system.process.low, jnp)

    about = _told(system)
    if system.low_res_shape is not None:
        about["low_res"] = Input(system.low_res_shape, np.uint8, "images to enlarge")
    if system.starts_from_images:
        about["image"] = Input(system.image_shape, np.uint8, "images of the training set to start from")
    names = tuple(about)
    inputs = {
        "seed": Input((), np.uint32, "names the noise, as --seed does"),
        "index": Input((), np.uint32, "which image of the seed, from 0"),
    }
    height, width, channels = system.image_shape
    return Program("sampler", draw, inputs | about, f"uint8 (b, {height}, {width}, {channels}): images")


def write(folder: Path, programs: tuple[Program, ...], weights: dict[str, Any], said: dict[str, Any]) -> str:
    """Write programs and, as programs.json, what is said of them, beside model.safetensors; the code that runs them.

    `weights` are arrays or their shapes, by the names in that file.
    """
    described = {}
    for program in programs:
        exported = _exported(program, weights)
        storage.write_parts(folder / file(program), [bytes(exported.serialize())])
        described[program.name] = {
            "inputs": {"weights": "all arrays of model.safetensors by name, in alphabetical order"}
            | {name: _in_words(one) for name, one in program.inputs.items()},
            "output": program.output,
            "calling_convention_version": exported.calling_convention_version,
            "platforms": list(exported.platforms),
        }
    about = {
        "written_by": {"ddx": __version__, "jax": jax.__version__, "jaxlib": jaxlib.__version__},
        "sha256": {name: storage.sha256(folder / name) for name in (WEIGHTS, *map(file, programs))},
        "programs": described,
        "batch": "b is any number from 1 on; a program is compiled for each that is used",
        "other_runtimes": "main takes the number of the platform in the list first, as int32, then the inputs in order",
    }
    storage.write_json(folder / ABOUT, about | said)
    inputs = ", ".join(["weights", *(_example(name, one) for name, one in programs[-1].inputs.items())])
    return _SERVICE.format(version=jax.__version__, checksum=storage.sha256(folder / ABOUT), inputs=inputs)


# A service runs these lines as they stand, with jax, NumPy and flatbuffers; a test does, where there is no ddx.
_SERVICE = """\
# pip install jax flatbuffers; written with jax {version}
import hashlib, json, math, pathlib
import jax, numpy as np
from jax import export

folder = pathlib.Path("FOLDER")

def read(name, checksum):
    content = (folder / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != checksum:
        raise ValueError(f"{{folder / name}} is not the file that was written. Fetch it again")
    return content

about = json.loads(read("programs.json", "{checksum}"))
tensors = read("model.safetensors", about["sha256"]["model.safetensors"])
program = read("sampler.stablehlo", about["sha256"]["sampler.stablehlo"])
start = 8 + int.from_bytes(tensors[:8], "little")
entries = json.loads(tensors[8:start])
del entries["__metadata__"]
weights = jax.device_put({{
    name: np.frombuffer(tensors, "<f4", math.prod(e["shape"]), start + e["data_offsets"][0]).reshape(e["shape"])
    for name, e in entries.items()
}})
sampler = jax.jit(export.deserialize(bytearray(program)).call)
n = 4
images = np.asarray(sampler({inputs}))"""


def file(program: Program) -> str:
    """The name of its file."""
    return f"{program.name}.stablehlo"


def levels(system: System) -> dict[str, list[float]]:
    """Of t = 1 .. T: the network's time, and alpha and sigma of x_t; nothing where frequencies differ."""
    process = system.process
    if process.of_frequencies:
        return {}
    found = process.level(np.arange(1, process.num_steps + 1))
    return {name: np.ravel(getattr(found, name)).tolist() for name in ("model_time", "alpha", "sigma")}


def _told(system: System) -> dict[str, Input]:
    """What a network is told of classes."""
    most = system.model.num_classes
    none = f", or {most} for none" if system.model.null_class else ""
    return {"label": Input((), np.int32, f"classes, 0 .. {most - 1}{none}")} if most else {}


def _exported(program: Program, weights: dict[str, Any]) -> export.Exported:
    (b,) = export.symbolic_shape("b")
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, np.float32) for name, leaf in weights.items()}
    of_batch = [jax.ShapeDtypeStruct((b, *one.shape), one.dtype) for one in program.inputs.values()]
    with _without_places():
        return export.export(jax.jit(program.function), platforms=PLATFORMS)(shapes, *of_batch)


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Without the names of source files on this machine, which JAX writes beside every operation."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _nested(weights: dict[str, Any]) -> Any:
    return unflatten_dict(weights, sep="/")


def _in_words(one: Input) -> str:
    """Such as 'float32 (b, 32, 32, 3): noisy images'."""
    shape = ", ".join(map(str, ("b", *one.shape))) + "," * (not one.shape)
    return f"{np.dtype(one.dtype)} ({shape}): {one.meaning}"


def _example(name: str, one: Input) -> str:
    """Code that makes n of an input: images 0 .. n - 1 of seed 0."""
    if name == "index":
        return "np.arange(n, dtype=np.uint32)"
    shape = f"(n, {', '.join(map(str, one.shape))})" if one.shape else "n"
    return f"np.zeros({shape}, np.{np.dtype(one.dtype)})"
