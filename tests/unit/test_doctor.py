"""What the checks of ``shoal doctor`` make of what was seen, how it is shown, and what it exits with."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate

from shoal.client.doctor import certificates, cluster, disk, disk_probing, examination, fleet, machine, network
from shoal.client.doctor.access import judge_exposure, judge_token
from shoal.client.doctor.checks import CHECKS, chosen
from shoal.client.doctor.configuration import judge_python
from shoal.client.doctor.probing import Probed, Stage, Target, clock_ahead_s
from shoal.client.doctor.records import Check, Examined, Finding, Group, Result, failed, ok, skipped, warning
from shoal.client.doctor.report import document, exit_code, summary, table
from shoal.client.doctor.visit import Visit, Wishes, in_thread
from shoal.common.errors import AccessDenied, ConnectFailed, ExitCode, NoSpace, NotFound, ShoalError, UsageError
from shoal.common.http.message import Headers
from shoal.common.http.tls import TlsOptions
from shoal.common.http.url import parse_url
from shoal.common.settings import Settings
from shoal.common.views import AgentStatus, AgentView, FleetView
from support.endpoints import Issuer

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30


def check(name: str = "probe", group: Group = Group.NETWORK) -> Check:
    async def run(visit: Visit) -> Sequence[Finding]:
        return [ok("fine")]

    return Check(name=name, group=group, about="", run=run)


def examined(*findings: Finding) -> list[Examined]:
    return [Examined(check=check(), findings=findings, took_s=0.1)]


# --- the table of checks --------------------------------------------------------------------------------------------


def test_the_guide_lists_every_check_as_it_is() -> None:
    text = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z0-9]+)` \| (.+?) \|$", text, re.MULTILINE)
    assert listed == [(each.name, each.about) for each in CHECKS]


def test_names_are_unique_and_groups_stand_together() -> None:
    assert len({each.name for each in CHECKS}) == len(CHECKS)
    groups = [each.group for each in CHECKS]
    assert groups == sorted(groups, key=list(Group).index)


def test_choosing() -> None:
    assert chosen([], []) == CHECKS
    assert [each.name for each in chosen(["tls,DNS"], [])] == ["dns", "tls"]
    assert "tls" not in {each.name for each in chosen([], ["tls", "dns,http"])}
    with pytest.raises(UsageError, match="did you mean coordinator"):
        chosen(["cordinator"], [])
    with pytest.raises(UsageError, match="no check is left"):
        chosen(["tls"], ["tls"])


# --- running --------------------------------------------------------------------------------------------------------


def wishes(timeout_s: float = 20.0) -> Wishes:
    return Wishes(settings=Settings(), problems=(), environ={}, timeout_s=timeout_s)


async def test_a_check_that_crashes_hangs_or_raises_has_failed_and_the_others_have_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examination, "GRACE_S", 0.0)

    async def crashes(visit: Visit) -> Sequence[Finding]:
        raise ZeroDivisionError("token=SuperSecret1")

    async def hangs(visit: Visit) -> Sequence[Finding]:
        await visit.once("for ever", asyncio.Event().wait)
        return []

    async def raises(visit: Visit) -> Sequence[Finding]:
        raise NotFound("repo", cause="gone", remedy="look")

    async def says_nothing(visit: Visit) -> Sequence[Finding]:
        return []

    def made(run: object, group: Group = Group.NETWORK) -> Check:
        return Check(name="x", group=group, about="", run=run)  # type: ignore[arg-type]

    checks = [made(crashes), made(hangs, Group.DISK), made(raises), made(says_nothing), check()]
    found = [each.findings[0] for each in await examination.examine(checks, wishes(timeout_s=0.05))]
    assert [finding.result for finding in found] == ["failed", "failed", "failed", "skipped", "ok"]
    assert "ZeroDivisionError" in found[0].seen and "report it" in found[0].remedy
    assert "--timeout" in found[1].remedy and found[1].exit_code is ExitCode.NO_SPACE
    assert (found[2].exit_code, found[2].remedy) == (ExitCode.NO_ACCESS, "look")


async def test_a_question_is_asked_once_and_outlives_who_gave_up_on_it() -> None:
    asked: list[int] = []
    go = asyncio.Event()

    async def question() -> str:
        asked.append(1)
        await go.wait()
        return "answer"

    async with Visit(wishes()) as visit:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await visit.once("q", question)
        waiting = asyncio.create_task(visit.once("q", question))
        go.set()
        assert await waiting == await visit.once("q", question) == "answer"
        assert asked == [1]


async def test_what_blocks_runs_in_a_thread_that_nobody_waits_for() -> None:
    assert await in_thread(lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


async def test_a_file_system_that_never_answers_ends_its_check_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "GRACE_S", 0.0)
    answers = threading.Event()

    async def hangs(visit: Visit) -> Sequence[Finding]:
        return [ok(str(await in_thread(answers.wait)))]

    check_of_disk = Check(name="x", group=Group.DISK, about="", run=hangs)
    found = await examination.examine([check_of_disk, check()], wishes(timeout_s=0.05))
    answers.set()
    assert [each.findings[0].result for each in found] == ["failed", "ok"]


# --- showing --------------------------------------------------------------------------------------------------------


def test_the_gravest_failure_decides() -> None:
    assert exit_code(examined(ok("x"), warning("x", remedy="y"), skipped("z"))) is ExitCode.OK
    one = failed("x", remedy="y")
    disk_full = failed("x", remedy="y", exit_code=ExitCode.NO_SPACE)
    config = failed("x", remedy="y", exit_code=ExitCode.USAGE)
    refused = failed("x", remedy="y", exit_code=ExitCode.NO_ACCESS)
    assert exit_code(examined(one)) is ExitCode.FAILED
    assert exit_code(examined(one, refused)) is ExitCode.NO_ACCESS
    assert exit_code(examined(refused, disk_full, one)) is ExitCode.NO_SPACE
    assert exit_code(examined(disk_full, config)) is ExitCode.USAGE


def test_a_row_is_legible_without_colour_and_wrapped() -> None:
    found = examined(ok("all right"), failed("it broke " * 12, subject="host", remedy="mend it " * 12))
    text = table(found, width=60, colour=False)
    lines = text.splitlines()
    assert lines[0] == "Network" and lines[1] == "  ok       probe  all right"
    assert lines[2].startswith("  FAILED   probe  host: it broke")
    assert sum("-> mend it" in line for line in lines) == 1
    assert all(len(line) <= 60 for line in lines)
    assert "\x1b[1;31mFAILED" in table(found, width=60, colour=True)
    assert summary(found) == "1 ok, 1 failed"
    assert summary(examined(ok("x"), *[warning("x", remedy="y")] * 2)) == "1 ok, 2 warnings, 0 failed"


def test_no_secret_and_no_control_character_is_shown() -> None:
    nasty = failed(
        "Authorization: Bearer abcdefgh12345678 at https://me:Sesame9@host/x?X-Amz-Signature=abcdef\x1b[2J\nhf_AbCdEfGh1234",
        subject="https://me:Sesame9@host/",
        remedy="HF_TOKEN=hf_AbCdEfGh1234",
    )
    for text in (table(examined(nasty), width=80, colour=False), json.dumps(document(examined(nasty)))):
        for secret in ("abcdefgh12345678", "Sesame9", "abcdef\x1b", "X-Amz-Signature=abc", "hf_AbCd", "\x1b"):
            assert secret not in text, text


# --- certificates ---------------------------------------------------------------------------------------------------


def test_a_certificate_is_read_and_junk_is_not(tmp_path: Path) -> None:
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    pem = Issuer(tmp_path, now=now, organisation="Acme").chain("x", name="a.example")
    der = load_pem_x509_certificate(pem.read_bytes()).public_bytes(serialization.Encoding.DER)
    found = certificates.read_certificate(der)
    assert found is not None
    assert (found.issuer, found.names) == ("Acme, inspecting proxy", ("a.example",))
    assert found.not_after == (now + datetime.timedelta(days=30)).timestamp()
    for junk in (b"", b"junk", der[:100]):
        assert certificates.read_certificate(junk) is None


@pytest.mark.parametrize(
    ("code", "seen", "remedy"),
    [
        (certificates.EXPIRED, "expired", "renew"),
        (certificates.NOT_YET_VALID, "not valid", "clock"),
        (certificates.WRONG_NAME, "another name", "proxy or portal"),
        (certificates.SELF_SIGNED, "self-signed", "set x.ca_bundle"),
        (certificates.SELF_SIGNED_IN_CHAIN, "not trusted here", "intercepts TLS: set x.ca_bundle"),
        (23, "not trusted: it was revoked", "set x.ca_bundle"),
    ],
)
def test_refusals_of_certificates_that_could_not_even_be_read(code: int, seen: str, remedy: str) -> None:
    told = certificates.refusal(code, "it was revoked", None, host="h", setting="x.ca_bundle")
    assert seen in told[0] and remedy in told[1]


# --- the clock ------------------------------------------------------------------------------------------------------


def test_the_date_of_an_answer() -> None:
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert clock_ahead_s(date, sent_at=784111777.0, received_at=784111778.0) == 0.0
    assert clock_ahead_s(date, sent_at=784111700.5, received_at=784111700.5) == 77.0
    for junk in ("", "yesterday", "Sun, 99 Nov 1994 08:49:37 GMT"):
        assert clock_ahead_s(junk, sent_at=0, received_at=0) is None


def test_one_server_that_agrees_clears_this_machine() -> None:
    assert [f.result for f in network.judge_clock({})] == ["skipped"]
    assert [f.result for f in network.judge_clock({"a": 0.4, "b": -2.0})] == ["ok"]
    found = network.judge_clock({"a": 59.0, "b": -3600.0})
    assert [(f.result, f.subject) for f in found] == [("ok", ""), ("warning", "b")]
    found = network.judge_clock({"a": 299.0, "b": 310.0})
    assert [f.result for f in found] == ["warning"] and "behind that of a" in found[0].seen
    assert [f.result for f in network.judge_clock({"a": -301.0})] == ["failed"]


# --- tokens ---------------------------------------------------------------------------------------------------------


def rights(**token: object) -> Finding:
    body = json.dumps({"name": "ann", "auth": {"accessToken": token}}).encode()
    return judge_token("https://hub", 200, Headers(), body, "HF_TOKEN")


def test_rights_of_tokens() -> None:
    assert rights(role="read").seen == "of ann, from HF_TOKEN, role read"
    fine = {"canReadGatedRepos": True, "scoped": [{"permissions": ["repo.content.read"]}]}
    found = rights(role="fineGrained", fineGrained=fine)
    assert found.result is Result.OK and "private repos and gated repos" in found.seen
    found = rights(role="fineGrained", fineGrained={"canReadGatedRepos": False, "scoped": [7, {"permissions": None}]})
    assert found.result is Result.WARNING and "public repos alone" in found.seen and "gated" in found.remedy


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"7", b"{", b'{"auth": 7, "name": []}', b'{"auth": {"accessToken": "x"}}']
)
def test_a_hub_that_makes_no_sense_is_no_crash(body: bytes) -> None:
    assert judge_token("https://hub", 200, Headers(), body, "x").result in (Result.OK, Result.SKIPPED)


@pytest.mark.parametrize(("status", "result"), [(401, "failed"), (404, "skipped"), (429, "warning"), (500, "warning")])
def test_other_answers_about_tokens(status: int, result: str) -> None:
    assert judge_token("https://hub", status, Headers(), b"", "x").result == result


def test_a_token_in_plain_text() -> None:
    assert judge_exposure("https://hub.example") is None
    assert judge_exposure("http://127.0.0.1:8080") is None
    found = judge_exposure("http://mirror.example")
    assert found is not None and found.result is Result.WARNING and "https" in found.remedy


# --- disks ----------------------------------------------------------------------------------------------------------

HERE = Path("/data/to")


def looked(**fields: object) -> disk_probing.Looked:
    values: dict[str, object] = {"folder": HERE, "nearest": HERE, "kind": "ext4", "size_bytes": 100 * GIB}
    return disk_probing.Looked(**{**values, "free_bytes": 50 * GIB, "free_files": 1000, **fields})  # type: ignore[arg-type]


def test_room() -> None:
    load = disk.Load(total_bytes=60 * GIB, objects=10, files_each=2, sources=1)
    assert "60GiB are to come" in disk.judge_space(looked(), load, None).seen
    short = NoSpace("x", cause="y")
    found = disk.judge_space(looked(), load, short)
    assert (found.result, found.exit_code, found.code) == (Result.FAILED, ExitCode.NO_SPACE, "no-space")
    assert disk.judge_space(looked(free_bytes=0), disk.Load(), None).result is Result.FAILED
    assert disk.judge_space(looked(free_bytes=GIB), disk.Load(), None).result is Result.WARNING
    assert disk.judge_space(looked(), disk.Load(unknown=2), None).result is Result.WARNING
    assert disk.judge_inodes(looked(free_files=None), load, None).result is Result.OK
    assert disk.judge_inodes(looked(free_files=0), disk.Load(), None).exit_code is ExitCode.NO_SPACE
    assert "20 files are to come" in disk.judge_inodes(looked(), load, short).seen


def able(**reasons: str) -> tuple[disk_probing.Ability, ...]:
    names = ("O_EXCL", "rename", "flock", "copy_file_range")
    return tuple(disk_probing.Ability(name=name, reason=reasons.get(name, "")) for name in names)


def test_file_systems() -> None:
    assert "nfs4 (shared or network)" in disk.judge_filesystem(looked(kind="nfs4", abilities=able())).seen
    found = disk.judge_filesystem(looked(kind="lustre", abilities=able(flock="function not implemented")))
    assert found.result is Result.WARNING and "lock files" in found.remedy
    found = disk.judge_filesystem(looked(abilities=able(O_EXCL="two could make the same file")))
    assert (found.result, found.exit_code) == (Result.FAILED, ExitCode.NO_SPACE)
    assert disk.judge_filesystem(looked(abilities=able(), ignores_case=True)).result is Result.WARNING
    assert disk.judge_filesystem(looked()).result is Result.SKIPPED


def test_state_folders() -> None:
    on_nfs = disk.judge_state("coordinator.state /home/x", "nfs4", writable=True, nearest=HERE)
    assert on_nfs.result is Result.WARNING and on_nfs.remedy == "set coordinator.state to a folder on a local disk"
    assert disk.judge_state("agent.data /x", "lustre", writable=True, nearest=HERE).result is Result.WARNING
    assert disk.judge_state("agent.data /x", "ext4", writable=False, nearest=HERE).result is Result.WARNING
    assert disk.judge_state("agent.data /x", "xfs", writable=True, nearest=HERE).result is Result.OK


# --- the machine ----------------------------------------------------------------------------------------------------


def test_limits_of_control_groups_count_from_the_process_upwards() -> None:
    files = {
        "/proc/self/cgroup": "12:pids:/job/step\n5:cpu,memory:/slurm/uid_1\n0::/job/step\n",
        "/sys/fs/cgroup/job/step/memory.max": "max\n",
        "/sys/fs/cgroup/job/memory.max": "2147483648\n",
        "/sys/fs/cgroup/memory/slurm/uid_1/memory.limit_in_bytes": "1073741824",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    found = machine.group_limits(
        "memory.max", lambda path: files.get(path, ""), version1="memory.limit_in_bytes", controller="memory"
    )
    assert sorted(found) == [1 << 30, 2 << 30, 9223372036854771712]
    assert list(machine.group_limits("memory.max", lambda path: "", version1="x", controller="memory")) == []


def test_memory() -> None:
    assert machine.judge_memory(GIB, group=None, machine=8 * GIB).result is Result.OK
    assert machine.judge_memory(GIB, group=GIB, machine=8 * GIB).result is Result.WARNING
    found = machine.judge_memory(GIB, group=GIB // 2, machine=8 * GIB)
    assert found.result is Result.FAILED and "--mem" in found.remedy and "this job" in found.seen
    assert machine.judge_memory(GIB, group=None, machine=None).result is Result.SKIPPED


def test_files_and_processes() -> None:
    needed = machine.files_needed(Settings())
    assert needed < 1024  # the usual limit is enough for the defaults
    assert machine.judge_files(needed, soft=1024, hard=float("inf")).result is Result.OK
    found = machine.judge_files(2000, soft=1024, hard=4096)
    assert found.result is Result.WARNING and "ulimit -n 2000" in found.remedy
    assert "limits.conf" in machine.judge_files(2000, soft=1024, hard=1024).remedy
    assert machine.judge_processes(account=None, group=None).result is Result.OK
    assert machine.judge_processes(account=1000, group=10).result is Result.FAILED
    found = machine.judge_processes(account=100, group=5000)
    assert found.result is Result.WARNING and "ulimit -u" in found.seen


@pytest.mark.parametrize(
    ("mask", "result"), [(0o022, "ok"), (0o027, "ok"), (0o077, "warning"), (0, "warning"), (0o777, "failed")]
)
def test_umasks(mask: int, result: str) -> None:
    assert machine.judge_umask(mask).result == result
    assert machine.umask(f"Name:\tx\nUmask:\t{mask:04o}\n") == mask


def test_an_old_python() -> None:
    assert judge_python((3, 10, 1)).exit_code is ExitCode.USAGE
    assert judge_python((3, 14, 0)).result is Result.OK


# --- cluster and fleet ----------------------------------------------------------------------------------------------


def test_mpi_and_slurm() -> None:
    assert (
        cluster.judge_mpi(0, "4.1.0\nMPICH Version: 5.0\nmore\n", "", named=False).seen
        == "mpi4py 4.1.0, MPICH Version: 5.0"
    )
    assert cluster.judge_mpi(-11, "", "", named=False).result is Result.WARNING
    assert cluster.judge_mpi(1, "", "a\nRuntimeError: no libmpi\n", named=True).seen.endswith("no libmpi")
    two = "Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n"
    assert cluster.judge_ping(0, two, "", named=True).result is Result.OK
    assert cluster.judge_ping(1, "", "scontrol: error: x\n", named=False).result is Result.WARNING


def test_the_coordinator() -> None:
    view = FleetView(version="1.0", incarnation=1, uptime_s=1, agents_alive=2)
    asked = fleet.Asked(fleet=view, took_s=0.01, ahead_s=None)
    assert fleet.judge_coordinator(asked, "c:1", own="1.0").result is Result.OK
    found = fleet.judge_coordinator(asked, "c:1", own="1.1")
    assert found.result is Result.WARNING and "here it is version 1.1" in found.seen
    alone = fleet.Asked(fleet=FleetView(version="1.0", incarnation=1, uptime_s=1), took_s=0.01, ahead_s=None)
    assert "shoal agent --coordinator c:1" in fleet.judge_coordinator(alone, "c:1", own="1.0").remedy
    assert fleet.judge_role(AccessDenied("m", cause="nobody may call it"), "c:1").result is Result.FAILED


def test_peer_ports() -> None:
    def agent(address: str) -> AgentView:
        return AgentView(agent_id="a", name="n1", status=AgentStatus.ALIVE, peer_address=address)

    def seen(status: int = 0, error: ShoalError | None = None) -> Probed:
        url = parse_url("http://10.0.0.1:7072/")
        target = Target(url=url, what="agent", tls=TlsOptions(), ca_setting="security.tls_ca")
        return Probed(target=target, stage=Stage.DONE if status else Stage.CONNECT, status=status, error=error)

    assert fleet.judge_peer(agent("10.0.0.1:7072"), seen(404), "10.0.0.9:7070").result is Result.OK
    assert "something else" in fleet.judge_peer(agent("10.0.0.1:7072"), seen(200), "10.0.0.9:7070").seen
    refused = seen(error=ConnectFailed("x", cause="connection refused"))
    found = fleet.judge_peer(agent("10.0.0.1:7072"), refused, "10.0.0.9:7070")
    assert found.result is Result.FAILED and found.subject == "n1 at 10.0.0.1:7072" and "7072" in found.remedy
    assert "loopback" in fleet.judge_peer(agent("127.0.0.1:7072"), seen(404), "10.0.0.9:7070").seen
    assert fleet.judge_peer(agent("127.0.0.1:7072"), seen(404), "127.0.0.1:7070").result is Result.OK
    assert fleet.judge_peer(agent(""), None, "127.0.0.1:7070").result is Result.WARNING
