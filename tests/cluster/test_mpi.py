"""Shoal by MPI: real ranks of Open MPI and of MPICH on this machine, and of MPICH in a real Slurm whose nodes MPI tells apart."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from support.cli import delivered, installed, until_tidy
from support.contents import SyntheticFile, read_all
from support.fleet import until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.mpi_site import RANKS, MpiRun, MpiSite, kill, mpich, open_mpi
from support.slurm_cluster import SlurmCluster

MIB = 1 << 20
TINY = {"config.json": b"{}", "sub/model.safetensors": read_all(SyntheticFile(3 * MIB, seed=1))}
BIG = {"config.json": b"{}", "model.bin": read_all(SyntheticFile(32 * MIB, seed=2))}
SIZE = sum(map(len, BIG.values()))
SLOW = 6 * MIB
"""Bytes a second of the Hub: slow enough that there is a half-way."""
AGAIN_MAX = 1.05
LAUNCHERS: dict[str, Callable[[], list[str]]] = {"openmpi": open_mpi, "mpich": mpich}

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/tiny", TINY), HubRepo("acme/big", BIG)]) as found:
        yield found


def environ_of(hub: StandInHub) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}


# ---- mpirun and mpiexec on one machine -------------------------------------------------------------------------------


@pytest.fixture(params=list(LAUNCHERS))
def site(request: pytest.FixtureRequest, hub: StandInHub, tmp_path: Path) -> Iterator[MpiSite]:
    made = MpiSite(tmp_path, environ_of(hub), LAUNCHERS[request.param]())
    yield made
    made.nothing_left()


@pytest.fixture
def one_site(hub: StandInHub, tmp_path: Path) -> Iterator[MpiSite]:
    """For what does not depend on the library."""
    made = MpiSite(tmp_path, environ_of(hub), mpich())
    yield made
    made.nothing_left()


def slow_half_way(hub: StandInHub) -> None:
    """Whoever is to be met half-way is still there when a busy machine gets round to it."""
    hub.faults.total_rate = SLOW
    hub.faults.slow_after = (SIZE // 4, MIB // 2)


def half_way(run: MpiRun, hub: StandInHub) -> None:
    def reached() -> bool:
        assert run.process.poll() is None, run.said("stderr")
        return hub.log.where(kind="cdn").bytes_served > SIZE // 4

    until("a part to have arrived", reached, timeout_s=90)


def test_one_agent_a_node_and_no_secret_to_be_seen(site: MpiSite, hub: StandInHub) -> None:
    slow_half_way(hub)
    with site.start("--", "get", "hf://acme/big", "--to", "models") as run:
        half_way(run, hub)
        seen = site.processes()
        for pid, command in seen.items():
            try:
                environ = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:  # it has ended
                continue
            for secret in ("shoal_agent_", "shoal_admin_"):
                assert secret not in command
                assert secret.encode() not in environ
        assert sum("shoal.client.child " in f"{command} " for command in seen.values()) == 2, "coordinator and agent"
        hub.faults.clear()
        done = run.wait()
    done.expect(0)
    assert delivered(site.folder / "models") == BIG
    assert "fleet: 1 agent at work" in done.stderr
    assert done.stderr.count("acme/big: done") == 1, "rank 0 alone tells"
    assert done.stdout.strip() == str(site.folder / "models")


def test_an_agent_for_each_rank_and_several_commands(site: MpiSite) -> None:
    (site.folder / "jobs").write_text("get hf://acme/absent --to a  # fails\nshoal get hf://acme/tiny --to b\n")
    done = site.run("--agents-per", "rank", "--jobs", "jobs", "--", "get", "hf://acme/big", "--to", "c", "--json")
    done.expect(3)
    assert "fleet: 3 agents at work" in done.stderr
    assert delivered(site.folder / "b") == TINY
    assert json.loads(done.stdout[: done.stdout.rindex("}") + 1])["jobs"][0]["status"] == "done"
    assert delivered(site.folder / "c") == BIG


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--", "fetch", "hf://acme/tiny"], 2, "invalid choice: 'fetch'"),
        (["--", "get", "hf://acme/tiny", "--too", "x"], 2, "unrecognized arguments: --too x"),
        (["--set", "agent.memory_limit=lots", "--", "get", "hf://acme/tiny"], 2, "agent.memory_limit"),
        ([], 2, "no command was named"),
        (["--", "get", "hf://acme/absent", "--to", "a"], 3, "no such model"),
    ],
)
def test_what_is_wrong_is_said_once_and_all_ranks_end_alike(
    one_site: MpiSite, arguments: list[str], code: int, told: str
) -> None:
    done = one_site.run(*arguments, ranks=2)
    done.expect(code)
    assert done.stderr.count(told) == 1, done.stderr


def test_sigterm_drains_all_and_the_next_run_goes_on(site: MpiSite, hub: StandInHub) -> None:
    slow_half_way(hub)
    command = ["--state", "state", "--agents-per", "rank", "--", "get", "hf://acme/big", "--to", "models"]
    with site.start(*command) as run:
        half_way(run, hub)
        kill(run.process.pid, signal.SIGTERM)
        assert run.wait().exit_code != 0
    site.nothing_left()
    hub.faults.clear()
    site.run(*command).expect(0)
    assert delivered(site.folder / "models") == BIG
    assert hub.log.where(kind="cdn").bytes_served <= SIZE * AGAIN_MAX + 4 * MIB
    until_tidy(site.folder / "models")


def test_a_command_that_is_told_twice_to_stop_still_ends_in_order(one_site: MpiSite, hub: StandInHub) -> None:
    """A launcher that signals all that runs on a node tells it besides its parent."""
    slow_half_way(hub)
    with one_site.start("--", "get", "hf://acme/big", "--to", "models") as run:
        half_way(run, hub)
        (pid,) = (pid for pid, words in one_site.processes().items() if "shoal.client.child_command " in words)
        for number in (signal.SIGTERM, signal.SIGINT):
            kill(pid, number)
        done = run.wait()
    assert done.exit_code == 130
    assert "interrupted (run it again to go on)" in done.stderr


def test_a_killed_rank_leaves_nothing_behind(site: MpiSite, hub: StandInHub, request: pytest.FixtureRequest) -> None:
    """These launchers end all ranks when one dies; what is ours ends with them."""
    rank = 0 if "openmpi" in request.node.name else 2
    slow_half_way(hub)
    with site.start("--agents-per", "rank", "--", "get", "hf://acme/big", "--to", "models") as run:
        half_way(run, hub)
        kill(site.rank(rank))
        assert run.wait().exit_code != 0


def test_a_rank_that_never_arrives_is_not_waited_for(site: MpiSite) -> None:
    late = 'case "$OMPI_COMM_WORLD_RANK$PMI_RANK" in 1) exec sleep 50;; esac; exec "$@"'
    command = ["sh", "-c", late, "sh", *RANKS, "--start-timeout", "3s", "--", "get", "hf://acme/tiny", "--to", "a"]
    launcher = site.start_command(["env"], *site.launcher, "-n", "2", *command)
    with launcher as run:
        done = run.wait()
    assert done.exit_code != 0
    assert not (site.folder / "a").exists()


def test_launch_finds_the_program_that_starts_ranks(one_site: MpiSite) -> None:
    words = ["launch", "mpi", "-n", "3", "--launcher", mpich()[0], "--agents-per", "rank", "--workers", "1", "--"]
    with one_site.start_command([installed("shoal")], *words, "get", "hf://acme/tiny", "--to", "a") as run:
        done = run.wait().expect(0)
    assert "fleet: 3 agents at work" in done.stderr
    assert delivered(one_site.folder / "a") == TINY


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"PYTHONPATH": "stub"}, "mpi4py is not installed (pip install 'shoal[mpi]')"),
        ({"MPI4PY_LIBMPI": "/absent/libmpi.so"}, "MPI library: mpi4py cannot load it"),
    ],
)
def test_without_mpi_the_error_says_what_is_missing(one_site: MpiSite, environ: Mapping[str, str], told: str) -> None:
    stub = one_site.folder / "stub" / "mpi4py"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ImportError('not here')")
    command = [sys.executable, "-P", "-m", "shoal.slurm.mpi", "--", "get", "hf://acme/tiny", "--to", "a"]
    with one_site.start_command(command, environ=environ) as run:
        assert told in run.wait().expect(2).stderr


# ---- srun -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_slurm(slurm: SlurmCluster, hub: StandInHub, tmp_path: Path) -> Iterator[MpiSite]:
    site = MpiSite(tmp_path, {**slurm.environ, **environ_of(hub)}, ["srun", "--mpi=pmi2", "-N3"])
    yield site
    site.nothing_left()
    slurm.until_idle()
    slurm.clear_disks()


slurm_group = pytest.mark.xdist_group("slurm")


@slurm_group
def test_mpi_tells_the_nodes_of_slurm_apart(in_slurm: MpiSite, slurm: SlurmCluster) -> None:
    copy = slurm.local / "models"
    done = in_slurm.run("--", "get", "hf://acme/tiny", "--to", copy, "--deliver", "replicate", ranks=6).expect(0)
    assert "fleet: 3 agents at work" in done.stderr
    for node in ("n0", "n1", "n2"):
        assert delivered(slurm.local_of(node) / "models") == TINY, done.stderr


@slurm_group
@pytest.mark.parametrize("rank", [0, 5])
def test_in_slurm_a_dead_rank_holds_nobody_up(in_slurm: MpiSite, hub: StandInHub, rank: int) -> None:
    """Rank 5 is alone on its node: that node's agent is lost, the others finish. Without rank 0 all end."""
    slow_half_way(hub)
    with in_slurm.start("--", "get", "hf://acme/big", "--to", "models", ranks=6) as run:
        half_way(run, hub)
        kill(in_slurm.rank(rank))
        hub.faults.clear()
        done = run.wait()
    if rank:
        assert "rank 5 on n2 is gone, with its agent" in done.stderr
        assert "acme/big: done" in done.stderr
        assert delivered(in_slurm.folder / "models") == BIG
        assert "task 0" not in done.stderr, "the others ended well"
    else:
        assert done.exit_code != 0
        assert "rank 0 is gone" in done.stderr


