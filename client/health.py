"""``shoal health``: does a daemon on this machine do its work? For health checks of containers and service managers.

The coordinator is asked for ``/healthz`` of its page where it serves one, else by gRPC's health protocol; an agent for anything
at its peer port. The daemon's own event loop has to answer, so that one that is stuck is noticed.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..common.errors import ExitCode, Unreachable
from .running import run

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings

TIMEOUT_S = 5.0
WEB_LISTEN, PEER_LISTEN = "127.0.0.1:7071", "127.0.0.1:7072"
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def health(options: argparse.Namespace, settings: Settings) -> int:
    """Ask. Returns 0. Raises Unreachable when it does not answer, or says that it is not well."""
    if options.daemon == "agent":
        _expect(settings.agent.peer_listen or PEER_LISTEN, "/", tls=settings.swarm.tls, is_well=lambda status: True)
    elif settings.web.listen or options.daemon == "up":
        tls = bool(settings.web.tls_cert or settings.security.tls_cert)
        path = f"{settings.web.base_url}/healthz"
        _expect(settings.web.listen or WEB_LISTEN, path, tls=tls, is_well=lambda status: status == 200)
    else:
        run(_ask_grpc(settings))
    if options.json:
        print(json.dumps({"daemon": options.daemon, "healthy": True}))
    else:
        print("healthy", file=sys.stderr)
    return ExitCode.OK


def _expect(address: str, path: str, *, tls: bool, is_well: Callable[[int], bool]) -> None:
    from ..common.channel import split_host

    host, port = split_host(address)
    host = _ANY_HOST.get(host, host)
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False  # whether its certificate is for this name is not what is asked
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(address, cause=f"it does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if not is_well(status):
        raise Unreachable(f"{address}{path}", cause=f"it answers {status}")


async def _ask_grpc(settings: Settings) -> None:
    import grpc.aio
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from ..common.channel import open_channel, split_host

    address = settings.coordinator.address
    if not address:
        host, port = split_host(settings.coordinator.listen)
        host = _ANY_HOST.get(host, host)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    async with asyncio.timeout(2 * TIMEOUT_S), open_channel(address, settings.security) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise Unreachable(address, cause=f"it does not answer: {error.details()}") from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unreachable(address, cause="it says that it does not serve")
