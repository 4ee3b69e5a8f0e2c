"""Config files: those that ship with ddx, known by name in any folder, and a user's own, wherever they lie.

A config file is Python with a function get_config() that returns a config. An argument of get_config stands after a
colon: "ddpm_lsun:church". A file may import modules that lie beside it.
"""

import contextlib
import importlib.machinery
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import config_dict

from ddx.config.values import check_key, check_keys, from_file
from ddx.runtime.errors import ConfigError, DdxError, did_you_mean, telling_line
from ddx.runtime.paths import user_path

_HERE = pathlib.Path(__file__).parents[1]
_SHIPPED = (_HERE / "configs", _HERE.parent / "configs")  # of an installed ddx, of a checkout


def load(name: str) -> ConfigDict:
    """The config of a file, locked: assigning to an unknown key fails.

    Args:
      name: of a shipped config, such as "digits"; or the path of a config file; with what get_config takes after a
        colon, as "ddpm_lsun:church". Or the config.json of a run.

    Raises:
      ConfigError: there is no such file, it fails, or it returns something else than a config with all keys.
    """
    file, colon, argument = name.partition(":")
    if name.endswith(".json"):
        return from_file(user_path(name, "--config"), "Name the config.json in a run's folder")
    if colon and argument.startswith("//"):
        raise ConfigError(f"config file {name} is not on this machine. Copy it here and name the copy")
    with _naming(file, path := find(file)):
        made = _call(file, _get_config(file, path), (argument,) if colon else ())
    if not isinstance(made, ConfigDict | dict):
        what = "nothing" if made is None else f"a value of type {type(made).__name__}"
        raise ConfigError(
            f"get_config() of {file} returned {what}. Return a config: ddx.config.default_config() with changes"
        )
    try:
        return check_keys(made)
    except ConfigError as error:
        raise ConfigError(f"config file {file}: {error}") from None


def find(file: str) -> pathlib.Path:
    """The path of a config file, given by its own path or by a shipped name.

    Where there is no file configs/NAME.py, that means the shipped one too.

    Raises:
      ConfigError: there is none.
    """
    known = shipped()
    if file in known:
        return known[file]
    if os.path.isfile(file):
        return pathlib.Path(file)
    name = pathlib.PurePath(file).stem
    if name in known and pathlib.PurePath(file) == pathlib.PurePath("configs", f"{name}.py"):
        return known[name]
    what = f"config file not found: {file}" if file else "--config is empty"
    raise ConfigError(f"{what}. {did_you_mean(name, known)}Name a file or a shipped config: {', '.join(known)}")


def shipped() -> dict[str, pathlib.Path]:
    """The configs that ship with ddx, by name, in order."""
    folder = next((folder for folder in _SHIPPED if folder.is_dir()), _SHIPPED[0])
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def _get_config(file: str, path: pathlib.Path) -> Callable[..., Any]:
    name = f"ddx_config_{zlib.crc32(bytes(path.resolve())):x}"  # its own: one config may load another
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for their module
    loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"config file {file} has no function get_config(). Define one that returns the config")
    return get_config


def _call(file: str, get_config: Callable[..., Any], arguments: tuple[str, ...]) -> Any:
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError:
        if arguments:
            message = f"config file {file} takes no argument. Leave out :{arguments[0]}"
        else:
            message = f"config file {file} needs an argument. Write it after a colon, as --config={file}:ARGUMENT"
        raise ConfigError(message) from None
    return get_config(*arguments)


@contextlib.contextmanager
def _naming(file: str, path: pathlib.Path) -> Iterator[None]:
    """Run a config file, with its folder last on the path, and name the file and its line in whatever it raises."""
    folder = str(path.resolve().parent)
    sys.path.append(folder)
    try:
        yield
    except DdxError:
        raise
    except SystemExit as error:
        raise ConfigError(
            f"config file {file} exits ({error.code!r}){_line(error, path)}. Let get_config() return the config"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _check_name(f"config file {file}{_line(error, path)}", error)
        what = f"{type(error).__name__}{_line(error, path)}: {telling_line(error)}"
        raise ConfigError(f"config file {file} fails with {what}. Fix it there") from error
    finally:
        sys.path.remove(folder)


def _check_name(where: str, error: BaseException) -> None:
    """Name a key that a locked config does not have, as other mistakes in keys are named."""
    key = re.search(r"\w+(?=['\"])", telling_line(error))
    if key and isinstance(error, AttributeError | KeyError) and _frames(error)[-1].filename == config_dict.__file__:
        try:
            check_key(key[0])
        except ConfigError as unknown:
            raise ConfigError(f"{where}: {unknown}") from error


def _frames(error: BaseException) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


def _line(error: BaseException, path: pathlib.Path) -> str:
    """Where in the file an error comes from, as ' in line 7'; empty if it comes from elsewhere."""
    lines = [frame.lineno for frame in _frames(error) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    return f" in line {lines[-1]}" if lines else ""
