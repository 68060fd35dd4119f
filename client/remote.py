"""A coordinator elsewhere, over gRPC: the questions of the API, answered with the same views."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import Message

from shoal.v1 import fleet_admin_service_pb2 as admin
from shoal.v1 import job_service_pb2 as jobs
from shoal.v1.fleet_admin_service_pb2_grpc import FleetAdminServiceStub
from shoal.v1.job_service_pb2_grpc import JobServiceStub

from ..common.channel import call_error, call_metadata, open_channel
from ..common.errors import ShoalError, UsageError
from ..common.secrets import Secret
from ..common.settings import Settings
from ..common.settings_table import SecuritySettings
from ..common.tls_probe import explained
from ..common.views import (
    AgentView,
    Control,
    FleetView,
    HostView,
    JobView,
    NewToken,
    ObjectStatus,
    ObjectView,
    QueueView,
    Role,
    SubmitRequest,
    Submitted,
    TokenView,
)
from ..common.wire_hosts import decode_host
from ..common.wire_requests import encode_submit_request
from ..common.wire_values import each
from ..common.wire_views import (
    OBJECT_STATUS,
    ROLE,
    decode_agent,
    decode_fleet,
    decode_job,
    decode_new_token,
    decode_object,
    decode_queued_job,
    decode_submitted,
    decode_token,
)

CALL_TIMEOUT_S = 20.0
"""A coordinator answers in milliseconds; this is for a network that swallows packets."""

SUBMIT_TIMEOUT_S = 120.0
"""A request may name thousands of URIs."""

R = TypeVar("R", bound=Message)


class RemoteCoordinator:
    """Speaks to one coordinator. Every method raises ShoalErrors: the coordinator's own, or Unreachable."""

    def __init__(self, channel: grpc.aio.Channel, address: str, security: SecuritySettings) -> None:
        self._address = address
        self._security = security
        self._jobs: Any = JobServiceStub(channel)
        self._admin: Any = FleetAdminServiceStub(channel)

    # ---- jobs -------------------------------------------------------------------------------------------------------

    async def submit(self, request: SubmitRequest) -> list[Submitted]:
        """Make a job of each URI, in their order."""
        message = encode_submit_request(request)
        answer = await self._call(self._jobs.SubmitJob, message, jobs.SubmitJobResponse, timeout_s=SUBMIT_TIMEOUT_S)
        return list(each(decode_submitted, answer.jobs, "SubmitJobResponse.jobs"))

    async def get_job(self, job_id_or_uri: str) -> JobView:
        """One job with its active objects."""
        request = jobs.GetJobRequest(job_id=job_id_or_uri)
        return decode_job((await self._call(self._jobs.GetJob, request, jobs.GetJobResponse)).job)

    async def list_jobs(self, *, limit: int, after: str = "") -> list[JobView]:
        """Jobs, newest first, that come after the job with that id."""
        found: list[JobView] = []
        while len(found) < limit:
            request = jobs.ListJobsRequest(page_size=limit - len(found), page_token=after)
            page = await self._call(self._jobs.ListJobs, request, jobs.ListJobsResponse)
            found += each(decode_job, page.jobs, "ListJobsResponse.jobs")
            after = page.next_page_token
            if not after:
                break
        return found

    async def watch_job(self, job_id: str) -> AsyncGenerator[JobView]:
        """The job now and at every change, until it has ended."""
        call = self._jobs.WatchJob(jobs.WatchJobRequest(job_id=job_id), metadata=call_metadata(self._security))
        try:
            async for response in call:
                yield decode_job(response.job)
        except grpc.aio.AioRpcError as error:
            raise await self._error(error) from None
        finally:
            call.cancel()  # of no effect after its end

    async def list_objects(
        self, job_id: str, *, status: str = "", after_id: int = 0, limit: int = 1000
    ) -> list[ObjectView]:
        """Objects of a job by ascending id, after an id; status empty or one of `ObjectStatus`."""
        found: list[ObjectView] = []
        token = str(after_id) if after_id else ""
        wanted = OBJECT_STATUS.number(ObjectStatus(status)) if status else None
        while len(found) < limit:
            size = limit - len(found)
            request = jobs.ListObjectsRequest(job_id=job_id, status=wanted, page_size=size, page_token=token)
            page = await self._call(self._jobs.ListObjects, request, jobs.ListObjectsResponse)
            found += each(decode_object, page.objects, "ListObjectsResponse.objects")
            token = page.next_page_token
            if not token:
                break
        return found

    async def control(self, job_id: str, action: Control) -> JobView:
        """Pause, resume, cancel or retry a job."""
        match action:
            case Control.PAUSE:
                answer = await self._call(
                    self._jobs.PauseJob, jobs.PauseJobRequest(job_id=job_id), jobs.PauseJobResponse
                )
            case Control.RESUME:
                answer = await self._call(
                    self._jobs.ResumeJob, jobs.ResumeJobRequest(job_id=job_id), jobs.ResumeJobResponse
                )
            case Control.CANCEL:
                answer = await self._call(
                    self._jobs.CancelJob, jobs.CancelJobRequest(job_id=job_id), jobs.CancelJobResponse
                )
            case Control.RETRY:
                answer = await self._call(
                    self._jobs.RetryJob, jobs.RetryJobRequest(job_id=job_id), jobs.RetryJobResponse
                )
        return decode_job(answer.job)

    # ---- fleet ------------------------------------------------------------------------------------------------------

    async def fleet(self) -> FleetView:
        """The whole fleet in one look."""
        answer = await self._call(self._admin.GetFleet, admin.GetFleetRequest(), admin.GetFleetResponse)
        return decode_fleet(answer.fleet)

    async def agents(self) -> list[AgentView]:
        """All agents that were seen."""
        answer = await self._call(self._admin.ListAgents, admin.ListAgentsRequest(), admin.ListAgentsResponse)
        return list(each(decode_agent, answer.agents, "ListAgentsResponse.agents"))

    async def drain_agent(self, agent: str) -> None:
        """Let the agent with this id or name finish what it holds and leave."""
        await self._call(self._admin.DrainAgent, admin.DrainAgentRequest(agent=agent), admin.DrainAgentResponse)

    async def queue(self) -> list[QueueView]:
        """Jobs that have not ended, in the order of service."""
        answer = await self._call(self._admin.GetQueue, admin.GetQueueRequest(), admin.GetQueueResponse)
        return list(each(decode_queued_job, answer.jobs, "GetQueueResponse.jobs"))

    async def hosts(self) -> list[HostView]:
        """Origin hosts with a limit or with trouble."""
        answer = await self._call(self._admin.ListHosts, admin.ListHostsRequest(), admin.ListHostsResponse)
        return list(each(decode_host, answer.hosts, "ListHostsResponse.hosts"))

    async def set_host_policy(
        self, host: str, requests_per_s: float, bytes_per_s: float, connections: int = 0
    ) -> HostView:
        """Limit the whole fleet's rates and connections at a host; 0 is unlimited."""
        request = admin.SetHostPolicyRequest(
            host=host, requests_per_s=requests_per_s, bytes_per_s=bytes_per_s, connections=connections
        )
        answer = await self._call(self._admin.SetHostPolicy, request, admin.SetHostPolicyResponse)
        return decode_host(answer.host)

    # ---- credentials ------------------------------------------------------------------------------------------------

    async def create_token(self, role: Role, name: str, expires_s: float | None) -> NewToken:
        """Make a credential that is valid for so many seconds, for ever with None."""
        request = admin.CreateTokenRequest(role=ROLE.number(role), name=name, expires_s=expires_s)
        return decode_new_token(await self._call(self._admin.CreateToken, request, admin.CreateTokenResponse))

    async def list_tokens(self) -> list[TokenView]:
        """All credentials, without their secrets."""
        answer = await self._call(self._admin.ListTokens, admin.ListTokensRequest(), admin.ListTokensResponse)
        return list(each(decode_token, answer.tokens, "ListTokensResponse.tokens"))

    async def rotate_token(self, token_id: str, grace_s: float, expires_s: float | None) -> NewToken:
        """A credential in the place of one, which stays valid for so many seconds."""
        request = admin.RotateTokenRequest(token_id=token_id, grace_s=grace_s, expires_s=expires_s)
        made = await self._call(self._admin.RotateToken, request, admin.RotateTokenResponse)
        return NewToken(token=Secret(made.secret), view=decode_token(made.token))

    async def revoke_token(self, token_id: str) -> None:
        """Make a credential worthless."""
        request = admin.RevokeTokenRequest(token_id=token_id)
        await self._call(self._admin.RevokeToken, request, admin.RevokeTokenResponse)

    async def backup(self) -> AsyncGenerator[bytes]:
        """A consistent copy of the coordinator's database, block by block."""
        call = self._admin.BackupState(admin.BackupStateRequest(), metadata=call_metadata(self._security))
        try:
            async for response in call:
                yield response.data
        except grpc.aio.AioRpcError as error:
            raise await self._error(error) from None
        finally:
            call.cancel()  # of no effect after its end

    async def _call(self, method: Any, request: Message, _answer: type[R], *, timeout_s: float = CALL_TIMEOUT_S) -> R:
        """Call a method; _answer tells the type checker what gRPC's stubs cannot."""
        try:
            call: Awaitable[R] = method(request, timeout=timeout_s, metadata=call_metadata(self._security))
            return await call
        except grpc.aio.AioRpcError as error:
            raise await self._error(error) from None

    async def _error(self, error: grpc.aio.AioRpcError) -> ShoalError:
        return await explained(call_error(error, self._address), self._address, self._security)


@asynccontextmanager
async def connect(settings: Settings, *, default_address: str = "") -> AsyncGenerator[RemoteCoordinator]:
    """The coordinator that is configured, else the one at default_address. Connects at the first call.

    Raises: UsageError if no address is known or a credential cannot be read.
    """
    address = settings.coordinator.address or default_address
    if not address:
        raise UsageError("coordinator", cause="no address is set", remedy="say --coordinator HOST:PORT")
    channel = open_channel(address, settings.security)
    try:
        yield RemoteCoordinator(channel, address, settings.security)
    finally:
        await channel.close(None)
