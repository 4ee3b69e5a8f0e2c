"""Training, from a config and a folder to a trained network. Read it once from top to bottom.

The state after N steps is a pure function of (config, seed, N): a run that is killed and started again by the same
command ends in the same bits.
"""

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

import ddx.data
from ddx.config.values import flatten
from ddx.diffusion.random import seed_key
from ddx.runs.checkpoint import Checkpoints
from ddx.runs.data import given_config, open_dataset
from ddx.runs.folder import forget_later, run_config, save_config
from ddx.runs.same_data import check_same_data, described
from ddx.runtime import between_hosts, devices, hosts, parallel
from ddx.runtime.background import Background
from ddx.runtime.folders import make_directory
from ddx.runtime.lock import Lock, lock
from ddx.runtime.paths import Path, user_path
from ddx.runtime.preemption import Preemption
from ddx.runtime.progress import Progress
from ddx.runtime.watchdog import Watchdog
from ddx.training import backbone, origin, resume, spectrum, summary
from ddx.training.metrics import MetricsWriter, join, summarise
from ddx.training.pace import Pace
from ddx.training.program import make_program
from ddx.training.remedies import refuse_not_finite, smaller_step
from ddx.training.state import TrainState, init_state
from ddx.training.step import parts_in_loop
from ddx.training.watch import Watch, is_due


class Outcome(NamedTuple):
    """How a call of `train` ended."""

    step: int
    finished: bool  # False if a signal asked to stop
    message: str  # one line that says what was written
    fresh: tuple[str, ...] = ()  # layers that train.init_from's run has otherwise, which started from random weights


def train(config: ConfigDict | None, workdir: str | Path, data: Any = None) -> Outcome:
    """Train until config.train.num_steps, resuming from the newest checkpoint in the folder.

    Args:
      config: `ddx.config.default_config` with changes; None for the config of the run in the folder.
      workdir: folder of the run, see `ddx.runs.folder`; created if need be.
      data: instead of what config.data names, a `ddx.data.Dataset` or anything that `ddx.data.from_object` takes.

    Returns:
      The step reached, and whether that is the end. A finished run is left as it is.

    Raises:
      ConfigError: the config is invalid or not the run's in the folder.
      CheckpointError: all checkpoints are damaged, or one cannot be saved.
      StorageError: something else cannot be written, or the bucket cannot be reached.
      DataError: the data set cannot be read, or is not the run's.
      NonFiniteError: a loss or gradient was not finite; the last checkpoint is from before.
      AcceleratorError, OutOfMemoryError: as `ddx.runtime.devices.job` says.
    """
    workdir = user_path(workdir, "--workdir")
    given = flatten(_config(workdir, config, data).to_dict())  # tells a mistake before the folder is made
    between_hosts.check_same({name: value for name, value in given.items() if name != "data.dir"})
    with devices.job("training", lambda: smaller_step(config)), lock(workdir) as held:
        config = _config(workdir, config, data)  # what counts is the folder as it is now that nobody else changes it
        checkpoints = Checkpoints(workdir / "checkpoints", config.train.keep_checkpoints)
        start = resume.Start(**hosts.agreed(lambda: resume.find(workdir, checkpoints, config)._asdict()))
        step, total = start.step, config.train.num_steps
        if step >= total:
            message = f"already complete at step {step} of {total}: {workdir}"
            return Outcome(step, True, message, origin.fresh(workdir, config))
        batch_size = config.train.batch_size
        devices.check_divisible(batch_size, config.train.accumulation)
        print(f"devices  {summary.describe_devices()}")
        check = _is_same(step, workdir, start.meta, data is not None) if step else None
        data = open_dataset(config, write_copy=True, check=check, given=data)
        shape = " x ".join(map(str, data.image_shape))
        print(f"data     {data.name} {data.split}: {data.num_examples:,} images of {shape}, {data.kept}", flush=True)
        if hosts.is_first():
            make_directory(workdir / "samples", "--workdir")
        run = _Run(config, workdir, data, checkpoints, start, held)
        state = run.program.place(run.restore(step) if step else run.begin())
        flops = summary.flops_per_step(run.program.lower(state), parts_in_loop(config.train.accumulation))
        print(summary.describe_run(config, data, run.program.shapes, flops))
        print(f"{'resuming' if step else 'starting'} at step {step} in {workdir}", flush=True)
        for change in start.changes:
            print(f"changed  {change}", flush=True)
        if hosts.is_first():
            save_config(workdir, config, start.history)
            forget_later(workdir, step)
        return run.train(state, start)._replace(fresh=origin.fresh(workdir, config))


