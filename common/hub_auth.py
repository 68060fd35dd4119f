"""Which URL may see the Hub token: only one below a configured endpoint.

An endpoint is an origin (scheme, host and port, RFC 6454) and maybe a path prefix; the token goes to URLs with the same
origin below the same prefix and nowhere else, and over plain http only to an endpoint that was configured with http.
`HttpClient` drops it when a redirect leaves the origin, so it does not reach the CDN that a resolve redirects to.
"""

from __future__ import annotations

from collections.abc import Iterable

from .errors import Refused
from .http.url import Url, parse_url
from .secrets import Secret


def authorization_for(url: str, endpoints: Iterable[str], token: Secret | None) -> Secret | None:
    """The ``Authorization`` header for ``url``: ``Bearer TOKEN``, or None without a token or where it must not go.

    Args: endpoints are the configured Hub endpoints, absolute http(s) URLs. Raises nothing: what is not a plain URL
    gets no token.
    """
    if not token or not is_below_any(url, endpoints):
        return None
    return Secret(f"Bearer {token.reveal()}")


def is_below_any(url: str, endpoints: Iterable[str]) -> bool:
    """Whether ``url`` is one of the endpoints or below one of them."""
    parsed = _parsed(url)
    return parsed is not None and any(_is_below(parsed, endpoint) for endpoint in endpoints)


def _is_below(url: Url, endpoint: str) -> bool:
    base = _parsed(endpoint)
    if base is None or url.origin != base.origin:
        return False
    prefix = base.target.partition("?")[0].rstrip("/")
    path = url.target.partition("?")[0]
    if not prefix:
        return True
    return (path == prefix or path.startswith(f"{prefix}/")) and not _climbs(path)


def _climbs(path: str) -> bool:
    """Whether a path holds dot segments, by which a server may leave a prefix; encoded ones and backslashes count."""
    for encoded, char in (("%2e", "."), ("%2f", "/"), ("%5c", "/"), ("\\", "/")):
        path = path.replace(encoded, char).replace(encoded.upper(), char)
    return any(segment in (".", "..") for segment in path.split("/"))


def _parsed(text: str) -> Url | None:
    try:
        return parse_url(text)
    except Refused:
        return None
