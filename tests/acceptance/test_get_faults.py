"""Servers that misbehave: ``shoal get`` ends with the right bytes or with a clear error, never with a wrong file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.cli import Finished, Shoal, delivered, leftovers
from support.contents import ContentLike, SyntheticFile, as_content, read_all
from support.faults import (
    ChangeFile,
    Compress,
    CutBody,
    DropConnection,
    ExpireUrl,
    Fault,
    FlipByte,
    HtmlPage,
    IgnoreRange,
    NoContentLength,
    Quota,
    RateLimited,
    RedirectLoop,
    Stall,
    Status,
    WrongContentRange,
    WrongSize,
)
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.origin import FaultOrigin, OriginFile
from support.stand_in import in_thread

MIB = 1 << 20
BIG = "model.safetensors"
FILES: Mapping[str, ContentLike] = {
    "config.json": b'{"hidden_size": 384}\n',
    "tokenizer.txt": b"[PAD]\n" * 1000,
    BIG: SyntheticFile(40 * MIB + 17, seed=1),
}
WANTED = {name: read_all(as_content(source)) for name, source in FILES.items()}
QUICK = ["--set", "fetch.read_timeout=1s", "--set", "fetch.transient_retries=2", "--set", "fetch.attempts=1"]
"""So that a server that stays silent or broken is given up within seconds."""


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/tiny", FILES)]) as stand_in:
        yield stand_in


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with in_thread(FaultOrigin({BIG: FILES[BIG]})) as stand_in:
        yield stand_in


@pytest.fixture
def shoal(tmp_path: Path, hub: StandInHub) -> Shoal:
    return Shoal(tmp_path / "person", endpoint=hub.url)


def fetch(shoal: Shoal, to: Path, *options: str) -> Finished:
    return shoal.run("get", "hf://acme/tiny", "--to", to, *options)


# --- what spoils one file for good ----------------------------------------------------------------------------------


def assert_only_big_failed(shoal: Shoal, run: Finished, hub: StandInHub, to: Path, *words: str) -> None:
    """The bad file is not there under its name, the others are; the error names it; the next run mends it."""
    assert delivered(to) == {name: data for name, data in WANTED.items() if name != BIG}
    for word in (BIG, *words):
        assert word in run.stderr
    hub.faults.clear()
    hub.log.clear()
    fetch(shoal, to).expect(0)
    assert delivered(to) == WANTED
    assert hub.log.count(kind="resolve", path="config.json") == 0
    assert leftovers(to) == []


@pytest.mark.parametrize(("offset", "attempts"), [(0, 1), (None, 3), (40 * MIB + 16, 1)])
def test_one_flipped_byte(shoal: Shoal, hub: StandInHub, tmp_path: Path, offset: int | None, attempts: int) -> None:
    hub.faults.add(FlipByte(offset), path=BIG)
    options = [] if attempts == 3 else ["--set", f"fetch.attempts={attempts}"]
    run = fetch(shoal, tmp_path / "to", *options).expect(6)
    tried = hub.log.where(path=BIG, kind="cdn").bytes_served
    assert tried >= attempts * len(WANTED[BIG]), "in each attempt all bytes are fetched anew; three are the default"
    assert_only_big_failed(shoal, run, hub, tmp_path / "to", "digest")


def test_one_flipped_byte_of_a_small_file(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.add(FlipByte(), path="config.json")
    run = fetch(shoal, tmp_path / "to", "--json").expect(6)
    (job,) = run.document()["jobs"]
    (failed,) = job["failed"]
    assert (failed["path"], failed["failure"]["code"], failed["failures"]) == ("config.json", "verification", 3)
    assert "config.json" not in delivered(tmp_path / "to")


def test_a_byte_that_was_flipped_only_once(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    rule = hub.faults.add(FlipByte(), path=BIG, times=1)
    fetch(shoal, tmp_path / "to").expect(0)
    assert rule.hits == 1
    assert delivered(tmp_path / "to") == WANTED


@pytest.mark.parametrize("attempts", [1, 2])
def test_attempts_are_configurable(shoal: Shoal, hub: StandInHub, tmp_path: Path, attempts: int) -> None:
    hub.faults.add(FlipByte(), path="config.json")
    fetch(shoal, tmp_path / "to", "--set", f"fetch.attempts={attempts}").expect(6)
    assert hub.log.count(kind="resolve", path="config.json") == attempts


@pytest.mark.parametrize(
    ("fault", "words"),
    [(HtmlPage(), ["HTML", "Sign in"]), (WrongSize(0), []), (WrongSize(41 * MIB), []), (WrongSize(39 * MIB), [])],
    ids=["page", "empty", "longer", "shorter"],
)
def test_another_body_than_the_file(
    shoal: Shoal, hub: StandInHub, tmp_path: Path, fault: Fault, words: list[str]
) -> None:
    hub.faults.add(fault, path=BIG)
    run = fetch(shoal, tmp_path / "to", *QUICK).expect(1)
    assert_only_big_failed(shoal, run, hub, tmp_path / "to", *words)


def test_an_html_page_as_big_as_the_file(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    page = "<html><title>Sign in</title>"
    hub.faults.add(HtmlPage(page.ljust(len(WANTED["tokenizer.txt"]))), path="tokenizer.txt", kinds=["file"])
    fetch(shoal, tmp_path / "to", *QUICK).expect(6)
    assert "tokenizer.txt" not in delivered(tmp_path / "to")


def test_a_redirect_loop(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.add(RedirectLoop(), path=BIG)
    run = fetch(shoal, tmp_path / "to", *QUICK).expect(1)
    assert_only_big_failed(shoal, run, hub, tmp_path / "to", "redirect")


# --- what a client has to get over ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        (Status(503), {"fraction": 0.3}),
        (Status(500), {"times": 2}),
        (DropConnection(), {"fraction": 0.2}),
        (CutBody(), {"fraction": 0.5}),
        (CutBody(after=0), {"times": 2}),
        (IgnoreRange(), {}),
        (NoContentLength(), {"path": "tokenizer.txt"}),
        (NoContentLength("close"), {"path": "tokenizer.txt"}),
        (Compress(), {}),
        (Stall(after=100_000), {"times": 1}),
        (WrongContentRange(), {"times": 1}),
        (WrongContentRange(move_body=True), {"times": 1}),
        (ExpireUrl(after_s=0.3), {}),
        (ChangeFile(), {"path": "tokenizer.txt", "times": 1}),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, Fault) else None,
)
def test_faults_that_pass(
    shoal: Shoal, hub: StandInHub, tmp_path: Path, fault: Fault, options: Mapping[str, Any]
) -> None:
    rule = hub.faults.add(fault, **options)
    if isinstance(fault, ExpireUrl):
        hub.faults.total_rate = 40 * MIB  # long enough for a URL to expire on the way
    fetch(shoal, tmp_path / "to", "--set", "fetch.read_timeout=1s").expect(0)
    assert rule.hits > 0, "the fault did not show: the test proves nothing"
    assert delivered(tmp_path / "to") == WANTED
    assert leftovers(tmp_path / "to") == []


def test_an_expired_url_is_resolved_again_and_nothing_is_fetched_twice(
    shoal: Shoal, hub: StandInHub, tmp_path: Path
) -> None:
    hub.faults.add(ExpireUrl(after_s=0.3))
    hub.faults.total_rate = 40 * MIB  # a second, and piece after piece
    fetch(shoal, tmp_path / "to", "--set", "fetch.chunk_size=1MiB").expect(0)
    assert delivered(tmp_path / "to") == WANTED
    assert hub.log.count(kind="cdn", status=403) > 0
    assert hub.log.count(kind="resolve", path=BIG) > 1
    assert hub.log.where(kind="cdn", status=206).bytes_served <= len(WANTED[BIG])


def test_a_server_that_ignores_ranges_is_not_asked_many_times(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.add(IgnoreRange(), path=BIG)
    hub.faults.total_rate = 100 * MIB
    fetch(shoal, tmp_path / "to").expect(0)
    assert delivered(tmp_path / "to") == WANTED
    assert sum(record.complete for record in hub.log.settled().where(kind="cdn")) == 1


def test_a_server_that_stays_silent_is_given_up(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.add(Stall(), path=BIG)
    run = fetch(shoal, tmp_path / "to", *QUICK).expect(1)
    assert_only_big_failed(shoal, run, hub, tmp_path / "to")


# --- a file that changes while it is fetched ------------------------------------------------------------------------


def test_a_url_whose_file_changes_midway(shoal: Shoal, origin: FaultOrigin, tmp_path: Path) -> None:
    """Validators tell the versions apart: the pieces of two versions are never one file."""
    origin.faults.add(ChangeFile(), skip=4)
    origin.faults.total_rate = 40 * MIB
    shoal.get(origin.url_of(BIG), "--to", tmp_path / "to")
    (data,) = delivered(tmp_path / "to").values()
    assert data == WANTED[BIG].translate(bytes(range(255, -1, -1)))


def test_a_url_that_changes_all_the_time(shoal: Shoal, origin: FaultOrigin, tmp_path: Path) -> None:
    for number in range(60):
        origin.faults.add(ChangeFile(SyntheticFile(40 * MIB + 17, seed=100 + number)), skip=3 * number, times=3)
    run = shoal.run("get", origin.url_of(BIG), "--to", tmp_path / "to", *QUICK)
    # Whatever it ends in: what has the final name is one of the versions.
    if run.exit_code == 0:
        (data,) = delivered(tmp_path / "to").values()
        assert data[: 1 << 16] in {bytes(SyntheticFile(MIB * 40, seed=100 + n).read(0, 1 << 16)) for n in range(60)}
    else:
        assert "changed" in run.stderr
        assert delivered(tmp_path / "to") == {}


@pytest.mark.parametrize("validators", [{"etag": 'W/"weak"'}, {"last_modified": 1_700_000_000.0}, {}])
def test_a_url_with_poor_validators_arrives_whole(shoal: Shoal, tmp_path: Path, validators: Any) -> None:
    with in_thread(FaultOrigin({BIG: OriginFile(content=FILES[BIG], **validators)})) as origin:
        shoal.get(origin.url_of(BIG), "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == {BIG: WANTED[BIG]}


@pytest.mark.parametrize("faults", [[], [NoContentLength()], [IgnoreRange()], [IgnoreRange(), NoContentLength()]])
def test_an_error_page_in_place_of_a_file(
    shoal: Shoal, origin: FaultOrigin, tmp_path: Path, faults: list[Fault]
) -> None:
    """The page's own size is no proof of anything: its type and the file's name do not go together."""
    origin.put("weights.bin", OriginFile(content=b"<html><title>Login</title>", content_type="text/html"))
    for fault in faults:
        origin.faults.add(fault, path="weights.bin")
    run = shoal.run("get", origin.url_of("weights.bin"), "--to", tmp_path / "to", *QUICK).expect(1)
    assert "Login" in run.stderr
    assert delivered(tmp_path / "to") == {}


def test_a_cut_body_of_unknown_size_is_noticed(shoal: Shoal, origin: FaultOrigin, tmp_path: Path) -> None:
    origin.put("stream.txt", OriginFile(content=b"x" * MIB))
    origin.faults.add(NoContentLength(), path="stream.txt")
    origin.faults.add(IgnoreRange(), path="stream.txt")
    cut = origin.faults.add(CutBody(), path="stream.txt", skip=1)
    run = shoal.run("get", origin.url_of("stream.txt"), "--to", tmp_path / "to", *QUICK).expect(1)
    assert cut.hits > 0 and "stream.txt" in run.stderr
    assert delivered(tmp_path / "to") == {}


# --- rate limits ----------------------------------------------------------------------------------------------------


MANY = {f"data/{number:03}.txt": b"%d" % number for number in range(60)}


@pytest.mark.parametrize(
    "fault",
    [
        RateLimited(reset_s=5),
        Status(429, retry_after_s=5),
        Status(503, retry_after_s=5),
        Status(429, retry_after_s=6, as_date=True),
    ],
    ids=["RateLimit", "Retry-After", "503", "date"],
)
def test_a_rate_limit_is_obeyed(shoal: Shoal, hub: StandInHub, tmp_path: Path, fault: Fault) -> None:
    """One file is refused once: nobody asks that host for anything until the block is over, but for what was under way."""
    hub.add(HubRepo("acme/many", MANY))
    rule = hub.faults.add(fault, kinds=["resolve"], path="data/000.txt", times=1)
    shoal.get("hf://acme/many", "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == MANY
    assert rule.hits == 1
    resolves = hub.log.where(kind="resolve")
    (refused,) = (record for record in resolves if record.status in (429, 503))
    assert refused.ended_at is not None
    early = [r for r in resolves if refused.ended_at + 2.5 < r.started_at < refused.ended_at + 4.7]
    assert early == []


def test_a_quota_costs_few_requests(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.add(HubRepo("acme/many", MANY))
    quota = Quota(25, window_s=2)
    hub.faults.add(quota)
    shoal.get("hf://acme/many", "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == MANY
    assert quota.refused <= 2 * 16, "at most what the connections had under way when each of two windows closed"


def test_a_rate_limited_listing(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.add(RateLimited(reset_s=1, resource="api"), kinds=["info", "tree"], times=1)
    fetch(shoal, tmp_path / "to").expect(0)
    assert delivered(tmp_path / "to") == WANTED
    assert hub.log.count(kind="tree") == 2


# --- access ---------------------------------------------------------------------------------------------------------

TOKEN = "hf_TheTokenThatNobodyMaySee0123456789"


@pytest.mark.parametrize(
    ("repo", "token", "words"),
    [
        ("acme/absent", None, ["acme/absent", "spelling", "private"]),
        ("acme/absent", TOKEN, ["acme/absent", "spelling"]),
        ("acme/private", None, ["acme/private", "token"]),
        ("acme/gated", None, ["acme/gated", "gated", "{hub}/acme/gated"]),
        ("acme/gated", TOKEN, ["acme/gated", "gated", "{hub}/acme/gated"]),
        ("acme/tiny@absent", None, ["absent", "{hub}/acme/tiny"]),
        ("acme/tiny/absent.txt", None, ["absent.txt", "config.json"]),
        ("acme/tiny", "hf_wrong", ["token"]),
    ],
)
def test_no_access(
    shoal: Shoal, hub: StandInHub, tmp_path: Path, repo: str, token: str | None, words: list[str]
) -> None:
    hub.add(HubRepo("acme/private", FILES, private=True, readers=["hf_other"]))
    hub.add(HubRepo("acme/gated", FILES, gated="manual", readers=["hf_other"]))
    hub.add(HubRepo("acme/known", FILES, readers=[TOKEN]))
    run = shoal.run("get", f"hf://{repo}", "--to", tmp_path / "to", environ={"HF_TOKEN": token} if token else {})
    run.expect(3)
    for word in words:
        assert word.format(hub=hub.url) in run.stderr
    assert hub.log.bytes_served == 0
    assert not token or token not in run.stderr


def test_a_repo_that_is_gated_only_when_its_files_are_asked_for(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    """A commit in the URI needs no question about the repo: then every file is refused, and each says why."""
    repo = hub.add(HubRepo("acme/gated", FILES, gated="auto", readers=["hf_other"]))
    run = shoal.run("get", f"hf://acme/gated@{repo.sha}", "--to", tmp_path / "to").expect(3)
    assert f"{hub.url}/acme/gated" in run.stderr
    assert delivered(tmp_path / "to") == {}


def test_a_token_goes_to_the_hub_alone_and_is_never_shown(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.add(HubRepo("acme/private", FILES, private=True, readers=[TOKEN]))
    hub.faults.add(FlipByte(), path="config.json")
    hub.faults.add(Status(503), fraction=0.5, path="tokenizer.txt")
    hub.faults.add(ExpireUrl(after_s=0.4))
    hub.faults.total_rate = 40 * MIB
    environ = {"HF_TOKEN": TOKEN}
    for options in (["--log-format", "json"], ["--json"]):
        run = shoal.run(
            *["get", "hf://acme/private", "--to", tmp_path / "to", "--log-level", "debug", *options], environ=environ
        ).expect(6)
        assert TOKEN not in run.stdout + run.stderr
        assert "Signature=" not in run.stdout + run.stderr, "a signed URL is a credential too"
    shown = shoal.run("config", "show", environ=environ).expect(0)
    assert TOKEN not in shown.stdout and "hub.token" in shown.stdout
    tokens = {record.server: record.headers.get("authorization") for record in hub.log.records}
    assert tokens == {"hub": f"Bearer {TOKEN}", "cdn": None}
    assert not any("authorization" in record.headers for record in hub.log.where(server="cdn"))
    files = [path for folder in (shoal.home, tmp_path / "to") for path in folder.rglob("*") if path.is_file()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
