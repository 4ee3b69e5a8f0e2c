"""What there is to say of a config key or a setting."""

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
    is_size: bool = False  # an int may be two as well, (height, width)


def between(low: float, high: float) -> dict[str, Any]:
    """Limit an integer to [low, high)."""
    return {"limit": f"at least {low:,} and below {high:,}", "holds": lambda value: low <= value < high}


def within(low: float, high: float) -> dict[str, Any]:
    """Limit a number to [low, high]."""
    return {"limit": f"at least {low:g} and at most {high:,.10g}", "holds": lambda value: low <= value <= high}


def above(low: float, high: float) -> dict[str, Any]:
    """Limit a number to (low, high]."""
    return {"limit": f"above {low:g} and at most {high:,.10g}", "holds": lambda value: low < value <= high}


def one_of(*choices: str) -> dict[str, Any]:
    """Limit a name to these."""
    return {"limit": f"one of: {', '.join(choices)}", "holds": lambda value: value in choices, "choices": choices}


def numbers(least: int, most: int, low: int, high: int) -> dict[str, Any]:
    """Limit a tuple to `least` to `most` numbers, each in [low, high]."""
    return {
        "limit": f"{least} to {most} numbers, each at least {low} and at most {high:,}",
        "holds": lambda value: least <= len(value) <= most and all(low <= v <= high for v in value),
    }
