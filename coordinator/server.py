"""The coordinator's gRPC server: services, health, reflection, credentials, and an end that leaves nobody hanging.

Stopping, in this order: health says NOT_SERVING; agents are told to come back, and their sessions end; what is left after the grace
is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shoal.v1 import (
    fleet_admin_service_pb2,
    fleet_admin_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
)

from ..common.channel import SERVER_OPTIONS, read_pem, split_host
from ..common.errors import UsageError
from ..common.logs import get_logger
from ..common.settings_table import SecuritySettings
from .activation import Relay, address_of
from .admin_service import FleetAdminService
from .api import CoordinatorApi
from .auth import Gate, must_authenticate
from .calls import Calls
from .fleet_service import FleetService
from .identities import IdentityBook
from .job_service import JobService
from .tokens import TokenBook

CUT_OFF_S = 1.0
"""What calls get to end by themselves after the grace."""

SERVICES = (
    fleet_service_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name,
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
    fleet_admin_service_pb2.DESCRIPTOR.services_by_name["FleetAdminService"].full_name,
)

log = get_logger("coordinator.server")


class CoordinatorServer:
    """Serves a coordinator on one address. Use: ``await start()``, then ``await stop(...)``, each once, on one event loop."""

    def __init__(
        self,
        api: CoordinatorApi,
        *,
        listen: str,
        security: SecuritySettings,
        tokens: TokenBook,
        identities: IdentityBook | None = None,
        listeners: Sequence[socket.socket] = (),
    ) -> None:
        """Args: listen (HOST:PORT, where port 0 is a free one); identities of agents, none unless given;
        listeners, sockets of systemd's that are served instead of listen, and closed in the end.

        Raises UsageError if this address may not be opened like this."""
        self._security = security
        self._relay: Relay | None = None
        self._listeners = listeners
        addresses = [address_of(listener) for listener in listeners] if listeners else [listen]
        self._listen = next(filter(None, addresses), "localhost:0")
        closed = [must_authenticate(address, security) for address in addresses if address]
        self._calls = Calls(Gate(closed=any(closed), tokens=tokens))
        tokens.watch(self._calls.recheck_now)
        self._fleet = FleetService(api, identities)
        self._jobs = JobService(api)
        self._admin = FleetAdminService(api, tokens)
        self._health = cast("Any", health).aio.HealthServicer()  # the stubs lack it
        self._server: grpc.aio.Server | None = None
        self._recheck: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """HOST:PORT where it listens, once it has started."""
        host, _port = split_host(self._listen)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises UsageError for an address, certificate or key that cannot be used."""
        server = grpc.aio.server(interceptors=[self._calls], options=SERVER_OPTIONS)
        fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(self._fleet, server)
        job_service_pb2_grpc.add_JobServiceServicer_to_server(self._jobs, server)
        fleet_admin_service_pb2_grpc.add_FleetAdminServiceServicer_to_server(self._admin, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        if self._listeners:
            self._relay = Relay(self._listeners, os.environ)
        self.port = self._bind(server, f"unix:{self._relay.path}" if self._relay else self._listen)
        await server.start()
        self._server = server
        if self._relay is not None:
            self.port = split_host(self._listen)[1]
            await self._relay.start()
        self._recheck = asyncio.create_task(self._calls.recheck())
        for name in ("", *SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info(
            "server.started",
            address=self.address,
            tls=self._security.tls_cert is not None,
            activated=len(self._listeners),
        )

    def recheck_credentials(self) -> None:
        """End the streams whose credential was revoked or has expired, now instead of within RECHECK_S."""
        self._calls.recheck_now()

    async def stop(self, grace_s: float) -> None:
        """Stop. Sessions have so many seconds to end in order, of which they need none unless an agent is stuck. Safe to call if
        `start` failed."""
        server, self._server = self._server, None
        if server is None:
            if self._relay is not None:
                await self._relay.stop()
            return
        await self._health.enter_graceful_shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._fleet.drain("the coordinator stops")
        if self._recheck is not None:
            self._recheck.cancel()
            await asyncio.gather(self._recheck, return_exceptions=True)
        await server.stop(CUT_OFF_S)
        if self._relay is not None:
            await self._relay.stop()
        log.info("server.stopped", address=self.address)

    def _bind(self, server: grpc.aio.Server, address: str) -> int:
        try:
            if self._security.tls_cert is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, server_credentials(self._security))
        except RuntimeError:
            raise UsageError(
                f"coordinator.listen {self._listen}",
                cause=f"it cannot be listened on: {_why_not_bound(self._listen)}",
                remedy="stop the other program, or choose another address",
            ) from None


def _why_not_bound(listen: str) -> str:
    """gRPC does not say why, so ask the system the same question."""
    host, port = split_host(listen)
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return "gRPC refuses it"


# ---- certificates ---------------------------------------------------------------------------------------------------


class CertificateFiles:
    """The server's certificate files, read again when they change: renewal needs no restart."""

    def __init__(self, security: SecuritySettings) -> None:
        """Raises UsageError for files that cannot be used."""
        self._security = security
        self._seen: object = self._stamp()
        self.first = self._load()

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold now, None if that is what it was. gRPC calls this for each handshake, on a thread of its own.

        Files that cannot be used, half written ones for instance, are left alone until they change again.
        """
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return None
            self._seen = stamp
            configuration = self._load()
        except (OSError, UsageError) as error:
            log.warning("certificate.refused", error=str(error))
            return None
        log.info("certificate.renewed", file=str(self._security.tls_cert))
        return configuration

    def _paths(self) -> tuple[tuple[Path, str], ...]:
        named = (
            (self._security.tls_cert, "security.tls_cert"),
            (self._security.tls_key, "security.tls_key"),
            (self._security.client_ca, "security.client_ca"),
        )
        return tuple((path, setting) for path, setting in named if path is not None)

    def _stamp(self) -> object:
        stats = [path.stat() for path, _setting in self._paths() if path.exists()]
        return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]

    def _load(self) -> grpc.ServerCertificateConfiguration:
        cert, key, client_ca = self._security.tls_cert, self._security.tls_key, self._security.client_ca
        if cert is None or key is None:
            raise UsageError("security.tls_cert and security.tls_key", cause="one is set without the other")
        pems = {setting: read_pem(path, setting) for path, setting in self._paths()}
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            cause = f"it is not a PEM certificate with its key {key}: {reason}"
            raise UsageError(f"security.tls_cert {cert}", cause=cause) from None
        pair = (pems["security.tls_key"], pems["security.tls_cert"])
        return grpc.ssl_server_certificate_configuration(
            [pair], root_certificates=pems["security.client_ca"] if client_ca else None
        )


def server_credentials(security: SecuritySettings) -> grpc.ServerCredentials:
    """TLS with the files that are configured; with client_ca every client must show a certificate. Raises UsageError."""
    files = CertificateFiles(security)
    return grpc.dynamic_ssl_server_credentials(
        files.first, cast("Any", files.changed), require_client_authentication=security.client_ca is not None
    )
