"""Sources: what they ask, what they make of the answers, and what they do not fall for. The network is a table of answers."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shoal.common.errors import (
    AccessDenied,
    ConnectFailed,
    HttpStatus,
    NotFound,
    ProtocolViolation,
    RateLimited,
    Refused,
    ShoalError,
    TlsFailed,
    Truncated,
    Unauthenticated,
    UnsafeName,
    UsageError,
)
from shoal.common.http import ContentRange, Headers
from shoal.common.records import ObjectSpec, OriginKind
from shoal.common.secrets import Secret
from shoal.common.selection import Selection
from shoal.common.uri import parse_uri
from shoal.coordinator.sources import (
    Policy,
    Resolved,
    Source,
    SourceContext,
    SourceRequest,
    hub_api,
    intake,
    open_source,
)
from shoal.coordinator.sources.asking import ATTEMPTS, RATE_WAITS_MAX
from shoal.coordinator.sources.hub_api import next_link

HUB = "https://hub.example"
MIRROR = "http://mirror.example:8080/hf"
SHA = "0123456789abcdef0123456789abcdef01234567"
OID = "a" * 40
LFS_OID = "b" * 64


@dataclass
class Answer:
    """What a server says to one request."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    url: str = ""  # after redirects
    length_known: bool = True


@dataclass
class Request:
    url: str
    authorization: str | None
    byte_range: tuple[int, int] | None


class FakeResponse:
    def __init__(self, answer: Answer, url: str) -> None:
        self.status = answer.status
        self.headers = Headers(answer.headers.items())
        self.url = answer.url or url
        self.body_length = len(answer.body) if answer.length_known else None
        self.content_range: ContentRange | None = None
        if answer.status == 206:
            total = self.headers.get("Content-Range").rpartition("/")[2]
            self.content_range = ContentRange(start=0, end_exclusive=1, total=None if total == "*" else int(total))
        self._body = answer.body
        self.closed = False

    async def read(self, limit_bytes: int) -> bytes:
        assert not self.closed
        if len(self._body) > limit_bytes:
            raise ProtocolViolation(self.url, cause=f"the body is larger than {limit_bytes} bytes")
        return self._body

    async def __aenter__(self) -> FakeResponse:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.closed = True


class FakeHttp:
    """Answers by URL: one answer or error, or several, of which the last one stays."""

    def __init__(self, answers: Mapping[str, Answer | ShoalError | list[Answer | ShoalError]]) -> None:
        self._answers = {url: list(answer) if isinstance(answer, list) else [answer] for url, answer in answers.items()}
        self.requests: list[Request] = []
        self.responses: list[FakeResponse] = []

    async def request(
        self, url: str, *, authorization: Secret | None = None, byte_range: tuple[int, int] | None = None
    ) -> FakeResponse:
        self.requests.append(Request(url, authorization.reveal() if authorization else None, byte_range))
        answers = self._answers.get(url)
        if answers is None:
            answers = [Answer(b"Not Found", 404)]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, ShoalError):
            raise answer
        self.responses.append(FakeResponse(answer, url))
        return self.responses[-1]

    @property
    def urls(self) -> list[str]:
        return [request.url for request in self.requests]


@dataclass
class World:
    http: FakeHttp
    context: SourceContext
    sleeps: list[float]


def world(
    answers: Mapping[str, Any] | None = None,
    *,
    endpoints: tuple[str, ...] = (HUB,),
    token: str | None = None,
    policy: Policy | None = None,
) -> World:
    http, sleeps = FakeHttp(answers or {}), list[float]()

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)

    context = SourceContext(
        http=http,  # type: ignore[arg-type]
        hub_endpoints=endpoints,
        hub_token=lambda: Secret(token) if token else None,
        clock=lambda: 1_700_000_000.0,
        sleep=sleep,
        rng=random.Random(1),
        policy=policy or Policy(),
    )
    return World(http, context, sleeps)


def source_of(uri: str, context: SourceContext, **options: Any) -> Source:
    include, exclude = options.pop("include", ()), options.pop("exclude", ())
    selection = Selection(include=include, exclude=exclude)
    return open_source(SourceRequest(uri=parse_uri(uri), selection=selection, **options), context)


async def objects_of(source: Source) -> list[ObjectSpec]:
    return [spec async for page in source.pages() for spec in page]


def info_url(endpoint: str = HUB, *, api: str = "models/acme/tiny", revision: str = "") -> str:
    gated = "" if api.startswith("spaces") else "&expand=gated"
    return f"{endpoint}/api/{api}{f'/revision/{revision}' if revision else ''}?expand=sha&expand=cardData&expand=tags{gated}"


def tree_url(
    endpoint: str = HUB, *, api: str = "models/acme/tiny", sha: str = SHA, folder: str = "", recursive: bool = True
) -> str:
    below = f"/{folder}" if folder else ""
    return f"{endpoint}/api/{api}/tree/{sha}{below}?recursive={str(recursive).lower()}&expand=false"


def info(**more: object) -> Answer:
    return Answer(json.dumps({"_id": "1", "id": "acme/tiny", "sha": SHA, **more}).encode())


def file(path: object, size: object = 3, **more: object) -> dict[str, object]:
    return {"type": "file", "path": path, "size": size, "oid": OID, **more}


