"""What all commands share: flags, one-line errors and exit codes.

jax and the parts of ddx that need it are imported by the commands only when they start to work, so that `--help` and
mistakes in flags or configs are answered at once.
"""

import pathlib
import sys
import warnings
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from ddx.config import check_key, validate, wrong_type
from ddx.errors import ConfigError, DdxError

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: config, checkpoints, metrics, samples.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def define_config() -> flags.FlagHolder:
    """The --config flag: a file with get_config(), and --config.KEY=VALUE to change it."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, such as configs/digits.py; change a value with --config.train.num_steps=1000.",
        lock_config=True,
    )


def run(main: Callable[[], int]) -> None:
    """Parse the flags, run a command and exit with its code; an error is one line on stderr unless --debug is given."""
    debug = "--debug" in sys.argv
    warnings.showwarning = _show_warning
    try:
        _parse(sys.argv)
        if not debug:  # orbax logs its own tracebacks of what is reported here in one line
            logging.set_verbosity(logging.FATAL)
        code = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        if debug:
            raise
        text = _last_line(error)
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {error.strerror}"
        elif not isinstance(error, DdxError):
            text = f"{type(error).__name__}: {text}. Run with --debug to see where"
        print(f"error: {text}", file=sys.stderr)
        code = error.exit_code if isinstance(error, DdxError) else 1
    sys.exit(code)


def workdir() -> pathlib.Path:
    """The --workdir flag, without which there is no run."""
    if not WORKDIR.value:
        raise ConfigError("--workdir is missing. Name the folder of the run, such as --workdir=runs/digits")
    return pathlib.Path(WORKDIR.value)


def given_config(flag: flags.FlagHolder) -> ConfigDict | None:
    """The validated config of --config, or None if it was not given."""
    if flag.value is None and _config_file(sys.argv) is not None:
        raise ConfigError(f"get_config() of {_config_file(sys.argv)} returned nothing. Return the config")
    return None if flag.value is None else validate(flag.value)


def _parse(argv: list[str]) -> None:
    changes = [arg.lstrip("-").partition("=")[0] for arg in argv[1:] if arg.startswith(("--config.", "-config."))]
    for change in changes:
        check_key(change.removeprefix("config."))
    file = _config_file(argv)
    if changes and file is None:
        raise ConfigError(f"--{changes[0]} needs a config to change. Pass --config, such as --config=configs/digits.py")
    if file is not None and not pathlib.Path(file.partition(":")[0]).is_file():
        shipped = sorted(str(p) for p in pathlib.Path("configs").glob("[!_]*.py"))
        raise ConfigError(f"config file not found: {file.partition(':')[0]}. Shipped configs: {', '.join(shipped)}")
    app.define_help_flags()
    try:
        rest = flags.FLAGS(argv)
    except flags.IllegalFlagValueError as error:
        name, _, value = str(error).partition(":")[0].removeprefix("flag --").partition("=")
        if name.startswith("config."):
            raise wrong_type(name.removeprefix("config."), value) from None
        raise ConfigError(f"{_last_line(error)}. See --help") from None
    except flags.Error as error:
        raise ConfigError(f"{_last_line(error)}. See --help") from None
    except DdxError:
        raise
    except Exception as error:  # whatever a config file raises
        if file is None:
            raise
        raise ConfigError(f"config file {file} fails with {type(error).__name__}: {_last_line(error)}") from error
    if len(rest) > 1:
        raise ConfigError(f"unexpected argument {rest[1]!r}. Flags are written --name=value; see --help")


def _config_file(argv: list[str]) -> str | None:
    """The value of --config=FILE or --config FILE."""
    for arg, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if name in ("--config", "-config"):
            return value if equals else following
    return None


def _last_line(error: BaseException) -> str:
    # Some libraries raise a KeyError's text, whose line breaks are escaped.
    lines = str(error).replace("\\n", "\n").strip().splitlines() or [type(error).__name__]
    return lines[-1].strip(" .'")


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
