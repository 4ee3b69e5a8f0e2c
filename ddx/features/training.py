"""Training the classifier of digits, whose features compare small grey images: seconds on two CPU cores.

The weights are a pure function of the config and the data: on machines of one kind the same bits.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import ddx.data
from ddx.config import validate
from ddx.features.digits import CLASSES, PLUG, name_of, preprocess
from ddx.features.extractor import apply_of, in_colour
from ddx.features.networks import NETWORKS
from ddx.features.weights import NETWORK, sha256
from ddx.runs.job import Result
from ddx.runtime import folders
from ddx.runtime.errors import ConfigError, NonFiniteError
from ddx.runtime.paths import Path, user_path
from ddx.runtime.progress import Progress
from ddx.runtime.tensors import SAFETENSORS, write

_NETWORK = NETWORKS["digits"]
_PROTOCOL = _NETWORK.protocols[0]
_TEST_BATCH = 1000


def train(config: ConfigDict, out: str | Path) -> Result:
    """Train the feature network `digits` and write its weights as a file that `ddx.features.load` reads.

    Adam with cosine decay on cross-entropy, with images shifted by up to a pixel of the 8 x 8 that the network takes.

    Args:
      config: of which the images of data, seed and, of train, num_steps, batch_size, learning_rate and warmup_steps
        count.
      out: the .safetensors file to write.

    Returns:
      What was written; its values are accuracy, on the test split, and sha256.

    Raises:
      ConfigError: the config is wrong, `out` is no .safetensors file, or the data have other than ten classes.
      DataError: the data cannot be read.
      NonFiniteError: training diverged.
      StorageError: `out` cannot be written.
    """
    c, to = validate(config), user_path(out, "--out")
    if to.suffix != SAFETENSORS:
        raise ConfigError(f"--out={to} must end in {SAFETENSORS}. Name the file to write")
    sets = {split: _classes_of(c, split) for split in (c.data.split, "test")}
    params = _fitted(c, sets[c.data.split])
    accuracy = _accuracy(params, sets["test"])
    named = {
        name_of(tuple(key.key for key in keys)): np.asarray(leaf)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    folders.make_directory(to.parent, "--out")
    write(to, named, {"format": "np", NETWORK: _NETWORK.name})
    digest = sha256(to)
    message = (
        f"wrote {to}: the weights of {_NETWORK.name} ({_NETWORK.label}), right for {accuracy:.1%} of the test split,"
        f" SHA-256 {digest}"
    )
    return Result(message, to.parent, (to.name,), {"accuracy": accuracy, "sha256": digest})


def _classes_of(c: ConfigDict, split: str) -> ddx.data.Dataset:
    d = c.data
    data = ddx.data.load(
        d.name, split=split, directory=d.dir, image_size=d.image_size, channels=d.channels, crop=tuple(d.crop)
    )
    if data.num_classes != CLASSES or data.image_shape[-1] not in (1, 3):
        raise ConfigError(
            f"{data.name} has {data.num_classes} classes and {data.image_shape[-1]} channels; the network is for"
            f" {CLASSES} classes and images of 1 or 3 channels. Set data.name to another set, such as digits"
        )
    return data


def _fitted(c: ConfigDict, data: ddx.data.Dataset) -> Any:
    """The parameters after all steps."""
    key = jax.random.key(c.seed, impl="threefry2x32")
    images = jnp.zeros((1, PLUG.side, PLUG.side, PLUG.channels))
    params = PLUG.model.init(key, images)["params"]
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, c.train.learning_rate, min(c.train.warmup_steps, c.train.num_steps - 1), c.train.num_steps
    )
    optimizer = optax.adam(schedule)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, number: jax.Array, batch: dict[str, jax.Array]) -> tuple[Any, Any, jax.Array]:
        taken = preprocess(in_colour(batch["image"]), _PROTOCOL)
        taken = _shifted(jax.random.fold_in(key, number), taken)

        def loss(params: Any) -> jax.Array:
            found: Any = PLUG.model.apply({"params": params}, taken)
            return optax.softmax_cross_entropy_with_integer_labels(found["logits"], batch["label"]).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    batches = ddx.data.batches(
        data, seed=c.seed, batch_size=c.train.batch_size, first_step=0, last_step=c.train.num_steps
    )
    with batches, Progress("training digits", c.train.num_steps) as progress:
        for number, batch in batches:
            params, state, value = step(params, state, jnp.uint32(number), batch)
            progress.advance()
    if not np.isfinite(value):
        raise NonFiniteError("the loss is not finite. Set train.learning_rate to a smaller value")
    return params


def _shifted(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image up to a pixel aside, both ways; what comes in is what was at the border."""
    places = jax.random.randint(key, (len(images), 2), 0, 3)
    wide = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), images.shape[1:]))(wide, places)


def _accuracy(params: Any, data: ddx.data.Dataset) -> float:
    apply = apply_of(_NETWORK.name, _PROTOCOL)

    @jax.jit
    def right(images: jax.Array, labels: jax.Array) -> jax.Array:
        return (apply(params, images)["logits"].argmax(-1) == labels).sum()

    count = 0
    for first in range(0, data.num_examples, _TEST_BATCH):
        batch = data.read(np.arange(first, min(first + _TEST_BATCH, data.num_examples)))
        count += int(right(batch["image"], batch["label"]))
    return count / data.num_examples