@slurm_group
def test_in_slurm_sigterm_drains_all_ranks(in_slurm: MpiSite, slurm: SlurmCluster, hub: StandInHub) -> None:
    slow_half_way(hub)
    with in_slurm.start("--", "get", "hf://acme/big", "--to", "models", ranks=6) as run:
        half_way(run, hub)
        step = slurm.run("squeue", "--steps", "--noheader", "--format=%i").expect(0).stdout.split()
        slurm.run("scancel", "--signal=TERM", *step).expect(0)
        done = run.wait()
    assert done.exit_code == 130, done.stderr
    assert "interrupted" in done.stderr
    assert "is gone" not in done.stderr, "all left in order"


@slurm_group
def test_in_slurm_ranks_that_mpi_does_not_join_are_an_error(in_slurm: MpiSite) -> None:
    with in_slurm.start_command(["srun", "--mpi=none", "-N2", "-n2"], *RANKS, "--", "get", "x") as run:
        done = run.wait()
    assert done.exit_code == 2
    assert done.stderr.count("the launcher started 2 ranks, but each finds itself alone") == 1


@slurm_group
def test_launch_in_an_allocation_takes_srun(in_slurm: MpiSite) -> None:
    words = ["launch", "mpi", "--launcher-arg=--mpi=pmi2", "--", "get", "hf://acme/tiny", "--to", "a"]
    with in_slurm.start_command(["salloc", "-N2", "-n2"], installed("shoal"), *words) as run:
        assert "fleet: 2 agents at work" in run.wait().expect(0).stderr
    assert delivered(in_slurm.folder / "a") == TINY
