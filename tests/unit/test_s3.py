"""S3-compatible stores without a store: URLs, signatures, profiles, errors, and what a listing becomes."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore import exceptions as boto
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials

from shoal.agent.engine.signatures import BATCH_MAX, KEPT_MAX, Signatures
from shoal.agent.engine.store_answers import error_code, part_of_answer, pinned_validator, store_answer_error
from shoal.agent.engine.tries import SignatureRefused, for_the_report
from shoal.common.errors import (
    AccessDenied,
    Changed,
    ConnectFailed,
    HttpStatus,
    NotFound,
    ProtocolViolation,
    RateLimited,
    Refused,
    ShoalError,
    TimedOut,
    TlsFailed,
    Unauthenticated,
    UnsafeName,
    UsageError,
)
from shoal.common.http import Headers
from shoal.common.records import JobSpec, Layout, ObjectSpec, OriginKind
from shoal.common.s3_errors import store_error
from shoal.common.s3_profiles import Place, S3Profiles
from shoal.common.s3_signing import SignedUrl, object_url, sign
from shoal.common.selection import Selection
from shoal.common.settings import load_settings
from shoal.common.uri import parse_uri
from shoal.coordinator.signing import UrlSigner
from shoal.coordinator.sources import Policy, Source, SourceContext, SourceRequest, open_source

ACCESS, SECRET, TOKEN = "AKIASHOALTESTKEY", "the/secret+key", "the-session-token"
ENDPOINT = "http://127.0.0.1:9000"
KEYS = ("a", "a b", "a+b", "a%25b", "ü/é", "a//b", "/lead", "~t.-_", "q?x=1&y#z", "(p)'!*", "x" * 900)


# -- URLs and signatures ----------------------------------------------------------------------------------------------


def client(**options: Any) -> Any:
    session = boto3.Session(aws_access_key_id=ACCESS, aws_secret_access_key=SECRET, region_name="eu-west-1")
    config = Config(signature_version="s3v4", s3={"addressing_style": options.pop("style", "path")})  # pyright: ignore[reportArgumentType]
    return cast(Any, session).client("s3", config=config, **options)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("style", "base_url"),
    [("path", f"{ENDPOINT}/bucket"), ("virtual", "https://bucket.s3.eu-west-1.amazonaws.com")],
)
def test_urls_and_signatures_are_botocores_own(key: str, style: str, base_url: str) -> None:
    theirs = client(style=style, endpoint_url=ENDPOINT if style == "path" else None).generate_presigned_url(
        "get_object", Params={"Bucket": "bucket", "Key": key}, ExpiresIn=3600
    )
    ours = object_url(base_url, key)
    assert ours == theirs.partition("?")[0]
    [signed] = sign([(7, ours)], ReadOnlyCredentials(ACCESS, SECRET, None), region="eu-west-1", valid_s=3600)
    assert (signed.object_id, signed.valid_s) == (7, 3600.0)
    left, right = parse_qs(urlsplit(theirs).query), parse_qs(urlsplit(signed.url).query)
    if left["X-Amz-Date"] == right["X-Amz-Date"]:  # else the second turned over between them
        assert left == right
    assert {**left, "X-Amz-Date": [], "X-Amz-Signature": []} == {**right, "X-Amz-Date": [], "X-Amz-Signature": []}


def test_a_signed_url_does_not_show_itself() -> None:
    assert "Signature" not in repr(SignedUrl(1, "https://x/y?X-Amz-Signature=abc", 10.0))


# -- profiles ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine's own AWS configuration has no part in this."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def profiles(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> S3Profiles:
    (tmp_path / "shoal.toml").write_text(text)
    settings = load_settings(environ=environ or {"HOME": str(tmp_path)}, cwd=tmp_path)
    return S3Profiles(settings, proxies={}, user_agent="shoal/test")


ONE = f'[s3.one]\nendpoint = "{ENDPOINT}"\naccess_key_id = "{ACCESS}"\nsecret_access_key = "{SECRET}"\n'


@pytest.mark.parametrize(
    ("more", "base_url", "region"),
    [
        ("", f"{ENDPOINT}/bucket", "us-east-1"),
        ('region = "eu-north-1"\n', f"{ENDPOINT}/bucket", "eu-north-1"),
        ("path_style = false\n", None, "us-east-1"),
    ],
)
def test_a_profile_of_our_own(tmp_path: Path, more: str, base_url: str | None, region: str) -> None:
    text = ONE if base_url else ONE.replace(ENDPOINT, "https://store.example")
    place = profiles(tmp_path, text + more).store("one").place("bucket", "s3://bucket/")
    assert place.base_url == (base_url or "https://bucket.store.example")
    assert place.region == region


def test_keys_are_read_anew_when_their_file_changes(tmp_path: Path) -> None:
    for name in ("access", "secret", "session"):
        (tmp_path / name).write_text(f"{name}-1\n")
    store = profiles(
        tmp_path,
        f'[s3.One]\nendpoint = "{ENDPOINT}"\naccess_key_id_file = "access"\nsecret_access_key_file = "secret"\n'
        'session_token_file = "session"\n',
    ).store("ONE")
    credentials, valid_s = store.credentials("s3://bucket/")
    assert credentials is not None
    assert (credentials.access_key, credentials.secret_key, credentials.token) == ("access-1", "secret-1", "session-1")
    assert valid_s == 3600
    (tmp_path / "secret").write_text("secret-2\n")
    again, _ = store.credentials("s3://bucket/")
    assert again is not None and again.secret_key == "secret-2"
    assert store.place("bucket", "s3://bucket/").base_url == f"{ENDPOINT}/bucket"


def test_anonymous(tmp_path: Path) -> None:
    store = profiles(tmp_path, f'[s3.public]\nendpoint = "{ENDPOINT}"\nanonymous = true\n').store("public")
    assert store.place("bucket", "x").base_url == f"{ENDPOINT}/bucket"
    assert store.credentials("x")[0] is None


def test_temporary_keys_shorten_what_is_signed_with_them(tmp_path: Path) -> None:
    store = profiles(tmp_path, ONE).store("one")
    store.place("bucket", "x")
    frozen = ReadOnlyCredentials(ACCESS, SECRET, TOKEN)
    for left_s, valid_s in ((7200, 3600), (900, 900)):
        ends_at = datetime.now(UTC) + timedelta(seconds=left_s)
        refreshable = SimpleNamespace(get_frozen_credentials=lambda: frozen, _expiry_time=ends_at)
        store._session = SimpleNamespace(get_credentials=lambda found=refreshable: found)  # pyright: ignore[reportPrivateUsage]
        assert valid_s - 5 <= store.credentials("x")[1] <= valid_s
    ended = SimpleNamespace(get_frozen_credentials=lambda: frozen, _expiry_time=datetime.now(UTC))
    store._session = SimpleNamespace(get_credentials=lambda: ended)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(Unauthenticated, match="expired"):
        store.credentials("x")


def test_a_profile_of_the_aws_configuration(tmp_path: Path) -> None:
    (tmp_path / "aws-config").write_text(f"[profile Theirs]\nregion = eu-west-3\nendpoint_url = {ENDPOINT}\n")
    (tmp_path / "aws-credentials").write_text(
        f"[Theirs]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n"
    )
    known = profiles(tmp_path, ONE)
    store = known.store("Theirs")
    place = store.place("bucket", "x")
    assert (urlsplit(place.base_url).port, place.region) == (9000, "eu-west-3")
    credentials, _ = store.credentials("x")
    assert credentials is not None and credentials.secret_key == SECRET
    with pytest.raises(UsageError, match=r"known are one, Theirs"):
        known.store("theirs2")


def test_prepared_in_advance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked anything, what would have to be is left alone, and a profile that is wrong costs only itself."""
    made: list[str | None] = []
    real = boto3.Session.client

    def make(session: Any, name: str, **options: Any) -> Any:
        made.append(options.get("endpoint_url"))
        return real(session, name, **options)

    monkeypatch.setattr(boto3.Session, "client", make)
    lost = '[s3.lost]\nendpoint = "http://lost"\naccess_key_id_file = "nowhere"\nsecret_access_key_file = "nowhere"\n'
    chain = '[s3.chain]\nendpoint = "http://chain"\n'
    public = '[s3.public]\nendpoint = "http://public"\nanonymous = true\n'
    known = profiles(tmp_path, lost + chain + ONE + public)
    known.prepare()
    assert made == [ENDPOINT, "http://public"]
    session = known.store("one")._session  # pyright: ignore[reportPrivateUsage]
    assert known.store("one").place("bucket", "x").base_url == f"{ENDPOINT}/bucket"
    assert known.store("one")._session is session, "what was read is what is used"  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ShoalError):
        known.store("lost").place("bucket", "x")


