"""Starts and stops the coordinator's web side: one aiohttp application on one address."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ...common.channel import split_host
from ...common.errors import ShoalError, UsageError
from ...common.library.library import open_library
from ...common.logs import get_logger
from ...common.passwords import PasswordHash
from ...common.views import Role
from . import (
    access,
    collections_api,
    events_api,
    fleet_api,
    inspect_api,
    jobs_api,
    library_api,
    session_api,
    verify_api,
)
from .guard import OPEN_CHANGE, PUBLIC, SITE, guard, problem_response, read_json
from .library import SiteLibrary
from .observer import Observer, to_json
from .openapi import document
from .pages import add_pages
from .routing import Route, path_text, status_of
from .schema import decode, decode_query
from .sessions import LoginLimit, Sessions
from .site import Site
from .verifying import Verifications

if TYPE_CHECKING:
    from ...common.settings import Settings
    from ..planner import OpenSource
    from ..service import Coordinator

INSPECTIONS_MAX = 4
"""Sources that are listed for callers at once."""
SAMPLINGS_MAX = 2
"""Looks into Parquet files at once: each holds some megabytes."""
BODY_S = 30.0
"""How long a body may take to arrive."""
HEADER_BYTES_MAX = 16 << 10
CUT_OFF_S = 1.0
CERTIFICATE_CHECK_S = 60.0

ROUTES: tuple[Route, ...] = (
    *jobs_api.routes.table,
    *fleet_api.routes.table,
    *events_api.routes.table,
    *inspect_api.routes.table,
    *verify_api.routes.table,
    *library_api.routes.table,
    *collections_api.routes.table,
    *session_api.routes.table,
)

log = get_logger("coordinator.web")


class WebServer:
    """The web side of one coordinator. Use: ``await start()``, ``run()`` in a task, ``await stop()``, each once."""

    def __init__(self, coordinator: Coordinator, *, settings: Settings, open_source: OpenSource, version: str) -> None:
        """The coordinator has started. Raises UsageError for an address that may not be opened like this."""
        self._settings = settings
        self._tls = _tls(settings)
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()
        self.port = 0
        self.site = make_site(coordinator, settings=settings, open_source=open_source, version=version)
        self.app = make_app(self.site)

    @property
    def url(self) -> str:
        """Where the page is, once it has started."""
        host, _port = split_host(self._settings.web.listen)
        name = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{name}:{self.port}{self._settings.web.base_url}/"

    async def start(self) -> None:
        """Listen. Raises UsageError for an address that cannot be listened on."""
        await self.site.observer.tick()
        runner = web.AppRunner(
            self.app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=CUT_OFF_S,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
        )
        await runner.setup()
        self._runner = runner
        listening = _bind(self._settings.web.listen)
        self.port = listening.getsockname()[1]
        await web.SockSite(runner, listening, ssl_context=self._tls).start()
        log.info("web.started", url=self.url, login=self.site.access.closed)

    async def run(self) -> None:
        """Keep what is shown up to date, until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(self.site.observer.run()),
                tasks.create_task(self.site.verifications.run()),
                tasks.create_task(self._renew()),
            ]
            await self._stopping.wait()
            for task in work:
                task.cancel()

    async def stop(self) -> None:
        """End streams and connections. Safe to call if `start` failed."""
        self._stopping.set()
        self.site.observer.feed.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _renew(self) -> None:
        """Read certificate files again when they change: renewal needs no restart."""
        paths = _certificate(self._settings)
        if paths is None or self._tls is None:
            return
        seen = _stamp(paths)
        while True:
            await asyncio.sleep(CERTIFICATE_CHECK_S)
            stamp = _stamp(paths)
            if stamp == seen:
                continue
            seen = stamp
            try:
                self._tls.load_cert_chain(*paths)
            except (ssl.SSLError, OSError) as error:
                log.warning("web.certificate_refused", error=str(error))
            else:
                log.info("web.certificate_renewed", file=str(paths[0]))


