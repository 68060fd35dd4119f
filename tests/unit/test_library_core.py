"""The library's own rules: what a refresh costs, what is sorted how, what an update selects, what a check claims."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.common import logs
from shoal.common.errors import Conflict, NotFound, TimedOut, UsageError
from shoal.common.library.freshness import check_freshness
from shoal.common.library.library import Library
from shoal.common.library.query import Query, groups, select
from shoal.common.library.records import Check, Freshness, Model, Place, Revision
from shoal.common.library.repair import repair_requests
from shoal.common.library.state import INDEX, PLACES, known_places, read_state, remember_place, write_state
from shoal.common.library.update import same_selection, update_request
from shoal.common.manifest import ManifestEntry, write_manifest
from shoal.common.paths import SafeRoot
from shoal.common.records import Layout
from shoal.common.uri import HubUri
from shoal.common.views import SubmitRequest

MANY = 10_000
COMMIT = "a" * 40
OTHER = "b" * 40
LATER_NS = 10_000_000_000  # long enough after a change that its time can be relied on


class Disk:
    """A Hub cache and plain folders, made by hand, and a clock that is ahead of their times."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "hub"
        self.plain = folder / "plain"
        self.state = folder / "state"
        self.cache.mkdir()
        self.plain.mkdir()
        self.ahead_s = 60.0

    def library(self, **options: Any) -> Library:
        import time

        return Library([self.cache, self.plain], self.state, clock=lambda: time.time() + self.ahead_s, **options)

    def add_cached(self, name: str, *, size: int = 10, commit: str = COMMIT, path: str = "model.gguf") -> Path:
        repo = self.cache / f"models--{name.replace('/', '--')}"
        blob = f"{len(path):02x}{commit[:1]}{'0' * 37}"
        for folder in ("blobs", "refs", f"snapshots/{commit}"):
            (repo / folder).mkdir(parents=True, exist_ok=True)
        (repo / "blobs" / blob).write_bytes(b"x" * size)
        (repo / "refs/main").write_text(commit)
        (repo / f"snapshots/{commit}/{path}").symlink_to(f"../../blobs/{blob}")
        return repo

    def add_plain(self, name: str, files: dict[str, bytes], *, source: str = "hf://acme/tiny") -> Path:
        folder = self.plain / name
        entries: list[ManifestEntry] = []
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
            entries.append(
                ManifestEntry(
                    path=path,
                    size=len(content),
                    digest="sha256:" + "0" * 64,
                    source=source,
                    revision="main",
                    commit=COMMIT,
                )
            )
        (folder / ".shoal").mkdir(parents=True, exist_ok=True)
        with SafeRoot(folder) as root:
            write_manifest(root, sources={source: {"revision": "main", "commit": COMMIT}}, entries=entries)
        return folder


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@contextmanager
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts what is asked of the file system."""
    seen: Counter[str] = Counter()
    with monkeypatch.context() as patched:
        for name in ("stat", "lstat", "scandir", "listdir", "open", "readlink"):
            real = getattr(os, name)

            def counted(*args: Any, _real: Any = real, _name: str = name, **kwargs: Any) -> Any:
                seen[_name] += 1
                return _real(*args, **kwargs)

            patched.setattr(os, name, counted)
        yield seen


# --- what a refresh costs -------------------------------------------------------------------------------------------


def test_ten_thousand_models_are_not_read_again(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(MANY):
        disk.add_cached(f"acme/model-{number}")
    disk.library().refresh()
    library = disk.library(max_age_s=60.0)  # another process, later
    with calls(monkeypatch) as seen:
        page = library.page(Query(limit=50, sort="size"))
    assert (page.total, len(page.models)) == (MANY, 50)
    assert seen["lstat"] + seen["stat"] <= 6 * MANY + 50, "a handful of times a model"
    assert seen["scandir"] + seen["listdir"] + seen["readlink"] == 0, "no folder is listed"
    assert seen["open"] <= 3, "no file is read but the index"
    with calls(monkeypatch) as seen:
        library.page(Query(limit=50, offset=50, search="model-7"))
        library.groups("owner")
    assert not seen, "the next page asks the disk nothing"


def test_what_changed_is_read_again_and_nothing_else(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        disk.add_cached(f"acme/model-{number}")
    library = disk.library()
    library.refresh()
    disk.add_cached("acme/model-3", commit=OTHER, size=20, path="other.gguf")
    disk.add_cached("acme/new")
    with calls(monkeypatch) as seen:
        library.refresh()
    assert seen["listdir"] < 20
    models = {model.repo_id: model for model in library.models()}
    assert len(models) == 21
    assert {each.commit for each in models["acme/model-3"].revisions} == {COMMIT, OTHER}
    assert models["acme/model-3"].bytes == 30


def test_a_branch_that_moved_back_is_seen(disk: Disk) -> None:
    repo = disk.add_cached("acme/tiny")
    disk.add_cached("acme/tiny", commit=OTHER, path="b.gguf")
    library = disk.library()
    assert {each.commit: each.refs for each in library.models()[0].revisions} == {COMMIT: (), OTHER: ("main",)}
    before = (repo / "refs/main").stat()
    with (repo / "refs/main").open("r+") as file:  # as the Hub's client does: in place
        file.write(COMMIT)
    os.utime(repo / "refs/main", ns=(before.st_atime_ns, before.st_mtime_ns + LATER_NS))
    assert {each.commit: each.refs for each in library.models()[0].revisions} == {COMMIT: ("main",), OTHER: ()}


def test_a_change_within_the_grain_of_file_times_is_seen(disk: Disk) -> None:
    disk.ahead_s = 0.0
    repo = disk.add_cached("acme/tiny")
    library = disk.library()
    library.refresh()
    times = {path: path.stat() for path in (repo / "blobs", repo / "snapshots", repo / f"snapshots/{COMMIT}")}
    disk.add_cached("acme/tiny", commit=OTHER, path="b.gguf")
    for path, found in times.items():
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert len(library.models()[0].revisions) == 2


def test_what_is_gone_is_gone(disk: Disk) -> None:
    disk.add_cached("acme/a")
    disk.add_plain("b", {"x": b"1"})
    library = disk.library()
    assert len(library.models()) == 2
    shutil.rmtree(disk.cache / "models--acme--a")
    shutil.rmtree(disk.plain / "b")
    assert not library.models()
    shutil.rmtree(disk.cache)
    assert not library.models()


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 50, b"0" * 64 + b"\n{}"])
def test_a_damaged_index_is_as_if_there_was_none(disk: Disk, damage: bytes) -> None:
    disk.add_cached("acme/a")
    before = disk.library().models()
    (disk.state / INDEX).write_bytes(damage)
    assert disk.library().models() == before


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each))
)
def test_an_index_of_something_else_is_as_if_there_was_none(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("state")
    for document in (
        value,
        {"version": 1, "listings": value, "things": value},
        {"version": 1, "listings": {}, "things": {"/x": value}},
    ):
        write_state(folder / INDEX, document)
        assert Library([folder / "absent"], folder).models() == ()


def test_a_state_folder_that_cannot_be_written_costs_only_time(disk: Disk) -> None:
    disk.add_cached("acme/a")
    disk.state.write_text("a file is in the way")
    library = disk.library()
    assert len(library.models()) == 1
    remember_place(disk.state, disk.plain)
    assert known_places(disk.state) == []


def test_places_are_noted_once_and_read_with_care(disk: Disk) -> None:
    for _ in range(3):
        remember_place(disk.state, disk.plain / "with\nbreak")
    remember_place(disk.state, Path("/b"))
    with (disk.state / PLACES).open("ab") as file:
        file.write(b'"relative"\n{"a": 1}\nnot json\n"/nul\\u0000"\n')
    assert known_places(disk.state) == [disk.plain / "with\nbreak", Path("/b")]


# --- plain folders --------------------------------------------------------------------------------------------------


def test_models_in_folders_are_found_three_levels_down(disk: Disk) -> None:
    disk.add_plain("org/name", {"a.gguf": b"12", "data/b.bin": b"3"})
    disk.add_plain("top", {"c": b"1"}, source="s3://bucket/prefix/")
    disk.add_plain("top/inside", {"d": b"1"}, source="hf://datasets/acme/words")
    disk.add_plain("a/b/c/too deep", {"e": b"1"})
    disk.add_plain("org/name/data", {"f": b"1"})  # below files of another: not looked at
    models = {model.path.removeprefix(f"{disk.plain}/"): model for model in disk.library().models()}
    assert set(models) == {"org/name", "top", "top/inside"}
    assert (models["top"].kind, models["top"].repo_id, models["top"].owner) == ("s3", "bucket/prefix", "bucket")
    assert models["top/inside"].kind == "dataset"
    assert models["org/name"].bytes == 3


def test_a_manifest_that_names_paths_elsewhere_leads_nowhere(disk: Disk, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    folder = disk.add_plain("evil", {"ok": b"1"})
    hostile = ["../../secret", str(secret), "link/secret", "a\0b", "", ".", "x/../../../secret"]
    (folder / "link").symlink_to(tmp_path)
    entries = [
        ManifestEntry(path=path or "?", size=4, digest="sha256:" + "0" * 64, source="hf://acme/tiny", commit=COMMIT)
        for path in hostile
    ]
    entries.append(
        ManifestEntry(path="ok", size=1, digest="sha256:" + "0" * 64, source="hf://acme/tiny", commit=COMMIT)
    )
    with SafeRoot(folder) as root:
        write_manifest(root, sources={"hf://acme/tiny": {"commit": COMMIT}}, entries=entries)
    library = disk.library()
    (model,) = library.models()
    assert (model.files, model.bytes) == (1, 1)
    done = library.delete(library.plan_deletion(model))
    assert secret.read_text() == "mine"
    assert (folder / "link").is_symlink()
    assert not (folder / "ok").exists()
    assert {path for path, _ in done.failed} <= {
        *hostile,
        "?",
        *(f".cache/huggingface/download/{path}.metadata" for path in hostile),
        *(f".cache/huggingface/download/{path}.lock" for path in hostile),
    }


def test_a_run_that_is_at_work_is_not_disturbed(disk: Disk) -> None:
    import fcntl

    from shoal.common.errors import Busy

    folder = disk.add_plain("tiny", {"a": b"1"})
    (folder / ".shoal/jobs").mkdir()
    marker = folder / ".shoal/jobs/x.marker"
    marker.touch()
    library = disk.library()
    (model,) = library.models()
    with marker.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(Busy, match=r"x\.marker"):
            library.delete(library.plan_deletion(model))
    assert (folder / "a").exists()
    assert not library.delete(library.plan_deletion(model)).failed
    assert not folder.exists()


# --- asking ---------------------------------------------------------------------------------------------------------


def model(name: str, **fields: Any) -> Model:
    known: dict[str, Any] = {
        "model_id": name.replace("/", "-"),
        "kind": "model",
        "repo_id": name,
        "source": f"hf://{name}",
        "place": Place.HUB_CACHE,
        "path": f"/cache/{name}",
        "owner": name.partition("/")[0],
        "family": name.partition("/")[2],
        "revisions": (Revision(commit=COMMIT, refs=("main",)),),
        "bytes": 1,
        **fields,
    }
    return Model(**known)


MODELS = [
    model("b/two", bytes=300, fetched_at=2.0, quantizations=("Q8_0",)),
    model("a/one", bytes=100, fetched_at=3.0, quantizations=("Q4_K_M", "Q8_0"), family="Llama"),
    model("a/Three", bytes=200, fetched_at=1.0, kind="dataset", place=Place.FOLDER, path="/data/three"),
]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (Query(), ["a/one", "a/Three", "b/two"]),
        (Query(sort="-name"), ["b/two", "a/Three", "a/one"]),
        (Query(sort="size"), ["b/two", "a/Three", "a/one"]),
        (Query(sort="age"), ["a/one", "b/two", "a/Three"]),
        (Query(sort="quantization"), ["a/one", "b/two", "a/Three"]),
        (Query(sort="family"), ["a/one", "a/Three", "b/two"]),
        (Query(owner="A"), ["a/one", "a/Three"]),
        (Query(quantization="q8_0"), ["a/one", "b/two"]),
        (Query(kind="dataset"), ["a/Three"]),
        (Query(place="folder"), ["a/Three"]),
        (Query(search="three DATA"), ["a/Three"]),
        (Query(search="q4_k_m llama"), ["a/one"]),
        (Query(search="absent"), []),
        (Query(offset=1, limit=1), ["a/Three"]),
        (Query(offset=9), []),
        (Query(freshness="outdated"), ["b/two"]),
        (Query(freshness="unknown"), ["a/one", "a/Three"]),
    ],
)
def test_queries(query: Query, names: list[str]) -> None:
    checks = {"b-two": Check(freshness=Freshness.OUTDATED)}
    page = select(MODELS, query, checks)
    assert [each.repo_id for each in page.models] == names
    if not query.limit and not query.offset:
        assert page.total == len(names)


@pytest.mark.parametrize(
    "wrong", [{"sort": "colour"}, {"offset": -1}, {"limit": -1}, {"place": "x"}, {"freshness": "x"}]
)
def test_queries_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Query(**wrong)
    with pytest.raises(UsageError):
        groups(MODELS, "colour")


def test_groups_and_shared_blobs_count_once() -> None:
    twins = [model(f"a/{n}", bytes=70, shared=(("blob", 50),), path=f"/cache/{n}") for n in (1, 2)]
    elsewhere = model("a/3", bytes=70, shared=(("blob", 50),), path="/other/3")
    assert select([*twins, elsewhere], Query()).bytes == 70 + 20 + 70
    found = {group.name: (group.models, group.bytes) for group in groups(MODELS, "quantization")}
    assert found == {"Q8_0": (2, 400), "Q4_K_M": (1, 100), "": (1, 200)}


def test_records_come_back_from_json() -> None:
    for each in MODELS:
        assert Model.from_json(json.loads(json.dumps(each.to_json()))) == each
    broken: list[Any] = [None, 1, [], {}, {**MODELS[0].to_json(), "place": "x"}, {**MODELS[0].to_json(), "bytes": "1"}]
    for value in broken:
        with pytest.raises(ValueError, match="not a model"):
            Model.from_json(value)


def test_names_that_several_have(disk: Disk) -> None:
    disk.add_cached("acme/tiny")
    folder = disk.add_plain("t", {"a": b"1"})
    library = disk.library()
    with pytest.raises(Conflict, match="name one by its id"):
        library.find("acme/tiny")
    assert library.find(str(folder)).place is Place.FOLDER
    for each in library.models():
        assert library.find(each.model_id) == each
    with pytest.raises(NotFound):
        library.find("acme/absent")


# --- newer revisions ------------------------------------------------------------------------------------------------


async def test_a_check_claims_nothing_that_nobody_said() -> None:
    asked: list[str] = []

    async def ask(uri: HubUri) -> str:
        asked.append(uri.canonical())
        if uri.repo_id == "a/dead":
            raise TimedOut("the Hub")
        return OTHER if uri.repo_id == "a/old" else COMMIT

    found = [
        model("a/new"),
        model("a/old"),
        model("a/dead"),
        model("a/pinned", revisions=(Revision(commit=COMMIT),)),
        model("a/files", source=""),
        model("a/s3", source="s3://bucket/x"),
        model("a/old", model_id="elsewhere"),
        model("a/branch", revisions=(Revision(commit=OTHER, refs=("dev",)), Revision(commit=COMMIT, refs=("main",)))),
    ]
    checks = await check_freshness(found, ask, clock=lambda: 5.0, at_once=2)
    assert [check.freshness.value for check in checks] == [
        *("current", "outdated", "unknown", "pinned", "unknown", "unknown", "outdated", "current")
    ]
    assert checks[2].reason and not checks[2].latest
    assert sorted(asked) == ["hf://a/branch", "hf://a/dead", "hf://a/new", "hf://a/old"], (
        "each once, and main before others"
    )
    offline = await check_freshness(found, ask, clock=lambda: 5.0, at_once=2, offline=True)
    assert {check.freshness for check in offline} == {Freshness.UNKNOWN, Freshness.PINNED}


async def test_no_more_questions_at_once_than_allowed() -> None:
    import asyncio

    now = most = 0

    async def ask(uri: HubUri) -> str:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return COMMIT

    await check_freshness([model(f"a/{n}") for n in range(50)], ask, clock=lambda: 0.0, at_once=3)
    assert most == 3


async def test_an_answer_is_kept_until_what_it_was_about_is_gone(disk: Disk) -> None:
    disk.add_cached("acme/tiny")
    library = disk.library()
    (found,) = library.models()

    async def newer(uri: HubUri) -> str:
        return OTHER

    async def dead(uri: HubUri) -> str:
        raise TimedOut("the Hub")

    await library.check([found], newer)
    assert (await library.check([found], dead))[0].freshness is Freshness.UNKNOWN
    assert disk.library().checks[found.model_id].freshness is Freshness.OUTDATED, "in another process too"
    disk.add_cached("acme/tiny", commit=OTHER, path="b.gguf")
    library.refresh()
    assert library.checks[found.model_id].freshness is Freshness.CURRENT, "what was newer has arrived"
    shutil.rmtree(found.path)
    disk.add_cached("acme/tiny", commit="c" * 40)
    library.refresh()
    assert not library.checks


# --- what an update selects -----------------------------------------------------------------------------------------

OLD = ["config.json", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "README.md", "img/a.png", "img/b.png"]
NEW = [*OLD, "m-Q2_K.gguf", "added.json", "img/c.png", "notes.txt"]


@pytest.mark.parametrize(
    ("have", "old", "new", "wanted"),
    [
        (OLD, OLD, NEW, None),  # everything stays everything
        ([*OLD, "mine"], OLD, NEW, None),
        (["m-Q4_K_M.gguf"], OLD, NEW, ["m-Q4_K_M.gguf"]),
        (["m-Q4_K_M.gguf"], OLD, ["n-Q4_K_M-00001-of-00002.gguf", "n-Q4_K_M-00002-of-00002.gguf", "n-Q8_0.gguf"],
         ["n-Q4_K_M-00001-of-00002.gguf", "n-Q4_K_M-00002-of-00002.gguf"]),
        (["config.json"], OLD, NEW, ["added.json", "config.json"]),  # as --include '*.json'
        (["img/a.png", "img/b.png"], OLD, NEW, ["img/a.png", "img/b.png", "img/c.png"]),
        (["img/a.png"], OLD, NEW, ["img/a.png"]),  # not all of its kind
        (["m-Q8_0.gguf", "config.json"], None, NEW, ["config.json", "m-Q8_0.gguf"]),  # nobody knows what was offered
        (["m-Q8_0.gguf"], OLD, ["README.md"], []),
    ],
)  # fmt: skip
def test_the_same_selection(have: list[str], old: list[str] | None, new: list[str], wanted: list[str] | None) -> None:
    sized = None if old is None else [(path, 1) for path in old]
    assert same_selection(have, sized, [(path, 1) for path in new]) == wanted


async def test_what_an_update_asks_for() -> None:
    async def listing(uri: HubUri) -> list[tuple[str, int | None]]:
        return [("a[1].gguf", 1), ("b.json", 1)] if uri.revision == COMMIT else [("a[1].gguf", 2), ("b.json", 1)]

    cached = await update_request(
        model("acme/tiny", path="/cache/models--acme--tiny"), ["a[1].gguf"], listing, root=Path("/")
    )
    assert (cached.destination, cached.layout, cached.revision) == ("/cache", Layout.HUB_CACHE, "main")
    assert cached.include == ("a[[]1].gguf",)
    plain = model("acme/tiny", place=Place.FOLDER, path="/agents/data/tiny")
    request = await update_request(plain, ["a[1].gguf", "b.json"], listing, root=Path("/agents"))
    assert (request.destination, request.layout, request.include) == ("/data/tiny", Layout.FOLDER, ())
    with pytest.raises(UsageError, match="not below"):
        await update_request(plain, [], listing, root=Path("/elsewhere"))
    with pytest.raises(UsageError, match="by commit"):
        await update_request(replace(plain, revisions=(Revision(commit=COMMIT),)), [], listing, root=Path("/"))
    with pytest.raises(UsageError, match="nothing says"):
        await update_request(replace(plain, source=""), [], listing, root=Path("/"))


def wrong(path: str, source: str = "hf://acme/tiny", commit: str = COMMIT) -> ManifestEntry:
    return ManifestEntry(path=path, size=1, digest="", source=source, commit=commit)


def test_a_repair_asks_for_wrong_files_alone_at_their_commits_by_the_names_that_they_were_fetched_by() -> None:
    entries = [wrong("a[1].bin"), wrong("b.bin"), wrong("c.bin", commit=OTHER), wrong("d", "hf://acme/tiny@v1")]
    base = SubmitRequest(uris=("hf://acme/tiny",), destination="/tiny", layout=Layout.FOLDER, force=True, profile="p")
    assert repair_requests(Path("/agent/tiny"), entries, layout=Layout.FOLDER, root=Path("/agent"), profile="p") == [
        replace(base, commit=COMMIT, include=("a[[]1].bin", "b.bin")),
        replace(base, commit=OTHER, include=("c.bin",)),
        replace(base, uris=("hf://acme/tiny@v1",), commit=COMMIT, include=("d",)),
    ]


def test_a_repair_of_a_cache_names_paths_of_the_repo() -> None:
    (request,) = repair_requests(Path("/c"), [wrong(f"snapshots/{COMMIT}/sub/a.bin")], layout=Layout.HUB_CACHE)
    assert (request.include, request.destination, request.layout) == (("sub/a.bin",), "/c", Layout.HUB_CACHE)


@pytest.mark.parametrize(
    ("layout", "entry", "root"),
    [
        (Layout.FOLDER, wrong("a.bin", source=""), "/"),
        (Layout.FOLDER, wrong("a.bin"), "/elsewhere"),
        (Layout.HUB_CACHE, wrong("blobs/x"), "/"),
    ],
)
def test_what_cannot_be_repaired_says_why(layout: Layout, entry: ManifestEntry, root: str) -> None:
    with pytest.raises(Conflict):
        repair_requests(Path("/data/tiny"), [entry], layout=layout, root=Path(root))


def test_state_files_are_whole_or_not_there(tmp_path: Path) -> None:
    write_state(tmp_path / "x.json", {"a": 1})
    assert read_state(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert read_state(tmp_path / "absent.json") is None


def test_a_damaged_manifest_is_told_and_nothing_is_believed(disk: Disk) -> None:
    folder = disk.add_plain("tiny", {"a": b"1"})
    text = (folder / ".shoal/manifest.json").read_text()
    (folder / ".shoal/manifest.json").write_text(text.replace('"path": "a"', '"path": "b"'))
    said = io.StringIO()
    logs.configure("warning", "json", said)
    try:
        assert not disk.library().models()
    finally:
        logs.configure()
    assert json.loads(said.getvalue())["cause"] == "its checksum does not match: it was cut or changed"
