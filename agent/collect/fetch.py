"""One try to fetch one URL: every hop through its host's gate, every answer into a `Fetched` or a `Failed`."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ...common.collect_records import CollectSpec, Content, ErrorCode
from ...common.errors import ProtocolViolation, RedirectRefused, Refused, ShoalError
from ...common.http import HttpClient, Response, Url, parse_retry_after, parse_url
from ...common.http.addresses import inward_reason
from ...common.http.redirects import FOLLOWED
from ...common.http.url import is_ip_literal, resolve_reference
from .answers import (
    Failed,
    Fetched,
    kind_of_status,
    not_an_image,
    of_error,
    of_status,
    opted_out,
    shown,
    sniffed,
    too_large,
)
from .budget import Share
from .gate import Answer, HostGate
from .segments import IMAGES_BYTES_MAX
from .stopwatch import Stopwatch, Stopwatches

ELSEWHERE_S: Final = 30.0  # that a row waits for the turn of another host, where a redirect leads
_STEP_BYTES: Final = 64 << 10  # of a body whose length is not known
_DRAIN_BYTES_MAX: Final = 64 << 10  # of an answer that is not wanted: reading it is cheaper than a new connection
_INFLATE_STEP_BYTES: Final = 256 << 10
_ACCEPT: Final = (("Accept-Encoding", "identity"), ("Accept", "image/*,*/*;q=0.5"))
_ACCEPT_ANY: Final = (("Accept-Encoding", "identity"),)


@dataclass(slots=True)
class Timing:
    """What the first answer was like, for a host's profile."""

    latency_s: float = -1.0
    seconds: float = -1.0  # of the body
    status: int = 0
    size: int = -1
    content_type: str = ""
    server: str = ""
    ranges: bool = False
    protocol: str = ""


