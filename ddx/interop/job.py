"""From another code base's files to the folder of a run, from which every command runs."""

from typing import Any

import jax
from ml_collections import ConfigDict

from ddx.config.interop import ATTENTION_ORDERS, SOURCES
from ddx.config.keys import UNKNOWN
from ddx.config.model_rules import check_image_size
from ddx.config.sampling import WEIGHTS
from ddx.config.values import check_keys, default_config, validate
from ddx.diffusion.catalogue import SQUARE_VARIANCES
from ddx.interop import analytic, checkpoints, diffusers, ms_eps, own
from ddx.interop.checkpoints import Hints
from ddx.interop.fill import fill
from ddx.interop.found import Found, files_of
from ddx.runs.checkpoint import Checkpoints
from ddx.runs.folder import save_config
from ddx.runs.job import Result
from ddx.runtime import folders, storage
from ddx.runtime.errors import CheckpointError, ConfigError, did_you_mean
from ddx.runtime.paths import Path, user_path
from ddx.runtime.storage import sha256
from ddx.system import make_system

_CODES = {
    "improved-diffusion": checkpoints.IDDPM_CODE,
    "ddim": checkpoints.DDIM_CODE,
    "guided-diffusion": checkpoints.ADM_CODE,
}


def convert(
    kind: str,
    source: str | Path,
    out: str | Path,
    *,
    weights: str = "ema",
    config: ConfigDict | None = None,
    statistics: str | Path | None = None,
    head: str | None = None,
    attention_order: str | None = None,
) -> Result:
    """Make the folder of a run from a network that another code base trained.

    The network, the noise schedule and, of diffusers, the sampler are the source's. The run has averaged weights alone,
    from which it is sampled and scored, and from which others start (train.init_from); it does not resume.

    Args:
      kind: the code base, one of `ddx.config.interop.SOURCES`; "safetensors" is a file that `ddx.interop.export` wrote.
      source: the file or folder, local or gs://.
      out: the folder to make; nothing may be in it.
      weights: "ema", the averaged weights, or "raw", where the source has both.
      config: says what the source does not: data and training settings and, of a network that is no published one of
        diffusers' or ddx's, also the size of the images, heads, process and sampler.
      statistics: the file of Analytic-DPM's statistics (ms_eps) of this network; None for those in the folder `source`
        of "analytic-dpm", if there are any.
      head: "npr" or "sn", what the head of a network of "analytic-dpm" predicts; None for a network without a head.
      attention_order: "new" or "old", the order of queries, keys and values in a file of "guided-diffusion" (its option
        use_new_attention_order); None for the one of published networks, and for others "old", its default.

    Returns:
      What was written; its values are num_params and image_shape.

    Raises:
      ConfigError: ddx has no such network or schedule, an argument is of another code base, or `out` is not empty.
      CheckpointError: the source is missing, damaged, or does not fit together.
      StorageError: `out` cannot be written.
    """
    if kind not in SOURCES:
        raise ConfigError(f"from={kind!r} is unknown. {did_you_mean(kind, SOURCES)}Choose one of: {', '.join(SOURCES)}")
    for name, value, choices, of in (
        ("weights", weights, WEIGHTS, kind),
        ("head", head, SQUARE_VARIANCES, "analytic-dpm"),
        ("attention_order", attention_order, ATTENTION_ORDERS, "guided-diffusion"),
    ):
        if value is not None and value not in choices:
            raise ConfigError(f"{name}={value!r} must be one of: {', '.join(choices)}")
        if value is not None and kind != of:
            raise ConfigError(f"--{name} belongs to --from={of}, not {kind}. Leave it out")
    source, out = user_path(source, "--source"), user_path(out, "--out")
    measured = None if statistics is None else user_path(statistics, "--statistics")
    if not storage.exists(source):
        raise CheckpointError(f"there is no file or folder {source}. Name that of the weights with --source")
    folders.check_new(out, "--out")
    if kind == "analytic-dpm" and measured is None:
        measured = analytic.statistics_in(source)
    found = _find(kind, source, Hints(weights, config, head, attention_order))
    made = validate(found.config)
    check_image_size(*found.image_shape[:2], made.model.to_dict(), f"images of {found.path}")
    system = make_system(made, found.image_shape, max(1, found.num_classes), found.meta.get("spectrum"))
    known = None if measured is None else ms_eps.of_file(measured, system)
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
        checkpoints_of = Checkpoints(folder / "checkpoints")
        checkpoints_of.save(found.step, {"ema": params}, meta)
        if known is not None and measured is not None:
            whose = {"workdir": str(out), "step": found.step, "weights": checkpoints_of.seal(found.step)}
            what = {"process": made.process.to_dict(), "prediction": made.loss.prediction}
            ms_eps.write(folder, known, whose | what, measured)
        save_config(folder, made, [])
    return _result(out, found, sum(leaf.size for leaf in jax.tree.leaves(params)), measured)


def _find(kind: str, source: Path, hints: Hints) -> Found:
    if hints.config is not None:  # its network, which the source's replaces, need not be possible
        hints = hints._replace(config=check_keys(hints.config))
    if kind == "safetensors":
        return own.find(source, hints.config)
    if kind == "analytic-dpm":
        return analytic.find(source, hints)
    if kind != "diffusers":
        return checkpoints.find(source, hints, _CODES[kind])
    config = hints.config
    if config is None:
        config = default_config()
        config.data.name = UNKNOWN
    return diffusers.find(source, hints.weights, config)


def _result(out: Path, found: Found, num_params: int, measured: Path | None) -> Result:
    shape, variance = " x ".join(map(str, found.image_shape)), ""
    also = ""
    if measured is not None:
        also, variance = f", with the statistics of {measured}", " --variance=analytic_paper"
    if found.config.loss.variance in SQUARE_VARIANCES:
        variance = f" --variance={found.config.loss.variance}_paper"
    message = (
        f"wrote {out}: a network of {num_params:,} parameters for images of {shape}{also}. Draw some with"
        f" python -m launch.sample --workdir={out}{variance}"
    )
    values = {"num_params": num_params, "image_shape": found.image_shape}
    return Result(message, out, ("config.json",), values)
