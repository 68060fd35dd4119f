"""Copies of a replicated job: real workers and peer servers, a stand-in origin, and a test that plays the coordinator's swarm."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from shoal.agent.storage.destination import Destination
from shoal.agent.swarm.objects import Objects
from shoal.common.chunks import ChunkSizes
from shoal.common.errors import Refused
from shoal.common.records import ObjectSpec, Outcome
from shoal.common.swarm_records import MIXED, ORIGIN, FetchOrder, PublishOrder
from support.contents import SyntheticFile, read_all
from support.engine import leftovers, open_files, poll, same
from support.fake_swarm import KIB, MIB, all_chunks, have, node, replica_job, specs_of
from support.faults import Drip, Status
from support.origin import FaultOrigin

BIG = SyntheticFile(5 * MIB + 123, seed=1)


def small_files(count: int) -> dict[str, object]:
    return {f"small/{n:03}.bin": SyntheticFile(10_000 + n, seed=n) for n in range(count)}


class Gate:
    """Where threads wait that are about to do something."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_(self) -> None:
        """In a thread."""
        self.reached.set()
        assert self.opened.wait(30.0)


@contextmanager
def gate_before(monkeypatch: pytest.MonkeyPatch, method: str, path: str) -> Iterator[Gate]:
    """The first call of a method of `Destination` for the object of this path waits at the gate; it is open in the end."""
    gate, original = Gate(), getattr(Destination, method)

    def held_up(self: Destination, spec: ObjectSpec, *args: Any, **more: Any) -> object:
        if spec.path == path and not gate.reached.is_set():
            gate.pass_()
        return original(self, spec, *args, **more)

    monkeypatch.setattr(Destination, method, held_up)
    try:
        yield gate
    finally:
        gate.opened.set()


async def test_one_copy_from_the_origin(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG, "empty.txt": b"", **small_files(70)}
    async with FaultOrigin(files) as origin, node(1, tmp_path, specs_of(origin, files)) as one:
        inventory = await one.join()
        assert inventory.chunks == len(one.table) and not have(inventory)
        one.fetch(*range(inventory.chunks))
        await one.until_has(*range(inventory.chunks))
        data = read_all(BIG)
        first = one.table.bundles
        assert [one.digests[first + n] for n in range(6)] == [
            blake3(data[at : at + MIB]).digest() for at in range(0, len(data), MIB)
        ]
        assert sum(arrival.from_origin for arrival in one.arrivals) == origin.log.bytes_served
        await one.publish_all()
        for path, content in files.items():
            assert same(tmp_path / path, content)  # type: ignore[arg-type]
        assert leftovers(tmp_path) == []


async def test_chunks_are_passed_on_while_they_arrive(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path / "1", specs) as one, node(2, tmp_path / "2", specs) as two:
            await asyncio.gather(one.join(), two.join())
            origin.faults.add(Drip(rate=256 * KIB))
            two.meet(one)
            one.fetch(0)
            two.fetch(0, peer=1)
            await poll(lambda: one.server.counters.sent_bytes > 0)
            assert 0 not in one.digests, "it was passed on before it was whole"
            await two.until_has(0)
            await one.until_has(0)
            assert two.digests == one.digests
            assert origin.log.bytes_served == MIB
            (arrival,) = two.arrivals
            assert (arrival.peer, arrival.from_origin, arrival.from_peers) == (1, 0, MIB)


