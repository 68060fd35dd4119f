"""Gates of hosts and the waiting at them, in virtual time."""

from __future__ import annotations

import asyncio
import math

import pytest

from shoal.agent.gates import HostGates
from shoal.agent.throttle import BLOCK_S_MAX, Throttle
from shoal.common.records import Answer, HostBudget, HostObservation


class VirtualTime:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def pause(self, changed: asyncio.Event, wait_s: float) -> None:
        if wait_s == math.inf:
            await changed.wait()
        else:
            self.now += wait_s
            await asyncio.sleep(0)


def make(rate_limit: float = 0.0) -> tuple[Throttle, VirtualTime]:
    time = VirtualTime()
    return Throttle(rate_limit=rate_limit, clock=time, pause=time.pause), time


def share(rate: float = 1.0, *, host: str = "a", burst: float = 1.0, connections: int = 0, initial: float = 0.0):
    return HostBudget(
        host=host, requests_per_s=rate, burst=burst, connections=connections, initial=initial, leased=True
    )


def gates(*budgets: HostBudget, until: float = 20.0) -> HostGates:
    made = HostGates()
    made.renewed(until, 0.0, anew=True)
    made.set_budgets(budgets, 0.0, 1)
    return made


# ---- without leases ---------------------------------------------------------------------------------------------------


async def test_blocked_host_is_waited_for() -> None:
    throttle, time = make()
    throttle.throttled("a", 30.0, time.now)
    await throttle.request_turn("b")
    assert time.now == 100.0
    await throttle.request_turn("a")
    assert time.now == pytest.approx(130.0)


async def test_block_that_grows_while_waiting() -> None:
    throttle, time = make()
    throttle.throttled("a", 10.0, time.now)
    waiter = asyncio.create_task(throttle.request_turn("a"))
    await asyncio.sleep(0)
    throttle.throttled("a", 25.0, 100.0)
    await waiter
    assert time.now == pytest.approx(125.0)


async def test_budget_blocks_and_limits() -> None:
    throttle, time = make()
    throttle.set_budgets([HostBudget(host="a", requests_per_s=2.0, blocked_s=5.0)], time.now)
    await throttle.request_turn("a")
    assert time.now == pytest.approx(105.0)
    for _ in range(4):
        await throttle.request_turn("a")
    assert time.now == pytest.approx(106.5)


def test_budget_does_not_shorten_the_hosts_own_word() -> None:
    throttle, _ = make()
    throttle.throttled("a", 60.0, 0.0)
    throttle.set_budgets([HostBudget(host="a", blocked_s=1.0)], 0.0)
    assert throttle.blocked_s("a", 0.0) == 60.0


def test_absurd_waits_are_capped() -> None:
    throttle, _ = make()
    throttle.throttled("a", 1e9, 0.0)
    throttle.throttled("b", -5.0, 0.0)
    assert throttle.blocked_s("a", 0.0) == BLOCK_S_MAX
    assert throttle.blocked_s("b", 0.0) == 0.0


async def test_rate_limit_of_the_whole_agent() -> None:
    throttle, time = make(rate_limit=1000.0)
    for host in ("a", "b", "c"):
        await throttle.bytes_turn(host, 1000)
    assert time.now == pytest.approx(102.0)


async def test_bytes_of_a_host() -> None:
    throttle, time = make()
    throttle.set_budgets([HostBudget(host="a", bytes_per_s=100.0)], time.now)
    await throttle.bytes_turn("b", 10_000)
    await throttle.bytes_turn("a", 300)
    assert time.now == pytest.approx(102.0)


def test_observations_are_told_once() -> None:
    throttle, _ = make()
    calls: list[int] = []
    throttle.urgent = lambda: calls.append(1)
    throttle.answered("a")
    throttle.answered("a")
    throttle.failed("a")
    assert not calls
    throttle.throttled("b", 3.0, 0.0)
    throttle.throttled("b", 2.0, 0.0)
    assert calls == [1, 1]
    assert throttle.is_pressing
    assert throttle.take_observations() == (
        HostObservation(host="a", ok=2, errors=1),
        HostObservation(host="b", throttled=2, retry_after_s=3.0),
    )
    assert not throttle.is_pressing
    assert throttle.take_observations() == ()


def test_what_is_seen_is_told_by_kind() -> None:
    throttle, _ = make()
    throttle.seen("a", Answer.OK, status=200, latency_s=0.25, crawl_delay_s=4.0)
    throttle.seen("a", Answer.REFUSED, status=403)
    throttle.seen("a", Answer.ERROR, status=404)
    (seen,) = throttle.take_observations()
    assert (seen.ok, seen.refused, seen.errors, seen.status) == (1, 1, 1, 404)
    assert (seen.latency_s, seen.crawl_delay_s) == (0.25, 4.0)
    throttle.seen("a", Answer.TIMEOUT, status=0)
    throttle.seen("a", Answer.CONNECT, status=0)
    (seen,) = throttle.take_observations()
    assert (seen.timeouts, seen.unreachable, seen.status) == (1, 1, -1)