def tree(*entries: object, next_url: str = "") -> Answer:
    headers = {"Link": f'<{next_url}>; rel="next"'} if next_url else {}
    return Answer(json.dumps(entries).encode(), headers=headers)


def refusal(status: int, code: str = "", **headers: str) -> Answer:
    return Answer(b'{"error":"no"}', status, {"X-Error-Code": code, **headers})


# -- Hub: the good case -----------------------------------------------------------------------------------------------


async def test_a_repo_becomes_a_manifest() -> None:
    lfs = {"oid": LFS_OID, "size": 7_000_000_000, "pointerSize": 135}
    w = world(
        {
            info_url(): info(),
            tree_url(): tree(
                {"type": "directory", "path": "sub", "oid": OID, "size": 0},
                file("config.json", 12),
                file("sub/a b%#?é.bin", 7_000_000_000, lfs=lfs, xetHash="c" * 64),
            ),
        }
    )
    source = source_of("hf://acme/tiny", w.context)
    assert await source.resolve() == Resolved(
        source="hf://acme/tiny",
        origin=OriginKind.HUB,
        endpoints=(HUB,),
        repo_kind="model",
        repo_id="acme/tiny",
        revision="main",
        commit=SHA,
    )
    assert await objects_of(source) == [
        ObjectSpec(
            object_id=1,
            path="config.json",
            size=12,
            digest=f"git-sha1:{OID}",
            etag=OID,
            url=f"/acme/tiny/resolve/{SHA}/config.json",
        ),
        ObjectSpec(
            object_id=2,
            path="sub/a b%#?é.bin",
            size=7_000_000_000,
            digest=f"sha256:{LFS_OID}",
            etag=LFS_OID,
            url=f"/acme/tiny/resolve/{SHA}/sub/a%20b%25%23%3F%C3%A9.bin",
        ),
    ]
    assert w.http.urls == [info_url(), tree_url()]
    assert (source.refused, source.refused_count, source.warnings) == ([], 0, [])
    assert all(response.closed for response in w.http.responses)


@pytest.mark.parametrize(("kind", "prefix"), [("datasets", "/datasets"), ("spaces", "/spaces")])
async def test_datasets_and_spaces(kind: str, prefix: str) -> None:
    api = f"{kind}/acme/tiny"
    w = world({info_url(api=api, revision="v%2F1"): info(), tree_url(api=api): tree(file("a"))})
    source = source_of(f"hf://{kind}/acme/tiny", w.context, revision="v/1")
    resolved = await source.resolve()
    assert (resolved.repo_kind, resolved.revision, resolved.commit) == (kind[:-1], "v/1", SHA)
    assert resolved.source == f"hf://{kind}/acme/tiny@v%2F1"
    assert [spec.url for spec in await objects_of(source)] == [f"{prefix}/acme/tiny/resolve/{SHA}/a"]


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"cardData": {"license": ["mit", "apache-2.0"]}, "tags": ["license:mit"]}, ("apache-2.0", "mit")),
        ({"cardData": {"license": [f"l{number}" * 20 for number in range(1000)]}}, ()),
        ({}, ()),
    ],
)
async def test_the_licences_are_told_to_who_has_rules_of_its_own(named: dict[str, object], told: tuple[str]) -> None:
    w = world({info_url(): info(**named)})
    assert (await source_of("hf://acme/tiny", w.context).resolve()).licenses == told


async def test_a_commit_needs_no_question() -> None:
    w = world({tree_url(): tree(file("a"))})
    source = source_of(f"hf://acme/tiny@{SHA}", w.context)
    resolved = await source.resolve()
    assert (resolved.revision, resolved.commit) == (SHA, SHA)
    assert w.http.requests == []
    assert len(await objects_of(source)) == 1


async def test_a_branch_at_a_commit_that_it_may_have_left() -> None:
    w = world({tree_url(): tree(file("a"))})
    source = source_of("hf://acme/tiny@v1", w.context, commit=SHA)
    resolved = await source.resolve()
    assert (resolved.source, resolved.revision, resolved.commit) == ("hf://acme/tiny@v1", "v1", SHA)
    assert resolved.pinned and w.http.requests == []
    assert [spec.url for spec in await objects_of(source)] == [f"/acme/tiny/resolve/{SHA}/a"]


async def test_pages_are_followed_and_numbered_on() -> None:
    second, third = f"{tree_url()}&cursor=2", "/api/models/acme/tiny/tree/x?cursor=3"
    w = world(
        {
            tree_url(): tree(file("a"), file("b"), next_url=second),
            second: tree({"type": "directory", "path": "d"}, next_url=third),
            HUB + third: tree(file("d/c")),
        }
    )
    source = source_of(f"hf://acme/tiny@{SHA}", w.context)
    pages = [page async for page in source.pages()]
    assert [[spec.object_id for spec in page] for page in pages] == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ([], ""),
        (['<https://x/1>; rel="next"'], "https://x/1"),
        (['<https://x/1?a,b;c>; rel="prev", <https://x/2>; title="a, b"; rel=next'], "https://x/2"),
        (['<https://x/1>; rel="first"', '<https://x/3>;rel="last next"'], "https://x/3"),
        (['<https://x/1>; rel="nextish"', "<https://x/2>; rev=next", 'https://x/3; rel="next"', "<unclosed"], ""),
    ],
)
def test_link_headers(links: list[str], expected: str) -> None:
    assert next_link(links) == expected


