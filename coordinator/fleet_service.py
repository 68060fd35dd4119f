"""``shoal.v1.FleetService``: agents' sessions, and the manifest that the finalizing agent reads.

A session's life::

    (stream opened) --Hello--> OPEN --Goodbye--> (what waits is sent, stream ends)
                               OPEN --input ends, call breaks--> lost
                               OPEN --closed by the coordinator, stopping, overrun, newer session, violation--> lost, with a status

The end of the input alone says nothing: a half-close, a cancelled call and a killed process look the same from here. So a session
that ends without a Goodbye is lost.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace

from shoal.v1 import fleet_service_pb2 as pb
from shoal.v1.fleet_service_pb2_grpc import FleetServiceServicer

from ..common.channel import ADMITTED, CHALLENGE_KEY
from ..common.errors import AccessDenied, Busy, Conflict, ProtocolViolation, RateLimited, ShoalError, UsageError
from ..common.logs import get_logger
from ..common.records import Acks, CoordinatorMessage, Drain, Goodbye, Grants, Hello, Revoke
from ..common.wire import decode_agent_message, encode_coordinator_message
from ..common.wire_signing import SIGN_MAX, encode_signed_url
from ..common.wire_work import encode_object_spec
from .api import AgentSession, CoordinatorApi
from .calls import CALLER, Context
from .identities import IdentityBook
from .requests import id_token, page_size, said

CHALLENGE_BYTES = 16

HELLO_TIMEOUT_S = 30.0
"""A stream that says nothing holds memory for nobody."""

OUTGOING_MAX = 1000
"""Messages that wait for an agent to read. Credit keeps it at a few; so many mean that the agent is stuck."""

BATCH_MAX = 1000
"""Items that messages of one kind are merged up to, while they wait. A stream carries 3,400 messages/s, of whatever size."""

log = get_logger("coordinator.fleet")


class FleetService(FleetServiceServicer):
    """Raises ShoalErrors: `calls.py` makes statuses of them."""

    def __init__(self, api: CoordinatorApi, identities: IdentityBook | None = None) -> None:
        self._api = api
        self._identities = identities
        self._open: dict[str, _Outgoing] = {}
        self._draining = False
        self._changed = asyncio.Event()

    async def Session(self, request_iterator: AsyncIterator[pb.SessionRequest], context: Context) -> None:
        challenge = secrets.token_hex(CHALLENGE_BYTES)
        await context.send_initial_metadata((ADMITTED, (CHALLENGE_KEY, challenge)))
        hello = await self._introduced(await _hello(request_iterator), challenge)
        if self._draining:
            raise Busy("coordinator", cause="it is stopping", remedy="come back in a moment")
        outgoing = _Outgoing(f"session of agent {hello.name}")
        older = self._open.get(hello.agent_id)
        self._open[hello.agent_id] = outgoing
        try:
            if older is not None:
                older.end(Conflict(outgoing.thing, cause="a newer session of the same agent was opened"))
                await older.detached.wait()
            agent = await self._api.open_session(hello, outgoing.send, outgoing.close)
            left = False
            try:
                left = await _converse(agent, outgoing, request_iterator, context)
            finally:
                if not left:
                    agent.lost()
        finally:
            outgoing.detached.set()
            if self._open.get(hello.agent_id) is outgoing:
                del self._open[hello.agent_id]
            self._changed.set()

    async def _introduced(self, hello: Hello, challenge: str) -> Hello:
        """The Hello, if it is of this session and its identity is the caller's. Raises AccessDenied.

        A Hello that was overheard or found somewhere answers another session's challenge. Where calls need no credential, one made
        by hand may do without.
        """
        caller = CALLER.get()
        if hello.challenge != challenge and (hello.challenge or caller.principal):
            cause = "it is of another session: it was replayed" if hello.challenge else "it answers no challenge"
            log.warning("hello.refused", agent=hello.name, caller=caller.name, reason=cause)
            raise AccessDenied(f"hello of agent {hello.name}", cause=cause, remedy="let the agent connect anew")
        if self._identities is not None:
            await self._identities.claim(hello.agent_id, hello.name, caller)
        return replace(hello, challenge="")

    async def ListManifest(self, request: pb.ListManifestRequest, context: Context) -> pb.ListManifestResponse:
        size, after_id = page_size(request.page_size), id_token(request.page_token)
        specs, more = await self._api.manifest(
            said(request.job_id, "job_id"), after_id, size, unfinished_too=request.unfinished_too
        )
        return pb.ListManifestResponse(
            objects=map(encode_object_spec, specs), next_page_token="" if more is None else str(more)
        )

    async def SignObjects(self, request: pb.SignObjectsRequest, context: Context) -> pb.SignObjectsResponse:
        job_id, object_ids = said(request.job_id, "job_id"), list(request.object_ids)
        if len(object_ids) > SIGN_MAX:
            raise UsageError("object_ids", cause=f"{len(object_ids)} are asked for at once, {SIGN_MAX} are allowed")
        return pb.SignObjectsResponse(urls=map(encode_signed_url, await self._api.sign_objects(job_id, object_ids)))

    async def ReadDocument(self, request: pb.ReadDocumentRequest, context: Context) -> None:
        job_id, document = said(request.job_id, "job_id"), said(request.name, "name")
        async for data in self._api.read_document(job_id, document):
            await context.write(pb.ReadDocumentResponse(data=data))

    async def drain(self, reason: str) -> None:
        """Take no more sessions, tell all agents to come back later, and wait until all sessions have ended.

        Agents keep what they hold and go on with it: so they are not asked for a Goodbye, which would give it back.
        """
        self._draining = True
        for outgoing in self._open.values():
            outgoing.send(Drain(reason, reconnect=True))
            outgoing.finish(Busy(outgoing.thing, cause=reason, remedy="come back in a moment"))
        while self._open:
            self._changed.clear()
            await self._changed.wait()


async def _hello(requests: AsyncIterator[pb.SessionRequest]) -> Hello:
    """The first word of a stream. Raises ProtocolViolation if it is another one, or none."""
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            first = decode_agent_message(await anext(requests))
    except StopAsyncIteration:
        raise ProtocolViolation("session", cause="it ended before its Hello") from None
    except TimeoutError:
        raise ProtocolViolation("session", cause=f"no Hello within {HELLO_TIMEOUT_S:.0f} s") from None
    if not isinstance(first, Hello):
        raise ProtocolViolation("session", cause=f"its first word was {type(first).__name__}, not Hello")
    return first


async def _converse(
    agent: AgentSession, outgoing: _Outgoing, requests: AsyncIterator[pb.SessionRequest], context: Context
) -> bool:
    """Carry words both ways until either side ends it. Returns whether the agent said Goodbye."""
    try:
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(outgoing.write(context))
            watcher = tasks.create_task(outgoing.ended())
            left = await _listen(agent, requests)
            if left:
                outgoing.finish()
                await asyncio.wait([writer])
            writer.cancel()
            watcher.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return left


async def _listen(agent: AgentSession, requests: AsyncIterator[pb.SessionRequest]) -> bool:
    async for request in requests:
        message = decode_agent_message(request)
        if isinstance(message, Hello):
            raise ProtocolViolation("session", cause="a second Hello")
        agent.receive(message)
        if isinstance(message, Goodbye):
            return True
    return False


class _Outgoing:
    """What waits to be sent to one agent, and how its session is ended from this side."""

    def __init__(self, thing: str) -> None:
        self.thing = thing
        self.detached = asyncio.Event()  # nothing more of this session reaches the coordinator
        self._waiting: deque[CoordinatorMessage] = deque()
        self._news = asyncio.Event()
        self._finishing = False
        self._farewell: ShoalError | None = None
        self._error: ShoalError | None = None
        self._ended = asyncio.Event()

    def send(self, message: CoordinatorMessage) -> None:
        """Put a message in the queue, joined to the last one where that is the same."""
        if self._error is not None:
            return
        joined = _join(self._waiting[-1], message) if self._waiting else None
        if joined is not None:
            self._waiting[-1] = joined
        elif len(self._waiting) >= OUTGOING_MAX:
            self.end(RateLimited(self.thing, retry_after_s=1.0, cause=f"{OUTGOING_MAX} messages wait to be read"))
        else:
            self._waiting.append(message)
        self._news.set()

    def close(self, reason: str) -> None:
        """End the session; the agent may come back."""
        self.end(Busy(self.thing, cause=reason))

    def end(self, error: ShoalError) -> None:
        """End the session with this status; what waits is dropped."""
        if self._error is None:
            self._error = error
            self._waiting.clear()
            self._ended.set()

    def finish(self, error: ShoalError | None = None) -> None:
        """When nothing waits any more, let `write` return, and end the session with the error if there is one."""
        self._finishing = True
        self._farewell = error
        self._news.set()

    async def ended(self) -> None:
        """Raises what the session was ended with, when it is."""
        await self._ended.wait()
        assert self._error is not None
        raise self._error

    async def write(self, context: Context) -> None:
        """Send what waits."""
        while True:
            while self._waiting:
                await context.write(encode_coordinator_message(self._waiting.popleft()))
            if self._finishing:
                if self._farewell is not None:
                    self.end(self._farewell)
                return
            self._news.clear()
            await self._news.wait()


def _join(earlier: CoordinatorMessage, later: CoordinatorMessage) -> CoordinatorMessage | None:
    """Both in one message, if they are of a kind that can be and it does not grow too large."""
    match earlier, later:
        case Acks(), Acks() if len(earlier.acks) + len(later.acks) <= BATCH_MAX:
            return Acks(earlier.acks + later.acks)
        case Grants(), Grants() if len(earlier.leases) + len(later.leases) <= BATCH_MAX:
            return Grants(leases=earlier.leases + later.leases, jobs=earlier.jobs + later.jobs)
        case Revoke(), Revoke() if len(earlier.leases) + len(later.leases) <= BATCH_MAX:
            return Revoke(earlier.leases + later.leases)
        case _:
            return None
