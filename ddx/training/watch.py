"""What a run shows of itself on its way: grids of samples, and scores of the network.

Both follow from the state alone. What a signal or a kill prevented is made up for by the run that resumes.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from ml_collections import ConfigDict

from ddx.data import Dataset
from ddx.evaluation import evaluators
from ddx.runs.trained import Trained
from ddx.runtime import devices, storage
from ddx.runtime.paths import Path
from ddx.runtime.pictures import grid, save_png
from ddx.runtime.preemption import Preemption
from ddx.runtime.progress import Progress
from ddx.sampling.generator import Generator
from ddx.sampling.sampler import make_sampler
from ddx.system import System
from ddx.training.metrics import MetricsWriter

T = TypeVar("T")


def is_due(step: int, last: int, *every: int) -> bool:
    """Whether a step is one of those that something happens at: every so many steps, and at the last."""
    return step == last or any(step % one == 0 for one in every)


class Watch:
    """Draws and scores the network of a run, every so many steps and at the end."""

    def __init__(
        self, config: ConfigDict, workdir: Path, data: Dataset, system: System, about_data: dict[str, Any]
    ) -> None:
        """`about_data` is what a checkpoint says of the data."""
        self._config, self._workdir = config, workdir
        shown = data.read(np.arange(config.sample.num_images) % data.num_examples) if system.low_res_shape else {}
        told = system.told(system.to_float(shown["image"]), shown["label"]) if shown else {}
        self.generator = Generator(system, make_sampler(config, system), told=told, images=data)
        source, t = Trained(0, "", system, None, about_data), config.train
        names = t.evaluate.split(",") if t.evaluate else []
        self._scores = {
            name: evaluators.score(name, source, t.evaluate_split, t.evaluate_examples, config.seed) for name in names
        }
        self.every = (t.sample_every, *([t.evaluate_every] if names else []))

    def look(
        self,
        step: int,
        last: int,
        weights_of: Callable[[str], Any],
        writer: MetricsWriter,
        preemption: Preemption | None,
        progress: Progress,
    ) -> None:
        """Draw and score what is due at a step and not there yet; a signal to `preemption` ends it.

        weights_of("ema") or of "raw" are the network's.
        """

        def unless_requested(work: Callable[[], T]) -> T | None:
            return preemption.unless_requested(work) if preemption else work()

        t = self._config.train
        weights = functools.cache(lambda: weights_of(self._config.sample.weights))
        if is_due(step, last, t.sample_every) and not storage.exists(self.picture(step)):
            self.draw(step, weights(), writer, unless_requested, progress)
        for name, score in self._scores.items():
            if is_due(step, last, t.evaluate_every) and not writer.has_scores(step, name):
                self.score(step, name, functools.partial(score, weights()), writer, unless_requested, progress)

    def picture(self, step: int) -> Path:
        """The grid of a step."""
        return self._workdir / "samples" / f"{step:06d}.png"

    @devices.job("drawing samples", "Set a smaller --config.sample.batch_size")
    def draw(
        self, step: int, weights: Any, writer: MetricsWriter, unless_requested: Callable[..., Any], progress: Progress
    ) -> None:
        """A grid of samples; the same noise every time, that of `launch.sample --seed=<seed>`."""
        before, config = time.perf_counter(), self._config
        drawn = unless_requested(lambda: self.generator(weights, config.seed, config.sample.num_images))
        if drawn is None:
            return
        picture = grid(drawn)
        save_png(self.picture(step), picture)
        writer.picture(step, "samples", picture)
        progress.write(f"step {step}: drew {len(drawn)} samples in {time.perf_counter() - before:.1f} s")

    @devices.job("evaluating", "Set a smaller --config.sample.batch_size")
    def score(
        self,
        step: int,
        name: str,
        score: Callable[[], dict[str, float]],
        writer: MetricsWriter,
        unless_requested: Callable[..., Any],
        progress: Progress,
    ) -> None:
        """One evaluator's numbers, of the same examples and with the same noise every time."""
        before = time.perf_counter()
        values = unless_requested(score)
        if values is None:
            return
        writer.scores(step, name, values)
        t = self._config.train
        told = ", ".join(f"{key} {value:.4f}" for key, value in values.items())
        of = f"{t.evaluate_examples} examples of {t.evaluate_split}"
        progress.write(f"step {step}: {told} ({of}, {time.perf_counter() - before:.1f} s)")