async def test_selection_numbers_only_what_is_selected() -> None:
    w = world({tree_url(): tree(file("a.bin"), file("b.json"), file("../evil.txt"), file("c.json"))})
    source = source_of(f"hf://acme/tiny@{SHA}", w.context, include=("*.json",), exclude=("b*",))
    assert [(spec.object_id, spec.path) for spec in await objects_of(source)] == [(1, "c.json")]
    assert source.refused == []


async def test_nothing_selected_names_what_there_is() -> None:
    w = world({tree_url(): tree(*(file(f"f{number}.bin") for number in range(9)))})
    with pytest.raises(NotFound, match=r"no file matches --include \*\.gguf") as caught:
        await objects_of(source_of(f"hf://acme/tiny@{SHA}", w.context, include=("*.gguf",)))
    assert "'f0.bin'" in caught.value.remedy
    assert "f5.bin" not in caught.value.remedy


async def test_an_empty_repo_is_not_found() -> None:
    w = world({tree_url(): tree()})
    with pytest.raises(NotFound, match="no files"):
        await objects_of(source_of(f"hf://acme/tiny@{SHA}", w.context))


# -- Hub: a path in the URI -------------------------------------------------------------------------------------------


async def test_a_folder() -> None:
    w = world({tree_url(folder="data/x%20y"): tree(file("data/x y/1"), file("elsewhere"), file("data/x yz"))})
    source = source_of(f"hf://acme/tiny@{SHA}/data/x y", w.context)
    assert [spec.path for spec in await objects_of(source)] == ["data/x y/1"]


@pytest.mark.parametrize(
    "folder_answer", [refusal(404, "EntryNotFound"), refusal(404), Answer(b"[]"), tree(file("data2/1"))]
)
async def test_a_file(folder_answer: Answer) -> None:
    parent = tree_url(folder="data", recursive=False)
    w = world(
        {
            tree_url(folder="data/1.bin"): folder_answer,
            parent: tree(file("data/0.bin"), next_url=f"{parent}&cursor=1"),
            f"{parent}&cursor=1": tree(file("data/1.bin", 5), next_url=f"{parent}&cursor=2"),
        }
    )
    source = source_of(f"hf://acme/tiny@{SHA}/data/1.bin", w.context)
    assert [(spec.path, spec.size) for spec in await objects_of(source)] == [("data/1.bin", 5)]
    assert f"{parent}&cursor=2" not in w.http.urls


async def test_a_path_that_is_not_there_names_its_neighbours() -> None:
    w = world(
        {
            tree_url(folder="model.bin"): refusal(404, "EntryNotFound"),
            tree_url(recursive=False): tree(file("model.safetensors"), {"type": "directory", "path": "model.bin2"}),
        }
    )
    with pytest.raises(NotFound, match="no such file or folder") as caught:
        await objects_of(source_of(f"hf://acme/tiny@{SHA}/model.bin", w.context))
    assert "model.safetensors" in caught.value.remedy


# -- Hub: refusals and fail-over --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "cls", "words"),
    [
        (refusal(401, "RepoNotFound"), NotFound, "private"),
        (refusal(403, "GatedRepo"), AccessDenied, f"{HUB}/acme/tiny"),
        (refusal(404, "RevisionNotFound"), NotFound, "no such revision"),
        (refusal(404, ""), NotFound, "acme/tiny"),
        (refusal(400, ""), HttpStatus, "400"),
        (TlsFailed("hub.example:443"), TlsFailed, "TLS"),
    ],
)
async def test_refusals_are_reported_at_once(answer: Answer | ShoalError, cls: type, words: str) -> None:
    w = world({info_url(): answer})
    with pytest.raises(cls, match=words):
        await source_of("hf://acme/tiny", w.context).resolve()
    assert len(w.http.requests) == 1
    assert w.sleeps == []


async def test_gated_repo_is_found_out_before_its_files_are_asked_for() -> None:
    check = f"{HUB}/api/models/acme/tiny/auth-check"
    w = world({info_url(): info(gated="manual"), check: refusal(403, "GatedRepo")}, token="hf_t")
    with pytest.raises(AccessDenied, match=r"ask for access at https://hub\.example/acme/tiny"):
        await source_of("hf://acme/tiny", w.context).resolve()


@pytest.mark.parametrize("answer", [Answer(b'"OK"'), refusal(404), refusal(500), ConnectFailed("x")])
async def test_a_gated_repo_with_access_or_without_verdict_goes_on(answer: Answer | ShoalError) -> None:
    check = f"{HUB}/api/models/acme/tiny/auth-check"
    w = world({info_url(): info(gated="auto"), check: answer})
    assert (await source_of("hf://acme/tiny", w.context).resolve()).commit == SHA
    assert check in w.http.urls


async def test_passing_faults_are_waited_out_with_backoff() -> None:
    faults = [refusal(503), ConnectFailed("hub"), Truncated("hub"), refusal(500), info()]
    w = world({info_url(): faults})
    assert (await source_of("hf://acme/tiny", w.context).resolve()).commit == SHA
    assert len(w.sleeps) == 4
    for failures, slept_s in enumerate(w.sleeps, 1):
        assert 0 <= slept_s <= 0.5 * 2 ** (failures - 1)
    assert len(set(w.sleeps)) == 4


