"""An object that must come again, while several agents hold a part of it: what each remembers of it counts no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.contents import SyntheticFile, sha256_hex
from support.faults import FlipByte
from support.fleet import Fleet, file_sha256_hex
from support.http_answer import Entity
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.origin import FaultOrigin, OriginFile
from support.stand_in import in_thread

MIB = 1 << 20
BIG = SyntheticFile(64 * MIB, seed=5)


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/big", {"model.bin": BIG})]) as stand_in:
        yield stand_in


@pytest.fixture
def fleet(tmp_path: Path, hub: StandInHub) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", endpoint=hub.url, environ={"SHOAL_FETCH_CONNECTIONS_PER_HOST": "2"}) as made:
        yield made


class WrongAtFirst(FlipByte):
    """Until as many bytes were served as the file has: who begins anew can only do so after that."""

    def __init__(self, hub: StandInHub) -> None:
        super().__init__()
        self._hub = hub

    def on_entity(self, entity: Entity) -> Entity:
        return super().on_entity(entity) if self._hub.log.bytes_served < BIG.size else entity


def test_a_wrong_byte_is_found_at_the_end_and_all_agents_begin_anew(
    fleet: Fleet, hub: StandInHub, tmp_path: Path
) -> None:
    hub.faults.add(WrongAtFirst(hub), kinds=("cdn",))
    hub.faults.connection_rate = 8 * MIB
    fleet.start("a1", "a2", "a3")
    job = fleet.submit("hf://acme/big", "--to", tmp_path / "to")
    fleet.ended(job, timeout_s=90)
    assert fleet.objects(job)[0].failures == 1
    assert file_sha256_hex(tmp_path / "to/model.bin") == sha256_hex(BIG)
    assert hub.log.where(kind="cdn").bytes_served <= 2.2 * BIG.size


def test_a_file_that_changes_while_all_agents_fetch_it_is_wholly_the_new_one(fleet: Fleet, tmp_path: Path) -> None:
    """It has no digest that would show a mixture."""
    new = SyntheticFile(BIG.size, seed=77)
    with in_thread(FaultOrigin({"model.bin": OriginFile(content=BIG, etag='"old"')})) as origin:
        origin.faults.total_rate = 16 * MIB
        origin.faults.slow_after = (16 * MIB, 2 * MIB)
        fleet.start("a1", "a2", "a3")
        job = fleet.submit(origin.url_of("model.bin"), "--to", tmp_path / "to")
        fleet.until_arrived(job, 16 * MIB)
        origin.put("model.bin", OriginFile(content=new, etag='"new"'))
        origin.faults.clear()
        fleet.ended(job, timeout_s=90)
    assert file_sha256_hex(tmp_path / "to/model.bin") == sha256_hex(new)
