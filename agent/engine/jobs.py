"""What this agent knows of a job: where its files go, who serves them, what it may tell them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Set
from typing import TYPE_CHECKING

from ...common.hub_auth import authorization_for
from ...common.hub_errors import HubSubject
from ...common.records import JobSpec, ObjectSpec, OriginKind
from .crew import Crew
from .locations import Endpoints, Target
from .options import JOB_IDLE_S, OBJECTS_IDLE_MAX, EngineOptions
from .signatures import Sign, Signatures
from .store_answers import pinned_validator
from .transfer import Transfer

if TYPE_CHECKING:
    from ...common.http import HttpClient
    from ...common.policy import Policy
    from ...common.secrets import Secret
    from ..storage.destination import Destination, Placed
    from .archive_streams import ArchiveStreams


class JobContext:
    """A job that this agent works on. Lives in the event loop."""

    def __init__(
        self,
        spec: JobSpec,
        *,
        destination: Destination,
        client: HttpClient,
        disk: Crew,
        hub_token: Callable[[], Secret | None],
        now: float,
        sign: Sign | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        streams: ArchiveStreams | None = None,
    ) -> None:
        """sign: asks the coordinator for signed URLs; clock: seconds, that of the worker; streams: where archives are unpacked.

        Raises Refused for an endpoint that is no http(s) URL.
        """
        self.spec = spec
        self.destination = destination
        self.client = client
        self.endpoints = Endpoints(spec.endpoints)
        self.busy_s = now  # when a lease on it was last held
        self.transfers: dict[int, Transfer] = {}  # by object id
        self.streams = streams
        self.waited_for: set[str] = set()  # other runs that objects were waited for, so that each is told of once
        self.allowed_by: Policy | None = None  # the rules that the job was last held against
        self._disk = disk
        self.hub_token = hub_token
        self.signatures: Signatures | None = None  # of a store's objects
        if spec.origin is OriginKind.S3 and sign is not None:
            self.signatures = Signatures(spec.job_id, sign, clock=clock, waiting=self._waiting)
        self._shared = asyncio.Lock()
        self._shared_checked = False

    @property
    def on_hub(self) -> bool:
        return self.spec.origin is OriginKind.HUB

    @property
    def on_store(self) -> bool:
        return self.spec.origin is OriginKind.S3

    def pinned(self, spec: ObjectSpec) -> str:
        """The validator that the object must have, as headers carry it; "" where any version that is there will do."""
        return pinned_validator(spec.etag) if self.on_store else ""

    def _waiting(self) -> Iterator[int]:
        return (object_id for object_id, transfer in self.transfers.items() if transfer.holdings)

    async def check_shared(self) -> None:
        """Before the first byte of the job: this agent sees the folder that the others write to. Raises NotShared."""
        if self._shared_checked:
            return
        async with self._shared:
            if not self._shared_checked:
                await self._disk.run(self.destination.check_shared).wait()
                self._shared_checked = True

    def authorization(self, target: Target) -> Secret | None:
        """The Authorization header for a target: the Hub token goes to the configured endpoints and nowhere else."""
        return authorization_for(target.url, self.endpoints.bases, self.hub_token()) if self.on_hub else None

    def subject(self, spec: ObjectSpec, target: Target, *, authenticated: bool) -> HubSubject:
        """The object as the Hub's errors name it."""
        return HubSubject(
            endpoint=target.endpoint or f"https://{target.host}",
            repo_kind=self.spec.repo_kind or "model",
            repo_id=self.spec.repo_id,
            revision=self.spec.revision,
            path=spec.path,
            authenticated=authenticated,
        )

    async def close(self) -> None:
        """Close every file of the job. No lease on it may be under way."""
        for transfer in list(self.transfers.values()):
            await transfer.close()
        self.transfers.clear()
        if self.streams is not None:
            await self.streams.close()
        await self._disk.run(self.destination.close).wait()


def open_destination(options: EngineOptions, job: JobSpec, placed: Placed | None = None) -> Destination:
    """Where a job goes on this machine. Raises Refused."""
    from ..storage.destination import Destination

    return Destination(
        job,
        root=options.root,
        allow=options.allow_paths,
        sync=options.sync,
        agent_id=options.agent_id,
        expiry_s=options.lock_expiry_s,
        is_alone=options.is_alone,
        places=options.places,
        placed=placed,
    )


class JobTable:
    """The jobs of a worker. Those that have ended, or are heard of no more, are closed when nobody works on them."""

    def __init__(self, make: Callable[[JobSpec], JobContext]) -> None:
        self._make = make
        self._jobs: dict[str, JobContext] = {}
        self._retired: list[JobContext] = []

    def __bool__(self) -> bool:
        return bool(self._jobs or self._retired)

    def get(self, spec: JobSpec) -> JobContext:
        """The job with exactly this specification, opened where it is new. Raises what opening it does."""
        job = self._jobs.get(spec.job_id)
        if job is not None and job.spec != spec:
            self.retire(job)  # it was begun anew, with other words
            job = None
        if job is None:
            job = self._jobs[spec.job_id] = self._make(spec)
        return job

    def retire(self, job: JobContext) -> None:
        """The job has ended here: no lease is taken on it any more."""
        if self._jobs.get(job.spec.job_id) is job:
            del self._jobs[job.spec.job_id]
            self._retired.append(job)

    async def close_idle(self, busy: Set[JobContext], now: float) -> None:
        """Close what is not needed. busy: the jobs with leases.

        Partial files stay open between two leases of their objects, but not many of them.
        """
        for job in list(self._jobs.values()):
            if job in busy:
                job.busy_s = now
            elif now - job.busy_s > JOB_IDLE_S:
                self.retire(job)
        for job in [job for job in self._retired if job not in busy]:
            self._retired.remove(job)
            await job.close()
        idle = [
            (job, transfer)
            for job in self._jobs.values()
            for transfer in job.transfers.values()
            if not transfer.holdings
        ]
        for job, transfer in idle[: max(0, len(idle) - OBJECTS_IDLE_MAX)]:
            if not transfer.holdings and job.transfers.get(transfer.spec.object_id) is transfer:
                del job.transfers[transfer.spec.object_id]
                await transfer.close()

    async def close(self) -> None:
        """Close every job. No lease may be under way."""
        for job in (*self._jobs.values(), *self._retired):
            await job.close()
        self._jobs.clear()
        self._retired.clear()
