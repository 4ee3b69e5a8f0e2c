"""From another code base's files to the folder of a run, from which every command runs."""

from typing import Any

import jax
from ml_collections import ConfigDict

from ddx.config.interop import SOURCES
from ddx.config.keys import UNKNOWN
from ddx.config.rules import check_image_size
from ddx.config.sampling import WEIGHTS
from ddx.config.values import check_keys, default_config, validate
from ddx.interop import checkpoints, diffusers, own
from ddx.interop.fill import fill
from ddx.interop.found import Found, files_of
from ddx.runs.checkpoint import Checkpoints
from ddx.runs.folder import save_config
from ddx.runs.job import Result
from ddx.runtime import folders
from ddx.runtime.errors import ConfigError, did_you_mean
from ddx.runtime.paths import Path, user_path
from ddx.runtime.storage import sha256
from ddx.system import make_system


def convert(
    kind: str, source: str | Path, out: str | Path, *, weights: str = "ema", config: ConfigDict | None = None
) -> Result:
    """Make the folder of a run from a network that another code base trained.

    The network, the noise schedule and, of diffusers, the sampler are the source's. The run has averaged weights alone,
    from which it is sampled and scored, and from which others start (train.init_from); it does not resume.

    Args:
      kind: the code base, one of `ddx.config.interop.SOURCES`; "safetensors" is a file that `ddx.interop.export` wrote.
      source: the file or folder, local or gs://.
      out: the folder to make; nothing may be in it.
      weights: "ema", the averaged weights, or "raw", where the source has both.
      config: says what the source does not: data and training settings and, of a network of "improved-diffusion" or
        "ddim" that was not published, also the size of the images, heads, process and sampler.

    Returns:
      What was written; its values are num_params and image_shape.

    Raises:
      ConfigError: ddx has no such network or schedule, or `out` is not empty.
      CheckpointError: the source is missing, damaged, or does not fit together.
      StorageError: `out` cannot be written.
    """
    if kind not in SOURCES:
        raise ConfigError(f"from={kind!r} is unknown. {did_you_mean(kind, SOURCES)}Choose one of: {', '.join(SOURCES)}")
    if weights not in WEIGHTS:
        raise ConfigError(f"weights={weights!r} must be one of: {', '.join(WEIGHTS)}")
    source, out = user_path(source, "--source"), user_path(out, "--out")
    folders.check_new(out, "--out")
    found = _find(kind, source, weights, config)
    made = validate(found.config)
    check_image_size(*found.image_shape[:2], made.model.to_dict(), f"images of {found.path}")
    system = make_system(made, found.image_shape, max(1, found.num_classes))
    shapes = system.shapes()
    params = fill(shapes, found.tensors, found.names, system.model, found.path)
    found = found._replace(tensors={})  # the memory that they take
    files = files_of(found.path)
    checksums = {file.name: sha256(file) for file in files} if len(files) > 1 else sha256(files[0])
    meta: dict[str, Any] = {
        "config": made.to_dict(),
        "image_shape": list(found.image_shape),
        "converted": {"from": kind, "source": str(found.path), "sha256": checksums},
        **found.meta,
    }
    if found.num_classes:
        meta["num_classes"] = found.num_classes
    with folders.making(out, "--out") as folder:
        Checkpoints(folder / "checkpoints").save(found.step, {"ema": params}, meta)
        save_config(folder, made, [])
    return _result(out, found, sum(leaf.size for leaf in jax.tree.leaves(params)))


def _find(kind: str, source: Path, weights: str, config: ConfigDict | None) -> Found:
    if config is not None:
        config = check_keys(config)  # its network, which the source's replaces, need not be possible
    if kind == "safetensors":
        return own.find(source, config)
    if kind != "diffusers":
        code = checkpoints.DDIM_CODE if kind == "ddim" else checkpoints.IDDPM_CODE
        return checkpoints.find(source, weights, config, code)
    if config is None:
        config = default_config()
        config.data.name = UNKNOWN
    return diffusers.find(source, weights, config)


def _result(out: Path, found: Found, num_params: int) -> Result:
    shape = " x ".join(map(str, found.image_shape))
    message = (
        f"wrote {out}: a network of {num_params:,} parameters for images of {shape}. Draw some with"
        f" python -m launch.sample --workdir={out}"
    )
    values = {"num_params": num_params, "image_shape": found.image_shape}
    return Result(message, out, ("config.json",), values)
