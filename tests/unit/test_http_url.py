"""URLs: signed ones pass unchanged, treacherous ones do not pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.errors import Refused
from shoal.common.http.url import parse_url, resolve_reference


def test_the_parts():
    url = parse_url("HTTPS://Example.COM:8443/a/b?c=d#fragment")
    assert (url.scheme, url.host, url.port, url.target) == ("https", "example.com", 8443, "/a/b?c=d")
    assert url.authority == "example.com:8443" and url.origin == ("https", "example.com", 8443)
    assert url.text == "https://example.com:8443/a/b?c=d"


@pytest.mark.parametrize(
    ("text", "authority", "port", "target"),
    [
        ("http://h", "h", 80, "/"),
        ("https://h", "h", 443, "/"),
        ("http://h:80", "h", 80, "/"),
        ("http://h:443/", "h:443", 443, "/"),
        ("http://h:", "h", 80, "/"),
        ("http://h?q", "h", 80, "/?q"),
        ("http://[::1]:8080/x", "[::1]:8080", 8080, "/x"),
        ("http://[2001:DB8::1]/", "[2001:db8::1]", 80, "/"),
        ("http://127.0.0.1/", "127.0.0.1", 80, "/"),
        ("http://a_b.example/", "a_b.example", 80, "/"),
        ("http://b\u00fccher.example/", "xn--bcher-kva.example", 80, "/"),
    ],
)
def test_authorities(text: str, authority: str, port: int, target: str):
    url = parse_url(text)
    assert (url.authority, url.port, url.target) == (authority, port, target)


@pytest.mark.parametrize(
    "target",
    [
        "/a%2Fb%20c?X-Amz-Signature=abc%2B&Policy=eyJ~_-&sig=a/b+c%3D==",
        "/a/../b/./c//d;p=1?x=[1]&y=(2)!*'",
        "/100%?stray=%zz",
        "/?",
    ],
)
def test_targets_are_sent_as_given(target: str):
    assert parse_url(f"https://cdn.example{target}").target == target


def test_only_illegal_characters_are_encoded():
    assert (
        parse_url('http://h/a b"<>\\^`{|}\u00e9?q=\u20ac').target
        == "/a%20b%22%3C%3E%5C%5E%60%7B%7C%7D%C3%A9?q=%E2%82%AC"
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "/path", "example.com/x", "ftp://h/x", "file:///etc/passwd", "javascript:alert(1)", "http:/h/x", "http:h/x", "http://",
        "http:///x", "http://h:99999/", "http://h:0/", "http://h:8x/", "http://h:-1/", "http://user@h/", "http://user:pass@h/",
        "http://good\\@evil/", "http://a b/", "http://a%2eb/", "http://-a/", "http://a..b/", "http://.a/", "http://[::1/", "http://::1/",
        "http://[fe80::1%25eth0]/", "http://[1.2.3.4]/", "http://[x]/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/",
        "http://127.1/", "http://127.0.0.1./", "http://1.2.3.256/", "http://h/\r\nX: y", "http://h/\x00", "http://h/\t", "http://h\n/",
        " http://h/", "http://h/\x7f", "http://" + "a" * 254 + "/", "http://h/\ud800", "http://\u2024\u2024/", "http://[::1]x/",
    ],
)  # fmt: skip
def test_refused(text: str):
    with pytest.raises(Refused):
        parse_url(text)


def test_errors_and_labels_hide_queries_and_passwords():
    for text in ("http://user:hunter2@h/", "http://h:99999/?sig=hunter2", "http://h/\n?sig=hunter2"):
        with pytest.raises(Refused) as caught:
            parse_url(text)
        assert "hunter2" not in str(caught.value)
    url = parse_url("http://h/path?sig=hunter2")
    assert "hunter2" not in url.label and "hunter2" not in repr(url) and url.label == "http://h/path"
    assert len(parse_url("http://h/" + "x" * 1000).label) == 200


BASE = parse_url("http://a.example/b/c/d;p?q")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("g", "/b/c/g"), ("./g", "/b/c/g"), ("g/", "/b/c/g/"), ("/g", "/g"), ("?y", "/b/c/d;p?y"), ("g?y", "/b/c/g?y"),
        ("#s", "/b/c/d;p?q"),
        ("g#s", "/b/c/g"), (";x", "/b/c/;x"), ("", "/b/c/d;p?q"), (".", "/b/c/"), ("..", "/b/"), ("../g", "/b/g"), ("../..", "/"),
        ("../../../g", "/g"), ("g.", "/b/c/g."), ("..g", "/b/c/..g"), ("./g/.", "/b/c/g/"), ("g/../h", "/b/c/h"),
        ("g?y/../x", "/b/c/g?y/../x"),
    ],
)  # fmt: skip
def test_the_examples_of_rfc_3986(reference: str, expected: str):
    assert resolve_reference(BASE, reference).text == f"http://a.example{expected}"


def test_references_to_elsewhere():
    assert resolve_reference(BASE, "//cdn.example/x?sig=a%2Bb#f").text == "http://cdn.example/x?sig=a%2Bb"
    assert resolve_reference(BASE, "https://cdn.example:444/x").origin == ("https", "cdn.example", 444)
    assert (
        resolve_reference(BASE, "/caf\u00c3\u00a9 x").target == "/caf%C3%A9%20x"
    )  # the two bytes of an e acute, as latin-1


@pytest.mark.parametrize(
    "reference", ["ftp://x/", "data:text/html,x", "file:///etc/passwd", "http://u:p@x/", "//", "/a\rb", "http:x"]
)
def test_references_that_are_refused(reference: str):
    with pytest.raises(Refused):
        resolve_reference(BASE, reference)


@given(st.text(max_size=60))
def test_no_text_makes_a_target_that_breaks_the_request_line(text: str):
    for make in (lambda: parse_url(f"http://h/{text}"), lambda: parse_url(text), lambda: resolve_reference(BASE, text)):
        try:
            url = make()
        except Refused:
            continue
        assert (
            url.target.startswith("/") and url.target.isascii() and url.target.isprintable() and " " not in url.target
        )
        assert parse_url(url.text) == url
