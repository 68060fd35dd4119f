"""``shoal get`` on one machine: every form of source arrives byte for byte, and nothing that is there is fetched again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.cli import Shoal, delivered, leftovers
from support.contents import ContentLike, SyntheticFile, as_content, read_all
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.origin import FaultOrigin, OriginFile
from support.stand_in import in_thread

MIB = 1 << 20
FILES: Mapping[str, ContentLike] = {
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "config.json": b'{"hidden_size": 384}\n',
    "empty.txt": b"",
    "model.safetensors": SyntheticFile(9 * MIB + 17, seed=1),
    "sub folder/ümlaut #1.txt": b"quoted",
    "sub folder/deep/vocab.txt": b"[PAD]\n" * 1000,
}
WANTED = {name: read_all(as_content(source)) for name, source in FILES.items()}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/tiny", FILES)]) as stand_in:
        yield stand_in


@pytest.fixture
def shoal(tmp_path: Path, hub: StandInHub) -> Shoal:
    return Shoal(tmp_path / "person", endpoint=hub.url)


def only(*names: str) -> dict[str, bytes]:
    return {name: WANTED[name] for name in names}


# --- a repo, into a folder ------------------------------------------------------------------------------------------


def test_a_repo_arrives_and_is_not_fetched_twice(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    to = tmp_path / "models" / "tiny"
    first = shoal.get("hf://acme/tiny", "--to", to)
    assert first.stdout == f"{to}\n"
    assert "6 of 6 files fetched" in first.stderr
    assert delivered(to) == WANTED
    assert hub.log.bytes_served == sum(map(len, WANTED.values()))
    assert leftovers(to) == []
    assert not any("HEAD" in record.method for record in hub.log.records)

    hub.log.clear()
    second = shoal.get("hf://acme/tiny", "--to", to)
    assert second.stdout == first.stdout
    assert "6 were there already" in second.stderr
    assert hub.log.bytes_served == 0
    assert hub.log.count(kind="resolve") == 0
    assert shoal.run("verify", to).exit_code == 0


def test_a_relative_destination_is_taken_from_the_working_directory(shoal: Shoal) -> None:
    assert shoal.get("hf://acme/tiny", "--to", "here/tiny").stdout == f"{shoal.cwd}/here/tiny\n"
    assert delivered(shoal.cwd / "here/tiny") == WANTED


def test_what_was_changed_or_removed_locally_is_fetched_again(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    shoal.get("hf://acme/tiny", "--to", tmp_path / "to")
    (tmp_path / "to/config.json").write_bytes(b"x" * len(WANTED["config.json"]))
    (tmp_path / "to/sub folder/deep/vocab.txt").unlink()
    hub.log.clear()
    shoal.get("hf://acme/tiny", "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == WANTED
    assert hub.log.bytes_served == len(WANTED["config.json"]) + len(WANTED["sub folder/deep/vocab.txt"])


def test_force_fetches_again_what_is_there(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    shoal.get("hf://acme/tiny", "--to", tmp_path / "to")
    hub.log.clear()
    shoal.get("hf://acme/tiny", "--to", tmp_path / "to", "--force")
    assert hub.log.bytes_served == sum(map(len, WANTED.values()))
    assert delivered(tmp_path / "to") == WANTED
    assert leftovers(tmp_path / "to") == []


def test_files_that_the_stock_tools_put_there_are_taken_over(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    for name, data in WANTED.items():
        (tmp_path / "to" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "to" / name).write_bytes(data)
    shoal.get("hf://acme/tiny", "--to", tmp_path / "to")
    assert hub.log.bytes_served == 0
    assert shoal.run("verify", tmp_path / "to").exit_code == 0


def test_a_new_revision_costs_what_changed(shoal: Shoal, tmp_path: Path) -> None:
    repo = HubRepo("acme/tiny", FILES)
    with hub_in_thread([repo]) as hub:
        environ = {"HF_ENDPOINT": hub.url}
        shoal.get("hf://acme/tiny", "--to", tmp_path / "to", environ=environ)
        repo.commit({"config.json": b'{"hidden_size": 768}\n', "new.txt": b"new"})
        hub.log.clear()
        shoal.get("hf://acme/tiny", "--to", tmp_path / "to", environ=environ)
        assert hub.log.bytes_served == len(b'{"hidden_size": 768}\n') + len(b"new")
    assert delivered(tmp_path / "to") == {**WANTED, "config.json": b'{"hidden_size": 768}\n', "new.txt": b"new"}
    assert shoal.run("verify", tmp_path / "to").exit_code == 0


# --- what is named --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        ["acme/tiny"],
        ["hf://models/acme/tiny"],
        ["hf://acme/tiny@main"],
        ["hf://acme/tiny/"],
        ["hf://acme/tiny", "--revision", "main"],
        ["{hub}/acme/tiny"],
        ["{hub}/acme/tiny/tree/main"],
    ],
)
def test_spellings_of_a_repo(shoal: Shoal, hub: StandInHub, tmp_path: Path, source: list[str]) -> None:
    shoal.get(*[text.format(hub=hub.url) for text in source], "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == WANTED


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (["hf://acme/tags@v1"], b"one"),
        (["hf://acme/tags", "--revision", "v1"], b"one"),
        (["hf://acme/tags@v1", "--revision", "v1"], b"one"),
        (["hf://acme/tags@{first}"], b"one"),
        (["hf://acme/tags"], b"two"),
        (["hf://acme/tags@refs/pr/1"], b"pr"),
        (["hf://acme/tags@refs%2Fpr%2F1"], b"pr"),
        (["hf://acme/tags", "--revision", "refs/pr/1"], b"pr"),
        (["hf://acme/tags@feature%2Fx"], b"branch"),
        (["hf://acme/tags", "--revision", "feature/x"], b"branch"),
    ],
)
def test_revisions(shoal: Shoal, hub: StandInHub, tmp_path: Path, source: list[str], text: bytes) -> None:
    repo = hub.add(HubRepo("acme/tags", {"a.txt": b"one"}))
    repo.point("refs/tags/v1")
    first = repo.sha
    repo.commit({"a.txt": b"branch"}, branch="feature/x")
    repo.point("refs/pr/1", repo.commit({"a.txt": b"pr"}, branch="proposal"))
    repo.commit({"a.txt": b"two"})
    shoal.get(*[part.format(first=first) for part in source], "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == {"a.txt": text}


def test_two_revisions_that_contradict_each_other_are_refused(shoal: Shoal, hub: StandInHub) -> None:
    run = shoal.run("get", "hf://acme/tiny@v1", "--revision", "v2").expect(2)
    assert "'v1'" in run.stderr and "'v2'" in run.stderr
    assert len(hub.log.records) == 0


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/config.json", ["config.json"]),
        ("/sub folder/ümlaut #1.txt", ["sub folder/ümlaut #1.txt"]),
        ("/sub folder", ["sub folder/ümlaut #1.txt", "sub folder/deep/vocab.txt"]),
        ("@main/sub folder/deep", ["sub folder/deep/vocab.txt"]),
    ],
)
def test_one_file_or_folder_of_a_repo(shoal: Shoal, tmp_path: Path, path: str, names: list[str]) -> None:
    shoal.get(f"hf://acme/tiny{path}", "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == only(*names)


def test_a_link_copied_from_the_browser(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    shoal.get(f"{hub.url}/acme/tiny/blob/main/config.json", "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == only("config.json")


def test_include_and_exclude(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    shoal.get(
        *["hf://acme/tiny", "--to", tmp_path / "to", "--include", "*.json", "--include", "sub folder/*"],
        *["--exclude", "*/deep/*"],
    )
    assert delivered(tmp_path / "to") == only("config.json", "sub folder/ümlaut #1.txt")
    assert hub.log.count(kind="resolve") == 2
    run = shoal.run("get", "hf://acme/tiny", "--to", tmp_path / "none", "--include", "*.gguf").expect(3)
    assert "*.gguf" in run.stderr and "config.json" in run.stderr


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_datasets_and_spaces(shoal: Shoal, hub: StandInHub, tmp_path: Path, kind: Any) -> None:
    hub.add(HubRepo("acme/tiny", {"data.csv": b"a,b\n", "x.parquet": SyntheticFile(MIB)}, kind=kind))
    shoal.get(f"hf://{kind}s/acme/tiny", "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == {"data.csv": b"a,b\n", "x.parquet": read_all(SyntheticFile(MIB))}


def test_several_repos_each_is_a_job(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.add(HubRepo("acme/other", {"other.txt": b"other"}))
    run = shoal.get("hf://acme/tiny", "hf://acme/other", "acme/tiny@main", "--to", tmp_path / "to", "--json")
    jobs = run.document()["jobs"]
    assert [job["uri"] for job in jobs] == ["hf://acme/tiny", "hf://acme/other"]
    assert delivered(tmp_path / "to") == {**WANTED, "other.txt": b"other"}
    assert shoal.run("verify", tmp_path / "to").exit_code == 0


def test_one_bad_repo_does_not_stop_the_others(shoal: Shoal, tmp_path: Path) -> None:
    run = shoal.run("get", "hf://acme/absent", "hf://acme/tiny", "--to", tmp_path / "to").expect(3)
    assert "acme/absent" in run.stderr
    assert delivered(tmp_path / "to") == WANTED


LIST = """\
# models
acme/tiny   # by its bare name

