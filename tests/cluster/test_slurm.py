"""Shoal on a real Slurm of four nodes on this machine, each with a disk of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.cli import Finished, delivered, installed
from support.contents import SyntheticFile, read_all
from support.fleet import until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(180)]

MIB = 1 << 20
NODES = ("n0", "n1", "n2", "n3")
SMALL = {"config.json": b"{}", "sub/model.safetensors": read_all(SyntheticFile(5 * MIB, seed=1))}
BIG = {"model.bin": read_all(SyntheticFile(48 * MIB, seed=2)), "config.json": b"{}"}
SIZE = sum(map(len, BIG.values()))
HALF = SIZE // 2
SLOW = 3 * MIB
"""Bytes a second of one connection to the Hub: slow enough that there is a half-way."""
AGAIN_MAX = 1.05


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

    def submitted(self, *arguments: str | Path) -> str:
        return self.launch("--nodes", "4", "--cpus", "1", "--mem", "500M", *arguments).expect(0).stdout.strip()

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


@pytest.fixture
def site(slurm: SlurmCluster, tmp_path: Path, hub: StandInHub) -> Iterator[Site]:
    yield Site(slurm, tmp_path, hub)
    slurm.until_idle()
    until(f"nothing to be left: {slurm.processes()}", lambda: not slurm.processes())


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
    print(log)
    assert 0