async def test_lasting_faults_are_given_up() -> None:
    w = world({info_url(): refusal(502)})
    with pytest.raises(HttpStatus, match="502"):
        await source_of("hf://acme/tiny", w.context).resolve()
    assert len(w.http.requests) == ATTEMPTS


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, 55),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30),
        ({"RateLimit": '"api";r=0;t=10', "Retry-After": "3"}, 10),
        ({}, 0),
    ],
)
async def test_rate_limits_are_obeyed(headers: dict[str, str], wait_s: float) -> None:
    limited = refusal(429, "", **headers)
    w = world({info_url(): [limited, limited, info()]})
    assert (await source_of("hf://acme/tiny", w.context).resolve()).commit == SHA
    assert len(w.sleeps) == 2
    for slept_s in w.sleeps:
        assert wait_s <= slept_s <= wait_s + 1


async def test_rate_limits_do_not_use_up_the_attempts_but_end() -> None:
    w = world({info_url(): refusal(429, "", **{"Retry-After": "1"})})
    with pytest.raises(RateLimited):
        await source_of("hf://acme/tiny", w.context).resolve()
    assert len(w.http.requests) == RATE_WAITS_MAX + 1 > ATTEMPTS


@pytest.mark.parametrize("first", [refusal(500), ConnectFailed("hub"), refusal(404, "RepoNotFound"), Answer(b"<html>")])
async def test_the_next_endpoint_is_asked_and_kept(first: Answer | ShoalError) -> None:
    w = world({info_url(): first, info_url(MIRROR): info(), tree_url(MIRROR): tree(file("a"))}, endpoints=(HUB, MIRROR))
    source = source_of("hf://acme/tiny", w.context)
    assert (await source.resolve()).endpoints == (MIRROR, HUB)
    w.http.requests.clear()
    assert [spec.url for spec in await objects_of(source)] == [f"/acme/tiny/resolve/{SHA}/a"]
    assert w.http.urls == [tree_url(MIRROR)]


@pytest.mark.parametrize(
    ("first", "second", "cls", "words"),
    [
        (refusal(403, "GatedRepo"), refusal(404, "RepoNotFound"), AccessDenied, HUB),
        (refusal(404, "RepoNotFound"), refusal(401, "GatedRepo"), AccessDenied, MIRROR),
        (refusal(404, "RepoNotFound"), refusal(404, "RevisionNotFound"), NotFound, "no such revision"),
        (refusal(404, "RevisionNotFound"), ConnectFailed("m", cause="refused"), NotFound, "no such revision.*refused"),
        (ConnectFailed("h", cause="no route"), refusal(404), NotFound, "no such model.*no route"),
        (ConnectFailed("h", cause="no route"), refusal(502), HttpStatus, "502.*no route"),
    ],
)
async def test_the_refusal_that_says_most_is_reported(first: Any, second: Any, cls: type, words: str) -> None:
    w = world({info_url(): first, info_url(MIRROR): second}, endpoints=(HUB, MIRROR))
    with pytest.raises(cls, match=words):
        await source_of("hf://acme/tiny", w.context).resolve()


async def test_fail_over_in_the_middle_of_a_listing_starts_anew_without_doubles() -> None:
    lost = f"{tree_url()}&cursor=2"
    w = world(
        {
            tree_url(): tree(file("a"), file("../evil"), file("b"), next_url=lost),
            lost: ConnectFailed("hub"),
            tree_url(MIRROR): tree(file("b"), file("c"), file("../evil"), file("a")),
        },
        endpoints=(HUB, MIRROR),
    )
    source = source_of(f"hf://acme/tiny@{SHA}", w.context)
    assert [(spec.object_id, spec.path) for spec in await objects_of(source)] == [(1, "a"), (2, "b"), (3, "c")]
    assert source.refused_count == len(source.refused) == 1


async def test_the_token_is_asked_for_anew_and_sent_to_endpoints_only() -> None:
    w = world({info_url(MIRROR): info(), tree_url(MIRROR): tree(file("a"))}, endpoints=(HUB, MIRROR), token="hf_secret")
    await objects_of(source_of("hf://acme/tiny", w.context))
    assert {request.authorization for request in w.http.requests} == {"Bearer hf_secret"}
    assert all(request.url.startswith((HUB, MIRROR)) for request in w.http.requests)


async def test_a_bad_token_says_more_than_a_mirror_without_the_repo() -> None:
    w = world({info_url(): refusal(401), info_url(MIRROR): refusal(404)}, endpoints=(HUB, MIRROR), token="hf_secret")
    with pytest.raises(Unauthenticated) as caught:
        await source_of("hf://acme/tiny", w.context).resolve()
    assert "hf_secret" not in str(caught.value)


