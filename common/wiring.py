"""From settings to the HTTP clients' options: one place, because coordinator and agent must treat TLS and proxies alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .http import HttpClient, HttpLimits, TlsOptions, proxies_for
from .logs import get_logger
from .policy import policy_of

if TYPE_CHECKING:
    from .s3_profiles import S3Profiles
    from .secrets import Secret
    from .settings import Settings

TOKEN_REREAD_S = 5.0
"""A token is asked for with every file: opening its file each time cost as much as receiving a small file's bytes."""

log = get_logger("http")


def user_agent(version: str) -> str:
    """The User-Agent header: who asks, and in which version."""
    return f"shoal/{version}"


def proxies(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Proxies by scheme: `fetch.proxy` for everything, else what the environment says."""
    return proxies_for(settings.fetch.proxy, environ)


def tls_options(settings: Settings, *, hub: bool) -> TlsOptions:
    """TLS towards the Hub (and its file servers), or towards all other origins."""
    section = settings.hub if hub else settings.fetch
    return TlsOptions(verify=section.verify_tls, ca_bundle=str(section.ca_bundle or ""))


def http_client(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    hub: bool,
    version: str,
    live: Callable[[], Settings] | None = None,
) -> HttpClient:
    """A client for listing sources. Not opened yet: use it as an async context manager.

    live: the settings in force, for what can change (`reloading`).
    """
    current = live or (lambda: settings)
    return HttpClient(
        limits=HttpLimits(
            connect_timeout_s=settings.fetch.connect_timeout,
            read_timeout_s=settings.fetch.read_timeout,
            connections_per_host=settings.fetch.connections_per_host,
        ),
        user_agent=user_agent(version),
        tls=tls_options(settings, hub=hub),
        proxies=proxies(settings, environ),
        https_only=lambda: current().security.https_only,
        check_host=lambda host: policy_of(current()).check_denied_host(host),
    )


def s3_profiles(settings: Settings, *, version: str) -> S3Profiles:
    """The stores of S3-compatible sources. Nothing is read or asked before one is used."""
    from .s3_profiles import S3Profiles

    proxy = settings.fetch.proxy
    return S3Profiles(
        settings, proxies={"http": proxy, "https": proxy} if proxy else {}, user_agent=user_agent(version)
    )


def hub_token(
    settings: Settings | Callable[[], Settings], clock: Callable[[], float] = time.monotonic
) -> Callable[[], Secret | None]:
    """Where the Hub token is asked for, again and again: files and credentials rotate. It is read anew every few seconds.

    settings: what gives them, where they can change; clock: seconds.
    """
    read_at = float("-inf")
    token: Secret | None = None

    def current() -> Secret | None:
        nonlocal read_at, token
        if clock() - read_at >= TOKEN_REREAD_S:
            in_force = settings() if callable(settings) else settings
            token, read_at = in_force.hub.token.resolve(), clock()
        return token

    return current


def warn_of_open_tls(settings: Settings) -> None:
    """One loud warning when certificates are not checked."""
    off = [name for name, on in (("hub", settings.hub.verify_tls), ("fetch", settings.fetch.verify_tls)) if not on]
    off += [f"s3.{name}" for name, store in settings.s3.items() if not store.verify_tls]
    if off:
        log.warning(
            "tls.verification_off",
            sections=", ".join(off),
            meaning="anybody on the way can read and change what is fetched",
            remedy="set ca_bundle to your company's certificate instead",
        )
