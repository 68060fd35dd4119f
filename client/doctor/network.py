"""Endpoints: which ones there are, and what it means how far a probe came."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ...common.channel import split_host, uses_tls
from ...common.errors import ExitCode, ShoalError, UsageError
from ...common.http.proxies import ProxyChooser, proxy_label
from ...common.http.tls import TlsOptions
from ...common.http.url import Url, is_ip_literal, parse_url
from ...common.units import format_duration
from ...common.uri import HttpUri
from ...common.version import VERSION
from ...common.wiring import proxies, tls_options, user_agent
from .certificates import read_certificate, refusal, validity
from .fleet import coordinator_ahead_s
from .probing import Probed, Stage, Target, probe
from .records import Finding, failed, failed_by, ok, skipped, warning

if TYPE_CHECKING:
    from ...common.settings import Settings
    from .visit import Visit

HUB_PROBE: Final = "/api/models?limit=1"
"""Answered by the Hub and by its mirrors, cheap, and JSON: a blocking proxy or a sign-in page answers HTML."""

CLOCK_WARNING_S: Final = 60.0
CLOCK_FAILED_S: Final = 300.0
"""Five minutes: beyond that S3 stores (15 min) and Kerberos (5 min) begin to refuse, and signed URLs are dead on arrival."""

_COORDINATOR = "coordinator"


# ---- which endpoints ----------------------------------------------------------------------------------------------------


def targets(settings: Settings, environ: Mapping[str, str], uris: Sequence[object]) -> list[Target]:
    """Every endpoint that is configured or named, once each. Raises UsageError for a proxy that makes no sense."""
    chooser = ProxyChooser(proxies(settings, environ))
    found: dict[tuple[str, int, str], Target] = {}

    def add(text: str, what: str, tls: TlsOptions, ca_setting: str, *, is_hub: bool = False) -> None:
        url = parse_url(text)
        proxy = chooser.choose(url)
        origin = proxy_origin(settings, environ, url.scheme) if proxy is not None else ""
        target = Target(
            url=url, what=what, tls=tls, ca_setting=ca_setting, is_hub=is_hub, proxy=proxy, proxy_origin=origin
        )
        found.setdefault((url.host, url.port, what if is_hub else ""), target)

    if not settings.hub.offline:
        for endpoint in settings.hub.endpoint:
            add(
                endpoint.rstrip("/") + HUB_PROBE,
                "Hub endpoint",
                tls_options(settings, hub=True),
                "hub.ca_bundle",
                is_hub=True,
            )
    for name, store in settings.s3.items():
        if store.endpoint:
            tls = TlsOptions(verify=store.verify_tls, ca_bundle=str(store.ca_bundle or ""))
            add(store.endpoint.rstrip("/") + "/", f"store of profile {name}", tls, f"s3.{name}.ca_bundle")
    for uri in uris:
        if isinstance(uri, HttpUri):
            add(f"{uri.origin}/", "source", tls_options(settings, hub=False), "fetch.ca_bundle")
    coordinator = _coordinator(settings)
    return [*found.values(), *([coordinator] if coordinator is not None else [])]


def _coordinator(settings: Settings) -> Target | None:
    """The coordinator where it speaks TLS: its certificate is looked at as any other. gRPC goes through no proxy."""
    address = settings.coordinator.address
    if not address or not uses_tls(address, settings.security):
        return None
    host, port = split_host(address)
    url = Url(scheme="https", host=host.lower(), port=port, target="/")
    tls = TlsOptions(ca_bundle=str(settings.security.tls_ca or ""))
    return Target(url=url, what=_COORDINATOR, tls=tls, ca_setting="security.tls_ca", asks_http=False)


def proxy_origin(settings: Settings, environ: Mapping[str, str], scheme: str) -> str:
    """Where the proxy for a scheme was set, for people."""
    if settings.fetch.proxy:
        return f"fetch.proxy ({settings.origin_of('fetch.proxy')})"
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
        if environ.get(name, "").strip():
            return f"environment variable {name}"
    return "the environment"


async def probes(visit: Visit) -> list[Probed]:
    """How far each endpoint was reached. Raises UsageError for a proxy or CA bundle that cannot be used."""
    found = await visit.once("targets", lambda: _targets(visit))

    async def one(target: Target) -> Probed:
        # No step may take longer than downloads would wait for it, or than the check has.
        limit_s = min(visit.settings.fetch.connect_timeout, visit.wishes.timeout_s)
        try:
            return await probe(target, timeout_s=limit_s, user_agent=user_agent(VERSION))
        except ShoalError as error:  # of this target alone, such as its CA bundle
            return Probed(target=target, stage=Stage.TLS, error=error)

    async def all_of_them() -> list[Probed]:
        return list(await asyncio.gather(*map(one, found)))

    return await visit.once("probes", all_of_them)


async def _targets(visit: Visit) -> list[Target]:
    return targets(visit.settings, visit.wishes.environ, visit.wishes.uris)


# ---- the checks ---------------------------------------------------------------------------------------------------------


async def check_dns(visit: Visit) -> list[Finding]:
    """Names to addresses."""
    judged = await _judged(visit, judge_dns, "every endpoint is named by its address")
    if visit.settings.hub.offline:
        judged = [_offline(visit), *(found for found in judged if found.subject)]
    return list(dict.fromkeys(judged))


async def check_connect(visit: Visit) -> list[Finding]:
    """TCP connections."""
    return await _judged(visit, judge_connect, "no endpoint is to be asked without a proxy")


async def check_proxy(visit: Visit) -> list[Finding]:
    """Proxies: which, from where, and whether they let us through. Raises UsageError for one that makes no sense."""
    await visit.once("targets", lambda: _targets(visit))
    return await _judged(visit, judge_proxy, "no proxy is set for any endpoint")


async def check_tls(visit: Visit) -> list[Finding]:
    """Certificates."""
    now = time.time()
    return await _judged(visit, lambda seen: judge_tls(seen, now), "no endpoint speaks TLS")


async def check_http(visit: Visit) -> list[Finding]:
    """Answers."""
    return await _judged(visit, judge_http, "no endpoint is to be asked")


async def _judged(visit: Visit, judge: Callable[[Probed], Finding | None], nothing: str) -> list[Finding]:
    """What each probe means to one check; nothing says why there may be none."""
    try:
        seen = await probes(visit)
    except UsageError as error:
        return [skipped(f"{error.thing}: {error.cause}")]  # for the check proxy to complain of
    return [finding for each in seen if (finding := judge(each)) is not None] or [skipped(nothing)]


async def check_clock(visit: Visit) -> list[Finding]:
    """This machine's clock against those of the servers that answered."""
    try:
        seen = await probes(visit)
    except UsageError:
        seen = []
    ahead = {each.target.label: each.ahead_s for each in seen if each.ahead_s is not None}
    coordinator = await coordinator_ahead_s(visit)
    if coordinator is not None:
        ahead[f"{_COORDINATOR} {visit.settings.coordinator.address}"] = coordinator
    return judge_clock(ahead)


