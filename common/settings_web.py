"""The table of settings of the web page and the REST API: section ``[web]``."""

# ruff: noqa: RUF009  # setting() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from .secrets import SecretRef
from .settings_fields import setting
from .settings_kinds import (
    DURATION,
    OPTIONAL_ADDRESS,
    OPTIONAL_PATH,
    SECRET,
    SIZE,
    TEXT,
    BadValue,
    Context,
    Kind,
    choice,
    list_of,
    url,
)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252})|\[[0-9a-f:.]{2,45}\]")


def _network(value: object, _context: Context) -> Network:
    try:
        return ipaddress.ip_network(value, strict=False) if isinstance(value, str) else _bad_network()
    except ValueError:
        return _bad_network()


def _bad_network() -> Network:
    raise BadValue('must be an address or a network, such as "127.0.0.1" or "10.0.0.0/8"')


NETWORK: Kind[Network] = Kind(label="network", parse=_network, from_text=lambda text: text, show=str)


def _prefix(value: object, _context: Context) -> str:
    text = value.strip().rstrip("/") if isinstance(value, str) else None
    if text is None or not _PREFIX.fullmatch(text) or ".." in text.split("/") or "." in text.split("/"):
        raise BadValue('must be a path such as "/hf-downloader", or empty')
    return text


def _host_name(value: object, _context: Context) -> str:
    text = value.strip().lower().rstrip(".") if isinstance(value, str) else ""
    if not _NAME.fullmatch(text):
        raise BadValue('must be the name of a host without a port, such as "models.example.org"')
    return text


URL_PREFIX: Kind[str] = Kind(label="path", parse=_prefix, from_text=lambda text: text, show=lambda text: text)
HOST_NAME: Kind[str] = Kind(label="host", parse=_host_name, from_text=lambda text: text, show=lambda text: text)


@dataclass(frozen=True, kw_only=True, slots=True)
class WebSettings:
    listen: str = setting(
        OPTIONAL_ADDRESS,
        "",
        "Where the coordinator serves its web page and REST API (usual port: 7071). Empty: nowhere.",
    )
    base_url: str = setting(URL_PREFIX, "", "Path that everything lies below, such as /shoal behind a proxy.")
    login: Literal["auto", "always"] = setting(
        choice("auto", "always"), "auto", "Who must log in. auto: everybody but the users of this machine."
    )
    user: str = setting(TEXT, "admin", "Name to log in with.")
    password_hash: SecretRef = setting(SECRET, "", "What shoal web password printed. Admin tokens work without it.")
    password_hash_env: str = setting(TEXT, "", "Name of the environment variable that holds the hash.")
    password_hash_file: str = setting(TEXT, "", "File, or name of a systemd credential, that holds the hash.")
    session_life: float = setting(DURATION, "12h", "How long a login lasts.")
    tls_cert: Path | None = setting(OPTIONAL_PATH, "", "PEM certificate of the page. Empty: security.tls_cert.")
    tls_key: Path | None = setting(OPTIONAL_PATH, "", "PEM private key of the page. Empty: security.tls_key.")
    trusted_proxies: tuple[Network, ...] = setting(
        list_of(NETWORK), [], "Reverse proxies whose X-Forwarded-For, -Proto and -Host are believed."
    )
    allowed_hosts: tuple[str, ...] = setting(
        list_of(HOST_NAME), [], "Host names that the page is called by, besides addresses and this machine's name."
    )
    allowed_origins: tuple[str, ...] = setting(
        list_of(url()), [], "Origins of other pages that may make changes. The page's own origin always may."
    )
    destinations: tuple[str, ...] = setting(
        list_of(TEXT), [], "Folders that downloads from the page may go to, hf-cache for the Hub's cache. Empty: all."
    )
    file_sources: tuple[str, ...] = setting(
        list_of(TEXT), [], "Folders whose files may be named as file:// sources through the page. Empty: none."
    )
    max_body: int = setting(SIZE, "1MiB", "Largest body of a request.")