def test_without_keys(tmp_path: Path) -> None:
    with pytest.raises(Unauthenticated, match="no keys were found"):
        profiles(tmp_path, f'[s3.one]\nendpoint = "{ENDPOINT}"\n').store("one").place("bucket", "x")


def test_a_profile_for_one_bucket(tmp_path: Path) -> None:
    store = profiles(tmp_path, f'{ONE}bucket = "mine"\n').store("one")
    with pytest.raises(Refused, match="for bucket mine alone"):
        store.place("bucket", "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[s3.a]\naccess_key_id = "x"\n', "needed together"),
        (ONE + "anonymous = true\n", "keys are given"),
        ('[s3.a]\naccess_key_id = "x"\naccess_key_id_env = "Y"\nsecret_access_key = "z"\n', "given together"),
        ('[s3.a]\nendpont = "https://x"\n', r"did you mean s3\.a\.endpoint"),
        ('[s3]\nendpoint = "https://x"\n', "one table per name"),
    ],
)
def test_what_a_profile_may_not_be(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        profiles(tmp_path, text)


def test_settings_do_not_show_keys(tmp_path: Path) -> None:
    (tmp_path / "shoal.toml").write_text(ONE)
    settings = load_settings(environ={"HOME": str(tmp_path)}, cwd=tmp_path)
    shown = {name: key.kind.show(value) for name, key, value in settings.values() if name.startswith("s3.")}
    assert (shown["s3.one.access_key_id"], shown["s3.one.endpoint"]) == ("***", ENDPOINT)
    assert SECRET not in repr(shown) and SECRET not in repr(settings.s3) and ACCESS not in repr(settings.s3)


# -- errors -----------------------------------------------------------------------------------------------------------


def client_error(code: str, status: int) -> boto.ClientError:
    return boto.ClientError(
        {"Error": {"Code": code, "Message": f"{SECRET} {ACCESS}"}, "ResponseMetadata": {"HTTPStatusCode": status}},
        "ListObjectsV2",
    )  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (client_error("NoSuchBucket", 404), NotFound),
        (client_error("NoSuchKey", 404), NotFound),
        (client_error("404", 404), NotFound),
        (client_error("AccessDenied", 403), AccessDenied),
        (client_error("InvalidAccessKeyId", 403), Unauthenticated),
        (client_error("SignatureDoesNotMatch", 403), Unauthenticated),
        (client_error("ExpiredToken", 400), Unauthenticated),
        (client_error("RequestTimeTooSkewed", 403), Unauthenticated),
        (client_error("SlowDown", 503), RateLimited),
        (client_error("PermanentRedirect", 301), UsageError),
        (client_error("InternalError", 500), HttpStatus),
        (client_error("<b>", 418), HttpStatus),
        (boto.NoCredentialsError(), Unauthenticated),
        (boto.EndpointConnectionError(endpoint_url=f"http://x?{SECRET}", error=SECRET), ConnectFailed),
        (boto.ConnectTimeoutError(endpoint_url="http://x"), TimedOut),
        (boto.SSLError(endpoint_url="http://x", error="x"), TlsFailed),
    ],
)
def test_botocores_errors(error: Exception, kind: type[ShoalError]) -> None:
    made = store_error(error, thing="s3://bucket/x", profile="one", endpoint=ENDPOINT)
    assert type(made) is kind
    assert SECRET not in str(made) and ACCESS not in str(made)