# -- Hub: answers that make no sense ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b"<!DOCTYPE html><html>"), "web page"),
        (Answer(b"  \n<html>"), "web page"),
        (Answer(b"sign in", headers={"Content-Type": "text/html; charset=utf-8"}), "web page"),
        (Answer(b""), "not valid JSON"),
        (Answer(b'{"sha": '), "not valid JSON"),
        (Answer(b"\xff\xfe"), "not valid JSON"),
        (Answer(b"[" * 100_000), "not valid JSON"),
        (Answer(b'["a"]'), "JSON object"),
        (info(sha=None), "no commit"),
        (info(sha=5), "no commit"),
        (info(sha="main"), "no commit"),
        (info(sha=SHA.upper()), "no commit"),
    ],
)
async def test_info_that_makes_no_sense(answer: Answer, words: str) -> None:
    w = world({info_url(): answer})
    with pytest.raises(ProtocolViolation, match=words):
        await source_of("hf://acme/tiny", w.context).resolve()
    assert len(w.http.requests) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b'{"error": 1}'), "JSON list"),
        (tree("a"), "JSON objects"),
        (tree(None), "JSON objects"),
        (tree(file(None)), "without a path"),
        (tree(file(7)), "without a path"),
        (tree(file("")), "without a path"),
        (tree(file("a", None)), "size or digest"),
        (tree(file("a", -1)), "size or digest"),
        (tree(file("a", 1.5)), "size or digest"),
        (tree(file("a", True)), "size or digest"),
        (tree(file("a", "3")), "size or digest"),
        (tree(file("a", oid=5)), "size or digest"),
        (tree(file("a", oid="zz")), "size or digest"),
        (tree(file("a", lfs=[])), "size or digest"),
        (tree(file("a", lfs={"oid": OID, "size": 3})), "size or digest"),
        (tree(file("a", lfs={"oid": LFS_OID, "size": "3"})), "size or digest"),
        (Answer(b'[{"type": "file", "path": "a", "size": 1' + b"0" * 5000 + b"}]"), "not valid JSON"),
    ],
)
async def test_trees_that_make_no_sense(answer: Answer, words: str) -> None:
    w = world({tree_url(): answer})
    with pytest.raises(ProtocolViolation, match=words):
        await objects_of(source_of(f"hf://acme/tiny@{SHA}", w.context))


async def test_a_huge_page_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_api, "JSON_BYTES_MAX", 100)
    w = world({tree_url(): tree(*(file(f"f{number}") for number in range(9)))})
    with pytest.raises(ProtocolViolation, match="larger than 100 bytes"):
        await objects_of(source_of(f"hf://acme/tiny@{SHA}", w.context))


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/api/models/acme/tiny/tree/x?cursor=2",
        "http://hub.example/api/models/acme/tiny/tree/x?cursor=2",
        "//evil.example/x",
        "https://hub.example:444/x",
        "https://user@hub.example/x",
        "ftp://hub.example/x",
    ],
)
async def test_next_links_do_not_lead_away(target: str) -> None:
    w = world({tree_url(): tree(file("a"), next_url=target)}, token="hf_secret")
    with pytest.raises(ProtocolViolation, match="next page"):
        await objects_of(source_of(f"hf://acme/tiny@{SHA}", w.context))
    assert w.http.urls == [tree_url()]


@pytest.mark.parametrize("target", ["http://mirror.example:8080/api/x", "http://mirror.example:8080/hf/../x", "/api/x"])
async def test_next_links_stay_below_the_prefix(target: str) -> None:
    w = world({tree_url(MIRROR): tree(file("a"), next_url=target)}, endpoints=(MIRROR,))
    with pytest.raises(ProtocolViolation, match="outside of the endpoint"):
        await objects_of(source_of(f"hf://acme/tiny@{SHA}", w.context))


async def test_paging_in_a_circle() -> None:
    second = f"{tree_url()}&cursor=2"
    w = world({tree_url(): tree(file("a"), next_url=second), second: tree(file("b"), next_url=tree_url())})
    with pytest.raises(ProtocolViolation, match="circle"):
        await objects_of(source_of(f"hf://acme/tiny@{SHA}", w.context))


async def test_paging_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_api, "PAGES_MAX", 3)
    urls = [tree_url(), *(f"{tree_url()}&cursor={number}" for number in range(9))]
    pages = itertools.pairwise(urls)
    w = world({url: tree(file(f"f{number}"), next_url=after) for number, (url, after) in enumerate(pages)})
    with pytest.raises(ProtocolViolation, match="more than 3 pages"):
        await objects_of(source_of(f"hf://acme/tiny@{SHA}", w.context))


async def test_too_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "OBJECTS_MAX", 2)
    w = world({tree_url(): tree(file("a"), file("b"), file("c"))})
    with pytest.raises(UsageError, match="more than 2 files"):
        await objects_of(source_of(f"hf://acme/tiny@{SHA}", w.context))


async def test_unknown_entries_and_missing_digests_are_counted() -> None:
    without = {"type": "file", "path": "b", "size": 3}
    w = world({tree_url(): tree({"type": "submodule", "path": "x"}, {"path": "y"}, file("a"), without)})
    source = source_of(f"hf://acme/tiny@{SHA}", w.context)
    assert [(spec.path, spec.digest) for spec in await objects_of(source)] == [("a", f"git-sha1:{OID}"), ("b", "")]
    assert len(source.warnings) == 2
    assert source.warnings[0].startswith("2 entries of a type")
    assert source.warnings[1].startswith("1 files come without a digest")


# -- names ------------------------------------------------------------------------------------------------------------

