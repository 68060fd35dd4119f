"""What ranks decide before any work begins: who starts which agent, with which CPUs, under which name, and how ranks are started."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.client.options import build_parser
from shoal.common.errors import UsageError
from shoal.slurm.addresses import ANY, LOOPBACK, listen_host, reachable_hosts
from shoal.slurm.mpi_launcher import launcher_command
from shoal.slurm.mpi_rank import Welcome
from shoal.slurm.mpi_world import LauncherHint, launcher_hint
from shoal.slurm.placement import Place, node_names, numa_domains, parse_cpu_list, places

TWO_DOMAINS = [frozenset({0, 1, 2, 3}), frozenset({4, 5, 6, 7})]


def cpus(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


def test_the_agent_of_a_node_may_use_what_all_its_ranks_may() -> None:
    bound = [cpus(0), cpus(1), cpus(4)]
    assert places("node", bound, TWO_DOMAINS) == [Place(node_rank=0, cpus=cpus(0, 1, 4))]


def test_an_agent_for_each_numa_domain_by_ranks_that_are_near() -> None:
    found = places("numa", [cpus(0, 1), cpus(2), cpus(5, 6)], TWO_DOMAINS)
    assert found == [
        Place(node_rank=0, cpus=cpus(0, 1, 2), suffix="-numa0"),
        Place(node_rank=2, cpus=cpus(5, 6), suffix="-numa1"),
    ]
    unbound = places("numa", [cpus(*range(8))] * 3, TWO_DOMAINS)
    assert [place.node_rank for place in unbound] == [0, 1], "spread over ranks"
    alone = places("numa", [cpus(*range(8))], TWO_DOMAINS)
    assert [(place.node_rank, place.cpus) for place in alone] == [(0, TWO_DOMAINS[0]), (0, TWO_DOMAINS[1])]


@pytest.mark.parametrize("domains", [[], TWO_DOMAINS[:1], TWO_DOMAINS])
def test_a_node_of_one_usable_domain_has_one_agent(domains: list[frozenset[int]]) -> None:
    assert places("numa", [cpus(0, 1)], domains) == [Place(node_rank=0, cpus=cpus(0, 1))]


def test_an_agent_for_each_rank_with_its_own_cpus() -> None:
    assert places("rank", [cpus(0), cpus(1)], TWO_DOMAINS) == [
        Place(node_rank=0, cpus=cpus(0), suffix="-0"),
        Place(node_rank=1, cpus=cpus(1), suffix="-1"),
    ]
    assert places("rank", [cpus(0)], []) == [Place(node_rank=0, cpus=cpus(0))], "a single one has the node's name"


def test_no_two_nodes_have_one_name() -> None:
    assert node_names(["a", "b", "a"]) == ["a-0", "b", "a-2"]


def test_the_kernel_tells_numa_domains(tmp_path: Path) -> None:
    for name, text in (("node0", "0-3,8\n"), ("node10", "9\n"), ("node2", "\n"), ("node1", "4-7\n"), ("has_cpu", "x")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpulist").write_text(text)
    assert numa_domains(tmp_path) == [cpus(0, 1, 2, 3, 8), cpus(4, 5, 6, 7), cpus(9)]
    assert numa_domains(tmp_path / "absent") == []
    with pytest.raises(ValueError):
        parse_cpu_list("0-x")


# ---- what launchers tell ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "hint"),
    [
        ({}, LauncherHint(rank=None, size=None, is_open_mpi=False)),
        (
            {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1"},
            LauncherHint(rank=3, size=8, is_open_mpi=True),
        ),
        ({"PMI_RANK": "0", "PMI_SIZE": "4"}, LauncherHint(rank=0, size=4, is_open_mpi=False)),
        (
            {"SLURM_STEP_ID": "1", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "6"},
            LauncherHint(rank=2, size=6, is_open_mpi=False),
        ),
        ({"PMI_RANK": "x", "PMI_SIZE": "²"}, LauncherHint(rank=None, size=None, is_open_mpi=False)),
    ],
)
def test_the_rank_before_mpi_has_started(environ: dict[str, str], hint: LauncherHint) -> None:
    assert launcher_hint(environ) == hint


def command(*words: str, environ: dict[str, str] | None = None, there: tuple[str, ...] = ()) -> list[str]:
    options = build_parser().parse_args(["launch", "mpi", *words])
    return launcher_command(options, environ or {}, lambda name: name if name in there else None)


def test_the_launcher_is_found() -> None:
    words = ("--", "get", "x")
    assert command(*words, there=("mpirun", "mpiexec", "srun"))[0] == "mpiexec"
    assert command(*words, there=("mpirun", "srun"))[0] == "mpirun"
    in_slurm = command(*words, environ={"SLURM_JOB_ID": "1"}, there=("mpirun", "srun"))
    assert in_slurm[:3] == ["srun", "--kill-on-bad-exit=0", "--wait=0"], "a dead rank ends no other"
    with pytest.raises(UsageError, match="neither mpiexec nor mpirun"):
        command(*words)


def test_ranks_get_the_options_of_the_fleet_and_the_command() -> None:
    words = ["-n", "4", "--launcher", "/opt/mpirun", "--launcher-arg=--map-by", "--launcher-arg=node"]
    more = ["--agents-per", "numa", "--workers", "2", "--set", "fetch.attempts=5", "--config", "c.toml", "--insecure"]
    found = command(*words, *more, "--", "get", "x", "--to", "d")
    assert found[:5] == ["/opt/mpirun", "-n", "4", "--map-by", "node"]
    assert found[-5:] == ["--", "get", "x", "--to", "d"]
    ranks = found[found.index("shoal.slurm.mpi") + 1 : found.index("--")]
    expected = {"--agents-per=numa", "--workers=2", "--set=fetch.attempts=5", "--config=c.toml", "--insecure"}
    assert set(ranks) == expected | {"--start-timeout=2m"}


# ---- where rank 0 is ---------------------------------------------------------------------------------------------------


def test_addresses_of_this_node() -> None:
    found = reachable_hosts()
    assert found[-1] == LOOPBACK, "for nodes that are one machine"
    assert len(set(found)) == len(found)
    assert listen_host(found) == ANY
    assert reachable_hosts("ib0.site") == ["ib0.site"]
    assert listen_host(["ib0.site"]) == ANY
    assert listen_host(["127.0.0.1"]) == "127.0.0.1"


def test_what_is_broadcast_does_not_show_its_secrets() -> None:
    welcome = Welcome(
        hosts=("h",),
        port=1,
        coordinator_port=2,
        authority="",
        agent_settings={"security.token": "hunter2"},
        key="hunter2",
        node_names={0: "a", 4: "b"},
        planned=(1, 0, 1, 0, 2),
        environ={"SHOAL_LAUNCH": "mpi"},
    )
    assert "hunter2" not in repr(welcome)
    assert welcome.settings_at("fd00::1", {"fetch.attempts": 5}) == {
        "fetch.attempts": 5,
        "security.token": "hunter2",
        "coordinator.address": "[fd00::1]:2",
    }
    mine = [Place(node_rank=0, cpus=cpus(0, 1), suffix="-numa0"), Place(node_rank=0, cpus=cpus(2), suffix="-numa1")]
    plans = welcome.agent_plans(4, 4, mine, None)
    assert [plan.name for plan in plans] == ["b-numa0", "b-numa1"]
    assert plans[1].environ == {
        "SHOAL_LAUNCH": "mpi",
        "SHOAL_NODE_INDEX": "1",
        "SHOAL_RANK": "3",
        "SHOAL_AGENT_NAME": "b-numa1",
        "SHOAL_WORKERS": "1",
    }
