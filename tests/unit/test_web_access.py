"""Who may ask what: hosts, origins, proxies, sessions, logins, passwords."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from itertools import count
from typing import Any

import pytest

from shoal.common.errors import Refused, UsageError
from shoal.common.passwords import PasswordHash, hash_password
from shoal.coordinator.web import access
from shoal.coordinator.web.access import AccessRules, Origin
from shoal.coordinator.web.sessions import (
    ADDRESSES_MAX,
    SESSIONS_MAX,
    TRIES_IN_ALL,
    TRIES_PER_ADDRESS,
    TRY_EVERY_S,
    LoginLimit,
    Sessions,
)

PROXY = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("127.0.0.1"))


def rules(**given: Any) -> AccessRules:
    chosen: dict[str, Any] = {
        "listen": "127.0.0.1:7071",
        "login": "auto",
        "insecure": False,
        "has_tls": False,
        "has_credential": True,
        "trusted_proxies": (),
        "allowed_hosts": (),
        "allowed_origins": (),
        "machine": "box",
    }
    return access.rules(**{**chosen, **given})


@pytest.mark.parametrize(
    ("given", "closed"),
    [
        ({}, False),
        ({"listen": "[::1]:1"}, False),
        ({"login": "always"}, True),
        ({"trusted_proxies": PROXY}, True),
        ({"listen": "0.0.0.0:1", "has_tls": True}, True),
        ({"listen": "192.0.2.1:1", "trusted_proxies": PROXY}, True),
        ({"listen": "0.0.0.0:1", "insecure": True}, False),
        ({"listen": "0.0.0.0:1", "insecure": True, "login": "always"}, True),
    ],
)
def test_who_must_log_in(given: dict[str, Any], closed: bool) -> None:
    assert rules(**given).closed is closed


@pytest.mark.parametrize(
    "given",
    [
        {"listen": "0.0.0.0:1"},
        {"listen": "[::]:1"},
        {"listen": "box:1"},
        {"listen": "0.0.0.0:1", "has_tls": True, "has_credential": False},
        {"trusted_proxies": PROXY, "has_credential": False},
        {"login": "always", "has_credential": False},
    ],
)
def test_what_would_let_anybody_in_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        rules(**given)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("peer", "headers", "address", "scheme", "host", "direct"),
    [
        ("127.0.0.2", {"host": "a"}, "127.0.0.2", "http", "a", True),
        ("127.0.0.2", {"host": "a", "x-forwarded-for": "192.0.2.1"}, "127.0.0.2", "http", "a", False),
        ("127.0.0.2", {"host": "a", "x-forwarded-host": "b"}, "127.0.0.2", "http", "a", False),
        ("10.1.1.1", {"host": "a"}, "10.1.1.1", "http", "a", False),
        (
            "10.1.1.1",
            {"host": "a", "x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https"},
            "192.0.2.1",
            "https",
            "a",
            False,
        ),
        # What a client itself wrote stands left of what our proxies added, and is not believed.
        (
            "10.1.1.1",
            {"host": "a", "x-forwarded-for": "127.0.0.1, 192.0.2.9, 10.2.2.2"},
            "192.0.2.9",
            "http",
            "a",
            False,
        ),
        ("::ffff:10.1.1.1", {"host": "a", "x-forwarded-for": "[2001:db8::1]:99"}, "2001:db8::1", "http", "a", False),
        (
            "10.1.1.1",
            {"host": "a", "x-forwarded-for": "nonsense", "x-forwarded-proto": "gopher"},
            "nonsense",
            "http",
            "a",
            False,
        ),
        ("10.1.1.1", {"host": "a", "x-forwarded-host": "x, b:1"}, "10.1.1.1", "http", "b:1", False),
    ],
)
def test_where_a_request_came_from(
    peer: str, headers: dict[str, str], address: str, scheme: str, host: str, direct: bool
) -> None:
    found = access.origin_of(rules(trusted_proxies=PROXY), peer=peer, headers=headers)
    assert found == Origin(address=address, scheme=scheme, host=host, direct=direct)


def test_a_foreign_proxy_before_an_open_site_needs_a_login() -> None:
    found = access.origin_of(rules(), peer="127.0.0.1", headers={"host": "localhost", "via": "1.1 x"})
    assert access.must_log_in(rules(), found)
    assert not access.must_log_in(rules(), access.origin_of(rules(), peer="127.0.0.1", headers={"host": "localhost"}))


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:1", "localhost.", "box:7071", "127.0.0.1", "[::1]:7071", "192.0.2.1:1", "models.example"],
)
def test_names_of_ours(host: str) -> None:
    access.check_host(rules(allowed_hosts=("models.example",)), host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "evil.example:7071",
        "a b",
        "a/b",
        "@localhost",
        "[::1",
        "127.0.0.1.nip.io",
    ],
)
def test_names_that_are_not_ours(host: str) -> None:
    with pytest.raises(Refused):
        access.check_host(rules(allowed_hosts=("models.example",)), host)


@pytest.mark.parametrize(
    ("named", "scheme", "host", "own"),
    [
        ("http://localhost:7071", "http", "localhost:7071", True),
        ("http://LOCALHOST:7071", "http", "localhost:7071", True),
        ("https://models.example", "https", "models.example", True),
        ("https://models.example", "https", "models.example:443", True),
        ("http://[::1]:7071", "http", "[::1]:7071", True),
        ("https://partner.example", "http", "localhost:7071", True),  # allowed by name
        ("http://partner.example", "http", "localhost:7071", False),
        ("http://localhost:8000", "http", "localhost:7071", False),
        ("https://localhost:7071", "http", "localhost:7071", False),
        ("http://models.example", "https", "models.example", False),
        ("null", "http", "localhost:7071", False),
        ("", "http", "localhost:7071", False),
        ("http://localhost:7071.evil.example", "http", "localhost:7071", False),
        ("http://user@localhost:7071", "http", "localhost:7071", False),
    ],
)
def test_origins(named: str, scheme: str, host: str, own: bool) -> None:
    allowed = rules(allowed_origins=("https://partner.example",))
    origin = Origin(address="127.0.0.1", scheme=scheme, host=host, direct=True)
    if own:
        access.check_change(allowed, origin, named=named, fetch_site="cross-site")
    else:
        with pytest.raises(Refused):
            access.check_change(allowed, origin, named=named, fetch_site="same-origin")


def test_passwords_do_not_travel_past_the_proxy() -> None:
    closed = rules(listen="0.0.0.0:1", trusted_proxies=PROXY)
    origin = Origin(address="192.0.2.1", scheme="http", host="box", direct=True)
    access.check_wire(closed, origin, peer="10.1.1.1")
    access.check_wire(closed, origin, peer="127.0.0.5")
    access.check_wire(rules(listen="0.0.0.0:1", has_tls=True), origin, peer="192.0.2.1")
    with pytest.raises(Refused):
        access.check_wire(closed, origin, peer="192.0.2.1")


def test_users_of_ipv6_are_counted_by_network() -> None:
    assert access.limit_key("2001:db8::1") == access.limit_key("2001:db8::ffff:2")
    assert access.limit_key("192.0.2.1") != access.limit_key("192.0.2.2")


# ---- sessions -------------------------------------------------------------------------------------------------------


def make_sessions(life_s: float = 100.0) -> Sessions:
    serial = count()
    return Sessions(life_s=life_s, random_text=lambda: f"random {next(serial)}")


def test_a_session_ends_by_itself_and_when_told() -> None:
    sessions = make_sessions()
    session_id, session = sessions.begin("eve", now=0.0)
    assert sessions.find(session_id, 99.9) is session
    assert sessions.find("random 9", 1.0) is None
    assert sessions.find(session_id, 100.0) is None and len(sessions) == 0
    session_id, _ = sessions.begin("eve", now=0.0)
    sessions.end(session_id)
    assert sessions.find(session_id, 1.0) is None


def test_sessions_are_bounded() -> None:
    sessions = make_sessions()
    ids = [sessions.begin("eve", now=0.0)[0] for _ in range(SESSIONS_MAX + 1)]
    assert len(sessions) == SESSIONS_MAX
    assert sessions.find(ids[0], 1.0) is None and sessions.find(ids[1], 1.0) is not None


def test_tries_of_one_address_come_back_one_by_one() -> None:
    limit = LoginLimit(0.0)
    assert [limit.take("a", 0.0) for _ in range(TRIES_PER_ADDRESS)] == [0.0] * TRIES_PER_ADDRESS
    assert limit.take("a", 0.0) == pytest.approx(TRY_EVERY_S)
    assert limit.take("b", 0.0) == 0.0
    assert limit.take("a", TRY_EVERY_S) == 0.0
    assert limit.take("a", TRY_EVERY_S) > 0


def test_a_right_password_gives_the_tries_back() -> None:
    limit = LoginLimit(0.0)
    for _ in range(TRIES_PER_ADDRESS * 3):
        assert limit.take("a", 0.0) == 0.0
        limit.right("a")


def test_many_addresses_together_are_limited_and_remembered_boundedly() -> None:
    limit = LoginLimit(0.0)
    taken = [limit.take(f"address {number}", 0.0) == 0.0 for number in range(ADDRESSES_MAX + 500)]
    assert sum(taken) == TRIES_IN_ALL
    assert len(limit) <= ADDRESSES_MAX


# ---- passwords ------------------------------------------------------------------------------------------------------


def test_a_hash_knows_its_password() -> None:
    text = hash_password("correct horse", random_bytes=lambda n: bytes(n))
    assert text.startswith("scrypt$15$8$3$") and "horse" not in text
    assert PasswordHash(text).matches("correct horse")
    assert not PasswordHash(text).matches("correct hors")
    assert hash_password("correct horse") != hash_password("correct horse")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "scrypt$15$8$3$AAAA",
        "md5$1$1$1$AAAA$AAAA",
        "scrypt$99$8$3$AAAA$AAAA",
        "scrypt$15$8$3$$",
        "scrypt$a$8$3$AA==$AA==",
    ],
)
def test_what_is_no_hash_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        PasswordHash(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("password", ["", "short", "x" * 2000])
def test_passwords_that_are_none(password: str) -> None:
    with pytest.raises(UsageError):
        hash_password(password)


def test_without_a_page_nothing_of_it_is_imported() -> None:
    code = (
        "import sys, shoal.coordinator.daemon, shoal.client.options; "
        "print({'aiohttp', 'jinja2', 'prometheus_client', 'shoal.coordinator.web'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_password_is_hashed_on_the_command_line() -> None:
    run = [sys.executable, "-m", "shoal.client.main", "web", "password"]
    made = subprocess.run(run, input="correct horse battery\n", capture_output=True, text=True, check=True)
    assert PasswordHash(made.stdout).matches("correct horse battery") and "horse" not in made.stdout + made.stderr
    short = subprocess.run(run, input="short\n", capture_output=True, text=True)
    assert (short.returncode, short.stdout) == (2, "") and "8 to 1024 characters" in short.stderr
