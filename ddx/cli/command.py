"""What all commands share: flags, one-line errors and exit codes.

jax and the parts of ddx that need it are imported by the commands only when they start to work, so that `--help` and
mistakes in flags or configs are answered at once.
"""

import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from ddx.config import files
from ddx.config.evaluation import Setting
from ddx.config.key import Key
from ddx.config.keys import KEYS
from ddx.config.values import check_key, validate
from ddx.runtime import faults, storage
from ddx.runtime.errors import ConfigError, DdxError, brief, did_you_mean, printable, telling_line
from ddx.runtime.paths import Path, optional_path, place, user_path
from ddx.runtime.preemption import EXIT_CODE, interruptible

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: config, checkpoints, metrics, samples.")
_PATHS = {"workdir", "source", "out", "images", "reconstruct", "low_res", "data_dir", "known", "mask", "start"}
_PATHS |= {"samples", "reference", "feature_weights"}
DEBUG = flags.DEFINE_bool("debug", False, "Traceback of an error.")


class _ConfigFile(flags.ArgumentParser):
    """Reads the value of --config; ml_collections' own way of it knows no shipped configs and hides what fails."""

    def parse(self, argument: str) -> ConfigDict:
        return files.load(argument)


def define_config() -> flags.FlagHolder:
    """The --config flag: a file with get_config(), and --config.KEY=VALUE to change it."""
    meaning = "Name of a shipped config, such as digits, or path of a config file; change a value with"
    try:
        holder = config_flags.DEFINE_config_file("config", None, f"{meaning} --config.train.num_steps=1000.")
    except flags.Error as error:  # it reads --flagfile
        text, code = _said(_in_flags(error))
        _end(code, text, f"error: {text}")
        sys.exit(code)
    flags.FLAGS["config"].parser = _ConfigFile()
    return holder


def define_settings(keys: Mapping[str, Key]) -> dict[str, flags.FlagHolder]:
    """A flag for each setting that a job may be given, whose default is None: it is not given."""
    holders: dict[str, flags.FlagHolder] = {}
    for name, key in keys.items():
        if not key.is_flag:
            continue
        if key.choices:
            holders[name] = flags.DEFINE_enum(name, None, [*key.choices, *key.also], key.help)
        elif key.kind is tuple or (isinstance(key, Setting) and key.several):
            holders[name] = flags.DEFINE(_Integers(key.kind is tuple), name, None, key.help)
        else:
            holders[name] = _DEFINE[key.kind](name, None, key.help)
    return holders


class _Integers(flags.ArgumentParser):
    """Reads the value of a flag that may be several numbers, or none, if they may be."""

    def __init__(self, may_be_none: bool) -> None:
        super().__init__()
        self._may_be_none = may_be_none

    def parse(self, argument: str) -> tuple[int, ...]:
        if self._may_be_none and not argument:
            return ()
        return tuple(map(int, argument.split(",")))

    def flag_type(self) -> str:
        return "integers"


_DEFINE: dict[type, Callable[..., flags.FlagHolder]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    Path: flags.DEFINE_string,
}


def run(main: Callable[[], int]) -> None:
    """Parse the flags, run a command and exit with its code; an error is one line on stderr unless --debug is given."""
    debug = _debug(sys.argv)
    warnings.showwarning = _show_warning
    try:
        _parse(sys.argv)
        _check_values()
        for name in _PATHS & set(flags.FLAGS):
            optional_path(flags.FLAGS[name].value, f"--{name}")
        if not debug:  # orbax logs its own tracebacks of what is reported here in one line
            logging.set_verbosity(logging.FATAL)
        with interruptible():
            code = main()
    except KeyboardInterrupt:
        code = 130
        _end(code, "interrupted", "interrupted")
    except SystemExit as ended:
        if ended.code != EXIT_CODE:
            raise
        code = EXIT_CODE
        _end(code, "stopped by a signal; the same command resumes", "")  # as it has said itself
    except Exception as error:
        if debug:
            traceback.print_exc()
        text, code = _said(error)
        _end(code, text, f"error: {text}")
    sys.exit(code)


