"""``shoal.v1.FleetAdminService``: carries requests to the coordinator and its views back."""

from __future__ import annotations

from shoal.v1 import fleet_admin_service_pb2 as pb
from shoal.v1.fleet_admin_service_pb2_grpc import FleetAdminServiceServicer

from ..common.wire_hosts import encode_host
from ..common.wire_values import amount, count
from ..common.wire_values import name as checked_name
from ..common.wire_views import (
    ROLE,
    encode_agent,
    encode_fleet,
    encode_new_token,
    encode_queued_job,
    encode_token,
)
from .api import CoordinatorApi
from .calls import Context
from .requests import reading, said
from .tokens import TokenBook


class FleetAdminService(FleetAdminServiceServicer):
    """Raises ShoalErrors: `calls.py` makes statuses of them."""

    def __init__(self, api: CoordinatorApi, tokens: TokenBook) -> None:
        self._api = api
        self._tokens = tokens

    async def GetFleet(self, request: pb.GetFleetRequest, context: object) -> pb.GetFleetResponse:
        return pb.GetFleetResponse(fleet=encode_fleet(self._api.fleet()))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: object) -> pb.ListAgentsResponse:
        return pb.ListAgentsResponse(agents=map(encode_agent, self._api.agents()))

    async def DrainAgent(self, request: pb.DrainAgentRequest, context: object) -> pb.DrainAgentResponse:
        await self._api.drain_agent(said(request.agent, "agent"))
        return pb.DrainAgentResponse()

    async def GetQueue(self, request: pb.GetQueueRequest, context: object) -> pb.GetQueueResponse:
        return pb.GetQueueResponse(jobs=map(encode_queued_job, self._api.queue()))

    async def ListHosts(self, request: pb.ListHostsRequest, context: object) -> pb.ListHostsResponse:
        return pb.ListHostsResponse(hosts=map(encode_host, self._api.hosts()))

    async def SetHostPolicy(self, request: pb.SetHostPolicyRequest, context: object) -> pb.SetHostPolicyResponse:
        with reading():
            host = checked_name(request.host, "SetHostPolicyRequest.host")
            requests_per_s = amount(request.requests_per_s, "SetHostPolicyRequest.requests_per_s")
            bytes_per_s = amount(request.bytes_per_s, "SetHostPolicyRequest.bytes_per_s")
            connections = count(request.connections, "SetHostPolicyRequest.connections")
        view = await self._api.set_host_policy(host, requests_per_s, bytes_per_s, connections)
        return pb.SetHostPolicyResponse(host=encode_host(view))

    async def CreateToken(self, request: pb.CreateTokenRequest, context: object) -> pb.CreateTokenResponse:
        with reading():
            role = ROLE.member(request.role, "CreateTokenRequest.role")
        expires_s = request.expires_s if request.HasField("expires_s") else None
        return encode_new_token(await self._tokens.create(role, request.name, expires_s))

    async def ListTokens(self, request: pb.ListTokensRequest, context: object) -> pb.ListTokensResponse:
        return pb.ListTokensResponse(tokens=map(encode_token, self._tokens.list()))

    async def RotateToken(self, request: pb.RotateTokenRequest, context: object) -> pb.RotateTokenResponse:
        made = await self._tokens.rotate(
            said(request.token_id, "token_id"),
            grace_s=request.grace_s,
            expires_s=request.expires_s if request.HasField("expires_s") else None,
        )
        return pb.RotateTokenResponse(secret=made.token.reveal(), token=encode_token(made.view))

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: object) -> pb.RevokeTokenResponse:
        await self._tokens.revoke(said(request.token_id, "token_id"))
        return pb.RevokeTokenResponse()

    async def BackupState(self, request: pb.BackupStateRequest, context: Context) -> None:
        async for block in self._api.backup():
            await context.write(pb.BackupStateResponse(data=block))