async def test_three_agents_fetch_each_byte_once(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG, **small_files(100)}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with (
            node(1, tmp_path / "1", specs) as one,
            node(2, tmp_path / "2", specs) as two,
            node(3, tmp_path / "3", specs) as three,
        ):
            nodes = (one, two, three)
            await asyncio.gather(*(each.join() for each in nodes))
            for each in nodes:
                each.meet(*nodes)
            bundles = one.table.bundles
            for chunk in all_chunks(nodes):
                source = nodes[chunk % 3]
                source.fetch(chunk)
                if chunk < bundles:
                    await source.until_has(chunk)
                for each in nodes:
                    if each is not source:
                        each.fetch(chunk, peer=source.number, digest=source.digests.get(chunk, b""))
            for each in nodes:
                await each.until_has(*all_chunks(nodes))
            total = sum(spec.size or 0 for spec in specs)
            assert origin.log.bytes_served == total
            assert one.digests == two.digests == three.digests
            await one.publish_all(two)
            await two.publish_all()
            await three.publish_all(two)
            for each in nodes:
                for path, content in files.items():
                    assert same(each.to / path, content)  # type: ignore[arg-type]
                assert leftovers(each.to) == []


async def test_a_new_worker_on_the_same_folder_goes_on(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG, **small_files(3)}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path, specs) as one:
            await one.join()
            one.fetch(0, 2, 3)
            await one.until_has(0, 2, 3)
            origin.faults.add(Drip(rate=512 * KIB))
            one.fetch(4)
            await one.until(lambda: one.arrived(4) > 0)
            before = one.digests
        origin.faults.clear()
        async with node(1, tmp_path, specs) as again:
            inventory = await again.join()
            assert have(inventory) == {0, 2, 3}
            assert {known.chunk: known.digest for known in inventory.digests} == {2: before[2], 3: before[3]}
            again.fetch(1, *range(4, inventory.chunks))
            await again.until_has(1, *range(4, inventory.chunks))
            assert 0 < next(a.from_origin for a in again.arrivals if a.chunk == 4) < MIB
            await again.publish_all()
        assert same(tmp_path / "big.bin", BIG)


async def test_a_peer_that_sends_bad_bytes_is_named(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path / "1", specs) as one, node(2, tmp_path / "2", specs) as two:
            await asyncio.gather(one.join(), two.join())
            one.fetch(0)
            await one.until_has(0)
            (part,) = (tmp_path / "1").rglob("*.part")
            with part.open("r+b") as file:
                file.seek(MIB // 2)
                file.write(b"damaged")
            two.meet(one)
            two.fetch(0, peer=1, digest=one.digests[0])
            await two.until(lambda: bool(two.failures))
            (failed,) = two.failures
            assert (failed.chunk, failed.peer, failed.failure.code) == (0, 1, "verification")
            two.fetch(0, digest=one.digests[0])
            await two.until_has(0)
            assert two.arrivals[0].from_origin == MIB, "none of the bad chunk was kept"


async def test_a_peer_that_dies_costs_what_was_under_way(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path / "1", specs) as one, node(2, tmp_path / "2", specs) as two:
            await asyncio.gather(one.join(), two.join())
            drip = origin.faults.add(Drip(rate=512 * KIB))
            two.meet(one)
            one.fetch(0)
            two.fetch(0, peer=1)
            await two.until(lambda: two.arrived(0) > 0)
            await one.server.aclose()
            await two.until(lambda: bool(two.failures))
            assert (two.failures[0].chunk, two.failures[0].peer) == (0, 1)
            origin.faults.remove(drip)
            two.fetch(0)
            await two.until_has(0)
            (arrival,) = two.arrivals
            assert arrival.digest == blake3(read_all(BIG)[:MIB]).digest()
            assert arrival.from_peers > 0 and arrival.from_origin + arrival.from_peers == MIB


async def test_an_order_moves_to_another_source(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path / "1", specs) as one, node(2, tmp_path / "2", specs) as two:
            await asyncio.gather(one.join(), two.join())
            one.fetch(0)
            await one.until_has(0)
            two.meet(one)
            origin.faults.add(Drip(rate=256 * KIB))
            two.fetch(0)
            await two.until(lambda: two.arrived(0) > 0)
            two.fetch(0, peer=1, digest=one.digests[0])
            await two.until_has(0)
            (arrival,) = two.arrivals
            assert arrival.peer == MIXED and arrival.from_peers > MIB // 2 and arrival.from_origin > 0


async def test_who_begins_a_chunk_of_two_sources_again_tells_so(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path / "1", specs) as one, node(2, tmp_path / "2", specs) as two:
            await asyncio.gather(one.join(), two.join())
            one.fetch(0)
            await one.until_has(0)
            origin.put("big.bin", SyntheticFile(BIG.size, seed=9))
            origin.faults.add(Drip(rate=256 * KIB))
            two.meet(one)
            two.fetch(0)
            await two.until(lambda: two.arrived(0) > 0)
            two.fetch(0, peer=1, digest=one.digests[0])
            await two.until_has(0)
            assert two.digests == one.digests
            assert two.lost == [0], "others may have got of it what was wrong: that is not this agent's fault"


async def test_a_finished_copy_serves_its_files(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG, **small_files(5)}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path / "1", specs) as one, node(2, tmp_path / "2", specs) as two:
            await one.join()
            one.fetch(*all_chunks([one]))
            await one.until_has(*all_chunks([one]))
            await one.publish_all()
            served = origin.log.bytes_served
            inventory = await two.join()
            two.meet(one)
            for chunk in range(inventory.chunks):
                two.fetch(chunk, peer=1, digest=one.digests[chunk])
            await two.until_has(*range(inventory.chunks))
            await two.publish_all(one)
            assert origin.log.bytes_served == served
            for path, content in files.items():
                assert same(two.to / path, content)  # type: ignore[arg-type]


