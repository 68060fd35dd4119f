"""Where an object can be fetched: its endpoints in order, and the signed URL that one of them redirected to. No I/O.

=================  ==================================================================================
met                then
=================  ==================================================================================
redirect           the final URL is remembered and asked directly from now on
direct URL refused it is forgotten; one request resolves again (the planner lets only one piece go)
endpoint refused   the object is asked for at the next endpoint; the first refusal counts if all refuse
endpoint is down   it rests: it is asked last for a while, for every object of the job
endpoint exhausted the same as refused
=================  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...common.errors import ShoalError, UsageError
from ...common.http.url import parse_url
from .options import ENDPOINT_REST_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A URL to ask. host is its authority, the name by which budgets know it; endpoint is the base that it belongs to, if any."""

    url: str
    host: str
    endpoint: str
    direct: bool  # asked without a redirect: what an endpoint gave us before


class Endpoints:
    """The bases that a job's paths are taken below, shared by its objects."""

    def __init__(self, bases: Sequence[str]) -> None:
        """Raises Refused for a base that is no http(s) URL."""
        self.bases = tuple(base.rstrip("/") for base in bases)
        self.hosts = {base: parse_url(base).authority for base in self.bases}
        self._rest_until_s: dict[str, float] = {}

    def rest(self, base: str, now: float) -> None:
        """The endpoint could not be reached."""
        if base:
            self._rest_until_s[base] = now + ENDPOINT_REST_S

    def in_order(self, now: float) -> list[str]:
        """The bases as they should be asked: those that rest come last."""
        if not self._rest_until_s:
            return list(self.bases)
        return sorted(self.bases, key=lambda base: self._rest_until_s.get(base, 0.0) > now)


class Location:
    """Where one object is."""

    def __init__(self, name: str, url: str, endpoints: Endpoints) -> None:
        """url: as in ObjectSpec. Raises Refused (not http), UsageError (a path, and the job has no endpoints)."""
        self._url = url
        self._endpoints = endpoints
        self._refusals: dict[str, ShoalError] = {}
        self._direct: Target | None = None
        self._absolute = not url.startswith("/")
        self._host = parse_url(url).authority if self._absolute else ""
        if not self._absolute and not endpoints.bases:
            raise UsageError(name, cause="its job names no endpoint to fetch it from")

    @property
    def located(self) -> bool:
        """Whether the final URL is known, so that several connections may ask for it at once."""
        return self._direct is not None

    def target(self, now: float) -> Target:
        """What to ask next. Raises the first refusal when nobody is left who could be asked."""
        if self._direct is not None:
            return self._direct
        if self._absolute:
            if self._refusals:
                raise self._refusals[""]
            return Target(url=self._url, host=self._host, endpoint="", direct=False)
        for base in self._endpoints.in_order(now):
            if base not in self._refusals:
                return Target(url=base + self._url, host=self._endpoints.hosts[base], endpoint=base, direct=False)
        raise next(iter(self._refusals.values()))

    def answered(self, target: Target, final_url: str) -> None:
        """The target gave a good answer at this URL, after redirects if it is another one."""
        if target.direct or (self._direct is not None and self._direct.url == final_url):
            return
        self._direct = Target(url=final_url, host=parse_url(final_url).authority, endpoint=target.endpoint, direct=True)

    def forget(self, target: Target) -> None:
        """The target is no use any more; unless somebody has resolved anew meanwhile, resolve again."""
        if self._direct is target:
            self._direct = None

    def refused(self, target: Target, error: ShoalError) -> bool:
        """The endpoint will not give the object. Returns whether another one is left to be asked."""
        self.forget(target)
        self._refusals.setdefault(target.endpoint, error)
        return not self._absolute and any(base not in self._refusals for base in self._endpoints.bases)

    def unreachable(self, target: Target, now: float) -> None:
        """No connection, or none that lasted: ask elsewhere first."""
        self.forget(target)
        self._endpoints.rest(target.endpoint, now)

    def pardon(self) -> None:
        """Forget refusals: a new attempt asks everybody again."""
        self._refusals.clear()
        self._direct = None
