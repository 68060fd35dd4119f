"""``http://`` and ``https://``: one URL, one object.

The server is asked for the first byte (``Range: bytes=0-0``): the answer tells size and validator, and no byte of a big file
is wasted. A HEAD request is not used: many servers answer it wrongly or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from ...common.digests import parse_digest
from ...common.error_pages import is_page
from ...common.errors import AccessDenied, HttpStatus, NotFound, RateLimited, ShoalError, UnsafeName, UsageError
from ...common.http import Headers
from ...common.http.url import parse_url
from ...common.records import ObjectSpec, OriginKind
from .asking import Reply, ask
from .base import Resolved, SourceContext, SourceRequest
from .intake import Intake

if TYPE_CHECKING:
    from ...common.uri import HttpUri


class HttpSource:
    """One file on a web server."""

    def __init__(self, request: SourceRequest, uri: HttpUri, context: SourceContext) -> None:
        """Raises UsageError for a request that makes no sense for a URL."""
        if request.revision:
            raise UsageError(str(uri), cause="a URL has no revisions", remedy="leave --revision out")
        if not uri.name:
            raise UsageError(str(uri), cause="it names a folder, not a file", remedy="give the URL of one file")
        self._digest = ":".join(parse_digest(f"sha256:{request.sha256}")) if request.sha256 else ""
        self._uri = uri
        self._url = uri.canonical()
        self._context = context
        self._intake = Intake(selection=request.selection, thing=str(uri))
        self._object: ObjectSpec | None = None

    @property
    def refused(self) -> list[tuple[str, str]]:
        return self._intake.refused

    @property
    def refused_count(self) -> int:
        return self._intake.refused_count

    @property
    def warnings(self) -> list[str]:
        return self._intake.warnings

    async def resolve(self) -> Resolved:
        """Ask the server about the file. Raises as `Source.resolve`, and UnsafeName when its name cannot be used."""
        policy = self._context.policy
        policy.check_host(self._uri.host)
        policy.check_encrypted(self._url, str(self._uri))
        path = self._intake.admit(self._uri.name)
        if self._intake.refused:
            raise UnsafeName(str(self._uri), cause=self._intake.refused[0][1])
        self._intake.finish()
        if path is None or "/" in path:
            raise UnsafeName(str(self._uri), cause="the file's name holds an encoded slash")
        reply = await self._ask()
        self._object = ObjectSpec(
            object_id=1,
            path=path,
            # What looks like a page, with no digest to say that it is the file, has not shown the file's size: the agent
            # looks into it.
            size=None if is_page(reply.headers, path) and not self._digest else _size(reply),
            digest=self._digest,
            etag=_validator(reply.headers),
            url=self._url,
        )
        return Resolved(source=str(self._uri), origin=OriginKind.HTTP)

    async def pages(self) -> AsyncGenerator[list[ObjectSpec], None]:
        """The one object."""
        if self._object is None:
            await self.resolve()
        if self._object is not None:
            yield [self._object]

    async def _ask(self) -> Reply:
        reply = await ask(self._context, self._url, interpret=self._error, byte_range=(0, 1), accepted=(416,))
        answered_by = parse_url(reply.url)
        self._context.policy.check_denied_host(answered_by.host)
        self._context.policy.check_encrypted(reply.url, f"{self._uri}, which leads to {answered_by.label}")
        if reply.status == 416 and _size(reply) is None:
            raise HttpStatus(str(self._uri), status=416)
        return reply

    def _error(self, status: int, headers: Headers, wait_s: float | None) -> ShoalError:
        thing = str(self._uri)
        if status == 429 or (status == 503 and wait_s is not None):
            return RateLimited(thing, retry_after_s=wait_s or 0.0)
        if status in (401, 403, 407, 451):
            remedy = (
                "the proxy wants credentials" if status == 407 else "check whether the URL needs a login or has expired"
            )
            return AccessDenied(thing, cause=f"the server answered {status}", remedy=remedy)
        if status in (404, 410):
            return NotFound(thing, cause=f"the server answered {status}", remedy="check the URL")
        return HttpStatus(thing, status=status)


def _size(reply: Reply) -> int | None:
    """Bytes of the file; None when the server does not tell.

    An empty file has no first byte: the server answers 416 and ``Content-Range: bytes */0`` (RFC 9110, section 15.5.17).
    """
    if reply.status == 416:
        return 0 if reply.headers.get("Content-Range").strip() == "bytes */0" else None
    # The length of an encoded body is not that of the file.
    return None if reply.headers.get("Content-Encoding", "identity") != "identity" else reply.size


def _validator(headers: Headers) -> str:
    """The strong ETag without quotes, else Last-Modified as it came, else "".

    A weak ETag does not promise the same bytes (RFC 9110, section 8.8.1).
    """
    etag = headers.get("ETag").strip()
    if len(etag) > 2 and etag[0] == etag[-1] == '"':
        return etag[1:-1]
    return headers.get("Last-Modified").strip()
