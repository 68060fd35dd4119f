"""Frozen dataclasses to and from JSON, and as JSON Schema (draft 2020-12, which OpenAPI 3.1 uses).

One description serves all three, so that the document cannot say something else than the code does: a field's annotation is its
type, its metadata (see `described`) its limits and its text. What comes in is strict: unknown fields, wrong types and values beyond
the limits are UsageErrors that name the field.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, Union, cast

from ...common.errors import UsageError

T = TypeVar("T")

INTEGER_MAX = 2**53 - 1
"""The largest whole number that every JSON reader keeps (RFC 8259, section 6)."""
TEXT_CHARS_MAX = 8192
ITEMS_MAX = 10_000
TEXT_PATTERN = r"^[^\u0000]*$"
"""NUL ends texts in too many places to be let in anywhere."""

_MISSING = dataclasses.MISSING


def described(text: str, default: Any = _MISSING, **limits: Any) -> Any:
    """A dataclass field with its description and limits.

    limits are JSON Schema's words: minimum, maximum, minLength, maxLength, pattern, maxItems, format.
    """
    metadata = {"description": text, "limits": limits}
    return (
        dataclasses.field(metadata=metadata)
        if default is _MISSING
        else dataclasses.field(default=default, metadata=metadata)
    )


class Components:
    """The schemas that were met so far, by name."""

    def __init__(self) -> None:
        self.schemas: dict[str, dict[str, Any]] = {}
        self._kinds: dict[str, Any] = {}

    def schema_of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type; dataclasses and enums become references."""
        kind, optional = _without_none(kind)
        schema = self._plain(kind)
        if not optional:
            return schema
        if "$ref" in schema:
            return {"anyOf": [schema, {"type": "null"}]}
        return {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema

    def _plain(self, kind: Any) -> dict[str, Any]:
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if kind is Any:
            return {}
        if kind is bool:
            return {"type": "boolean"}
        if kind is int:
            return {"type": "integer", "maximum": INTEGER_MAX, "minimum": -INTEGER_MAX}
        if kind is float:
            return {"type": "number"}
        if kind is str:
            return {"type": "string", "pattern": TEXT_PATTERN}
        if origin in (list, tuple) or origin is Sequence:
            if origin is tuple and args[-1:] != (Ellipsis,):
                items = [self.schema_of(arg) for arg in args]
                return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
            return {"type": "array", "items": self.schema_of(args[0])}
        if origin is dict or origin is Mapping:
            return {"type": "object", "additionalProperties": self.schema_of(args[1])}
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return self._named(kind, lambda: {"type": "string", "enum": [member.value for member in kind]})
        if dataclasses.is_dataclass(cast(Any, kind)):
            return self._named(kind, lambda: self.object_schema(kind))
        raise TypeError(f"no schema for {kind!r}")

    def _named(self, kind: Any, make: Any) -> dict[str, Any]:
        name = schema_name(kind)
        if self._kinds.setdefault(name, kind) is not kind:
            raise TypeError(f"{kind!r} and {self._kinds[name]!r} are both called {name}")
        if name not in self.schemas:
            self.schemas[name] = {}  # a type may refer to itself
            self.schemas[name] = {"description": _first_line(kind), **make()}
        return {"$ref": f"#/components/schemas/{name}"}

    def object_schema(self, kind: Any) -> dict[str, Any]:
        """The schema of a dataclass, in full."""
        properties: dict[str, Any] = {}
        required: list[str] = []
        for field, hint in fields_of(kind):
            properties[field.name] = self.field_schema(field, hint)
            if _is_required(field):
                required.append(field.name)
        schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        return {**schema, "required": required} if required else schema

    def field_schema(self, field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
        """The schema of a field with its description, limits and default."""
        schema = self.schema_of(hint)
        if description := field.metadata.get("description"):
            schema = {**schema, "description": description}
        schema.update(_limits(field))
        if field.default is not _MISSING and isinstance(field.default, (str, int, float, bool)):
            schema = {**schema, "default": encode(field.default)}
        return schema


def schema_name(kind: Any) -> str:
    """How a type is called in the document: views are called what they show."""
    return kind.__name__.removesuffix("View")


@functools.cache
def fields_of(kind: Any) -> tuple[tuple[dataclasses.Field[Any], Any], ...]:
    """The fields of a dataclass with their types."""
    hints = _hints(kind)
    return tuple((field, hints[field.name]) for field in dataclasses.fields(kind))


def _hints(kind: Any) -> dict[str, Any]:
    # What records import only for type checkers is not in their module when they run.
    from ...common.collect_records import CollectSpec, ToolSpec
    from ...common.nas_records import NasCounts

    return typing.get_type_hints(
        kind, localns={"CollectSpec": CollectSpec, "NasCounts": NasCounts, "ToolSpec": ToolSpec}
    )


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is _MISSING and field.default_factory is _MISSING


def _limits(field: dataclasses.Field[Any]) -> dict[str, Any]:
    return dict(field.metadata.get("limits", {}))


def _first_line(kind: Any) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _without_none(kind: Any) -> tuple[Any, bool]:
    if typing.get_origin(kind) in (Union, types.UnionType):
        rest = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        if len(rest) == 1:
            return rest[0], True
        raise TypeError(f"no schema for {kind!r}")
    return kind, False


# ---- out ------------------------------------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """A value as JSON has it. Numbers that JSON lacks become null."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field, _ in fields_of(type(value))}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in cast("Sequence[Any]", value)]
    raise TypeError(f"no JSON for {type(value)!r}")


# ---- in -------------------------------------------------------------------------------------------------------------


def decode(kind: type[T], value: object, *, where: str = "body") -> T:
    """A dataclass from a JSON value. Raises UsageError, naming the field."""
    if not isinstance(value, dict):
        raise UsageError(where, cause="it is not a JSON object")
    given = cast("dict[str, object]", value)
    known = {field.name: (field, hint) for field, hint in fields_of(kind)}
    for name in given:
        if name not in known:
            raise _unknown(where, name, known)
    made: dict[str, object] = {}
    for name, (field, hint) in known.items():
        if name in given:
            made[name] = _value(hint, given[name], f"{where}.{name}", _limits(field))
        elif _is_required(field):
            raise UsageError(f"{where}.{name}", cause="it is missing")
    return kind(**made)


def decode_query(kind: type[T], pairs: Sequence[tuple[str, str]]) -> T:
    """A dataclass from a URL's query. A field that is a tuple may be named several times. Raises UsageError, naming the field."""
    known = {field.name: (field, hint) for field, hint in fields_of(kind)}
    found: dict[str, list[str]] = {}
    for name, text in pairs:
        if name not in known:
            raise _unknown("query", name, known)
        found.setdefault(name, []).append(text)
    made: dict[str, object] = {}
    for name, texts in found.items():
        field, hint = known[name]
        plain, _ = _without_none(hint)
        where = f"query.{name}"
        if typing.get_origin(plain) is tuple:
            made[name] = _value(plain, texts, where, _limits(field))
        elif len(texts) > 1:
            raise UsageError(where, cause="it is given more than once")
        else:
            made[name] = _value(plain, _from_text(plain, texts[0]), where, _limits(field))
    for name, (field, _) in known.items():
        if name not in found and _is_required(field):
            raise UsageError(f"query.{name}", cause="it is missing")
    return kind(**made)


def _unknown(where: str, name: str, known: Mapping[str, object]) -> UsageError:
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    remedy = f"did you mean {near[0]}?" if near else f"known are: {', '.join(known) or 'none'}"
    return UsageError(f"{where}.{name[:80]!a}", cause="there is no such field", remedy=remedy)


def _from_text(kind: Any, text: str) -> object:
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    if kind is int:
        return int(text) if re.fullmatch(r"-?[0-9]{1,16}", text) else text
    if kind is float:
        return float(text) if re.fullmatch(r"-?[0-9]{1,16}(?:\.[0-9]{1,16})?", text) else text
    return text


def _value(hint: Any, value: object, where: str, limits: Mapping[str, Any]) -> object:
    kind, optional = _without_none(hint)
    if value is None and optional:
        return None
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is bool:
        return value if isinstance(value, bool) else _bad(where, "it is neither true nor false")
    if kind is int:
        if isinstance(value, float) and value.is_integer():  # JSON does not tell 1.0 from 1
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            return _bad(where, "it is not a whole number")
        return _within(value, where, {"minimum": -INTEGER_MAX, "maximum": INTEGER_MAX, **limits})
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return _bad(where, "it is not a number")
        return float(_within(value, where, limits))
    if kind is str:
        return _text(value, where, limits)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            return _bad(where, f"it is none of {', '.join(str(member.value) for member in kind)}")
    if origin is tuple:
        if not isinstance(value, list):
            return _bad(where, "it is not an array")
        items = cast("list[object]", value)
        if not limits.get("minItems", 0) <= len(items) <= limits.get("maxItems", ITEMS_MAX):
            return _bad(where, f"it holds {len(items)} items")
        inner = dict(limits.get("items", {}))
        return tuple(_value(args[0], item, f"{where}[{number}]", inner) for number, item in enumerate(items))
    if dataclasses.is_dataclass(cast(Any, kind)):
        return decode(cast("type[Any]", kind), value, where=where)
    raise TypeError(f"no reading of {kind!r}")


def _text(value: object, where: str, limits: Mapping[str, Any]) -> str:
    if not isinstance(value, str):
        return _bad(where, "it is not text")
    if not limits.get("minLength", 0) <= len(value) <= limits.get("maxLength", TEXT_CHARS_MAX):
        return _bad(where, "it is empty" if not value else f"it has {len(value)} characters")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        return _bad(where, "it holds what is not text")
    if (pattern := limits.get("pattern")) is not None and not re.fullmatch(
        pattern.removeprefix("^").removesuffix("$"), value
    ):
        return _bad(where, "it is not of the form that it must have")
    return value


def _within(value: Any, where: str, limits: Mapping[str, Any]) -> Any:
    if not math.isfinite(value) or value < limits.get("minimum", -math.inf) or value > limits.get("maximum", math.inf):
        low, high = limits.get("minimum"), limits.get("maximum")
        bounds = " and ".join(
            filter(None, [f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else ""])
        )
        return _bad(where, f"it must be {bounds}" if bounds else "it is not a finite number")
    return value


def _bad(where: str, cause: str) -> Any:
    raise UsageError(where, cause=cause)