hf://acme/tiny@main
hf://acme/other
"""


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_a_list_of_sources(shoal: Shoal, hub: StandInHub, tmp_path: Path, way: str) -> None:
    hub.add(HubRepo("acme/other", {"other.txt": b"other"}))
    (tmp_path / "list").write_text(LIST)
    name, stdin = (tmp_path / "list", "") if way == "file" else ("-", LIST)
    run = shoal.get("--from-file", name, "acme/tiny", "--to", tmp_path / "to", "--json", stdin=stdin)
    assert sorted(job["uri"] for job in run.document()["jobs"]) == ["hf://acme/other", "hf://acme/tiny"]
    assert delivered(tmp_path / "to") == {**WANTED, "other.txt": b"other"}


def test_a_list_with_a_bad_line_names_it(shoal: Shoal, hub: StandInHub) -> None:
    run = shoal.run("get", "--from-file", "-", stdin="acme/tiny\n\nhf://no slash\n").expect(2)
    assert "line 3" in run.stderr
    assert len(hub.log.records) == 0
    assert "absent.txt" in shoal.run("get", "--from-file", "absent.txt").expect(2).stderr
    assert "no source" in shoal.run("get", "--from-file", "-", stdin="# nothing\n").expect(2).stderr


# --- what is said ---------------------------------------------------------------------------------------------------


def test_json_is_one_document_and_people_read_standard_error(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    run = shoal.get("hf://acme/tiny", "--to", tmp_path / "to", "--json")
    (job,) = run.document()["jobs"]
    assert job["status"] == "done"
    assert job["uri"] == "hf://acme/tiny"
    assert job["destination"] == str(tmp_path / "to")
    assert job["commit"] == hub.log.where(kind="resolve")[0].target.split("/resolve/")[1].split("/")[0]
    assert job["objects_total"] == job["objects_done"] == 6
    assert job["bytes_total"] == job["bytes_fetched"] == sum(map(len, WANTED.values()))
    assert job["failed"] == []
    assert "6 of 6 files fetched" in run.stderr


def test_json_lists_what_failed(shoal: Shoal, tmp_path: Path) -> None:
    run = shoal.run("get", "hf://acme/absent", "--to", tmp_path / "to", "--json").expect(3)
    (job,) = run.document()["jobs"]
    assert job["status"] == "failed"
    assert job["failure"]["code"] == "not-found"


def test_dry_run_lists_and_touches_nothing(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    run = shoal.get("hf://acme/tiny", "--to", tmp_path / "to", "--dry-run", "--exclude", "empty*")
    assert [line.split(maxsplit=1)[1] for line in run.stdout.splitlines()] == sorted(set(WANTED) - {"empty.txt"})
    assert "5 files" in run.stderr
    document = shoal.get("hf://acme/tiny", "--dry-run", "--json").document()
    assert document["objects"] == 6
    assert document["bytes"] == sum(map(len, WANTED.values()))
    (objects,) = document["sources"].values()
    assert {"path": "empty.txt", "size": 0, "digest": "git-sha1:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"} in objects
    assert hub.log.bytes_served == 0
    assert hub.log.count(kind="resolve") == 0
    assert not (tmp_path / "to").exists()
    assert not shoal.cache.exists()


def test_dry_run_of_a_missing_repo(shoal: Shoal) -> None:
    run = shoal.run("get", "hf://acme/absent", "--dry-run", "--json").expect(3)
    assert run.document()["error"]["code"] == "not-found"


# --- other sources --------------------------------------------------------------------------------------------------


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    files: dict[str, Any] = {
        "big.bin": SyntheticFile(20 * MIB + 3, seed=5),
        "a b.txt": b"blank",
        "no-validator.bin": OriginFile(content=b"n" * 1000),
    }
    with in_thread(FaultOrigin(files)) as stand_in:
        yield stand_in


def test_a_url_goes_to_the_working_directory(shoal: Shoal, origin: FaultOrigin) -> None:
    run = shoal.get(origin.url_of("big.bin"), origin.url_of("a b.txt"))
    assert set(run.stdout.splitlines()) == {str(shoal.cwd)}
    assert delivered(shoal.cwd) == {"big.bin": read_all(SyntheticFile(20 * MIB + 3, seed=5)), "a b.txt": b"blank"}
    origin.log.clear()
    shoal.get(origin.url_of("big.bin"), origin.url_of("a b.txt"))
    assert origin.log.bytes_served <= 2, "more than the probe of size and validator"
    assert shoal.run("verify", shoal.cwd).exit_code == 0


def test_a_url_whose_content_changed_is_fetched_again(shoal: Shoal, origin: FaultOrigin) -> None:
    shoal.get(origin.url_of("a b.txt"))
    origin.put("a b.txt", b"BLANK")
    shoal.get(origin.url_of("a b.txt"))
    assert delivered(shoal.cwd) == {"a b.txt": b"BLANK"}


def test_a_url_without_validators(shoal: Shoal, origin: FaultOrigin) -> None:
    shoal.get(origin.url_of("no-validator.bin"))
    assert delivered(shoal.cwd) == {"no-validator.bin": b"n" * 1000}


def test_a_digest_that_was_named_is_checked(shoal: Shoal, origin: FaultOrigin, tmp_path: Path) -> None:
    right = hashlib.sha256(b"blank").hexdigest()
    shoal.get(origin.url_of("a b.txt"), "--sha256", right.upper(), "--to", tmp_path / "right")
    assert delivered(tmp_path / "right") == {"a b.txt": b"blank"}
    wrong = hashlib.sha256(b"other").hexdigest()
    run = shoal.run("get", origin.url_of("a b.txt"), "--sha256", wrong, "--to", tmp_path / "wrong").expect(6)
    assert right in run.stderr and wrong in run.stderr
    assert delivered(tmp_path / "wrong") == {}
    assert "sha256" in shoal.run("get", origin.url_of("a b.txt"), "--sha256", "12ab").expect(2).stderr
    # A file that is there and does not fit is not taken for the right one either.
    once = ["--set", "fetch.attempts=1"]
    shoal.run("get", origin.url_of("a b.txt"), "--sha256", wrong, "--to", tmp_path / "right", *once).expect(6)
    assert delivered(tmp_path / "right") == {"a b.txt": b"blank"}


def test_a_url_that_is_not_there(shoal: Shoal, origin: FaultOrigin) -> None:
    run = shoal.run("get", origin.url_of("absent.bin")).expect(3)
    assert "absent.bin" in run.stderr and "404" in run.stderr
    assert "folder" in shoal.run("get", f"{origin.url}/folder/").expect(2).stderr


def test_local_files(shoal: Shoal, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/a.txt").write_bytes(b"a")
    (folder / "b#1 ü.bin").write_bytes(b"b" * (3 * MIB))
    shoal.get((folder).as_uri(), "--to", tmp_path / "all")
    assert delivered(tmp_path / "all") == {"deep/a.txt": b"a", "b#1 ü.bin": b"b" * (3 * MIB)}
    shoal.get((folder / "b#1 ü.bin").as_uri(), "--to", tmp_path / "one")
    assert delivered(tmp_path / "one") == {"b#1 ü.bin": b"b" * (3 * MIB)}
    run = shoal.run("get", (folder / "absent").as_uri(), "--to", tmp_path / "none").expect(3)
    assert "absent" in run.stderr


def test_what_was_fetched_of_local_files_is_told_to_the_byte(shoal: Shoal, tmp_path: Path) -> None:
    source, to = tmp_path / "source", tmp_path / "to"
    sizes = {"empty": 0, "one": 1, "small": 70_000, "some": 5 * MIB, "large": 50 * MIB + 3}
    source.mkdir()
    for name, size in sizes.items():
        (source / name).write_bytes(read_all(SyntheticFile(size, seed=size)))

    def fetched(*options: str) -> tuple[int, int]:
        run = shoal.get(source.as_uri(), "--to", to, "--json", *options)
        (job,) = run.document()["jobs"]
        assert job["bytes_done"] == sum(sizes.values())
        assert sum(agent["from_origin"] for agent in job["agents"]) == job["bytes_fetched"]
        return job["bytes_fetched"], job["objects_skipped"]

    assert fetched() == (sum(sizes.values()), 0)
    assert fetched() == (0, 5)
    (to / "large").unlink()
    assert fetched() == (sizes["large"], 4)
    assert fetched("--force") == (sum(sizes.values()), 0)
    said = shoal.get(source.as_uri(), "--to", tmp_path / "said").stderr
    assert "5 of 5 files fetched (55.1MiB)" in said


@pytest.mark.parametrize(
    "source",
    [
        "",
        "hf://",
        "hf://one",
        "ftp://a/b",
        "https://",
        "./local",
        "hf://user:secret@acme/tiny",
        "acme/tiny/../x",
        "s3://",
    ],
)
def test_a_source_that_is_none_is_a_usage_error(shoal: Shoal, hub: StandInHub, source: str) -> None:
    run = shoal.run("get", source).expect(2)
    assert run.stderr.startswith("shoal: ")
    assert "secret" not in run.stderr
    assert len(hub.log.records) == 0


# --- endpoints and rules --------------------------------------------------------------------------------------------


def test_a_mirror_under_a_path_and_the_next_endpoint_when_one_is_down(shoal: Shoal, tmp_path: Path) -> None:
    with hub_in_thread([HubRepo("acme/tiny", FILES)], prefix="/mirrors/hf") as hub:
        endpoints = json.dumps(["http://127.0.0.1:1", hub.url])
        (shoal.cwd / "shoal.toml").write_text(f"[hub]\nendpoint = {endpoints}\n")
        run = shoal.start("get", "hf://acme/tiny", "--to", tmp_path / "to", environ={"HF_ENDPOINT": ""})
        with run:
            run.wait().expect(0)
    assert delivered(tmp_path / "to") == WANTED


def test_https_with_an_own_authority(shoal: Shoal, tmp_path: Path) -> None:
    with hub_in_thread([HubRepo("acme/tiny", FILES)], tls=True) as hub:
        environ = {"HF_ENDPOINT": hub.url}
        run = shoal.run("get", "acme/tiny", "--to", tmp_path / "to", environ=environ).expect(1)
        assert "certificate" in run.stderr
        assert not (tmp_path / "to").exists() or delivered(tmp_path / "to") == {}
        shoal.get("acme/tiny", "--to", tmp_path / "ca", "--set", f"hub.ca_bundle={hub.ca_file}", environ=environ)
        assert delivered(tmp_path / "ca") == WANTED
        off = shoal.get("acme/tiny", "--to", tmp_path / "off", "--set", "hub.verify_tls=false", environ=environ)
        assert delivered(tmp_path / "off") == WANTED
        assert off.stderr.count("verification_off") == 1


@pytest.mark.parametrize("rule", ["security.allow=bigcode/*", "security.deny=acme/*", "security.https_only=true"])
def test_rules_refuse_before_any_request(shoal: Shoal, hub: StandInHub, tmp_path: Path, rule: str) -> None:
    run = shoal.run("get", "hf://acme/tiny", "--to", tmp_path / "to", "--set", rule).expect(7)
    assert rule.partition("=")[0] in run.stderr
    assert len(hub.log.records) == 0


def test_files_above_50_gb_and_files_in_xet_come_by_plain_ranges(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.add(HubRepo("acme/huge", FILES, xet=True, range_required=["model.safetensors"]))
    shoal.get("hf://acme/huge", "--to", tmp_path / "to")
    assert delivered(tmp_path / "to") == WANTED
    assert hub.log.count(kind="xet-token") == 0


def test_offline_never_asks_the_hub(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    run = shoal.run("get", "hf://acme/tiny", "--to", tmp_path / "to", environ={"HF_HUB_OFFLINE": "1"}).expect(7)
    assert "HF_HUB_OFFLINE" in run.stderr
    assert len(hub.log.records) == 0
