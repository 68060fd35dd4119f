"""``shoal get`` is stopped half-way, in every way there is, and run again: it goes on where it was, and leaves nothing behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cli import Shoal, delivered, leftovers
from support.contents import SyntheticFile, sha256_hex
from support.faults import Stall
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.origin import FaultOrigin
from support.stand_in import in_thread

MIB = 1 << 20
CONNECTIONS = 8
PIECE_BYTES = 2 * MIB
IN_SOCKETS_BYTES = MIB
"""What the stand-in has counted as sent and the process has not read when it dies: one write (256 KiB) and the buffers of the
socket's two ends, which stay small because the server is slower than the process."""
BIG = SyntheticFile(256 * MIB, seed=3)
WAIT_S = 60.0
HALF = BIG.size // 2
OPTIONS = ["--set", f"fetch.connections_per_host={CONNECTIONS}", "--set", f"fetch.chunk_size={PIECE_BYTES}"]


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/big", {"config.json": b"{}", "model.safetensors": BIG})]) as stand_in:
        stand_in.faults.total_rate = 100 * MIB
        stand_in.faults.slow_after = (
            HALF,
            8 * MIB,
        )  # who is to be stopped half-way is still under way when the signal comes
        yield stand_in


@pytest.fixture
def shoal(tmp_path: Path, hub: StandInHub) -> Shoal:
    return Shoal(tmp_path / "person", endpoint=hub.url)


def stopped_halfway(shoal: Shoal, hub: StandInHub, to: Path | str, *numbers: int, options: list[str] = OPTIONS) -> Any:
    """A run that gets these signals once half of the file was served."""
    with shoal.start("get", "hf://acme/big", "--to", to, *options) as run:
        hub.log.wait_for(lambda log: log.bytes_served >= HALF, timeout_s=WAIT_S)
        for number in numbers:
            run.signal(number)
        return run.wait()


def assert_goes_on(shoal: Shoal, hub: StandInHub, to: Path, options: list[str] = OPTIONS) -> None:
    """The second run: right bytes, nothing left over, and hardly anything fetched twice."""
    hub.faults.clear()
    shoal.get("hf://acme/big", "--to", to, *options)
    (path,) = [path for path in to.rglob("model.safetensors") if path.is_file()]
    assert sha256_of(path) == sha256_hex(BIG)
    assert leftovers(to) == []
    twice = hub.log.bytes_served - BIG.size - len(b"{}")
    assert twice <= CONNECTIONS * (PIECE_BYTES + IN_SOCKETS_BYTES), f"{twice / MIB:.1f} MiB were fetched twice"


def sha256_of(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 130)],
    ids=["SIGKILL", "SIGINT", "SIGTERM"],
)
def test_stopped_halfway_in_a_folder(
    shoal: Shoal, hub: StandInHub, tmp_path: Path, number: int, exit_code: int
) -> None:
    run = stopped_halfway(shoal, hub, tmp_path / "to", number).expect(exit_code)
    assert set(delivered(tmp_path / "to")) <= {"config.json"}, "a final name never names an incomplete file"
    if number != signal.SIGKILL:
        assert "run it again" in run.stderr
    assert_goes_on(shoal, hub, tmp_path / "to")


def test_killed_halfway_in_the_cache(shoal: Shoal, hub: StandInHub) -> None:
    stopped_halfway(shoal, hub, "hf-cache", signal.SIGKILL)
    assert [path.name for path in shoal.cache.glob("*/snapshots/*/*")] in ([], ["config.json"])
    hub.faults.clear()
    shoal.get("hf://acme/big", *OPTIONS)
    assert sha256_of(next(shoal.cache.glob("*/snapshots/*/model.safetensors"))) == sha256_hex(BIG)
    assert leftovers(shoal.cache) == []
    assert hub.log.bytes_served <= BIG.size + 2 + CONNECTIONS * (PIECE_BYTES + IN_SOCKETS_BYTES)


