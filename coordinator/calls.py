"""What every call to the coordinator passes through: admission, errors as statuses, and the end of streams whose credential ended."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, cast

import grpc
import grpc.aio

from ..common.errors import ProtocolViolation, ShoalError, Unauthenticated
from ..common.logs import Seldom, get_logger
from ..common.wire_errors import DETAILS_KEY, encode_error
from .auth import LOCAL, Caller, Gate

RECHECK_S = 5.0
"""How often the credentials of open streams are checked again: as often as agents send heartbeats by default."""

REFUSALS_LOGGED_MAX, REFUSALS_LOGGED_S = 20, 60.0
"""So many refused calls are written to the log in so long: a stranger must not fill the disk."""

CALLER: ContextVar[Caller] = ContextVar("caller", default=LOCAL)
"""Who makes the call that the present task answers."""

Context = grpc.aio.ServicerContext[Any, Any]

_MAKERS: dict[str, Any] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}

log = get_logger("coordinator.calls")


class Calls(grpc.aio.ServerInterceptor):  # pyright: ignore[reportMissingTypeArgument]  # generic only in the stubs
    """Wraps the handler of every method."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._streams: dict[asyncio.Task[Any], Caller] = {}
        self._revoked: set[asyncio.Task[Any]] = set()
        self._refusals = Seldom(REFUSALS_LOGGED_MAX, REFUSALS_LOGGED_S)

    async def recheck(self) -> None:
        """End, again and again, the streams whose credential was revoked or has expired. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(RECHECK_S)
            self.recheck_now()

    def recheck_now(self) -> None:
        """End the streams whose credential was revoked or has expired."""
        for task, caller in self._streams.items():
            if task not in self._revoked and self._gate.lapse(caller):
                self._revoked.add(task)
                task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The same handler, with the checks around it; it has the same shape, as gRPC demands."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        kind = "_".join("stream" if one else "unary" for one in (handler.request_streaming, handler.response_streaming))
        wrap = self._streaming if handler.response_streaming else self._single
        wrapped = wrap(handler_call_details.method, getattr(handler, kind))
        return _MAKERS[kind](wrapped, handler.request_deserializer, handler.response_serializer)

    def _single(self, method: str, behavior: Callable[[Any, Context], Awaitable[Any]]) -> Callable[..., Any]:
        async def answer(request: Any, context: Context) -> Any:
            async with self._guarded(method, context) as caller:
                _caller.set(caller.name)  # of this call's task alone
                return await behavior(request, context)

        return answer

    def _streaming(self, method: str, behavior: Callable[[Any, Context], Any]) -> Callable[..., Any]:
        """Handlers that stream are generators or write for themselves: both become one that writes."""

        async def answer(request: Any, context: Context) -> None:
            async with self._guarded(method, context) as caller:
                with self._watched(caller):
                    if not inspect.isasyncgenfunction(behavior):
                        await behavior(request, context)
                        return
                    async with aclosing(behavior(request, context)) as responses:
                        async for response in responses:
                            await context.write(response)

        return answer

    @asynccontextmanager
    async def _guarded(self, method: str, context: Context) -> AsyncGenerator[Caller]:
        """Admits the call, and turns what it raises into a status."""
        try:
            caller = self._admit(method, context)
            CALLER.set(caller)
            yield caller
        except ShoalError as error:
            await refuse(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("call.failed", method=method)
            await refuse(context, ShoalError(method, cause="the coordinator has a defect; its log says more"))

    def _admit(self, method: str, context: Context) -> Caller:
        """Who calls, if they may. A refusal is told in the log as well, a few times a minute: who is refused comes again."""
        try:
            return self._gate.admit(
                method, authorization=_metadatum(context, "authorization"), common_name=_common_name(context)
            )
        except ShoalError as error:
            if self._refusals.take(asyncio.get_running_loop().time()):
                log.warning("call.refused", method=method, peer=context.peer(), error=str(error))
            raise

    @contextmanager
    def _watched(self, caller: Caller) -> Generator[None]:
        """Lets `recheck` end the stream that runs in here. Raises Unauthenticated then."""
        task = asyncio.current_task()
        assert task is not None
        self._streams[task] = caller
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._revoked:
                raise
            task.uncancel()
            cause = f"the credential {caller.name!r} {self._gate.lapse(caller)}"
            log.warning("stream.ended", caller=caller.name, reason=cause)
            raise Unauthenticated("stream", cause=cause, remedy="connect with a new one") from None
        finally:
            del self._streams[task]
            self._revoked.discard(task)


_caller: ContextVar[str] = ContextVar("caller", default=LOCAL.name)


def caller_name() -> str:
    """Who makes the call that is being answered: the credential's name."""
    return _caller.get()


async def refuse(context: Context, error: ShoalError) -> NoReturn:
    """End the call with the error's status and parts. What breaks the protocol here is always the caller's fault."""
    name = "INVALID_ARGUMENT" if isinstance(error, ProtocolViolation) else error.grpc_status
    status = grpc.StatusCode[name]
    number: int = cast("Any", status).value[0]
    text, trailer = encode_error(error, number)
    await context.abort(status, text, ((DETAILS_KEY, trailer),))
    raise AssertionError("abort always raises")


def _metadatum(context: Context, key: str) -> str:
    metadata: Any = context.invocation_metadata() or ()
    return next((value for name, value in metadata if name == key and isinstance(value, str)), "")


def _common_name(context: Context) -> str:
    """Of the client certificate, which gRPC has verified before; empty without one."""
    names = list(context.auth_context().get("x509_common_name", ()))
    return names[0].decode(errors="replace") if names else ""