def make_site(coordinator: Coordinator, *, settings: Settings, open_source: OpenSource, version: str) -> Site:
    """What the handlers stand on. Raises UsageError for settings that would let anybody in."""
    chosen = settings.web
    stored = chosen.password_hash.resolve()
    password = PasswordHash(stored.reveal()) if stored is not None else None
    admins = any(token.role is Role.ADMIN for token in coordinator.tokens.list())
    rules = access.rules(
        listen=chosen.listen,
        login=chosen.login,
        insecure=settings.security.insecure,
        has_tls=_certificate(settings) is not None,
        has_credential=password is not None or admins,
        trusted_proxies=chosen.trusted_proxies,
        allowed_hosts=chosen.allowed_hosts,
        allowed_origins=chosen.allowed_origins,
        machine=socket.gethostname(),
    )
    observer = Observer(coordinator, wall_clock=time.time)
    library = SiteLibrary(
        open_library(settings),
        api=coordinator,
        open_source=open_source,
        settings=settings,
        jobs_ended=lambda: observer.jobs_ended,
    )
    site = Site(
        api=coordinator,
        observer=observer,
        settings=settings,
        access=rules,
        sessions=Sessions(life_s=chosen.session_life),
        limit=LoginLimit(time.monotonic()),
        tokens=coordinator.tokens,
        password=password,
        open_source=open_source,
        version=version,
        now=time.monotonic,
        local_csrf=hmac.digest(secrets.token_bytes(32), b"csrf", hashlib.sha256).hex(),
        library=library,
        verifications=Verifications(),
        checking=asyncio.Semaphore(1),
        inspecting=asyncio.Semaphore(INSPECTIONS_MAX),
        sampling=asyncio.Semaphore(SAMPLINGS_MAX),
    )
    site.document = document(ROUTES, version=version, base_url=chosen.base_url, closed=rules.closed)
    return site


def make_app(site: Site) -> web.Application:
    """The application: the API, its description, the pages."""
    app = web.Application(middlewares=[guard], client_max_size=site.settings.web.max_body)
    app[SITE] = site
    base_url = site.base_url
    for route in ROUTES:
        path = "".join(f"{{{part[1:-1]}:[^/]+}}" if part.startswith("{") else part for part in _parts(route.path))
        app.router.add_route(route.method, base_url + path, _adapt(site, route))
    app.router.add_route("GET", f"{base_url}/openapi.json", _openapi)
    add_pages(app, site)
    return app


def _parts(path: str) -> list[str]:
    parts: list[str] = []
    for piece in path.split("/")[1:]:
        parts += ["/", piece]
    return parts


async def _openapi(request: web.Request) -> web.Response:
    return web.Response(body=to_json(request.app[SITE].document), content_type="application/json")


def _adapt(site: Site, route: Route) -> Any:
    """A handler of the API as aiohttp calls it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        given: dict[str, object] = {name: path_text(name, request.match_info[name]) for name in route.path_names}
        if route.query is not None:
            given["query"] = decode_query(route.query, list(request.query.items()))
        if route.body is not None:
            try:
                async with asyncio.timeout(BODY_S):
                    document = await read_json(request)
            except TimeoutError:
                raise UsageError("body", cause="it took too long to arrive") from None
            given["body"] = decode(route.body, document)
        if route.wants_request:
            given["request"] = request
        try:
            answer = await route.handler(site, **given)
        except ShoalError as error:
            return problem_response(error, status_of(error, understood=True, asked_origin=route.asks_origin))
        if isinstance(answer, web.StreamResponse):
            return answer
        if route.status == 204:
            response = web.Response(status=204)
        else:
            body = answer if isinstance(answer, bytes) else to_json(answer)
            response = web.Response(body=body, status=route.status, content_type=route.content_type.partition(";")[0])
        session_api.set_cookie(site, request, response)
        return response

    setattr(handle, PUBLIC, route.public)
    setattr(handle, OPEN_CHANGE, not route.csrf)
    handle.__name__ = route.operation_id
    return handle


def _bind(listen: str) -> socket.socket:
    host, port = split_host(listen)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UsageError(
            f"web.listen {listen}",
            cause=f"it cannot be listened on: {os.strerror(error.errno) if error.errno else error}",
            remedy="stop the other program, or choose another address",
        ) from None


# ---- certificates ---------------------------------------------------------------------------------------------------


def _certificate(settings: Settings) -> tuple[Path, Path] | None:
    """Certificate and key of the page: its own, else the fleet's."""
    for section in (settings.web, settings.security):
        if section.tls_cert is not None and section.tls_key is not None:
            return section.tls_cert, section.tls_key
    return None


def _tls(settings: Settings) -> ssl.SSLContext | None:
    paths = _certificate(settings)
    if paths is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(*paths, password="")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise UsageError(
            f"web.tls_cert {paths[0]}", cause=f"it is not a PEM certificate with its key: {reason}"
        ) from None
    return context


def _stamp(paths: tuple[Path, Path]) -> object:
    found: list[tuple[int, int, int]] = []
    with contextlib.suppress(OSError):
        for path in paths:
            stat = path.stat()
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return found