def test_what_is_not_botocores_is_not_swallowed() -> None:
    with pytest.raises(KeyError):
        store_error(KeyError("x"), thing="x", profile="")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (412, "PreconditionFailed", Changed),
        (404, "NoSuchKey", NotFound),
        (403, "AccessDenied", SignatureRefused),
        (401, "", SignatureRefused),
        (400, "ExpiredToken", SignatureRefused),
        (403, "InvalidObjectState", AccessDenied),
        (503, "SlowDown", RateLimited),
        (503, "", RateLimited),
        (400, "RequestTimeout", TimedOut),
        (307, "TemporaryRedirect", HttpStatus),
        (500, "InternalError", HttpStatus),
    ],
)
def test_answers_of_stores(status: int, code: str, kind: type[ShoalError]) -> None:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><StringToSign>{SECRET}</StringToSign></Error>".encode()
    assert error_code(body) == code
    made = store_answer_error("a.bin", status, error_code(body), host="store:9000", wait_s=None)
    assert type(made) is kind
    assert type(for_the_report(made)) is (AccessDenied if kind is SignatureRefused else kind)
    assert SECRET not in str(made)


def test_codes_that_are_none() -> None:
    assert error_code(b"") == error_code(b"<Code>" + b"x" * 99 + b"</Code>") == error_code(b"<Code>a b</Code>") == ""


