"""Shoal on a real Slurm of four nodes on this machine, each with a disk of its own."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.cli import Finished, delivered, installed, leftovers
from support.contents import SyntheticFile, read_all
from support.dataset_files import successes, write_csv
from support.fleet import until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.image_site import ImageSite, images
from support.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(180)]

MIB = 1 << 20
NODES = ("n0", "n1", "n2", "n3")
SMALL = {"config.json": b"{}", "sub/model.safetensors": read_all(SyntheticFile(5 * MIB, seed=1))}
BIG = {"model.bin": read_all(SyntheticFile(96 * MIB, seed=2)), "config.json": b"{}"}
SIZE = sum(map(len, BIG.values()))
HALF = SIZE // 2
SLOW = 6 * MIB
"""Bytes a second of one connection to the Hub: slow enough that there is a half-way."""
AGAIN_MAX = 1.05
KILLED_AGAIN_MAX = 1.15
"""After a kill, what was in flight and in memory is fetched again: some pieces a connection, of a file that is small beside them."""


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/tiny", SMALL), HubRepo("acme/big", BIG)]) as found:
        yield found


class Site:
    """A person on the login node of the cluster. Nobody else's processes are left when the test ends."""

    def __init__(self, slurm: SlurmCluster, folder: Path, hub: StandInHub) -> None:
        self.slurm = slurm
        self.cwd = folder
        self.environ = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "SHOAL_FETCH_CONNECTIONS_PER_HOST": "1",  # of each agent: what is in flight is small beside 96 MiB
            "SHOAL_COORDINATOR_HEARTBEAT": "1s",
            "SHOAL_COORDINATOR_LEASE_TTL": "6s",
            "PYTHONWARNINGS": "default::ResourceWarning",
        }

    def shoal(self, *arguments: str | Path, environ: Mapping[str, str] | None = None, timeout_s: float = 90) -> Finished:  # fmt: skip
        return self.slurm.run(
            installed("shoal"),
            *arguments,
            environ={**self.environ, **(environ or {})},
            cwd=self.cwd,
            timeout_s=timeout_s,
        )

    def launch(self, *arguments: str | Path, **options: object) -> Finished:
        return self.shoal("launch", "slurm", *arguments, **options)  # type: ignore[arg-type]

    def job(self, *arguments: str | Path, nodes: int = 4) -> Finished:
        """Submits a job as small as this machine."""
        size = ("--nodes", str(nodes), "--cpus", "1", "--mem", "500M", "--time", "30")
        return self.launch(*size, *arguments)

    def submitted(self, *arguments: str | Path) -> str:
        return self.job(*arguments).expect(0).stdout.strip()

    def template(self, name: str, **values: str) -> Path:
        """A template with its variables edited, as a person would."""
        text = self.launch("--print-template", name).expect(0).stdout
        for variable, value in {"SHOAL": f"({installed('shoal')})", **values}.items():
            text, count = re.subn(rf"(?m)^{variable}=\S+", lambda _, v=value, n=variable: f"{n}={v}", text)
            assert count == 1, variable
        script = self.cwd / f"{name}.sh"
        script.write_text(text)
        return script

    def log(self, job: str) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.cwd.rglob(f"shoal-*-{job}.log")))

    def state(self, job: str) -> Path:
        return self.cwd / "shoal-runs" / job

    def record(self, job: str) -> dict[str, object]:
        return json.loads((self.state(job) / "run.json").read_text().partition("\n")[2])

    def completed(self, job: str) -> str:
        """Waits for a good end. Returns: the log, which shows no defect."""
        assert self.slurm.ended(job) == "COMPLETED", self.everything(job)
        log = self.log(job)
        assert "Traceback" not in self.everything(job)
        return log

    def everything(self, job: str) -> str:
        agents = "\n".join(path.read_text(errors="replace") for path in sorted(self.state(job).glob("agent-*.log")))
        return f"{self.log(job)}\n{agents}"


