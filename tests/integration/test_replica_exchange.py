"""Where an agent listens for its peers, and what it tells others of it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from shoal.agent.exchange import PeerExchange
from shoal.agent.swarm.shelf import AgentShelf
from shoal.common.errors import Conflict, NotFound, UsageError
from shoal.common.settings import load_settings
from shoal.common.swarm_records import PeerOffer


async def never(*_: object) -> None:
    raise NotFound("job", cause="there is none here")


SHELF = AgentShelf(never, never)  # type: ignore[arg-type]


def exchange(tmp_path: Path, **values: object) -> PeerExchange:
    overrides = {"coordinator.address": "127.0.0.1:7070"}
    overrides |= {name.replace("__", "."): value for name, value in values.items()}  # type: ignore[dict-item]
    settings = load_settings(environ={"HOME": str(tmp_path)}, cwd=tmp_path, overrides=overrides)
    return PeerExchange(settings, agent_id="a1", wall_clock=lambda: 1000.0)


async def test_with_a_coordinator_on_this_machine_only_this_machine_can_ask(tmp_path: Path) -> None:
    made = exchange(tmp_path, agent__upload_slots=3, agent__download_slots=5)
    assert made.offer == PeerOffer(upload_slots=3, download_slots=5)
    async with made.serving(SHELF):
        host, _, port = made.offer.address.rpartition(":")
        assert host == "127.0.0.1" and int(port) > 0
        with socket.create_connection((host, int(port)), timeout=5):
            pass
        assert made.sent_bytes == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


async def test_a_named_address_is_taken_and_another_one_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict):
            async with exchange(tmp_path, agent__peer_listen=f"127.0.0.1:{port}").serving(SHELF):
                pass
    made = exchange(tmp_path, agent__peer_listen="127.0.0.1:0", agent__peer_address="node7.example:7072")
    async with made.serving(SHELF):
        assert made.offer.address == "node7.example:7072"


async def test_an_agent_without_upload_slots_only_takes(tmp_path: Path) -> None:
    made = exchange(tmp_path, agent__upload_slots=0)
    async with made.serving(SHELF):
        assert made.offer.address == ""


async def test_an_agent_on_all_addresses_tells_the_one_towards_the_coordinator(tmp_path: Path) -> None:
    made = exchange(tmp_path, agent__peer_listen="0.0.0.0:0")
    async with made.serving(SHELF):
        assert made.offer.address.startswith("127.0.0.1:")


async def test_tls_needs_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        async with exchange(tmp_path, swarm__tls=True).serving(SHELF):
            pass
