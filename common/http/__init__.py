"""A small HTTP/1.1 client for ranged downloads: bytes land in the caller's buffers.

::

    async with HttpClient(limits=HttpLimits(connections_per_host=16), user_agent="shoal/1") as client:
        async with await client.request(url, byte_range=(0, 8 << 20)) as response:
            while count := await response.read_into(buffer):
                ...

=====================  ===============================================  ==========
module                 reason to change                                 does I/O
=====================  ===============================================  ==========
message, body          the grammar of heads and bodies                  no
url, redirects         what may be asked, and of whom                   no
proxies                which proxy, NO_PROXY                            no
addresses              what strangers' URLs may lead to                 no
ratelimit_headers      what servers say about waiting                   no
tls                    whom to trust                                    reads CA files
connection             one connection: bytes to buffers, silence        yes
dial                   opening: addresses, race, tunnel, handshake      yes
pool                   who gets which connection                        by dial
client, response       the public face                                  by the above
=====================  ===============================================  ==========

The names below load their module at first use: a program that only splits a URL does not pay for asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import HttpClient
    from .dial import HttpLimits
    from .message import ContentRange, Headers
    from .proxies import proxies_for, proxies_from_environ
    from .ratelimit_headers import RateLimit, parse_ratelimit, parse_retry_after
    from .response import Response
    from .tls import TlsOptions
    from .url import Url, parse_url

__all__ = [
    "ContentRange",
    "Headers",
    "HttpClient",
    "HttpLimits",
    "RateLimit",
    "Response",
    "TlsOptions",
    "Url",
    "parse_ratelimit",
    "parse_retry_after",
    "parse_url",
    "proxies_for",
    "proxies_from_environ",
]

_MODULES = {
    "ContentRange": "message",
    "Headers": "message",
    "HttpClient": "client",
    "HttpLimits": "dial",
    "RateLimit": "ratelimit_headers",
    "Response": "response",
    "TlsOptions": "tls",
    "Url": "url",
    "parse_ratelimit": "ratelimit_headers",
    "parse_retry_after": "ratelimit_headers",
    "parse_url": "url",
    "proxies_for": "proxies",
    "proxies_from_environ": "proxies",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value
