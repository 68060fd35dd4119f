"""Which columns of a file stand for which of ours, and their values as text.

uuid and source_id may be text or whole numbers (also dates, booleans, UUIDs of 16 bytes): they become text. Floating point numbers are
refused there: 1e17 and 100000000000000001 would become one uuid. A URL must be text. Carried columns keep their type; only encodings
(dictionary, large and view strings) are undone, so that files that differ in nothing else fit together.
"""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...common.collect_records import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, CollectSpec
from ...common.dataset_rows import arrow_part
from ...common.dataset_schema import arrow, batch_schema, successes_schema
from ...common.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_NAMES_SHOWN_MAX: Final = 20
_UUID_BYTES: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The names that a job's tables use."""

    names: tuple[tuple[str, str], ...]  # (our name, the table's name), ours in the order of a batch's schema
    carry: tuple[str, ...]

    @property
    def is_optional(self) -> frozenset[str]:
        """Names of the table that may be missing: those of our optional columns."""
        return frozenset(theirs for ours, theirs in self.names if ours in OPTIONAL_COLUMNS)


def columns_of(spec: CollectSpec) -> Columns:
    """The columns that a spec asks for. Raises UsageError for names that are not ours, or that clash."""
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    mapping = dict(spec.columns)
    for ours in mapping:
        if ours not in known:
            raise UsageError(
                f"column {ours!r}",
                cause="it is none of the columns that can be mapped",
                remedy=f"write OURS = THEIRS, where OURS is one of {', '.join(known)}",
            )
    taken = {*known, *successes_schema().names, "ordinal", "host"}
    for name in spec.carry:
        if name in taken:
            raise UsageError(
                f"carried column {name!r}",
                cause="the dataset has a column of that name",
                remedy="leave it out, or give the table's column another name",
            )
        taken.add(name)
    names = tuple((ours, mapping.get(ours, ours)) for ours in known)
    return Columns(names=names, carry=spec.carry)


def present(thing: str, available: Sequence[str], columns: Columns) -> list[tuple[str, str]]:
    """(our name, the table's name) of what a file has of the columns, carried ones last, under their own name.

    Raises UsageError for a column that it must have and has not, with the names that come nearest, or has twice.
    """
    wanted = [*columns.names, *((name, name) for name in columns.carry)]
    found: list[tuple[str, str]] = []
    for ours, theirs in wanted:
        count = available.count(theirs)
        if count == 1:
            found.append((ours, theirs))
        elif count > 1:
            raise UsageError(
                thing, cause=f"it has the column {theirs!r} {count} times", remedy="give them different names"
            )
        elif theirs not in columns.is_optional:
            raise _missing(thing, ours, theirs, available)
    return found


def _missing(thing: str, ours: str, theirs: str, available: Sequence[str]) -> UsageError:
    folded = {name.strip().lower(): name for name in available}
    nearest = [folded[name] for name in difflib.get_close_matches(theirs.lower(), folded, n=3, cutoff=0.5)]
    shown = ", ".join(repr(name[:100]) for name in available[:_NAMES_SHOWN_MAX])
    more = ", ..." if len(available) > _NAMES_SHOWN_MAX else ""
    hint = f"nearest: {', '.join(repr(name[:100]) for name in nearest)}; " if nearest else ""
    is_carried = ours == theirs and ours not in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    remedy = (
        "name it as the table does in collect.carry" if is_carried else f"set collect.columns = {{ {ours} = 'NAME' }}"
    )
    return UsageError(thing, cause=f"it has no column {theirs!r}; {hint}it has {shown}{more}", remedy=remedy)


def plain_type(kind: Any) -> Any:
    """A type without what is only an encoding of it."""
    pa = arrow()
    types = pa.types
    if types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    return kind


def check_type(thing: str, ours: str, theirs: str, kind: Any) -> None:
    """Raises UsageError if a Parquet column of this type cannot stand for one of ours, or cannot be carried."""
    types = arrow().types
    plain = plain_type(kind)
    if ours not in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS):
        if "dictionary<" in str(plain) or types.is_run_end_encoded(plain):
            remedy = "write it as a plain column, or do not carry it"
            raise UsageError(
                thing, cause=f"its column {theirs!r} is of the type {kind}, which cannot be carried", remedy=remedy
            )
        return
    is_text = types.is_string(plain) or types.is_binary(plain) or types.is_null(plain)
    if is_text or (ours != "identifier" and _becomes_text(ours, plain)):
        return
    needs = "text" if ours == "identifier" else "text or whole numbers"
    raise UsageError(
        thing,
        cause=f"its column {theirs!r} ({ours}) is of the type {kind}, and {needs} is needed",
        remedy=f"name another column in collect.columns, or write this one as {needs}",
    )


def _becomes_text(ours: str, kind: Any) -> bool:
    types = arrow().types
    if types.is_floating(kind):
        return ours in OPTIONAL_COLUMNS  # a column without any value is written as float by pandas
    if types.is_fixed_size_binary(kind):
        return kind.byte_width == _UUID_BYTES
    is_time = types.is_date(kind) or types.is_timestamp(kind) or types.is_time(kind)
    return is_time or types.is_integer(kind) or types.is_boolean(kind) or types.is_decimal(kind)


def plain_array(column: Any) -> Any:
    """The values in their `plain_type`; text may still hold what is not UTF-8."""
    pa = arrow()
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = plain_type(column.type)
    return column if column.type == kind else column.cast(kind)


def as_text(column: Any) -> tuple[pa.StringArray, pa.BooleanArray | None]:
    """Values as text, and which of them are not UTF-8 (None: all are). The latter hold replacement characters."""
    pa = arrow()
    column = plain_array(column)
    types = pa.types
    if types.is_fixed_size_binary(column.type):
        named = (None if value is None else str(uuid.UUID(bytes=value)) for value in column.to_pylist())
        return pa.array(named, pa.string()), None
    if not (types.is_string(column.type) or types.is_binary(column.type)):
        return column.cast(pa.string()), None
    raw = column.cast(pa.binary())
    try:
        return raw.cast(pa.string()), None
    except pa.ArrowInvalid:
        pass
    texts: list[str | None] = []
    bad: list[bool] = []
    values: list[bytes | None] = raw.to_pylist()
    for value in values:
        text = None if value is None else value.decode(errors="replace")
        texts.append(text)
        bad.append(value is not None and text is not None and text.encode() != value)
    return pa.array(texts, pa.string()), pa.array(bad, pa.bool_())


def carried_schema(types: dict[str, Any], columns: Columns) -> pa.Schema:
    """The schema of a batch with the carried columns of these types."""
    pa = arrow()
    return batch_schema(pa.schema([pa.field(name, types[name]) for name in columns.carry]))


def blank(column: pa.StringArray) -> pa.BooleanArray:
    """Where there is no value, or nothing but blanks."""
    pc = arrow_part("compute")
    empty = pc.equal(pc.binary_length(pc.ascii_trim_whitespace(column)), 0)
    return pc.fill_null(empty, True)
