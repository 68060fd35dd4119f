"""What an administrator should read in the log, because nothing else would tell."""

from __future__ import annotations

from collections.abc import Iterable

from ..common.errors import NotShared
from ..common.logs import get_logger
from ..common.records import Result
from ..common.views import HostCondition
from .core import Core

log = get_logger("coordinator")


def warn_of_unshared(core: Core, agent_id: str, results: Iterable[Result]) -> None:
    """Name agents that do not see a job's folder: they are left out of it."""
    for result in results:
        if result.failure is not None and result.failure.code == NotShared.code:
            lease = core.leases.find(agent_id, result.unit, result.token)
            if lease is not None:
                agent = core.agents[agent_id].name
                log.warning("agent.left_out", agent=agent, job=lease.job_id, error=result.failure.text)


def warn_of_bad_chunks(core: Core, agent_ids: Iterable[str]) -> None:
    """Name agents that sent chunks which were not right."""
    for agent_id in agent_ids:
        agent = core.agents[agent_id]
        log.warning("agent.bad_chunk", agent=agent.name, bad_chunks=agent.bad_chunks, cut_off=agent.cut_off)


def tell_of_hosts(core: Core, now: float) -> None:
    """Name hosts that came into trouble, once for each trouble, and those that are well again."""
    for state in core.hosts.take_news():
        conduct = state.conduct
        if conduct.condition is HostCondition.OPEN:
            log.info("host.opened", host=state.host, status=conduct.last_status)
            continue
        action = "host.parked" if conduct.condition is HostCondition.PARKED else "host.blocked"
        seconds = max(0.0, conduct.blocked_until - now)
        log.info(action, host=state.host, status=conduct.last_status, seconds=round(seconds, 1))
