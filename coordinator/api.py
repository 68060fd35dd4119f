"""What the coordinator can be asked: the seam between its shell (`service.py`) and its gRPC services.

Records and views go in and come out, never protobuf, so the embedded mode and the tests stand on the same seam. Every method may
raise a `ShoalError`: NotFound for a job, agent or host that does not exist, Conflict where the present state forbids it,
UsageError for a value that cannot be.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from ..common.records import AgentMessage, CoordinatorMessage, Hello, ObjectSpec
from ..common.s3_signing import SignedUrl
from ..common.views import (
    AgentView,
    Control,
    FleetView,
    HostView,
    JobStatus,
    JobView,
    ObjectView,
    QueueView,
    SubmitRequest,
    Submitted,
    TotalsView,
)

JobFilter = Callable[[JobStatus, bool], bool]
"""Whether a job with this status, paused or not, is wanted."""

Send = Callable[[CoordinatorMessage], None]
"""Hand a message to an agent's session. Never blocks and never raises: a session that cannot keep up is closed."""

Close = Callable[[str], None]
"""End an agent's session for this reason. The agent sees UNAVAILABLE and comes back."""


class AgentSession(Protocol):
    """The coordinator's end of one agent's session."""

    def receive(self, message: AgentMessage) -> None:
        """The agent said something; never a Hello. Raises ProtocolViolation, which closes the session.

        After a Goodbye nothing follows, not even `lost`.
        """
        ...

    def lost(self) -> None:
        """The session ended without a Goodbye. Called at most once, and before a newer session of the same agent is opened."""
        ...


class CoordinatorApi(Protocol):
    """A running coordinator."""

    # ---- jobs

    async def submit(self, request: SubmitRequest, *, user: str = "") -> list[Submitted]:
        """Make a job of each URI, in their order, for a user: the name of the credential that asks. On return the jobs survive a
        restart. Raises UsageError, Refused, OverQuota."""
        ...

    def get_job(self, job_id_or_uri: str, *, active: bool = True) -> JobView:
        """One job with its active objects, if wanted; for a URI or a name, the newest job that has it. Raises NotFound."""
        ...

    def job_ids(self) -> list[str]:
        """Ids of all jobs, newest first."""
        ...

    def list_jobs(self, *, limit: int, after: str, wanted: JobFilter | None = None) -> list[JobView]:
        """Jobs that are wanted (all without a filter), newest first, that come after the job with the id `after`; empty: from
        the newest on. Raises NotFound."""
        ...

    def watch_job(self, job_id: str) -> AsyncIterator[JobView]:
        """The job now and at every change, at most about twice a second; the last view is the ended one. Raises NotFound."""
        ...

    async def list_objects(self, job_id: str, *, status: str, after_id: int, limit: int) -> list[ObjectView]:
        """Objects of a job by ascending id, after an id; status empty or one of `ObjectStatus`. Raises NotFound."""
        ...

    async def control(self, job_id: str, action: Control) -> JobView:
        """Pause, resume, cancel or retry a job. On return it survives a restart. Raises NotFound, Conflict."""
        ...

    async def set_priority(self, job_id: str, priority: int) -> JobView:
        """Change when a job is served; larger is sooner. On return it survives a restart. Raises NotFound, Conflict."""
        ...

    # ---- fleet

    def agents(self) -> list[AgentView]:
        """All agents that were seen, by name."""
        ...

    async def drain_agent(self, agent: str) -> None:
        """Let the agent with this id or name finish what it holds and leave. Raises NotFound, Conflict if two share the name."""
        ...

    def queue(self) -> list[QueueView]:
        """Jobs that have not ended, in the order of service."""
        ...

    def hosts(self) -> list[HostView]:
        """Origin hosts with a limit or with trouble, by name."""
        ...

    async def set_host_policy(
        self, host: str, requests_per_s: float, bytes_per_s: float, connections: int = 0
    ) -> HostView:
        """Limit the whole fleet's rates and connections at a host; 0 is unlimited.

        On return it survives a restart. Raises UsageError."""
        ...

    def fleet(self) -> FleetView:
        """Everything in one look."""
        ...

    def totals(self) -> TotalsView:
        """Sums over all jobs."""
        ...

    # ---- agents' sessions

    async def open_session(self, hello: Hello, send: Send, close: Close) -> AgentSession:
        """An agent introduced itself. Its Welcome goes through send, like all that follows."""
        ...

    async def manifest(
        self, job_id: str, after_id: int, limit: int, *, unfinished_too: bool = False
    ) -> tuple[list[ObjectSpec], int | None]:
        """Finished objects of a job by ascending id, after an id, with size and digest as published; unfinished and failed ones as well
        if asked for, but no names that were refused. Returns at most limit of them, and after which id to ask for more. Raises
        NotFound."""
        ...

    async def sign_objects(self, job_id: str, object_ids: Sequence[int]) -> list[SignedUrl]:
        """URLs that the origin accepts from anybody for a while, in the order asked. Raises NotFound also for another job's object,
        UsageError for an origin that wants no signatures, Unauthenticated where the job's profile has no keys."""
        ...

    def read_document(self, job_id: str, name: str) -> AsyncIterator[bytes]:
        """A file that the coordinator keeps for a job, in blocks of at most 1 MiB: "batch/ID" of an object, "rejects.parquet",
        "profiles.csv", "overview.json". Raises NotFound."""
        ...

    # ---- state

    def backup(self) -> AsyncIterator[bytes]:
        """A consistent copy of the database, in blocks of at most 1 MiB. Raises UsageError where there is none, NoSpace."""
        ...
