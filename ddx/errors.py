"""The errors a user can cause, each with the exit code that the commands return for it.

A message is one line that says what is wrong, where, and how to fix it; the commands print it as `error: ...` without a
traceback.
"""


class DdxError(Exception):
    """Base of the errors below; never raised itself."""

    exit_code = 1


class ConfigError(DdxError):
    """A config value, a flag or an argument cannot be used."""

    exit_code = 2


class CheckpointError(DdxError):
    """A checkpoint is missing, damaged or belongs to another run."""

    exit_code = 3


class DataError(DdxError):
    """A data set cannot be read."""

    exit_code = 4


class NonFiniteError(DdxError):
    """Training met a loss or a gradient that is not a finite number."""

    exit_code = 5
