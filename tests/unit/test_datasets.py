"""Dataset jobs in the core: which agent gets which batch of which host, what reports change, hosts in trouble."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest

from shoal.common.collect_records import CollectSpec, HostProfile, batch_path
from shoal.common.records import (
    Failure,
    JobSpec,
    Layout,
    Lease,
    LeaseRef,
    OriginKind,
    Outcome,
    UnitKind,
)
from shoal.common.views import HostCondition, JobStatus, ObjectStatus
from shoal.coordinator.core import CoreLimits
from shoal.coordinator.dataset_model import BatchRow, DatasetState
from shoal.coordinator.datasets import BATCHES_PER_AGENT_MAX
from shoal.coordinator.effects import LoadBatches, ObjectDone, ObjectFailed, PutHostProfile
from shoal.coordinator.model import JobRow
from shoal.coordinator.scheduler.host_state import HostStanding
from support.core_fleet import NO_SPACE, TIMEOUT, Fleet, written


@dataclass
class FakeHosts:
    """Budgets as a test wants them: every host open, for so many agents, unless it says otherwise."""

    agents: int = 1
    closed: set[str] = field(default_factory=set[str])
    in_trouble: set[str] = field(default_factory=set[str])
    statuses: dict[str, int] = field(default_factory=dict[str, int])
    adopted: dict[str, float] = field(default_factory=dict[str, float])
    wanted: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])

    def adopt(self, host: str, *, rate: float, **_: object) -> None:
        self.adopted[host] = rate

    def want(self, agent_id: str, host: str) -> None:
        self.wanted[agent_id, host] += 1

    def unwant(self, agent_id: str, host: str) -> None:
        self.wanted[agent_id, host] -= 1

    def agents_max(self, host: str) -> int:
        return self.agents

    def usable(self, host: str, now: float) -> bool:
        return host not in self.closed

    def state_of(self, host: str) -> HostStanding:
        trouble = host in self.in_trouble or host in self.closed
        condition = HostCondition.BLOCKED if trouble else HostCondition.OPEN
        return HostStanding(condition=condition, last_status=self.statuses.get(host, 0))


def rows_of(**hosts: int) -> list[BatchRow]:
    """So many batches of 100 rows of each host; ids count from 1."""
    rows: list[BatchRow] = []
    for host, count in hosts.items():
        for partition in range(count):
            rows.append(BatchRow(len(rows) + 1, batch_path(host, partition), 100, ObjectStatus.QUEUED))
    return rows


class DatasetFleet(Fleet):
    """A core with one dataset job that runs."""

    def __init__(self, rows: list[BatchRow], *, spec: CollectSpec | None = None, profiled: bool = True) -> None:
        super().__init__(limits=CoreLimits(attempts=2))
        self.hosts = FakeHosts()
        self.core._datasets._hosts = self.hosts  # the budgets themselves have tests of their own
        self.rows = rows
        spec = spec or CollectSpec(tables=("t.csv",), host_patience_s=100.0)
        row = JobRow(job_id="j", uri="t.csv", name="", fingerprint="", request="", priority=0, created_at=0.0)
        self.core.add_job(row)
        job = JobSpec(
            job_id="j", source="", origin=OriginKind.HTTP, layout=Layout.FOLDER, destination="/d", collect=spec
        )
        self.core.job_listed("j", job, len(rows), 0)
        assert [type(load) for load in self.take().loads] == [LoadBatches]
        self.core.jobs["j"].row.status = JobStatus.RUNNING
        names = {row.path.split("=")[1].split("/")[0] for row in rows} if profiled else set[str]()
        self.core.batches_loaded("j", rows, sorted(names))

    @property
    def dataset(self) -> DatasetState:
        state = self.core.jobs["j"].dataset
        assert state is not None
        return state


def host_of(lease: Lease) -> str:
    assert lease.kind is UnitKind.BATCH
    assert lease.object is not None
    return lease.object.path.split("server_name=")[1].split("/")[0]


def all_of(granted: dict[str, list[Lease]]) -> list[Lease]:
    return [lease for leases in granted.values() for lease in leases]


def test_every_host_advances_and_none_gets_more_agents_than_its_budget_feeds() -> None:
    fleet = DatasetFleet(rows_of(a=3, b=3, c=3))
    fleet.hello("one", slots=8)
    fleet.hello("two", slots=8)
    granted = fleet.assign()
    assert sorted(map(host_of, all_of(granted))) == ["a", "b", "c"]
    assert {len(leases) for leases in granted.values()} == {1, 2}, "shared out evenly"
    assert fleet.hosts.adopted == {"a": 3.0, "b": 3.0, "c": 3.0}
    assert {host for _, host in fleet.hosts.wanted} == {"a", "b", "c"}
    assert fleet.assign() == {}


def test_a_fast_host_is_shared_by_all_agents_with_one_batch_in_advance() -> None:
    fleet = DatasetFleet(rows_of(a=20))
    fleet.hosts.agents = 5
    for name in ("one", "two", "three"):
        fleet.hello(name, slots=8)
    granted = fleet.assign()
    assert {agent: len(leases) for agent, leases in granted.items()} == {"one": 2, "two": 2, "three": 2}


def test_an_agent_holds_no_more_batches_than_it_can_work_on() -> None:
    fleet = DatasetFleet(rows_of(**{f"h{number}": 1 for number in range(200)}))
    fleet.hello("one", slots=100)
    assert len(all_of(fleet.assign())) == BATCHES_PER_AGENT_MAX


def test_done_counts_rows_by_code_and_ends_the_job() -> None:
    fleet = DatasetFleet(rows_of(a=1, b=1))
    fleet.hello("one")
    first, second = all_of(fleet.assign())
    assert fleet.report("one", first, tally=((200, 90), (404, 10)), fetched=5000)
    (done,) = written(fleet.last, ObjectDone)
    assert done.tally == ((200, 90), (404, 10))
    assert fleet.report("one", second, tally=((200, 50), (-1, 50)))
    assert fleet.row.tally == ((-1, 50), (200, 140), (404, 10))
    assert (fleet.row.objects_done, fleet.row.bytes_fetched) == (2, 5000)
    assert fleet.core.jobs[fleet.row.job_id].fetched_by == {"one": 5000}
    assert not +fleet.hosts.wanted
    (last,) = all_of(fleet.assign()) or all_of(fleet.assign())
    assert last.kind is UnitKind.FINALIZE
    assert fleet.report("one", last)
    assert fleet.row.status is JobStatus.DONE, "rows that ended as errors are no failure of the job"


def test_a_host_is_measured_first_by_one_agent() -> None:
    fleet = DatasetFleet(rows_of(a=4), profiled=False)
    fleet.hosts.agents = 5
    fleet.hello("one")
    fleet.hello("two")
    (lease,) = all_of(fleet.assign())
    assert lease.profile
    assert fleet.assign() == {}, "nobody else, until its profile is there"
    agent = next(iter(fleet.core.leases)).agent_id
    profile = HostProfile(host="a", reachable=True, status=200)
    assert fleet.report(agent, lease, Outcome.PARTIAL, profile=profile)
    assert written(fleet.last, PutHostProfile) == [PutHostProfile("j", profile)]
    others = all_of(fleet.assign())
    assert len(others) == 3
    assert not any(each.profile for each in others)


def test_a_measuring_agent_that_dies_is_followed_by_another() -> None:
    fleet = DatasetFleet(rows_of(a=2), profiled=False)
    fleet.hello("one")
    (lease,) = all_of(fleet.assign())
    fleet.core.disconnected("one", fleet.now)
    fleet.pass_time(6.0)
    fleet.hello("two")
    (again,) = all_of(fleet.assign())
    assert again.profile
    assert again.object == lease.object, "the batch that was begun is the first to go on"


def test_what_is_given_back_goes_on_first() -> None:
    fleet = DatasetFleet(rows_of(a=3))
    fleet.hello("one")
    (lease,) = all_of(fleet.assign())
    assert fleet.report("one", lease, Outcome.RETURNED)
    (again,) = all_of(fleet.assign())
    assert again.object == lease.object


def test_a_batch_fails_for_good_after_its_attempts_and_the_others_go_on() -> None:
    fleet = DatasetFleet(rows_of(a=2))
    fleet.hello("one")
    failures = 0
    while not written(fleet.last, ObjectFailed):
        (lease,) = all_of(fleet.assign())
        assert fleet.report("one", lease, Outcome.FAILED, failure=TIMEOUT)
        failures += 1
        assert failures < 10
    assert fleet.row.objects_failed == 1
    (other,) = all_of(fleet.assign())
    assert fleet.report("one", other, tally=((200, 100),))
    (last,) = all_of(fleet.assign()) or all_of(fleet.assign())
    assert fleet.report("one", last)
    assert fleet.row.status is JobStatus.FAILED


def test_a_full_disk_ends_the_job() -> None:
    fleet = DatasetFleet(rows_of(a=2, b=2))
    fleet.hello("one")
    first, *_ = all_of(fleet.assign())
    assert fleet.report("one", first, Outcome.FAILED, failure=NO_SPACE)
    assert fleet.row.status is JobStatus.FAILED
    assert fleet.row.failure == NO_SPACE
    assert len(fleet.core.leases) == 0


def test_nobody_is_sent_to_a_host_in_trouble() -> None:
    fleet = DatasetFleet(rows_of(a=2, b=2))
    fleet.hosts.closed = {"a"}
    fleet.hello("one")
    assert [host_of(lease) for lease in all_of(fleet.assign())] == ["b"]
    fleet.hosts.closed = set()
    assert [host_of(lease) for lease in all_of(fleet.assign())] == ["a"]


def test_when_only_hosts_in_trouble_are_left_their_rows_become_errors_with_the_last_real_code() -> None:
    fleet = DatasetFleet(rows_of(a=2, b=1))
    fleet.hosts.closed, fleet.hosts.statuses = {"a"}, {"a": 429}
    fleet.hello("one")
    (lease,) = all_of(fleet.assign())
    fleet.pass_time(1.0)
    fleet.now += 500.0
    fleet.core.receive("one", _beat(fleet, lease), fleet.now)
    assert fleet.assign() == {}, "a healthy host is still at work"
    assert fleet.report("one", lease, tally=((200, 100),))
    assert fleet.assign() == {}
    fleet.now += 99.0
    assert fleet.assign() == {}
    fleet.now += 1.0
    given_up = all_of(fleet.assign())
    assert [(host_of(each), each.give_up_code) for each in given_up] == [("a", 429)] * len(given_up)
    assert given_up


def _beat(fleet: Fleet, *leases: Lease):  # type: ignore[no-untyped-def]
    from shoal.common.records import Heartbeat

    return Heartbeat(held=tuple(LeaseRef(lease.unit, lease.token) for lease in leases))


def test_a_host_that_recovers_within_the_patience_is_worked_on() -> None:
    fleet = DatasetFleet(rows_of(a=1))
    fleet.hosts.closed = {"a"}
    fleet.hello("one")
    fleet.assign()
    fleet.now += 99.0
    fleet.hosts.closed = set()
    (lease,) = all_of(fleet.assign())
    assert lease.give_up_code == 0
    assert fleet.dataset.stuck_since is None


def test_a_probe_of_a_host_in_trouble_does_not_prolong_the_patience() -> None:
    fleet = DatasetFleet(rows_of(a=1))
    fleet.hosts.in_trouble = {"a"}
    fleet.hello("one")
    (lease,) = all_of(fleet.assign())
    fleet.now += 60.0
    fleet.hosts.closed = {"a"}
    assert fleet.report("one", lease, Outcome.RETURNED)
    fleet.assign()
    fleet.now += 41.0
    (again,) = all_of(fleet.assign())
    assert again.give_up_code == -1, "no status was ever seen"


def test_ignored_hosts_become_errors_at_once() -> None:
    spec = CollectSpec(tables=("t.csv",), ignored=("a",))
    fleet = DatasetFleet(rows_of(a=3, b=1), spec=spec)
    fleet.hello("one", slots=8)
    codes = {(host_of(lease), lease.give_up_code) for lease in all_of(fleet.assign())}
    assert codes == {("a", -3), ("b", 0)}


def test_leases_survive_a_restart_of_the_coordinator() -> None:
    fleet = DatasetFleet(rows_of(a=2, b=1))
    fleet.hello("one")
    leases = all_of(fleet.assign())
    again = fleet.restart()
    again.core._datasets._hosts = fleet.hosts
    again.core.batches_loaded("j", fleet.rows, ["a", "b"])
    again.hello("one", held=[LeaseRef(lease.unit, lease.token) for lease in leases])
    assert again.assign() == {}, "its holder goes on with both"
    assert again.report("one", leases[0], tally=((200, 100),))
    (more,) = all_of(again.assign())
    assert host_of(more) == "a"


@pytest.mark.parametrize("forget", [True, False])
def test_a_new_process_under_an_old_name_begins_its_batches_again(forget: bool) -> None:
    fleet = DatasetFleet(rows_of(a=1))
    fleet.hello("one")
    (lease,) = all_of(fleet.assign())
    fleet.hello("one", held=[] if forget else [LeaseRef(lease.unit, lease.token)])
    assert len(all_of(fleet.assign())) == (1 if forget else 0)
    assert fleet.dataset.by_agent == {"one": 1}


def test_a_failure_that_names_nothing_is_one_of_the_batch() -> None:
    fleet = DatasetFleet(rows_of(a=1))
    fleet.hello("one")
    (lease,) = all_of(fleet.assign())
    wrong = Failure(code="internal", text="?", retryable=False)
    assert fleet.report("one", lease, Outcome.FAILED, failure=wrong)
    assert fleet.row.objects_failed == 1