def _end(code: int, why: str, line: str) -> None:
    """Say why a command ends, to the other hosts too, once it works with any."""
    if _end_on_hosts is not None:
        _end_on_hosts(code, why, line)
    if line:
        print(line, file=sys.stderr)


_end_on_hosts: Callable[[int, str, str], None] | None = None


def meet_hosts() -> None:
    """Begin to work together with the other hosts, if there are any; the first one speaks for all.

    Raises:
      ConfigError: they were given other flags, or have other versions.
    """
    global _end_on_hosts
    import jax
    import jaxlib

    from ddx.runtime import between_hosts, hosts

    hosts.start()
    between_hosts.listen()
    _end_on_hosts = between_hosts.end
    versions = {module.__name__: module.__version__ for module in (sys.modules["ddx"], jax, jaxlib)}
    ways = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")
    between_hosts.check_same(
        {f"--{name}": value for name, value in _shared_flags().items()}
        | {f"the version of {name}": version for name, version in versions.items()}
        | {name: getattr(jax.config, name) for name in ways}
    )
    if not hosts.is_first():
        sys.stdout = None  # to which `print` prints nothing
        warnings.simplefilter("ignore")


def _shared_flags() -> dict[str, Any]:
    """The flags that are to be the same on all hosts, whether given or not.

    The config is compared as a whole by what uses it. A path may be a host's own: where the images lie; or it is a
    folder that is locked, and must be the same one.
    """
    modules = flags.FLAGS.flags_by_module_dict().items()
    ours = {flag.name: flag.value for module, those in modules if not module.startswith("absl") for flag in those}
    return {
        name: value
        for name, value in ours.items()
        if name.partition(".")[0] not in ("config", "debug") and (name not in _PATHS or "://" in str(value))
    }


def workdir() -> Path:
    """The --workdir flag, without which there is no run."""
    if not WORKDIR.value:
        raise ConfigError("--workdir is missing. Name the folder of the run, such as --workdir=runs/digits")
    return user_path(WORKDIR.value, "--workdir")


def given_config(flag: flags.FlagHolder) -> ConfigDict | None:
    """The validated config of --config, or None if it was not given."""
    return None if flag.value is None else validate(flag.value)


def _said(error: Exception) -> tuple[str, int]:
    """An error as one line, and its exit code."""
    known = error if isinstance(error, DdxError) else faults.explain(error)
    if known is not None:
        text, code = str(known), known.exit_code
    elif isinstance(error, OSError) and error.filename:
        text, code = f"{error.filename}: {error.strerror}", 1
    else:
        text, code = f"{type(error).__name__}: {telling_line(error)}. Run with --debug to see where", 1
    text = " ".join(brief(word, _LONGEST_WORD) for word in text.split(" "))
    return brief(printable(text), _LONGEST), code


_LONGEST_WORD, _LONGEST = 600, 3000  # of a message: a path of a few folders, and the most keys that it lists


def _debug(argv: list[str]) -> bool:
    """What --debug says, of which errors of the other flags must know before these are parsed."""
    debug = False
    for arg in argv[1:]:
        name, equals, value = arg.removeprefix("-").partition("=")
        if name in ("-debug", "debug", "-nodebug", "nodebug") and arg.startswith("-"):
            debug = not name.endswith("nodebug") and (not equals or value.lower() in ("true", "t", "1"))
    return debug


