"""What a replicated job's table of chunks is made of, read from the store page by page."""

from __future__ import annotations

from ..common.errors import UnsafeName
from .replica_model import TableRow
from .store.base import ObjectRow, ObjectStatus
from .store.runner import StoreRunner

PAGE_OBJECTS = 4096


def refused(row: ObjectRow) -> bool:
    """Whether the listing refused the object's name, so that nobody may write it."""
    return row.failure is not None and row.failure.code == UnsafeName.code


async def load_table(store: StoreRunner, job_id: str) -> list[TableRow]:
    """All objects of the job by ascending id, but names that its listing refused."""
    rows: list[TableRow] = []
    after_id, count = 0, PAGE_OBJECTS
    while count == PAGE_OBJECTS:
        found = await store.run(store.store.list_objects, job_id, status=None, after_id=after_id, limit=PAGE_OBJECTS)
        rows += [
            TableRow(
                object_id=row.spec.object_id,
                size=row.spec.size,
                vouched=row.spec.digest if row.status is ObjectStatus.DONE else "",
                etag=row.spec.etag,
                given_up=row.status is ObjectStatus.FAILED,
            )
            for row in found
            if not refused(row)
        ]
        count, after_id = len(found), found[-1].spec.object_id if found else 0
    return rows
