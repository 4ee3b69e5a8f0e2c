"""From a validated config to the things a run is made of."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import ddx.data
from ddx import models
from ddx.config.model_rules import check_sizes
from ddx.config.values import flatten, validate
from ddx.data.augment import shrink, to_float
from ddx.diffusion.catalogue import HEAD_VARIANCES, LEARNED_VARIANCES
from ddx.diffusion.estimate.clipping import Clip
from ddx.diffusion.estimate.denoiser import Denoiser, clipping, denoiser
from ddx.diffusion.estimate.guidance import UNGUIDED, Guidance, classifier_free_guidance
from ddx.diffusion.estimate.slope import hutchinson
from ddx.diffusion.forward.colour import band, coloured, equal_snr, power_law
from ddx.diffusion.forward.process import Process, in_dct_basis
from ddx.diffusion.objective import losses, time_samplers
from ddx.diffusion.objective.time_samplers import TIME_SAMPLERS, TimeSampler
from ddx.diffusion.objective.weights import WEIGHTS, LossWeight
from ddx.diffusion.papers.blurring import blurring
from ddx.diffusion.papers.ddpm import ddpm
from ddx.diffusion.papers.ihdm import ihdm
from ddx.diffusion.papers.rectified_flow import rectified_flow
from ddx.diffusion.random import fold_in, signs
from ddx.models import Network, of_head
from ddx.runtime.errors import ConfigError

LossFn = Callable[[Any, Any, Any, Any, Any, Any], tuple[Any, dict[str, Any]]]
"""loss(params, x_0, label, t, noise, dropout_key) -> the loss of each example, (B,), and its named parts, (B,) each."""


Told = dict[str, Any]
"""What a network is told of each image besides the time: "label" (B,), "low_res" (B, h, w, C), or neither."""


class System(NamedTuple):
    """A process, a network for it, and what the network is trained on."""

    config: ConfigDict
    process: Process
    model: Network
    image_shape: tuple[int, int, int]
    probes: int = 0  # draws of signs by which its denoisers tell the slope of eps; 0: they do not

    @property
    def low_res_shape(self) -> tuple[int, int, int] | None:
        """(h, w, C) of the images that a super-resolution network enlarges; None for other networks."""
        height, width, channels = self.image_shape
        h = self.config.model.low_res
        return (h, h * width // height, channels) if h else None

    @property
    def conversion(self) -> ddx.data.Conversion:
        """What the network's images were made with, for pictures that a user gives."""
        height, width, channels = self.image_shape
        return ddx.data.Conversion(channels, (height, width), tuple(self.config.data.crop))

    def to_low_res(self, picture: Any) -> np.ndarray:
        """A picture as what a super-resolution network enlarges, (h, w, C) uint8, made as in training.

        One that has that size already is taken as it is.
        """
        assert self.low_res_shape is not None
        height, width, channels = self.low_res_shape
        if picture.size == (width, height):
            return ddx.data.Conversion(channels)(picture)
        image = self.conversion(picture).astype(np.float32)
        return np.rint(np.asarray(shrink(jnp.asarray(image[None]), self.low_res_shape)[0])).astype(np.uint8)

    @property
    def starts_from_images(self) -> bool:
        """Whether samples start from blurred images of the training set, not from noise."""
        return bool(self.config.process.kind == "ihdm")

    def to_float(self, images: Any) -> Any:
        """uint8 images in the range of the process's data."""
        return to_float(images, self.process.low)

    def init(self, key: Any) -> Any:
        """Initial parameters."""
        return self.model.init(key, *self.model.inputs(self.image_shape))["params"]

    def shapes(self) -> Any:
        """The shapes of the parameters; nothing is compiled for them, and no device is touched."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def split(self, params: Any) -> tuple[Any, Any]:
        """Parameters as those that are trained and those of the backbone, which stay as they are; most have none."""
        if not self.config.train.backbone:
            return params, ()
        head = {name for name, is_head in of_head(params).items() if is_head}
        return {name: params[name] for name in head}, {name: params[name] for name in params.keys() - head}

    def told(self, x_0: Any, label: Any) -> Told:
        """What the network is told of images x_0 with these labels besides the time."""
        told = {"label": label} if self.model.num_classes else {}
        return told | ({"low_res": shrink(x_0, self.low_res_shape)} if self.low_res_shape else {})

    def loss(
        self, params: Any, x_0: Any, label: Any, t: Any, noise: Any, dropout_keys: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The training loss of each example, (B,), and its parts by name, (B,) each."""
        told, loss = self.told(x_0, label), self.config.loss

        def model_fn(x_t: Any, model_time: Any) -> Any:
            return self.model.apply({"params": params}, x_t, model_time, **told, dropout_keys=dropout_keys)

        args = (self.process, model_fn, x_0, t, noise, loss.prediction)
        weight = make_weight(self.config)
        if loss.objective == "simple":
            each = losses.simple_loss(*args, weight)
            return each * (np.prod(x_0.shape[1:]) if loss.reduction == "sum" else 1), {}
        if loss.objective == "head":
            kind, v = loss.variance.removesuffix("_frequency"), None
            if kind == "ocm":
                v = signs(fold_in(dropout_keys, _SIGNS), x_0.shape[1:])
            head = losses.head_loss(self.process, model_fn, x_0, t, noise, kind, loss.prediction, weight, v)
            return head.mse + head.head, {"mse": head.mse, "head": head.head}
        if loss.objective == "hybrid":
            hybrid = losses.hybrid_loss(*args, loss.variance, loss.vlb_weight, weight=weight)
            return hybrid.loss, {"mse": hybrid.mse, "vb": hybrid.vb}
        return losses.kl_loss(*args, loss.variance, rescaled=loss.objective == "rescaled_kl"), {}

    def denoiser(
        self, params: Any, clip: Clip, told: Told | None = None, guidance: Guidance = UNGUIDED, keys: Any = None
    ) -> Denoiser:
        """The network with these parameters as an estimator of (x_0, eps) of images of which it is `told`.

        It is guided away from what the network says of images of no class, and clipped after that. With `probes` it
        tells the slope of the network's eps too, unguided, and needs the images' keys, (B,).
        """

        def estimate(told: Told, probes: int) -> Denoiser:
            def model_fn(x_t: Any, model_time: Any) -> Any:
                return self.model.apply({"params": params}, x_t, model_time, **told)

            made = denoiser(self.process, model_fn, self.config.loss.prediction, clip=False)
            return hutchinson(made, keys, probes) if probes else made

        told = told or {}
        if guidance.scale == 1:
            return clipping(estimate(told, self.probes), clip)
        without = told | {"label": jnp.full_like(told["label"], self.model.num_classes)}
        if guidance == Guidance(0.0):
            return clipping(estimate(without, self.probes), clip)
        guided = classifier_free_guidance(estimate(told, self.probes), estimate(without, 0), *guidance)
        return clipping(guided, clip)