@pytest.mark.parametrize(
    ("status", "header", "length", "is_part"),
    [
        (200, "bytes 5-9/100", 5, True),
        (200, "bytes 5-8/100", 4, True),
        (200, "bytes 0-4/100", 5, False),
        (200, "bytes 5-9/100", 100, False),
        (200, "bytes 5-10/100", 6, False),
        (200, "nonsense", 5, False),
        (206, "bytes 5-9/100", 5, False),
    ],
)
def test_a_part_that_does_not_say_so(status: int, header: str, length: int, is_part: bool) -> None:
    found = part_of_answer((5, 5), status, Headers([("Content-Range", header)]), length)
    assert (found is not None) is is_part
    assert part_of_answer(None, status, Headers([("Content-Range", header)]), length) is None


def test_only_an_etag_is_asked_for() -> None:
    assert pinned_validator("abc-3") == '"abc-3"'
    assert pinned_validator("Mon, 23 Nov 2026 11:12:18 GMT") == pinned_validator("") == ""


# -- sources ----------------------------------------------------------------------------------------------------------


class FakeClient:
    """What the source uses of boto3's client."""

    def __init__(self, pages: Sequence[Mapping[str, Any]] = (), head: Mapping[str, Any] | Exception | None = None):
        self.pages = pages
        self.head = head
        self.asked: list[dict[str, Any]] = []

    def get_paginator(self, _name: str) -> FakeClient:
        return self

    def paginate(self, **asked: Any) -> Iterator[Mapping[str, Any]]:
        self.asked.append(asked)
        yield from self.pages

    def list_objects_v2(self, **_asked: Any) -> Mapping[str, Any]:
        return {"KeyCount": 0}

    def head_object(self, **_asked: Any) -> Mapping[str, Any]:
        if isinstance(self.head, Exception):
            raise self.head
        return self.head or {}


class FakeProfiles:
    def __init__(self, client: FakeClient) -> None:
        self._place = Place(base_url=f"{ENDPOINT}/bucket", endpoint=ENDPOINT, region="us-east-1", client=client)

    def store(self, _profile: str) -> FakeProfiles:
        return self

    def place(self, _bucket: str, _thing: str) -> Place:
        return self._place


def source(client: FakeClient, uri: str = "s3://bucket/p/", *, policy: Policy | None = None, **more: Any) -> Source:
    context = SourceContext(
        http=cast(Any, None),
        hub_endpoints=(),
        hub_token=lambda: None,
        clock=lambda: 0.0,
        sleep=asyncio.sleep,
        rng=random.Random(1),
        policy=policy or Policy(),
        s3=cast(Any, FakeProfiles(client)),
    )
    return open_source(SourceRequest(uri=parse_uri(uri), **more), context)


async def pages_of(found: Source) -> list[list[ObjectSpec]]:
    return [page async for page in found.pages()]


def entry(key: object, size: object = 1, etag: str = '"e1"') -> dict[str, object]:
    return {"Key": key, "Size": size, "ETag": etag, "LastModified": datetime(2026, 11, 23, 11, 12, 18, tzinfo=UTC)}