def _config(workdir: Path, config: ConfigDict | None, data: Any) -> ConfigDict:
    """The config to run with, which says whether data are given."""
    config = run_config(workdir, config)
    return config if data is None else given_config(config)


def _is_same(start: int, workdir: Any, meta: dict[str, Any], given: bool) -> Callable[[ddx.data.Dataset], None]:
    """Refuses other data than the checkpoint of step `start` was trained on."""
    remedy = "Give its own data" if given else "Put the data back, or name the folder where they are with data.dir"
    return lambda data: check_same_data(f"step {start} of {workdir}", meta, data, f"{remedy}, or use a new --workdir")


# Purposes of random keys, so that training and `launch.sample` with the run's own seed share none.
_INIT, _TRAIN = 2**31 - 2, 2**31 - 3
_SMALLER = "Use a smaller network (fewer model.channels), or devices with more memory"


class _Run:
    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        data: ddx.data.Dataset,
        checkpoints: Checkpoints,
        start: resume.Start,
        held: Lock,
    ) -> None:
        self.config, self.workdir, self.data = config, workdir, data
        self.checkpoints, self.history, self.held = checkpoints, start.history, held
        self.saving = Background("ddx-save")
        self.bad_before = self.bad_steps = 0  # in a row, up to the last line of metrics, and up to now
        self.about_data = described(data)  # as they are now: when a checkpoint is saved they may be out of reach
        between_hosts.check_same({f"the data's {name}": value for name, value in self.about_data["data"].items()})
        seed = seed_key(config.seed)
        self.init_key, self.key = jax.random.fold_in(seed, _INIT), jax.random.fold_in(seed, _TRAIN)
        self.of_noise = spectrum.of_noise(config, data, start.meta)
        self.program = make_program(config, data.image_shape, data.num_classes, self.of_noise.get("spectrum"))
        self.system = self.program.system
        self.watch = Watch(config, workdir, data, self.system, self.about_data)

    @devices.job("making the network", _SMALLER)
    def begin(self) -> TrainState:
        if hosts.is_first():
            origin.forget(self.workdir, self.config)
        state: TrainState = parallel.run_once(self.program.initial, self.init_key)
        if self.config.train.init_from:
            weights = origin.initial_weights(self.workdir, self.system, state.params)
            state = jax.jit(init_state, static_argnums=1)(weights, self.program.optimizer, state.times)
        return state._replace(frozen=backbone.load(self.workdir, self.system, self.data)) if state.frozen else state

    @devices.job("restoring the network", _SMALLER)
    def restore(self, step: int) -> TrainState:
        return resume.restore(self.checkpoints, step, self.program.shapes)

    def train(self, state: TrainState, found: resume.Start) -> Outcome:
        """Train from where a run starts; of what no line of metrics has yet, its checkpoint tells."""
        config, total, start = self.config.train, self.config.train.num_steps, found.step
        pending, self.bad_before = found.pending, found.bad_steps
        every = (config.log_every, config.checkpoint_every, *self.watch.every)
        metrics: list[dict[str, Any]] = [pending] if pending else []
        step = saved = start
        with (
            Preemption() as preemption,
            Watchdog(config.hang_timeout) as watchdog,
            contextlib.ExitStack() as stack,
            self.saving,
            ddx.data.batches(
                self.data,
                seed=self.config.seed,
                batch_size=config.batch_size,
                first_step=start,
                last_step=total,
                prefetch=2 * self.program.per_call,
                rows=self.program.rows,
            ) as stream,
            Progress("training", total, start, config.batch_size) as progress,
        ):
            # Of several hosts the first one writes, draws and scores.
            writer = stack.enter_context(MetricsWriter(self.workdir, start)) if hosts.is_first() else None
            pace, votes = Pace(self.program.per_call), parallel.Votes()
            if start:  # what a signal prevented
                self.look(start, state, writer, preemption, progress)
            while step < total and not votes(preemption.requested):
                # A call ends at the next step at which something else is due.
                n = pace.begin(min(total - step, *(e - step % e for e in every)))
                watchdog.phase(f"reading the images of steps {step + 1} to {step + n}")
                work = self.program.work([next(stream)[1] for _ in range(n)])
                watchdog.phase(f"taking steps {step + 1} to {step + n}")
                state, new = self.program.call(state, self.key, work)
                metrics += pace.queue(n, new)
                if step == start:
                    metrics += pace.wait()
                    self.program.check_replicated(state, "the state after the first step")
                    progress.write(f"compiled and took the first step in {pace.last_call:.1f} s")
                    progress.restart_clock()
                step += n
                progress.advance(n)
                log, save = (is_due(step, total, one) for one in every[:2])
                look = is_due(step, total, *self.watch.every)
                self.saving.check()
                if log or save or look:
                    metrics += pace.wait()
                if log or save:
                    metrics = [self.finite(step, metrics)]
                if log:
                    self.log(step, metrics.pop(), writer, progress)
                if look:
                    watchdog.phase(f"drawing and scoring at step {step}")
                    self.look(step, state, writer, preemption if step < total else None, progress)
                if save and not (self.bad_steps and step < total):  # good ones stay until a step succeeds again
                    watchdog.phase(f"saving step {step}")
                    saved = self.save(step, state, metrics, writer, progress)
                if save or look:
                    progress.restart_clock()
            if saved < step:  # a signal came
                metrics += pace.wait()
                joined = [self.finite(step, metrics)] if metrics else []
                saved = self.save(step, state, joined, writer, progress)
            watchdog.phase(f"saving step {saved}")
            self.saving.wait()
        if step < total:
            return Outcome(step, False, f"stopped at step {step} of {total}; the same command resumes: {self.workdir}")
        return Outcome(step, True, f"trained {total} steps: {self.workdir}/samples/{step:06d}.png, checkpoints/{step}")

    def look(
        self,
        step: int,
        state: TrainState,
        writer: MetricsWriter | None,
        preemption: Preemption | None,
        progress: Progress,
    ) -> None:
        """Draw and score what is due; a signal to `preemption` ends it."""
        state = parallel.everywhere(state)
        if writer is not None:
            weights = functools.partial(self.program.weights, state)
            self.watch.look(step, self.config.train.num_steps, weights, writer, preemption, progress)

    def finite(self, step: int, metrics: list[dict[str, Any]]) -> dict[str, Any]:
        """The joined metrics of the steps up to `step`; a NonFiniteError if too many in a row changed nothing."""
        joined, most = join(metrics), self.config.train.max_bad_steps
        self.bad_steps = self.bad_before
        for at, good in enumerate(joined["finite"], step - len(joined["finite"]) + 1):
            self.bad_steps = 0 if good else self.bad_steps + 1
            if self.bad_steps > most:
                self.saving.wait()
                hosts.agreed(functools.partial(refuse_not_finite, at, most, self.checkpoints))
        return joined

    def log(self, step: int, metrics: dict[str, Any], writer: MetricsWriter | None, progress: Progress) -> None:
        """Show and write the means of all steps since the last line."""
        values = summarise(metrics)
        self.bad_before = self.bad_steps
        if "skipped" in values:
            progress.write(f"step {step}: {values['skipped']} of the last steps were not finite and changed nothing")
        progress.line(**{name: values[name] for name in ("loss", "mse", "vb", "head") if name in values})
        rate = {"steps_per_second": progress.rate, "images_per_second": progress.rate * self.config.train.batch_size}
        if writer is not None:
            writer.scalars(step, values | rate)

    def save(
        self,
        step: int,
        state: TrainState,
        metrics: list[dict[str, Any]],
        writer: MetricsWriter | None,
        progress: Progress,
    ) -> int:
        """Begin to write a checkpoint, with the metrics that no line has yet; training continues meanwhile."""
        self.saving.wait()  # for the one before: only one copy of the state is in memory
        self.program.check_replicated(state, f"the state at step {step}")
        meta = {
            **self.about_data,
            **self.of_noise,
            "config": self.config.to_dict(),
            "history": self.history,
            "pending": {name: values.tolist() for name, values in join(metrics).items()},
            "bad_steps": self.bad_before,
        }
        state = parallel.everywhere(state)
        if writer is None:
            return step
        copied, begun = parallel.copied_to_host(state), time.perf_counter()

        def write() -> None:
            writer.flush()
            self.held.check()
            self.checkpoints.save(step, resume.items(self.program.join(copied)), meta)
            progress.write(f"step {step}: saved a checkpoint in {time.perf_counter() - begun:.1f} s")

        self.saving.start(write)
        return step
