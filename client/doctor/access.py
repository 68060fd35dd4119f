"""May we read what we were asked for: the Hub token and its rights, the sources, S3 credentials, the first byte of each source."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ...common.channel import is_loopback
from ...common.errors import AccessDenied, ConnectFailed, ExitCode, ShoalError, TimedOut, TransferError
from ...common.http.url import host_port, parse_url
from ...common.hub_auth import authorization_for
from ...common.hub_errors import HubSubject, hub_error
from ...common.records import ObjectSpec
from ...common.s3_errors import store_error
from ...common.units import format_size
from ...common.uri import HttpUri, HubUri, S3Uri, SourceUri
from ...common.version import VERSION
from ...common.views import SubmitRequest
from ...common.wiring import http_client, s3_profiles
from .records import Finding, failed, failed_by, ok, skipped, warning
from .visit import in_thread

if TYPE_CHECKING:
    from ...common.settings import Settings
    from .visit import Visit

WHOAMI = "/api/whoami-v2"
WHOAMI_BYTES_MAX = 1 << 20  # it lists all organisations of the account
_READ = "repo.content.read"


# ---- the Hub token ------------------------------------------------------------------------------------------------------


async def check_token(visit: Visit) -> list[Finding]:
    """Whose the token is, and what it may do."""
    settings = visit.settings
    if settings.hub.offline:
        return [skipped("hub.offline is set: the Hub is not asked")]
    token = settings.hub.token.resolve()
    if token is None:
        if "token" in visit.wishes.named:
            return [warning("none is set", remedy="set HF_TOKEN, hub.token_file, or log in with `hf auth login`")]
        return [skipped("none is set: public repos need none, private and gated ones do (HF_TOKEN, hub.token_file)")]
    origin = str(settings.origin_of("hub.token"))
    findings: list[Finding] = []
    async with http_client(settings, visit.wishes.environ, hub=True, version=VERSION) as http:
        for endpoint in (text.rstrip("/") for text in settings.hub.endpoint):
            exposed = judge_exposure(endpoint)
            if exposed is not None:
                findings.append(exposed)
            authorization = authorization_for(endpoint + WHOAMI, [endpoint], token)
            try:
                async with await http.request(endpoint + WHOAMI, authorization=authorization) as response:
                    body = await response.read(WHOAMI_BYTES_MAX) if response.status == 200 else b""
                    findings.append(judge_token(endpoint, response.status, response.headers, body, origin))
            except TransferError as error:
                findings.append(skipped(f"no answer: {error.cause}", subject=endpoint))
            except ShoalError as error:
                findings.append(failed_by(error, subject=endpoint))
    return findings


def judge_exposure(endpoint: str) -> Finding | None:
    """A token that travels in plain text over a network."""
    url = parse_url(endpoint)
    if url.scheme == "https" or is_loopback(host_port(url.host, url.port)):
        return None
    seen = "the token travels to it in plain text: anybody on the way can take it"
    return warning(seen, subject=endpoint, remedy="use an https endpoint, or no token with this one")


def judge_token(endpoint: str, status: int, headers: Any, body: bytes, origin: str) -> Finding:
    """What the answer to whoami says of the token. origin: where the token came from."""
    if status == 200:
        try:
            answer: object = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            return skipped("its answer about the token makes no sense", subject=endpoint)
        return _rights(endpoint, cast("Mapping[str, object]", answer), origin)
    if status == 404:
        return skipped("it does not say whose the token is, as mirrors do not", subject=endpoint)
    if status == 401:
        return failed(
            f"it does not accept the token from {origin}",
            subject=endpoint,
            remedy="make a new one (a read token is enough) at https://huggingface.co/settings/tokens",
            exit_code=ExitCode.NO_ACCESS,
        )
    subject = HubSubject(endpoint=endpoint, repo_kind="", repo_id="", authenticated=True)
    error = hub_error(subject, status, headers)
    return warning(
        f"the token could not be checked: {error.cause}", subject=endpoint, remedy=error.remedy or "try again"
    )


def _rights(endpoint: str, answer: Mapping[str, object], origin: str) -> Finding:
    token = _inner(_inner(answer, "auth"), "accessToken")
    role = token.get("role")
    fine = _inner(token, "fineGrained")
    who = f"of {str(answer.get('name') or 'an account without a name')[:100]}, from {origin}"
    if role != "fineGrained":
        return ok(f"{who}{f', role {str(role)[:20]}' if role else ''}", subject=endpoint)
    scoped = fine.get("scoped")
    granted = {
        str(right)
        for scope in (cast("list[object]", scoped) if isinstance(scoped, list) else [])
        if isinstance(scope, dict)
        for right in cast("list[object]", cast("dict[str, Any]", scope).get("permissions") or [])
    }
    gated = bool(fine.get("canReadGatedRepos"))
    rights = [*(["private repos"] if _READ in granted else []), *(["gated repos"] if gated else [])]
    told = f"{who}, fine-grained, may read {' and '.join(rights) if rights else 'public repos alone'}"
    if gated and rights:
        return ok(told, subject=endpoint)
    remedy = "for gated repos, tick 'read access to contents of all public gated repos' in the token's settings"
    return warning(told, subject=endpoint, remedy=remedy)


def _inner(table: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = table.get(key)
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


# ---- sources ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """What a source holds. Bytes; objects of unknown size count as 0."""

    name: str  # the URI with its commit
    endpoint: str  # of the Hub, that answered
    objects: int
    total_bytes: int
    refused: int
    largest: ObjectSpec | None


async def planned(visit: Visit, uri: SourceUri) -> Planned:
    """The source's listing, by the planner's own code. Raises ShoalError."""
    return await visit.once(f"plan {uri.canonical()}", lambda: _plan(visit, uri))


async def _plan(visit: Visit, uri: SourceUri) -> Planned:
    from ..embedded import described
    from ..embedded import planned as resolved_sources

    request = SubmitRequest(uris=(uri.canonical(),), profile=visit.wishes.profile if isinstance(uri, S3Uri) else "")
    objects = total = 0
    largest: ObjectSpec | None = None
    async for resolved, source in resolved_sources(visit.settings, request):
        async for page in source.pages():
            objects += len(page)
            total += sum(spec.size or 0 for spec in page)
            largest = max([*page, *([largest] if largest else [])], key=lambda spec: spec.size or 0)
        endpoint = resolved.endpoints[0] if resolved.endpoints else ""
        return Planned(
            name=described(resolved),
            endpoint=endpoint,
            objects=objects,
            total_bytes=total,
            refused=source.refused_count,
            largest=largest,
        )
    raise AssertionError("a request with one URI has one source")


async def check_sources(visit: Visit) -> list[Finding]:
    """Whether each source is there and may be listed, within the rules of this site."""
    findings: list[Finding] = []
    for uri in visit.wishes.uris:
        try:
            plan = await planned(visit, uri)
        except ShoalError as error:
            findings.append(failed_by(error, subject=str(uri)))
            continue
        told = f"{plan.objects:,} {'file' if plan.objects == 1 else 'files'}, {format_size(plan.total_bytes)}"
        if plan.refused:
            remedy = "shoal get --dry-run names them and says why"
            findings.append(warning(f"{told}; {plan.refused} refused", subject=plan.name, remedy=remedy))
        else:
            findings.append(ok(told, subject=plan.name))
    return findings or [skipped("no URI was named")]


async def check_bytes(visit: Visit) -> list[Finding]:
    """Whether bytes come: a listing is served by other machines than the files are."""
    findings: list[Finding] = []
    for uri in visit.wishes.uris:
        if isinstance(uri, S3Uri):
            continue  # check_s3 reads one
        try:
            plan = await planned(visit, uri)
        except ShoalError:
            findings.append(skipped("it could not be listed", subject=str(uri)))
            continue
        if plan.largest is not None and isinstance(uri, HubUri | HttpUri):
            findings.append(await _first_byte(visit, uri, plan, plan.largest))
    return findings or [skipped("no URI of a web server or the Hub was named")]


async def _first_byte(visit: Visit, uri: HubUri | HttpUri, plan: Planned, spec: ObjectSpec) -> Finding:
    settings = visit.settings
    is_hub = isinstance(uri, HubUri)
    url = f"{plan.endpoint}/{spec.url.lstrip('/')}" if is_hub else spec.url
    token = settings.hub.token.resolve() if is_hub else None
    authorization = authorization_for(url, settings.hub.endpoint, token)
    subject = f"{uri} {spec.path}"
    asked = [parse_url(url).host]

    async def note(onward: str) -> None:
        asked.append(parse_url(onward).host)

    byte_range = (0, 1) if spec.size else None
    try:
        async with http_client(settings, visit.wishes.environ, hub=is_hub, version=VERSION) as http:
            answer = await http.request(url, authorization=authorization, byte_range=byte_range, before_redirect=note)
            async with answer as response:
                if response.status >= 400:
                    return _refused_byte(uri, plan, spec, response.status, response.headers, asked, token is not None)
                got = await response.read(1) if spec.size and response.status == 206 else b""
    except TransferError as error:
        remedy = error.remedy or "ask the network team to open this host, too"
        if isinstance(error, ConnectFailed | TimedOut) and len(asked) > 1:
            remedy = f"files come from {asked[-1]}: ask the network team to open that host, too"
        return failed_by(error, subject=subject, remedy=remedy)
    told = "ranges are not served: one connection a file" if spec.size and not got else "bytes come"
    return ok(f"{told}, from {asked[-1]}", subject=subject)


def _refused_byte(
    uri: HubUri | HttpUri,
    plan: Planned,
    spec: ObjectSpec,
    status: int,
    headers: Any,
    asked: list[str],
    with_token: bool,
) -> Finding:
    subject = f"{uri} {spec.path}"
    if isinstance(uri, HubUri) and len(asked) == 1:
        hub = HubSubject(
            endpoint=plan.endpoint,
            repo_kind=str(uri.kind),
            repo_id=uri.repo_id,
            path=spec.path,
            authenticated=with_token,
        )
        return failed_by(hub_error(hub, status, headers), subject=subject)
    error: ShoalError = TransferError(subject, cause=f"{asked[-1]} answers {status}")
    if status in (401, 403):
        remedy = f"check whether a proxy blocks {asked[-1]}, where the files come from"
        error = AccessDenied(subject, cause=f"{asked[-1]} answers {status}", remedy=remedy)
    return failed_by(error, subject=subject)


# ---- S3 -----------------------------------------------------------------------------------------------------------------


async def check_s3(visit: Visit) -> list[Finding]:
    """Whether each profile's keys are accepted: by one listing of one key, and the first byte of it."""
    named = [(visit.wishes.profile, uri.bucket, uri.key) for uri in visit.wishes.uris if isinstance(uri, S3Uri)]
    configured = [(name, store.bucket, "") for name, store in visit.settings.s3.items()]
    covered = {profile.lower() for profile, _, _ in named}
    pairs = named + [pair for pair in configured if pair[0] not in covered]
    if not pairs:
        return [skipped("no profile is configured and no s3:// URI was named")]
    return [await in_thread(lambda pair=pair: _try_store(_impatient(visit), *pair)) for pair in pairs]


