"""The asynchronous client of a coordinator. The blocking one, `sdk_sync.py`, is made of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypedDict, Unpack, overload

from ..common.errors import Conflict, ShoalError, TimedOut, Unreachable, UsageError, error_class
from ..common.records import Delivery
from ..common.secrets import Secret
from ..common.settings import Settings, load_settings
from ..common.views import (
    AgentView,
    Control,
    FleetView,
    JobStatus,
    JobView,
    ObjectStatus,
    ObjectView,
    ReplicaView,
)
from .requests import submit_request
from .watching import watch_patiently

if TYPE_CHECKING:
    from .remote import RemoteCoordinator

PAGE = 1000


class SubmitOptions(TypedDict, total=False):
    """What a submission may say besides its sources; see `AsyncClient.submit`."""

    to: str | Path | None
    deliver: Literal["spread", "replicate"]
    include: Sequence[str]
    exclude: Sequence[str]
    revision: str
    force: bool
    sha256: str
    profile: str
    unpack: str | Path | None
    unpack_format: str
    priority: int
    name: str
    nas: str | Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """A job that is done. Sizes are bytes."""

    job: JobView

    @property
    def destination(self) -> str:
        """The folder, below the root of each agent; empty for the Hub cache."""
        return self.job.destination

    @property
    def commit(self) -> str:
        """What a Hub source was pinned to."""
        return self.job.commit

    @property
    def replicas(self) -> tuple[ReplicaView, ...]:
        """The agents' copies, if the job was to be replicated."""
        return self.job.replicas


class ListsObjects(Protocol):
    """What tells of a job's failures, of an embedded coordinator or one far away."""

    async def list_objects(self, job_id: str, *, status: str, after_id: int, limit: int) -> list[ObjectView]: ...


async def job_error(coordinator: ListsObjects, job: JobView) -> ShoalError:
    """The error that ended a job: of its first failed object, if objects failed, else the job's own."""
    if job.status is JobStatus.CANCELLED:
        return Conflict(f"job {job.job_id}", cause="it was cancelled", remedy="retry it, or submit it again")
    failed = await coordinator.list_objects(job.job_id, status="failed", after_id=0, limit=1)
    failure = (failed[0].failure if failed else None) or job.failure
    if failure is None:
        return ShoalError(f"job {job.job_id}", cause=f"it ended as {job.status.value}")
    kind = error_class(failure.code)
    error = ShoalError.__new__(kind)  # some classes want more arguments, which the text holds already
    ShoalError.__init__(error, "", cause=failure.text)
    return error


class AsyncJob:
    """A job at a coordinator. Every method may raise a `ShoalError`: NotFound, Unreachable, and what it names itself."""

    def __init__(self, coordinator: RemoteCoordinator, view: JobView) -> None:
        self._coordinator = coordinator
        self.id = view.job_id
        self.uri = view.uri

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.uri!r})"

    async def status(self) -> JobView:
        """The job as it is now, with the objects in work and the replicas."""
        return await self._coordinator.get_job(self.id)

    async def watch(self) -> AsyncGenerator[JobView]:
        """The job now and at every change, at most about twice a second; the last view is the ended one. A coordinator that
        restarts meanwhile is waited for."""
        async with aclosing(watch_patiently(self._coordinator, self.id)) as views:
            async for view in views:
                yield view

    async def wait(self, timeout: float | None = None) -> JobResult:
        """Wait until the job is done.

        Args: timeout in seconds, None for ever.
        Raises: the error of what failed first; Conflict if the job was cancelled; TimedOut, and then the job goes on.
        """
        try:
            async with asyncio.timeout(timeout):
                job = await self._ended()
        except TimeoutError:
            raise TimedOut(
                f"job {self.id}", cause=f"it has not ended within {timeout:g} s", remedy="it goes on; cancel() ends it"
            ) from None
        if job.status is not JobStatus.DONE:
            raise await job_error(self._coordinator, job)
        return JobResult(job=job)

    async def pause(self) -> JobView:
        """Stop working on it; what was fetched stays. Raises Conflict if it has ended."""
        return await self._coordinator.control(self.id, Control.PAUSE)

    async def resume(self) -> JobView:
        """Go on with it. Raises Conflict if it has ended."""
        return await self._coordinator.control(self.id, Control.RESUME)

    async def cancel(self) -> JobView:
        """End it; finished files stay. Raises Conflict if it has ended."""
        return await self._coordinator.control(self.id, Control.CANCEL)

    async def retry(self) -> JobView:
        """Bring back what failed. Raises Conflict if it has not ended, or is done."""
        return await self._coordinator.control(self.id, Control.RETRY)

    async def errors(self) -> list[ObjectView]:
        """Its failed objects, each with its failure."""
        return await self.objects(ObjectStatus.FAILED.value)

    async def objects(self, status: str = "") -> list[ObjectView]:
        """All its objects; or those that are ``"queued"``, ``"done"`` or ``"failed"``."""
        found: list[ObjectView] = []
        while True:
            after = found[-1].object_id if found else 0
            page = await self._coordinator.list_objects(self.id, status=status, after_id=after, limit=PAGE)
            found += page
            if len(page) < PAGE:
                return found

    async def replicas(self) -> tuple[ReplicaView, ...]:
        """The agents' copies. Empty unless the job is to be replicated."""
        return (await self.status()).replicas

    async def _ended(self) -> JobView:
        last: JobView | None = None
        async for view in self.watch():
            last = view
        if last is None:
            raise Unreachable("coordinator", cause="it ended the stream of a job without a word of it")
        return last


