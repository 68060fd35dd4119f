"""Where settings come from: the configuration file, the environment, the command line; and which of them was it."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from .errors import UsageError
from .settings_fields import Key, Section
from .settings_table import SECTIONS

CONFIG_FILE_BYTES_MAX = 1024 * 1024  # keeps a wrong --config (a model file) out of memory


class Rank(enum.IntEnum):
    """Precedence: the lowest number wins."""

    COMMAND_LINE = 0
    ENVIRONMENT = 1  # SHOAL_SECTION_KEY
    ALIAS = 2  # an honoured variable of another tool, such as HF_TOKEN
    FILE = 3
    DEFAULT = 4


class ConfigFile(NamedTuple):
    """A configuration file that was read: its tables, and its text to find lines in."""

    path: Path
    text: str
    tables: Mapping[str, object]

    def line_of(self, key: tuple[str, ...]) -> int | None:
        """The line, from 1, where a key (or else the table around it) is set. Searched only when somebody asks."""
        lines = self.text.splitlines()
        while key:
            table: tuple[str, ...] = ()
            for number, line in enumerate(lines, start=1):
                found = _path_of(line)
                if found is None:
                    continue
                is_header, path = found
                if is_header:
                    table = path
                    path = ()
                # A line inside a string or array of several lines only looks like a key: what precedes a real one parses.
                if table + path == key and _parses("\n".join(lines[: number - 1])):
                    return number
            key = key[:-1]
        return None


class Origin(NamedTuple):
    """Where a value came from; ``str(origin)`` is for people."""

    rank: Rank
    name: str = ""  # of the variable or the file
    file: ConfigFile | None = None
    key: tuple[str, ...] = ()

    @property
    def line(self) -> int | None:
        """The line in the file, where it can be told."""
        return self.file.line_of(self.key) if self.file else None

    def __str__(self) -> str:
        if self.rank is Rank.FILE:
            line = self.line
            return f"{self.name}:{line}" if line else self.name
        if self.rank in (Rank.ENVIRONMENT, Rank.ALIAS):
            return f"environment variable {self.name}"
        return "command line" if self.rank is Rank.COMMAND_LINE else self.name or "default"


class Given(NamedTuple):
    """A value that one source gives: a TOML value, or text that is yet to be read into one."""

    value: object
    origin: Origin
    is_text: bool
    base: Path  # where relative paths start


def search_list(config_file: Path | None, environ: Mapping[str, str], cwd: Path) -> list[Path]:
    """The files that are looked for, the first of which wins. ``--config`` shuts out the others."""
    if config_file is not None:
        return [cwd / config_file]
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".config")
    return [cwd / "shoal.toml", Path(home) / "shoal" / "config.toml", Path("/etc/shoal/shoal.toml")]


def find_file(config_file: Path | None, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The file that is used, or None. A file that was named counts even when it is missing: reading it says so."""
    candidates = search_list(config_file, environ, cwd)
    return candidates[0] if config_file is not None else next((path for path in candidates if path.is_file()), None)


def read_file(path: Path) -> ConfigFile:
    """Raises: UsageError when the file is missing, unreadable, too large or not TOML."""
    import tomllib  # costs milliseconds, and most runs have no file

    thing = f"configuration file {path}"
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(
            thing, cause=error.strerror or str(error), remedy="check --config and its permissions"
        ) from None
    if len(data) > CONFIG_FILE_BYTES_MAX:
        raise UsageError(thing, cause="it is too large to be a configuration", remedy="check --config")
    try:
        text = data.decode("utf-8-sig")
        return ConfigFile(path, text, tomllib.loads(text))
    except UnicodeDecodeError:
        raise UsageError(thing, cause="it is not UTF-8 text", remedy="save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(
            thing, cause=f"it is not TOML: {error}", remedy="correct that line; see shoal config init"
        ) from None


def from_environment(section: Section, key: Key, environ: Mapping[str, str], cwd: Path) -> Iterator[Given]:
    """What the environment gives, best first. A variable that is set to nothing counts as not set."""
    own = variable_name(section, key)
    if environ.get(own):
        yield Given(environ[own], Origin(Rank.ENVIRONMENT, own), True, cwd)
    for alias in key.aliases:
        text = environ.get(alias.name)
        value = alias.read(text) if text else None
        if value is not None:
            yield Given(value, Origin(Rank.ALIAS, alias.name), isinstance(value, str), cwd)


def variable_name(section: Section, key: Key) -> str:
    """``SHOAL_FETCH_ATTEMPTS``."""
    return f"SHOAL_{section.name}_{key.name}".upper()


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none. Not an error: container platforms set such names by themselves."""
    known = {variable_name(section, key) for section in SECTIONS if not section.named for key in section.table()}
    prefixes = tuple(f"SHOAL_{section.name}_".upper() for section in SECTIONS)
    return sorted(name for name in environ if name.startswith(prefixes) and name not in known)


def _path_of(line: str) -> tuple[bool, tuple[str, ...]] | None:
    """The dotted name that a line of TOML opens or sets: (is it a table header?, name)."""
    import tomllib

    stripped = line.strip()
    is_header = stripped.startswith("[")
    if not is_header and ("=" not in stripped or stripped.startswith("#")):
        return None
    try:
        node: Any = tomllib.loads(stripped if is_header else f"{stripped.partition('=')[0]} = 0")
    except tomllib.TOMLDecodeError:
        return None
    names: list[str] = []
    while isinstance(node, dict) and node:
        name, node = next(iter(cast("dict[str, Any]", node).items()))
        names.append(name)
    return is_header, tuple(names)


def _parses(text: str) -> bool:
    import tomllib

    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True
