"""The coordinator, and the ports at which the agents serve each other."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ...common.channel import is_loopback, split_host, uses_tls
from ...common.errors import AccessDenied, ExitCode, ShoalError, Unreachable
from ...common.http.tls import TlsOptions
from ...common.http.url import Url
from ...common.units import format_duration
from ...common.version import VERSION
from ...common.views import AgentStatus, AgentView, FleetView
from ...common.wiring import user_agent
from .probing import Probed, Target, probe
from .records import Finding, failed, failed_by, ok, skipped, warning

if TYPE_CHECKING:
    from ...common.settings import Settings
    from .visit import Visit

PEERS_AT_ONCE: Final = 64
_NOTHING_HERE: Final = frozenset({401, 403, 404, 503})
"""What the peer exchange answers to who asks for nothing and shows no capability, or while it is busy (agent/peer/message.py)."""

_HERE = frozenset({AgentStatus.ALIVE, AgentStatus.LATE, AgentStatus.DRAINING})


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the coordinator answered. ahead_s: of our clock, its clock; None where it does not tell."""

    fleet: FleetView
    took_s: float
    ahead_s: float | None


async def asked(visit: Visit) -> Asked:
    """The coordinator's view of the fleet. Raises ShoalError."""
    return await visit.once("fleet", lambda: _ask(visit))


async def _ask(visit: Visit) -> Asked:
    from ..remote import connect

    async with connect(visit.settings) as coordinator:
        sent_at, began_at = time.time(), time.monotonic()
        async with asyncio.timeout(visit.wishes.timeout_s):
            view = await coordinator.fleet()
        received_at = time.time()
    ahead_s = view.epoch_s - (sent_at + received_at) / 2 if view.epoch_s else None
    return Asked(fleet=view, took_s=time.monotonic() - began_at, ahead_s=ahead_s)


async def coordinator_ahead_s(visit: Visit) -> float | None:
    """By how much the coordinator's clock is ahead of ours; None where it cannot be asked."""
    if not visit.settings.coordinator.address:
        return None
    try:
        return (await asked(visit)).ahead_s
    except (ShoalError, TimeoutError):
        return None


# ---- the coordinator ----------------------------------------------------------------------------------------------------


async def check_coordinator(visit: Visit) -> list[Finding]:
    """Whether it answers, takes our credential, and is of our version."""
    address = visit.settings.coordinator.address
    if any(problem.name == "coordinator.address" for problem in visit.wishes.problems):
        return [skipped("its address makes no sense: see the check config")]
    if not address:
        if "coordinator" in visit.wishes.named:
            remedy = "say --coordinator HOST:PORT"
            return [failed("no coordinator is set", remedy=remedy, exit_code=ExitCode.USAGE)]
        return [skipped("none is set: shoal get works on this machine alone")]
    findings: list[Finding] = []
    if not uses_tls(address, visit.settings.security) and not is_loopback(address):
        seen = "security.insecure is set: credentials and commands travel in plain text"
        findings.append(warning(seen, subject=address, remedy="give it TLS and tokens: docs/fleet.md"))
    try:
        found = await asked(visit)
    except TimeoutError:
        error = Unreachable(address, cause="it did not answer in time", remedy="see whether it runs and is reachable")
        return [*findings, failed_by(error, subject=address)]
    except AccessDenied as error:
        return [*findings, judge_role(error, address)]
    except ShoalError as error:
        return [*findings, failed_by(error, subject=address)]
    return [*findings, judge_coordinator(found, address, own=VERSION)]


def judge_role(error: AccessDenied, address: str) -> Finding:
    """A credential that is right, for something else: an agent's may work, but not look at the fleet."""
    if "role agent" in error.cause:
        seen = "it answers and takes this credential, which is an agent's: it may work, not look at the fleet"
        return warning(
            seen, subject=address, remedy="for submitting and for the check peers: shoal token create --role admin"
        )
    return failed_by(error, subject=address)


