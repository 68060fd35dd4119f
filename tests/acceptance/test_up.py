"""``shoal up`` from the outside: what is killed comes back, what supervises leaves nothing behind."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.cli import Shoal, delivered
from support.fleet import Daemon, free_port, until
from support.fleet_certificates import Authority
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

FILES = {"config.json": b"{}", "model.bin": os.urandom(300_000)}
_STARTED = re.compile(r"^(\S+) \(process (\d+)\): ", re.MULTILINE)


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/tiny", FILES)]) as stand_in:
        yield stand_in


class Up:
    """One ``shoal up`` on ports of its own."""

    def __init__(self, folder: Path, hub: StandInHub) -> None:
        self.shoal = Shoal(folder, endpoint=hub.url)
        self.listen, self.web = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self._folder = folder
        self._daemons: list[Daemon] = []

    @property
    def arguments(self) -> list[str]:
        return ["--listen", self.listen, "--web", self.web, "--log-format", "json", "--log-level", "info"]

    def start(self, *options: str, environ: Mapping[str, str] | None = None) -> Daemon:
        daemon = Daemon(
            f"up{len(self._daemons)}",
            ["up", *self.arguments, *options],
            cwd=self.shoal.cwd,
            environ={**self.shoal.environ, **(environ or {})},
            log=self._folder / f"up{len(self._daemons)}.log",
        )
        daemon.start()
        self._daemons.append(daemon)
        return daemon

    def ask(self, *arguments: str) -> Any:
        return self.shoal.run(*arguments, "--coordinator", self.listen, "--json").expect(0).document()

    def is_served(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.web}/healthz", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def alive(self) -> int:
        return self.ask("status")["fleet"]["agents_alive"]

    def end(self) -> None:
        pids = [pid for daemon in self._daemons for pid in children(daemon).values()]
        for daemon in self._daemons:
            daemon.end()
        until("nothing to be left", lambda: not any(map(exists, pids)))


def children(daemon: Daemon) -> dict[str, int]:
    """The newest process of each child, as the supervisor told."""
    return {name: int(pid) for name, pid in _STARTED.findall(daemon.log)}


def exists(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def up(tmp_path: Path, hub: StandInHub) -> Iterator[Up]:
    made = Up(tmp_path, hub)
    yield made
    made.end()


def test_every_child_that_is_killed_is_started_again(up: Up, tmp_path: Path) -> None:
    daemon = up.start("--agents", "2")
    until("all three", lambda: len(children(daemon)) == 3)
    assert f"page http://{up.web}/" in daemon.log
    until("the page", up.is_served)
    until("two agents", lambda: up.alive() == 2)
    for name in ("agent-1", "coordinator", "agent-2"):
        before = children(daemon)
        os.kill(before[name], signal.SIGKILL)
        until(f"another {name}", lambda: children(daemon)[name] != before[name])  # noqa: B023
        told = [event for event in daemon.events("up.child_ended") if event["child"] == name]
        assert [(event["pid"], event["how"]) for event in told] == [(before[name], "was killed by SIGKILL")]
        assert f"{name} (process {before[name]}) was killed by SIGKILL; it is started again in" in daemon.log
        others = {other: pid for other, pid in children(daemon).items() if other != name}
        assert others == {other: pid for other, pid in before.items() if other != name}, "the others go on"
    until("the page", up.is_served)
    until("two agents", lambda: up.alive() == 2)
    to = tmp_path / "to"
    up.shoal.get("acme/tiny", "--to", to, "--coordinator", up.listen)
    assert delivered(to) == FILES
    pids = list(children(daemon).values())
    assert daemon.terminate() == 0
    assert not any(map(exists, pids)), "none is left when it has ended"
    assert not json.loads((up.shoal.home / "state/shoal/up.json").read_text())


def test_a_killed_supervisor_leaves_nobody_and_the_next_one_goes_on(up: Up) -> None:
    first = up.start("--agents", "2")
    until("all three", lambda: len(children(first)) == 3)
    until("two agents", lambda: up.alive() == 2)
    names = {agent["agent_id"] for agent in up.ask("agents")["agents"]}
    first.kill()
    second = up.start("--agents", "2")  # at once: it waits for what is left
    until("all three again", lambda: len(children(second)) == 3)
    assert not any(map(exists, children(first).values()))
    until("two agents", lambda: up.alive() == 2)
    assert {agent["agent_id"] for agent in up.ask("agents")["agents"]} == names, "they are who they were"
    second.signal(signal.SIGINT)
    assert second.wait() == 0
    assert not any(map(exists, children(second).values()))


def test_nobody_is_left_behind_when_no_other_run_follows(up: Up) -> None:
    daemon = up.start()
    until("both", lambda: len(children(daemon)) == 2)
    pids = list(children(daemon).values())
    daemon.kill()
    until("all to be gone", lambda: not any(map(exists, pids)))


def test_a_second_one_on_the_same_state_is_refused(up: Up) -> None:
    daemon = up.start()
    until("both", lambda: len(children(daemon)) == 2)
    refused = up.shoal.run("up", *up.arguments).expect(1)
    assert f"process {daemon.pid}" in refused.stderr
    other = up.shoal.run("up", *up.arguments, "--state", up.shoal.home / "elsewhere").expect(2)
    assert f"coordinator.listen {up.listen}: it is taken by process {children(daemon)['coordinator']}" in other.stderr
    assert len(children(daemon)) == 2


def test_a_port_that_is_taken_names_who_has_it(up: Up) -> None:
    host, _, port = up.web.rpartition(":")
    with socket.create_server((host, int(port))):
        run = up.shoal.run("up", *up.arguments).expect(2)
    assert f"web.listen {up.web}: it is taken by process {os.getpid()}" in run.stderr


def test_a_first_start_that_fails_is_told_and_not_tried_again(up: Up) -> None:
    run = up.shoal.run("up", *up.arguments, "--set", "web.tls_cert=/absent.pem", "--set", "web.tls_key=/absent.pem")
    assert run.exit_code == 2, run.stderr
    assert "/absent.pem" in run.stderr
    up.shoal.run("up", "--agents", "0").expect(2)


def test_a_second_signal_does_not_wait(up: Up, hub: StandInHub, tmp_path: Path) -> None:
    hub.add(HubRepo("acme/slow", {"model.bin": os.urandom(5_000_000)}))
    hub.faults.connection_rate = 10_000
    daemon = up.start()
    until("both", lambda: len(children(daemon)) == 2)
    up.ask("submit", "acme/slow", "--to", str(tmp_path / "slow"))
    until("the work", lambda: up.ask("status")["fleet"]["units_leased"] > 0)
    os.kill(children(daemon)["agent-1"], signal.SIGSTOP)  # one that cannot drain
    daemon.signal(signal.SIGINT)
    until("the first", lambda: "stopping; once more" in daemon.log)
    daemon.signal(signal.SIGINT)
    assert daemon.wait() == 130
    assert not any(map(exists, children(daemon).values()))


def test_agents_of_an_open_coordinator_get_a_credential_that_nobody_sees(up: Up, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls", now=datetime.datetime.now(datetime.UTC))
    cert, key = authority.sign("coordinator", "coordinator")
    environ = {
        "SHOAL_SECURITY_TLS_CERT": str(cert),
        "SHOAL_SECURITY_TLS_KEY": str(key),
        "SHOAL_SECURITY_TLS_CA": str(authority.ca),
    }
    up.listen = f"0.0.0.0:{up.listen.rpartition(':')[2]}"
    for _ in range(2):
        daemon = up.start(environ=environ)
        until("the agent", lambda: daemon.events("agent.joined"))  # noqa: B023
        for pid in (daemon.pid, *children(daemon).values()):
            for file in ("cmdline", "environ"):
                assert b"shoal_agent_" not in Path(f"/proc/{pid}/{file}").read_bytes()
        assert "shoal_agent_" not in daemon.log
        assert daemon.terminate() == 0
    tokens = (
        up.shoal.run("token", "list", "--state", up.shoal.home / "state/shoal", "--json").expect(0).document()["tokens"]
    )
    assert [token["name"] for token in tokens] == ["shoal up"], "that of the earlier run is worthless"
