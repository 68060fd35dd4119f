"""A fleet that asks hosts in virtual time: the real core, sessions and gates, a lying network, and servers that write down who asks.

What is checked at every request: that the whole fleet never asks more than the rate and its burst in any interval, that no more
requests are under way than there are connections, and that a host in trouble is probed by one request at a time.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shoal.agent.gates import HostGates
from shoal.agent.session import Identity, Outlook, RenewShares, SessionCore, SessionEffect, SetBudgets, Tell
from shoal.common.records import AgentMessage, Answer, Capacity, CoordinatorMessage, Goodbye, Hello, Welcome
from shoal.coordinator.core import Core, CoreLimits
from shoal.coordinator.scheduler.host_state import EVERY_HOST

from .clock import Clock, require
from .network import Link, Network, NetworkLimits

POLL_S = 0.5
"""The agent's shell looks so often whether something cannot wait."""
DRIFT = 0.004
"""Agents' clocks run faster or slower by up to this."""

FAULTS = ("delay", "cut", "partition", "kill_agent", "freeze", "leave", "kill_coordinator", "duplicate")

Reply = Callable[[float, int], tuple[Answer, float]]
"""What a server answers at a time to its n-th request: how it goes, and Retry-After in seconds."""


def always_well(now: float, number: int) -> tuple[Answer, float]:
    """A server that never minds."""
    return Answer.OK, 0.0


@dataclass(slots=True, kw_only=True)
class Server:
    """One host, and what it saw."""

    host: str
    rate: float = math.inf  # what the fleet may ask, requests/s
    burst: float = math.inf
    connections: float = math.inf
    latency_s: float = 0.2
    reply: Reply = always_well
    log: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]], repr=False)
    under_way: Counter[str] = field(default_factory=Counter[str])
    _level: float | None = None

    def asked(self, agent_id: str, now: float) -> None:
        """A request came. Keeping a bucket is the same as looking at every interval that ends now."""
        before = self.log[-1][0] if self.log else now
        level = self.burst if self._level is None else min(self.burst, self._level + (now - before) * self.rate)
        if self.rate < math.inf:
            self._level = level - 1.0
            require(self._level >= -1e-6, f"{self.host} was asked {-self._level:.3f} requests too often")
        self.log.append((now, agent_id))
        self.under_way[agent_id] += 1
        busy = self.under_way.total()
        require(busy <= self.connections, f"{self.host}: {busy} requests under way, not {self.connections}")


@dataclass(slots=True, kw_only=True)
class Scenario:
    """What a world is made of."""

    agents: int = 3
    workers: int = 4  # of each agent on each host
    servers: list[Server] = field(default_factory=list[Server])
    policy: bool = True  # an administrator's; else a dataset job's values, and agents that want the host
    general: float = 0.0  # rate of hosts without a policy
    rate_multiplier: float = 0.0
    backoff_cap_s: float = 60.0
    faults: frozenset[str] = frozenset()
    fault_every_s: float = 4.0
    run_s: float = 120.0

    @classmethod
    def random(cls, rng: random.Random) -> Scenario:
        """Each world has its own faults, so that none hides another (swarm testing, A. Groce et al., ISSTA 2012)."""
        rates = (0.3, 1.0, 3.0, 10.0, 40.0)
        connections = (math.inf, math.inf, 1, 3, 16)
        multiplier = rng.choice((0.0, 0.5))
        servers: list[Server] = []
        for number in range(rng.choice((1, 1, 2))):
            rate = rng.choice(rates)
            most = rate * (1 + multiplier) * (1 + DRIFT + 0.001)
            servers.append(
                Server(
                    host=f"h{number}",
                    rate=most,
                    burst=max(rate * (1 + multiplier), 1.0),
                    connections=rng.choice(connections),
                    latency_s=rng.choice((0.05, 0.5, 3.0)),
                    reply=rng.choice((always_well, always_well, _moody(rng.randrange(1 << 30)))),
                )
            )
        general = 0.0
        policy = multiplier == 0.0 and rng.random() < 0.6
        if policy and rng.random() < 0.4:
            general = rng.choice(rates)
            reply = rng.choice((always_well, _moody(rng.randrange(1 << 30))))
            most = general * (1 + DRIFT + 0.001)
            servers.append(Server(host="met", rate=most, burst=max(general, 1.0), reply=reply))
        return cls(
            agents=rng.choice((1, 2, 3, 5, 8, 20)),
            workers=rng.choice((1, 3, 6)),
            servers=servers,
            policy=policy,
            general=general,
            rate_multiplier=multiplier,
            faults=frozenset(fault for fault in FAULTS if rng.random() < 0.4),
            fault_every_s=rng.choice((1.0, 4.0, 10.0)),
        )

    def rate_of(self, server: Server) -> float:
        """The configured rate: the server's is what may be seen at most."""
        return (
            server.burst / (1 + self.rate_multiplier)
            if server.burst > 1
            else server.rate / ((1 + self.rate_multiplier) * (1 + DRIFT + 0.001))
        )


