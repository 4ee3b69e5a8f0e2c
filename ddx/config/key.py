"""What there is to say of a config key or a setting."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Key:
    """One config key: its default (which fixes its type), what it means, and the limit of its values."""

    default: Any
    meaning: str
    limit: str = ""
    holds: Callable[[Any], bool] = lambda value: True
    choices: tuple[str, ...] = ()  # all values, where they are few names
    also: tuple[str, ...] = ()  # choices that only a job on a trained network has
    tag: Callable[[Any], str] | None = None  # tag(sample) -> the setting's part of a job's folder name
    is_flag: bool = True  # of `SAMPLING`: whether a job may be given it


def at_least(low: float) -> dict[str, Any]:
    """Limit a number to `low` or more."""
    return {"limit": f"at least {low:g}", "holds": lambda value: value >= low}


def between(low: float, high: float) -> dict[str, Any]:
    """Limit an integer to [low, high)."""
    return {"limit": f"at least {low:,} and below {high:,}", "holds": lambda value: low <= value < high}


def within(low: float, high: float) -> dict[str, Any]:
    """Limit a number to [low, high]."""
    return {"limit": f"at least {low:g} and at most {high:,.10g}", "holds": lambda value: low <= value <= high}


def number(low: float, above: bool = False) -> dict[str, Any]:
    """Limit a number to finite ones, `low` or more, or above `low`."""
    kind = f"{'above' if above else 'at least'} {low:g} and finite"
    return {"limit": kind, "holds": lambda value: math.isfinite(value) and (value > low if above else value >= low)}


def one_of(*choices: str) -> dict[str, Any]:
    """Limit a name to these."""
    return {"limit": f"one of: {', '.join(choices)}", "holds": lambda value: value in choices, "choices": choices}


def all_at_least(low: int) -> dict[str, Any]:
    """Limit every number of a tuple to `low` or more."""
    return {"limit": f"numbers of at least {low}", "holds": lambda value: all(v >= low for v in value)}
