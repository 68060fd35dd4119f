"""What a site does not allow is refused before any byte, by the coordinator, and by each agent's own settings again."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.common.views import JobStatus
from support.cli import Shoal, delivered
from support.contents import SyntheticFile
from support.fleet import Fleet, until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.request_log import FILE_KINDS

FILES = {"config.json": b"{}", "model.bin": SyntheticFile(3 << 20, seed=1)}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    repos = [
        HubRepo("acme/free", FILES, card={"license": "apache-2.0"}),
        HubRepo("acme/own", FILES, card={"license": "other", "license_name": "acme-1.0"}),
        HubRepo("acme/mute", FILES),
    ]
    with hub_in_thread(repos) as stand_in:
        yield stand_in


@pytest.fixture
def shoal(tmp_path: Path, hub: StandInHub) -> Shoal:
    return Shoal(tmp_path / "person", endpoint=hub.url)


def files_asked(hub: StandInHub) -> int:
    return sum(record.kind in FILE_KINDS for record in hub.log.records)


@pytest.mark.parametrize(
    ("repo", "rule", "said"),
    [
        ("acme/free", "security.deny_licenses=apache-*", "its licence is apache-2.0"),
        ("acme/free", "security.allow_licenses=mit,acme-*", "allows only mit, acme-*"),
        ("acme/mute", "security.deny_licenses=mit", "it names no licence"),
        ("acme/free", "security.max_object_size=1MiB", "security.max_object_size is 1MiB"),
        ("acme/free", "security.max_job_size=2MiB", "security.max_job_size is 2MiB"),
        ("acme/free", "quota.bytes=2MiB", f"quota of {getpass.getuser()}: "),
        ("acme/free", "security.deny=127.0.0.1", "security.deny"),
        ("acme/free", "security.https_only=true", "security.https_only"),
    ],
)
def test_refused_before_any_byte(
    shoal: Shoal, hub: StandInHub, tmp_path: Path, repo: str, rule: str, said: str
) -> None:
    run = shoal.run("get", f"hf://{repo}", "--to", tmp_path / "to", "--set", rule).expect(7)
    assert said in run.stderr
    assert files_asked(hub) == 0
    assert not (tmp_path / "to").exists() or delivered(tmp_path / "to") == {}


@pytest.mark.parametrize(
    ("repo", "rules"),
    [
        ("acme/free", ["security.allow_licenses=Apache-2.0", "security.max_job_size=4MiB", "quota.bytes=4MiB"]),
        ("acme/own", ["security.allow_licenses=acme-*", "security.deny_licenses=other", "quota.jobs=1"]),
        (
            "acme/mute",
            ["security.deny_licenses=mit", "security.unknown_license=allow", "security.max_object_size=4MiB"],
        ),
    ],
)
def test_allowed(shoal: Shoal, hub: StandInHub, tmp_path: Path, repo: str, rules: list[str]) -> None:
    options = [word for rule in rules for word in ("--set", rule)]
    shoal.get(f"hf://{repo}", "--to", tmp_path / "to", *options)
    assert len(delivered(tmp_path / "to")) == 2


def test_a_pinned_commit_does_not_get_around_the_licence(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    commit = (
        shoal.run("get", "hf://acme/free", "--to", tmp_path / "to", "--json").expect(0).document()["jobs"][0]["commit"]
    )
    before = files_asked(hub)
    rule = ["--set", "security.deny_licenses=apache-2.0"]
    shoal.run("get", f"hf://acme/free@{commit}", "--to", tmp_path / "again", *rule).expect(7)
    assert files_asked(hub) == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SHOAL_SECURITY_DENY", "acme/*"),
        ("SHOAL_SECURITY_DENY", "127.0.0.1"),
        ("SHOAL_SECURITY_ALLOW", "other/*"),
        ("SHOAL_SECURITY_HTTPS_ONLY", "true"),
        ("SHOAL_SECURITY_MAX_OBJECT_SIZE", "1MiB"),
        ("SHOAL_SECURITY_MAX_JOB_SIZE", "1MiB"),
        ("SHOAL_SECURITY_DENY_LICENSES", "apache-*"),
        ("SHOAL_SECURITY_ALLOW_LICENSES", "mit"),
    ],
)
def test_an_agent_does_not_break_its_own_rules(hub: StandInHub, tmp_path: Path, variable: str, value: str) -> None:
    with Fleet(tmp_path / "fleet", endpoint=hub.url) as fleet:
        fleet.start("a1", environ={variable: value})
        run = fleet.run("get", "hf://acme/free", "--to", str(tmp_path / "to"), "--json").expect(7)
        (job,) = json.loads(run.stdout)["jobs"]
        codes = {job["failure"]["code"]} if job.get("failure") else set()
        codes |= {each["failure"]["code"] for each in job.get("failed", [])}
        assert "refused" in codes, job
    served = sum(record.body_bytes for record in hub.log.records if record.path == "model.bin")
    assert served == 0


def test_a_quota_survives_a_restart_of_the_coordinator(hub: StandInHub, tmp_path: Path) -> None:
    with Fleet(
        tmp_path / "fleet", endpoint=hub.url, coordinator_environ={"SHOAL_QUOTA_JOBS": "2", "SHOAL_QUOTA_BYTES": "5MiB"}
    ) as fleet:
        fleet.start("a1")
        first = fleet.submit("hf://acme/free", "--to", str(tmp_path / "one"))
        assert fleet.ended(first).status is JobStatus.DONE
        fleet.coordinator.kill()
        fleet.coordinator.start()
        until("the coordinator to be back", lambda: fleet.run("status").exit_code == 0)
        asked = files_asked(hub)
        too_many = fleet.run("get", "hf://acme/own", "--to", str(tmp_path / "two")).expect(7)
        assert "quota of this machine" in too_many.stderr
        assert files_asked(hub) == asked
        small = fleet.submit("hf://acme/own", "--include", "config.json", "--to", str(tmp_path / "two"))
        assert fleet.ended(small).status is JobStatus.DONE
        refused = fleet.run("submit", "hf://acme/mute", "--to", str(tmp_path / "three")).expect(7)
        assert "2 jobs were submitted" in refused.stderr
