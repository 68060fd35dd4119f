"""Why a row is not used. The text before the first colon never changes once released: people filter ``rejects.parquet`` by it."""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """The words of the column ``reason``; after a colon may follow what exactly is wrong."""

    COLUMNS = "wrong number of columns"  # the text parser cannot tell which value belongs where
    ENCODING = "not UTF-8"
    UUID = "missing uuid"
    SOURCE_ID = "missing source_id"
    URL = "missing URL"
    LONG_URL = "URL longer than 8192 bytes"
    SCHEME = "scheme other than http and https"
    UNPARSABLE = "unparsable URL"
    POLICY = "refused by policy"
    DUPLICATE = "duplicate uuid"
