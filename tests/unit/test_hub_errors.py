"""What the Hub's answers mean, and who may see its token."""

from __future__ import annotations

import pytest

from shoal.common.errors import (
    AccessDenied,
    ExitCode,
    HttpStatus,
    NotFound,
    RateLimited,
    ShoalError,
    Unauthenticated,
)
from shoal.common.http import Headers
from shoal.common.hub_auth import authorization_for, is_below_any
from shoal.common.hub_errors import HubSubject, hub_error, is_transient, repo_path
from shoal.common.secrets import Secret

HUB = "https://hub.example"


def subject(*, authenticated: bool = False, kind: str = "model", path: str = "") -> HubSubject:
    return HubSubject(
        endpoint=HUB, repo_kind=kind, repo_id="acme/tiny", revision="v1", path=path, authenticated=authenticated
    )


def error_of(
    status: int, *, code: str = "", message: str = "", wait_s: float | None = None, **who: object
) -> ShoalError:
    headers = Headers([("x-error-code", code), ("x-error-message", message)])
    return hub_error(subject(**who), status, headers, retry_after_s=wait_s)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("authenticated", [False, True])
def test_gated_names_the_page_where_access_is_asked_for(status: int, authenticated: bool) -> None:
    error = error_of(status, code="GatedRepo", authenticated=authenticated, kind="dataset", path="data/x.bin")
    assert type(error) is AccessDenied
    assert error.exit_code is ExitCode.NO_ACCESS
    assert f"{HUB}/datasets/acme/tiny" in error.remedy
    assert ("HF_TOKEN" in error.remedy) is not authenticated


@pytest.mark.parametrize(
    ("status", "code", "authenticated", "cls", "words"),
    [
        (401, "RepoNotFound", False, NotFound, ("private", "HF_TOKEN", "spelling")),
        (404, "RepoNotFound", True, NotFound, ("the token may not see it", "spelling")),
        (401, "", False, NotFound, ("private", "HF_TOKEN")),
        (401, "", True, Unauthenticated, ("does not accept the token", "renew")),
        (404, "", False, NotFound, ("spelling",)),
        (404, "RevisionNotFound", False, NotFound, ("no such revision", "@v1", f"{HUB}/acme/tiny/tree/main")),
        (404, "EntryNotFound", True, NotFound, ("no such file", f"{HUB}/acme/tiny/tree/v1")),
        (403, "", True, AccessDenied, ("refuses access", "may read this repo")),
        (403, "", False, AccessDenied, ("refuses access", "HF_TOKEN")),
        (451, "", False, AccessDenied, ("legal", f"{HUB}/acme/tiny")),
        (400, "", False, HttpStatus, ("400",)),
        (404, "SomethingNew", False, NotFound, ("spelling",)),
    ],
)
def test_refusals(status: int, code: str, authenticated: bool, cls: type, words: tuple[str, ...]) -> None:
    error = error_of(status, code=code, authenticated=authenticated)
    assert type(error) is cls
    for word in words:
        assert word in str(error)
    assert "acme/tiny" in str(error) or HUB in str(error)


def test_bad_token_of_an_unknown_kind_is_told_by_the_message() -> None:
    error = error_of(401, message="Invalid credentials in Authorization header")
    assert type(error) is Unauthenticated


def test_disabled_repo() -> None:
    error = error_of(403, message="Access to this resource is disabled.", authenticated=True)
    assert type(error) is AccessDenied
    assert "disabled" in error.cause


@pytest.mark.parametrize(("status", "wait_s", "expected_s"), [(429, 55.0, 55.0), (429, None, 0.0), (503, 7.0, 7.0)])
def test_rate_limits(status: int, wait_s: float | None, expected_s: float) -> None:
    error = error_of(status, wait_s=wait_s)
    assert isinstance(error, RateLimited)
    assert error.retry_after_s == expected_s
    assert "token raises the limit" in str(error)
    assert "token" not in str(error_of(status, wait_s=wait_s, authenticated=True))


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 425])
def test_transient(status: int) -> None:
    error = error_of(status, code="GatedRepo" if status == 500 else "")
    assert type(error) is HttpStatus
    assert error.status == status
    assert is_transient(status)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 416, 429])
def test_not_transient(status: int) -> None:
    assert not is_transient(status)


def test_the_hubs_own_words_are_made_harmless() -> None:
    message = f"\x1b[31mtoken hf_AbCdEf0123456789AbCdEf0123456789Ab is bad\n{'x' * 10_000}"
    error = error_of(403, message=message)
    text = str(error)
    assert "hf_AbCd" not in text
    assert "\x1b" not in text
    assert "\n" not in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("kind", "path"),
    [("model", "/acme/tiny"), ("dataset", "/datasets/acme/tiny"), ("space", "/spaces/acme/tiny")],
)
def test_repo_path(kind: str, path: str) -> None:
    assert repo_path(kind, "acme/tiny") == path


# -- the token --------------------------------------------------------------------------------------------------------

ENDPOINTS = ("https://hub.example", "http://mirror.example:8080/hf", "https://[2001:db8::1]:8443")


@pytest.mark.parametrize(
    "url",
    [
        "https://hub.example",
        "https://hub.example/api/models/a/b",
        "HTTPS://HUB.example:443/a/b/resolve/main/x?y=1#z",
        "http://mirror.example:8080/hf",
        "http://mirror.example:8080/hf/api/models/a/b",
        "https://[2001:DB8::1]:8443/x",
        "https://hub.example/../x",
    ],
)
def test_the_token_goes_to_endpoints(url: str) -> None:
    authorization = authorization_for(url, ENDPOINTS, Secret("hf_secret"))
    assert authorization is not None
    assert authorization.reveal() == "Bearer hf_secret"


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.hub.example/x",
        "https://hub.example.evil.org/x",
        "https://evil.org/https://hub.example/",
        "https://hub.example@evil.org/x",
        "https://hub.example:8443/x",
        "http://hub.example/x",
        "https://mirror.example:8080/hf/x",
        "http://mirror.example/hf/x",
        "http://mirror.example:8080/",
        "http://mirror.example:8080/hfx",
        "http://mirror.example:8080/hf/../other",
        "http://mirror.example:8080/hf/%2e%2E/other",
        "http://mirror.example:8080/hf/..%2Fother",
        "http://mirror.example:8080/hf/..\\other",
        "file:///etc/passwd",
        "/api/models/a/b",
        "",
        "https://hub.example\r\nHost: evil.org/",
    ],
)
def test_the_token_goes_nowhere_else(url: str) -> None:
    assert authorization_for(url, ENDPOINTS, Secret("hf_secret")) is None
    assert not is_below_any(url, ENDPOINTS)


def test_no_token_no_authorization() -> None:
    assert authorization_for("https://hub.example/x", ENDPOINTS, None) is None
    assert authorization_for("https://hub.example/x", ENDPOINTS, Secret("")) is None
    assert authorization_for("https://hub.example/x", ("not a url",), Secret("hf_secret")) is None
