"""What an agent decides about its copy of a replicated job."""

from __future__ import annotations

import pytest

from shoal.agent.swarm.book import Book
from shoal.agent.swarm.catalog import Catalog
from shoal.agent.swarm.steps import Bring, Compute, Finish, Follow, Forget, Place, Reset, Step, Stop
from shoal.common.chunks import ChunkSizes, ChunkTable
from shoal.common.records import Failure, ObjectSpec
from shoal.common.swarm_records import Arrival, FetchFailure, FetchOrder, PublishOrder, SwarmOrders

KIB = 1 << 10
MIB = 1 << 20
SIZES = ChunkSizes(chunk_bytes=MIB)
WRONG = Failure(code="verification", text="it differs")


def book(slots: int = 8, compute_all: bool = False) -> Book:
    """Objects 1 and 2 are bundled in chunk 0; object 3 has the chunks 1 to 3, object 4 chunk 4."""
    table = ChunkTable([1, 2, 3, 4], [KIB, 0, 3 * MIB, MIB], SIZES)
    made = Book(table, slots=slots, compute_all=compute_all)
    assert made.looked() == []
    return made


def orders(**what: object) -> SwarmOrders:
    return SwarmOrders(job_id="j", token=1, **what)  # type: ignore[arg-type]


def fetch(*chunks: int, peer: int = 0) -> SwarmOrders:
    return orders(fetch=tuple(FetchOrder(chunk=chunk, peer=peer) for chunk in chunks))


def brought(steps: list[Step]) -> list[int]:
    return [step.order.chunk for step in steps if isinstance(step, Bring)]


def arrive(made: Book, *chunks: int) -> list[Step]:
    """Order chunks and let them arrive."""
    made.obey(fetch(*chunks))
    return [step for chunk in chunks for step in made.arrived(Arrival(chunk=chunk, digest=bytes([chunk]) * 32))]


def test_slots_bound_what_is_under_way() -> None:
    made = book(slots=2)
    assert brought(made.obey(fetch(1, 2, 3))) == [1, 2]
    assert brought(made.arrived(Arrival(chunk=2, digest=b"x"))) == [3]
    assert brought(made.failed(FetchFailure(chunk=1, peer=0, failure=WRONG))) == []
    report = made.report("j", 1)
    assert [arrival.chunk for arrival in report.arrived] == [2] and [failed.chunk for failed in report.failed] == [1]
    assert not made.has_news and made.held_bytes == MIB


def test_an_order_for_a_chunk_under_way_moves_it() -> None:
    made = book(slots=1)
    made.obey(fetch(1, 2))
    assert made.obey(fetch(1)) == [], "it is on its way from there"
    (step,) = made.obey(fetch(1, peer=7))
    assert isinstance(step, Bring) and step.order.peer == 7
    assert made.obey(fetch(2, peer=7)) == [], "it waits"
    assert brought(made.arrived(Arrival(chunk=1, digest=b"x"))) == [2]
    order = made.order(2)
    assert order is not None and order.peer == 7


def test_an_order_that_crossed_our_word_is_answered() -> None:
    made = book()
    arrive(made, 1)
    made.report("j", 1)
    assert made.obey(fetch(1)) == []
    (arrival,) = made.report("j", 1).arrived
    assert (arrival.chunk, arrival.digest, arrival.from_origin) == (1, b"\1" * 32, 0)


def test_a_copy_is_complete_when_all_has_its_name() -> None:
    made = book()
    made.small_placed([0, 1])
    assert arrive(made, 0, 1, 2, 3, 4) == []
    three = PublishOrder(object_id=3, digest="sha256:x")
    assert made.obey(orders(publish=(three,))) == [Place(2, three)]
    assert made.obey(orders(publish=(three,))) == [], "it is being placed"
    assert made.placed(2) == []
    assert made.obey(orders(give_up=(4,))) == [Finish()]
    assert made.obey(orders(give_up=(4,))) == []
    assert made.report("j", 1).published == (3,)
    assert made.obey(orders(publish=(three,))) == []
    assert made.report("j", 1).published == (3,), "told again when asked again"


def test_what_was_found_is_in_the_inventory() -> None:
    table = ChunkTable([1, 2, 3, 4], [KIB, 0, 3 * MIB, MIB], SIZES)
    made = Book(table, slots=1)
    made.found_object(0)
    made.found_object(1)
    made.found_object(3)
    made.found_chunks({2: b"d" * 32})
    assert made.looked() == []
    inventory = made.inventory("j", 5)
    assert (inventory.token, inventory.chunks, inventory.have) == (5, 5, bytes([0b10101]))
    assert inventory.published == (4,)
    assert [(known.chunk, known.digest) for known in inventory.digests] == [(2, b"d" * 32)]