class Fetcher:
    """Fetches for one job. Lives in the event loop; the client is its owner's."""

    def __init__(
        self,
        spec: CollectSpec,
        client: HttpClient,
        gate: HostGate,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        refusal: Callable[[str], str],
        robots: Callable[[Url, str], Awaitable[Failed | None]] | None = None,
        https_only: Callable[[], bool] = lambda: False,
    ) -> None:
        """refusal: why a host is not asked, "" where it is; robots: what robots.txt has against a URL; https_only: asked for each."""
        self._spec = spec
        self._client = client
        self._gate = gate
        self._clock = clock
        self._wall_clock = wall_clock
        self._refusal = refusal
        self._robots = robots
        self._https_only = https_only
        self.waiting: set[asyncio.Task[object]] = (
            set()
        )  # those who wait for a host's turn, and could as well be stopped
        self._watches = Stopwatches(spec.request_timeout_s)
        self._accept = _ACCEPT if spec.content is Content.IMAGE else _ACCEPT_ANY

    def close(self) -> None:
        """Leave no timer behind."""
        self._watches.close()

    async def fetch(self, url: str, host: str, share: Share, timing: Timing | None = None) -> Fetched | Failed:
        """Fetch a URL of the batch's host. The bytes are held in ``share``, whatever comes of it.

        Waiting for a host's turn and for memory does not count against the request's time.
        """
        try:
            async with asyncio.Timeout(None) as timer:
                return await self._follow(url, host, self._watches.watch(timer), share, timing)
        except TimeoutError:
            self._gate.seen(host, Answer.TIMEOUT)
            limit_s = self._spec.request_timeout_s
            return Failed(ErrorCode.NETWORK, f"it was not fetched within {limit_s:g} s", retry=True)

    async def _follow(
        self, url: str, host: str, watch: Stopwatch, share: Share, timing: Timing | None
    ) -> Fetched | Failed:
        seen: set[str] = set()
        own = host
        try:
            target = parse_url(url)
        except Refused as error:
            return of_error(error)[0]
        while True:
            if failure := await self._forbidden(target, host):
                return failure
            outcome = await self._hop(target, host, watch, share, timing, seen, own=host == own)
            if not isinstance(outcome, Url):
                return outcome
            target, host = outcome, outcome.authority

    async def _hop(
        self,
        target: Url,
        host: str,
        watch: Stopwatch,
        share: Share,
        timing: Timing | None,
        seen: set[str],
        *,
        own: bool,
    ) -> Fetched | Failed | Url:
        """One hop within its host's budget; a Url is where to go on. own: the host is the batch's own.

        For the turn of another one it does not wait for ever, as no run ends on its account.
        """
        if own:
            return await self._in_turn(target, host, watch, share, timing, seen, None)
        try:
            async with asyncio.timeout(ELSEWHERE_S) as patience:
                return await self._in_turn(target, host, watch, share, None, seen, patience)
        except TimeoutError:
            return Failed(
                ErrorCode.NETWORK, f"{shown(host, 100)}, where it redirects to, was not free in time", retry=True
            )

    async def _in_turn(
        self,
        target: Url,
        host: str,
        watch: Stopwatch,
        share: Share,
        timing: Timing | None,
        seen: set[str],
        patience: asyncio.Timeout | None,
    ) -> Fetched | Failed | Url:
        """Wait until the host may be asked, and ask. patience: for the waiting alone."""
        task = asyncio.current_task()
        assert task is not None
        self.waiting.add(task)
        try:
            async with self._gate.request(host):
                self.waiting.discard(task)
                if patience is not None:
                    patience.reschedule(None)
                watch.start()
                try:
                    outcome = await self._ask(target, host, watch, share, timing)
                    if isinstance(outcome, Url):
                        self._count(outcome, target, seen)
                    return outcome
                except ShoalError as error:
                    failure, kind = of_error(error)
                    if kind is not None:
                        self._gate.seen(host, kind)
                    return failure
                finally:
                    watch.stop()
        finally:
            self.waiting.discard(task)

    def _count(self, onward: Url, target: Url, seen: set[str]) -> None:
        """One redirect more. Raises RedirectRefused."""
        seen.add(target.text)
        if onward.text in seen:
            raise RedirectRefused(target.label, cause="the redirects go in a circle")
        if len(seen) > self._spec.redirects_max:
            raise RedirectRefused(target.label, cause=f"more than {self._spec.redirects_max} redirects")

    async def _forbidden(self, target: Url, host: str) -> Failed | None:
        """What stands against asking at all: the rules of this job, and what the host says in robots.txt."""
        if self._https_only() and target.scheme != "https":
            return Failed(ErrorCode.REFUSED, "only https is allowed here")
        if reason := self._refusal(host):
            return Failed(ErrorCode.REFUSED, f"the host is not asked: {reason}")
        # With a proxy the connection would not show it.
        if (
            not self._spec.allow_private_addresses
            and is_ip_literal(target.host)
            and (why := inward_reason(target.host))
        ):
            return Failed(ErrorCode.REFUSED, f"it leads to {why}")
        return await self._robots(target, host) if self._robots is not None else None

    async def _ask(
        self, target: Url, host: str, watch: Stopwatch, share: Share, timing: Timing | None
    ) -> Fetched | Failed | Url:
        """One hop; a Url is where to go on. Raises ShoalError."""
        began_s = self._clock()
        response = await self._client.request(target, headers=self._accept, follow_redirects=False)
        latency_s = self._clock() - began_s
        status = response.status
        async with response:
            if status in FOLLOWED and "location" in response.headers:
                if timing is not None:
                    _note(timing, response, latency_s)
                onward = _onward(target, response)
                await _drain(response)
                self._gate.seen(host, Answer.OK, status=status, latency_s=latency_s)
                return onward
            if timing is not None:
                _note(timing, response, latency_s)
            if failure := of_status(status):
                retry_after_s = parse_retry_after(response.headers, self._wall_clock()) if failure.throttled else None
                self._gate.seen(
                    host,
                    kind_of_status(status),
                    status=status,
                    retry_after_s=retry_after_s or 0.0,
                    latency_s=latency_s,
                )
                await _drain(response)
                return failure
            outcome = await self._take(response, watch, share)
            self._gate.seen(host, Answer.OK, status=status, latency_s=latency_s)
            if timing is not None:
                timing.seconds = self._clock() - began_s - latency_s
                timing.size = len(outcome.body) if isinstance(outcome, Fetched) else -1
            return outcome

    async def _take(self, response: Response, watch: Stopwatch, share: Share) -> Fetched | Failed:
        headers = response.headers
        robots_tag = shown(", ".join(headers.get_all("x-robots-tag")), 200) if "x-robots-tag" in headers else ""
        if robots_tag and self._spec.respect_ai_opt_out and opted_out(robots_tag):
            return Failed(ErrorCode.OPTED_OUT, f"the server says X-Robots-Tag: {robots_tag}")
        body = await self._body(response, watch, share)
        if isinstance(body, Failed):
            return body
        content_type = shown(headers.get("content-type"), 200)
        if self._spec.content is Content.IMAGE and not sniffed(body):
            return not_an_image(body, content_type)
        etag = shown(headers.get("etag"), 200)
        return Fetched(body, response.status, content_type, etag, robots_tag, int(self._wall_clock() * 1e6))

    async def _body(self, response: Response, watch: Stopwatch, share: Share) -> bytearray | Failed:
        """The whole body, without its content coding; what is too large is dropped at once."""
        limit = min(self._spec.body_bytes_max, IMAGES_BYTES_MAX)
        coding = ",".join(response.headers.elements("content-encoding")).lower()
        length = response.body_length
        if length is not None and length > limit:
            response.abort()
            return too_large(limit)
        if length is not None:
            await watch.waits(share.grow(length))
            body = bytearray(length)
            with memoryview(body) as view:
                await response.read_into(view)
        else:
            body = bytearray()
            while True:
                await watch.waits(share.grow(_STEP_BYTES))
                part = bytearray(_STEP_BYTES)
                with memoryview(part) as view:
                    count = await response.read_into(view)
                body += part if count == _STEP_BYTES else part[:count]
                if count < _STEP_BYTES:
                    break
                if len(body) > limit:
                    response.abort()
                    return too_large(limit)
        if coding in ("", "identity"):
            return body
        return await self._inflated(body, coding, watch, share, response.url)

    async def _inflated(
        self, body: bytearray, coding: str, watch: Stopwatch, share: Share, thing: str
    ) -> bytearray | Failed:
        """A body that came compressed although nobody asked for it, as far as it stays within the limit."""
        if coding not in ("gzip", "x-gzip", "deflate"):
            cause = f"the body has the content coding {coding[:40]!r} though none was accepted"
            raise ProtocolViolation(thing, cause=cause)
        raw = coding == "deflate" and bytes(body[:1]) != b"\x78"  # some servers leave out zlib's frame
        inflater = zlib.decompressobj(-15 if raw else 47)
        plain, rest = bytearray(), bytes(body)
        try:
            while not inflater.eof:
                await watch.waits(share.grow(_INFLATE_STEP_BYTES))
                part = inflater.decompress(rest, _INFLATE_STEP_BYTES)
                plain += part
                rest = inflater.unconsumed_tail
                if len(plain) > self._spec.body_bytes_max:
                    return too_large(self._spec.body_bytes_max)
                if not part and not rest:
                    raise ProtocolViolation(thing, cause=f"the {coding} body is cut short")
        except zlib.error:
            raise ProtocolViolation(thing, cause=f"the body is not {coding}, as its Content-Encoding says") from None
        return plain


