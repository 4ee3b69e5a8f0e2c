"""Arguments of Python calls that are several values: one alone, such as metrics="bpd", is that one, not its letters."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ddx.runtime.errors import ConfigError


def names(argument: str, value: Any) -> tuple[str, ...]:
    """One name or several as a tuple.

    Raises:
      ConfigError: something else; `argument` is what the caller calls it.
    """
    listed = _listed(value)
    if not all(isinstance(name, str) for name in listed):
        raise ConfigError(f"{argument}={value!r} must be a name or a sequence of names")
    return listed


def integers(argument: str, value: Any) -> tuple[int, ...]:
    """One integer or several, of Python, NumPy or JAX, as a tuple of Python's.

    Raises:
      ConfigError: something else; `argument` is what the caller calls it.
    """
    listed = [np.asarray(number) for number in _listed(value)]
    if not all(number.dtype.kind in "iu" and number.shape == () for number in listed):
        raise ConfigError(f"{argument}={value!r} must be an integer or a sequence of integers")
    return tuple(int(number) for number in listed)


def names_or_integers(argument: str, value: Any) -> tuple[str | int, ...]:
    """One name or integer, or several, as a tuple.

    Raises:
      ConfigError: something else; `argument` is what the caller calls it.
    """
    listed = _listed(value)
    others = [one for one in listed if not isinstance(one, str)]
    try:
        numbers = iter(integers(argument, others))
    except ConfigError:
        raise ConfigError(f"{argument}={value!r} must be a name or an integer, or a sequence of them") from None
    return tuple(str(one) if isinstance(one, str) else next(numbers) for one in listed)


def _listed(value: Any) -> tuple[Any, ...]:
    alone = isinstance(value, str | bytes) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0
    return (value,) if alone else tuple(value)
