"""This agent's part in the exchange between peers: its port, the address that others are told, the key that they are checked with."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from ..common.channel import is_loopback, split_host
from ..common.errors import Conflict, UsageError
from ..common.logs import get_logger
from ..common.swarm_records import PeerOffer

if TYPE_CHECKING:
    import ssl

    from ..common.settings import Settings
    from .peer.certificate import PeerCertificate
    from .peer.server import PeerServer
    from .peer.stretch import Shelf

PEER_PORT: Final = 7072
_UNUSED_PORT: Final = 9  # connecting a UDP socket sends nothing: the kernel only chooses a route

log = get_logger("agent.peer")


class PeerExchange:
    """Implements ``service.Exchange``."""

    def __init__(self, settings: Settings, *, agent_id: str, wall_clock: Callable[[], float] = time.time) -> None:
        """wall_clock: seconds since the epoch, by this machine."""
        self._settings = settings
        self._agent_id = agent_id
        self._wall_clock = wall_clock
        self._key: bytes | None = None
        self._ahead_s = 0.0  # of this machine's clock, the coordinator's
        self._server: PeerServer | None = None
        self._certificate: PeerCertificate | None = None
        agent = settings.agent
        self.offer = PeerOffer(
            upload_slots=agent.upload_slots, download_slots=agent.download_slots, tls=settings.swarm.tls
        )  # fmt: skip

    @property
    def sent_bytes(self) -> int:
        """Bytes sent to peers so far."""
        return self._server.counters.sent_bytes if self._server is not None else 0

    def admitted(self, key: bytes, epoch_s: float) -> None:
        """A session stands: capabilities are signed with this key, and expire by a clock that shows epoch_s now."""
        self._key = key or None
        self._ahead_s = epoch_s - self._wall_clock() if epoch_s else 0.0

    def set_upload_rate(self, rate: float) -> None:
        """Bytes/s that are sent to peers from now on, 0 for no limit."""
        if self._server is not None:
            self._server.set_upload_rate(rate)

    def renew_certificate(self) -> None:
        """Show new connections the certificate that the files hold now. Cheap: the files are read only when they changed."""
        if self._certificate is not None:
            self._certificate.renew()

    @asynccontextmanager
    async def serving(self, shelf: Shelf) -> AsyncGenerator[None]:
        """Listen as long as the block runs. Raises UsageError for an address that is not here, Conflict for a port that is taken."""
        if not self._settings.agent.upload_slots:
            yield
            return
        server = self._new_server(shelf)
        try:
            listening = await self._listen(server)
            if listening is not None:
                self._server = server
                address = self._settings.agent.peer_address or await self._reachable(*listening)
                agent = self._settings.agent
                self.offer = PeerOffer(
                    address=address,
                    upload_slots=agent.upload_slots,
                    download_slots=agent.download_slots,
                    tls=self._settings.swarm.tls,
                )
                log.info("peer.listening", address=address)
            yield
        finally:
            await server.aclose()

    def _new_server(self, shelf: Shelf) -> PeerServer:
        from .peer.limits import PeerLimits
        from .peer.server import PeerServer

        agent = self._settings.agent
        return PeerServer(
            shelf,
            key=lambda: self._key,
            holder=self._agent_id,
            now=lambda: self._wall_clock() + self._ahead_s,
            limits=PeerLimits(upload_slots=agent.upload_slots, upload_rate=agent.upload_rate),
            tls=self._tls(),
        )

    def _tls(self) -> ssl.SSLContext | None:
        if not self._settings.swarm.tls:
            return None
        from .peer.certificate import PeerCertificate

        security = self._settings.security
        if security.tls_cert is None or security.tls_key is None:
            cause = "swarm.tls needs a certificate and its key"
            raise UsageError(
                "security.tls_cert and security.tls_key", cause=cause, remedy="set both, or swarm.tls=false"
            )
        self._certificate = PeerCertificate(security.tls_cert, security.tls_key)
        return self._certificate.context

    async def _listen(self, server: PeerServer) -> tuple[str, int] | None:
        """Where the server listens; None when nothing tells where it could."""
        if self._settings.agent.peer_listen:
            return await server.start(*split_host(self._settings.agent.peer_listen))
        if is_loopback(self._settings.coordinator.address):
            return await server.start("127.0.0.1", 0)
        host = await self._local_address()
        if host is None:
            log.warning(
                "peer.no_address", meaning="others cannot fetch from this agent", remedy="set agent.peer_listen"
            )
            return None
        try:
            return await server.start(host, PEER_PORT)
        except Conflict:
            return await server.start(host, 0)

    async def _reachable(self, host: str, port: int) -> str:
        """HOST:PORT for others; of a server on all addresses that of the way to the coordinator."""
        if ipaddress.ip_address(host).is_unspecified:
            host = await self._local_address() or socket.gethostname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _local_address(self) -> str | None:
        """The address of this machine that the coordinator sees, if there is no other translation on the way."""
        host, _port = split_host(self._settings.coordinator.address)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, _UNUSED_PORT, type=socket.SOCK_DGRAM)
            family, kind, protocol, _name, address = found[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)
                return str(probe.getsockname()[0])
        except OSError:
            return None