def _offline(visit: Visit) -> Finding:
    return skipped(
        f"hub.offline is set ({visit.settings.origin_of('hub.offline')}): the Hub is not asked", subject="Hub"
    )


# ---- what a probe means -------------------------------------------------------------------------------------------------


def judge_dns(seen: Probed) -> Finding | None:
    """The name of the endpoint, or of the proxy that will look it up. None for an address."""
    target = seen.target
    hop = target.proxy or target.url
    if seen.stage is Stage.DNS:
        remedy = f"check {target.proxy_origin} and the resolver (/etc/resolv.conf)"
        if target.proxy is None:
            remedy = f"check the name in {target.what} and the resolver (/etc/resolv.conf); "
            remedy += "compute nodes often need a proxy or a mirror: docs/corporate-network.md"
        assert seen.error is not None
        return failed_by(seen.error, subject=hop.host, remedy=remedy)
    if is_ip_literal(hop.host):
        return None
    by_proxy = " (the proxy's own name; it looks up the others)" if target.proxy else ""
    return ok(f"{', '.join(seen.addresses[:3])}{by_proxy}", subject=hop.host)


def judge_connect(seen: Probed) -> Finding | None:
    """The TCP connection, without a proxy."""
    target = seen.target
    if target.proxy is not None:
        return None
    if seen.stage < Stage.CONNECT:
        return skipped("its name is not known", subject=target.label)
    if seen.stage is Stage.CONNECT:
        assert seen.error is not None
        remedy = f"ask for TCP to {target.label} to be opened, or set HTTPS_PROXY if only a proxy leads out"
        if target.what == _COORDINATOR:
            remedy = "start it with shoal coordinator, or check the address and the firewall"
        elif is_ip_literal(target.url.host) and _is_private(target.url.host):
            remedy = f"check that the server runs and its address in {target.what}"
        return failed_by(seen.error, subject=target.label, remedy=remedy)
    return ok(f"connected in {format_duration(max(seen.connect_s, 0.001))}", subject=target.label)


def judge_proxy(seen: Probed) -> Finding | None:
    """The proxy: reached, and willing. None where none is in the way."""
    target = seen.target
    if target.proxy is None:
        return None
    subject = f"{proxy_label(target.proxy)} to {target.label}"
    if seen.stage is Stage.DNS:
        return skipped("its name is not known", subject=subject)
    origin = f"set by {target.proxy_origin}"
    if seen.stage is Stage.PROXY:
        assert seen.error is not None
        cause = f"{seen.error.cause} ({origin})"
        if "answered 407" in seen.error.cause:
            return failed(cause, subject=subject, remedy=_WANTS_PASSWORD)
        if "to CONNECT" in seen.error.cause:
            remedy = f"ask the network team to allow CONNECT to {target.label}, or set NO_PROXY if it is inside"
            return failed(cause, subject=subject, remedy=remedy)
        remedy = f"check {target.proxy_origin}, or set NO_PROXY for hosts that are reached without it"
        return failed(cause, subject=subject, remedy=remedy)
    if seen.stage is Stage.DONE and seen.status == 407:
        return failed(f"the proxy answered 407 ({origin})", subject=subject, remedy=_WANTS_PASSWORD)
    return ok(f"lets us through, {origin}", subject=subject)


