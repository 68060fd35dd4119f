"""``download_distributed``: every node gets every file, whatever fleet there is.

With a coordinator (an argument, or the setting): its agents. Inside a Ray cluster and without one: a fleet for the time of the call, an
agent on each node (`ray.py`). With neither: this machine alone is every node, as for `download`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..common.errors import ShoalError, TimedOut, UsageError, error_class
from ..common.records import Delivery
from ..common.settings import load_settings
from ..common.views import JobStatus, JobView, ReplicaStatus, SubmitRequest, Submitted
from .loop_thread import loop_thread
from .requests import DeliveryFailed, DistributedResult, DownloadRequest, FailedRequest
from .sdk import AsyncClient, ListsObjects, job_error
from .watching import WatchesJobs, watch_patiently

if TYPE_CHECKING:
    from ..common.secrets import Secret

OnProgress = Callable[[Sequence[JobView]], None]
"""Called with the newest views of all jobs at every change, in the order of the requests. It must not block."""


class TakesJobs(WatchesJobs, ListsObjects, Protocol):
    """A coordinator, embedded or far away."""

    async def submit(self, request: SubmitRequest) -> list[Submitted]: ...


def download_distributed(
    requests: Sequence[DownloadRequest],
    *,
    coordinator: str | None = None,
    token: str | Secret | None = None,
    timeout: float | None = None,
    on_progress: OnProgress | None = None,
    settings: Mapping[str, object] | None = None,
) -> list[DistributedResult]:
    """Bring every source to every node, and wait for it.

    Args: coordinator is ``HOST:PORT`` and token its credential; by default the configuration names them, or Ray's nodes or
    this machine are the fleet. timeout in seconds, None for ever. on_progress is called from another thread. settings
    overrides settings by name.
    Returns: a result for each request, in their order.
    Raises: UsageError before anything begins; DeliveryFailed after all have ended, if some failed: it holds the results of
    the others too; TimedOut. What did arrive stays, and is not fetched again by the next call. Jobs of a coordinator that
    runs anyway go on after a timeout or Ctrl+C; a fleet that was started for this call ends with it, always.
    """
    with loop_thread() as thread:
        return thread.run(
            async_download_distributed(
                requests,
                coordinator=coordinator,
                token=token,
                timeout=timeout,
                on_progress=on_progress,
                settings=settings,
            )
        )


async def async_download_distributed(
    requests: Sequence[DownloadRequest],
    *,
    coordinator: str | None = None,
    token: str | Secret | None = None,
    timeout: float | None = None,
    on_progress: OnProgress | None = None,
    settings: Mapping[str, object] | None = None,
) -> list[DistributedResult]:
    """The same as `download_distributed`, for coroutines; on_progress is called in their event loop."""
    check_requests(requests)
    overrides = {**(settings or {}), **({"coordinator.address": coordinator} if coordinator else {})}
    loaded = load_settings(environ=os.environ, cwd=Path.cwd(), overrides=overrides)
    if not requests:
        return []
    hub = loaded.hub.endpoint
    if loaded.coordinator.address:
        async with AsyncClient(token=token, settings=overrides) as client:
            return await deliver(
                client.coordinator, requests, Delivery.REPLICATE, hub, timeout=timeout, on_progress=on_progress
            )
    if inside_ray():
        from .ray import AsyncRayFleet

        async with AsyncRayFleet(settings=settings) as fleet:
            return await fleet.download(requests, timeout=timeout, on_progress=on_progress)
    from .embedded import embedded

    try:
        async with embedded(loaded) as local:
            outcome = await _caught(
                deliver(local, requests, Delivery.SPREAD, hub, timeout=timeout, on_progress=on_progress)
            )
    except BaseExceptionGroup as group:
        raise first_shoal_error(group) or group from group
    if isinstance(outcome, ShoalError):
        raise outcome
    return outcome


def check_requests(requests: object) -> None:
    """Raises UsageError if these are not requests; a single one is an easy mistake."""
    if isinstance(requests, DownloadRequest) or not isinstance(requests, Sequence):
        raise UsageError("requests", cause="it is not a sequence of DownloadRequest", remedy="write [request]")
    for request in requests:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(request, DownloadRequest):
            raise UsageError("requests", cause=f"it holds a {type(request).__name__}")  # pyright: ignore[reportUnknownArgumentType]


def inside_ray() -> bool:
    """Whether this process takes part in a Ray cluster. Does not import Ray: who is inside has."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def first_shoal_error(group: BaseExceptionGroup[BaseException]) -> ShoalError | None:
    """The first error in a group that was raised on purpose."""
    found = group.subgroup(ShoalError)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, ShoalError) else None


async def deliver(
    coordinator: TakesJobs,
    requests: Sequence[DownloadRequest],
    delivery: Delivery,
    hub_endpoints: Sequence[str],
    *,
    timeout: float | None,
    on_progress: OnProgress | None,
    check: Callable[[JobView], Awaitable[ShoalError | None]] | None = None,
) -> list[DistributedResult]:
    """Submit all requests, wait until all jobs have ended, and tell what became of each.

    Args: check may find fault with a job that is done. Raises: DeliveryFailed, TimedOut.
    """
    views: dict[int, JobView] = {}

    async def follow(number: int) -> ShoalError | JobView:
        try:
            submitted = await coordinator.submit(requests[number].submit_request(delivery, hub_endpoints))
            job = submitted[0].job
            async with aclosing(watch_patiently(coordinator, job.job_id)) as watched:
                async for job in watched:
                    views[number] = job
                    if on_progress is not None:
                        on_progress([views[index] for index in sorted(views)])
            error = None if job.status is JobStatus.DONE else await job_error(coordinator, job)
            return error or copy_error(job) or (await check(job) if check else None) or job
        except ShoalError as error:
            return error

    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(follow(number)) for number in range(len(requests))]
    except BaseExceptionGroup as group:  # of on_progress, or a defect: the first one tells
        raise group.exceptions[0] from None
    except TimeoutError:
        late = [request.uri for number, request in enumerate(requests) if not _ended(views.get(number))]
        raise TimedOut(", ".join(late), cause=f"not everywhere within {timeout:g} s", remedy="call it again") from None
    return _results(requests, [task.result() for task in following])


def copy_error(job: JobView) -> ShoalError | None:
    """The first copy of a job that failed; one whose agent went away has not."""
    for replica in job.replicas:
        if replica.status is ReplicaStatus.FAILED:
            failure = replica.failure
            error = ShoalError.__new__(error_class(failure.code if failure else ""))
            ShoalError.__init__(error, f"agent {replica.name}", cause=failure.text if failure else "its copy failed")
            return error
    return None


def _results(requests: Sequence[DownloadRequest], outcomes: Sequence[ShoalError | JobView]) -> list[DistributedResult]:
    results: list[DistributedResult] = []
    failed: list[FailedRequest] = []
    for request, outcome in zip(requests, outcomes, strict=True):
        if isinstance(outcome, ShoalError):
            failed.append(FailedRequest(request=request, error=outcome))
        else:
            results.append(DistributedResult(request=request, job=outcome))
    if failed:
        raise DeliveryFailed(failed, results) from failed[0].error
    return results


def _ended(view: JobView | None) -> bool:
    return view is not None and view.ended


async def _caught(delivering: Awaitable[list[DistributedResult]]) -> ShoalError | list[DistributedResult]:
    """What came of it, as a value: the embedded fleet's task group would wrap an error that passes through it."""
    try:
        return await delivering
    except ShoalError as error:
        return error
