import pytest

from shoal.common.errors import RedirectRefused, Refused
from shoal.common.http.message import Headers
from shoal.common.http.redirects import next_url
from shoal.common.http.url import parse_url

HTTPS = parse_url("https://hub.example/a/b?token=hunter2")
HTTP = parse_url("http://hub.example/a/b")


def location(*values: str) -> Headers:
    return Headers([("Location", value) for value in values])


def test_relative_and_absolute():
    assert next_url(HTTPS, location("c"), https_only=True).text == "https://hub.example/a/c"
    assert (
        next_url(HTTPS, location("https://cdn.example/x?sig=1"), https_only=True).text == "https://cdn.example/x?sig=1"
    )
    assert next_url(HTTP, location("https://hub.example/"), https_only=False).scheme == "https"
    assert next_url(HTTP, location("http://other.example/"), https_only=False).host == "other.example"
    assert next_url(HTTP, location("/x", "/x"), https_only=False).target == "/x"


@pytest.mark.parametrize(
    "headers",
    [
        location("http://hub.example/"),
        location("ftp://hub.example/"),
        location("//user:pass@evil.example/"),
        location("https://2130706433/"),
        location("/x", "/y"),
        location("https://evil.example\\@hub.example/"),
    ],
)
def test_refused(headers: Headers):
    with pytest.raises(RedirectRefused) as caught:
        next_url(HTTPS, headers, https_only=False)
    assert "hunter2" not in str(caught.value)


def test_https_only_holds_for_redirects_of_http_too():
    with pytest.raises(Refused, match="only https"):
        next_url(HTTP, location("http://hub.example/c"), https_only=True)