def test_a_general_budget_holds_for_hosts_without_their_own() -> None:
    made = HostGates()
    made.set_budgets([HostBudget(host="own.example", requests_per_s=100.0)], 0.0)
    made.set_budgets([HostBudget(host="*", requests_per_s=1.0)], 0.0)
    assert [made.ask("any.example", 0.0) for _ in range(2)] == [0.0, 1.0]
    assert [made.ask("own.example", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    made.set_budgets([HostBudget(host="*", requests_per_s=0.0)], 10.0)
    assert made.ask("any.example", 20.0) == 0.0


def test_a_block_of_a_host_without_a_budget_leaves_it_to_the_general_one() -> None:
    made = HostGates()
    made.set_budgets([HostBudget(host="any.example", blocked_s=5.0)], 0.0, 1)
    assert made.ask("any.example", 1.0) == 4.0
    made.set_budgets([HostBudget(host="*", requests_per_s=1.0)], 5.0, 2)
    assert [made.ask("any.example", 5.0) for _ in range(2)] == [0.0, 1.0]


# ---- leased shares ----------------------------------------------------------------------------------------------------


def test_a_share_begins_with_what_it_is_given() -> None:
    made = gates(share(2.0, burst=2.0), share(2.0, host="b", burst=2.0, initial=1.0))
    assert made.ask("a", 0.0) == pytest.approx(0.5)
    assert [made.ask("b", 0.0), made.ask("b", 0.0)] == pytest.approx([0.0, 0.5])
    assert [made.ask("a", 10.0) for _ in range(3)] == pytest.approx([0.0, 0.0, 0.5])


def test_a_share_runs_out_unless_the_coordinator_answers() -> None:
    made = gates(share(10.0, initial=1.0))
    assert made.ask("a", 19.0) == 0.0
    made.renewed(25.0, 19.5, anew=False)
    assert made.ask("a", 24.9) == 0.0
    assert made.ask("a", 25.0) == math.inf
    assert made.versions(25.0) == (1, 1)  # told, so that it is given another


def test_a_share_that_ran_out_is_dead_even_if_it_is_renewed() -> None:
    made = gates(share(10.0, initial=1.0))
    made.renewed(45.0, 30.0, anew=False)
    assert made.ask("a", 31.0) == math.inf
    assert made.versions(31.0) == (1, 1)
    made.set_budgets([share(10.0, initial=1.0)], 32.0, 2)
    assert made.ask("a", 32.0) == 0.0
    assert made.versions(32.0) == (2, 1)


def test_shares_of_a_former_session_just_run_out() -> None:
    made = gates(share(10.0, initial=1.0))
    made.renewed(40.0, 15.0, anew=True)
    assert made.ask("a", 19.0) == 0.0
    assert made.ask("a", 20.0) == math.inf
    assert made.versions(21.0) == (1, 0)


def test_a_repeated_message_changes_nothing() -> None:
    made = gates(share(10.0, initial=1.0))
    made.set_budgets([HostBudget(host="a", leased=True, nothing=True)], 1.0, 3)
    assert made.set_budgets([share(10.0, initial=1.0)], 2.0, 2) == []
    assert made.ask("a", 2.0) == math.inf
    assert made.obeyed == 3


def test_nothing_unless_it_is_held() -> None:
    nothing = HostBudget(host="a", leased=True, nothing=True, unless_held=True)
    made = gates(share(10.0, initial=1.0))
    made.renewed(40.0, 15.0, anew=True)
    made.set_budgets([nothing], 15.0, 2)
    assert made.ask("a", 15.0) == 0.0
    assert made.ask("a", 20.0) == math.inf
    made.set_budgets([nothing], 21.0, 3)
    assert made.ask("a", 21.0) == math.inf


def test_what_the_general_share_allows_is_not_held_of_a_host_by_name() -> None:
    made = gates(share(10.0, host="*", initial=1.0))
    made.set_budgets([HostBudget(host="a", leased=True, nothing=True, unless_held=True)], 1.0, 2)
    assert made.ask("a", 1.0) == math.inf
    assert made.ask("b", 1.0) == 0.0


def test_connections_bound_what_is_under_way() -> None:
    made = gates(share(100.0, burst=100.0, initial=100.0, connections=2))
    assert [made.ask("a", 0.0, counted=True) for _ in range(3)] == [0.0, 0.0, math.inf]
    made.done("a")
    assert made.ask("a", 0.0, counted=True) == 0.0


def test_fewer_connections_are_confirmed_when_they_are_obeyed() -> None:
    made = gates(share(100.0, burst=100.0, initial=100.0, connections=3))
    assert [made.ask("a", 0.0, counted=True) for _ in range(3)] == [0.0, 0.0, 0.0]
    made.set_budgets([share(50.0, burst=50.0, connections=1)], 1.0, 2)
    made.set_budgets([share(50.0, host="b")], 1.0, 3)
    assert made.versions(1.0)[0] == 1
    made.take_observations()
    made.done("a")
    assert made.versions(1.0)[0] == 1
    made.done("a")
    assert made.versions(1.0)[0] == 3
    assert made.is_pressing
    assert made.ask("a", 5.0, counted=True) == math.inf


def test_bodies_under_way_are_read_as_they_began() -> None:
    made = gates(HostBudget(host="a", bytes_per_s=100.0, leased=True))
    made.set_budgets([HostBudget(host="a", leased=True, nothing=True)], 1.0, 2)
    received = made.received("a")
    assert received is not None
    assert received.rate == 100.0


def test_a_probe_is_one_request_and_its_answer_is_told_by_its_permit() -> None:
    made = gates(HostBudget(host="a", leased=True, probe=True, connections=1, burst=1.0))
    assert made.ask("a", 0.0, counted=True) == 0.0
    assert made.ask("a", 0.0, counted=True) == math.inf
    made.take_observations()
    made.seen("a", Answer.OK, 1.0, status=200)
    made.done("a")
    assert made.is_pressing
    (seen,) = made.take_observations()
    assert (seen.probe, seen.probe_answer) == (1, Answer.OK)
    assert made.ask("a", 1.0, counted=True) == math.inf  # until there is another word
    assert made.take_observations() == ()


def test_a_probe_of_which_nothing_was_said_is_told_too() -> None:
    made = gates(HostBudget(host="a", leased=True, probe=True, connections=1, burst=1.0))
    made.ask("a", 0.0, counted=True)
    made.done("a")
    (seen,) = made.take_observations()
    assert (seen.probe, seen.probe_answer) == (1, None)


def test_a_host_that_throttles_is_not_asked_before_the_coordinators_next_word() -> None:
    made = gates(share(10.0, burst=10.0, initial=10.0))
    made.seen("a", Answer.THROTTLED, 1.0, status=429)
    assert made.ask("a", 2.0) == math.inf
    made.set_budgets([share(10.0)], 3.0, 2)
    assert made.ask("a", 3.0) == 0.0


def test_who_waits_for_a_share_says_so() -> None:
    made = gates(HostBudget(host="a", leased=True, nothing=True), HostBudget(host="*", leased=True, nothing=True))
    made.take_observations()
    made.wait_begins("a")
    assert made.is_pressing
    made.wait_begins("any.example")
    waits = {seen.host: seen.waiting for seen in made.take_observations()}
    assert waits == {"a": 1, "any.example": 1, "*": 1}
    made.wait_ends("a")
    made.wait_ends("any.example")
    assert made.take_observations() == ()


# ---- waiting ----------------------------------------------------------------------------------------------------------


async def test_requests_go_in_the_order_in_which_they_came() -> None:
    throttle, time = make()
    throttle.renewed(math.inf, time.now, anew=True)
    throttle.set_budgets([share(1.0, burst=1.0)], time.now, 1)
    order: list[tuple[int, float]] = []

    async def one(number: int) -> None:
        async with throttle.request("a"):
            order.append((number, time.now))

    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(one(number))
            await asyncio.sleep(0)
    assert order == [(0, 101.0), (1, 102.0), (2, 103.0), (3, 104.0)]


async def test_who_waits_for_a_word_is_woken_by_it_and_a_cancelled_one_leaves_the_queue() -> None:
    throttle, time = make()
    throttle.renewed(math.inf, time.now, anew=True)
    throttle.set_budgets([HostBudget(host="a", leased=True, nothing=True)], time.now, 1)
    first = asyncio.create_task(throttle.request_turn("a"))
    second = asyncio.create_task(throttle.request_turn("a"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    throttle.set_budgets([share(1.0, initial=1.0)], time.now, 2)
    await second
    assert time.now == 100.0
    assert throttle.take_observations() == ()


async def test_a_connection_that_comes_back_lets_the_next_one_go() -> None:
    throttle, time = make()
    throttle.renewed(math.inf, time.now, anew=True)
    throttle.set_budgets([share(100.0, burst=9.0, initial=9.0, connections=1)], time.now, 1)
    async with throttle.request("a"):
        await throttle.request_turn("a")  # a redirect within the same host follows on the same connection

        async def another() -> None:
            async with throttle.request("a"):
                pass

        waiter = asyncio.create_task(another())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiter.done()
    await waiter
