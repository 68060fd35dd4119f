"""Asking other agents for chunks. Addresses and capabilities come from the coordinator alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from ...common.errors import (
    AccessDenied,
    Busy,
    HttpStatus,
    NotFound,
    ProtocolViolation,
    ShoalError,
    Unauthenticated,
)
from ...common.http.ratelimit_headers import parse_retry_after
from ...common.secrets import Secret
from ...common.swarm_records import PeerAddress

if TYPE_CHECKING:
    from ...common.http import HttpClient, Response

STALL_S: Final = 10.0
"""A peer that sends nothing for so long is given up. Relays of relays wait for each other, so it is longer than a hiccup."""
CONNECT_S: Final = 5.0
CONNECTIONS_PER_PEER: Final = 8
BUSY_TRIES: Final = 2
BUSY_S_MAX: Final = 1.0
"""A peer whose slots are taken is asked again after so long at most; then the coordinator looks for another."""


class PeerClient:
    """One per worker; owns its connections, which are opened when they are needed."""

    def __init__(
        self,
        *,
        user_agent: str,
        verify_tls: bool = True,
        ca_bundle: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        stall_s: float = STALL_S,
    ) -> None:
        """ca_bundle: a file with the certificates of those who may vouch for peers; empty for the system's."""
        self._user_agent = user_agent
        self._verify_tls = verify_tls
        self._ca_bundle = ca_bundle
        self._sleep = sleep
        self._stall_s = stall_s
        self._client: HttpClient | None = None

    async def ask_object(
        self, peer: PeerAddress, job_id: str, object_id: int, span: tuple[int, int] | None
    ) -> Response:
        """Bytes [start, stop) of an object, or all of it. Raises what the answer stands for, and what the client raises."""
        byte_range = None if span is None else (span[0], span[1] - span[0])
        return await self._ask(peer, f"/v1/jobs/{job_id}/objects/{object_id}", byte_range)

    async def ask_bundle(self, peer: PeerAddress, job_id: str, chunk: int, first: int, last: int) -> Response:
        """All small files of a bundle; first and last are the ids of its objects. Raises as `ask_object`."""
        return await self._ask(peer, f"/v1/jobs/{job_id}/bundles/{chunk}?objects={first}-{last}", None)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.aclose()

    async def _ask(self, peer: PeerAddress, path: str, byte_range: tuple[int, int] | None) -> Response:
        scheme = "https" if peer.tls else "http"
        tries = 0
        while True:
            response = await self._connected().request(
                f"{scheme}://{peer.address}{path}",
                authorization=Secret(f"Bearer {peer.capability}"),
                byte_range=byte_range,
                follow_redirects=False,
            )
            if response.status == (200 if byte_range is None else 206):
                return response
            response.close()
            if response.status != 503 or tries == BUSY_TRIES:
                raise _error(peer, response.status)
            tries += 1
            asked_s = parse_retry_after(response.headers, 0.0)
            await self._sleep(min(BUSY_S_MAX, BUSY_S_MAX if asked_s is None else asked_s))

    def _connected(self) -> HttpClient:
        if self._client is None:
            from ...common.http import HttpClient, HttpLimits, TlsOptions

            self._client = HttpClient(
                limits=HttpLimits(
                    connections_per_host=CONNECTIONS_PER_PEER,
                    connect_timeout_s=CONNECT_S,
                    read_timeout_s=self._stall_s,
                ),
                user_agent=self._user_agent,
                tls=TlsOptions(verify=self._verify_tls, ca_bundle=self._ca_bundle),
            )
        return self._client


def _error(peer: PeerAddress, status: int) -> ShoalError:
    name = f"peer {peer.address}"
    if status == 404:
        return NotFound(name, cause="it does not have it")
    if status == 401:
        return Unauthenticated(name, cause="it does not take the capability")
    if status == 403:
        return AccessDenied(name, cause="its capability does not cover it")
    if status == 503:
        return Busy(name, cause="its upload slots are taken")
    if status >= 400:
        return HttpStatus(name, status=status, cause=f"it answered {status}")
    return ProtocolViolation(name, cause=f"it answered {status}")