async def test_a_listing_becomes_a_manifest_page_by_page() -> None:
    listing = FakeClient(
        [
            {
                "Contents": [
                    entry("p/", 0),
                    entry("p/a.bin", 5),
                    entry("p/sub/", 0),
                    entry("p/sub/b c+%.bin", 6, "e2-3"),
                ]
            },
            {},
            {"Contents": [entry("p/w.bin", 7, 'W/"weak"'), entry("p/none.bin", 0, "")]},
        ]
    )
    found = await pages_of(source(listing))
    assert [len(page) for page in found] == [2, 2]
    assert [(spec.object_id, spec.path, spec.size, spec.etag, spec.digest) for page in found for spec in page] == [
        (1, "a.bin", 5, "e1", ""),
        (2, "sub/b c+%.bin", 6, "e2-3", ""),
        (3, "w.bin", 7, "Mon, 23 Nov 2026 11:12:18 GMT", ""),
        (4, "none.bin", 0, "Mon, 23 Nov 2026 11:12:18 GMT", ""),
    ]
    assert found[0][1].url == f"{ENDPOINT}/bucket/p/sub/b%20c%2B%25.bin"
    assert listing.asked == [{"Bucket": "bucket", "Prefix": "p/", "PaginationConfig": {"PageSize": 1000}}]


async def test_hostile_names_cost_only_themselves() -> None:
    names = ["../up", "a/../../up", "/etc/passwd", "a//b", "a\nb", "x" * 300, "c\\d", ".shoal/manifest.json", "dir/"]
    found = source(FakeClient([{"Contents": [entry(f"p/{name}", 3) for name in [*names, "good"]]}]))
    assert [[spec.path for spec in page] for page in await pages_of(found)] == [["good"]]
    assert found.refused_count == len(names)


