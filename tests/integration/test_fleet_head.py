"""The head of a fleet for one run: its coordinator, credentials and certificate, and the commands that run against it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from shoal.client.children import ChildDaemon
from shoal.client.fleet_head import FleetHead
from shoal.client.fleet_jobs import all_joined, run_command, run_commands
from shoal.client.sdk import AsyncClient
from shoal.common.errors import Busy, Unauthenticated, UsageError
from shoal.common.views import JobStatus
from support.fleet import POLL_S, WAIT_S, command_lines


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SHOAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").write_bytes(b"x" * 1000)


def test_it_serves_what_it_made_and_leaves_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def work(head: FleetHead) -> None:
        async with head.client() as coordinator:
            assert await all_joined(coordinator, lambda: 1, asyncio.Event(), timeout_s=WAIT_S) == 1
        commands = [["get", f"file://{tmp_path}/source", "--to", "a"], ["get", f"file://{tmp_path}/no", "--to", "a"]]
        assert await run_commands(head, commands, asyncio.Event(), environ={}) == 3
        assert (tmp_path / "a" / "source").stat().st_size == 1000
        for token in (head.agent_token, head.admin_token):
            assert not [line for line in command_lines() if token.reveal() in line]
        async with AsyncClient(settings=head.agent_settings(), tls_ca=_written(tmp_path, head.authority)) as client:
            with pytest.raises(Exception, match=r"admin|permission|not allowed"):
                await client.status()

    with FleetHead({}, hosts=["127.0.0.1"], listen_host="0.0.0.0") as head:
        assert "BEGIN CERTIFICATE" in head.authority
        agent = ChildDaemon("agent")
        try:
            agent.start({**head.agent_settings(), "agent.name": "n1"}, authority=head.authority)
            asyncio.run(work(head))
        finally:
            agent.stop()
    assert head.poll() == 0
    assert list(tmp_path.glob("shoal-*")) == []
    assert "source: done" in capfd.readouterr().err


def _written(folder: Path, text: str) -> Path:
    (folder / "ca.pem").write_text(text)
    return folder / "ca.pem"


async def test_a_state_that_is_kept_goes_on_with_new_credentials(tmp_path: Path) -> None:
    given: dict[str, object] = {"coordinator.state": str(tmp_path / "state")}

    def head() -> FleetHead:
        return FleetHead(given, hosts=["127.0.0.1"], listen_host="0.0.0.0")

    with head() as first:
        async with AsyncClient(settings=first.client_settings()) as client:
            job = await client.submit(f"file://{tmp_path}/source", to=tmp_path / "a")
        second = head()
        with pytest.raises(Busy, match="state"):
            second.start()
        second.close()
        earlier = first.admin_token
    with head() as third:
        async with AsyncClient(settings=third.client_settings()) as client:
            assert (await (await client.job(job.id)).status()).status is not JobStatus.FAILED
        async with AsyncClient(settings=third.client_settings(), token=earlier) as client:
            with pytest.raises(Unauthenticated, match="was revoked"):
                await client.status()


async def test_a_command_that_is_stopped_ends_in_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stop = asyncio.Event()
    with FleetHead({}, hosts=["127.0.0.1"]) as head:  # and no agent: it would wait for ever
        words = ["get", f"file://{tmp_path}/source", "--to", "a"]
        running = asyncio.create_task(run_command(head, words, stop, environ={}))
        async with head.client() as coordinator, asyncio.timeout(WAIT_S):
            while not await coordinator.list_jobs(limit=1):  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        stop.set()
        async with asyncio.timeout(WAIT_S):
            assert await running == 130
    said = capfd.readouterr().err
    assert "interrupted" in said
    assert "the job goes on" not in said, "its fleet ends"


def test_what_cannot_start_is_said_and_cleaned_up(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"swarm\.tls"), FleetHead({"swarm.tls": True}, hosts=["127.0.0.1"]):
        pass
    (tmp_path / "f").touch()
    with pytest.raises(UsageError, match="configuration file"), FleetHead({}, hosts=["h"], config="absent.toml"):
        pass
    assert list(tmp_path.glob("shoal-*")) == []
