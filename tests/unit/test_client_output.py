"""What is shown of replicated jobs and of agents that take part in the exchange."""

from __future__ import annotations

from shoal.client.admin import AGENT_COLUMNS
from shoal.client.describing import AGENTS_SHOWN, describe
from shoal.client.output import summary_line, table, to_document
from shoal.common.records import Delivery, Failure
from shoal.common.views import (
    AgentStatus,
    AgentView,
    JobAgentView,
    JobStatus,
    JobView,
    ReplicaStatus,
    ReplicaView,
)

MIB = 1 << 20
JOB = JobView(
    job_id="j1",
    uri="hf://acme/tiny",
    status=JobStatus.DONE,
    created_at=0.0,
    objects_total=2,
    objects_done=2,
    bytes_total=4 * MIB,
    bytes_fetched=4 * MIB,
    bytes_from_peers=4 * MIB,
    delivery=Delivery.REPLICATE,
    replicas=(
        ReplicaView(agent_id="a", name="n1", status=ReplicaStatus.DONE, bytes_done=4 * MIB, from_origin=3 * MIB),
        ReplicaView(
            agent_id="b",
            name="n2\x1b[2J",
            status=ReplicaStatus.FAILED,
            bytes_done=MIB,
            from_peers=MIB,
            failure=Failure(code="no-space", text="the disk is full", retryable=False),
        ),
    ),
)


def test_the_copies_of_a_job_are_listed() -> None:
    text = describe(JOB)
    assert "4MiB from the origin, 4MiB from peers" in text
    head, first, second = text.splitlines()[-3:]
    assert head.split() == ["AGENT", "COPY", "BYTES", "FROM", "ORIGIN", "FROM", "PEERS", "FAILURE"]
    assert first.split()[:2] == ["n1", "done"]
    assert "the disk is full" in second
    assert "\x1b" not in text
    assert "AGENT" not in describe(JobView(job_id="j", uri="x", status=JobStatus.DONE, created_at=0.0))


def shared(*agents: JobAgentView, more: int = 0) -> JobView:
    """A job that these agents shared."""
    fetched = sum(agent.from_origin for agent in agents)
    return JobView(
        job_id="j",
        uri="hf://acme/tiny",
        status=JobStatus.RUNNING,
        created_at=0.0,
        bytes_fetched=fetched,
        agents=agents,
        agents_more=more,
    )


def test_who_brought_how_much_of_a_shared_job_is_listed() -> None:
    job = shared(
        JobAgentView(agent_id="b", name="n2\x1b[2J", from_origin=3 * MIB),
        JobAgentView(agent_id="a", name="n1", from_origin=MIB),
    )
    text = describe(job)
    head, first, second = text.splitlines()[-3:]
    assert head.split() == ["AGENT", "FROM", "ORIGIN", "SHARE"]
    assert first.split()[1:] == ["3MiB", "75%"]
    assert second.split() == ["n1", "1MiB", "25%"]
    assert "\x1b" not in text
    assert to_document(job)["agents"][1] == {"agent_id": "a", "name": "n1", "from_origin": MIB}


def test_only_the_first_agents_of_many_are_named() -> None:
    agents = [JobAgentView(agent_id=f"a{n}", name=f"n{n}", from_origin=100 - n) for n in range(AGENTS_SHOWN + 2)]
    assert describe(shared(*agents[:AGENTS_SHOWN])).splitlines()[-1].startswith(f"n{AGENTS_SHOWN - 1} ")
    *_, last, more = describe(shared(*agents, more=5)).splitlines()
    assert (last.split()[0], more) == (f"n{AGENTS_SHOWN - 1}", "and 7 more")


def test_the_end_of_a_replicated_job_says_how_many_have_it() -> None:
    assert summary_line(JOB) == "hf://acme/tiny: done, 2 of 2 files fetched (4MiB), on 1 of 2 agents"


def test_an_agent_shows_its_part_in_the_exchange() -> None:
    agent = AgentView(
        agent_id="a", name="n1", status=AgentStatus.ALIVE, peer_address="10.0.0.1:7072", sent_bytes=MIB, cut_off=True
    )
    head, line = table([agent], AGENT_COLUMNS).splitlines()
    assert {"SENT", "PEERS"} <= set(head.split())
    assert "alive, cut off" in line
    assert "1MiB" in line
    assert "10.0.0.1:7072" in line
    document = to_document(agent)
    assert (document["sent_bytes"], document["cut_off"], document["peer_address"]) == (MIB, True, "10.0.0.1:7072")
