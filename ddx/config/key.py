"""What there is to say of a config key or a setting."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ddx.runtime.errors import ConfigError, shown

MOST_STEPS = 1_000_000_000  # of training


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

    @property
    def kind(self) -> type:
        """The type of its values."""
        return type(self.default)

    @property
    def help(self) -> str:
        """What the flag of a setting of `SAMPLING` says of it."""
        return f"{self.meaning[0].upper()}{self.meaning[1:]}; by default the run's."

    def checked(self, name: str, value: Any) -> Any:
        """A value of the key, which a message calls by `name`, as its own type: numbers of NumPy and JAX are Python's.

        Raises:
          ConfigError: it has another type, or is out of range.
        """
        kind, value = self.kind, _plain(value)
        if kind is float and type(value) is int:
            value = float(value)
        if (kind is tuple or self.is_size) and isinstance(value, list | tuple):
            # --config.KEY= gives one empty text
            kind, value = tuple, () if tuple(value) == ("",) else tuple(map(_plain, value))
            bad = [v for v in value if type(v) is not int]
            if bad:
                raise ConfigError(f"{name}={shown(value)}: {shown(bad[0])} must be an int")
        if type(value) is not kind:
            raise self.wrong_type(name, value)
        if (kind is float and value != value) or not self.holds(value):
            raise ConfigError(f"{name}={shown(value)} must be {self.limit or 'a number'}")
        return value

    def wrong_type(self, name: str, value: Any) -> ConfigError:
        """The error for a value whose type is not the key's."""
        if self.is_size:
            return ConfigError(f"{name}={shown(value)} must be an int or two, such as 64 or 64,96")
        example = "" if self.default is None else f", such as {self.default!r}"
        return ConfigError(f"{name}={shown(value)} must be {_KINDS[self.kind]}{example}")


_KINDS = {int: "an int", float: "a number", str: "a string", bool: "True or False", tuple: "a tuple of ints"}


def _plain(value: Any) -> Any:
    """Python's own number, or list of numbers, for one of NumPy or JAX."""
    return value.tolist() if hasattr(value, "dtype") and hasattr(value, "tolist") else value


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
