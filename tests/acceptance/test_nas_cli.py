"""Copies on a NAS as a person sees them: ``shoal get`` on one machine, a fleet of two, and ``shoal nas``."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.common.views import JobStatus
from support.cli import Shoal, delivered, leftovers
from support.contents import SyntheticFile, sha256_hex
from support.fleet import Fleet, file_sha256_hex, until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.nas import files_of, tmpfs_nas

MIB = 1 << 20
BIG = SyntheticFile(12 * MIB, seed=7)
SMALL = {"config.json": b"{}", "data/vocab.txt": b"[PAD]\n" * 100, "data/weights.bin": b"\x07" * 200_000}
WAIT = "3s"
"""For a NAS that is not as it should be: long enough for a busy machine to have tried it."""
MANY = {f"part-{number:03}.bin": b"%d" % number * 50_000 for number in range(40)}


@pytest.fixture(scope="module")
def hub() -> Iterator[StandInHub]:
    repos = [HubRepo("acme/tiny", SMALL), HubRepo("acme/big", {"model.bin": BIG}), HubRepo("acme/many", MANY)]
    with hub_in_thread(repos) as stand_in:
        yield stand_in


@pytest.fixture
def shoal(tmp_path: Path, hub: StandInHub) -> Shoal:
    environ = {"SHOAL_NAS_BACKOFF_INITIAL": "100ms", "SHOAL_NAS_BACKOFF_MAX": "500ms"}
    return Shoal(tmp_path / "person", endpoint=hub.url, environ=environ)


@pytest.fixture
def nas(tmp_path: Path) -> Path:
    (tmp_path / "nas").mkdir()
    return tmp_path / "nas"


def below(prefix: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{prefix}{path}": content for path, content in files.items()}


# ---- one machine ----------------------------------------------------------------------------------------------------


def test_a_repo_is_on_the_nas_when_get_returns(shoal: Shoal, nas: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    finished = shoal.get("hf://acme/tiny", "--to", to, "--nas", nas)
    assert finished.stdout == f"{to}\n"
    assert "NAS: 3 files copied" in finished.stderr and "waiting" not in finished.stderr
    assert files_of(nas) == below("acme/tiny/", SMALL)
    assert delivered(to) == SMALL and leftovers(to) == [] == leftovers(nas)
    assert "3 files checked" in shoal.run("verify", nas).expect(0).stderr

    again = shoal.get("hf://acme/tiny", "--to", to, "--nas", nas, "--json").document()
    assert (again["nas"]["files_copied"], again["nas"]["files_there"]) == (0, 3)
    assert again["jobs"][0]["nas"]["files_there"] == 3
    assert shoal.get("hf://acme/tiny", "--to", tmp_path / "other").stderr.count("NAS") == 0


def test_by_configuration_flat_and_from_the_hub_cache(shoal: Shoal, nas: Path) -> None:
    (shoal.cwd / "shoal.toml").write_text(f'[nas]\npath = "{nas}"\npreserve_structure = false\n')
    shoal.get("hf://acme/tiny")
    flat = {f"acme_tiny_{path.replace('/', '_')}": content for path, content in SMALL.items()}
    assert files_of(nas) == flat
    assert not shoal.get("hf://acme/big", "--no-nas").stderr.count("NAS")
    assert files_of(nas) == flat


def test_a_nas_that_is_not_there_fails_nothing_and_the_queue_is_run_down_later(
    shoal: Shoal, nas: Path, tmp_path: Path
) -> None:
    to, missing = tmp_path / "to dir", tmp_path / "missing"
    finished = shoal.get("hf://acme/tiny", "--to", to, "--nas", missing, "--set", f"nas.wait={WAIT}")
    assert delivered(to) == SMALL
    assert "3 waiting" in finished.stderr and "it is not there" in finished.stderr
    assert f"shoal nas copy '{to}'" in finished.stderr, "how to go on, as a shell takes it"
    waiting = shoal.run("nas", "status", to, "--json").expect(0).document()
    assert (waiting["files_waiting"], waiting["bytes_waiting"]) == (3, sum(map(len, SMALL.values())))
    assert "3 files" in shoal.run("nas", "status", to).expect(0).stdout

    failed = shoal.run("nas", "copy", to, "--nas", missing, "--wait", WAIT, "--json").expect(5)
    assert failed.document()["files_waiting"] >= 3 and "not there" in failed.document()["reason"]
    missing.mkdir()
    done = shoal.run("nas", "copy", to, "--nas", missing).expect(0)
    assert "3 files copied" in done.stderr
    assert files_of(missing) == below("acme/tiny/", SMALL)
    assert "nothing waits" in shoal.run("nas", "status", to).expect(0).stdout
    assert leftovers(to) == []

    assert "3 files copied" in shoal.run("nas", "copy", to, "--nas", nas).expect(0).stderr, (
        "all that the manifest names"
    )
    assert files_of(nas) == below("acme/tiny/", SMALL)


def test_running_it_again_goes_on(shoal: Shoal, tmp_path: Path) -> None:
    to, missing = tmp_path / "to", tmp_path / "missing"
    shoal.get("hf://acme/tiny", "--to", to, "--nas", missing, "--set", f"nas.wait={WAIT}")
    missing.mkdir()
    finished = shoal.get("hf://acme/tiny", "--to", to, "--nas", missing)
    assert "NAS: 3 files copied" in finished.stderr
    assert files_of(missing) == below("acme/tiny/", SMALL) and leftovers(to) == []


def test_kill_9_while_it_copies(shoal: Shoal, nas: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    with shoal.start("get", "hf://acme/big", "--to", to, "--nas", nas, "--set", "nas.rate_limit=512KiB") as running:
        until("some of it", lambda: any(part.stat().st_size for part in nas.glob(".shoal/partial/*.part")))
        until("the download", lambda: (to / ".shoal/manifest.json").exists())
        running.signal(signal.SIGKILL)
        running.wait()
    assert files_of(nas) == {}
    assert shoal.run("nas", "status", to, "--json").expect(0).document()["files_waiting"] == 1
    shoal.run("nas", "copy", to, "--nas", nas).expect(0)
    assert file_sha256_hex(nas / "acme/big/model.bin") == sha256_hex(BIG)
    assert not (to / ".shoal/nas").exists() and leftovers(nas) == []


def test_ctrl_c_while_it_copies_says_how_to_go_on(shoal: Shoal, nas: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    with shoal.start("get", "hf://acme/big", "--to", to, "--nas", nas, "--set", "nas.rate_limit=512KiB") as running:
        until("the download", lambda: (to / ".shoal/manifest.json").exists())
        until("the copy", lambda: any(nas.glob(".shoal/partial/*.part")))
        until("its report", lambda: "files fetched" in running.stderr)
        running.signal(signal.SIGINT)
        finished = running.wait().expect(130)
    assert "shoal nas copy" in finished.stderr
    assert file_sha256_hex(to / "model.bin") == sha256_hex(BIG)


def test_moved_to_the_nas(shoal: Shoal, hub: StandInHub, nas: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    move = ("--set", "nas.delete_after_copy=true")
    finished = shoal.get("hf://acme/tiny", "--to", to, "--nas", nas, *move)
    assert "3 removed here" in finished.stderr
    assert delivered(to) == {} and files_of(nas) == below("acme/tiny/", SMALL) and leftovers(to) == []
    assert "3 moved to a NAS" in shoal.run("verify", to).expect(0).stderr

    served = hub.log.bytes_served
    finished = shoal.get("hf://acme/tiny", "--to", to)
    assert "0 of 3 files fetched (0B), 3 were there already" in finished.stderr
    assert hub.log.bytes_served - served < 20_000, "the listing, and no file"
    assert delivered(to) == {}
    shoal.get("hf://acme/tiny", "--to", to, "--force")
    assert delivered(to) == SMALL
    assert "all right" in shoal.run("verify", to).expect(0).stderr


def test_what_is_said_wrongly_is_told(shoal: Shoal, nas: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    assert "add --nas DIR" in shoal.run("nas", "copy", tmp_path / "to").expect(2).stderr
    assert "no such folder" in shoal.run("nas", "copy", tmp_path / "nothing", "--nas", nas).expect(3).stderr
    both = shoal.run("get", "hf://acme/tiny", "--to", tmp_path / "to", "--nas", nas, "--no-nas").expect(2)
    assert "not allowed with" in both.stderr
    (shoal.cwd / "shoal.toml").write_text('[nas]\npaht = "/x"\n')
    assert "nas.path" in shoal.run("get", "hf://acme/tiny", "--to", tmp_path / "to").expect(2).stderr


@pytest.mark.system
def test_full_read_only_and_back(shoal: Shoal, tmp_path: Path) -> None:
    to = tmp_path / "to"
    with tmpfs_nas(tmp_path / "mnt", "4m") as mounted:
        few = ("--set", f"nas.wait={WAIT}")
        finished = shoal.get("hf://acme/big", "hf://acme/tiny", "--to", to, "--nas", mounted.path, *few)
        assert "is full" in finished.stderr and "1 failing" in finished.stderr
        assert files_of(mounted.path) == below("acme/tiny/", SMALL), "the small ones have room"
        mounted.remount("ro")
        failed = shoal.run("nas", "copy", to, "--nas", mounted.path, "--wait", WAIT).expect(5)
        assert "read-only" in failed.stderr
        mounted.remount("rw,size=32m")
        shoal.run("nas", "copy", to, "--nas", mounted.path).expect(0)
        assert file_sha256_hex(mounted.path / "acme/big/model.bin") == sha256_hex(BIG)
        mounted.unmount()
        failed = shoal.run("nas", "copy", to, "--nas", mounted.path, "--wait", WAIT).expect(5)
        assert "was mounted when it was used before" in failed.stderr
        assert list(mounted.path.iterdir()) == []


# ---- a fleet --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path, hub: StandInHub, nas: Path) -> Iterator[Fleet]:
    environ = {
        "SHOAL_COORDINATOR_HEARTBEAT": "200ms",
        "SHOAL_NAS_PATH": str(nas),
        "SHOAL_NAS_BACKOFF_INITIAL": "100ms",
        "SHOAL_NAS_BACKOFF_MAX": "500ms",
    }
    with Fleet(tmp_path / "fleet", endpoint=hub.url, environ=environ) as made:
        yield made


def nas_of(fleet: Fleet, job: str) -> dict[str, Any]:
    return fleet.ask("status", job)["nas"]


def copied(fleet: Fleet) -> list[str]:
    """What each agent says that it copied."""
    events = [event for name in ("a1", "a2") for event in fleet.agent(name).events("nas.copied")]
    return sorted(event["file"] for event in events if event["moved"])


def test_two_agents_copy_each_file_once(fleet: Fleet, nas: Path, tmp_path: Path) -> None:
    fleet.start("a1", "a2")
    job = fleet.submit("hf://acme/many", "--to", tmp_path / "to")
    fleet.ended(job)
    until("all copies", lambda: nas_of(fleet, job)["files_copied"] == len(MANY))
    assert files_of(nas) == below("acme/many/", MANY)
    until("the agents' logs to tell the same", lambda: len(copied(fleet)) >= len(MANY))
    assert copied(fleet) == sorted(MANY)
    assert {name for name in ("a1", "a2") if fleet.agent(name).events("nas.copied")} == {"a1", "a2"}, "both had a part"
    status = fleet.run("status", job).expect(0).stdout
    assert "NAS          40 files copied" in status
    overview = fleet.ask("status")
    assert overview["fleet"]["nas"]["files_copied"] == len(MANY)
    assert "NAS: 40 files copied" in fleet.run("status").expect(0).stdout
    assert sum(agent["nas"]["files_copied"] for agent in fleet.ask("agents")["agents"]) == len(MANY)
    until("the manifest", lambda: not list(nas.glob(".shoal/nas/*.log")))
    assert "40 files checked" in fleet.run("verify", nas).expect(0).stderr


def test_a_fleet_whose_nas_is_away_finishes_and_copies_later(fleet: Fleet, nas: Path, tmp_path: Path) -> None:
    away = nas.with_name("away")
    nas.rename(away)
    fleet.start("a1", "a2")
    got = fleet.get("hf://acme/many", "--to", tmp_path / "to")
    with got:
        finished = got.wait().expect(0)
    assert "the agents go on with the copies" in finished.stderr or "40 waiting" in finished.stderr
    job = fleet.ask("jobs")["jobs"][0]["job_id"]

    def all_waiting() -> bool:
        told = nas_of(fleet, job)
        return told["files_waiting"] == len(MANY) and told["files_failing"] >= 1 and "not there" in told["reason"]

    until("the report", all_waiting)
    for name in ("a1", "a2"):  # and it survives a kill
        fleet.agent(name).kill()
        fleet.add_agent(name)
    fleet.until_alive("a1", "a2")
    until("the report of the new processes", all_waiting)
    away.rename(nas)
    until("all copies", lambda: nas_of(fleet, job)["files_copied"] == len(MANY))
    until("the agents' logs to tell the same", lambda: len(copied(fleet)) >= len(MANY))
    assert files_of(nas) == below("acme/many/", MANY) and copied(fleet) == sorted(MANY)
    until("nothing to be wrong any more", lambda: nas_of(fleet, job)["reason"] == "")


def test_a_job_names_another_nas_or_none(fleet: Fleet, nas: Path, tmp_path: Path) -> None:
    fleet.start("a1", "a2")
    other = tmp_path / "other"
    other.mkdir()
    fleet.ended(fleet.submit("hf://acme/tiny", "--to", tmp_path / "one", "--no-nas"))
    job = fleet.submit("hf://acme/tiny", "--to", tmp_path / "two", "--nas", other)
    fleet.ended(job, JobStatus.DONE)
    until("the copies", lambda: nas_of(fleet, job)["files_copied"] == len(SMALL))
    assert files_of(other) == below("acme/tiny/", SMALL) and files_of(nas) == {}


def test_of_a_replicated_job_one_copy_goes_to_the_nas(fleet: Fleet, nas: Path, tmp_path: Path) -> None:
    for name in ("a1", "a2"):
        (tmp_path / name).mkdir()
    fleet.coordinator.start()
    fleet.until_alive()
    for name in ("a1", "a2"):
        fleet.add_agent(name, "--root", str(tmp_path / name))
    fleet.until_alive("a1", "a2")
    job = fleet.submit("hf://acme/tiny", "--to", "/to", "--deliver", "replicate")
    fleet.ended(job)

    def all_looked() -> dict[str, Any] | None:
        said = nas_of(fleet, job)
        return said if said["files_copied"] + said["files_there"] == 2 * len(SMALL) else None

    assert until("both agents", all_looked)["files_copied"] == len(SMALL)
    assert files_of(nas) == below("acme/tiny/", SMALL)


def test_moved_by_a_fleet(fleet: Fleet, nas: Path, tmp_path: Path) -> None:
    fleet.start("a1", "a2", environ={"SHOAL_NAS_DELETE_AFTER_COPY": "true"})
    job = fleet.submit("hf://acme/many", "--to", tmp_path / "to")
    fleet.ended(job)
    until("all to be moved", lambda: nas_of(fleet, job)["files_removed"] == len(MANY))
    assert files_of(nas) == below("acme/many/", MANY) and delivered(tmp_path / "to") == {}
    seen = json.loads(fleet.run("verify", tmp_path / "to", "--json").expect(0).stdout)
    assert seen["moved"] == len(MANY)
    second = fleet.submit("hf://acme/many", "--to", tmp_path / "to")
    assert fleet.ended(second).objects_skipped == len(MANY)
    assert delivered(tmp_path / "to") == {}
