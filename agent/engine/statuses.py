"""What an answer with an error status means for a fetch. Pure.

Statuses of the Hub's own endpoints are read by `common.hub_errors`. A status from the host that an endpoint redirected to
says nothing of the repo: there 401, 403, 404 and 410 mean that the signed URL is no longer good.
"""

from __future__ import annotations

from ...common.errors import AccessDenied, HttpStatus, NotFound, RateLimited, ShoalError
from ...common.http.message import Headers
from ...common.http.ratelimit_headers import parse_ratelimit, parse_retry_after
from ...common.hub_errors import HubSubject, hub_error

REFUSALS = frozenset({401, 403, 404, 410, 451})


def wait_asked_s(status: int, headers: Headers, now_epoch_s: float) -> float | None:
    """Seconds that the answer asks to stay away; None when it asks for nothing. now_epoch_s: wall clock, for dates."""
    if status not in (429, 503):
        return None
    wait_s = parse_retry_after(headers, now_epoch_s)
    limit = parse_ratelimit(headers)
    if limit is not None and limit.remaining == 0:
        wait_s = max(wait_s or 0.0, limit.reset_s)
    if wait_s is None and status == 429:
        return 0.0
    return wait_s


def status_error(
    name: str, status: int, headers: Headers, *, host: str, subject: HubSubject | None, wait_s: float | None
) -> ShoalError:
    """The error for an answer with a status of 400 or more.

    name: of the object; host: that answered; subject: what was asked of the Hub, if its own endpoint answered; wait_s: from
    wait_asked_s.
    """
    if subject is not None:
        return hub_error(subject, status, headers, retry_after_s=wait_s)
    if wait_s is not None:
        return RateLimited(name, retry_after_s=wait_s)
    if status in (404, 410):
        return NotFound(name, cause=f"{host} answered {status}", remedy="check the URL")
    if status in (401, 403, 451):
        return AccessDenied(name, cause=f"{host} answered {status}")
    return HttpStatus(name, status=status, cause=f"{host} answered {status}")
