"""One run at a time works on a dataset: ``shoal collect`` on this machine holds the lock that tools hold, too.

On a fleet the coordinator sees to it (`coordinator/collecting.refuse_second`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import Conflict, NotWritable
from ..common.views import SubmitRequest

if TYPE_CHECKING:
    from ..common.settings import Settings

_JOBS_PAGE = 500


@contextmanager
def alone(settings: Settings, request: SubmitRequest) -> Generator[None]:
    """Hold the dataset of a run on this machine. Raises Busy, naming who works on it, and NotWritable."""
    from ..tools.lock import dataset_lock
    from .embedded import table_folder

    assert request.collect is not None
    if request.destination.startswith("s3://"):
        folder = table_folder(settings, request.destination, request.profile)
    else:
        folder = settings.agent.root / request.destination.lstrip("/")
    with ExitStack() as stack:
        try:
            made = _make(folder)
            stack.callback(_tidy, folder, made)
            stack.enter_context(dataset_lock(folder, "shoal collect"))
        except OSError as error:
            remedy = "name a folder that can be written"
            raise NotWritable(f"folder {folder}", cause=error.strerror or str(error), remedy=remedy) from None
        yield


async def refuse_while_active(settings: Settings, destination: str) -> None:
    """Before anything is deleted: raise Conflict while a job of the fleet works on the dataset."""
    from .remote import connect

    async with connect(settings) as coordinator:
        after = ""
        while jobs := await coordinator.list_jobs(limit=_JOBS_PAGE, after=after):
            for job in jobs:
                if job.destination.rstrip("/") == destination.rstrip("/") and not job.ended:
                    raise Conflict(
                        "--force",
                        cause=f"job {job.job_id} works on {destination}",
                        remedy=f"wait for it, or end it: shoal cancel {job.job_id}",
                    )
            after = jobs[-1].job_id


def _make(folder: Path) -> list[Path]:
    """The folders that had to be made for it, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _tidy(folder: Path, made: list[Path]) -> None:
    """Leave no trace of a run that never began."""
    with suppress(OSError):  # what is not empty stays
        for path in (folder / ".shoal" / "tools", folder / ".shoal", *made):
            path.rmdir()
