"""The faults that the stand-in servers can be told to have.

A fault is plain data with up to four hooks, each pure: `on_head` changes what the server believes was asked, `on_request`
answers in the server's place, `on_entity` changes the file, `on_answer` changes how the answer goes out. When a fault fires
is the switchboard's business (`support.switchboard`, as ``hub.faults``).
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import ClassVar, Literal

from .contents import (
    BytesContent,
    ContentLike,
    FlippedContent,
    InvertedContent,
    ResizedContent,
    as_content,
    read_all,
)
from .http_answer import (
    Answer,
    Entity,
    Framing,
    Kind,
    RequestHead,
    redirect_answer,
    text_answer,
    whole,
)

FILE_KINDS: frozenset[Kind] = frozenset({"file", "cdn"})
GET: frozenset[str] = frozenset({"GET"})


class Fault:
    """Something a server does wrong, or does late."""

    kinds: ClassVar[frozenset[Kind] | None] = FILE_KINDS  # which requests it concerns unless told otherwise; None: all
    methods: ClassVar[frozenset[str] | None] = GET
    delay_s: float = 0.0  # before anything is answered

    def on_head(self, head: RequestHead) -> RequestHead:
        """What the server makes of the request."""
        return head

    def on_request(self, head: RequestHead) -> Answer | None:
        """An answer in place of the server's own; None leaves it to the server."""
        return None

    def on_entity(self, entity: Entity) -> Entity:
        """The file that is answered with."""
        return entity

    def on_answer(self, head: RequestHead, answer: Answer) -> Answer:
        """The answer as it goes out."""
        return answer


@dataclass(frozen=True)
class FlipByte(Fault):
    """Wrong content of the right size: all bits of one byte are inverted."""

    offset: int | None = None  # bytes; None: in the middle

    def on_entity(self, entity: Entity) -> Entity:
        size = entity.content.size
        at = size // 2 if self.offset is None else self.offset
        return replace(entity, content=FlippedContent(entity.content, at)) if at < size else entity


@dataclass(frozen=True)
class WrongSize(Fault):
    """A well-formed answer for a file that was cut or padded with zeros; 0 gives an empty file."""

    size: int  # bytes

    def on_entity(self, entity: Entity) -> Entity:
        return replace(entity, content=ResizedContent(entity.content, self.size))


@dataclass(frozen=True)
class ChangeFile(Fault):
    """From now on the file is another one, with another ETag and a later date: use it with ``skip``."""

    methods: ClassVar[frozenset[str] | None] = None
    content: ContentLike | None = None  # None: the same size, every byte different

    def on_entity(self, entity: Entity) -> Entity:
        content = InvertedContent(entity.content) if self.content is None else as_content(self.content)
        etag = entity.etag and f'"{hashlib.sha256(f"changed {entity.etag}".encode()).hexdigest()}"'
        later = entity.last_modified and entity.last_modified + 60
        return replace(entity, content=content, etag=etag, last_modified=later)


@dataclass(frozen=True)
class HtmlPage(Fault):
    """An HTML page with status 200 where something else was asked for, as captive portals and proxies send."""

    html: str = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n"

    def on_request(self, head: RequestHead) -> Answer | None:
        return text_answer(self.html, status=200, content_type="text/html; charset=utf-8")


@dataclass(frozen=True)
class Status(Fault):
    """An error status, with Retry-After when ``retry_after_s`` is given."""

    kinds: ClassVar[frozenset[Kind] | None] = None
    methods: ClassVar[frozenset[str] | None] = None
    status: int = 503
    retry_after_s: float | None = None
    as_date: bool = False  # Retry-After as an HTTP-date instead of seconds

    def on_request(self, head: RequestHead) -> Answer | None:
        headers: dict[str, str] = {}
        if self.retry_after_s is not None:
            date = formatdate(head.wall_now + self.retry_after_s, usegmt=True)
            headers["Retry-After"] = date if self.as_date else f"{self.retry_after_s:.0f}"
        return text_answer(f"The stand-in answers {self.status}", status=self.status, headers=headers)


def _rate_limit_headers(
    resource: str, *, remaining: int, reset_s: float, quota: int, window_s: float
) -> dict[str, str]:
    """The Hub's form of draft-ietf-httpapi-ratelimit-headers-09; seconds are rounded up, never to a moment too early."""
    return {
        "RateLimit": f'"{resource}";r={remaining};t={-int(-reset_s // 1)}',
        "RateLimit-Policy": f'"fixed window";"{resource}";q={quota};w={window_s:.0f}',
    }


@dataclass(frozen=True)
class RateLimited(Fault):
    """429 as the Hub sends it: the RateLimit headers say when to come back."""

    kinds: ClassVar[frozenset[Kind] | None] = None
    methods: ClassVar[frozenset[str] | None] = None
    reset_s: float = 1
    resource: str = "resolvers"
    quota: int = 3000
    window_s: float = 300

    def on_request(self, head: RequestHead) -> Answer | None:
        headers = _rate_limit_headers(
            self.resource, remaining=0, reset_s=self.reset_s, quota=self.quota, window_s=self.window_s
        )
        return text_answer("429 Too Many Requests", status=429, headers=headers)