def judge_coordinator(found: Asked, address: str, *, own: str) -> Finding:
    """It answered."""
    fleet = found.fleet
    seen = f"answers in {format_duration(found.took_s)}, version {fleet.version}, {fleet.agents_alive} agents alive"
    if fleet.version != own:
        remedy = "install the same version on both sides: the coordinator first, then the agents"
        return warning(f"{seen}; here it is version {own}", subject=address, remedy=remedy)
    if not fleet.agents_alive:
        remedy = f"start one on each machine: shoal agent --coordinator {address}"
        return warning(f"{seen}: jobs wait for one", subject=address, remedy=remedy)
    return ok(seen, subject=address)


# ---- peer ports ---------------------------------------------------------------------------------------------------------


async def check_peers(visit: Visit) -> list[Finding]:
    """Whether this machine reaches the port at which each agent serves the others."""
    settings = visit.settings
    if not settings.coordinator.address:
        return [skipped("no coordinator is set, so there are no other agents")]
    try:
        agents = await visit.once("agents", lambda: _agents(visit))
    except (ShoalError, TimeoutError) as error:
        cause = error.cause if isinstance(error, ShoalError) else "it did not answer in time"
        return [skipped(f"the coordinator does not tell where agents are: {cause}")]
    here = [agent for agent in agents if agent.status in _HERE]
    if not here:
        return [skipped("no agent is alive")]
    limit = asyncio.Semaphore(PEERS_AT_ONCE)
    limit_s = min(settings.fetch.connect_timeout, visit.wishes.timeout_s / 2)

    async def one(agent: AgentView) -> Finding:
        if not agent.peer_address:
            return judge_peer(agent, None, settings.coordinator.address)
        async with limit:
            try:
                seen = await probe(
                    _peer(agent.peer_address, settings), timeout_s=limit_s, user_agent=user_agent(VERSION)
                )
            except ShoalError as error:
                return failed_by(error, subject=f"{agent.name} at {agent.peer_address}")
        return judge_peer(agent, seen, settings.coordinator.address)

    return list(await asyncio.gather(*map(one, here)))


def _peer(address: str, settings: Settings) -> Target:
    """The port of an agent's peer exchange. Peers are reached without a proxy. Raises UsageError."""
    host, port = split_host(address)
    url = Url(scheme="https" if settings.swarm.tls else "http", host=host.lower(), port=port, target="/")
    tls = TlsOptions(ca_bundle=str(settings.security.tls_ca or ""))
    return Target(url=url, what="agent", tls=tls, ca_setting="security.tls_ca")


async def _agents(visit: Visit) -> list[AgentView]:
    from ..remote import connect

    async with connect(visit.settings) as coordinator, asyncio.timeout(visit.wishes.timeout_s):
        return await coordinator.agents()


def judge_peer(agent: AgentView, seen: Probed | None, coordinator: str) -> Finding:
    """What came of knocking at an agent's port; None where it has none."""
    subject = f"{agent.name} at {agent.peer_address}" if agent.peer_address else agent.name
    if not agent.peer_address:
        remedy = "if that is not meant, set agent.peer_listen and agent.upload_slots there"
        return warning("it serves nobody: it only takes", subject=subject, remedy=remedy)
    if is_loopback(agent.peer_address) and not is_loopback(coordinator):
        remedy = "set agent.peer_listen there to an address of its network, or agent.peer_address to what others see"
        return warning(
            "it tells others a loopback address, which leads each of them to itself", subject=subject, remedy=remedy
        )
    if seen is not None and seen.error is not None:
        remedy = (
            "open TCP between the agents for this port (agent.peer_listen fixes it; 7072 by default), or set agent.peer_address; "
            "swarm.tls must be the same everywhere"
        )
        return failed(
            f"not reached from here: {seen.error.cause}", subject=subject, remedy=remedy, code=seen.error.code
        )
    if seen is not None and seen.status not in _NOTHING_HERE:
        remedy = "a firewall or proxy, or another service, answers on this port: check it with the network team"
        return failed(f"something else answers there (HTTP {seen.status})", subject=subject, remedy=remedy)
    return ok("reached from here", subject=subject)