def _impatient(visit: Visit) -> Settings:
    """The settings with timeouts that leave the check time to tell what happened."""
    fetch, limit_s = visit.settings.fetch, visit.wishes.timeout_s / 4
    shorter = dataclasses.replace(
        fetch, connect_timeout=min(fetch.connect_timeout, limit_s), read_timeout=min(fetch.read_timeout, limit_s)
    )
    return dataclasses.replace(visit.settings, fetch=shorter)


def _try_store(settings: Settings, profile: str, bucket: str, key: str) -> Finding:
    """In a thread."""
    thing = f"s3://{bucket}/{key}" if bucket else f"profile {profile}"
    label = f"{thing} (profile {profile})" if bucket and profile else thing
    endpoint = ""
    try:
        store = s3_profiles(settings, version=VERSION).store(profile)
        store.credentials(thing)
        if not bucket:
            own = settings.s3.get(profile)
            where = f" for {own.endpoint}" if own is not None and own.endpoint else ""
            return skipped(
                f"keys are there{where}; name a bucket in the profile, or an s3:// URI, to try them", subject=label
            )
        place = store.place(bucket, thing)
        endpoint = place.endpoint
        try:
            answer: Any = place.client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
            found: list[dict[str, Any]] = answer.get("Contents") or []
            sized = [entry for entry in found if entry.get("Size")]
            if sized:
                body = place.client.get_object(Bucket=bucket, Key=sized[0]["Key"], Range="bytes=0-0")["Body"]
                body.close()
        except Exception as error:
            raise store_error(error, thing=thing, profile=profile, endpoint=endpoint) from None
    except ShoalError as error:
        return failed_by(error, subject=label)
    what = "listing and reading are allowed" if sized else "listing is allowed; there is nothing to read"
    return ok(f"{what}, at {endpoint}", subject=label)
