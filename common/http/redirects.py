"""Which redirects are followed, and what a request may carry along. Pure."""

from __future__ import annotations

from typing import Final

from ..errors import RedirectRefused, Refused
from .message import Headers
from .url import Url, resolve_reference

FOLLOWED: Final = frozenset((301, 302, 303, 307, 308))
# Only these of a caller's headers go to another origin. Any other may be a credential: Authorization, Cookie, X-Amz-Security-Token, ...
CARRIED_ACROSS_ORIGINS: Final = frozenset(
    ("accept", "accept-encoding", "accept-language", "cache-control", "if-match", "if-modified-since", "if-none-match",
     "if-unmodified-since", "pragma", "user-agent")
)  # fmt: skip


def next_url(url: Url, headers: Headers, *, https_only: bool) -> Url:
    """Where a redirect of ``url`` leads. Raises RedirectRefused for a Location that must not be followed, Refused under https_only."""
    locations = set(headers.get_all("location"))
    if len(locations) != 1:
        raise RedirectRefused(url.label, cause="the redirect names more than one location")
    try:
        found = resolve_reference(url, locations.pop())
    except Refused as error:
        raise RedirectRefused(
            url.label, cause=f"the redirect's location cannot be used: {error.thing}: {error.cause}"
        ) from None
    if found.scheme == "http" and https_only:
        raise Refused(
            url.label,
            cause=f"it redirects to {found.label}, and only https is allowed here",
            remedy="use another mirror, or set security.https_only=false",
        )
    if found.scheme == "http" and url.scheme == "https":
        raise RedirectRefused(url.label, cause=f"it redirects from https to {found.label}, which is not encrypted")
    return found
