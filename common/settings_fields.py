"""What a setting is: a dataclass field with its kind, default, help and environment aliases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields
from pathlib import Path
from typing import NamedTuple, TypeVar

from .settings_kinds import Context, Kind

T = TypeVar("T")


def _unchanged(text: str) -> object | None:
    return text


class Alias(NamedTuple):
    """An honoured environment variable of another tool; ``read`` gives the value, or None for "says nothing"."""

    name: str
    read: Callable[[str], object | None] = _unchanged


class Key(NamedTuple):
    """One setting: ``default`` is a TOML value, as it is written in the file."""

    name: str
    kind: Kind[object]
    default: object
    help: str
    aliases: tuple[Alias, ...]


class Section(NamedTuple):
    """A table of the file. A ``named`` section holds one table per name: ``[hosts."NAME"]``."""

    name: str
    cls: type
    help: str
    named: bool = False

    def table(self) -> tuple[Key, ...]:
        """The keys in the order of the fields."""
        return tuple(Key(name=f.name, **f.metadata) for f in fields(self.cls))


def setting(kind: Kind[T], default: object, help: str, *, aliases: tuple[Alias, ...] = ()) -> T:
    """A dataclass field that is a setting. A class made without arguments has the defaults, without an environment."""

    def parsed() -> T:
        return kind.parse(default, Context(environ={}, base=Path.cwd()))

    metadata = {"kind": kind, "default": default, "help": help, "aliases": aliases}
    return field(default_factory=parsed, metadata=metadata)