_SIGNS = 2**31 - 1  # a stream of an example's keys: no layer draws from it


def joined(frozen: Any, params: Any) -> Any:
    """All weights of a network, of those that are trained and those that are not."""
    return {**frozen, **params} if frozen else params


def make_process(config: ConfigDict, spectrum: Any = None) -> Process:
    """The process of a validated config.

    `spectrum` is the variance of each frequency of the data, (H, W, C), for noise that has its colour. Without it the
    schedule of such a process is known, and its basis raises a ValueError when it is used.
    """
    p = config.process
    if p.kind == "blurring":
        made = blurring(p.num_steps, p.sigma_blur_max, p.blur_schedule, p.d_min, p.logsnr_min, p.logsnr_max)
    elif p.kind == "ihdm":
        made = ihdm(p.num_steps, p.sigma_blur_min, p.sigma_blur_max, p.sigma)
    elif p.kind == "rectified_flow":
        made = rectified_flow(p.num_steps)
    else:
        made = ddpm(p.num_steps, p.schedule, p.rescale_time, p.zero_terminal_snr)
        made = dataclasses.replace(made, time_offset=1 - p.first_time)
    if p.noise == "power":
        made = coloured(made, power_law(p.noise_power))
    elif p.noise == "equal_snr":
        made = coloured(made, _unmeasured if spectrum is None else equal_snr(spectrum, config.data.low))
    elif p.noise == "band":
        made = coloured(made, band(p.noise_low, p.noise_high, p.noise_floor))
    elif config.loss.variance == "ocm_frequency":
        made = in_dct_basis(made)
    return dataclasses.replace(made, low=float(config.data.low))


def _unmeasured(shape: Any) -> np.ndarray:
    raise ValueError("its weights are of a data set, measured when training begins; use the trained run")


def make_system(config: Any, image_shape: tuple[int, int, int], num_classes: int = 1, spectrum: Any = None) -> System:
    """The process and the network of a config (anything that `validate` takes), for images of shape (H, W, C).

    `num_classes` are those of the data set; a class-conditional network is told them. `spectrum` is as in
    `make_process`.

    Raises:
      ConfigError: the network is to be told classes and there is only one, the images have no frequency of the band
        of the noise, or there is no spectrum of them.
    """
    config = validate(config)
    check_sizes(flatten(config), image_shape)
    if config.model.class_conditional and num_classes < 2:
        raise ConfigError(f"model.class_conditional=True, but {config.data.name} has no labels. Use a set with classes")
    m = config.model
    doubled = config.loss.variance in (*LEARNED_VARIANCES, *HEAD_VARIANCES) and not m.head
    decided = {
        "out_channels": (2 if doubled else 1) * image_shape[-1],
        "num_classes": num_classes if m.class_conditional else 0,
        "null_class": m.label_dropout > 0,
        "dtype": jnp.dtype(m.dtype),
    }
    model, process = models.make(m.network, {**m, **decided}), make_process(config, spectrum)
    if process.basis.weights is not None:
        try:
            process.basis.weights(image_shape[:2])
        except ValueError as error:
            raise ConfigError(f"process.noise={config.process.noise!r}: {error}") from None
    return System(config, process, model, image_shape)


def make_time_sampler(config: ConfigDict) -> TimeSampler:
    """How a config's training draws times: integers, but for losses that are no bound where times are continuous."""
    loss, process = config.loss, make_process(config)
    whole = not process.continuous or loss.objective not in ("simple", "head")
    if loss.times == "lognormal":
        try:
            times = time_samplers.lognormal(process, loss.times_mean, loss.times_std, whole)
        except ValueError as error:
            raise ConfigError(f"loss.times_mean={loss.times_mean:g}: {error}") from None
    else:
        times = TIME_SAMPLERS[loss.times](process.num_steps - (not loss.last_level))
    return times if whole else time_samplers.continuous(times)


def make_weight(config: ConfigDict) -> LossWeight | None:
    """The weight of a config's squared errors; None where they are as they are."""
    loss = config.loss
    if loss.weight == "none":
        return None
    parameters = {"min_snr": (loss.min_snr_gamma,), "p2": (loss.p2_gamma,), "edm": (loss.sigma_data,)}
    return WEIGHTS[loss.weight](*parameters.get(loss.weight, ()))
