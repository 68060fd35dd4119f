"""The lines between ranks, over real sockets: who may call, what is told, and what a broken line means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shoal.client.fleet_certificate import make_certificate
from shoal.common.errors import Unreachable
from shoal.common.secrets import Secret
from shoal.slurm.addresses import LOOPBACK
from shoal.slurm.lifelines import Lifelines, lifeline, listening_socket, server_tls

KEY = Secret("k" * 64)
WAIT_S = 60.0


class Heard:
    def __init__(self) -> None:
        self.messages: list[tuple[int, dict[str, Any]]] = []

    def __call__(self, rank: int, message: dict[str, Any]) -> None:
        self.messages.append((rank, message))


@asynccontextmanager
async def serving(heard: Heard, tls: Any = None) -> AsyncGenerator[tuple[Lifelines, int]]:
    with listening_socket(LOOPBACK) as listening:
        lines = Lifelines([1, 2], KEY, heard)
        async with lines.serving(listening, tls):
            yield lines, listening.getsockname()[1]


async def test_what_ranks_and_rank_0_tell_each_other() -> None:
    heard = Heard()
    async with serving(heard) as (lines, port):
        async with lifeline([LOOPBACK], port, rank=1, key=KEY, authority="") as (host, line):
            assert host == LOOPBACK
            assert lines.waiting == {2}
            line.send(agents=1)
            assert await lines.until(lambda: bool(heard.messages), WAIT_S)
            lines.end(3)
            assert await line.read() == {"end": 3}
            async with lifeline([LOOPBACK], port, rank=2, key=KEY, authority="") as (_, late):
                assert await late.read() == {"end": 3}, "who calls after the end hears of it"
        assert await lines.until(lambda: not lines.open, WAIT_S)
    assert heard.messages[0] == (1, {"agents": 1})
    assert {rank for rank, message in heard.messages if message == {"gone": True}} == {1, 2}


async def test_a_rank_notices_the_end_of_rank_0() -> None:
    with listening_socket(LOOPBACK) as listening:
        port = listening.getsockname()[1]
        async with Lifelines([1], KEY, Heard()).serving(listening, None):
            calling = lifeline([LOOPBACK], port, rank=1, key=KEY, authority="")
            _, line = await calling.__aenter__()
        async with asyncio.timeout(WAIT_S):
            assert await line.read() is None
        await calling.__aexit__(None, None, None)


@pytest.mark.parametrize(("rank", "key"), [(1, Secret("x" * 64)), (7, KEY), (1, Secret("é"))])
async def test_strangers_are_not_let_in(rank: int, key: Secret) -> None:
    heard = Heard()
    async with serving(heard) as (lines, port):
        with pytest.raises(Unreachable, match=f"from rank {rank}: {LOOPBACK}"):
            async with lifeline([LOOPBACK], port, rank=rank, key=key, authority=""):
                pass
        assert not lines.open
    assert heard.messages == []


@pytest.mark.parametrize("said", [b"", b"\n", b"[1]\n", b'{"rank": "1"}\n', b"x" * 100_000])
async def test_nonsense_ends_the_call_alone(said: bytes) -> None:
    async with serving(Heard()) as (lines, port):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(said)
        writer.write_eof()
        async with asyncio.timeout(WAIT_S):
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                pass
        writer.close()
        async with lifeline([LOOPBACK], port, rank=1, key=KEY, authority="") as (_, line):
            lines.end(0)
            assert await line.read() == {"end": 0}


async def test_the_first_address_that_is_rank_0_is_taken(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cert, key = make_certificate([LOOPBACK], tmp_path)
    other, _ = make_certificate([LOOPBACK], tmp_path / "other")
    async with serving(Heard(), server_tls(cert, key)) as (_, port):
        hosts = ["127.0.0.9", "127.0.0.2", LOOPBACK]  # nothing listens at the first two
        async with lifeline(hosts, port, rank=1, key=KEY, authority=cert.read_text()) as (host, _line):
            assert host == LOOPBACK
        with pytest.raises(Unreachable):
            async with lifeline([LOOPBACK], port, rank=2, key=KEY, authority=other.read_text()):
                pass


async def test_waiting_for_ranks_is_bounded() -> None:
    async with serving(Heard()) as (lines, _port):
        assert not await lines.until(lambda: False, 0.05)