@pytest.mark.parametrize(
    "bad", [entry("q/other"), entry(None), entry("p/a", None), entry("p/a", -1), entry("p/a", True)]
)
async def test_a_listing_that_makes_no_sense(bad: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        await pages_of(source(FakeClient([{"Contents": [bad]}])))


async def test_nothing_there_and_nothing_selected() -> None:
    with pytest.raises(NotFound, match="no files"):
        await pages_of(source(FakeClient([{}])))
    with pytest.raises(NotFound, match="no file matches"):
        found = source(FakeClient([{"Contents": [entry("p/a")]}]), selection=Selection(include=("*.bin",)))
        await pages_of(found)


@pytest.mark.parametrize(
    ("more", "digest"),
    [
        ({"ChecksumSHA256": base64.b64encode(b"d" * 32).decode()}, f"sha256:{(b'd' * 32).hex()}"),
        ({"ChecksumSHA256": base64.b64encode(b"d" * 32).decode(), "ChecksumType": "COMPOSITE"}, ""),
        ({"ChecksumSHA256": base64.b64encode(b"d" * 32).decode() + "-3"}, ""),
        ({"ChecksumSHA256": "###"}, ""),
        ({}, ""),
    ],
)
async def test_a_single_object(more: dict[str, str], digest: str) -> None:
    head = {"ContentLength": 9, "ETag": '"e9"', **more}
    [[spec]] = await pages_of(source(FakeClient(head=head), "s3://bucket/p/x y.bin"))
    assert (spec.path, spec.size, spec.etag, spec.digest) == ("x y.bin", 9, "e9", digest)
    given = await pages_of(source(FakeClient(head=head), "s3://bucket/p/x y.bin", sha256="A" * 64))
    assert given[0][0].digest == f"sha256:{'a' * 64}"


async def test_a_single_object_with_a_bad_name() -> None:
    with pytest.raises(UnsafeName):
        await pages_of(source(FakeClient(head={"ContentLength": 1}), f"s3://bucket/{'x' * 300}"))


@pytest.mark.parametrize(
    ("policy", "is_allowed"),
    [
        (Policy(allow=("s3://bucket/*",)), True),
        (Policy(allow=("s3://bucket/p/*",)), True),
        (Policy(allow=("127.0.0.1",)), True),
        (Policy(allow=("s3://other/*",)), False),
        (Policy(allow=("bigcode/*",)), False),
        (Policy(deny=("s3://bucket/p/*",)), False),
        (Policy(deny=("127.*",)), False),
        (Policy(https_only=True), False),
    ],
)
async def test_the_sites_rules(policy: Policy, is_allowed: bool) -> None:
    listing = FakeClient([{"Contents": [entry("p/a")]}])
    if is_allowed:
        assert len(await pages_of(source(listing, policy=policy))) == 1
        return
    with pytest.raises(Refused):
        await pages_of(source(listing, policy=policy))
    assert listing.asked == []


# -- signing for agents -----------------------------------------------------------------------------------------------


def job(**more: Any) -> JobSpec:
    facts = {"origin": OriginKind.S3, "source": "s3://bucket/p/", "profile": "one", **more}
    return JobSpec(job_id="j", layout=Layout.FOLDER, destination="/x", **facts)


def test_the_coordinator_signs_what_is_the_stores(tmp_path: Path) -> None:
    signer = UrlSigner(profiles(tmp_path, ONE))
    spec = ObjectSpec(object_id=3, path="a", size=1, url=f"{ENDPOINT}/bucket/p/a")
    [signed] = signer.sign(job(), [spec])
    assert signed.object_id == 3 and signed.url.startswith(f"{spec.url}?X-Amz-Algorithm=AWS4-HMAC-SHA256&")
    for url in ("http://evil.example/bucket/p/a", f"{ENDPOINT}/bucketeer/a", f"{ENDPOINT}.evil.example/bucket/a"):
        with pytest.raises(ShoalError, match="another address"):
            signer.sign(job(), [ObjectSpec(object_id=3, path="a", size=1, url=url)])
    with pytest.raises(UsageError, match="wants no signatures"):
        signer.sign(job(origin=OriginKind.HTTP, source="https://example.org/x"), [spec])
    with pytest.raises(UsageError, match="profile 'two'"):
        signer.sign(job(profile="two"), [spec])


class FakeCoordinator:
    """Counts what it is asked to sign."""

    def __init__(self, valid_s: float = 100.0) -> None:
        self.batches: list[list[int]] = []
        self.valid_s = valid_s

    async def sign(self, _job_id: str, object_ids: Sequence[int]) -> list[SignedUrl]:
        await asyncio.sleep(0)
        self.batches.append(list(object_ids))
        number = len(self.batches)
        return [SignedUrl(object_id, f"http://s/{object_id}?{number}", self.valid_s) for object_id in object_ids]


async def test_one_question_for_all_that_wait() -> None:
    asked = FakeCoordinator()
    signatures = Signatures("j", asked.sign, clock=lambda: 0.0, waiting=lambda: range(1, 1001))
    found = await asyncio.gather(*(signatures.of(number) for number in (7, 8, 9, 7)))
    assert [each.url for each in found] == ["http://s/7?1", "http://s/8?1", "http://s/9?1", "http://s/7?1"]
    assert [len(batch) for batch in asked.batches] == [BATCH_MAX]
    assert asked.batches[0][:2] == [7, 1]


async def test_signatures_end_and_are_refused() -> None:
    now = [0.0]
    asked = FakeCoordinator(valid_s=100.0)
    signatures = Signatures("j", asked.sign, clock=lambda: now[0], waiting=lambda: ())
    first = await signatures.of(1)
    now[0] = 89.9
    assert await signatures.of(1) is first
    now[0] = 90.0  # a tenth of its time is left
    second = await signatures.of(1)
    assert second is not first
    signatures.refused(1, first)  # old news: somebody has asked anew meanwhile
    assert await signatures.of(1) is second
    signatures.refused(1, second)
    assert (await signatures.of(1)).url == "http://s/1?3"
    assert "http" not in repr(second)


async def test_signatures_are_not_kept_for_ever() -> None:
    asked = FakeCoordinator()
    signatures = Signatures("j", asked.sign, clock=lambda: 0.0, waiting=lambda: ())
    for number in range(KEPT_MAX + 10):
        await signatures.of(number)
    assert len(signatures._kept) == KEPT_MAX  # pyright: ignore[reportPrivateUsage]


async def test_a_coordinator_that_does_not_sign() -> None:
    async def sign_nothing(_job_id: str, _object_ids: Sequence[int]) -> list[SignedUrl]:
        return []

    with pytest.raises(ProtocolViolation):
        await Signatures("j", sign_nothing, clock=lambda: 0.0, waiting=lambda: ()).of(1)
