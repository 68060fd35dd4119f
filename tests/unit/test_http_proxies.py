import base64

import pytest

from shoal.common.errors import UsageError
from shoal.common.http.proxies import ProxyChooser, proxies_from_environ, proxy_authorization, proxy_label
from shoal.common.http.url import parse_url


def test_the_environment():
    environ = {
        "HTTP_PROXY": "http://upper:1",
        "http_proxy": "http://lower:1",
        "HTTPS_PROXY": " http://s:2 ",
        "NO_PROXY": "a,b",
        "ALL_PROXY": "",
    }
    assert proxies_from_environ(environ) == {"http": "http://lower:1", "https": "http://s:2", "no": "a,b"}
    assert proxies_from_environ({}) == {}


def test_a_cgi_program_does_not_take_its_proxy_from_a_request():
    assert proxies_from_environ({"HTTP_PROXY": "http://evil:1", "REQUEST_METHOD": "GET"}) == {}


def test_an_empty_lower_case_name_switches_the_proxy_off():
    assert proxies_from_environ({"http_proxy": "", "HTTP_PROXY": "http://p:1"}) == {}


@pytest.mark.parametrize(
    ("no", "url", "direct"),
    [
        ("*", "http://any.example/", True),
        ("example.com", "http://example.com/", True),
        ("example.com", "http://sub.example.com/", True),
        ("example.com", "http://notexample.com/", False),
        (".example.com", "http://sub.example.com/", True),
        ("*.example.com", "http://sub.example.com/", True),
        ("EXAMPLE.com", "http://example.com/", True),
        ("example.com:8080", "http://example.com:8080/", True),
        ("example.com:8080", "http://example.com/", False),
        ("example.com:443", "https://example.com/", True),
        ("other, example.com", "http://example.com/", True),
        ("other example.com", "http://example.com/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("10.0.0.0/8", "http://ten.example/", False),
        ("fd00::/8", "http://[fd00::1]/", True),
        ("::1", "http://[::1]/", True),
        ("[::1]:8080", "http://[::1]:8080/", True),
        ("[::1]:8080", "http://[::1]/", False),
        ("1.2.3.4", "http://1.2.3.4/", True),
        ("2.3.4", "http://1.2.3.4/", False),
        ("nonsense/99", "http://10.1.2.3/", False),
        ("", "http://example.com/", False),
        (". ,:80", "http://example.com/", False),
    ],
)
def test_exceptions(no: str, url: str, direct: bool):
    chooser = ProxyChooser({"http": "http://proxy:3128", "https": "http://proxy:3128", "no": no})
    assert (chooser.choose(parse_url(url)) is None) is direct


def test_the_proxy_of_each_scheme():
    chooser = ProxyChooser({"http": "proxy:3128", "all": "http://other:1"})
    http, https = chooser.choose(parse_url("http://h/")), chooser.choose(parse_url("https://h/"))
    assert http is not None and https is not None
    assert (http.host, http.port, https.host) == ("proxy", 3128, "other")
    assert ProxyChooser(None).choose(parse_url("http://h/")) is None


@pytest.mark.parametrize("proxy", ["socks5://p:1", "https://p:1", "http://", "http://p:x"])
def test_proxies_that_are_not_spoken(proxy: str):
    with pytest.raises(UsageError, match="HTTPS_PROXY"):
        ProxyChooser({"https": proxy}).choose(parse_url("https://h/"))


def test_credentials():
    proxy = parse_url("http://us%40er:p%3Ass%C3%A9@p:1", allow_userinfo=True)
    kind, _, value = proxy_authorization(proxy).partition(" ")
    assert kind == "Basic" and base64.b64decode(value) == "us@er:p:ssé".encode()
    assert proxy_authorization(parse_url("http://p:1")) == ""
    assert proxy_label(proxy) == "proxy p:1" and "ss" not in repr(proxy)
