"""From a validated config to the things a run is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import ddx.data
from ddx.config import check_image_size, validate
from ddx.diffusion import losses
from ddx.diffusion.gaussian import Step, step_table
from ddx.diffusion.kernels import Kernel, make_kernel
from ddx.diffusion.prediction import Denoiser, denoiser
from ddx.diffusion.process import Process, ddpm
from ddx.diffusion.trajectory import trajectory
from ddx.errors import ConfigError
from ddx.models import UNet

LossFn = Callable[[Any, Any, Any, Any, Any, Any], Any]
"""loss(params, x_0, label, t, noise, dropout_key) -> (B,)."""


class System(NamedTuple):
    """A process, a network for it, and what the network is trained on."""

    config: ConfigDict
    process: Process
    model: nn.Module
    image_shape: tuple[int, int, int]

    @property
    def num_classes(self) -> int:
        """Classes that the network is told, 0 for none."""
        count: int = self.model.num_classes
        return count

    def init(self, key: Any) -> Any:
        """Initial parameters."""
        x, zero = jnp.zeros((1, *self.image_shape)), jnp.zeros((1,), jnp.int32)
        return self.model.init(key, x, zero, zero if self.num_classes else None)["params"]

    def loss(self, params: Any, x_0: Any, label: Any, t: Any, noise: Any, dropout_key: Any) -> Any:
        """The training loss of each example, (B,)."""
        told = label if self.num_classes else None

        def model_fn(x_t: Any, model_time: Any) -> Any:
            rngs = {"dropout": dropout_key}
            return self.model.apply({"params": params}, x_t, model_time, told, train=True, rngs=rngs)

        return losses.simple_loss(self.process, model_fn, x_0, t, noise, self.config.loss.prediction)

    def denoiser(self, params: Any, clip: bool, label: Any = None) -> Denoiser:
        """The network with these parameters, told the classes `label` (B,), as an estimator of (x_0, eps)."""
        told = label if self.num_classes else None

        def model_fn(x_t: Any, model_time: Any) -> Any:
            return self.model.apply({"params": params}, x_t, model_time, told)

        return denoiser(self.process, model_fn, self.config.loss.prediction, clip)


class Sampler(NamedTuple):
    """How images are drawn: a table of steps, and what to do at each."""

    times: tuple[int, ...]
    steps: Step
    kernel: Kernel
    deterministic: bool  # no noise is drawn
    clip: bool
    batch_size: int


def dataset(config: ConfigDict) -> ddx.data.Dataset:
    """The data set of a config.

    Raises:
      DataError: it cannot be read.
      ConfigError: the network cannot take its images.
    """
    d = config.data
    data = ddx.data.load(d.name, split=d.split, directory=d.dir, image_size=d.image_size, channels=d.channels)
    levels, resolutions = len(config.model.multipliers), config.model.attention_resolutions
    check_image_size(*data.image_shape[:2], levels, resolutions, f"images of {d.name},")
    return data


def system(config: Any, image_shape: tuple[int, int, int], num_classes: int = 1) -> System:
    """The process and the network of a config (anything that `validate` takes), for images of shape (H, W, C).

    `num_classes` are those of the data set; a class-conditional network is told them.

    Raises:
      ConfigError: the network is to be told classes and there is only one.
    """
    config = validate(config)
    if config.model.class_conditional and num_classes < 2:
        raise ConfigError(f"model.class_conditional=True, but {config.data.name} has no labels. Use a set with classes")
    process = ddpm(config.process.num_steps, config.process.schedule)
    m = config.model
    model = UNet(
        channels=m.channels,
        multipliers=m.multipliers,
        num_blocks=m.num_blocks,
        attention_resolutions=m.attention_resolutions,
        groups=m.groups,
        dropout=m.dropout,
        out_channels=image_shape[-1],
        num_classes=num_classes if config.model.class_conditional else 0,
        dtype=jnp.dtype(m.dtype),
        remat=m.remat,
    )
    return System(config, process, model, image_shape)


def sampler(config: ConfigDict, system: System) -> Sampler:
    """The sampler of a config: ancestral (DDPM, eta = 1) or ddim, with a solver.

    Raises:
      ConfigError: the settings do not go together.
    """
    s = config.sample
    eta, variance = (1.0, s.variance) if s.sampler == "ancestral" else (s.eta, "small")
    try:
        times = trajectory(config.process.num_steps, s.num_steps or None, s.trajectory)
        steps = step_table(system.process, times, eta, system.image_shape[:2])
        kernel = make_kernel(s.solver, eta, variance)
    except ValueError as error:
        raise ConfigError(f"sample: {error}") from None
    return Sampler(times, steps, kernel, eta == 0, s.clip, s.batch_size)


def steps_per_call(config: ConfigDict) -> int:
    """Training steps in one compiled call."""
    # A scan's gradient of a convolution is 24 times slower on CPU; elsewhere a long call hides the host.
    automatic = 1 if jax.default_backend() == "cpu" else 50
    return config.train.steps_per_call or automatic