HOSTILE = [
    "../up",
    "a/../../up",
    "/etc/passwd",
    "a\0b",
    "a\nb",
    "x" * 300,
    "C:x",
    "a\\b",
    ".shoal/manifest.json",
    "\ud800",
]


async def test_unsafe_names_cost_only_themselves() -> None:
    w = world({tree_url(): tree(file("good"), *(file(name) for name in HOSTILE), file("also/good"))})
    source = source_of(f"hf://acme/tiny@{SHA}", w.context)
    assert [(spec.object_id, spec.path) for spec in await objects_of(source)] == [(1, "good"), (2, "also/good")]
    assert source.refused_count == len(source.refused) == len(HOSTILE)
    for name, reason in source.refused:
        assert name.isascii()
        assert name.isprintable()
        assert len(name) < 1000
        assert reason


async def test_only_unsafe_names_is_no_lack_of_files() -> None:
    w = world({tree_url(): tree(file("../up"))})
    source = source_of(f"hf://acme/tiny@{SHA}", w.context)
    assert await objects_of(source) == []
    assert source.refused_count == 1


async def test_refused_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "NOTES_MAX", 3)
    w = world({tree_url(): tree(*(file(f"../{number}") for number in range(9)))})
    source = source_of(f"hf://acme/tiny@{SHA}", w.context)
    await objects_of(source)
    assert (len(source.refused), source.refused_count) == (3, 9)


async def test_file_and_folder_of_one_name() -> None:
    w = world({tree_url(): tree(file("a"), file("a/b"), file("c/d"), file("c"))})
    source = source_of(f"hf://acme/tiny@{SHA}", w.context)
    assert [spec.path for spec in await objects_of(source)] == ["a", "c/d"]
    assert [name for name, _ in source.refused] == ["'a/b'", "'c'"]


async def test_twins_are_delivered_with_a_warning() -> None:
    w = world({tree_url(): tree(file("Readme"), file("README"), file("e\u0301"), file("\u00e9"), file("Readme"))})
    source = source_of(f"hf://acme/tiny@{SHA}", w.context)
    assert [spec.path for spec in await objects_of(source)] == ["Readme", "README", "e\u0301", "\u00e9"]
    assert "only in case" in source.warnings[0]
    assert "only in Unicode form" in source.warnings[1]


