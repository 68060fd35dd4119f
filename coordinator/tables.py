"""What is read of a job from the store, page by page: its objects, and what a replicated job's table of chunks is made of."""

from __future__ import annotations

from ..common.errors import UnsafeName, UsageError
from ..common.records import ObjectSpec
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
                life=row.spec.life,
                given_up=row.status is ObjectStatus.FAILED,
            )
            for row in found
            if not refused(row)
        ]
        count, after_id = len(found), found[-1].spec.object_id if found else 0
    return rows


async def object_rows(store: StoreRunner, job_id: str, *, status: str, after_id: int, limit: int) -> list[ObjectRow]:
    """A job's objects by ascending id; status "" is any. Raises UsageError for a status that there is not."""
    try:
        wanted = ObjectStatus(status) if status else None
    except ValueError:
        raise UsageError(f"status {status!r}", cause="it is none of queued, done, failed") from None
    return await store.run(store.store.list_objects, job_id, status=wanted, after_id=after_id, limit=limit)


async def manifest_page(
    store: StoreRunner, job_id: str, after_id: int, limit: int, *, unfinished_too: bool
) -> tuple[list[ObjectSpec], int | None]:
    """A page of a job's finished objects (unfinished ones as well if asked for), and after which id to ask for more."""
    status = None if unfinished_too else ObjectStatus.DONE
    rows = await store.run(store.store.list_objects, job_id, status=status, after_id=after_id, limit=limit)
    more = rows[-1].spec.object_id if len(rows) == limit else None
    return [row.spec for row in rows if not refused(row)], more
