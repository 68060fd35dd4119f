"""The end of a run on one machine that copies to a NAS: waiting for the copies, a bounded time, and telling what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from ..common.logs import get_logger
from ..common.nas_records import NasCounts, NasReport
from ..common.units import format_size
from .output import printable

POLL_S = 0.05
TELL_EVERY_S = 10.0
WAIT_S = 60.0

log = get_logger("nas")


class Copies(Protocol):
    """What is waited for; see `agent/nas/copier.py`."""

    @property
    def unfinished(self) -> bool: ...
    @property
    def quiet_s(self) -> float: ...
    def hurry(self) -> None: ...
    def report(self) -> NasReport | None: ...


async def finish(copies: Copies, *, wait_s: float, tell: Callable[[str], None] = lambda text: None) -> NasReport:
    """Wait until all is copied, or until nothing has come of it for wait_s seconds. tell is called with a line now and then.

    Returns how the copies stand.
    """
    copies.hurry()
    began = told = asyncio.get_running_loop().time()
    while copies.unfinished:
        now = asyncio.get_running_loop().time()
        if min(now - began, copies.quiet_s) >= wait_s:
            break
        if now - told >= TELL_EVERY_S:
            told = now
            tell(waiting_line(_counts(copies)))
        await asyncio.sleep(POLL_S)
    return copies.report() or NasReport(total=NasCounts())


async def finish_quietly(copies: Copies, *, wait_s: float = WAIT_S) -> None:
    """As `finish`; what is not copied is a warning in the log."""
    counts = (await finish(copies, wait_s=wait_s)).total
    if counts.unfinished:
        log.warning("nas.waiting", files=counts.files_waiting, bytes=counts.bytes_waiting, reason=counts.reason)


def _counts(copies: Copies) -> NasCounts:
    report = copies.report()
    return report.total if report is not None else NasCounts()


def waiting_line(counts: NasCounts) -> str:
    """What is still to be copied, in one line."""
    why = f": {printable(counts.reason)}" if counts.reason else ""
    if not counts.files_waiting:
        return f"NAS: copied files that are to be removed here: {counts.files_to_remove}{why}"
    return f"NAS: {_files(counts.files_waiting)} ({format_size(counts.bytes_waiting)}) waiting to be copied{why}"


def nas_line(counts: NasCounts) -> str:
    """How the copies stand, in one line, as `shoal status` shows it."""
    parts = [f"{_files(counts.files_copied)} copied ({format_size(counts.bytes_copied)})"]
    if counts.files_there:
        parts.append(f"{counts.files_there} were there")
    if counts.files_waiting:
        parts.append(f"{counts.files_waiting} waiting ({format_size(counts.bytes_waiting)})")
    if counts.files_failing:
        parts.append(f"{counts.files_failing} failing")
    if counts.files_refused:
        parts.append(f"{counts.files_refused} cannot be copied")
    if counts.files_removed or counts.files_to_remove:
        waiting = f", {counts.files_to_remove} to be removed" if counts.files_to_remove else ""
        parts.append(f"{counts.files_removed} removed here{waiting}")
    text = ", ".join(parts)
    return f"{text}: {printable(counts.reason)}" if counts.reason else text


def _files(count: int) -> str:
    return f"{count:,} file" + ("" if count == 1 else "s")
