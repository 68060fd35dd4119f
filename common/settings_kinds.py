"""Kinds of setting: how a value is read, what is accepted, how it is written back.

A value from the file has a TOML type already and must have the right one; a value from the environment or the command
line is text and is read into that type first.

Most records of the settings machinery are NamedTuples: making a dataclass takes five times as long, and every start of
``shoal`` pays for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar, cast

from .errors import UsageError
from .secrets import REDACTED, Secret, SecretRef
from .units import format_duration, format_size, parse_duration, parse_rate, parse_size

T = TypeVar("T")
Word = TypeVar("Word", bound=str)

_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})
_HOST = re.compile(r"\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")
# The XDG Base Directory Specification gives these defaults for variables that are not set.
_XDG_DEFAULTS = {
    "XDG_CACHE_HOME": "~/.cache",
    "XDG_CONFIG_HOME": "~/.config",
    "XDG_STATE_HOME": "~/.local/state",
}
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


class BadValue(ValueError):
    """A value that a setting does not take; the text says what it must be. Never shown alone: see settings.Problem."""


class Context(NamedTuple):
    """What a value may refer to: environment variables, and the folder that relative paths start from."""

    environ: Mapping[str, str]
    base: Path


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kind(Generic[T]):
    """One kind of setting.

    ``parse`` takes a TOML value and raises BadValue; ``from_text`` makes a TOML value of text; ``show`` writes a parsed
    value as a TOML value (what ``config show`` prints).
    """

    label: str
    parse: Callable[[object, Context], T]
    from_text: Callable[[str], object]
    show: Callable[[T], object]
    secret: bool = False


def expand_path(text: str, context: Context) -> Path:
    """``~``, ``$VAR`` and ``${VAR}`` expanded; a relative path is taken below ``context.base``. Raises: BadValue."""

    def value_of(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = context.environ.get(name) or _XDG_DEFAULTS.get(name)
        if found is None:
            raise BadValue(f"names the environment variable {name}, which is not set")
        return found

    text = _VARIABLE.sub(value_of, text)
    if "\0" in text:
        raise BadValue("must not hold a NUL character")
    if text == "~" or text.startswith("~/"):
        home = context.environ.get("HOME")
        text = (home or str(Path.home())) + text[1:]
    return context.base / text


def _same(value: T) -> T:
    return value


def _text(value: object, _context: Context) -> str:
    if not isinstance(value, str):
        raise BadValue("must be text")
    if not value.isprintable():
        raise BadValue("must not hold control characters")
    return value


def _boolean(value: object, _context: Context) -> bool:
    if not isinstance(value, bool):
        raise BadValue("must be true or false")
    return value


def _boolean_text(text: str) -> object:
    lowered = text.strip().lower()
    return True if lowered in _TRUE else False if lowered in _FALSE else text


def _number_text(text: str) -> object:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return text


def _by_unit(read: Callable[[str], T], label: str, show: Callable[[T], object]) -> Kind[T]:
    def parse(value: object, _context: Context) -> T:
        try:
            return read(value)  # pyright: ignore[reportArgumentType]  # it checks the type itself
        except UsageError as error:
            raise BadValue(error.remedy.replace("write", "must be", 1)) from None

    return Kind(label=label, parse=parse, from_text=_same, show=show)


def _shown_size(size: int) -> object:
    text = format_size(size)
    return text if size and parse_size(text) == size else size


def _shown_duration(seconds: float) -> object:
    text = format_duration(seconds)
    return text if parse_duration(text) == seconds else seconds


TEXT: Kind[str] = Kind(label="text", parse=_text, from_text=_same, show=_same)
BOOLEAN: Kind[bool] = Kind(label="true or false", parse=_boolean, from_text=_boolean_text, show=_same)
SIZE: Kind[int] = _by_unit(parse_size, "size", _shown_size)
DURATION: Kind[float] = _by_unit(parse_duration, "duration", _shown_duration)
RATE: Kind[int] = _by_unit(parse_rate, "bytes per second", _shown_size)


def integer(low: int, high: int) -> Kind[int]:
    """A whole number from low to high."""

    def parse(value: object, _context: Context) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadValue(f"must be a whole number from {low} to {high}")
        return value

    return Kind(label=f"whole number, {low} to {high:,}", parse=parse, from_text=_number_text, show=_same)


def number(low: float, high: float) -> Kind[float]:
    """A finite number from low to high."""

    def parse(value: object, _context: Context) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise BadValue(f"must be a number from {low:g} to {high:,.0f}")
        return float(value)

    return Kind(label=f"number, {low:g} to {high:,.0f}", parse=parse, from_text=_number_text, show=lambda n: n)


def choice(*names: Word, synonyms: Mapping[str, Word] | None = None) -> Kind[Word]:
    """One of a few words, in upper or lower case."""
    known: dict[str, Word] = {name: name for name in names} | dict(synonyms or {})

    def parse(value: object, _context: Context) -> Word:
        found = known.get(value.strip().lower()) if isinstance(value, str) else None
        if found is None:
            raise BadValue(f"must be one of {', '.join(names)}")
        return found

    return Kind(label=" | ".join(names), parse=parse, from_text=_same, show=_same)


def auto_or(kind: Kind[T]) -> Kind[T | None]:
    """The word ``auto`` (None), or a value of another kind."""

    def parse(value: object, context: Context) -> T | None:
        if isinstance(value, str) and value.strip().lower() == "auto":
            return None
        try:
            return kind.parse(value, context)
        except BadValue as error:
            raise BadValue(f'{error}, or "auto"') from None

    return Kind(
        label=f"auto or {kind.label}",
        parse=parse,
        from_text=lambda text: text if text.strip().lower() == "auto" else kind.from_text(text),
        show=lambda value: "auto" if value is None else kind.show(value),
    )


def list_of(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """A TOML array, or text with commas; a single TOML value counts as an array of one."""

    def parse(value: object, context: Context) -> tuple[T, ...]:
        items = cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else [value]
        parsed: list[T] = []
        for position, item in enumerate(items, start=1):
            try:
                if item == "":
                    raise BadValue("must not be empty")
                parsed.append(kind.parse(item, context))
            except BadValue as error:
                raise BadValue(f"item {position} {error}" if len(items) > 1 else str(error)) from None
        return tuple(parsed)

    return Kind(
        label=f"list of {kind.label}",
        parse=parse,
        from_text=lambda text: [kind.from_text(item.strip()) for item in text.split(",") if item.strip()],
        show=lambda values: [kind.show(value) for value in values],
    )


def text_map() -> Kind[Mapping[str, str]]:
    """A TOML table of texts, or text with commas: ``uuid=id, identifier=image_url``."""

    def parse(value: object, _context: Context) -> Mapping[str, str]:
        if not isinstance(value, Mapping):
            raise BadValue("must be a table of names and texts")
        items = cast("Mapping[object, object]", value).items()
        if not all(isinstance(name, str) and isinstance(text, str) and name and text for name, text in items):
            raise BadValue("must hold nothing but names with a text each")
        return cast("Mapping[str, str]", dict(items))

    def from_text(text: str) -> object:
        pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
        return {name.strip(): value.strip() for name, _, value in pairs}

    return Kind(label="table of text", parse=parse, from_text=from_text, show=dict)


def _path(value: object, context: Context) -> Path:
    text = _text(value, context)
    if not text:
        raise BadValue("must not be empty")
    return expand_path(text, context)


def _optional_path(value: object, context: Context) -> Path | None:
    return None if value == "" else _path(value, context)


PATH: Kind[Path] = Kind(label="path", parse=_path, from_text=_same, show=str)
OPTIONAL_PATH: Kind[Path | None] = Kind(
    label="path", parse=_optional_path, from_text=_same, show=lambda path: "" if path is None else str(path)
)


def split_address(text: str) -> tuple[str, int]:
    """``"HOST:PORT"`` or ``"[IPV6]:PORT"`` -> (host without brackets, port). Raises: BadValue."""
    host, colon, port = text.rpartition(":")
    if not colon or not _HOST.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise BadValue('must be HOST:PORT, such as "127.0.0.1:7070" or "[::1]:7070"')
    return host.strip("[]"), int(port)


def _address(value: object, context: Context) -> str:
    text = _text(value, context).strip()
    split_address(text)
    return text


def _optional_address(value: object, context: Context) -> str:
    return "" if value == "" else _address(value, context)


def _secret(value: object, _context: Context) -> SecretRef:
    if not isinstance(value, str):
        raise BadValue("must be text")
    return SecretRef(name="", value=Secret(value) if value else None)


# The loader gives the reference its name and takes the kin of the key, KEY_env and KEY_file, into account.
SECRET: Kind[SecretRef] = Kind(
    label="secret",
    parse=_secret,
    from_text=_same,
    show=lambda ref: REDACTED if ref.is_set else "",
    secret=True,
)
ADDRESS: Kind[str] = Kind(label="HOST:PORT", parse=_address, from_text=_same, show=_same)
OPTIONAL_ADDRESS: Kind[str] = Kind(label="HOST:PORT", parse=_optional_address, from_text=_same, show=_same)


def url(*, optional: bool = False, user_info: bool = False) -> Kind[str]:
    """An http or https URL without query or fragment; a slash at the end is dropped. User info only if allowed."""

    def parse(value: object, context: Context) -> str:
        text = _text(value, context).strip()
        if optional and not text:
            return ""
        scheme, found, rest = text.partition("://")
        authority, slash, path = rest.partition("/")
        if scheme.lower() not in ("http", "https") or not found or any(character in text for character in "?#\\ "):
            raise BadValue('must be an http or https URL, such as "https://huggingface.co"')
        user, at, address = authority.rpartition("@")
        if at and not user_info:
            raise BadValue("must not hold a user name or password")
        host, colon, port = address.rpartition(":")
        if not colon or address.endswith("]"):
            host, port = address, "443"
        try:
            split_address(f"{host}:{port}")
        except BadValue:
            raise BadValue("must name a host, and a port up to 65535 if any") from None
        return f"{scheme.lower()}://{user}{at}{address.lower()}{slash}{path}".rstrip("/")

    return Kind(label="URL", parse=parse, from_text=_same, show=_same)
