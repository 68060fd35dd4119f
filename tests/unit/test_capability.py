"""Capabilities: who may have what from whom, and that nothing hostile gets further than a refusal."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import traceback
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.capability import TOKEN_CHARS_MAX, Capability, check, holder_key, issue
from shoal.common.errors import AccessDenied, ShoalError, Unauthenticated
from shoal.common.secrets import redact

MASTER = bytes(range(32))
KEY = holder_key(MASTER, "agent-1", "")
CLAIMS = Capability(job_id="job-1", first_object=10, last_object=20, holder="agent-1", expires_at=1000.0)
GOOD = issue(KEY, CLAIMS)


def ask(token: str = GOOD, *, key: bytes = KEY, now: float = 999.0, holder: str = "agent-1", job_id: str = "job-1",
        object_id: int = 15) -> None:  # fmt: skip
    check(key, token, now=now, holder=holder, job_id=job_id, object_id=object_id)


def signed(values: object, key: bytes = KEY) -> str:
    """A rightly signed token of any claims."""
    return signed_text(json.dumps(values).encode(), key)


def signed_text(text: bytes, key: bytes = KEY) -> str:
    claims = base64.urlsafe_b64encode(text).rstrip(b"=")
    mac = hmac.digest(key, b"shoal capability 1\0" + claims, hashlib.sha256)
    return f"v1.{claims.decode()}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


@pytest.mark.parametrize("object_id", [10, 15, 20])
def test_what_was_issued_is_good(object_id: int) -> None:
    ask(object_id=object_id)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"now": 1000.0}, "expired"),
        ({"now": float("nan")}, "expired"),
        ({"holder": "agent-2"}, "another holder"),
        ({"job_id": "job-2"}, "another job"),
        ({"object_id": 9}, "other objects"),
        ({"object_id": 21}, "other objects"),
    ],
)
def test_what_is_not_allowed(change: dict[str, object], cause: str) -> None:
    with pytest.raises(AccessDenied, match=cause):
        ask(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "token",
    [
        "",
        "1",
        "v1..",
        "x" * 10_000_000,
        "v1." + "A" * TOKEN_CHARS_MAX + "." + "A" * 43,
        GOOD + "A",
        GOOD + "\n",
        GOOD + "=",
        " " + GOOD,
        "v2" + GOOD[2:],
        GOOD.replace(".", "..", 1),
        "v１" + GOOD[2:],  # a digit one, but not the ASCII one
        "\udcff" + GOOD,
        GOOD[:-1] + "é",
        "\0" * 40,
    ],
)
def test_malformed(token: str) -> None:
    with pytest.raises(Unauthenticated):
        ask(token)


@given(st.text(max_size=200))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        ask(text)


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_truncated(length: int) -> None:
    with pytest.raises(Unauthenticated):
        ask(GOOD[:length])


@pytest.mark.parametrize("position", range(len(GOOD)))
def test_any_other_character_spoils_it(position: int) -> None:
    """Also the last one, of which base64 ignores two bits."""
    for other in "AB_.z":
        if other != GOOD[position]:
            with pytest.raises(Unauthenticated):
                ask(GOOD[:position] + other + GOOD[position + 1 :])


def test_another_holders_key() -> None:
    with pytest.raises(Unauthenticated, match="not signed"):
        ask(issue(holder_key(MASTER, "agent-2", ""), CLAIMS))


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        [],
        "text",
        ["job-1", 10, 20, "agent-1"],
        ["job-1", 10, 20, "agent-1", 1000.0, 1],
        ["job-1", True, 20, "agent-1", 1000.0],
        ["job-1", 10, 20.0, "agent-1", 1000.0],
        [1, 10, 20, "agent-1", 1000.0],
        ["job-1", 10, 20, None, 1000.0],
        ["job-1", 10, 20, "agent-1", "1000"],
    ],
)
def test_signed_nonsense_is_still_refused(values: object) -> None:
    with pytest.raises(Unauthenticated, match="claims"):
        ask(signed(values))
    ask(signed(["job-1", 10, 20, "agent-1", 1000.0]))


@pytest.mark.parametrize("text", [b"[" * 500, b"\xff", b"", b"["])
def test_signed_text_that_is_no_json(text: bytes) -> None:
    with pytest.raises(Unauthenticated):
        ask(signed_text(text))


def test_signed_but_never_expiring() -> None:
    with pytest.raises(AccessDenied, match="expired"):
        ask(signed_text(b'["job-1",10,20,"agent-1",NaN]'))


@pytest.mark.parametrize(
    "change",
    [
        {"first_object": -1},
        {"first_object": 21},
        {"last_object": 2**63},
        {"job_id": ""},
        {"holder": "x" * 257},
        {"expires_at": float("inf")},
        {"expires_at": float("nan")},
    ],
)
def test_impossible_claims_are_not_signed(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"object|name|expire"):
        issue(KEY, replace(CLAIMS, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_keys_have_one_length(key: bytes) -> None:
    for call in (lambda: issue(key, CLAIMS), lambda: ask(key=key), lambda: holder_key(key, "a", "b")):
        with pytest.raises(ValueError, match="32 bytes"):
            call()


@given(
    st.text(min_size=1, max_size=100),
    st.text(min_size=1, max_size=100),
    st.integers(0, 2**63 - 1),
    st.floats(-1e12, 1e12),
)
def test_round_trip(job_id: str, holder: str, object_id: int, expires_at: float) -> None:
    token = issue(
        KEY,
        Capability(job_id=job_id, first_object=object_id, last_object=object_id, holder=holder, expires_at=expires_at),
    )
    assert token.isascii() and len(token) <= TOKEN_CHARS_MAX
    ask(token, now=expires_at - 1e3, holder=holder, job_id=job_id, object_id=object_id)
    with pytest.raises(AccessDenied):
        ask(token, now=expires_at, holder=holder, job_id=job_id, object_id=object_id)


def test_every_holder_and_session_has_a_key_of_its_own() -> None:
    pairs = [("a", "b"), ("ab", ""), ("", "ab"), ("a", "c"), ("b", "a")]
    keys = {holder_key(MASTER, *pair) for pair in pairs} | {holder_key(bytes(32), "a", "b")}
    assert len(keys) == 6
    assert {len(key) for key in keys} == {32}
    assert holder_key(MASTER, "a", "b") == holder_key(MASTER, "a", "b")


def test_no_error_shows_a_token_or_a_key() -> None:
    bad = GOOD[:-1] + ("A" if GOOD[-1] != "A" else "B")
    for call in (lambda: ask(bad), lambda: ask(GOOD + "!"), lambda: ask(GOOD, now=2000.0)):
        with pytest.raises(ShoalError) as caught:
            call()
        text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert GOOD[3:40] not in text and KEY.hex() not in text


def test_logs_redact_the_header_that_carries_one() -> None:
    assert GOOD[2:] not in redact(f"Authorization: Bearer {GOOD}")
    assert GOOD[2:] not in redact(f"capability={GOOD}")