def _onward(target: Url, response: Response) -> Url:
    """Where a redirect leads; from https to http as well, which `https_only` alone forbids. Raises RedirectRefused."""
    locations = set(response.headers.get_all("location"))
    if len(locations) != 1:
        raise RedirectRefused(target.label, cause="the redirect names more than one location")
    try:
        return resolve_reference(target, locations.pop())
    except Refused as error:
        cause = f"the redirect's location cannot be used: {error.thing}: {error.cause}"
        raise RedirectRefused(target.label, cause=cause) from None


async def _drain(response: Response) -> None:
    """Read what is not wanted, if it is short, so that the connection can be used again."""
    length = response.body_length
    if length is None or length > _DRAIN_BYTES_MAX:
        return
    try:
        with memoryview(bytearray(length)) as view:
            await response.read_into(view)
    except ShoalError:
        pass  # the answer is known; only the connection is lost


def _note(timing: Timing, response: Response, latency_s: float) -> None:
    timing.latency_s = latency_s
    timing.status = response.status
    timing.content_type = shown(response.headers.get("content-type"), 100)
    timing.server = shown(response.headers.get("server"), 100)
    timing.ranges = response.headers.get("accept-ranges").strip().lower() == "bytes" or response.status == 206
    timing.protocol = response.protocol
