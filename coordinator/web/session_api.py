"""Logging in and out."""

from __future__ import annotations

import asyncio

from aiohttp import web

from ...common.errors import AccessDenied, RateLimited, ShoalError, Unauthenticated, UsageError
from ...common.logs import get_logger
from ...common.passwords import PasswordHash
from ...common.views import Role
from .access import check_wire, limit_key
from .guard import NEW_COOKIE, caller_of
from .models import LoginBody, SessionState
from .openapi import COOKIE
from .routing import Routes
from .sessions import WebSession, same_text
from .site import Site

routes = Routes("session")

log = get_logger("coordinator.web")


@routes.get("/api/session", summary="Who asks, and the token against cross-site requests", public=True)
async def get_session(site: Site, *, request: web.Request) -> SessionState:
    """Needs no login. csrf_token goes into the header X-CSRF-Token of every request that changes something."""
    caller = caller_of(request)
    return _state(site, user=caller.user, admitted=caller.admitted, csrf=caller.csrf, session=caller.session)


@routes.post("/api/login", summary="Log in", public=True, csrf=False, errors=(400, 401, 403, 429))
async def log_in(site: Site, *, request: web.Request, body: LoginBody) -> SessionState:
    """Sets the session's cookie. Wrong tries are limited by address, and in all."""
    caller = caller_of(request)
    check_wire(site.access, caller.origin, peer=request.remote or "")
    address = limit_key(caller.origin.address)
    wait_s = site.limit.take(address, site.now())
    if wait_s > 0:
        raise RateLimited(
            "login", retry_after_s=wait_s, cause="there were too many wrong tries", remedy="wait, then try again"
        )
    try:
        user, token_id = await _check(site, body)
    except ShoalError:
        log.warning("web.login_refused", address=caller.origin.address)
        raise
    site.limit.right(address)
    if caller.session_id:
        site.sessions.end(caller.session_id)
    session_id, session = site.sessions.begin(user, site.now(), token_id=token_id)
    log.info("web.login", address=caller.origin.address, user=user)
    request[NEW_COOKIE] = (session_id, int(site.sessions.life_s))
    return _state(site, user=user, admitted=True, csrf=session.csrf, session=session)


async def _check(site: Site, body: LoginBody) -> tuple[str, str]:
    """The user, and the id of the token if it was one. Raises Unauthenticated, AccessDenied, UsageError."""
    if body.token:
        token = site.tokens.check(body.token.strip())
        if token.role is not Role.ADMIN:
            raise AccessDenied("token", cause="it is an agent's", remedy="shoal token create --role admin")
        return token.name or token.token_id, token.token_id
    if not body.user or not body.password:
        raise UsageError("body", cause="it holds neither a token nor a user with a password")
    known = same_text(body.user, site.settings.web.user) and site.password is not None
    async with site.checking:
        # A user who is not known takes as long as one who is.
        right = await asyncio.to_thread((site.password or _nobody()).matches, body.password)
    if not (known and right):
        raise Unauthenticated(
            "login", cause="user or password is wrong", remedy="shoal web password makes another hash"
        )
    return body.user, ""


def _nobody() -> PasswordHash:
    return PasswordHash("scrypt$15$8$3$AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")


@routes.post("/api/logout", summary="Log out", status=204)
async def log_out(site: Site, *, request: web.Request) -> None:
    """Ends the session and takes its cookie back."""
    site.sessions.end(caller_of(request).session_id)
    request[NEW_COOKIE] = ("", 0)


def set_cookie(site: Site, request: web.Request, response: web.StreamResponse) -> None:
    """Give the browser the session that a handler began, or take it back."""
    if NEW_COOKIE in request:
        session_id, life_s = request[NEW_COOKIE]
        response.set_cookie(
            COOKIE,
            session_id,
            max_age=life_s,
            path=site.base_url or "/",
            httponly=True,
            samesite="Strict",
            secure=caller_of(request).origin.scheme == "https",
        )


def _state(site: Site, *, user: str, admitted: bool, csrf: str, session: WebSession | None) -> SessionState:
    left_s = session.ends_at - site.now() if session is not None else None
    return SessionState(
        user=user,
        login_required=not admitted,
        csrf_token=csrf,
        version=site.version,
        base_url=site.base_url,
        left_s=left_s,
    )