def read_environ(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")


@pytest.fixture
def site(slurm: SlurmCluster, tmp_path: Path, hub: StandInHub) -> Iterator[Site]:
    yield Site(slurm, tmp_path, hub)
    slurm.until_idle()
    until(f"nothing to be left: {slurm.processes()}", lambda: not slurm.processes())
    slurm.clear_disks()


def test_the_repo_template_downloads_with_all_nodes(site: Site, slurm: SlurmCluster, hub: StandInHub) -> None:
    (site.cwd / "repos.txt").write_text("hf://acme/tiny  # the small one\nhf://acme/big\n")
    script = site.template("repos", REPOS=str(site.cwd / "repos.txt"), TO=str(site.cwd / "models"))
    hub.faults.connection_rate = 16 * MIB
    job = slurm.submit(
        script, "--nodes=4", "--cpus-per-task=1", "--mem=500M", "--time=5", environ=site.environ, cwd=site.cwd
    )
    log = site.completed(job)
    assert delivered(site.cwd / "models") == {**SMALL, **BIG}, log
    assert hub.log.where(kind="cdn").bytes_served <= (SIZE + 5 * MIB) * AGAIN_MAX
    assert "4 agents on 4 nodes" in log
    assert "fleet: 4 agents at work" in log
    for task in range(4):
        assert "agent.started" in (site.state(job) / f"agent-{task}.log").read_text()


# ---- interruptions ------------------------------------------------------------------------------------------------------


def slow_half_way(hub: StandInHub) -> None:
    """Whoever is to be met half-way is still there when a busy machine gets round to it."""
    hub.faults.connection_rate = SLOW
    hub.faults.slow_after = (HALF, MIB)


def half_way(site: Site, hub: StandInHub, job: str) -> None:
    """Waits until about half of the bytes have left the Hub."""
    site.slurm.until_state(job, "RUNNING")
    hub.log.wait_for(lambda log: log.bytes_served > HALF, timeout_s=90)
    assert site.slurm.state(job) == "RUNNING", site.everything(job)


def test_requeued_half_way_it_goes_on(site: Site, slurm: SlurmCluster, hub: StandInHub) -> None:
    slow_half_way(hub)
    to = site.cwd / "out"
    job = site.submitted("--mail-user", "me@example.org", "--", "get", "hf://acme/big", "--to", to)
    half_way(site, hub, job)
    slurm.run("scontrol", "requeue", job).expect(0)
    slurm.until_state(job, "PENDING")
    assert not (to / "model.bin").exists()
    served = hub.log.bytes_served
    hub.faults.clear()
    slurm.start_now(job)
    log = site.completed(job)
    assert delivered(to) == BIG, log
    assert slurm.job(job)["Restarts"] == "1"
    assert "started again 1 time" in log
    assert HALF < served < SIZE
    assert hub.log.where(kind="cdn").bytes_served <= SIZE * AGAIN_MAX
    assert not [path for path in leftovers(to) if "/partial/" in path]
    runs = site.record(job)["runs"]
    assert [run["next"] for run in runs] == ["stop", "end"]  # type: ignore[index, union-attr]
    assert "Requeued" in slurm.mail.read_text() and "me@example.org" in slurm.mail.read_text()


def test_a_cancelled_job_leaves_what_a_person_can_go_on_with(site: Site, slurm: SlurmCluster, hub: StandInHub) -> None:
    slow_half_way(hub)
    to = site.cwd / "out"
    job = site.submitted("--", "get", "hf://acme/big", "--to", to)
    half_way(site, hub, job)
    slurm.run("scancel", job).expect(0)
    assert slurm.ended(job) == "CANCELLED"
    hub.faults.clear()
    assert not (to / "model.bin").exists()
    site.shoal("get", "hf://acme/big", "--to", to).expect(0)
    assert delivered(to) == BIG
    site.shoal("clean", to, "--older-than", "0s").expect(0)
    assert not leftovers(to)
    assert hub.log.where(kind="cdn").bytes_served <= SIZE * AGAIN_MAX


def test_a_node_set_down_leaves_its_work_to_the_others(site: Site, slurm: SlurmCluster, hub: StandInHub) -> None:
    slow_half_way(hub)
    to = site.cwd / "out"
    job = site.submitted("--", "get", "hf://acme/big", "--to", to)
    half_way(site, hub, job)
    slurm.set_down("n2")
    hub.faults.slow_after = None
    log = site.completed(job)
    assert delivered(to) == BIG
    assert slurm.job(job)["Restarts"] == "0"
    assert "Node failure on n2" in log
    assert "fleet: 3 agents at work" in log
    assert hub.log.where(kind="cdn").bytes_served <= SIZE * KILLED_AGAIN_MAX


def test_when_the_batch_node_is_set_down_nothing_runs_on_and_the_work_is_kept(
    site: Site, slurm: SlurmCluster, hub: StandInHub
) -> None:
    slow_half_way(hub)
    to = site.cwd / "out"
    job = site.submitted("--", "get", "hf://acme/big", "--to", to)
    half_way(site, hub, job)
    slurm.set_down("n0")
    assert slurm.ended(job) in ("FAILED", "NODE_FAIL")
    until("all agents to be gone", lambda: not slurm.processes())
    hub.faults.clear()
    site.job("--wait", "--", "get", "hf://acme/big", "--to", to).expect(0)
    assert delivered(to) == BIG
    assert hub.log.where(kind="cdn").bytes_served <= SIZE * KILLED_AGAIN_MAX


def test_when_the_time_is_out_the_job_asks_to_be_continued_as_often_as_it_may(
    site: Site, slurm: SlurmCluster, hub: StandInHub
) -> None:
    """Shoal is told that the warning is for the last hour, of a job of half an hour: any is due. No test waits for a time limit."""
    hub.faults.connection_rate = SLOW / 8
    to = site.cwd / "out"
    job = site.submitted(
        *("--signal", "B:USR1@3600", "--sbatch", "signal=B:USR1@60", "--chain", "1"),
        "--",
        "get",
        "hf://acme/big",
        "--to",
        to,
    )
    for run in range(2):
        hub.log.wait_for(lambda log: log.bytes_served > MIB, timeout_s=60)
        slurm.run("scancel", "--batch", "--signal=USR1", job).expect(0)
        if run == 0:
            slurm.until_state(job, "PENDING")
            assert site.record(job)["continuations"] == 1
            hub.log.clear()
            slurm.start_now(job)
    assert slurm.ended(job) == "FAILED"
    assert slurm.exit_code(job) == 130
    log = site.log(job)
    assert "continuation 1 of 1" in log
    assert "the time is out, after 1 continuation" in log
    assert slurm.job(job)["Restarts"] == "1"


# ---- more than one command ----------------------------------------------------------------------------------------------


def test_an_array_shares_the_lines_of_a_file(site: Site, slurm: SlurmCluster, hub: StandInHub) -> None:
    jobs = site.cwd / "jobs.txt"
    jobs.write_text("get hf://acme/tiny --to a\n# one more\nget hf://acme/big --to 'b b'\nget hf://acme/tiny --to c\n")
    job = site.job("--array", "0-1", "--wait", "--jobs", jobs, nodes=2).expect(0).stdout.strip()
    assert delivered(site.cwd / "a") == delivered(site.cwd / "c") == SMALL
    assert delivered(site.cwd / "b b") == BIG
    finished = [site.record(f"{job}_{task}")["finished"] for task in range(2)]
    assert [len(commands) for commands in finished] == [2, 1]  # type: ignore[arg-type]
    assert (site.state(job) / "job.sh").read_text().startswith("#!/bin/bash")


def test_a_broadcast_to_each_nodes_own_disk_comes_before_the_training_step(
    site: Site, slurm: SlurmCluster, hub: StandInHub
) -> None:
    train = "srun --ntasks=4 sh -c 'cat $SHOAL_DESTINATION/config.json; echo $SHOAL_NODES $SHOAL_AGENTS $SHOAL_JOB_ID'"
    words = ("get", "hf://acme/big", "--deliver", "replicate", "--to", slurm.local / "model")
    finished = site.job("--wait", "--then", train, "--", *words).expect(0)
    job = finished.stdout.strip()
    for node in NODES:
        assert delivered(slurm.local_of(node) / "model") == BIG
    assert site.log(job).count(f"{{}}4 4 {job}") == 4, site.log(job)
    assert hub.log.where(kind="cdn").bytes_served <= SIZE * AGAIN_MAX
    assert "#SBATCH --no-kill" not in (site.state(job) / "job.sh").read_text()


def test_a_table_is_collected_by_all_nodes_then_a_tool_runs_over_it(site: Site, slurm: SlurmCluster) -> None:
    site.environ |= {"SHOAL_COLLECT_ALLOW_PRIVATE_ADDRESSES": "true", "SHOAL_COLLECT_BATCH_SIZE": "10"}
    with ImageSite() as web:
        host = web.host(images)
        uuids = write_csv(site.cwd / "t.csv", [host.url(f"/{number}.jpg") for number in range(40)])
        rate = ("--set", "collect.default_rate_limit=100", "--set", "collect.rate_multiplier=1")
        job = site.job(*rate, "--wait", "--workers", "1", "--", "collect", "t.csv", "--to", "data", nodes=2).expect(0)
        asked = len(host.requests)
        assert {row["uuid"] for row in successes(site.cwd / "data")} == set(uuids), site.log(job.stdout.strip())
        again = site.job(*rate, "--wait", "--", "collect", "t.csv", "--to", "data", nodes=1).expect(0)
        assert len(host.requests) == asked, "what was collected is not asked for again"
    assert list((site.cwd / "shoal-runs" / "tables").iterdir())
    script = site.template("tools", TOOL="image_verification", DATA=str(site.cwd / "data"))
    tool = slurm.submit(
        script, "--nodes=2", "--cpus-per-task=1", "--mem=500M", "--time=5", environ=site.environ, cwd=site.cwd
    )
    assert "40" in site.completed(tool), site.log(again.stdout.strip())


def test_its_exit_code_is_that_of_the_command(site: Site) -> None:
    finished = site.job("--wait", "--", "get", "hf://acme/nothing", "--to", "x", nodes=1)
    assert finished.exit_code == 3, finished.stderr
    assert "acme/nothing" in site.log(finished.stdout.strip())


def test_inside_an_allocation_it_uses_the_nodes_at_once(site: Site, slurm: SlurmCluster) -> None:
    salloc = ("salloc", "--nodes=2", "--cpus-per-task=1", "--mem=500M", "--time=5")
    shoal = (installed("shoal"), "launch", "slurm", "--agents-per-node", "2")
    words = ("--", "get", "hf://acme/tiny", "--to", "out")
    shown = slurm.run(*salloc, *shoal, "--dry-run", *words, environ=site.environ, cwd=site.cwd).expect(0)
    assert "--ntasks=4 --ntasks-per-node=2" in shown.stdout
    assert "shoal get hf://acme/tiny --to out" in shown.stdout
    assert list(site.cwd.iterdir()) == []
    then = ("--host", "127.0.0.1", "--then", "echo $SHOAL_AGENTS $SHOAL_DESTINATION; exit 9")
    finished = slurm.run(*salloc, *shoal, *then, *words, environ=site.environ, cwd=site.cwd, timeout_s=90).expect(9)
    assert f"4 {site.cwd / 'out'}" in finished.stdout
    assert "4 agents on 2 nodes" in finished.stderr
    assert delivered(site.cwd / "out") == SMALL


def test_a_launch_that_is_killed_leaves_no_process_and_no_secret(
    site: Site, slurm: SlurmCluster, hub: StandInHub
) -> None:
    slow_half_way(hub)
    temporary = site.cwd / "tmp"
    temporary.mkdir()
    site.environ["TMPDIR"] = str(temporary)
    job = site.submitted("--host", "127.0.0.1", "--", "get", "hf://acme/big", "--to", site.cwd / "out")
    half_way(site, hub, job)
    assert list(temporary.rglob("*.key"))
    (batch,) = [pid for pid, line in slurm.processes().items() if "shoal launch slurm" in line]
    os.kill(batch, signal.SIGKILL)
    assert slurm.ended(job) == "FAILED"
    until(f"nothing to be left: {slurm.processes()}", lambda: not slurm.processes())
    assert site.record(job)["finished"] == []
    assert not list(temporary.iterdir())


# ---- before anything is submitted ---------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_script_and_asks_slurm(site: Site, slurm: SlurmCluster) -> None:
    finished = site.launch(
        *("--nodes", "3", "--time", "30", "--partition", "main", "--job-name", "my models", "--sbatch", "exclusive"),
        *(
            "--sbatch",
            "no-kill=no",
            "--setup",
            "module load python || true",
            "--chain",
            "2",
            "--set",
            "fetch.attempts=5",
        ),
        *("--dry-run", "--", "get", "hf://acme/big", "--to", "a b"),
    ).expect(0)
    script = finished.stdout
    for line in (
        "#SBATCH --nodes=3",
        "#SBATCH --partition=main",
        "#SBATCH '--job-name=my models'",
        "#SBATCH --exclusive",
        "#SBATCH --signal=B:TERM@120",
        "module load python || true",
    ):
        assert line in script.splitlines()
    assert "--no-kill\n" not in script.partition("set -e")[0].replace("# --no-kill", "")
    assert "--chain 2" in script and "-- get hf://acme/big --to 'a b'" in script
    assert "fetch.attempts=5" in script
    assert "nothing was submitted" in finished.stderr and "3 nodes" not in slurm.run("squeue").stdout
    assert not slurm.run("squeue", "--noheader").stdout.strip()
    assert list(site.cwd.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (["--partition", "nope", "--", "get", "hf://acme/tiny", "--to", "x"], 2, "invalid partition"),
        (["--nodes", "9", "--", "get", "hf://acme/tiny", "--to", "x"], 2, "fewer or other nodes"),
        (["--nodes", "2"], 2, "no command was named"),
        (["--", "status"], 2, "cannot be run on a fleet"),
        (["--", "get", "--to", "x"], 2, "no source was named"),
        (["--", "get", "hf://acme/tiny", "--dry-run"], 2, "write it before --"),
        (["--array", "0-3", "--", "get", "hf://acme/tiny", "--to", "x"], 2, "share the lines of --jobs"),
        (["--jobs", "-"], 2, "no standard input"),
        (["--jobs", "nowhere.txt"], 2, "nowhere.txt"),
        (["--signal", "TERM@120", "--", "get", "hf://acme/tiny", "--to", "x"], 2, "must go to the batch process"),
        (["--chain", "-1", "--", "get", "hf://acme/tiny", "--to", "x"], 2, "not between"),
        (["--agents-per-node", "0", "--", "get", "hf://acme/tiny", "--to", "x"], 2, "not between"),
        (["--sbatch", "comment=a\nb", "--", "get", "hf://acme/tiny", "--to", "x"], 2, "control characters"),
        (["--set", "hub.token=abc", "--", "get", "hf://acme/tiny", "--to", "x"], 2, "a credential would stand"),
        (["--", "tools", "run", "resize", "--data", "nowhere"], 3, "no such folder"),
        (
            ["--", "get", "hf://acme/tiny", "--to", "/etc/hostname/x"],
            5,
            "/etc/hostname: a file lies where a folder should be",
        ),
        (["--coordinator", "h:1", "--", "get", "hf://acme/tiny", "--to", "x"], 2, "a coordinator of its own"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_submitted(
    arguments: list[str], exit_code: int, told: str, site: Site, slurm: SlurmCluster
) -> None:
    finished = site.launch(*arguments).expect(exit_code)
    assert told in finished.stderr, finished.stderr
    assert "Traceback" not in finished.stderr
    assert not finished.stdout
    assert not slurm.run("squeue", "--noheader").stdout.strip()


def test_a_job_that_would_never_start_is_warned_of(site: Site) -> None:
    """The template asks for a day, the partition allows an hour, and Slurm takes the job all the same."""
    finished = site.launch("--nodes", "1", "--cpus", "1", "--", "get", "hf://acme/tiny", "--to", "x").expect(0)
    assert "PartitionTimeLimit: ask for less time with --time" in finished.stderr, finished.stderr


def test_without_slurm_it_says_what_is_missing(site: Site) -> None:
    here = {"PATH": "/nonexistent"}
    words = ("--", "get", "hf://acme/tiny", "--to", "x")
    assert "sbatch: it is not in PATH" in site.launch(*words, environ=here).expect(2).stderr
    assert "#SBATCH" in site.launch("--dry-run", *words, environ=here).expect(0).stdout


# ---- checks inside a job ------------------------------------------------------------------------------------------------


def test_a_destination_that_only_one_node_sees_is_refused_before_a_byte_moves(
    site: Site, slurm: SlurmCluster, hub: StandInHub
) -> None:
    finished = site.job("--wait", "--", "get", "hf://acme/tiny", "--to", slurm.local / "x", nodes=3)
    assert finished.exit_code == 1
    log = site.log(finished.stdout.strip())
    assert "nodes n1, n2 do not see the folder of the batch node" in log
    assert "--deliver replicate" in log
    assert not hub.log.bytes_served
    assert not [path for node in NODES for path in (slurm.local_of(node)).rglob("*") if path.is_file()]


def test_a_hub_that_no_node_reaches_is_told(site: Site, hub: StandInHub) -> None:
    site.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
    finished = site.job("--wait", "--", "get", "hf://acme/tiny", "--to", "x", nodes=2)
    assert finished.exit_code == 1
    assert "server 127.0.0.1:9: no node reaches it: Connection refused" in site.log(finished.stdout.strip())


def test_credentials_are_seen_by_nobody(site: Site, slurm: SlurmCluster, hub: StandInHub) -> None:
    """--host: an address that could be another machine's, so TLS and credentials are in use."""
    slow_half_way(hub)
    job = site.submitted("--host", "127.0.0.1", "--", "get", "hf://acme/big", "--to", site.cwd / "out")
    half_way(site, hub, job)
    lines = list(slurm.processes().values())
    assert sum("shoal.client.child " in line for line in lines) == 5  # four agents, one coordinator
    assert not [line for line in lines if "token" in line.lower()], lines
    agents = [pid for pid, line in slurm.processes().items() if "shoal.client.child " in line]
    environs = [dict(part.partition("=")[::2] for part in read_environ(pid)) for pid in agents]
    ranks = sorted(environ["SHOAL_RANK"] for environ in environs if "SHOAL_RANK" in environ)
    assert ranks == ["0", "1", "2", "3"]
    for environ in environs:
        assert not [name for name in environ if name.startswith("SHOAL_SECURITY")]
        if "SHOAL_RANK" in environ:
            assert environ["SHOAL_NODE_INDEX"] == environ["SHOAL_RANK"]
            assert (environ["SHOAL_NODES"], environ["SHOAL_AGENTS"], environ["SHOAL_WORKERS"]) == ("4", "4", "1")
            assert environ["SHOAL_COORDINATOR"].startswith("127.0.0.1:")
            assert (environ["SHOAL_JOB_ID"], environ["SHOAL_STATE"]) == (job, str(site.state(job)))
            assert environ["SHOAL_DESTINATION"] == str(site.cwd / "out")
    hub.faults.clear()
    site.completed(job)
    texts = [
        path.read_text(errors="replace") for path in site.cwd.rglob("*") if path.is_file() and path.stat().st_size < MIB
    ]
    assert not [text for text in texts if "BEGIN CERTIFICATE" in text or "BEGIN PRIVATE" in text]
    assert not leftovers(site.cwd / "out")
