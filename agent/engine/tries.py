"""What to do after a failed try of a piece. Pure; the random generator is passed in.

=================================  ===================================================================
failure                            then
=================================  ===================================================================
the server asks to wait            wait, as long as it takes; never counted
an old signed URL is refused       resolve again at once
a fresh signed URL is refused      resolve again with backoff, a few times
a store refuses our signature      again with a fresh one, once
nonsense (`ProtocolViolation`)     again with backoff, a few times
reset, timeout, cut body, 5xx      again with backoff, ``transient_retries`` times
anything else, or one time too     ask the next endpoint from the start; when there is none, it stays
many
=================================  ===================================================================

Every byte that comes forgives what failed before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...common.errors import (
    AccessDenied,
    ConnectFailed,
    HttpStatus,
    ProtocolViolation,
    RateLimited,
    ShoalError,
    TimedOut,
    TransferError,
)
from ...common.hub_errors import is_transient
from .options import RESOLVES_MAX

if TYPE_CHECKING:
    import random

    from ...common.retry import Backoff
    from ..throttle import Throttle
    from .locations import Location, Target

_VIOLATIONS_MAX: Final = 2  # nonsense is not weather: it is asked for again, but not for long

_SIGNATURES_MAX: Final = 1  # refusals: the first signature may have ended, a fresh one has not

_OLD_URLS_MAX: Final = 50  # in a row; where a URL is good for one request, the others find it used up each time


class SignedUrlRefused(TransferError):
    """The URL that the server redirected to is no longer good."""

    def __init__(self, thing: str, *, cause: str, target: Target) -> None:
        super().__init__(thing, cause=cause)
        self.target = target  # that was asked: an old URL if it is a direct one, else one fresh from a redirect


class SignatureRefused(TransferError):
    """The store refuses the URL that the coordinator has signed."""


class Tries:
    """Counts one piece's failures in a row, and says what to do after each."""

    def __init__(self, *, transient_retries: int, backoff: Backoff, throttle: Throttle, rng: random.Random) -> None:
        self._transient_retries = transient_retries
        self._backoff = backoff
        self._throttle = throttle
        self._rng = rng
        self.progress()

    def progress(self) -> None:
        """Bytes have come: what failed before is forgiven."""
        self._failures = self._violations = self._resolves = self._old_urls = self._throttles = self._signatures = 0

    def after(self, error: ShoalError, location: Location, target: Target | None, now: float) -> float | None:
        """Seconds to wait before the next try; None when the error stays. target: that was asked, if it came to that."""
        if target is None:
            return None
        if isinstance(error, RateLimited):
            return self._throttled(error, target, now)
        if isinstance(error, SignedUrlRefused):
            return self._refused(error, location)
        if isinstance(error, SignatureRefused):
            self._signatures += 1
            return 0.0 if self._signatures <= _SIGNATURES_MAX else None
        if isinstance(error, ProtocolViolation):
            self._violations += 1
            if self._violations <= _VIOLATIONS_MAX:
                return self._backoff.delay_s(self._violations, self._rng)
        elif _is_transient(error):
            self._failures += 1
            if not isinstance(error, HttpStatus):
                self._throttle.failed(target.host)
            if isinstance(error, ConnectFailed | TimedOut):
                location.unreachable(target, now)
            if self._failures <= self._transient_retries:
                return self._backoff.delay_s(self._failures, self._rng)
        self.progress()
        return 0.0 if location.refused(target, error) else None

    def _throttled(self, error: RateLimited, target: Target, now: float) -> float:
        if error.retry_after_s > 0:
            # The throttle waits for the host that was asked, but not for one that it redirected to.
            asked_s = 0.0 if self._throttle.blocked_s(target.host, now) > 0 else error.retry_after_s
            return asked_s + self._rng.uniform(0.0, self._backoff.initial_s)  # spreads those who waited together
        self._throttles += 1
        return self._backoff.delay_s(self._throttles, self._rng)

    def _refused(self, error: SignedUrlRefused, location: Location) -> float | None:
        location.forget(error.target)
        if error.target.direct:
            self._old_urls += 1
            return 0.0 if self._old_urls <= _OLD_URLS_MAX else None
        self._resolves += 1
        return self._backoff.delay_s(self._resolves, self._rng) if self._resolves <= RESOLVES_MAX else None


def for_the_report(error: ShoalError) -> ShoalError:
    """The error as others know it."""
    if isinstance(error, SignedUrlRefused):
        return AccessDenied(
            error.thing, cause=error.cause, remedy="look whether the host serves this file to this machine at all"
        )
    if isinstance(error, SignatureRefused):
        remedy = "check the rights and keys of the job's profile, and the coordinator's clock"
        return AccessDenied(error.thing, cause=error.cause, remedy=remedy)
    return error


def _is_transient(error: ShoalError) -> bool:
    if isinstance(error, HttpStatus):
        return is_transient(error.status)
    return isinstance(error, TransferError) and error.retryable
