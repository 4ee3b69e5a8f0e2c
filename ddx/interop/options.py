"""Options of another code base, each of which is either taken or refused by its name."""

import json
from collections.abc import Mapping
from typing import Any

from ddx.runtime import storage
from ddx.runtime.errors import CheckpointError, ConfigError, shown, telling_line
from ddx.runtime.paths import Path


class Options:
    """The options in a JSON file, with the defaults of the code that wrote it. What is asked for is taken."""

    def __init__(self, path: Path, defaults: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> None:
        """`ignored` are options that change neither the network nor how it is sampled.

        Raises:
          CheckpointError: the file cannot be read.
        """
        self.path = path
        try:
            said = json.loads(storage.read_text(path))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"cannot read {path} ({telling_line(error)}). Fetch it again") from None
        if not isinstance(said, dict):
            raise CheckpointError(f"{path} holds no options. Fetch it again")
        self.said: dict[str, Any] = said
        self._defaults, self._ignored = defaults, ignored

    def __getitem__(self, name: str) -> Any:
        """The value of an option."""
        return self.said.get(name, self._defaults[name])

    def typed(self, name: str, kind: type, least: int = 1) -> Any:
        """The value of an option, which must be of this kind; a number must be at least so large.

        Raises:
          CheckpointError: it is not.
        """
        value = self[name]
        if type(value) is not kind or (isinstance(value, int) and value < least):
            raise CheckpointError(f"{self.path}: {name}={shown(value)} is not possible. Fetch it again")
        return value

    def need(self, name: str, *wanted: Any) -> None:
        """Refuse every value of an option but these.

        Raises:
          ConfigError: it has another.
        """
        if self[name] not in wanted:
            raise self.refused(name, f"it must be {' or '.join(map(shown, wanted))}")

    def refuse_unknown(self) -> None:
        """Refuse options that are not in the table of defaults, unless they are ignored or empty.

        Raises:
          ConfigError: there is one.
        """
        for name, value in self.said.items():
            known = name in self._defaults or name in self._ignored or name.startswith("_")
            if not known and value not in (None, False):
                raise self.refused(name, "it is not known")

    def refused(self, name: str, why: str, remedy: str = "Convert another network") -> ConfigError:
        """The error for an option that ddx cannot represent."""
        value = self[name] if name in self._defaults else self.said[name]
        return ConfigError(f"{self.path}: ddx cannot represent {name}={shown(value)}: {why}. {remedy}")
