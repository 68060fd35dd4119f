"""The Parquet files of a dataset: names, columns and types, to the letter those that users of the reference tool read.

pyarrow is imported where it is used: no other part of Shoal needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .errors import MissingExtra

if TYPE_CHECKING:
    from types import ModuleType

    import pyarrow as pa

SUCCESSES: Final = "successes.parquet"
ERRORS: Final = "errors.parquet"
REJECTS: Final = "rejects.parquet"
PROFILES: Final = "profiles.csv"
IGNORED: Final = "ignored.csv"
OVERVIEW: Final = "overview.json"


def arrow() -> ModuleType:
    """pyarrow. Raises MissingExtra where it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise MissingExtra("datasets", cause="pyarrow is not installed", remedy="pip install 'shoal[images]'") from None
    return pyarrow


def batch_schema(carry: pa.Schema | None = None) -> pa.Schema:
    """Rows of a batch that wait to be collected, as the partitioning writes them; carried columns keep their type."""
    pa = arrow()
    fields = [pa.field(name, pa.string(), nullable=False) for name in ("uuid", "identifier", "source_id")]
    fields += [pa.field(name, pa.string()) for name in ("license", "source", "title")]
    return pa.schema([*fields, *(carry or ())])


def successes_schema(carry: pa.Schema | None = None) -> pa.Schema:
    """Rows that were collected. Sizes are [height, width] in pixels; hashes are MD5 in hex; image holds the bytes."""
    pa = arrow()
    size = pa.list_(pa.int64())
    return pa.schema(
        [
            ("uuid", pa.string()),
            ("source_id", pa.string()),
            ("identifier", pa.string()),
            ("is_license_full", pa.bool_()),
            ("license", pa.string()),
            ("source", pa.string()),
            ("title", pa.string()),
            ("hashsum_original", pa.string()),
            ("hashsum_resized", pa.string()),
            ("original_size", size),
            ("resized_size", size),
            ("image", pa.binary()),
            ("content_type", pa.string()),
            ("http_status", pa.int32()),
            ("etag", pa.string()),
            ("robots_tag", pa.string()),
            ("fetched_at", pa.timestamp("us", tz="UTC")),
            *(carry or ()),
        ]
    )


def errors_schema() -> pa.Schema:
    """Rows that could not be collected. error_code is an HTTP status or one of `collect_records.ErrorCode`."""
    pa = arrow()
    return pa.schema(
        [
            ("uuid", pa.string()),
            ("identifier", pa.string()),
            ("retry_count", pa.int32()),
            ("error_code", pa.int32()),
            ("error_msg", pa.string()),
        ]
    )


def rejects_schema() -> pa.Schema:
    """Rows of a table that cannot be used: where they were, what they said, why."""
    pa = arrow()
    return pa.schema(
        [
            ("file", pa.string()),
            ("row", pa.int64()),
            ("uuid", pa.string()),
            ("identifier", pa.string()),
            ("source_id", pa.string()),
            ("reason", pa.string()),
        ]
    )