# -- requests that contradict themselves, and policy ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "options", "words"),
    [
        ("hf://acme/tiny@v1", {"revision": "v2"}, "revision"),
        ("hf://acme/tiny", {"revision": "a..b"}, "revision"),
        (f"hf://acme/tiny@{'a' * 40}", {"commit": "b" * 40}, "commit itself"),
        ("hf://acme/tiny", {"sha256": "0" * 64}, "names the digest"),
        ("https://example.org/x", {"revision": "v2"}, "no revisions"),
        ("https://example.org/x", {"sha256": "zz"}, "digest"),
        ("https://example.org/x/", {}, "names a folder"),
        ("file:///x", {"revision": "v2"}, "no revisions"),
        ("s3://bucket/x", {}, "no stores"),
        ("s3://bucket/x", {"revision": "v2"}, "no revisions"),
        ("s3://bucket/x/", {"sha256": "0" * 64}, "one object"),
    ],
)
def test_requests_that_make_no_sense(uri: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        source_of(uri, world().context, **options)


def test_the_same_revision_twice_is_fine() -> None:
    source_of("hf://acme/tiny@v1", world().context, revision="v1")


def test_no_endpoint() -> None:
    with pytest.raises(UsageError, match=r"hub\.endpoint"):
        source_of("hf://acme/tiny", world(endpoints=()).context)


@pytest.mark.parametrize(
    ("rules", "uri"),
    [
        ({"allow": ("bigcode/*",)}, "hf://acme/tiny"),
        ({"allow": ("bigcode/",)}, "hf://bigcode2/tiny"),
        ({"allow": ("*.org",)}, "hf://acme/tiny.org"),
        ({"allow": ("datasets/acme/*",)}, "hf://acme/tiny"),
        ({"allow": ("acme/*",)}, "https://acme/tiny"),
        ({"allow": ("acme/*",)}, "file:///acme/x"),
        ({"allow": ("*/*",)}, "file:///acme/x"),
        ({"allow": ("example.org",)}, "https://www.example.org/x"),
        ({"allow": ("example.org",)}, "https://example.org.evil.example/x"),
        ({"allow": ("file:///data/*",)}, "file:///etc/passwd"),
        ({"allow": ("file:///data/*",)}, "hf://acme/tiny"),
        ({"deny": ("ACME/*",)}, "hf://Acme/tiny"),
        ({"deny": ("spaces/*",)}, "hf://spaces/acme/tiny"),
        ({"deny": ("*",)}, "hf://acme/tiny"),
        ({"deny": ("*",)}, "https://example.org/x"),
        ({"deny": ("*",)}, "file:///x"),
        ({"deny": ("*.example.org",)}, "https://CDN.example.org/x"),
        ({"allow": ("*",), "deny": ("acme/secret",)}, "hf://acme/secret"),
        ({"https_only": True}, "http://example.org/x"),
    ],
)
async def test_policy_refuses_before_any_request(rules: dict[str, Any], uri: str) -> None:
    w = world(policy=Policy(**rules))
    with pytest.raises(Refused, match=r"security\."):
        await objects_of(source_of(uri, w.context))
    assert w.http.requests == []


async def test_https_only_holds_for_endpoints() -> None:
    w = world(endpoints=(HUB, MIRROR), policy=Policy(https_only=True))
    with pytest.raises(Refused, match="https_only"):
        await source_of("hf://acme/tiny", w.context).resolve()
    assert w.http.requests == []


@pytest.mark.parametrize(
    ("rules", "uri"),
    [
        ({"allow": ("acme/*",), "deny": ("acme/secret",)}, "hf://acme/tiny"),
        ({"allow": ("acme/",), "https_only": True}, "hf://acme/tiny"),
        ({"allow": ("models/ACME/t*",)}, "hf://acme/tiny"),
        ({"deny": ("datasets/acme/*", "*.org", "file:///*")}, "hf://acme/tiny"),
    ],
)
async def test_policy_lets_pass(rules: dict[str, Any], uri: str) -> None:
    w = world({info_url(): info()}, policy=Policy(**rules))
    assert (await source_of(uri, w.context).resolve()).commit == SHA


async def test_a_renamed_repo_is_checked_under_its_new_name() -> None:
    w = world({info_url(): info(id="secret/tiny")}, policy=Policy(allow=("acme/*",)))
    with pytest.raises(Refused, match="secret/tiny"):
        await source_of("hf://acme/tiny", w.context).resolve()


# -- one URL ----------------------------------------------------------------------------------------------------------

URL = "https://example.org/files/a%20b.bin?sig=abc"


def part(total: str, **headers: str) -> Answer:
    return Answer(b"x", 206, {"Content-Range": f"bytes 0-0/{total}", **headers})


@pytest.mark.parametrize(
    ("answer", "size", "etag"),
    [
        (part("7000000000", ETag='"e1"'), 7_000_000_000, "e1"),
        (part("*"), None, ""),
        (Answer(b"xyz", headers={"ETag": 'W/"weak"', "Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT"}), 3,
         "Tue, 14 Nov 2023 22:13:20 GMT"),
        (Answer(b"xyz", length_known=False, headers={"ETag": '""'}), None, ""),
        (Answer(b"xyz", headers={"Content-Encoding": "gzip"}), None, ""),
        (Answer(b"", 416, {"Content-Range": "bytes */0"}), 0, ""),
    ],
)  # fmt: skip
async def test_a_url(answer: Answer, size: int | None, etag: str) -> None:
    w = world({URL: answer}, token="hf_secret")
    source = source_of(URL, w.context, sha256="AB" * 32)
    resolved = await source.resolve()
    assert (resolved.origin, resolved.endpoints, resolved.commit) == (OriginKind.HTTP, (), "")
    expected = ObjectSpec(object_id=1, path="a b.bin", size=size, digest=f"sha256:{'ab' * 32}", etag=etag, url=URL)
    assert await objects_of(source) == [expected]
    assert w.http.requests == [Request(URL, None, (0, 1))]
    assert w.http.responses[0].closed


@pytest.mark.parametrize(
    ("answer", "cls"),
    [
        (Answer(b"", 404), NotFound),
        (Answer(b"", 410), NotFound),
        (Answer(b"", 401), AccessDenied),
        (Answer(b"", 403), AccessDenied),
        (Answer(b"", 416), HttpStatus),
        (Answer(b"", 416, {"Content-Range": "bytes */5"}), HttpStatus),
        (Answer(b"", 400), HttpStatus),
        (ConnectFailed("example.org"), ConnectFailed),
    ],
)
async def test_a_url_that_is_refused(answer: Answer | ShoalError, cls: type) -> None:
    w = world({URL: answer})
    with pytest.raises(cls) as caught:
        await objects_of(source_of(URL, w.context))
    assert "abc" not in str(caught.value)


async def test_a_url_is_asked_again() -> None:
    w = world({URL: [Answer(b"", 503), Answer(b"", 429, {"Retry-After": "9"}), part("5")]})
    assert (await objects_of(source_of(URL, w.context)))[0].size == 5
    assert w.sleeps[1] >= 9


@pytest.mark.parametrize("name", ["%2e%2e%2fup", "a%2Fb", "a%5Cb", "a%00b", "nul", "..."])
async def test_a_url_with_an_unsafe_name(name: str) -> None:
    w = world()
    with pytest.raises((UnsafeName, UsageError)):
        await source_of(f"https://example.org/{name}", w.context).resolve()
    assert w.http.requests == []


@pytest.mark.parametrize(
    ("rules", "final"),
    [({"deny": ("evil.example",)}, "https://evil.example/x"), ({"https_only": True}, "http://example.org/x")],
)
async def test_a_url_that_leads_where_it_must_not(rules: dict[str, Any], final: str) -> None:
    w = world({URL: Answer(b"x", url=final)}, policy=Policy(**rules))
    with pytest.raises(Refused, match=r"security\."):
        await source_of(URL, w.context).resolve()


async def test_an_allowed_url_may_redirect_to_its_cdn() -> None:
    w = world({URL: Answer(b"x", url="https://cdn.example/x?sig=1")}, policy=Policy(allow=("example.org",)))
    assert [spec.url for spec in await objects_of(source_of(URL, w.context))] == [URL]


async def test_a_url_that_is_not_selected() -> None:
    with pytest.raises(NotFound, match="no file matches"):
        await source_of(URL, world().context, include=("*.json",)).resolve()


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name, content in {
        "b.txt": "bb",
        "a/2.txt": "2",
        "a/1 é.txt": "11",
        "c/deep/x.bin": "",
        ".shoal/manifest.json": "{}",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


async def test_a_folder_is_walked_in_order(folder: Path) -> None:
    source = source_of(f"file://{folder}/", world().context)
    resolved = await source.resolve()
    assert (resolved.source, resolved.origin) == (f"file://{folder}", OriginKind.FILE)
    objects = await objects_of(source)
    assert [(spec.object_id, spec.path, spec.size) for spec in objects] == [
        (1, "a/1 é.txt", 2),
        (2, "a/2.txt", 1),
        (3, "b.txt", 2),
        (4, "c/deep/x.bin", 0),
    ]
    assert objects[0].url == f"file://{folder}/a/1%20%C3%A9.txt"
    status = (folder / "b.txt").stat()
    assert objects[2].etag == f"2-{status.st_mtime_ns}"
    assert {spec.digest for spec in objects} == {""}
    assert source.refused == []


async def test_a_folder_comes_in_pages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.coordinator.sources.file.PAGE_OBJECTS_MAX", 3)
    pages = [page async for page in source_of(f"file://{folder}", world().context).pages()]
    assert [len(page) for page in pages] == [3, 1]


async def test_one_local_file(folder: Path) -> None:
    source = source_of(f"file://{folder}/b.txt", world().context, sha256="0" * 64)
    (spec,) = await objects_of(source)
    assert (spec.path, spec.size, spec.digest) == ("b.txt", 2, f"sha256:{'0' * 64}")


async def test_a_folder_has_no_one_digest(folder: Path) -> None:
    with pytest.raises(UsageError, match="a folder"):
        await source_of(f"file://{folder}", world().context, sha256="0" * 64).resolve()


async def test_local_files_are_selected(folder: Path) -> None:
    source = source_of(f"file://{folder}", world().context, include=("a/",), exclude=("*2*",))
    assert [spec.path for spec in await objects_of(source)] == ["a/1 é.txt"]


async def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No such file"):
        await source_of(f"file://{tmp_path}/nothing", world().context).resolve()
    with pytest.raises(NotFound, match="no files"):
        await objects_of(source_of(f"file://{tmp_path}", world().context))


async def test_special_files_and_links_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "up").symlink_to("../..")
    (folder / "beside").symlink_to(f"{folder}2")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "folder").symlink_to("a")
    (folder / "in").symlink_to("a/2.txt")
    source = source_of(f"file://{folder}", world().context)
    objects = {spec.path: spec for spec in await objects_of(source)}
    assert set(objects) == {"a/1 é.txt", "a/2.txt", "b.txt", "c/deep/x.bin", "in"}
    assert objects["in"].url == f"file://{folder}/a/2.txt"
    refused = dict(source.refused)
    assert set(refused) == {"'pipe'", "'out'", "'up'", "'beside'", "'loop'", "'dangling'", "'folder'"}
    assert "regular" in refused["'pipe'"]
    assert "leaves the folder" in refused["'out'"]
    assert "link to a folder" in refused["'folder'"]


