"""Secrets hide themselves, references resolve where they are used, redaction finds what looks like a credential."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.errors import UsageError
from shoal.common.secrets import Secret, SecretRef, credential_path, names_secret, redact

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


def test_a_secret_hides() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    for shown in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>20}",
        repr([secret]),
        repr({"a": secret}),
    ):
        assert "hunter2" not in shown
    assert not hasattr(secret, "__dict__")


def test_secrets_are_equal_by_value_and_not_hashable() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("é\udc80") == Secret("é\udc80")
    assert Secret("a") != "a"
    assert not Secret("")
    with pytest.raises(TypeError):
        hash(Secret("a"))


def test_a_secret_does_not_travel_by_pickle() -> None:
    secret = Secret("hunter2")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="Secret"):
            pickle.dumps(secret, protocol)
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret


def test_a_reference_to_nothing_is_none() -> None:
    ref = SecretRef(name="hub.token")
    assert ref.resolve() is None
    assert not ref.is_set


def test_a_value_is_itself() -> None:
    ref = SecretRef(name="hub.token", value=Secret(" abc\n"))
    assert ref.resolve() == Secret("abc")
    assert ref.is_set
    assert "abc" not in repr(ref)


def test_a_file_is_read_at_every_use(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    ref = SecretRef(name="hub.token", file=path)
    assert ref.resolve() == Secret("first")
    path.write_text("second\n")
    assert ref.resolve() == Secret("second")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"a\nb", "not one line"),
        (b"a\r\nX-Injected: 1", "not one line"),
        (b"a\0b", "not one line"),
        (b"\xff\xfe", "not one line"),
        ("é".encode(), "not one line"),
        (b"x" * 100_000, "too large"),
        (None, "no such file"),
    ],
)
def test_a_file_that_holds_no_credential_is_named(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=expected) as caught:
        SecretRef(name="hub.token", file=path).resolve()
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    with pytest.raises(UsageError, match="cannot be read"):
        SecretRef(name="hub.token", file=tmp_path).resolve()


def test_a_file_that_may_be_missing(tmp_path: Path) -> None:
    ref = SecretRef(name="hub.token", file=tmp_path / "token", optional=True)
    assert ref.resolve() is None
    assert not ref.is_set
    (tmp_path / "token").write_text("\n")
    assert ref.resolve() is None
    (tmp_path / "token").write_text("abc")
    assert ref.resolve() == Secret("abc")
    assert ref.is_set


def test_a_variable_that_was_not_set_is_named() -> None:
    with pytest.raises(UsageError, match=r"hub\.token from environment variable MINE: it is not set"):
        SecretRef(name="hub.token", env="MINE").resolve()


def test_a_bad_credential_is_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        SecretRef(name="hub.token", env="MINE", value=Secret("hunter2\nhunter2")).resolve()
    assert "hunter2" not in str(caught.value)
    assert "MINE" in str(caught.value)


def test_a_bare_name_is_a_systemd_credential_if_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    base = Path("/etc/shoal")
    assert credential_path("token", base=base, environ=environ) == tmp_path / "token"
    assert credential_path("other", base=base, environ=environ) == base / "other"
    assert credential_path("./token", base=base, environ=environ) == base / "token"
    assert credential_path("/x/token", base=base, environ=environ) == Path("/x/token")
    assert credential_path("token", base=base, environ={}) == base / "token"


@pytest.mark.parametrize(
    "text",
    [
        "hunter2"[:0] + TOKEN,
        f"token={TOKEN}",
        f"x{TOKEN[:3]}{TOKEN}",
        "Authorization: Bearer hunter2",
        "authorization: bearer   hunter2",
        "Authorization: hunter2",
        "Authorization: AWS4-HMAC-SHA256 Credential=hunter2/x, SignedHeaders=host, Signature=hunter2",
        "Proxy-Authorization: Basic hunter2",
        "{'Authorization': 'Bearer hunter2', 'x': 'y'}",
        "{'authorization': 'hunter2'}",
        '{"Authorization": "hunter2"}',
        "[(b'Authorization', b'Bearer hunter2')]",
        "[(b'cookie', b'a=hunter2')]",
        "Cookie: a=hunter2; b=hunter2",
        "Set-Cookie: session=hunter2; Path=/",
        "x-xet-access-token: hunter2",
        "X-Amz-Security-Token: hunter2",
        "https://user:hunter2@host/x",
        "https://hunter2@host/x",
        "git+https://a:b@hunter2@host/x",
        "https://h/x?X-Amz-Algorithm=A&X-Amz-Credential=hunter2&X-Amz-Signature=hunter2&X-Amz-Security-Token=hunter2",
        "https://h/x?Policy=hunter2&Signature=hunter2&Key-Pair-Id=hunter2",
        "https://h/x?sv=1&sig=hunter2&se=2",
        "https://h/x?token=hunter2#f",
        "https://h/x?a=1&access_token=hunter2",
        "https://h/x?X-Goog-Signature=hunter2&GoogleAccessId=hunter2",
        "password=hunter2 next",
        "client_secret=hunter2",
        "aws_secret_access_key=hunter2",
        "{'token': 'hunter2'}",
        '{"secret_access_key": "hunter2", "n": 1}',
        "{'password': b'hunter2'}",
    ],
)
def test_what_looks_like_a_credential_is_redacted(text: str) -> None:
    shown = redact(text)
    assert "hunter2" not in shown
    assert TOKEN[6:] not in shown
    assert "***" in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hf_transfer and hf_hub_download are not tokens",
        "hf://acme/tiny@main/config.json",
        "https://host/a@b?x=1&keys=2",
        "hub.token: there is no such file",
        "key=models/x.bin code=404 policy=allow",
        "tokens=5 tokenizer=bpe",
        "models--acme--tiny/tokenizer.json",
        "s3://bucket/secret/file@1",
        "the Bearer is",
        "file '/data/secrets.txt' is missing",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("name", ["token", "Authorization", "x-amz-security-token", "secret_access_key", "api_key", "cookie",
                                  "hub_token", "Set-Cookie", "password", "signature"])  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert names_secret(name)


@pytest.mark.parametrize("name", ["tokens", "tokenizer", "key", "host", "attempt", "author", "cookies_count", "path"])
def test_names_of_other_things(name: str) -> None:
    assert not names_secret(name)


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_token_is_found_in_any_surroundings(before: str, after: str) -> None:
    assert TOKEN not in redact(f"{before} {TOKEN} {after}")


@pytest.mark.parametrize(
    "piece", ["hf_", "://", "token_", "a_", "'token':", "authorization ", "://a@", "x-", "basic ", "="]
)
def test_redaction_of_hostile_text_stays_fast(piece: str) -> None:
    # No clock: with quadratic patterns this would run into the timeout of the suite.
    redact(piece * (500_000 // len(piece)) + "=")