def _moody(seed: int) -> Reply:
    """A server that is overloaded, silent or closed for a while, again and again."""
    rng = random.Random(seed)
    moods = [rng.choice((Answer.OK, Answer.OK, Answer.THROTTLED, Answer.REFUSED, Answer.CONNECT)) for _ in range(64)]
    waits = [rng.choice((0.0, 2.0, 10.0)) for _ in range(64)]

    def reply(now: float, number: int) -> tuple[Answer, float]:
        phase = int(now / 15.0) % 64
        return moods[phase], waits[phase] if moods[phase] is Answer.THROTTLED else 0.0

    return reply


class AskingAgent:
    """An agent whose workers ask hosts for ever."""

    def __init__(self, world: BudgetWorld, agent_id: str) -> None:
        self.world = world
        self.agent_id = agent_id
        self.running = False
        self.life = 0
        self.frozen_until = 0.0
        self.link: Link | None = None
        self.skew = 1.0 + world.rng.uniform(-DRIFT, DRIFT)
        self.offset = world.rng.random() * 1e6
        self._timer = 0

    def now(self) -> float:
        """By its own clock."""
        return self.world.clock.now * self.skew + self.offset

    def start(self) -> None:
        """A new process: it knows no shares."""
        if self.running:
            return
        self.running, self.frozen_until = True, 0.0
        self.life += 1
        capacity = Capacity(slots=1, units_max=1, bytes_max=1)
        self.session = SessionCore(Identity(agent_id=self.agent_id, name=self.agent_id, version="1"), capacity)
        self.gates = HostGates()
        self.idle: list[str] = [
            server.host for server in self.world.scenario.servers for _ in range(self.world.scenario.workers)
        ]
        self._connect()

    def kill(self) -> None:
        """The process dies, and its connections with it."""
        if not self.running:
            return
        self.running = False
        self.life += 1
        for server in self.world.scenario.servers:
            server.under_way.pop(self.agent_id, None)
        if self.link is not None:
            self.link.cut()
            self.link = None

    def leave(self) -> None:
        """The process ends on purpose."""
        if self.running and self.frozen_until <= self.world.clock.now:
            self._carry_out(self.session.goodbye("done") if self.session.welcomed else [])
            link, self.link = self.link, None  # the goodbye is under way
            self.kill()
            self.link = link

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something after a delay, unless this process is dead by then; a frozen one does it when it thaws."""
        life = self.life

        def act() -> None:
            if self.life == life:
                if self.frozen_until > self.world.clock.now:
                    self.world.clock.at(self.frozen_until, act)
                else:
                    action()

        self.world.clock.after(delay_s, act)

    # ---- session ----------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self.link = self.world.connect(self)
        if self.link is None:
            self.later(0.2 + self.world.rng.random(), self._connect)
        else:
            self._carry_out(self.session.open(self.now(), self.gates.obeyed))
            self._wake()

    def received(self, link: Link, message: CoordinatorMessage) -> None:
        """A message arrived."""

        def take() -> None:
            if self.link is link:
                self._carry_out(self.session.receive(message, self.now()))
                self._work()

        if self.running:
            self.later(0.0, take)

    def closed(self, link: Link) -> None:
        """A connection broke."""

        def take() -> None:
            if self.link is link:
                self.link = None
                self._carry_out(self.session.closed())
                self.later(0.1 + self.world.rng.random(), self._connect)

        if self.running:
            self.later(0.0, take)

    def _wake(self) -> None:
        self._timer += 1
        timer = self._timer

        def tick() -> None:
            if timer != self._timer or self.link is None:
                return
            now = self.now()
            if self.gates.is_pressing:
                self.session.hasten(now)
            outlook = Outlook()
            if self.session.beat_is_due(now):
                obeyed, lapsed = self.gates.versions(now)
                outlook = Outlook(hosts=self.gates.take_observations(), budgets_version=obeyed, lapsed_version=lapsed)
            self._carry_out(self.session.tick(now, outlook))
            self._work()
            self._wake()

        self.later(min(POLL_S, max(0.001, self.session.next_wakeup(self.now()) - self.now())), tick)

    def _carry_out(self, effects: Iterable[SessionEffect]) -> None:
        for effect in effects:
            match effect:
                case SetBudgets():
                    self.gates.set_budgets(effect.budgets, self.now(), effect.version)
                case RenewShares():
                    self.gates.renewed(effect.until, self.now(), anew=effect.anew)
                case Tell() if self.link is not None:
                    self.link.send_up(effect.message)
                case _:
                    pass

    # ---- requests ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Let every idle worker try its host."""
        waiting, self.idle = self.idle, []
        for host in waiting:
            self.try_host(host)

    def try_host(self, host: str) -> None:
        """One worker asks its host, or waits."""
        gate = self.gates._gates.get(host)
        if (gate is None or gate.share is None) and self.gates._general is None:
            self.idle.append(host)  # no work there was granted: whoever gets some is told of the host before
            return
        gate_waits = self.gates.ask(host, self.now(), counted=True)
        if gate_waits == 0.0:
            server = self.world.servers[host]
            share = self.gates._gates[host].share
            self.world.ask(self, server, is_probe=share is not None and share.probe)
        else:
            self.gates.wait_begins(host)
            self.later(min(gate_waits, POLL_S), lambda: self._try_again(host))

    def _try_again(self, host: str) -> None:
        self.gates.wait_ends(host)
        self.try_host(host)

    def answered(self, host: str, answer: Answer, retry_after_s: float) -> None:
        """A request ended."""
        self.gates.seen(host, answer, self.now(), status=200, retry_after_s=retry_after_s)
        self.gates.done(host)
        self.try_host(host)