class Quota(Fault):
    """The Hub's own limiter: ``quota`` requests in each window, then 429 until the window ends.

    `refused` counts the requests that came in a closed window: an obedient fleet sends few of them.
    """

    kinds: ClassVar[frozenset[Kind] | None] = frozenset({"resolve"})
    methods: ClassVar[frozenset[str] | None] = None

    def __init__(self, quota: int, *, window_s: float, resource: str = "resolvers") -> None:
        self.quota = quota
        self.window_s = window_s
        self.resource = resource
        self.refused = 0
        self._window_ends_at: float | None = None
        self._used = 0

    def on_request(self, head: RequestHead) -> Answer | None:
        if self._window_ends_at is None or head.now >= self._window_ends_at:
            self._window_ends_at = head.now + self.window_s
            self._used = 0
        if self._used >= self.quota:
            self.refused += 1
            return text_answer("429 Too Many Requests", status=429, headers=self._headers(head.now))
        self._used += 1
        return None

    def on_answer(self, head: RequestHead, answer: Answer) -> Answer:
        return replace(answer, headers={**answer.headers, **self._headers(head.now)})

    def _headers(self, now: float) -> dict[str, str]:
        return _rate_limit_headers(
            self.resource,
            remaining=self.quota - self._used,
            reset_s=(self._window_ends_at or now) - now,
            quota=self.quota,
            window_s=self.window_s,
        )


@dataclass(frozen=True)
class IgnoreRange(Fault):
    """The whole file with status 200, whatever range was asked for."""

    def on_head(self, head: RequestHead) -> RequestHead:
        return replace(head, headers={name: value for name, value in head.headers.items() if name != "range"})


@dataclass(frozen=True)
class WrongContentRange(Fault):
    """A 206 whose Content-Range names other bytes than were asked for."""

    shift: int = 1  # bytes
    move_body: bool = False  # True: the body is what Content-Range says; False: it is what was asked for

    def on_answer(self, head: RequestHead, answer: Answer) -> Answer:
        if answer.status != 206:
            return answer
        size = answer.content.size
        shifted = range(answer.span.start + self.shift, answer.span.stop + self.shift)
        headers = {**answer.headers, "Content-Range": f"bytes {shifted.start}-{shifted.stop - 1}/{size}"}
        if not self.move_body:
            return replace(answer, headers=headers)
        return replace(answer, headers=headers, content=ResizedContent(answer.content, shifted.stop), span=shifted)


@dataclass(frozen=True)
class CutBody(Fault):
    """The connection closes after some of the body."""

    after: int | None = None  # bytes of this body; None: half of it

    def on_answer(self, head: RequestHead, answer: Answer) -> Answer:
        length = len(answer.span)
        return replace(answer, cut_after=length // 2 if self.after is None else min(self.after, length))


@dataclass(frozen=True)
class DropConnection(Fault):
    """The connection is reset before any answer."""

    kinds: ClassVar[frozenset[Kind] | None] = None
    methods: ClassVar[frozenset[str] | None] = None

    def on_request(self, head: RequestHead) -> Answer | None:
        return Answer(status=0, drop=True)


@dataclass(frozen=True)
class Stall(Fault):
    """Headers and ``after`` bytes, then silence on an open connection."""

    after: int = 0  # bytes of this body
    stall_s: float | None = None  # None: until the client gives up

    def on_answer(self, head: RequestHead, answer: Answer) -> Answer:
        return replace(answer, stall_after=min(self.after, len(answer.span)), stall_s=self.stall_s)


@dataclass(frozen=True)
class Drip(Fault):
    """The body at a trickle, without a first burst."""

    rate: float = 10  # bytes/s

    def on_answer(self, head: RequestHead, answer: Answer) -> Answer:
        return replace(answer, rate=self.rate)


@dataclass(frozen=True)
class Latency(Fault):
    """Silence before the answer."""

    kinds: ClassVar[frozenset[Kind] | None] = None
    methods: ClassVar[frozenset[str] | None] = None
    delay_s: float = 0.1


@dataclass(frozen=True)
class NoContentLength(Fault):
    """The length is not told: chunked, or only the closing of the connection ends the body."""

    framing: Literal["chunked", "close"] = "chunked"

    def on_answer(self, head: RequestHead, answer: Answer) -> Answer:
        framing: Framing = self.framing
        return replace(answer, framing=framing) if answer.status in (200, 206) else answer


@dataclass(frozen=True)
class Compress(Fault):
    """Whole files go out gzipped and chunked to who accepts gzip, as the Hub does with small text files."""

    def on_answer(self, head: RequestHead, answer: Answer) -> Answer:
        if answer.status != 200 or "gzip" not in head.headers.get("accept-encoding", ""):
            return answer
        content = BytesContent(gzip.compress(read_all(answer.content), compresslevel=1, mtime=0))
        headers = {**answer.headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        if "ETag" in headers and not headers["ETag"].startswith("W/"):
            headers["ETag"] = f"W/{headers['ETag']}"
        return replace(answer, headers=headers, content=content, span=whole(content), framing="chunked")


@dataclass(frozen=True)
class RedirectLoop(Fault):
    """A redirect that leads back to where it came from."""

    kinds: ClassVar[frozenset[Kind] | None] = frozenset({"resolve", "file", "cdn"})
    methods: ClassVar[frozenset[str] | None] = None

    def on_request(self, head: RequestHead) -> Answer | None:
        return redirect_answer(302, head.target)


@dataclass(frozen=True)
class ExpireUrl(Fault):
    """Signed URLs are good for ``after_s`` seconds or ``after_uses`` requests; then the CDN answers 403."""

    kinds: ClassVar[frozenset[Kind] | None] = frozenset({"resolve", "cdn"})
    methods: ClassVar[frozenset[str] | None] = None
    after_s: float | None = None
    after_uses: int | None = None
