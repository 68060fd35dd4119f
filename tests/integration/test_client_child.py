"""Daemons as children of a program: they answer when they are ready, say why they are not, and end with whoever started them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.client.children import ChildDaemon
from shoal.client.fleet_certificate import make_certificate
from shoal.client.ray import forwarded
from shoal.client.sdk import AsyncClient
from shoal.common.channel import split_host
from shoal.common.errors import Unauthenticated, Unreachable, UsageError
from shoal.common.settings import load_settings
from shoal.common.views import AgentStatus, Role
from support.fleet import POLL_S, WAIT_S, command_lines, until

Start = Callable[..., str]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SHOAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def children() -> Iterator[list[ChildDaemon]]:
    started: list[ChildDaemon] = []
    yield started
    for child in reversed(started):
        child.stop()
        assert child.poll() is not None


@pytest.fixture
def start(children: list[ChildDaemon]) -> Start:
    def starting(daemon: str, settings: dict[str, object], authority: str = "") -> str:
        children.append(ChildDaemon(daemon))  # type: ignore[arg-type]  # a test names it
        return children[-1].start(settings, authority=authority)

    return starting


async def until_status(client: AsyncClient, name: str, *wanted: AgentStatus) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            if (await agents(client)).get(name) in wanted:
                return
            await asyncio.sleep(POLL_S)


async def agents(client: AsyncClient) -> dict[str, AgentStatus]:
    return {agent.name: agent.status for agent in await client.agents()}


async def test_a_coordinator_and_its_agent(start: Start, children: list[ChildDaemon], tmp_path: Path) -> None:
    ready = start("coordinator", {"coordinator.listen": "127.0.0.1:0", "coordinator.state": str(tmp_path / "state")})
    address = ready.rpartition(" ")[2]
    assert address.startswith("127.0.0.1:")
    start("agent", {"coordinator.address": address, "agent.name": "n1"})
    async with AsyncClient(address) as client:
        await until_status(client, "n1", AgentStatus.ALIVE)
        children[-1].stop()
        assert children[-1].poll() == 0
        # Lost is possible too: it may have been told to stop before it was welcomed.
        await until_status(client, "n1", AgentStatus.LEFT, AgentStatus.LOST)
    children[0].stop()
    assert children[0].poll() == 0
    assert list(tmp_path.glob("shoal-*")) == [], "a child removes its folder"


async def test_beyond_loopback_with_a_certificate_of_its_own(start: Start, tmp_path: Path) -> None:
    from shoal.client.daemons import offline_tokens

    cert, key = make_certificate(["127.0.0.1"], tmp_path)
    assert key.stat().st_mode & 0o777 == 0o600
    given: dict[str, object] = {
        "coordinator.listen": "0.0.0.0:0",
        "coordinator.state": str(tmp_path / "state"),
        "security.tls_cert": str(cert),
        "security.tls_key": str(key),
    }
    async with offline_tokens(load_settings(environ=os.environ, cwd=tmp_path, overrides=given)) as book:
        agent, admin = [(await book.create_token(role, "x", 600)).token.reveal() for role in (Role.AGENT, Role.ADMIN)]
    port = split_host(start("coordinator", given).rpartition(" ")[2])[1]
    address = f"127.0.0.1:{port}"
    start(
        "agent",
        {"coordinator.address": address, "agent.name": "n1", "security.token": agent},
        authority=cert.read_text(),
    )
    async with AsyncClient(address, token=admin, tls_ca=cert) as client:
        await until_status(client, "n1", AgentStatus.ALIVE)
    assert not [line for line in command_lines() if agent in line or admin in line]
    async with AsyncClient(address, tls_ca=cert) as client:
        with pytest.raises(Unauthenticated):
            await client.status()
    other, _ = make_certificate(["127.0.0.1"], _made(tmp_path / "other"))
    async with AsyncClient(address, token=admin, tls_ca=other) as client:
        with pytest.raises(Unreachable, match="certificate"):
            await client.status()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_child_says_why_it_cannot_run(start: Start) -> None:
    with pytest.raises(UsageError, match=r"agent\.memory_limit"):
        start("agent", {"coordinator.address": "127.0.0.1:1", "agent.memory_limit": "1MiB"})
    with pytest.raises(UsageError, match="no coordinator is named"):
        start("agent", {})


PARENT = """
import sys, time
from shoal.client.children import ChildDaemon
child = ChildDaemon("coordinator")
child.start({"coordinator.listen": "127.0.0.1:0", "coordinator.state": sys.argv[1] + "/state"}, folder=sys.argv[1])
print(child._process.pid, flush=True)
time.sleep(100)
"""


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(_made(tmp_path / "fleet"))], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        try:
            child = int(parent.stdout.readline())
            assert Path(f"/proc/{child}").exists()
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            until("the child to end", lambda: not _runs(child), timeout_s=30)
        finally:
            parent.kill()
    assert list(tmp_path.glob("shoal-*")) == []
    assert not (tmp_path / "fleet").exists()


def _runs(pid: int) -> bool:
    """A zombie that nobody waits for has ended too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] != "Z"
    except OSError:
        return False


def test_no_credential_is_forwarded_to_nodes(tmp_path: Path) -> None:
    (tmp_path / "shoal.toml").write_text(
        '[hub]\nendpoint = ["http://hub"]\ntoken = "hunter2"\nca_bundle = "/etc/ca.pem"\ncache = "/cache"\n'
        '[fetch]\nattempts = 5\nproxy = "http://me:hunter2@proxy:3128"\n'
        '[agent]\nmemory_limit = "1GiB"\nname = "mine"\ndata = "/data"\nallow_paths = ["/models"]\n'
        '[security]\ntoken = "hunter2"\nhttps_only = true\n'
    )
    found = forwarded(load_settings(environ={"HOME": "/home/me"}, cwd=tmp_path))
    assert "hunter2" not in str(found)
    assert found == {
        "hub.endpoint": ["http://hub"],
        "fetch.attempts": 5,
        "agent.memory_limit": "1GiB",
        "agent.allow_paths": ["/models"],
        "security.https_only": True,
    }
    load_settings(environ={"HOME": "/home/me"}, cwd=tmp_path, overrides=found)
