"""What a handler of the API declares, and how its errors are told.

A handler is a coroutine function whose annotations are the declaration::

    @routes.get("/api/jobs/{job_id}", summary="One job", errors=(404,))
    async def get_job(site: Site, *, job_id: str) -> JobDetail: ...

Keyword parameters: names of the path are taken from it as checked text; ``query`` and ``body`` are read into the dataclass of
their annotation; ``request`` is the request itself. Routing, validation and the OpenAPI document are made from this alone.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ...common.errors import HttpStatus, RateLimited, ShoalError, UnsafeName, UsageError
from ...common.paths import unsafe_character

Handler = Callable[..., Awaitable[Any]]

PATH_TEXT_CHARS_MAX = 512
PATH_PATTERN = r"^[^/\\]+$"
UNSAFE_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})

STATUS_OF_GRPC = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "CANCELLED": 503,
}
"""google.rpc.Code's mapping to HTTP, with 409 where the present state forbids something."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What went wrong: problem details of RFC 9457, with Shoal's own code, cause and remedy."""

    type: str  # names the kind of problem: urn:shoal:error:CODE
    title: str
    status: int
    detail: str
    code: str
    thing: str
    cause: str
    remedy: str
    retryable: bool


def status_of(error: ShoalError, *, understood: bool = False, asked_origin: bool = False) -> int:
    """The HTTP status of an error. understood: the request was of the form that the document describes; what is wrong is what it says.
    asked_origin: the error was met while a source was asked, so it is not about this caller's login."""
    if understood and error.grpc_status == "INVALID_ARGUMENT":
        return 422
    if asked_origin and error.grpc_status == "UNAUTHENTICATED":
        return 403
    if asked_origin and error.code != "rate-limited" and isinstance(error, HttpStatus):
        return 502
    if error.code == "no-space":
        return 507
    if asked_origin and error.grpc_status in ("UNAVAILABLE", "DATA_LOSS"):
        return 502
    return STATUS_OF_GRPC.get(error.grpc_status, 500)


def problem_of(error: ShoalError, status: int) -> Problem:
    """An error as a problem document."""
    return Problem(
        type=f"urn:shoal:error:{error.code}",
        title=(type(error).__doc__ or "").strip().partition("\n")[0].rstrip("."),
        status=status,
        detail=str(error),
        code=error.code,
        thing=error.thing,
        cause=error.cause,
        remedy=error.remedy,
        retryable=error.retryable,
    )


def retry_after_s(error: ShoalError) -> float | None:
    """Seconds that the answer's Retry-After names; None for none."""
    return error.retry_after_s if isinstance(error, RateLimited) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """One operation of the API."""

    method: str
    path: str
    handler: Handler
    summary: str
    description: str
    tag: str
    path_names: tuple[str, ...]
    query: type | None
    body: type | None
    answer: Any  # a dataclass; None for an answer of another kind
    content_type: str
    status: int
    errors: tuple[int, ...]
    public: bool  # needs no login
    csrf: bool
    asks_origin: bool
    wants_request: bool

    @property
    def operation_id(self) -> str:
        return getattr(self.handler, "__name__", "operation")

    @property
    def changes(self) -> bool:
        """Whether it changes anything, and so needs the token against cross-site requests."""
        return self.method in UNSAFE_METHODS and self.csrf


class Routes:
    """A table of handlers, filled by decorators."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.table: list[Route] = []

    def get(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._add("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._add("POST", path, **options)

    def _add(
        self,
        method: str,
        path: str,
        *,
        summary: str,
        errors: tuple[int, ...] = (),
        content_type: str = "application/json",
        answer: Any = None,
        status: int = 200,
        public: bool = False,
        csrf: bool = True,
        asks_origin: bool = False,
    ) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            hints = typing.get_type_hints(handler)
            parameters = set(inspect.signature(handler).parameters)
            names = tuple(re.findall(r"\{(\w+)\}", path))
            assert set(names) <= parameters, f"{path}: a name of the path is no parameter of its handler"
            self.table.append(
                Route(
                    method=method,
                    path=path,
                    handler=handler,
                    summary=summary,
                    description=inspect.cleandoc(handler.__doc__ or ""),
                    tag=self.tag,
                    path_names=names,
                    query=hints.get("query"),
                    body=hints.get("body"),
                    answer=(answer or hints["return"]) if content_type == "application/json" else None,
                    content_type=content_type,
                    status=status,
                    errors=errors,
                    public=public,
                    csrf=csrf,
                    asks_origin=asks_origin,
                    wants_request="request" in parameters,
                )
            )
            return handler

        return add


def path_text(name: str, text: str) -> str:
    """A component of a path that names something. Raises UnsafeName for what could name a folder, UsageError for nonsense."""
    if ".." in text or "/" in text or "\\" in text or unsafe_character(text) is not None:
        raise UnsafeName(
            f"{name} {text[:80]!a}", cause="a name in a path holds neither '..', slashes nor control characters"
        )
    if not text or len(text) > PATH_TEXT_CHARS_MAX:
        raise UsageError(name, cause=f"it must be 1 to {PATH_TEXT_CHARS_MAX} characters")
    return text
