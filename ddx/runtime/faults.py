"""Errors of JAX and Python that a user can mend, as one line each: an accelerator that does not start, no memory."""

import re
from collections.abc import Callable

from ddx.runtime import accelerator
from ddx.runtime.errors import AcceleratorError, DdxError, OutOfMemoryError, telling_line

_MEMORY = r"out of memory|ran out of|alloc|reserve|hbm|vmem"
_NO_MEMORY = (
    r"Out of memory (allocating|while trying)|CUDA_ERROR_OUT_OF_MEMORY|STATUS_ALLOC_FAILED|HIP_ERROR_OutOfMemory"
)


def explain(
    error: BaseException, what: str = "", remedy: str | Callable[[], str] = "Ask for less at once"
) -> DdxError | None:
    """The error for an accelerator or memory that another error tells of; None if it tells of something else.

    `what` was going on, such as "training", and `remedy` is what helps against a lack of memory.
    """
    if is_out_of_memory(error):
        where = " on the host" if isinstance(error, MemoryError) else ""
        while_doing = f" while {what}" if what else ""
        detail = telling_line(error).removeprefix("RESOURCE_EXHAUSTED: ")
        remedy = remedy if isinstance(remedy, str) else remedy()
        return OutOfMemoryError(f"out of memory{where}{while_doing}: {detail}. {remedy}")
    if isinstance(error, RuntimeError):
        message = accelerator.refusal(str(error), accelerator.this_host())
        return AcceleratorError(message) if message else None
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host has no memory left."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    exhausted = "RESOURCE_EXHAUSTED" in text and re.search(_MEMORY, text, re.IGNORECASE)
    return isinstance(error, RuntimeError) and bool(exhausted or re.search(_NO_MEMORY, text))
