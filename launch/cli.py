"""What all commands share: flags, one-line errors and exit codes.

jax and the parts of ddx that need it are imported by the commands only when they start to work, so that `--help` and
mistakes in flags or configs are answered at once.
"""

import pathlib
import sys
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
    """Parse the flags, run a command and exit with its code; a user's mistake is one line on stderr."""
    debug = "--debug" in sys.argv
    try:
        _parse(sys.argv)
        if not debug:  # orbax logs its own tracebacks of what is reported here in one line
            logging.set_verbosity(logging.FATAL)
        if not WORKDIR.value:
            raise ConfigError("--workdir is missing. Name the folder of the run, such as --workdir=runs/digits")
        code = main()
    except DdxError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def workdir() -> pathlib.Path:
    """The --workdir flag."""
    return pathlib.Path(WORKDIR.value or "")


def given_config(flag: flags.FlagHolder) -> ConfigDict | None:
    """The validated config of --config, or None if it was not given."""
    return None if flag.value is None else validate(flag.value)


def _parse(argv: list[str]) -> None:
    changes = [arg.lstrip("-").partition("=")[0] for arg in argv[1:] if arg.startswith(("--config.", "-config."))]
    for change in changes:
        check_key(change.removeprefix("config."))
    files = [arg.partition("=")[2] for arg in argv[1:] if arg.startswith(("--config=", "-config="))]
    if changes and not files and "--config" not in argv:
        raise ConfigError(f"--{changes[0]} needs a config to change. Pass --config, such as --config=configs/digits.py")
    for file in files:
        path = pathlib.Path(file.partition(":")[0])
        if not path.is_file():
            shipped = sorted(str(p) for p in pathlib.Path("configs").glob("[!_]*.py"))
            raise ConfigError(f"config file not found: {path}. Shipped configs: {', '.join(shipped)}")
    app.define_help_flags()
    try:
        rest = flags.FLAGS(argv)
    except flags.IllegalFlagValueError as error:
        name, _, value = str(error).partition(":")[0].removeprefix("flag --").partition("=")
        if name.startswith("config."):
            raise wrong_type(name.removeprefix("config."), value) from None
        raise ConfigError(f"{' '.join(str(error).split())}. See --help") from None
    except flags.Error as error:
        raise ConfigError(f"{' '.join(str(error).split())}. See --help") from None
    except (TypeError, ValueError) as error:  # ml_collections: a value of another type
        raise ConfigError(f"a --config value has the wrong type: {' '.join(str(error).split())}") from None
    if len(rest) > 1:
        raise ConfigError(f"unexpected argument {rest[1]!r}. Flags are written --name=value; see --help")