def test_a_copy_that_is_all_there_is_complete_at_once() -> None:
    made = Book(ChunkTable([1], [MIB], SIZES), slots=1)
    made.found_object(0)
    assert made.looked() == [Finish()]
    assert Book(ChunkTable([], [], SIZES), slots=1).looked() == [Finish()]


def test_a_new_session_begins_from_the_inventory() -> None:
    made = book(slots=1)
    arrive(made, 1)
    made.obey(fetch(2, 3))
    made.obey(orders(vouch=(3,)))
    assert made.readmit() == [Stop(2)]
    assert not made.has_news and not made.is_ordered(3)
    assert made.arrived(Arrival(chunk=2, digest=b"late")) == []
    assert not made.has(2)
    assert not made.wants_digest(2)


def test_vouching() -> None:
    made = book()
    assert made.obey(orders(vouch=(3,))) == [Follow(2)]
    assert arrive(made, 1, 2) == []
    assert arrive(made, 3) == [Compute(2)]
    assert made.computed(2, "sha256:x", None) == []
    (vouch,) = made.report("j", 1).vouched
    assert (vouch.object_id, vouch.digest, vouch.failure) == (3, "sha256:x", None)
    made.readmit()
    assert made.obey(orders(vouch=(3,))) == [], "it need not be computed again"
    assert len(made.report("j", 1).vouched) == 1


def test_a_digest_of_bytes_that_were_dropped_counts_for_nothing() -> None:
    made = book()
    made.obey(orders(vouch=(3,)))
    arrive(made, 1, 2, 3)
    assert made.obey(orders(drop=(2,))) == [Forget(2)]
    assert made.computed(2, "sha256:x", None) == []
    assert arrive(made, 2) == [Compute(2)]


def test_reset_and_drop_stop_what_is_under_way() -> None:
    made = book()
    made.obey(fetch(1, 2, 4))
    made.arrived(Arrival(chunk=1, digest=b"x"))
    steps = made.obey(orders(reset=(3,), fetch=(FetchOrder(chunk=1),)))
    assert steps == [Stop(2), Reset(2), Bring(FetchOrder(chunk=1))]
    assert not made.has(1) and not made.is_ordered(2)
    assert made.obey(orders(drop=(4,), fetch=(FetchOrder(chunk=4, peer=3),))) == [
        Stop(4),
        Forget(4),
        Bring(FetchOrder(chunk=4, peer=3)),
    ]


def test_a_published_object_may_be_reset() -> None:
    made = book()
    arrive(made, 4)
    made.obey(orders(publish=(PublishOrder(object_id=4, digest="d"),)))
    made.placed(3)
    assert made.is_placed(3)
    made.obey(orders(reset=(4,)))
    assert not made.is_placed(3) and not made.has(4)


def test_a_name_that_was_given_to_what_was_reset_meanwhile_does_not_count() -> None:
    made = book()
    arrive(made, 4)
    made.obey(orders(publish=(PublishOrder(object_id=4, digest="d"),)))
    made.obey(orders(reset=(4,)))
    assert made.placed(3) == [] and not made.is_placed(3)


def test_every_agent_computes_where_that_is_asked_for() -> None:
    made = book(compute_all=True)
    assert arrive(made, 4) == [Compute(3)]
    order = PublishOrder(object_id=4, digest="d")
    assert made.obey(orders(publish=(order,))) == [], "its digest is not known yet"
    assert made.computed(3, "d", None) == [Place(3, order)]


def test_a_copy_that_went_bad_is_lost_and_comes_again() -> None:
    made = book(compute_all=True)
    arrive(made, 4)
    assert made.computed(3, "d", WRONG) == [Reset(3)]
    assert made.report("j", 1).lost == (4,) and not made.has(4)
    assert brought(made.obey(fetch(4))) == [4]


def test_a_seed_tells_what_it_lost_and_brings_nothing() -> None:
    made = Book(ChunkTable([1, 2], [KIB, 2 * MIB], SIZES), slots=1)
    made.found_object(0)
    made.found_object(1)
    assert made.looked() == [Finish()]
    assert made.lost(1) == []
    assert made.report("j", 1).lost == (1, 2)
    assert made.obey(fetch(1)) == []


