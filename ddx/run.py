"""A trained run as a value: what a notebook needs of it.

run = ddx.load("runs/digits")
images = run.sample(64, num_steps=20)        # (64, 8, 8, 1) uint8; the second call compiles nothing
denoise = run.denoiser()                     # for every function of ddx, such as ddx.encode
"""

import hashlib
import json
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddx.diffusion.estimate.clipping import Clip
from ddx.diffusion.estimate.denoiser import Denoiser
from ddx.diffusion.forward.process import Process
from ddx.evaluation import evaluate
from ddx.interop import convert
from ddx.models import Network
from ddx.runs import trained
from ddx.runs.job import Result
from ddx.runtime import devices, storage
from ddx.runtime.errors import ConfigError
from ddx.runtime.paths import Path, optional_path, user_path
from ddx.sampling.edits import make_edit, read
from ddx.sampling.generator import Generator
from ddx.sampling.sampler import clip_of, guidance_of
from ddx.sampling.samples import prepare
from ddx.sampling.settings import Labels, check_count, class_numbers, sampling_config, to_tell


class Run:
    """The network of a checkpoint, with what it was trained as. Made by `load`.

    Attributes:
      workdir: the run's folder.
      step: of the checkpoint.
      system: process, network and loss of the run's config.
      params: the network's weights.
    """

    def __init__(self, workdir: Path, source: trained.Trained) -> None:
        """A run in a folder, with a network from it."""
        self.workdir, self._source = workdir, source
        self.step, self.system, self.params = source.step, source.system, source.params
        self._generators: dict[str, tuple[Generator, int]] = {}  # and how many it draws unless told

    @property
    def config(self) -> ConfigDict:
        """The run's config."""
        return self.system.config

    @property
    def process(self) -> Process:
        """The process that the network was trained for."""
        return self.system.process

    @property
    def model(self) -> Network:
        """The network: run.model.apply({"params": run.params}, x_t, model_time)."""
        return self.system.model

    def denoiser(
        self,
        clip: Clip | None = None,
        labels: Labels | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[int, int] | None = None,
    ) -> Denoiser:
        """The network as an estimate of (x_0, eps), for the functions of ddx.

        Args:
          clip: as in `ddx.denoiser`; None for the run's sample.clip and sample.clip_percentile.
          labels: of a network that knows classes, one for each image of the batch, (B,), by number or name, or "none"
            where it was trained with label dropout.
          guidance: the scale of classifier-free guidance, 1 for none; None for the run's sample.guidance. Bounds of a
            guided estimate are bounds of another model than the network.
          guidance_interval: times between which to guide; None for the run's sample.guidance_interval.

        Raises:
          ConfigError: labels are missing, or the network does not know them, or cannot be guided.
        """
        given = {"guidance": guidance, "guidance_interval": guidance_interval}
        sample = sampling_config(self.config, 0, None, **given).sample
        told = to_tell(self.system, class_numbers(self._source, labels))
        if self.model.num_classes and not told:
            raise ConfigError("the network is told the class of each image. Pass labels, one for each image")
        clip = clip_of(self.config.sample) if clip is None else clip
        return self.system.denoiser(self.params, clip, told, guidance_of(sample))

    @devices.job("sampling", devices.FEWER_AT_ONCE)
    def sample(
        self,
        num_samples: int | None = None,
        *,
        seed: int = 0,
        preset: str | None = None,
        labels: Labels | None = None,
        low_res: str | Path | None = None,
        data_dir: str | Path | None = None,
        known: str | Path | None = None,
        mask: str | Path | None = None,
        jump_length: int | None = None,
        num_resamples: int | None = None,
        start: str | Path | None = None,
        strength: float | None = None,
        **settings: Any,
    ) -> np.ndarray:
        """Draw images and write nothing: the images of `launch.sample` with the same settings.

        Args:
          num_samples: N; None for 64, or one for each image of `known` or `start`.
          seed: names the noise. Image i depends only on (seed, i).
          preset: a paper's setting, one of `ddx.config.sampling.SAMPLING_PRESETS`, changed by what else is given.
          labels: classes of the images, by number or name, of a network that knows classes, and from the first again;
            None for all in turn; "none" for no class, where it was trained with label dropout.
          low_res: for a super-resolution network, the images to enlarge: a folder, a .npy or an .npz file.
          data_dir: where the training set lies from whose images ihdm starts, if not where the run found it.
          known: images of which a part is kept, as in `ddx.sampling.sample`; so are the next five.
          mask: white where `known` is kept.
          jump_length: steps that a jump goes back up.
          num_resamples: how often each stretch of so many steps is walked.
          start: images to start from in place of noise.
          strength: the part of T to noise them to.
          **settings: settings of `ddx.config.sampling.SAMPLING`, such as sampler, num_steps, eta, solver or variance.
            What is not given is the run's own. Weights are chosen by `load`.

        Returns:
          (N, H, W, C) uint8.

        Raises:
          ConfigError: a setting is invalid.
          DataError: images that are needed cannot be read.
          AcceleratorError, OutOfMemoryError: no device can be used, or its memory is too small.
        """
        edit = make_edit(known, mask, jump_length, num_resamples, start, strength)
        if num_samples is not None:
            check_count(num_samples)
        if settings.pop("weights", self._source.weights) != self._source.weights:
            raise ConfigError("weights are chosen when a run is loaded. Use ddx.load(..., weights=...)")
        numbers = class_numbers(self._source, labels)
        small, data = optional_path(low_res, "low_res"), optional_path(data_dir, "data_dir")
        # What files hold, not their names: a mask may be drawn anew between two calls.
        given, told = read(edit, self.system), to_tell(self.system, numbers, small)
        contents = [_checksum(array) for array in (*(given or ()), *told.values()) if array is not None]
        key = json.dumps([preset, contents, str(data), edit, sorted(settings.items())], default=str)
        if key not in self._generators:
            drawing = prepare(self._source, self.workdir, seed, preset, numbers, small, data, settings, edit)
            self._generators[key] = drawing.generator(), 64 if drawing.given is None else len(drawing.given.images)
        generator, count = self._generators[key]
        return generator(self.params, seed, num_samples or count)

    def evaluate(self, metrics: tuple[str, ...] = ("bpd",), **settings: Any) -> Result:
        """Score the network as `ddx.evaluation.evaluate` does, with the same arguments."""
        settings.setdefault("weights", self._source.weights)
        return evaluate(self.workdir, metrics, step=self.step, **settings)


def _checksum(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def load(workdir: str | Path, step: int | None = None, weights: str | None = None) -> Run:
    """The trained network in a run's folder, or in a file that `ddx.interop.export` wrote.

    Args:
      workdir: the folder; or a .safetensors file, from which a folder is made that goes when the process ends.
      step: of the checkpoint; None for the newest.
      weights: "ema", the averaged ones, or "raw"; None for the run's sample.weights.

    Raises:
      ConfigError: there are no such weights.
      CheckpointError: the folder has no run, no such checkpoint, or a damaged one.
    """
    folder = user_path(workdir, "workdir")
    if folder.suffix == ".safetensors" and storage.is_file(folder):
        convert("safetensors", folder, made := storage.temporary_folder())
        folder = made
    return Run(folder, trained.load(folder, step, weights))