async def test_unsafe_local_names_are_refused(folder: Path) -> None:
    (folder / "a\nb").write_text("x")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_text("x")
    source = source_of(f"file://{folder}", world().context)
    assert len(await objects_of(source)) == 4
    assert source.refused_count == 2


async def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        await source_of(f"file://{tmp_path}/pipe", world().context).resolve()


async def test_a_link_does_not_get_around_the_policy(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    policy = Policy(allow=(f"file://{tmp_path}/*",))
    with pytest.raises(Refused, match="/etc"):
        await source_of(f"file://{tmp_path}/link", world(policy=policy).context).resolve()
    assert len(await objects_of(source_of(f"file://{folder}", world(policy=policy).context))) == 4


# -- size -------------------------------------------------------------------------------------------------------------


async def test_a_hundred_thousand_files_are_streamed() -> None:
    """One page of raw entries is alive at a time; what stays is the index of names."""
    pages, per_page = 100, 1000

    class Endless(FakeHttp):
        async def request(self, url: str, **_: Any) -> FakeResponse:
            number = int(url.rpartition("cursor=")[2]) if "cursor=" in url else 0
            entries = [file(f"data/{number:03}/part-{i:05}.parquet", i) for i in range(per_page)]
            after = f"{tree_url()}&cursor={number + 1}" if number + 1 < pages else ""
            return FakeResponse(tree(*entries, next_url=after), url)

    w = world()
    context = SourceContext(
        http=Endless({}),  # type: ignore[arg-type]
        hub_endpoints=w.context.hub_endpoints,
        hub_token=w.context.hub_token,
        clock=w.context.clock,
        sleep=w.context.sleep,
        rng=w.context.rng,
    )
    source, seen = source_of(f"hf://acme/tiny@{SHA}", context), 0
    async for page in source.pages():
        assert len(page) == per_page
        assert page[0].object_id == seen + 1
        seen += len(page)
    assert seen == pages * per_page
