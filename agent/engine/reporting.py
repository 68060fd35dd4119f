"""What is said of a lease when it ends, and on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ...common.errors import Changed, ShoalError
from ...common.intervals import Interval
from ...common.logs import get_logger
from ...common.records import Failure, LeaseRef, Outcome, UnitKind, WorkReport
from .holding import Holding

if TYPE_CHECKING:
    from .transfer import Transfer

log = get_logger("agent.engine")


def progressed(holding: Holding, done: tuple[Interval, ...]) -> WorkReport:
    """More of a range is on the disk and in the chunk map; the lease goes on."""
    return _report(holding, Outcome.PARTIAL, done=done)


def released(holding: Holding, given: tuple[Interval, ...]) -> WorkReport:
    """These bytes are for others; the lease goes on with the rest."""
    ref = holding.ref
    return WorkReport(unit=ref.unit, token=ref.token, outcome=Outcome.PARTIAL, released=given)


def returned(holding: Holding) -> WorkReport:
    """The lease is given back, through nobody's fault."""
    return _report(holding, Outcome.RETURNED, done=_take_done(holding))


def failed(holding: Holding, error: BaseException) -> WorkReport:
    """The lease is given back with an error. Of an object that changed nothing that came counts."""
    done = () if isinstance(error, Changed) else _take_done(holding)
    return _report(holding, Outcome.FAILED, done=done, failure=failure_of(error))


def not_taken(ref: LeaseRef, error: ShoalError | None = None) -> WorkReport:
    """The lease was not even begun."""
    if error is None:
        return WorkReport(unit=ref.unit, token=ref.token, outcome=Outcome.RETURNED)
    return WorkReport(unit=ref.unit, token=ref.token, outcome=Outcome.FAILED, failure=failure_of(error))


def failure_of(error: BaseException) -> Failure:
    """An error as it travels. What is no ShoalError is a defect of ours: its trace goes to the log."""
    if isinstance(error, ShoalError):
        return Failure(code=error.code, text=str(error), retryable=error.retryable)
    import traceback

    log.error("lease.broke", error=repr(error), trace="".join(traceback.format_exception(error)))
    return Failure(code=ShoalError.code, text=f"{type(error).__name__}: {error}", retryable=True)


def _take_done(holding: Holding) -> tuple[Interval, ...]:
    """Only ranges tell of their bytes: other leases are all or nothing."""
    done = tuple(holding.unreported)
    holding.unreported.clear()
    return done if holding.lease.kind is UnitKind.RANGE else ()


def _report(
    holding: Holding, outcome: Outcome, *, done: tuple[Interval, ...] = (), failure: Failure | None = None
) -> WorkReport:
    return WorkReport(
        unit=holding.ref.unit,
        token=holding.ref.token,
        outcome=outcome,
        done=done,
        fetched=holding.take_fetched(),
        failure=failure,
    )


async def report_grown(holdings: Iterable[Holding], report: Callable[[WorkReport], None]) -> None:
    """PARTIAL reports of the ranges that have grown. The one that completes a lease is its last, and not sent here."""
    grown: dict[Transfer, list[Holding]] = {}
    for holding in holdings:
        if holding.transfer is not None and holding.unreported and holding.want:
            grown.setdefault(holding.transfer, []).append(holding)
    for transfer, growing in grown.items():
        taken = [(holding, tuple(holding.unreported)) for holding in growing]
        try:
            await transfer.settle()
        except ShoalError as error:
            transfer.fail(error)
            continue
        for holding, done in taken:
            if holding.ended:
                continue
            for start, stop in done:
                holding.unreported.remove(start, stop)
            if holding.lease.kind is UnitKind.RANGE:
                report(progressed(holding, done))