async def test_a_damaged_final_file_is_told_and_not_served(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG, **small_files(2)}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path / "1", specs) as one, node(2, tmp_path / "2", specs) as two:
            await one.join()
            one.fetch(*all_chunks([one]))
            await one.until_has(*all_chunks([one]))
            await one.publish_all()
            (one.to / "big.bin").write_bytes(b"short")
            (one.to / "small/001.bin").unlink()
            await two.join()
            two.meet(one)
            two.fetch(0, 3, peer=1)
            await two.until(lambda: len(two.failures) == 2)
            assert {(f.chunk, f.peer, f.failure.code) for f in two.failures} == {
                (0, 1, "not-found"),
                (3, 1, "not-found"),
            }
            await one.until(lambda: set(one.lost) == set(all_chunks([one])))


async def test_reset_begins_an_object_anew(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin, node(1, tmp_path, specs_of(origin, files)) as one:
        await one.join()
        one.fetch(0, 1)
        await one.until_has(0, 1)
        origin.faults.add(Drip(rate=512 * KIB))
        one.fetch(2)
        await one.until(lambda: one.arrived(2) > 0)
        origin.faults.clear()
        served = origin.log.bytes_served
        one.messages.clear()
        one.obey(reset=(10,), fetch=tuple(FetchOrder(chunk=chunk) for chunk in range(6)))
        await one.until_has(*range(6))
        assert sum(arrival.from_origin for arrival in one.arrivals) == BIG.size
        assert origin.log.bytes_served - served >= BIG.size
        await one.publish_all()
    assert same(tmp_path / "big.bin", BIG)


async def test_each_life_of_an_object_has_a_partial_file_of_its_own(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files, digested=False)
        later = [replace(spec, life=7) for spec in specs]
        async with node(1, tmp_path, specs) as one:
            assert (await one.join()).lives == ()
            one.fetch(0, 1)
            await one.until_has(0, 1)
        async with node(1, tmp_path, later) as one:  # it was not there when the object was begun anew
            inventory = await one.join()
            assert (have(inventory), inventory.lives) == (set(), (7,))
        async with node(1, tmp_path, specs) as one:  # nor does it know of it, until it is told
            assert have(await one.join()) == {0, 1}
            one.messages.clear()
            one.obey(reset=(10,), lives=(7,), fetch=(FetchOrder(chunk=2),))
            await one.until_has(2)
            one.worker.admitted()
            assert (have(one.inventories[-1]), one.inventories[-1].lives) == ({2}, (7,))
        async with node(1, tmp_path, later) as one:
            assert have(await one.join()) == {2}
            one.fetch(0, 1, 3, 4, 5)
            await one.until_has(0, 1, 3, 4, 5)
            await one.publish_all()
            assert leftovers(tmp_path) == []
        assert same(tmp_path / "big.bin", BIG)
        async with node(1, tmp_path, [replace(spec, life=8) for spec in specs]) as one:
            assert have(await one.join()) == set(), "what has its name may be of an earlier life, too"


async def test_a_dropped_chunk_comes_again(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin, node(1, tmp_path, specs_of(origin, files)) as one:
        await one.join()
        one.fetch(*range(6))
        one.obey(vouch=(10,))
        await one.until(lambda: bool(one.vouches))
        one.messages.clear()
        one.obey(drop=(1,))
        one.fetch(1)
        await one.until_has(1)
        assert one.arrivals[0].from_origin == MIB
        one.obey(publish=(PublishOrder(object_id=10, digest=specs_of(origin, files)[0].digest),))
        assert (await one.ended()).outcome is Outcome.DONE
    assert same(tmp_path / "big.bin", BIG)


async def test_the_copy_is_complete_without_what_is_given_up(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG, "other.bin": SyntheticFile(MIB + 5, seed=2), **small_files(3)}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        origin.faults.add(Status(status=404), path="small/001.bin")
        async with node(1, tmp_path, specs) as one:
            await one.join()
            one.fetch(0)
            await one.until(lambda: bool(one.failures))
            (failed,) = one.failures
            assert (failed.chunk, failed.peer, failed.object_id) == (0, ORIGIN, 13)
            assert (failed.failure.code, failed.failure.retryable) == ("not-found", False)
            origin.faults.add(Drip(rate=100 * KIB), path="other.bin")
            one.fetch(*range(1, 9))
            one.obey(give_up=(11, 13))
            one.fetch(0)
            await one.until_has(*range(7))
            one.obey(vouch=(10,))
            await one.until(lambda: bool(one.vouches))
            one.obey(publish=(PublishOrder(object_id=10, digest=one.vouches[0].digest),))
            assert (await one.ended()).outcome is Outcome.DONE
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.bin")) == [
        "big.bin",
        "small/000.bin",
        "small/002.bin",
    ]
    assert leftovers(tmp_path) == []


async def test_a_revoked_copy_stops_and_keeps_what_came(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin:
        before = open_files()
        async with node(1, tmp_path, specs_of(origin, files)) as one:
            await one.join()
            one.fetch(0)
            await one.until_has(0)
            origin.faults.add(Drip(rate=512 * KIB))
            one.fetch(1, 2)
            await one.until(lambda: one.arrived(1) > 0)
            one.worker.stop(one.ref)
            await poll(lambda: not one.worker.held)
            assert one.reports == []
            inventory = await one.join()
            assert have(inventory) == {0}
        await poll(lambda: open_files() <= before)


async def test_a_drained_copy_is_returned(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin, node(1, tmp_path, specs_of(origin, files)) as one:
        await one.join()
        await one.worker.drain(1.0)
        assert (await one.ended()).outcome is Outcome.RETURNED


async def test_a_new_session_begins_with_the_inventory(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin, node(1, tmp_path, specs_of(origin, files)) as one:
        await one.join()
        one.fetch(0, 1)
        await one.until_has(0, 1)
        drip = origin.faults.add(Drip(rate=512 * KIB))
        one.fetch(2)
        await one.until(lambda: one.arrived(2) > 0)
        one.messages.clear()
        one.worker.admitted()
        inventory = one.messages[0]
        assert inventory == one.inventories[0] and have(one.inventories[0]) == {0, 1}
        origin.faults.remove(drip)
        one.fetch(*range(2, 6))
        await one.until_has(*range(2, 6))
        assert 0 < next(a.from_origin for a in one.arrivals if a.chunk == 2) <= MIB
        await one.publish_all()
        one.messages.clear()
        one.worker.admitted()
        assert have(one.inventories[0]) == set(range(6)) and one.inventories[0].published == (10,)
        one.obey(ended=True)
        await poll(lambda: not one.worker._replicas)  # pyright: ignore[reportPrivateUsage]
    assert same(tmp_path / "big.bin", BIG)


async def test_an_object_of_unknown_size(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files, sized=False, digested=False)
        async with node(1, tmp_path / "1", specs) as one, node(2, tmp_path / "2", specs) as two:
            await asyncio.gather(one.join(), two.join())
            drip = origin.faults.add(Drip(rate=2 * MIB))
            one.fetch(0)
            two.meet(one)
            two.fetch(0, peer=1)
            await one.until(lambda: one.arrived(0) > 0)
            origin.faults.remove(drip)
            await one.until_has(0)
            await two.until_has(0)
            assert one.arrivals[0].size == two.arrivals[0].size == BIG.size
            assert one.digests == two.digests
            await one.publish_all()
            await two.publish_all(one)
    assert same(tmp_path / "1/big.bin", BIG) and same(tmp_path / "2/big.bin", BIG)


async def test_a_wrong_digest_of_the_whole_is_told(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin:
        (spec,) = specs_of(origin, files)
        wrong = replace(spec, digest="sha256:" + "0" * 64)
        async with node(1, tmp_path, [wrong]) as one:
            await one.join()
            one.obey(vouch=(10,))
            one.fetch(*range(6))
            await one.until(lambda: bool(one.vouches))
            failure = one.vouches[0].failure
            assert failure is not None and failure.code == "verification"
            assert one.vouches[0].digest == spec.digest


async def test_every_agent_verifies_where_that_is_asked_for(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin:
        (spec,) = specs_of(origin, files)
        job = replica_job(tmp_path / "1", verify_everywhere=True)
        async with node(1, tmp_path / "1", [spec], job=job) as one:
            await one.join()
            one.fetch(*range(6))
            await one.until_has(*range(6))
            one.obey(publish=(PublishOrder(object_id=10, digest=spec.digest),))
            assert (await one.ended()).outcome is Outcome.DONE
        wrong = replace(spec, digest="sha256:" + "0" * 64)
        job = replica_job(tmp_path / "2", verify_everywhere=True)
        async with node(2, tmp_path / "2", [wrong], job=job) as two:
            await two.join()
            two.fetch(*range(6))
            await two.until(lambda: set(two.lost) == set(range(6)))
            two.obey(publish=(PublishOrder(object_id=10, digest=wrong.digest),))
            assert two.published == []


async def test_a_file_that_changed_at_the_origin(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin, node(1, tmp_path, specs_of(origin, files, digested=False)) as one:
        await one.join()
        one.fetch(0)
        await one.until_has(0)
        other = SyntheticFile(BIG.size, seed=9)
        origin.put("big.bin", other)
        one.fetch(1)
        await one.until(lambda: bool(one.failures))
        assert (one.failures[0].peer, one.failures[0].failure.code) == (ORIGIN, "changed")
        one.obey(reset=(10,), vouch=(10,), fetch=tuple(FetchOrder(chunk=chunk) for chunk in range(6)))
        await one.until(lambda: bool(one.vouches))
        one.obey(publish=(PublishOrder(object_id=10, digest=one.vouches[0].digest, etag="x"),))
        assert (await one.ended()).outcome is Outcome.DONE
        assert same(tmp_path / "big.bin", other)


async def test_a_disk_that_takes_no_more_fails_the_copy(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    (tmp_path / "to").write_bytes(b"in the way")
    async with FaultOrigin(files) as origin, node(1, tmp_path / "to", specs_of(origin, files)) as one:
        one.grant()
        report = await one.ended()
        assert report.outcome is Outcome.FAILED and report.failure is not None
        assert report.failure.code == "not-writable"


async def test_an_order_for_what_this_agents_rules_forbid_fails_the_copy_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin, node(1, tmp_path, specs_of(origin, files)) as one:
        await one.join()

        def refuse(self: Objects, position: int) -> None:
            raise Refused("big.bin", cause="it is larger than security.max_object_size")

        monkeypatch.setattr(Objects, "get", refuse)
        one.obey(reset=(10,))
        report = await one.ended()
        assert report.outcome is Outcome.FAILED and report.failure is not None
        assert report.failure.code == "refused"


async def test_slots_bound_what_is_under_way(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin, node(1, tmp_path, specs_of(origin, files), download_slots=2) as one:
        await one.join()
        drip = origin.faults.add(Drip(rate=256 * KIB))
        one.fetch(*range(6))
        await one.until(lambda: one.arrived(1) > 0)
        assert origin.log.count() == 2
        origin.faults.remove(drip)
        await one.until_has(*range(6))


async def test_a_bundle_with_a_wrong_digest_is_not_published(tmp_path: Path) -> None:
    files: dict[str, object] = dict(small_files(5))
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path / "1", specs) as one, node(2, tmp_path / "2", specs) as two:
            await asyncio.gather(one.join(), two.join())
            one.fetch(0)
            await one.until_has(0)
            path = one.to / "small/003.bin"
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            two.meet(one)
            two.fetch(0, peer=1, digest=one.digests[0])
            await two.until(lambda: bool(two.failures))
            assert two.failures[0].failure.code == "verification"
            assert not list(two.to.rglob("*.bin"))


async def test_sizes_of_chunks_that_do_not_divide_anything(tmp_path: Path) -> None:
    files: dict[str, object] = {"big.bin": BIG, **small_files(9)}
    job = replica_job(tmp_path, sizes=ChunkSizes(chunk_bytes=777_777, bundle_bytes_max=25_000, bundle_objects_max=4))
    async with FaultOrigin(files) as origin, node(1, tmp_path, specs_of(origin, files), job=job) as one:
        await one.join()
        one.fetch(*all_chunks([one]))
        await one.until_has(*all_chunks([one]))
        await one.publish_all()
        for path, content in files.items():
            assert same(tmp_path / path, content)  # type: ignore[arg-type]


async def test_archives_are_unpacked_when_all_is_there(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("inner/hello.txt")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"hello"))
    files: dict[str, object] = {"sub/data.tar.gz": packed.getvalue(), "big.bin": BIG}
    job = replica_job(tmp_path, unpack="auto")
    async with FaultOrigin(files) as origin, node(1, tmp_path, specs_of(origin, files), job=job) as one:
        await one.join()
        one.fetch(*all_chunks([one]))
        await one.until_has(*all_chunks([one]))
        await one.publish_all()
    assert (tmp_path / "sub/inner/hello.txt").read_bytes() == b"hello"


def parts(to: Path) -> list[str]:
    return [name for name in leftovers(to) if name.endswith(".part")]


async def test_a_peer_that_asks_while_a_file_gets_its_name_is_sent_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: dict[str, object] = {"big.bin": BIG, "other.bin": SyntheticFile(MIB + 5, seed=2)}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path, specs) as one:
            await one.join()
            one.fetch(*all_chunks([one]))
            await one.until_has(*all_chunks([one]))
            with gate_before(monkeypatch, "publish", "big.bin") as gate:
                one.obey(publish=(PublishOrder(object_id=10, digest=specs[0].digest),))
                await poll(gate.reached.is_set)
                asking = asyncio.create_task(one.worker.shelf.open_object("job1", 10, MIB, 2 * MIB))
                await asyncio.sleep(0.05)
            stretch = await asking
            try:
                async with asyncio.timeout(30.0):
                    await stretch.more(0)
                fd, at, count = stretch.ready(0)
                assert os.pread(fd, count, at) == read_all(BIG)[MIB : 2 * MIB]
            finally:
                stretch.close()
            assert len(parts(tmp_path)) == 1, "no partial file is made anew for what has its name"
            one.obey(publish=(PublishOrder(object_id=11, digest=specs[1].digest),))
            assert (await one.ended()).outcome is Outcome.DONE
            assert leftovers(tmp_path) == []


async def test_an_object_that_begins_anew_while_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: dict[str, object] = {"big.bin": BIG}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path, specs) as one:
            await one.join()
            one.fetch(*range(6))
            await one.until_has(*range(6))
            with gate_before(monkeypatch, "publish", "big.bin") as gate:
                one.obey(publish=(PublishOrder(object_id=10, digest=specs[0].digest),))
                await poll(gate.reached.is_set)
                one.messages.clear()
                one.obey(reset=(10,), fetch=tuple(FetchOrder(chunk=chunk) for chunk in range(6)))
                await asyncio.sleep(0.05)
            await one.until_has(*range(6))
            assert sum(arrival.from_origin for arrival in one.arrivals) == BIG.size
            one.obey(publish=(PublishOrder(object_id=10, digest=specs[0].digest),))
            assert (await one.ended()).outcome is Outcome.DONE
            assert same(tmp_path / "big.bin", BIG) and leftovers(tmp_path) == []
            held = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
            mine = [path for path in held if path.startswith(str(tmp_path.resolve()))]
            assert not [path for path in mine if ".part" in path or ".map" in path]


async def test_a_copy_is_not_complete_while_a_thread_still_names_files_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: dict[str, object] = dict(small_files(5))
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path / "1", specs) as one, node(2, tmp_path / "2", specs) as two:
            await asyncio.gather(one.join(), two.join())
            one.fetch(0)
            await one.until_has(0)
            two.meet(one)
            with gate_before(monkeypatch, "publish_bytes", "small/003.bin") as gate:
                two.fetch(0, peer=1, digest=one.digests[0])
                await poll(gate.reached.is_set)
                two.fetch(0, digest=one.digests[0])  # the attempt is cancelled, its thread is not
                await two.until_has(0)
                await asyncio.sleep(0.2)
                assert two.reports == [], "what the thread makes would stay when the work folder was tidied before"
            assert (await two.ended()).outcome is Outcome.DONE
            assert leftovers(two.to) == [] and [path.name for path in (two.to / ".shoal").iterdir()] == [
                "manifest.json"
            ]


@pytest.mark.parametrize("way", ["origin", "peer"])
async def test_names_that_cannot_be_written_fail_the_copy_when_all_else_is_there(tmp_path: Path, way: str) -> None:
    files: dict[str, object] = {"big.bin": BIG, "other.bin": SyntheticFile(MIB + 5, seed=2), **small_files(4)}
    async with FaultOrigin(files) as origin:
        specs = specs_of(origin, files)
        async with node(1, tmp_path / "1", specs) as one, node(2, tmp_path / "2", specs) as two:
            for blocked in ("small/001.bin", "other.bin"):
                (two.to / blocked / "in the way").mkdir(parents=True)
            await asyncio.gather(one.join(), two.join())
            one.fetch(*all_chunks([one]))
            await one.until_has(*all_chunks([one]))
            two.meet(one)
            for chunk in all_chunks([one]):
                two.fetch(chunk, peer=0 if way == "origin" else 1, digest=one.digests[chunk])
            await two.until_has(*range(1, len(one.table)))
            await two.until(lambda: bool(two.failures))
            (failed,) = two.failures
            assert (failed.chunk, failed.object_id, failed.failure.code) == (0, 13, "conflict")
            two.obey(publish=tuple(PublishOrder(object_id=spec.object_id, digest=spec.digest) for spec in specs[:2]))
            report = await two.ended()
            assert report.outcome is Outcome.FAILED and report.failure is not None and not report.failure.retryable
            assert report.failure.code == "conflict" and "small/001.bin" in report.failure.text
            assert "1 more" in report.failure.text
            await poll(lambda: not two.worker._replicas)  # pyright: ignore[reportPrivateUsage]
            for path in ("big.bin", "small/000.bin", "small/002.bin", "small/003.bin"):
                assert same(two.to / path, files[path])  # type: ignore[arg-type]
            assert leftovers(two.to) == []
            await one.publish_all()