def _parse(argv: list[str]) -> None:
    changes = [arg.lstrip("-").partition("=")[0] for arg in argv[1:] if arg.startswith(("--config.", "-config."))]
    for change in changes:
        check_key(change.removeprefix("config."))
    if changes and not any(arg.partition("=")[0] in ("--config", "-config") for arg in argv[1:]):
        argv = [argv[0], f"--config={_own_config(argv, changes[0])}", *argv[1:]]
    app.define_help_flags()
    try:
        rest = flags.FLAGS(argv)
    except RecursionError:  # absl looks for what a very long name may have meant
        raise _unknown(max((arg.lstrip("-").partition("=")[0] for arg in argv[1:]), key=len)) from None
    except (flags.Error, ValueError) as error:
        raise _in_flags(error) from None
    if len(rest) > 1:
        raise ConfigError(f"unexpected argument {rest[1]!r}. Flags are written --name=value; see --help")


def _check_values() -> None:
    """Refuse what no flag can be: empty, which would be taken as not given, or a number beyond all limits.

    The keys of a config have their own limits, and some may be empty.
    """
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if not flag.present or name.startswith("config."):
            continue
        if flag.value in ("", []):
            raise ConfigError(f"--{name} is empty. Leave it out, or write --{name}=VALUE; see --help")
        if isinstance(flag.value, int | float) and not abs(flag.value) <= _LARGEST:
            raise ConfigError(f"--{name}={flag.value} must be a number from -{_LARGEST:,} to {_LARGEST:,}. See --help")
    if "out" in flags.FLAGS and flags.FLAGS["out"].value and WORKDIR.value:
        out, checkpoints = place(flags.FLAGS["out"].value), place(f"{WORKDIR.value}/checkpoints")
        if f"{out}/".startswith(f"{checkpoints}/"):
            raise ConfigError(
                f"--out={flags.FLAGS['out'].value} is among the checkpoints of the run. Name another folder"
            )


_LARGEST = 10**10


def _own_config(argv: list[str], change: str) -> Path:
    """The config of the run in --workdir, which a change without --config is of."""
    given = [value for arg, value in zip(argv, [*argv[1:], ""], strict=True) if arg in ("--workdir", "-workdir")]
    given += [arg.partition("=")[2] for arg in argv if arg.startswith(("--workdir=", "-workdir="))]
    path = user_path(given[-1], "--workdir") / "config.json" if given and given[-1] else None
    if path is None or not storage.is_file(path):
        where = f", and there is no {path}" if path else ""
        raise ConfigError(f"--{change} needs a config to change{where}. Pass --config, such as --config=digits")
    return path


def _in_flags(error: Exception) -> ConfigError:
    """The error for what absl says of a flag."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return _unknown(error.flagname)
    line = telling_line(error)
    if isinstance(error, flags.IllegalFlagValueError):
        name, _, value = str(error).partition(": ")[0].removeprefix("flag --").partition("=")
        if name.startswith("config."):
            key = name.removeprefix("config.")
            return KEYS[key].wrong_type(key, value)
        flag = flags.FLAGS[name]
        choices = getattr(flag.parser, "enum_values", None)
        if choices:
            meant = did_you_mean(value, choices)
            return ConfigError(f"--{name}={brief(value, 100)} is unknown. {meant}Choose one of: {', '.join(choices)}")
        if flag.flag_type() in _KINDS:
            return ConfigError(f"--{name}={brief(value, 100)} must be {_KINDS[flag.flag_type()]}. See --help")
        return ConfigError(f"--{name}={brief(value, 100)} cannot be read. See --help")
    return ConfigError(f"{line}{'' if line.endswith('?') else '.'} See --help")


_KINDS = {
    "bool": "true or false",
    "int": "an integer, such as 8",
    "integers": "numbers, such as 25 or 10,25,50",
    "float": "a number, such as 0.5",
}


def _unknown(name: str) -> ConfigError:
    own = (flag for flag in flags.FLAGS if not str(flags.FLAGS.find_module_defining_flag(flag)).startswith("absl."))
    return ConfigError(f"unknown flag --{name}. {did_you_mean(f'--{name}', (f'--{flag}' for flag in own))}See --help")


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