class AsyncClient:
    """A client of one coordinator. Use it as an async context manager; it connects at the first call.

    Every method raises `ShoalError`s: the coordinator's own, Unreachable, Unauthenticated, AccessDenied.
    """

    def __init__(
        self,
        coordinator: str | None = None,
        *,
        token: str | Secret | None = None,
        tls_ca: str | Path | None = None,
        insecure: bool | None = None,
        config_file: str | Path | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """What is not given comes from the configuration file and the environment, as for the command line.

        Args: coordinator is ``HOST:PORT``; token the credential of an administrator; tls_ca the PEM file of the authority of
        the coordinator's certificate; insecure allows an address beyond loopback without TLS and credentials; settings
        overrides any setting by name.
        Raises: UsageError.
        """
        given: dict[str, object] = {
            "coordinator.address": coordinator,
            "security.token": token.reveal() if isinstance(token, Secret) else token,
            "security.tls_ca": None if tls_ca is None else str(tls_ca),
            "security.insecure": insecure,
        }
        given = {name: value for name, value in given.items() if value is not None}
        self.settings: Settings = load_settings(
            environ=os.environ,
            cwd=Path.cwd(),
            overrides={**(settings or {}), **given},
            config_file=None if config_file is None else Path(config_file),
        )
        if not self.settings.coordinator.address:
            raise UsageError(
                type(self).__name__,
                cause="no coordinator is named",
                remedy=f'say {type(self).__name__}("HOST:7070"), or set coordinator.address',
            )
        self._open = AsyncExitStack()
        self._remote: RemoteCoordinator | None = None

    async def __aenter__(self) -> Self:
        from .remote import connect

        self._remote = await self._open.enter_async_context(connect(self.settings))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._remote = None
        await self._open.aclose()

    @property
    def coordinator(self) -> RemoteCoordinator:
        """What speaks to the coordinator. Raises UsageError outside of the block."""
        if self._remote is None:
            raise UsageError(type(self).__name__, cause="it is not open", remedy="use it as a context manager")
        return self._remote

    @overload
    async def submit(self, uri: str, **options: Unpack[SubmitOptions]) -> AsyncJob: ...
    @overload
    async def submit(self, uri: list[str] | tuple[str, ...], **options: Unpack[SubmitOptions]) -> list[AsyncJob]: ...

    async def submit(
        self, uri: str | list[str] | tuple[str, ...], **options: Unpack[SubmitOptions]
    ) -> AsyncJob | list[AsyncJob]:
        """Submit a source, or several at once; return when the jobs are safe with the coordinator. A source that an equal job is
        at work on becomes no second one: that job is returned.

        Options: to is a folder (a relative one from this process's working directory), or None or ``"hf-cache"`` for the Hub
        cache. deliver is ``"spread"``, one copy in one place that all agents see, or ``"replicate"``, a copy on every agent.
        include and exclude are globs. force fetches again. sha256 is the digest in hex of a single file. profile names the
        credentials. unpack is None, ``"auto"`` or a folder, unpack_format the format of the archives. A larger priority is sooner.
        nas is a folder on a NAS that finished files are copied to, ``"off"``, or None: as each agent is configured.
        Raises: UsageError, Refused.
        """
        uris = [uri] if isinstance(uri, str) else list(uri)
        more: dict[str, Any] = dict(options)
        deliver, to = more.pop("deliver", "spread"), more.pop("to", None)
        if deliver not in ("spread", "replicate"):
            raise UsageError("deliver", cause=f'{deliver!r} is neither "spread" nor "replicate"')
        endpoints = self.settings.hub.endpoint
        request = submit_request(uris, hub_endpoints=endpoints, to=to, delivery=Delivery(deliver), **more)
        submitted = await self.coordinator.submit(request)
        jobs = [AsyncJob(self.coordinator, each.job) for each in submitted]
        return jobs[0] if isinstance(uri, str) else jobs

    async def job(self, job_id_or_uri: str) -> AsyncJob:
        """A job by its id; the newest one by its source or name. Raises NotFound."""
        return AsyncJob(self.coordinator, await self.coordinator.get_job(job_id_or_uri))

    async def jobs(self) -> list[JobView]:
        """All jobs, newest first."""
        found: list[JobView] = []
        while True:
            page = await self.coordinator.list_jobs(limit=PAGE, after=found[-1].job_id if found else "")
            found += page
            if len(page) < PAGE:
                return found

    async def agents(self) -> list[AgentView]:
        """All agents that the coordinator has seen."""
        return await self.coordinator.agents()

    async def status(self) -> FleetView:
        """The whole fleet in one look."""
        return await self.coordinator.fleet()