_WANTS_PASSWORD = (
    "give it a user name and password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT (docs/corporate-network.md)"
)


def judge_tls(seen: Probed, now: float) -> Finding | None:
    """The certificate. None where there is no TLS. now: seconds since 1970."""
    target = seen.target
    if target.url.scheme != "https":
        return None
    if seen.stage < Stage.TLS:
        return skipped("there is no connection", subject=target.label)
    shown = read_certificate(seen.certificate)
    exit_code = ExitCode.UNREACHABLE if target.what == _COORDINATOR else ExitCode.FAILED
    if seen.stage is Stage.TLS:
        assert seen.error is not None
        if seen.verify_code:
            cause, remedy = refusal(
                seen.verify_code, seen.verify_message, shown, host=target.url.host, setting=target.ca_setting
            )
            return failed(cause, subject=target.label, remedy=remedy, exit_code=exit_code)
        if isinstance(seen.error, UsageError):
            remedy = f"set {target.ca_setting} to a PEM file"
            return failed_by(seen.error, subject=target.label, remedy=remedy)
        remedy = seen.error.remedy or f"something on the way cuts TLS off: ask the network team to allow {target.label}"
        return failed_by(seen.error, subject=target.label, remedy=remedy)
    if not target.tls.verify:
        who = f' (issued by "{shown.issuer}")' if shown is not None else ""
        remedy = f"set {target.ca_setting} to your organisation's CA file instead of verify_tls = false"
        return warning(
            f"its certificate{who} is not checked: anybody on the way can read and change what is fetched",
            subject=target.label,
            remedy=remedy,
        )
    told, soon = validity(shown, now)
    if soon:
        return warning(f"{told}: that is soon", subject=target.label, remedy="tell its owner to renew the certificate")
    return ok(f"{seen.tls_version}, {told}", subject=target.label)


def judge_http(seen: Probed) -> Finding | None:
    """What the server answers. None where it is not asked."""
    target = seen.target
    if not target.asks_http:
        return None
    if seen.stage < Stage.HTTP:
        return skipped("there is no connection", subject=target.label)
    if seen.stage is Stage.HTTP:
        assert seen.error is not None
        return failed_by(seen.error, subject=target.label, remedy="try again; if it stays so, ask its owner")
    if seen.status == 407 and target.proxy is not None:
        return skipped("the proxy answered in its place", subject=target.label)
    kind = seen.headers.get("content-type").partition(";")[0].strip().lower()
    said = f"{target.what} answers {seen.status}"
    if seen.status == 511 or (target.is_hub and kind == "text/html"):
        return failed(
            f"{said} with a web page where the Hub's API was asked for",
            subject=target.label,
            remedy="a blocking proxy or a sign-in page answers in its place: open it in a browser, and ask the network team "
            "to allow the host; or set hub.endpoint to a mirror",
        )
    if seen.status == 429:
        return warning(
            f"{said}: it asks to slow down", subject=target.label, remedy="wait; a token raises the Hub's limit"
        )
    if target.is_hub and seen.status in (403, 404):
        remedy = (
            "if downloads fail, check hub.endpoint, and whether a proxy refuses the host: mirrors need not answer this"
        )
        return warning(f"{said} to a listing of its API", subject=target.label, remedy=remedy)
    if seen.status >= 500:
        return failed(said, subject=target.label, remedy="the server has trouble: try again later, or name a mirror")
    return ok(said, subject=target.label)


def judge_clock(ahead_s: Mapping[str, float]) -> list[Finding]:
    """This machine's clock, by how far each server's is ahead of it (seconds).

    If any server agrees with us our clock is right, and those that differ are wrong. If none does, the nearest says by
    how much we are off at least.
    """
    if not ahead_s:
        return [skipped("no server answered with the time")]
    nearest = min(ahead_s, key=lambda host: abs(ahead_s[host]))
    off_s = ahead_s[nearest]
    if abs(off_s) >= CLOCK_WARNING_S:
        way = "behind" if off_s > 0 else "ahead of"
        seen = f"this machine's clock is {format_duration(abs(off_s))} {way} that of {nearest}"
        remedy = "set it: enable NTP (timedatectl set-ntp true, or chrony)"
        if abs(off_s) < CLOCK_FAILED_S:
            return [warning(seen, remedy=remedy)]
        return [failed(f"{seen}: certificates, tokens and signed URLs are judged wrongly", remedy=remedy)]
    findings = [ok(f"within {format_duration(max(1.0, float(round(abs(off_s)))))} of {nearest}")]
    for host, other_s in ahead_s.items():
        if abs(other_s) >= CLOCK_WARNING_S:
            way = "ahead" if other_s > 0 else "behind"
            seen = f"its clock is {format_duration(abs(other_s))} {way}"
            findings.append(warning(seen, subject=host, remedy="tell its owner: signed URLs and caches go by it"))
    return findings


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False
