"""An agent's session with its coordinator over gRPC.

The link reads by itself into a small queue, so that the order of closing is always the same and leaves nothing hanging: cancel the
reader, await it, cancel the call, close the channel (gRPC issue 42125).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc.aio

from shoal.v1 import fleet_service_pb2 as pb
from shoal.v1.fleet_service_pb2_grpc import FleetServiceStub

from ..common.channel import ADMITTED, CHALLENGE_KEY, call_error, call_metadata, open_channel
from ..common.errors import ShoalError, Unauthenticated, Unreachable
from ..common.logs import get_logger
from ..common.records import AgentMessage, CoordinatorMessage, Goodbye, Hello, ObjectSpec
from ..common.s3_signing import SignedUrl
from ..common.settings_table import SecuritySettings
from ..common.tls_probe import explained
from ..common.wire import decode_coordinator_message, encode_agent_message
from ..common.wire_signing import decode_signed_url
from ..common.wire_values import each
from ..common.wire_work import decode_object_spec

CONNECT_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 30.0
DOCUMENT_TIMEOUT_S = 600.0
"""A batch's rows are some MB; a table's rejected rows may be many more, and the line slow."""
GOODBYE_TIMEOUT_S = 5.0
"""How long the coordinator has to answer a Goodbye by ending the stream."""
INCOMING_MAX = 64
"""Messages read ahead; further ones wait in gRPC, which slows the coordinator down."""

log = get_logger("agent")


class GrpcLink:
    """An open session. Iterate over it for what the coordinator says; `connect` makes and closes it."""

    def __init__(
        self,
        address: str,
        security: SecuritySettings,
        stub: Any,
        call: Any,
        *,
        shown: tuple[tuple[str, str], ...] = (),
        challenge: str = "",
    ) -> None:
        """shown: the credential that the session was opened with; challenge: what its Hello must repeat."""
        self._shown = shown
        self._challenge = challenge
        self._address = address
        self._security = security
        self._stub = stub
        self._call = call
        self._incoming: asyncio.Queue[CoordinatorMessage | None] = asyncio.Queue(INCOMING_MAX)
        self._error: ShoalError | None = None
        self._ended = asyncio.Event()
        self._sending = asyncio.Lock()
        self._said_goodbye = False
        self._reader = asyncio.create_task(self._read())

    async def send(self, message: AgentMessage) -> None:
        """Send a message. A Goodbye is the last one. Raises ShoalError if the session has ended."""
        if isinstance(message, Hello):
            message = replace(message, challenge=self._challenge)
        request = encode_agent_message(message)
        async with self._sending:
            if self._ended.is_set():
                raise self._failure()
            try:
                await self._call.write(request)
                if isinstance(message, Goodbye):
                    self._said_goodbye = True
                    await self._call.done_writing()
            except grpc.aio.AioRpcError as error:
                raise call_error(error, self._address) from None
            except asyncio.InvalidStateError:  # the call has ended
                raise self._failure() from None

    async def __aiter__(self) -> AsyncGenerator[CoordinatorMessage]:
        """What the coordinator says, until it ends the session. Raises ShoalError if that was not after a Goodbye."""
        while True:
            message = await self._incoming.get()
            if message is None:
                self._incoming.put_nowait(None)  # whoever iterates again finds the end, too
                if not self._said_goodbye or self._error is not None:
                    raise self._failure()
                return
            yield message

    async def manifest_pages(self, job_id: str, *, unfinished_too: bool = False) -> AsyncIterator[Sequence[ObjectSpec]]:
        """The finished objects of a job, page by page, by ascending id; unfinished ones as well if asked for. Raises ShoalError."""
        token = ""
        while True:
            request = pb.ListManifestRequest(job_id=job_id, page_token=token, unfinished_too=unfinished_too)
            try:
                page: pb.ListManifestResponse = await self._stub.ListManifest(
                    request, timeout=CALL_TIMEOUT_S, metadata=call_metadata(self._security)
                )
            except grpc.aio.AioRpcError as error:
                raise call_error(error, self._address) from None
            if page.objects:
                yield each(decode_object_spec, page.objects, "ListManifestResponse.objects")
            token = page.next_page_token
            if not token:
                return

    async def sign_objects(self, job_id: str, object_ids: Sequence[int]) -> Sequence[SignedUrl]:
        """URLs of a job's objects that its origin accepts for a while. Raises ShoalError."""
        request = pb.SignObjectsRequest(job_id=job_id, object_ids=object_ids)
        try:
            answer: pb.SignObjectsResponse = await self._stub.SignObjects(
                request, timeout=CALL_TIMEOUT_S, metadata=call_metadata(self._security)
            )
        except grpc.aio.AioRpcError as error:
            raise call_error(error, self._address) from None
        return each(decode_signed_url, answer.urls, "SignObjectsResponse.urls")

    async def read_document(self, job_id: str, name: str) -> AsyncIterator[bytes]:
        """A file that the coordinator keeps for a job, block by block. Raises ShoalError."""
        request = pb.ReadDocumentRequest(job_id=job_id, name=name)
        call: Any = self._stub.ReadDocument(request, timeout=DOCUMENT_TIMEOUT_S, metadata=call_metadata(self._security))
        try:
            async for answer in call:
                yield answer.data
        except grpc.aio.AioRpcError as error:
            raise call_error(error, self._address) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """End the session. After a Goodbye the coordinator is given time to read it."""
        if self._said_goodbye:
            try:
                async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                    while await self._incoming.get() is not None:  # a full queue would hold the reader up
                        pass
            except TimeoutError:
                log.warning("agent.goodbye_unanswered", timeout_s=GOODBYE_TIMEOUT_S)
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._call.cancel()
        while not self._incoming.empty():
            self._incoming.get_nowait()
        self._incoming.put_nowait(None)  # for whoever still iterates

    async def _read(self) -> None:
        try:
            async for response in self._call:
                await self._incoming.put(decode_coordinator_message(response))
        except grpc.aio.AioRpcError as error:
            self._error = self._renewable(call_error(error, self._address))
        except ShoalError as error:
            self._error = error
        finally:
            self._ended.set()
        await self._incoming.put(None)

    def _renewable(self, error: ShoalError) -> ShoalError:
        """A credential that ended is no reason to give up when there is a new one in its place."""
        if isinstance(error, Unauthenticated):
            try:
                if call_metadata(self._security) != self._shown:
                    return Unreachable(error.thing, cause=f"{error.cause}; there is a new one in its place")
            except (
                ShoalError
            ):  # it is being replaced at this moment, or is gone: then the error says why the session ended
                pass
        return error

    def _failure(self) -> ShoalError:
        return self._error or Unreachable(f"coordinator {self._address}", cause="the session has ended")


@asynccontextmanager
async def connect(address: str, security: SecuritySettings) -> AsyncGenerator[GrpcLink]:
    """Open a session with the coordinator at HOST:PORT. The first message must be Hello.

    Raises: Unreachable, Unauthenticated, AccessDenied, UsageError.
    """
    channel = open_channel(address, security)
    try:
        stub: Any = FleetServiceStub(channel)
        shown = call_metadata(security)
        call: Any = stub.Session(metadata=shown)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                metadata = tuple(await call.initial_metadata())
                if ADMITTED not in metadata:
                    await call.read()  # raises why it was refused
                    raise Unreachable(f"coordinator {address}", cause="what answers there is no Shoal coordinator")
        except grpc.aio.AioRpcError as error:
            raise await explained(call_error(error, address), address, security) from None
        except TimeoutError:
            cause = f"no answer within {CONNECT_TIMEOUT_S:.0f} s"
            raise Unreachable(f"coordinator {address}", cause=cause, remedy="see whether it runs") from None
        challenge = next((str(value) for key, value in metadata if key == CHALLENGE_KEY), "")
        link = GrpcLink(address, security, stub, call, shown=shown, challenge=challenge)
        try:
            yield link
        finally:
            await link.close()
    finally:
        await channel.close(None)
