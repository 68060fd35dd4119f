"""The middleware: who asks, may they, and in which words are they refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from aiohttp.typedefs import Handler

from ...common.errors import (
    AccessDenied,
    Conflict,
    NotFound,
    Refused,
    ShoalError,
    Unauthenticated,
    UnsafeName,
    UsageError,
)
from ...common.logs import get_logger
from ...common.views import Role
from . import access
from .observer import to_json
from .openapi import COOKIE, CSRF_HEADER
from .routing import UNSAFE_METHODS, problem_of, retry_after_s, status_of
from .sessions import same_text
from .site import Caller, Site

SITE = web.AppKey("site", Site)
CALLER = web.RequestKey("caller", Caller)
NEW_COOKIE = web.RequestKey("new_cookie", tuple[str, int])
PUBLIC = "shoal_public"  # attribute of handlers that need no login
OPEN_CHANGE = (
    "shoal_open_change"  # attribute of handlers that change nothing of ours: no token against cross-site requests
)

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Server": "shoal",  # else aiohttp tells its version
}
HSTS = "max-age=31536000"

log = get_logger("coordinator.web")


def caller_of(request: web.Request) -> Caller:
    """Who asks, as the middleware found out."""
    return request[CALLER]


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let the request in, or tell why not; every answer gets the headers that protect browsers."""
    site = request.app[SITE]
    try:
        _check_path(request)
        request[CALLER] = caller = identify(site, request)
        _admit(site, request, caller)
        response = await handler(request)
    except ShoalError as error:
        response = problem_response(error, status_of(error))
    except web.HTTPException as error:
        if error.status < 400:
            protect(site, request, error)
            raise
        response = _http_problem(error)
    except ConnectionError:
        raise
    except Exception as error:
        # A defect of one handler must not show its insides to whoever asks.
        log.exception("web.handler_broke", method=request.method, path=request.path)
        broken = ShoalError(request.path, cause=f"the coordinator met a {type(error).__name__}", remedy="see its log")
        response = problem_response(broken, 500)
    protect(site, request, response)
    return response


def protect(site: Site, request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that protect browsers, where they are not set and the head has not gone out."""
    if response.prepared:
        return
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    caller: Caller | None = request.get(CALLER)
    if caller is not None and caller.origin.scheme == "https":
        response.headers.setdefault("Strict-Transport-Security", HSTS)


def identify(site: Site, request: web.Request) -> Caller:
    """Who asks. Raises Refused for a Host that is not ours, Unauthenticated for a token that does not hold."""
    headers = {name.lower(): ",".join(request.headers.getall(name)) for name in request.headers}
    peer = request.remote or ""
    if len(request.headers.getall("Host", [])) > 1:
        raise Refused("Host", cause="it is given more than once")
    origin = access.origin_of(site.access, peer=peer, headers=headers)
    if not getattr(request.match_info.handler, "shoal_any_host", False):
        access.check_host(site.access, origin.host)
    authorization = request.headers.get("Authorization", "")
    if authorization:
        access.check_wire(site.access, origin, peer=peer)
        scheme, _, presented = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("Authorization", cause="it is not a Bearer token")
        token = site.tokens.check(presented.strip())
        if token.role is not Role.ADMIN:
            raise AccessDenied("token", cause=f"it has the role {token.role}", remedy="shoal token create --role admin")
        return Caller(user=token.name or token.token_id, origin=origin, admitted=True, token_id=token.token_id)
    session_id = request.cookies.get(COOKIE, "")
    session = site.sessions.find(session_id, site.now()) if session_id else None
    if session is not None and session.token_id and site.tokens.lapse(session.token_id):
        site.sessions.end(session_id)
        session = None
    if session is not None:
        access.check_wire(site.access, origin, peer=peer)
        return Caller(
            user=session.user, origin=origin, admitted=True, csrf=session.csrf, session_id=session_id, session=session
        )
    if access.must_log_in(site.access, origin):
        return Caller(user="", origin=origin, admitted=False)
    return Caller(user="", origin=origin, admitted=True, csrf=site.local_csrf)


def _admit(site: Site, request: web.Request, caller: Caller) -> None:
    handler = request.match_info.handler
    if request.method in UNSAFE_METHODS and request.match_info.http_exception is None:
        check_origin(site, request, caller)
    if request.match_info.http_exception is not None and not caller.admitted:
        return  # a path that is not there: the same answer for everybody
    if getattr(handler, PUBLIC, False):
        return
    if not caller.admitted:
        remedy = "log in, or send a token: Authorization: Bearer …"
        if not site.access.closed:
            remedy = "it came through a proxy: name that in web.trusted_proxies, set web.password_hash, and log in"
        raise Unauthenticated("request", cause="it needs a login", remedy=remedy)
    if request.method in UNSAFE_METHODS and not caller.bearer and not getattr(handler, OPEN_CHANGE, False):
        _check_csrf(request, caller)


def check_origin(site: Site, request: web.Request, caller: Caller) -> None:
    """Raise Refused where a browser says that another site's page asks. Programs with a token are no browsers."""
    if not caller.bearer:
        access.check_change(
            site.access,
            caller.origin,
            named=request.headers.get("Origin"),
            fetch_site=request.headers.get("Sec-Fetch-Site"),
        )


def _check_csrf(request: web.Request, caller: Caller) -> None:
    if request.match_info.http_exception is not None:
        return
    given = request.headers.get(CSRF_HEADER, "")
    if not given or not caller.csrf or not same_text(given, caller.csrf):
        raise Refused(
            CSRF_HEADER,
            cause="the token against cross-site requests is missing or wrong",
            remedy=f"send csrf_token of GET /api/session as {CSRF_HEADER}",
        )


def _check_path(request: web.Request) -> None:
    """Raise UnsafeName for a path that climbs, however it is written: it names nothing here, and must not reach anything."""
    raw = request.raw_path.partition("?")[0]
    plain = unquote(unquote(raw)).replace("\\", "/")
    if ".." in plain.split("/") or "\0" in plain:
        raise UnsafeName(f"path {raw[:200]!a}", cause="it holds '..' or a NUL character")


# ---- answers --------------------------------------------------------------------------------------------------------


def problem_response(error: ShoalError, status: int) -> web.Response:
    """An error as a problem document."""
    response = web.Response(
        body=to_json(problem_of(error, status)), status=status, content_type="application/problem+json"
    )
    wait_s = retry_after_s(error)
    if wait_s is not None:
        response.headers["Retry-After"] = str(math.ceil(wait_s))
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="shoal"'
    return response


def _http_problem(error: web.HTTPException) -> web.Response:
    """What aiohttp itself refuses."""
    made: ShoalError
    if error.status == 404:
        made = NotFound("path", cause="there is nothing here", remedy="GET /openapi.json lists what is")
    elif error.status == 405:
        made = Conflict("method", cause="it does not fit this path", remedy="GET /openapi.json lists what does")
    elif error.status == 413:
        made = UsageError("body", cause="it is too large", remedy="web.max_body is the limit")
    else:
        made = UsageError("request", cause=error.reason)
    response = problem_response(made, error.status)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


async def read_json(request: web.Request) -> object:
    """The body of a request. Raises UsageError, HTTPRequestEntityTooLarge, HTTPUnsupportedMediaType."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(reason="the body must be application/json")
    data = await request.read()
    try:
        return json.loads(data, parse_constant=_no_constant, object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError):
        raise UsageError("body", cause="it is not JSON") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found