def test_bundles_go_on_without_what_is_given_up() -> None:
    made = book()
    assert made.missing_of(0) == [0, 1]
    made.obey(fetch(0))
    made.small_placed([1])
    assert made.obey(orders(give_up=(1,))) == []
    assert made.missing_of(0) == [] and made.present_of(0) == [1]
    assert made.arrived(Arrival(chunk=0, digest=b"x")) == [] and made.has(0)


def test_a_size_that_was_not_known() -> None:
    made = Book(ChunkTable([7], [None], SIZES), slots=1)
    made.obey(fetch(0))
    made.arrived(Arrival(chunk=0, digest=b"x", size=99))
    assert made.table.size(0) == 99
    made.obey(orders(reset=(7,)))
    made.obey(fetch(0))
    made.arrived(Arrival(chunk=0, digest=b"y", size=100))
    assert made.has(0)


def test_orders_for_what_is_not_there_are_passed_over() -> None:
    made = book()
    assert (
        made.obey(orders(vouch=(99,), reset=(98,), give_up=(97,), drop=(55, -1), fetch=(FetchOrder(chunk=55),))) == []
    )


@pytest.mark.parametrize("count", [0, 1, 64, 65, 3000])
def test_a_catalog_gives_back_what_it_was_given(count: int) -> None:
    specs = [
        ObjectSpec(
            object_id=5 + n, path=f"a/{n}", size=None if n == 3 else n, digest="sha256:" + "0" * 64, url=f"/u/{n}"
        )
        for n in range(count)
    ]
    catalog = Catalog()
    for spec in specs:
        catalog.add(spec)
    assert len(catalog) == count and list(catalog) == specs
    assert [catalog[n] for n in range(count)] == specs
    assert len(catalog.table(SIZES).object_ids) == count
    if count > 3:
        catalog.learn_size(3, 77)
        assert catalog[3].size == 77 and [spec.size for spec in catalog][3] == 77
        catalog.forget_size(3)
        assert catalog[3].size is None


def test_what_is_lost_before_it_was_told_has_not_arrived() -> None:
    made = book()
    arrive(made, 1, 2, 3)
    made.obey(orders(publish=(PublishOrder(object_id=3, digest="sha256:00"),)))
    made.placed(2)
    made.lost(2)
    report = made.report("j", 1)
    assert (report.arrived, report.published, set(report.lost)) == ((), (), {1, 2, 3})


@pytest.mark.parametrize("order", ["reset", "drop"])
def test_what_happened_before_an_object_begins_anew_is_not_told_after(order: str) -> None:
    """It would be read as what came of the bytes that are fetched from now on."""
    made = book()
    made.obey(orders(vouch=(4,)))
    arrive(made, 4)
    made.computed(3, "sha256:00", None)
    made.obey(fetch(1))
    made.failed(FetchFailure(chunk=1, peer=0, failure=WRONG))
    made.obey(orders(reset=(3, 4), seq=2) if order == "reset" else orders(drop=(1, 4), seq=2))
    report = made.report("j", 1)
    assert (report.arrived, report.failed) == ((), ())
    assert len(report.vouched) == (order == "drop"), (
        "whether that still stands the coordinator sees: it knows who holds what"
    )


BLOCKED = Failure(code="conflict", text="a folder of that name is in the way", retryable=False)


def test_an_object_that_cannot_have_its_name_is_answered_with_the_reason_and_the_rest_goes_on() -> None:
    made = book()
    made.obey(fetch(1, 2))
    assert made.forgo(2, BLOCKED) == [Stop(1), Stop(2)]
    assert made.obey(fetch(3, peer=7)) == []
    told = [(failure.chunk, failure.peer, failure.object_id) for failure in made.report("j", 1).failed]
    assert told == [(1, 0, 3), (2, 0, 3), (3, 7, 3)]
    assert made.forgo(0, BLOCKED) == [] and brought(made.obey(fetch(0))) == [0], (
        "the other object of the bundle may come"
    )
    made.small_placed([1])
    unable = made.unable(0)
    assert unable is not None and (unable.object_id, unable.failure) == (1, BLOCKED)
    arrive(made, 4)
    made.obey(orders(give_up=(1,), publish=(PublishOrder(object_id=4, digest="sha256:00"),)))
    assert made.placed(3) == [Finish()]
    assert made.forgone == (BLOCKED, BLOCKED)
