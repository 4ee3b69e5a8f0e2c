"""The errors a user can cause, each with the exit code that the commands return for it.

A message is one line that says what is wrong, where, and how to fix it; the commands print it as `error: ...` without a
traceback.
"""

import difflib
from collections.abc import Iterable


class DdxError(Exception):
    """Base of the errors below; never raised itself."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What notebooks show, as commands do: the line that says how to fix it."""
        return [f"error: {self}"]


class ConfigError(DdxError):
    """A config value, a flag or an argument cannot be used."""

    exit_code = 2


class AcceleratorError(DdxError):
    """The TPU or GPU of this host cannot be used with what is installed, or somebody else uses it."""

    exit_code = 2


class OutOfMemoryError(DdxError):
    """A device or the host has too little memory for what was asked."""

    exit_code = 2


class CheckpointError(DdxError):
    """A checkpoint is missing, damaged or belongs to another run."""

    exit_code = 3


class StorageError(DdxError):
    """A file or an object cannot be written, or a bucket cannot be reached."""

    exit_code = 3


class DataError(DdxError):
    """A data set cannot be read."""

    exit_code = 4


class NonFiniteError(DdxError):
    """A loss, a gradient or a score is not a finite number."""

    exit_code = 5


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is nearest to an unknown one, as the question of a message; empty if none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]}? " if close else ""


def telling_line(error: BaseException) -> str:
    """The line of an error's text that says what went wrong, without a full stop; other libraries write many.

    That is the first line with words, with what the error suggests instead; of a traceback in the text, the last.
    """
    while len(error.args) == 1 and isinstance(error.args[0], BaseException):
        error = error.args[0]  # the text of an error that was made from another
    # A KeyError shows the repr of its text.
    text = error.args[0] if isinstance(error, KeyError) and len(error.args) == 1 else error
    lines = [line.strip() for line in str(text).splitlines()]
    lines = [line for line in lines if any(map(str.isalnum, line))]
    if not lines:
        return type(error).__name__
    if any("Traceback (most recent call last)" in line for line in lines):
        lines = lines[-1:]
    line = " ".join(lines[:1] + [line for line in lines[1:] if line.startswith("Did you mean")])
    line = line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."
    return printable(line.removesuffix("."))


def shown(value: object) -> str:
    """A value in a message; of a long one, the beginning and the end."""
    return brief(repr(value), 100)


def brief(text: str, longest: int = 600) -> str:
    """The text, without its middle if it is long."""
    return text if len(text) <= longest else f"{text[: longest * 2 // 3]}...{text[-longest // 4 :]}"


def printable(text: str) -> str:
    """The text with line breaks and what else a terminal does not show as escapes, so that it is one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_LONGEST = 400
