"""What a user can change when a training step does not fit into memory, or its loss is not finite."""

from ml_collections import ConfigDict

from ddx.runs.checkpoint import Checkpoints
from ddx.runtime import devices
from ddx.runtime.errors import NonFiniteError


def smaller_step(config: ConfigDict | None) -> str:
    """The changes of a config that make its training step need less memory, as flags in one sentence.

    The first ones change no result but for rounding; a smaller batch does.
    """
    if config is None:
        return "Use a device with more memory"
    changes = [] if config.model.remat else ["--config.model.remat=True"]
    parts = _next_divisor(config.train.batch_size // devices.count(), config.train.accumulation)
    changes += [f"--config.train.accumulation={parts}"] * (parts is not None)
    changes += ["--config.model.dtype=bfloat16"] * (config.model.dtype == "float32")
    changes.append("a smaller --config.train.batch_size")
    return f"Try {', '.join(changes[:-1])}{' or ' * (len(changes) > 1)}{changes[-1]}"


def _next_divisor(number: int, above: int) -> int | None:
    """The smallest divisor of a number above another."""
    return next((n for n in range(above + 1, number + 1) if number % n == 0), None)


def refuse_not_finite(step: int, before: int, checkpoints: Checkpoints) -> None:
    """Raise a NonFiniteError for a step, and as many before it as are allowed, which says from where to go on."""
    last = checkpoints.steps()
    newest = f"The newest checkpoint is {last[-1]}" if last else "There is no checkpoint yet"
    raise NonFiniteError(
        f"the loss or its gradient was not finite at step {step}{f' and the {before} before' * (before > 0)},"
        f" and the update was not applied. {newest}. Lower"
        " train.learning_rate, raise train.warmup_steps or use model.dtype=float32, in the same --workdir"
    )