class BudgetWorld:
    """One seed's world."""

    def __init__(self, seed: int, scenario: Scenario | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.scenario = scenario or Scenario.random(self.rng)
        self.servers = {server.host: server for server in self.scenario.servers}
        self.clock = Clock()
        limits = NetworkLimits()
        if "delay" in self.scenario.faults:
            limits = NetworkLimits(delay_s=0.05, jitter_s=self.rng.choice((0.5, 3.0)), lost_after_s=15.0)
        self.network = Network(self.clock, self.rng, limits)
        self.core: Core | None = None
        self.incarnation = 0
        self.life = 0
        self.sessions: dict[str, Link] = {}
        self.links: list[Link] = []
        self.probes: Counter[str] = Counter()
        self._busy = False
        self._timer = 0
        self.agents = [AskingAgent(self, f"a{number}") for number in range(self.scenario.agents)]

    def run(self) -> BudgetWorld:
        """Run to the end. Raises Violation, with the seed in its text."""
        try:
            self.start_coordinator()
            for agent in self.agents:
                self.clock.after(self.rng.random() * 3.0, agent.start)
            if self.scenario.faults:
                self._plan_fault()
            while self.clock.now < self.scenario.run_s:
                self.clock.step()
        except Exception as error:
            error.add_note(f"seed {self.seed}, at {self.clock.now:.3f} s, {self.scenario}")
            raise
        return self

    # ---- the coordinator --------------------------------------------------------------------------------------------

    def start_coordinator(self) -> None:
        """A new process: policies are stored, shares are not."""
        if self.core is not None:
            return
        self.incarnation += 1
        self.life += 1
        self.core = core = Core(incarnation=self.incarnation, limits=CoreLimits())
        scenario = self.scenario
        if scenario.general:
            core.hosts.set_policy(EVERY_HOST, scenario.general, 0.0)
        for server in scenario.servers:
            rate = scenario.rate_of(server)
            connections = 0 if server.connections == math.inf else int(server.connections)
            if server.host == "met":
                continue
            if scenario.policy:
                core.hosts.set_policy(server.host, rate, 0.0, connections)
            else:
                core.hosts.adopt(
                    server.host,
                    rate=rate,
                    rate_multiplier=scenario.rate_multiplier,
                    connections=connections or 10_000,
                    backoff_initial_s=5.0,
                    backoff_cap_s=scenario.backoff_cap_s,
                )
                for agent in self.agents[: core.hosts.agents_max(server.host)]:
                    core.hosts.want(agent.agent_id, server.host)
        self._busy = False
        self.wake()

    def kill_coordinator(self) -> None:
        """The process dies."""
        self.core = None
        self.life += 1
        self.sessions.clear()
        links, self.links = self.links, []
        for link in links:
            link.cut()

    def connect(self, agent: AskingAgent) -> Link | None:
        """A connection, if there is anybody at the other end."""
        if self.core is None or self.network.partitioned_until(agent.agent_id) > self.clock.now:
            return None
        life = self.life
        twice = "duplicate" in self.scenario.faults

        def up(link: Link, message: AgentMessage) -> None:
            # A stream begins once: what opens a session does not come twice in it.
            for _ in range(1 + (twice and not isinstance(message, Hello) and self.rng.random() < 0.2)):
                if self.life == life:
                    self._received(link, message)

        def down(link: Link, message: CoordinatorMessage) -> None:
            for _ in range(1 + (twice and not isinstance(message, Welcome) and self.rng.random() < 0.2)):
                agent.received(link, message)

        link = Link(
            self.network,
            agent.agent_id,
            up,
            down,
            lambda link: self._lost(link) if self.life == life else None,
            agent.closed,
        )
        self.links = [other for other in self.links if other.alive]
        self.links.append(link)
        return link

    def _received(self, link: Link, message: AgentMessage) -> None:
        assert self.core is not None
        if isinstance(message, Hello):
            before = self.sessions.get(link.agent_id)
            if before is not None and before is not link:
                before.cut()
            self.sessions[link.agent_id] = link
        elif self.sessions.get(link.agent_id) is not link:
            return
        self.core.receive(link.agent_id, message, self.clock.now)
        if isinstance(message, Goodbye):
            del self.sessions[link.agent_id]
        self.wake()

    def _lost(self, link: Link) -> None:
        if self.core is not None and self.sessions.get(link.agent_id) is link:
            del self.sessions[link.agent_id]
            self.core.disconnected(link.agent_id, self.clock.now)
            self.wake()

    def wake(self) -> None:
        """Something changed: take a turn soon."""
        if not self._busy:
            self._busy = True
            life = self.life
            self.clock.after(0.0, lambda: self._turn() if self.life == life else None)

    def _turn(self) -> None:
        assert self.core is not None
        now = self.clock.now
        self._busy = False
        self.core.tick(now)
        self.core.assign(now)
        for send in self.core.take_effects().sends:
            link = self.sessions.get(send.agent_id)
            if link is not None:
                link.send_down(send.message)
        self._timer += 1
        timer, life = self._timer, self.life
        delay_s = max(0.001, min(1.0, self.core.next_wakeup(now) - now))
        self.clock.after(delay_s, lambda: self.wake() if (timer, life) == (self._timer, self.life) else None)

    # ---- the servers ------------------------------------------------------------------------------------------------

    def ask(self, agent: AskingAgent, server: Server, *, is_probe: bool) -> None:
        """A request arrives at once, and is answered after the server's latency."""
        now = self.clock.now
        if is_probe:
            busy = server.under_way.total()
            require(busy == 0, f"{server.host} is probed while {busy} requests are under way")
            self.probes[server.host] += 1
        elif self.core is not None and server.host in self.core.hosts._hosts:
            permit = self.core.hosts._hosts[server.host].conduct.permit
            require(not permit, f"{server.host} is being probed, and {agent.agent_id} asks")
        server.asked(agent.agent_id, now)
        answer, retry_after_s = server.reply(now, len(server.log))
        life = agent.life
        latency_s = server.latency_s * (0.5 + self.rng.random() / 2)

        def end() -> None:
            if agent.life == life:
                server.under_way[agent.agent_id] -= 1
                agent.later(0.0, lambda: agent.answered(server.host, answer, retry_after_s))

        self.clock.after(latency_s, end)

    # ---- faults -----------------------------------------------------------------------------------------------------

    def _plan_fault(self) -> None:
        self.clock.after(self.rng.expovariate(1 / self.scenario.fault_every_s), self._fault)

    def _fault(self) -> None:
        fault = self.rng.choice(sorted(self.scenario.faults))
        agent = self.rng.choice(self.agents)
        now = self.clock.now
        some_s = self.rng.choice((0.5, 4.0, 12.0, 25.0, 45.0)) * (0.5 + self.rng.random())
        match fault:
            case "cut" if agent.link is not None:
                agent.link.cut()
            case "partition":
                self.network.partition(agent.agent_id, now + some_s)
            case "kill_agent":
                agent.kill()
                self.clock.after(some_s, agent.start)
            case "leave":
                agent.leave()
                self.clock.after(some_s, agent.start)
            case "freeze":
                agent.frozen_until = now + some_s
            case "kill_coordinator" if self.core is not None:
                self.kill_coordinator()
                self.clock.after(some_s / 4, self.start_coordinator)
            case _:
                pass
        self._plan_fault()
