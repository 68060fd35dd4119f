"""Capabilities: who may ask whom for what, until when; whatever else is shown is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.capability import KEY_BYTES, Capability, check, holder_key, issue
from shoal.common.errors import AccessDenied, Unauthenticated

KEY = holder_key(b"m" * 32, "a1", "")
CLAIMS = Capability(job_id="j", first_object=5, last_object=9, holder="a1", expires_at=100.0)
TOKEN = issue(KEY, CLAIMS)


def look(token: str, *, key: bytes = KEY, now: float = 50.0, holder: str = "a1", job: str = "j", obj: int = 7) -> None:
    check(key, token, now=now, holder=holder, job_id=job, object_id=obj)


@pytest.mark.parametrize("object_id", [5, 9])
def test_what_it_allows_is_allowed(object_id: int) -> None:
    look(TOKEN, obj=object_id)


@pytest.mark.parametrize(
    "change", [{"now": 100.0}, {"holder": "a2"}, {"job": "k"}, {"obj": 4}, {"obj": 10}], ids=lambda change: str(change)
)
def test_what_it_does_not_allow_is_denied(change: dict[str, object]) -> None:
    with pytest.raises(AccessDenied):
        look(TOKEN, **change)  # pyright: ignore[reportArgumentType]


def test_another_holders_key_is_another_key() -> None:
    other = holder_key(b"m" * 32, "a2", "")
    assert other != KEY and len(KEY) == KEY_BYTES
    with pytest.raises(Unauthenticated):
        look(TOKEN, key=other)


@given(st.text(max_size=2000))
def test_garbage_is_no_token(text: str) -> None:
    with pytest.raises(Unauthenticated):
        look(text)


@given(st.integers(0, len(TOKEN) - 1), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_changed_character_is_noticed(at: int, char: str) -> None:
    if TOKEN[at] != char:
        with pytest.raises(Unauthenticated):
            look(TOKEN[:at] + char + TOKEN[at + 1 :])


@given(st.integers(0, len(TOKEN) - 1))
def test_a_truncated_token_is_noticed(length: int) -> None:
    with pytest.raises(Unauthenticated):
        look(TOKEN[:length])
