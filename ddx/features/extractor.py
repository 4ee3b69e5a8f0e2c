"""A feature network with its weights, ready to be applied to images."""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddx.features import weights as weights_lib
from ddx.features.networks import NETWORKS, FeatureNetwork
from ddx.features.plug import Plug, Source, fill, shapes
from ddx.runtime.errors import ConfigError, did_you_mean
from ddx.runtime.paths import Path

Apply = Callable[[Any, jax.Array], dict[str, jax.Array]]


class Extractor(NamedTuple):
    """A feature network with its weights.

    Attributes:
      network: its row of `ddx.features.NETWORKS`.
      protocol: how images are brought to it, one of `network.protocols`; kept with what is made of the features.
      digest: SHA-256 of the file of weights, in hexadecimal; kept with it too.
      params: tree of float32 arrays.
      apply: apply(params, images) is {"features": (B, D), "logits": (B, K) if the network has any}, in float32; of
        `inception` also "logits_unbiased", without their bias. Images are uint8 (B, H, W, C) of any size, with 1 or 3
        channels. It is pure, one function for each network and protocol, and compiled by whoever calls it: on a TPU or
        a GPU it computes in full float32 as on a CPU.
      is_published: whether the weights are the ones that ship, or the published ones, where their checksum is known.
    """

    network: FeatureNetwork
    protocol: str
    digest: str
    params: Any
    apply: Apply
    is_published: bool = True

    @property
    def label(self) -> str:
        """The name of the distance; weights that are not the published ones do not go by it alone."""
        return self.network.label if self.is_published else f"{self.network.label} (other weights)"


def load(name: str, protocol: str | None = None, weights: str | Path | None = None) -> Extractor:
    """Load a feature network.

    Args:
      name: a key of `ddx.features.NETWORKS`.
      protocol: how images are brought to it, one of its `protocols`; None for the first.
      weights: the file that `launch.convert --from=NAME` or, of "digits", `launch.features` wrote, local or gs://; None
        for the weights that ship with ddx, or else for the place where launch.convert writes by default.

    Raises:
      ConfigError: the name or the protocol is unknown.
      DataError: there are no weights; the message has the commands that bring them.
      CheckpointError: the file is damaged, or of another network.
    """
    network = named(name)
    protocol = network.protocols[0] if protocol is None else protocol
    if protocol not in network.protocols:
        raise ConfigError(f"{name} has no protocol {protocol!r}. Choose one of: {', '.join(network.protocols)}")
    path, digest = weights_lib.find(network, weights)
    plug = plug_of(name)
    params = fill(plug, Source(weights_lib.read(path, network), path))
    published = weights_lib.are_published(path, digest, network)
    return Extractor(network, protocol, digest, params, apply_of(name, protocol), published)


def described(name: str, protocol: str | None = None) -> tuple[Apply, Any]:
    """`apply` of a network, and the shapes of the parameters that it takes: enough to compile it without weights."""
    return apply_of(name, protocol or named(name).protocols[0]), shapes(plug_of(name))


def named(name: str) -> FeatureNetwork:
    """The row of a network in the table.

    Raises:
      ConfigError: there is none of this name.
    """
    if name not in NETWORKS:
        meant = did_you_mean(str(name), NETWORKS)
        raise ConfigError(f"feature network {name!r} is unknown. {meant}Choose one of: {', '.join(NETWORKS)}")
    return NETWORKS[name]


def plug_of(name: str) -> Plug:
    """What the module of a network says of it."""
    return importlib.import_module(f"ddx.features.{name}").PLUG


def in_colour(images: jax.Array) -> jax.Array:
    """Images (B, H, W, 1) or (B, H, W, 3) of uint8 as float32 (B, H, W, 3): grey thrice, as published scores do."""
    return jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)


@functools.cache
def apply_of(name: str, protocol: str) -> Apply:
    """The function `apply` of an `Extractor`."""
    plug = plug_of(name)

    def apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        images = jnp.asarray(images)
        if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ConfigError(
                f"{name} takes images (B, H, W, 1) or (B, H, W, 3) of uint8, not {images.shape} of {images.dtype}."
                " Convert them: grey or RGB, from 0 to 255"
            )
        taken = plug.preprocess(in_colour(images), protocol)
        found: Any = plug.model.apply({"params": params}, taken)
        return found

    return apply
