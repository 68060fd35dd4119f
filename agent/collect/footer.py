"""What the two Parquet files of a batch say of themselves: that they belong together, their tally, who made them.

It stands in the files' key-value metadata under ``shoal``. Two agents may finish one batch at nearly the same moment; only two files of
one ``pair`` are a result. Files without it (of the reference tool, or made by hand) are taken as they are.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Final

from ...common.collect_records import SUCCESS
from ...common.errors import Conflict
from ...common.records import Tally
from .columns import Schema, parquet, values

KEY: Final = b"shoal"


@dataclass(frozen=True, kw_only=True, slots=True)
class Footer:
    """pair: names the two files that were written together; job: the run that wrote them."""

    pair: str
    job: str
    tally: Tally

    def into(self, schema: Schema) -> Schema:
        """The schema with this in its metadata."""
        return schema.with_metadata({KEY: self.to_json().encode()})

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def footer_from_json(text: str | bytes) -> Footer:
    """Raises ValueError for what `to_json` did not make."""
    try:
        values: dict[str, Any] = json.loads(text)
        tally = tuple((int(code), int(count)) for code, count in values["tally"])
        return Footer(pair=str(values["pair"]), job=str(values["job"]), tally=tally)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a footer: {error}") from None


def read_footer(file: BinaryIO) -> Footer | None:
    """The footer of an open Parquet file; None where it has none. Raises ValueError for what is no Parquet file."""
    pq = parquet()

    metadata: dict[bytes, bytes] = pq.read_metadata(file).metadata or {}
    return footer_from_json(metadata[KEY]) if KEY in metadata else None


def footer_of_pair(successes: BinaryIO, errors: BinaryIO) -> Footer | None:
    """The footer that two files share; one made up where neither has any. None: they do not belong together, or are damaged."""
    try:
        first, second = read_footer(successes), read_footer(errors)
        if first is not None or second is not None:
            return first if first is not None and second is not None and first.pair == second.pair else None
        return Footer(pair="", job="", tally=_counted(successes, errors))
    except ValueError:  # what pyarrow raises for a damaged file is one
        return None


def check_same(there: Footer, batch: str, rows: int) -> None:
    """Whether a finished batch may be the one of this name and so many rows: a place that another table was collected into has
    batches of the same names. Raises Conflict.
    """
    if sum(count for _, count in there.tally) != rows:
        raise Conflict(
            batch,
            cause="what lies there was collected from another table",
            remedy="collect each table into a place of its own",
        )


def tally_of(counts: Counter[int]) -> Tally:
    """Successes first, then errors by code."""
    return tuple(
        (code, counts[code]) for code in sorted(counts, key=lambda code: (code != SUCCESS, code)) if counts[code]
    )


def _counted(successes: BinaryIO, errors: BinaryIO) -> Tally:
    pq = parquet()

    counts = Counter({SUCCESS: pq.read_metadata(successes).num_rows})
    for code in values(pq.ParquetFile(errors).read(columns=["error_code"])["error_code"]):
        counts[int(code)] += 1
    return tally_of(counts)
