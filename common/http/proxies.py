"""Which proxy a request goes through: the usual environment variables, NO_PROXY and its forms. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import Refused, UsageError
from .url import Url, host_port, is_ip_literal, parse_url


def proxies_for(proxy: str, environ: Mapping[str, str]) -> dict[str, str]:
    """``proxy`` for every scheme; where it is empty, what the environment says."""
    return {"all": proxy} if proxy else proxies_from_environ(environ)


def proxies_from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxies that an environment names: keys ``http``, ``https``, ``all`` and ``no``, those that are set.

    Lower-case names win. HTTP_PROXY in capitals is ignored in a CGI program: there a request's ``Proxy`` header sets it
    (CVE-2016-5385).
    """
    found: dict[str, str] = {}
    for key in ("http", "https", "all", "no"):
        upper = "" if key == "http" and "REQUEST_METHOD" in environ else environ.get(f"{key}_proxy".upper(), "")
        value = environ.get(f"{key}_proxy", upper).strip()
        if value:
            found[key] = value
    return found


class ProxyChooser:
    """Chooses the proxy of a URL out of a mapping as ``proxies_from_environ`` makes it."""

    def __init__(self, proxies: Mapping[str, str] | None) -> None:
        self._proxies = dict(proxies or {})
        self._parsed: dict[str, Url] = {}
        self._exceptions = [entry for entry in self._proxies.get("no", "").replace(",", " ").lower().split() if entry]

    def choose(self, url: Url) -> Url | None:
        """The proxy for ``url``; None: go straight. Raises UsageError for a proxy that is not an http URL."""
        text = self._proxies.get(url.scheme) or self._proxies.get("all", "")
        if not text or any(_matches(entry, url.host, url.port) for entry in self._exceptions):
            return None
        if text not in self._parsed:
            self._parsed[text] = _parse_proxy(text, url.scheme)
        return self._parsed[text]


def _parse_proxy(text: str, scheme: str) -> Url:
    remedy = f"set {scheme.upper()}_PROXY to http://HOST:PORT, or HOST to NO_PROXY"
    if "://" not in text:
        text = f"http://{text}"
    try:
        proxy = parse_url(text, allow_userinfo=True)
    except Refused as error:
        raise UsageError(f"the proxy for {scheme}", cause=error.cause, remedy=remedy) from None
    if proxy.scheme != "http":
        raise UsageError(
            f"the proxy for {scheme}", cause="only proxies that are reached by http are supported", remedy=remedy
        )
    return proxy


def proxy_authorization(proxy: Url) -> str:
    """The value of Proxy-Authorization for the user name and password in the proxy's URL; empty without them."""
    if not proxy.userinfo:
        return ""
    from base64 import b64encode
    from urllib.parse import unquote_to_bytes

    user, _, password = proxy.userinfo.partition(":")
    return "Basic " + b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode("ascii")


def _matches(entry: str, host: str, port: int) -> bool:
    """Does a NO_PROXY entry name this host? ``*``, a name with its subdomains, an address, a CIDR block; each may end in ``:port``."""
    if entry == "*":
        return True
    if "/" in entry:
        return is_ip_literal(host) and _in_block(host, entry)
    name, separator, port_text = entry.rpartition(":")
    if separator and port_text.isdecimal() and (":" not in name or name.endswith("]")):
        if int(port_text) != port:
            return False
        entry = name
    entry = entry.removeprefix("*").removeprefix(".").removeprefix("[").removesuffix("]")
    if not entry:
        return False
    return host == entry or (not is_ip_literal(host) and host.endswith(f".{entry}"))


def _in_block(host: str, block: str) -> bool:
    import ipaddress  # only for those who write blocks

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(block, strict=False)
    except ValueError:
        return False


def proxy_label(proxy: Url) -> str:
    """The proxy for errors: host and port, never its password."""
    return f"proxy {host_port(proxy.host, proxy.port)}"
