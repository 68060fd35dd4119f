"""What the web side refuses: other sites' pages, other names, wrong logins, paths that climb."""

from __future__ import annotations

import asyncio
import datetime
import io
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shoal.common.errors import UsageError
from shoal.common.views import Role
from shoal.coordinator.web.routing import Route
from shoal.coordinator.web.server import ROUTES
from shoal.coordinator.web.sessions import TRIES_PER_ADDRESS
from support.tls import make_certificate
from support.web import PASSWORD, PASSWORD_HASH, WebSite, web_site

ALWAYS = {"web.login": "always", "web.password_hash": PASSWORD_HASH}
PROXIED = {
    "web.trusted_proxies": "127.0.0.1",
    "web.password_hash": PASSWORD_HASH,
    "web.allowed_hosts": "models.example",
}
CHANGES = [route for route in ROUTES if route.method == "POST"]
CLIMBS = (
    "..%2F..%2Fetc%2Fpasswd",
    "..%252F..%252Fetc",
    "..%5C..%5Cetc",
    "%2e%2e%2fetc",
    "a%2F..%2Fb",
    "..",
    "%00",
    "a%0Ab",
)


def title_of(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[WebSite]:
    async with web_site(tmp_path) as made:
        yield made


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[WebSite]:
    async with web_site(tmp_path, ALWAYS) as made:
        yield made


async def raw(
    site: WebSite, target: str, *, method: str = "GET", headers: dict[str, str] | None = None, body: bytes = b""
):
    """A request whose target no client tidies up. Returns status and document."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
    lines = {"Host": f"127.0.0.1:{site.server.port}", "Connection": "close", "Content-Length": str(len(body))}
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in {**lines, **(headers or {})}.items())
    writer.write(head.encode() + b"\r\n" + body)
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    top, _, rest = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), rest


# ---- other sites' pages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", CHANGES, ids=title_of)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
async def test_another_sites_page_changes_nothing(site: WebSite, route: Route, headers: dict[str, str]) -> None:
    path = route.path.replace("{", "").replace("}", "")
    async with site.client() as http:
        token = await site.csrf(http)
        async with http.post(f"{site.url}{path}", json={}, headers={**token, **headers}) as answer:
            assert (answer.status, (await answer.json())["code"]) == (403, "refused")
            assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("route", [route for route in CHANGES if route.csrf], ids=title_of)
@pytest.mark.parametrize("token", [None, "", "guessed"])
async def test_a_change_needs_the_token(site: WebSite, route: Route, token: str | None) -> None:
    path = route.path.replace("{", "").replace("}", "")
    headers = {} if token is None else {"X-CSRF-Token": token}
    async with site.client() as http, http.post(f"{site.url}{path}", json={}, headers=headers) as answer:
        assert answer.status == 403
        assert "X-CSRF-Token" in (await answer.json())["detail"]


@pytest.mark.parametrize("route", [route for route in ROUTES if "{" not in route.path], ids=title_of)
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "a b"])
async def test_a_name_that_was_rebound_to_us_is_refused(site: WebSite, route: Route, host: str) -> None:
    status, body = await raw(site, route.path, method=route.method, headers={"Host": host})
    if host == "a b":
        assert status in (400, 403)
    else:
        assert (status, json.loads(body)["code"]) == (403, "refused")


async def test_our_own_names_are_taken(site: WebSite) -> None:
    for host in (
        f"localhost:{site.server.port}",
        "LOCALHOST.",
        "127.0.0.1",
        "[::1]:80",
        "192.0.2.1",
        socket.gethostname(),
    ):
        assert (await raw(site, "/api/status", headers={"Host": host}))[0] == 200, host


async def test_our_own_page_makes_changes(site: WebSite) -> None:
    async with site.client() as http:
        headers = {**await site.csrf(http), "Origin": site.origin, "Sec-Fetch-Site": "same-origin"}
        wanted = {"uris": ["hf://acme/tiny"], "destination": "/data"}
        async with http.post(f"{site.url}/download", json=wanted, headers=headers) as answer:
            assert answer.status == 202


# ---- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("climb", CLIMBS)
async def test_no_parameter_of_a_path_climbs(site: WebSite, climb: str) -> None:
    token = site.server.site.local_csrf
    for route in ROUTES:
        for name in route.path_names:
            path = route.path.replace(f"{{{name}}}", climb).replace("{", "").replace("}", "")
            headers = {"X-CSRF-Token": token, "Content-Type": "application/json"}
            status, body = await raw(site, path, method=route.method, headers=headers, body=b"{}")
            assert status in (400, 403), (path, body)
            assert b"root:" not in body


@pytest.mark.parametrize(
    "climb", ["../../../pyproject.toml", "..%2f..%2fserver.py", "%2e%2e/%2e%2e/server.py", "....//x", "/etc/passwd"]
)
async def test_static_files_are_those_of_the_page(site: WebSite, climb: str) -> None:
    status, body = await raw(site, f"/static/{climb}")
    assert status in (400, 403, 404)
    assert b"import" not in body and b"root:" not in body


@pytest.mark.parametrize(
    ("destination", "status"),
    [
        ("/data/ok", 202),
        ("/data", 202),
        ("/data/../etc", 422),
        ("/data2", 403),
        ("/etc", 403),
        ("relative", 422),
        ("hf-cache", 403),
        ("", 403),
        ("/data/\u202e", 422),
        ("s3://bucket/x", 403),
    ],
)
async def test_downloads_go_only_where_they_may(tmp_path: Path, destination: str, status: int) -> None:
    async with web_site(tmp_path, {"web.destinations": "/data", "hub.offline": True}) as site, site.client() as http:
        body = {"uris": ["acme/tiny"], "destination": destination}
        async with http.post(f"{site.url}/download", json=body, headers=await site.csrf(http)) as answer:
            assert answer.status == status, await answer.text()
        async with http.get(f"{site.url}/api/space", params={"destination": destination}) as answer:
            assert answer.status == (200 if status == 202 else status)


async def test_local_files_are_no_sources_unless_they_may_be(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.txt").write_text("a")
    (tmp_path / "open" / "link").symlink_to("/etc")
    async with web_site(tmp_path, {"web.file_sources": str(tmp_path / "open")}) as site, site.client() as http:
        for path, status in (
            (tmp_path / "open", 200),
            (tmp_path, 403),
            (Path("/etc"), 403),
            (tmp_path / "open/link", 403),
        ):
            async with http.get(f"{site.url}/api/inspect", params={"uri": f"file://{path}"}) as answer:
                assert answer.status == status, (path, await answer.text())


# ---- logging in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.public], ids=title_of)
async def test_without_a_login_there_is_nothing(closed: WebSite, route: Route) -> None:
    path = route.path.replace("{", "").replace("}", "")
    async with closed.client() as http, http.request(route.method, f"{closed.url}{path}") as answer:
        assert (answer.status, (await answer.json())["code"]) == (401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_what_needs_no_login_tells_no_secrets(closed: WebSite) -> None:
    async with closed.client() as http:
        async with http.get(f"{closed.url}/healthz") as answer:
            assert await answer.json() == {"status": "ok"}
        async with http.get(f"{closed.url}/api/session") as answer:
            session = await answer.json()
            assert session["login_required"] and not session["csrf_token"] and not session["user"]
        async with http.get(f"{closed.url}/") as answer:
            assert answer.status == 200


async def test_a_login_opens_everything_until_it_ends(closed: WebSite) -> None:
    async with closed.client() as http:
        async with http.post(f"{closed.url}/api/login", json={"user": "admin", "password": PASSWORD}) as answer:
            session = await answer.json()
            assert answer.status == 200
            cookie = answer.headers["Set-Cookie"]
            assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/"))
            assert "Secure" not in cookie  # it came over http; test_nginx looks at https
        async with http.get(f"{closed.url}/api/status") as answer:
            assert answer.status == 200
        async with http.post(f"{closed.url}/api/agents/x/drain") as answer:
            assert answer.status == 403  # a cookie alone changes nothing
        token = {"X-CSRF-Token": session["csrf_token"]}
        async with http.post(f"{closed.url}/api/agents/x/drain", headers=token) as answer:
            assert answer.status == 404
        async with http.post(f"{closed.url}/api/logout", headers=token) as answer:
            assert answer.status == 204
        async with http.get(f"{closed.url}/api/status") as answer:
            assert answer.status == 401


async def test_sessions_do_not_share_tokens(closed: WebSite) -> None:
    tokens: list[str] = []
    async with closed.client() as one, closed.client() as two:
        for http in (one, two):
            async with http.post(f"{closed.url}/api/login", json={"user": "admin", "password": PASSWORD}) as answer:
                tokens.append((await answer.json())["csrf_token"])
        async with one.post(f"{closed.url}/api/logout", headers={"X-CSRF-Token": tokens[1]}) as answer:
            assert answer.status == 403


async def test_admin_tokens_are_logins_and_agents_are_none(closed: WebSite) -> None:
    admin = await closed.coordinator.tokens.create(Role.ADMIN, "eve", None)
    agent = await closed.coordinator.tokens.create(Role.AGENT, "a1", None)
    cases: list[tuple[str, int]] = [
        (f"Bearer {admin.token.reveal()}", 200),
        (f"Bearer {agent.token.reveal()}", 403),
        ("Bearer shoal_admin_0_0", 401),
        ("Basic YTpi", 401),
        ("Bearer", 401),
    ]
    async with closed.client() as http:
        for authorization, status in cases:
            async with http.get(f"{closed.url}/api/status", headers={"Authorization": authorization}) as answer:
                assert answer.status == status, authorization
        bearer = {"Authorization": cases[0][0]}
        async with http.post(f"{closed.url}/api/agents/x/drain", headers=bearer) as answer:
            assert answer.status == 404  # no token against cross-site requests: no browser sends this by itself
        async with http.post(f"{closed.url}/api/login", json={"token": admin.token.reveal()}) as answer:
            assert answer.status == 200
        async with http.get(f"{closed.url}/api/session") as answer:
            assert (await answer.json())["user"] == "eve"
        await closed.coordinator.tokens.revoke(admin.view.token_id)
        async with http.get(f"{closed.url}/api/status") as answer:
            assert answer.status == 401  # the session ended with its token


async def test_guessing_is_slowed_down(closed: WebSite) -> None:
    async with closed.client() as http:
        statuses: list[int] = []
        for number in range(TRIES_PER_ADDRESS + 2):
            body = {"user": "admin", "password": f"guess {number}"}
            async with http.post(f"{closed.url}/api/login", json=body) as answer:
                statuses.append(answer.status)
                wait = answer.headers.get("Retry-After")
        assert statuses == [401] * TRIES_PER_ADDRESS + [429] * 2
        assert wait is not None and 0 < int(wait) <= 30
        async with http.post(f"{closed.url}/api/login", json={"user": "admin", "password": PASSWORD}) as answer:
            assert answer.status == 429  # else the limit would say which guess was right
        admin = await closed.coordinator.tokens.create(Role.ADMIN, "eve", None)
        async with http.get(
            f"{closed.url}/api/status", headers={"Authorization": f"Bearer {admin.token.reveal()}"}
        ) as answer:
            assert answer.status == 200  # programs with a token go on


async def test_a_stream_ends_with_its_login(closed: WebSite) -> None:
    admin = await closed.coordinator.tokens.create(Role.ADMIN, "eve", None)
    headers = {"Authorization": f"Bearer {admin.token.reveal()}"}
    async with closed.client() as http, http.get(f"{closed.url}/api/events", headers=headers) as answer:
        assert answer.status == 200
        await answer.content.readuntil(b"event: snapshot")
        await closed.coordinator.tokens.revoke(admin.view.token_id)
        async with asyncio.timeout(60):
            await answer.content.read()


# ---- proxies --------------------------------------------------------------------------------------------------------


async def test_what_an_unknown_proxy_forwards_needs_a_login(site: WebSite) -> None:
    for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
        async with site.client() as http, http.get(f"{site.url}/api/status", headers={name: "198.51.100.7"}) as answer:
            assert answer.status == 401
            assert "web.trusted_proxies" in (await answer.json())["remedy"]


async def test_a_trusted_proxy_is_believed(tmp_path: Path) -> None:
    async with web_site(tmp_path, PROXIED) as site, site.client() as http:
        forwarded = {
            "X-Forwarded-For": "198.51.100.7",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "models.example",
        }
        async with http.get(f"{site.url}/api/status", headers=forwarded) as answer:
            assert answer.status == 401
            assert answer.headers["Strict-Transport-Security"]
        body = {"user": "admin", "password": PASSWORD}
        origin = {**forwarded, "Origin": "https://models.example"}
        async with http.post(f"{site.url}/api/login", json=body, headers=origin) as answer:
            assert answer.status == 200
            assert "Secure" in answer.headers["Set-Cookie"]
        wrong = {**forwarded, "X-Forwarded-Host": "evil.example"}
        async with http.get(f"{site.url}/api/status", headers=wrong) as answer:
            assert answer.status == 403
        async with http.post(
            f"{site.url}/api/login", json=body, headers={**forwarded, "Origin": site.origin}
        ) as answer:
            assert answer.status == 403


@pytest.mark.parametrize(
    ("overrides", "cause"),
    [
        ({"web.listen": "0.0.0.0:0"}, "needs TLS"),
        ({"web.listen": "0.0.0.0:0", "web.password_hash": PASSWORD_HASH}, "needs TLS"),
        ({"web.listen": "0.0.0.0:0", "web.trusted_proxies": "10.0.0.1"}, "nobody could log in"),
        ({"web.login": "always"}, "nobody could log in"),
        ({"web.password_hash": "hunter2"}, "not a hash of a password"),
        ({"web.password_hash": "scrypt$30$8$3$AAAA$AAAA"}, "not a hash of a password"),
    ],
)
async def test_a_site_that_would_let_anybody_in_does_not_start(
    tmp_path: Path, overrides: dict[str, object], cause: str
) -> None:
    with pytest.raises(BaseException) as caught:
        async with web_site(tmp_path, overrides):
            pass
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, UsageError) and cause in str(error)
    assert "hunter2" not in str(error)


async def test_over_tls_the_cookie_is_for_tls_alone(tmp_path: Path) -> None:
    pem = make_certificate(tmp_path, now=datetime.datetime.now(datetime.UTC))
    overrides = {
        "web.listen": "0.0.0.0:0",
        "web.tls_cert": str(pem),
        "web.tls_key": str(pem),
        "web.password_hash": PASSWORD_HASH,
    }
    async with web_site(tmp_path, overrides) as site, site.client() as http:
        url = f"https://127.0.0.1:{site.server.port}"
        trust = ssl.create_default_context(cafile=str(pem))
        async with http.get(f"{url}/api/status", ssl=trust) as answer:
            assert answer.status == 401
        body = {"user": "admin", "password": PASSWORD}
        async with http.post(f"{url}/api/login", json=body, headers={"Origin": url}, ssl=trust) as answer:
            assert answer.status == 200 and "Secure" in answer.headers["Set-Cookie"]
            assert answer.headers["Strict-Transport-Security"]
        async with http.get(f"{url}/api/status", ssl=trust) as answer:
            assert answer.status == 200


async def test_insecure_is_open_and_still_no_other_sites_tool(tmp_path: Path) -> None:
    async with (
        web_site(tmp_path, {"web.listen": "0.0.0.0:0", "security.insecure": True}) as site,
        site.client() as http,
    ):
        async with http.get(f"{site.url}/api/status") as answer:
            assert answer.status == 200
        async with http.post(f"{site.url}/download", json={"uris": ["a/b"]}) as answer:
            assert answer.status == 403


# ---- what comes in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"uris": ["a/b"], "uris": []}', "application/json", 400),
        (b'{"uris": ["a/b"], "priority": NaN}', "application/json", 400),
        (b'{"uris": ["a/b"], "priority": 1e400}', "application/json", 400),
        (b'{"uris": ["a/b"], "priority": true}', "application/json", 400),
        (b'{"uris": "a/b"}', "application/json", 400),
        (b'{"uris": []}', "application/json", 400),
        (b'{"uris": ["a/b"], "unknown": 1}', "application/json", 400),
        (b'{"uris": ["a\\u0000b"]}', "application/json", 400),
        (b'{"uris": ["a\\ud800b"]}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"uris": ["a/b"]}', "text/plain", 415),
        (b'{"uris": ["a/b"]}', "application/x-www-form-urlencoded", 415),
        (b" " * (1 << 20) + b"{}", "application/json", 413),
        (b'{"uris": ["ftp://a/b"]}', "application/json", 422),
    ],
)
async def test_bodies_that_are_none(site: WebSite, body: bytes, content_type: str, status: int) -> None:
    async with site.client() as http:
        headers = {**await site.csrf(http), "Content-Type": content_type}
        async with http.post(f"{site.url}/download", data=io.BytesIO(body), headers=headers) as answer:
            assert answer.status == status, await answer.text()
            assert answer.content_type == "application/problem+json"
            problem: dict[str, Any] = await answer.json()
            assert problem["status"] == status and problem["detail"] and problem["code"]


async def test_every_answer_protects_browsers(site: WebSite) -> None:
    async with site.client() as http:
        for path in ("/", "/api/status", "/nothing", "/api/jobs/none", "/openapi.json", "/metrics"):
            async with http.get(f"{site.url}{path}") as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "script-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"
                assert "aiohttp" not in answer.headers.get("Server", "")
        async with http.options(f"{site.url}/download", headers={"Origin": "http://evil.example"}) as answer:
            assert answer.status == 405 and "Access-Control-Allow-Origin" not in answer.headers
