"""One question to a server, asked again while that can help: waits that it orders, backoff for faults that may pass."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from ...common.errors import HttpStatus, ProtocolViolation, RateLimited, ShoalError, TransferError
from ...common.http import Headers, parse_ratelimit, parse_retry_after
from ...common.hub_errors import is_transient
from ...common.retry import Backoff
from ...common.secrets import Secret
from .base import SourceContext

ATTEMPTS: Final = 5  # failures in a row before a server is given up
RATE_WAITS_MAX: Final = 20  # times that one request waits for a rate limit; the Hub's windows last five minutes
BACKOFF: Final = Backoff(initial_s=0.5, max_s=15.0)

Interpret = Callable[[int, Headers, float | None], ShoalError]
"""(status, headers, seconds that the headers ask to wait) -> the error that an answer of 400 and more stands for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer that is not an error."""

    status: int
    url: str  # that answered in the end; it may be signed
    headers: Headers
    body: bytes  # empty where it was not to be read
    size: int | None  # of the whole file, as Content-Range or Content-Length tell it


async def ask(
    context: SourceContext,
    url: str,
    *,
    interpret: Interpret,
    authorization: Secret | None = None,
    byte_range: tuple[int, int] | None = None,
    body_bytes_max: int = 0,
    accepted: Collection[int] = (),
) -> Reply:
    """GET ``url`` and read at most ``body_bytes_max`` bytes of body (0: leave the body alone).

    ``accepted``: error statuses that the caller takes for an answer.

    Raises what ``interpret`` makes of an error status and what `HttpClient` raises, once asking again does not help.
    """
    failures = waits = 0
    while True:
        try:
            return await _ask_once(context, url, interpret, authorization, byte_range, body_bytes_max, accepted)
        except RateLimited as error:
            waits += 1
            if waits > RATE_WAITS_MAX:
                raise
            delay_s = BACKOFF.delay_s(waits, context.rng, at_least_s=error.retry_after_s)
        except TransferError as error:
            failures += 1
            if failures >= ATTEMPTS or not _may_pass(error):
                raise
            delay_s = BACKOFF.delay_s(failures, context.rng)
        await context.sleep(delay_s)


def ordered_wait_s(headers: Headers, now_epoch_s: float) -> float | None:
    """The seconds that an answer asks to wait, by Retry-After or an exhausted RateLimit; None when it asks for none."""
    retry_after_s = parse_retry_after(headers, now_epoch_s)
    limit = parse_ratelimit(headers)
    if limit is None or limit.remaining > 0:
        return retry_after_s
    return max(limit.reset_s, retry_after_s or 0.0)


async def _ask_once(
    context: SourceContext,
    url: str,
    interpret: Interpret,
    authorization: Secret | None,
    byte_range: tuple[int, int] | None,
    body_bytes_max: int,
    accepted: Collection[int],
) -> Reply:
    async with await context.http.request(url, authorization=authorization, byte_range=byte_range) as response:
        if response.status >= 400 and response.status not in accepted:
            raise interpret(response.status, response.headers, ordered_wait_s(response.headers, context.clock()))
        size = response.content_range.total if response.content_range else response.body_length
        return Reply(
            status=response.status,
            url=response.url,
            headers=response.headers,
            body=await response.read(body_bytes_max) if body_bytes_max else b"",
            size=size,
        )


def _may_pass(error: TransferError) -> bool:
    """Whether the same request may succeed soon. What breaks the protocol would do so again."""
    if isinstance(error, HttpStatus):
        return is_transient(error.status)
    return error.retryable and not isinstance(error, ProtocolViolation)