def test_killed_again_and_again(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    hub.faults.slow_after = None
    for part in (40, 90, 140, 190):
        with shoal.start("get", "hf://acme/big", "--to", tmp_path / "to", *OPTIONS) as run:
            hub.log.wait_for(lambda log, part=part: log.bytes_served >= part * MIB, timeout_s=WAIT_S)
            run.signal(signal.SIGKILL)
            run.wait()
    hub.faults.clear()
    shoal.get("hf://acme/big", "--to", tmp_path / "to", *OPTIONS)
    assert sha256_of(tmp_path / "to/model.safetensors") == sha256_hex(BIG)
    assert leftovers(tmp_path / "to") == []
    assert hub.log.bytes_served <= BIG.size + 4 * (2 + CONNECTIONS * (PIECE_BYTES + IN_SOCKETS_BYTES))


def test_a_stop_with_the_usual_settings_loses_little(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    """Adaptive pieces on sixteen connections: a piece is what a connection fetches in about a second."""
    stopped_halfway(shoal, hub, tmp_path / "to", signal.SIGKILL, options=[])
    hub.faults.clear()
    shoal.get("hf://acme/big", "--to", tmp_path / "to")
    assert sha256_of(tmp_path / "to/model.safetensors") == sha256_hex(BIG)
    # At 100 MiB/s in all a second's worth is 6.25 MiB a connection.
    assert hub.log.bytes_served <= BIG.size + 2 + 16 * (7 * MIB + IN_SOCKETS_BYTES)


def test_a_url_goes_on_too(shoal: Shoal, tmp_path: Path) -> None:
    with in_thread(FaultOrigin({"big.bin": BIG})) as origin:
        origin.faults.total_rate = 100 * MIB
        origin.faults.slow_after = (HALF, 8 * MIB)
        with shoal.start("get", origin.url_of("big.bin"), "--to", tmp_path / "to", *OPTIONS) as run:
            origin.log.wait_for(lambda log: log.bytes_served >= HALF, timeout_s=WAIT_S)
            run.signal(signal.SIGKILL)
            run.wait()
        assert delivered(tmp_path / "to") == {}
        origin.faults.clear()
        shoal.get(origin.url_of("big.bin"), "--to", tmp_path / "to", *OPTIONS)
        assert sha256_of(tmp_path / "to/big.bin") == sha256_hex(BIG)
        assert origin.log.bytes_served <= BIG.size + 2 + CONNECTIONS * (PIECE_BYTES + IN_SOCKETS_BYTES)


def test_a_url_that_changed_between_two_runs_begins_anew(shoal: Shoal, tmp_path: Path) -> None:
    other = SyntheticFile(256 * MIB, seed=4)
    with in_thread(FaultOrigin({"big.bin": BIG})) as origin:
        origin.faults.total_rate = 100 * MIB
        origin.faults.slow_after = (64 * MIB, 8 * MIB)
        with shoal.start("get", origin.url_of("big.bin"), "--to", tmp_path / "to", *OPTIONS) as run:
            origin.log.wait_for(lambda log: log.bytes_served >= 64 * MIB, timeout_s=WAIT_S)
            run.signal(signal.SIGKILL)
            run.wait()
        origin.put("big.bin", other)
        origin.faults.clear()
        shoal.get(origin.url_of("big.bin"), "--to", tmp_path / "to", *OPTIONS)
        assert sha256_of(tmp_path / "to/big.bin") == sha256_hex(other)
        assert leftovers(tmp_path / "to") == []


def test_a_second_signal_ends_at_once(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    """With a server that says nothing, so that there is something to wait for."""
    hub.faults.add(Stall(after=MIB), path="model.safetensors")
    with shoal.start("get", "hf://acme/big", "--to", tmp_path / "to", *OPTIONS) as run:
        hub.log.wait_for(lambda log: log.bytes_served >= 8 * MIB, timeout_s=WAIT_S)
        run.signal(signal.SIGINT)
        run.signal(signal.SIGINT)
        finished = run.wait()
    assert finished.exit_code in (130, -signal.SIGINT)
    assert_goes_on(shoal, hub, tmp_path / "to")


def test_a_signal_while_the_source_is_listed(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    from support.faults import Latency

    hub.faults.add(Latency(delay_s=200), kinds=["tree"])
    with shoal.start("get", "hf://acme/big", "--to", tmp_path / "to") as run:
        hub.log.wait_for(lambda log: log.count(kind="tree") > 0, timeout_s=WAIT_S)
        run.signal(signal.SIGINT)
        run.wait().expect(130)


def test_a_signal_during_a_dry_run(shoal: Shoal, hub: StandInHub) -> None:
    from support.faults import Latency

    hub.faults.add(Latency(delay_s=200), kinds=["tree"])
    with shoal.start("get", "hf://acme/big", "--dry-run") as run:
        hub.log.wait_for(lambda log: log.count(kind="tree") > 0, timeout_s=WAIT_S)
        run.signal(signal.SIGINT)
        run.wait().expect(130)


def test_damaged_chunk_maps_cost_bytes_but_never_the_file(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    stopped_halfway(shoal, hub, tmp_path / "to", signal.SIGKILL)
    maps = list((tmp_path / "to/.shoal/partial").glob("*.map"))
    assert maps
    for number, path in enumerate(maps):
        data = bytearray(path.read_bytes())
        data[len(data) // 2 if number else len(data) - 5 :] = b"\xff" * 7
        path.write_bytes(data)
    hub.faults.clear()
    shoal.get("hf://acme/big", "--to", tmp_path / "to", *OPTIONS)
    assert sha256_of(tmp_path / "to/model.safetensors") == sha256_hex(BIG)


def test_partial_data_with_wrong_bytes_is_noticed(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    """What a crash or a bad disk did to the bytes on disk: the digest tells, and the file is fetched again."""
    stopped_halfway(shoal, hub, tmp_path / "to", signal.SIGKILL)
    (part,) = (tmp_path / "to/.shoal/partial").glob("*.part")
    with part.open("r+b") as file:
        file.write(b"\0" * MIB)
    hub.faults.clear()
    shoal.get("hf://acme/big", "--to", tmp_path / "to", *OPTIONS)
    assert sha256_of(tmp_path / "to/model.safetensors") == sha256_hex(BIG)
    assert leftovers(tmp_path / "to") == []


def test_clean_removes_what_a_killed_run_left(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    stopped_halfway(shoal, hub, tmp_path / "to", signal.SIGKILL)
    assert leftovers(tmp_path / "to") != []
    assert shoal.run("clean", tmp_path / "to").expect(0).stdout == "", "what was touched within the last hour stays"
    removed = shoal.run("clean", tmp_path / "to", "--older-than", "0s", "--json").expect(0).document()["removed"]
    assert any(path.endswith(".part") for path in removed)
    assert leftovers(tmp_path / "to") == []


def test_two_runs_at_once_into_one_folder(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    """The second one waits for the first, and then finds everything there."""
    hub.faults.slow_after = None
    with shoal.start("get", "hf://acme/big", "--to", tmp_path / "to", *OPTIONS) as first:
        hub.log.wait_for(lambda log: log.bytes_served >= 16 * MIB, timeout_s=WAIT_S)
        second = shoal.get("hf://acme/big", "--to", tmp_path / "to", *OPTIONS)
        assert "2 were there already" in second.stderr
        first.wait().expect(0)
    assert sha256_of(tmp_path / "to/model.safetensors") == sha256_hex(BIG)
    assert leftovers(tmp_path / "to") == []
    assert hub.log.bytes_served <= 1.05 * BIG.size
