"""The Hub's API as the planner needs it: JSON from whichever endpoint answers, and trees page by page.

Endpoints are mirrors of each other in order of preference. A request that one of them fails (after retries) or refuses is
put to the next: a mirror may lack a repo that another has. When none serves it, the refusal that says most is reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, cast

from ...common.errors import (
    AccessDenied,
    HttpStatus,
    NotFound,
    ProtocolViolation,
    RateLimited,
    Refused,
    ShoalError,
    TransferError,
    Unauthenticated,
)
from ...common.http import Headers
from ...common.http.url import parse_url, resolve_reference
from ...common.hub_auth import authorization_for, is_below_any
from ...common.hub_errors import HubSubject, hub_error
from .asking import Reply, ask
from .base import SourceContext

JSON_BYTES_MAX: Final = 16 << 20  # a page of 1,000 entries has 0.3 MB; parsed, JSON takes about ten times its size
PAGES_MAX: Final = 10_000  # of one listing: 10 million files in pages of 1,000

JsonObject = dict[str, object]

_LINK = re.compile(
    r'<([^<>]*)>((?:\s*;\s*[\w!#$&+\-.^`|~*]+\s*(?:=\s*(?:"[^"]*"|[^\s",;]+))?)*)'
)  # RFC 8288, section 3
_REL_NEXT = re.compile(r';\s*rel\s*=\s*(?:"(?:[^"]*\s)?next(?:\s[^"]*)?"|next(?=[\s;]|$))', re.IGNORECASE)
_ENDPOINT_FAILED = (AccessDenied, Unauthenticated, NotFound, Refused, TransferError)  # others fail at every endpoint
_MOST_TELLING = (AccessDenied, Unauthenticated, NotFound, Refused, RateLimited, HttpStatus)


@dataclass(frozen=True, slots=True)
class _Failure:
    endpoint: str
    error: ShoalError
    code: str  # X-Error-Code

    @property
    def rank(self) -> int:
        """The lower, the more it tells the user. "No such revision" tells more than "no such repo"."""
        kind = next((i for i, cls in enumerate(_MOST_TELLING) if isinstance(self.error, cls)), len(_MOST_TELLING))
        return 2 * kind + (self.code not in ("RevisionNotFound", "EntryNotFound"))


class HubApi:
    """The API calls about one repo."""

    def __init__(self, context: SourceContext, *, repo_kind: str, repo_id: str, revision: str) -> None:
        self._context = context
        self._repo_kind = repo_kind
        self._repo_id = repo_id
        self._revision = revision
        self._endpoints = context.hub_endpoints

    @property
    def endpoints(self) -> tuple[str, ...]:
        """All endpoints; the one that answered last comes first."""
        return self._endpoints

    async def get_object(self, path: str) -> JsonObject:
        """The JSON object at ``path`` (below the endpoint, with its query) from the first endpoint that has it.

        Raises the errors of `hub_error` and of `HttpClient`, ProtocolViolation for anything but a JSON object.
        """
        failures: list[_Failure] = []
        for endpoint in self._endpoints:
            codes: list[str] = []
            try:
                reply = await self._ask(endpoint, endpoint + path, codes)
                value = _parsed(reply, endpoint)
                if not isinstance(value, dict):
                    raise _unexpected(endpoint, "a JSON object was expected")
            except _ENDPOINT_FAILED as error:
                failures.append(_Failure(endpoint, error, "".join(codes[-1:])))
                continue
            self._prefer(endpoint)
            return cast(JsonObject, value)
        raise _most_telling(failures)

    async def check_access(self, path: str) -> None:
        """Ask the endpoint that answered last whether the files may be read. Raises AccessDenied when it says no.

        Any other answer is no verdict: mirrors need not know this call.
        """
        endpoint = self._endpoints[0]
        try:
            await self._ask(endpoint, endpoint + path, [])
        except AccessDenied:
            raise
        except _ENDPOINT_FAILED:
            return

    async def pages(self, path: str) -> AsyncGenerator[list[JsonObject], None]:
        """The pages of a listing, following ``Link: rel="next"``.

        When an endpoint fails midway, the next one lists from the start, because cursors mean nothing elsewhere: entries may
        come twice. Raises as `get_object`; ProtocolViolation also for endless paging and links that leave the endpoint.
        """
        failures: list[_Failure] = []
        for endpoint in self._endpoints:
            codes: list[str] = []
            try:
                async with aclosing(self._pages_of(endpoint, path, codes)) as pages:
                    async for page in pages:
                        yield page
            except _ENDPOINT_FAILED as error:
                failures.append(_Failure(endpoint, error, "".join(codes[-1:])))
                continue
            self._prefer(endpoint)
            return
        raise _most_telling(failures)

    async def _pages_of(self, endpoint: str, path: str, codes: list[str]) -> AsyncGenerator[list[JsonObject], None]:
        url = endpoint + path
        seen = {url}
        for _ in range(PAGES_MAX):
            reply = await self._ask(endpoint, url, codes)
            value = _parsed(reply, endpoint)
            if not isinstance(value, list):
                raise _unexpected(endpoint, "a JSON list was expected")
            entries = cast(list[object], value)
            if not all(isinstance(entry, dict) for entry in entries):
                raise _unexpected(endpoint, "a list of JSON objects was expected")
            yield cast(list[JsonObject], entries)
            url = _next_url(reply, endpoint)
            if not url:
                return
            if url in seen:
                raise _unexpected(endpoint, "the pages of the listing go in a circle")
            seen.add(url)
        raise _unexpected(endpoint, f"the listing has more than {PAGES_MAX} pages")

    async def _ask(self, endpoint: str, url: str, codes: list[str]) -> Reply:
        authorization = authorization_for(url, self._endpoints, self._context.hub_token())
        subject = HubSubject(
            endpoint=endpoint,
            repo_kind=self._repo_kind,
            repo_id=self._repo_id,
            revision=self._revision,
            authenticated=authorization is not None,
        )

        def interpret(status: int, headers: Headers, wait_s: float | None) -> ShoalError:
            codes.append(headers.get("X-Error-Code"))
            return hub_error(subject, status, headers, retry_after_s=wait_s)

        return await ask(
            self._context, url, interpret=interpret, authorization=authorization, body_bytes_max=JSON_BYTES_MAX
        )

    def _prefer(self, endpoint: str) -> None:
        self._endpoints = (endpoint, *(other for other in self._endpoints if other != endpoint))


def next_link(links: Sequence[str]) -> str:
    """The target of the ``rel="next"`` link among the values of Link headers (RFC 8288); "" where there is none."""
    for value in links:
        for link in _LINK.finditer(value):
            if _REL_NEXT.search(link[2]):
                return link[1].strip()
    return ""


def _next_url(reply: Reply, endpoint: str) -> str:
    reference = next_link(reply.headers.get_all("Link"))
    if not reference:
        return ""
    try:
        url = resolve_reference(parse_url(reply.url), reference)
    except Refused as error:
        raise _unexpected(endpoint, f"the link to the next page cannot be used: {error.cause}") from None
    if not is_below_any(url.text, (endpoint,)):
        cause = f"the next page of the listing would be at {url.label}, outside of the endpoint"
        remedy = "set hub.endpoint to the server that really answers, or let the mirror rewrite Link headers"
        raise ProtocolViolation(f"Hub at {endpoint}", cause=cause, remedy=remedy)
    return url.text


def _parsed(reply: Reply, endpoint: str) -> object:
    """The JSON in a reply. Raises ProtocolViolation."""
    start = reply.body[:64].lstrip()
    if start.startswith(b"<") or reply.headers.get("Content-Type").lower().startswith("text/html"):
        raise _unexpected(endpoint, "it sent a web page instead of JSON, as login pages and blocking proxies do")
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError):
        raise _unexpected(endpoint, "its answer is not valid JSON") from None


def _unexpected(endpoint: str, cause: str) -> ProtocolViolation:
    return ProtocolViolation(f"Hub at {endpoint}", cause=cause, remedy="check that hub.endpoint names a Hub")


def _most_telling(failures: list[_Failure]) -> ShoalError:
    """The error to raise after every endpoint failed; what the others said goes into its cause."""
    best = min(failures, key=lambda failure: failure.rank)
    others = [failure for failure in failures if failure is not best]
    if others:
        said = "; ".join(f"{failure.endpoint}: {failure.error.cause}" for failure in others)
        best.error.cause = f"{best.error.cause}; {said}"
    return best.error
